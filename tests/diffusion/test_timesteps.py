import pytest
import torch

from lorakit.diffusion.loss import min_snr_weight
from lorakit.diffusion.noise import generator
from lorakit.diffusion.timesteps import importance, limited, logit_normal, stratified, uniform, uniform_number

DENSITY = torch.linspace(0, 3, 50)
SAMPLERS = {
    "uniform": uniform(50),
    "range": uniform(50, 10, 19),
    "logit-normal": logit_normal(50),
    "shifted": logit_normal(50, 0.8, 0.5),
    "limited": limited(logit_normal(50), 20, 45),
    "importance": importance(uniform(50), DENSITY),
    "importance of a range": importance(uniform(50, 5, 30), DENSITY),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_timesteps_come_as_often_as_their_probability(name):
    sampler, n = SAMPLERS[name], 200_000
    t = sampler.at(torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    counts = torch.bincount(t, minlength=50).double()
    expected = sampler.probabilities * n
    assert bool((counts[expected == 0] == 0).all()) and len(counts) == 50
    live = expected > 0
    chi = float(((counts - expected)[live].square() / expected[live]).sum())
    freedom = int(live.sum()) - 1
    assert chi < freedom + 4 * (2 * freedom) ** 0.5  # once in 30,000
    assert float(sampler.probabilities.sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", ["importance", "importance of a range"])
def test_importance_leaves_the_expected_loss_as_it_was(name):
    base = uniform(50) if name == "importance" else uniform(50, 5, 30)
    sampler, loss = (
        SAMPLERS[name],
        torch.rand(50, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.1,
    )
    expected = (base.probabilities * loss).sum()
    assert float((sampler.probabilities * sampler.weights * loss).sum()) == pytest.approx(float(expected), rel=1e-6)
    assert float(sampler.weights.max()) <= 10.0001  # a tenth of the draws is the base's own


def test_drawing_by_the_loss_weight_makes_the_loss_vary_less():
    alphas = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square()).cumprod(0)
    weight = min_snr_weight(alphas, 5.0, "epsilon").double()
    base, drawn = uniform(1000), importance(uniform(1000), min_snr_weight(alphas, 5.0, "epsilon"))
    spread = [float((s.probabilities * (s.weights * weight).square()).sum()) for s in (base, drawn)]
    assert spread[1] < spread[0]


def test_the_logistic_normal_is_highest_in_the_middle_and_even():
    p = logit_normal(1000).probabilities
    assert int(p.argmax()) in (499, 500) and torch.allclose(p, p.flip(0))
    assert float(p[:500].sum()) == pytest.approx(0.5)
    quarter = float(p[:250].sum())  # the normal distribution at -ln 3
    assert quarter == pytest.approx(0.1360, abs=1e-4)


def test_the_ends_of_the_interval_are_timesteps_too():
    for sampler in SAMPLERS.values():
        first, last = sampler.at(torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)).tolist()
        assert sampler.probabilities[first] > 0 and sampler.probabilities[last] > 0
    assert uniform(50).at(torch.tensor([0.0, 0.02, 0.999], dtype=torch.float64)).tolist() == [0, 1, 49]


def test_a_samples_timestep_is_its_own_generators():
    alone = uniform(1000).at(uniform_number(generator(0, "data", 5, 1)))
    batch = torch.stack([uniform_number(generator(0, "data", 5, place)) for place in range(4)])
    assert uniform(1000).at(batch)[1] == alone


def test_strata_spread_a_batch_and_keep_each_sample_uniform():
    g, seen = torch.Generator().manual_seed(3), []
    for _ in range(4000):
        u = torch.rand(4, generator=g, dtype=torch.float64)
        moved = stratified(u, torch.randperm(4, generator=g))
        assert sorted((moved * 4).long().tolist()) == [0, 1, 2, 3]
        seen.append(moved[0])
    counts = torch.histc(torch.stack(seen), 10, 0, 1)
    assert float(((counts - 400).square() / 400).sum()) < 30  # 9 degrees of freedom


def test_impossible_ranges_and_densities_are_refused():
    for bad in (lambda: uniform(10, 5, 4), lambda: uniform(10, 0, 10), lambda: limited(uniform(10, 0, 3), 5, 9)):
        with pytest.raises(ValueError, match="timesteps"):
            bad()
    for density in (torch.zeros(50), torch.full((50,), float("nan")), torch.ones(3), -DENSITY):
        with pytest.raises(ValueError, match="density"):
            importance(uniform(50), density)
