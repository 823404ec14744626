import pytest
import torch

from lorakit.diffusion.loss import (
    LOSSES,
    debiased_weight,
    huber,
    huber_delta,
    mean_by_sample,
    min_snr_weight,
    smooth_l1,
    v_like_weight,
)
from lorakit.diffusion.process import PREDICTIONS as KINDS
from lorakit.diffusion.process import Alphas
from lorakit.models.processes import process_of
from lorakit.process_config import STABLE

SD = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()).cumprod(0).float()
BENT = process_of({**STABLE, "rescale_betas_zero_snr": True}, "sd").alphas
WEIGHTS = {
    "min-snr": lambda a, kind: min_snr_weight(a, 5.0, kind),
    "debiased": debiased_weight,
    "v-like": v_like_weight,
}


def test_the_schedule_is_stable_diffusions():
    from diffusers import DDIMScheduler

    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
    torch.testing.assert_close(SD, DDIMScheduler(**config).alphas_cumprod)


def test_a_zero_terminal_schedule_ends_in_nothing_and_begins_as_it_did():
    assert BENT[-1] == 0 and bool((BENT.diff() < 0).all())
    torch.testing.assert_close(BENT[0], SD[0])
    roots = SD.double().sqrt()  # shifted so that the last is 0, and stretched so that the first is as it was
    bent = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
    torch.testing.assert_close(BENT, bent.square().float(), atol=2e-6, rtol=1e-3)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alphas", [SD, BENT, torch.tensor([1.0, 0.0])], ids=["sd", "zero", "ends"])
def test_loss_and_gradient_are_finite_at_every_timestep(alphas, kind, weight):
    if weight == "min-snr" and kind == "sample" and alphas[0] == 1:
        assert min_snr_weight(alphas, 5.0, kind).tolist() == [5.0, 0.0]
    n = len(alphas)
    g = torch.Generator().manual_seed(0)
    z, noise, said = (torch.randn(n, 1, 2, 2, generator=g) for _ in range(3))
    said.requires_grad_(True)
    process, t = Alphas(alphas, kind), torch.arange(n)
    x = process.noisy(z, noise, t)
    for loss in LOSSES.values():
        delta = huber_delta(torch.arange(n), n, 0.1, "exponential")
        errors = mean_by_sample(loss(said - process.target(z, noise, t), delta)) * WEIGHTS[weight](alphas, kind)
        (gradient,) = torch.autograd.grad(errors.sum(), said)
        assert all(bool(t.isfinite().all()) for t in (x, errors, gradient))


@pytest.mark.parametrize("weight", WEIGHTS)
def test_models_of_all_predictions_with_the_same_error_have_the_same_loss(weight):
    """err(eps)² = alpha err(v)² = snr err(x)²: the weights are one weight."""
    a = torch.tensor([0.05, 0.3, 0.5, 0.9, 0.98])
    eps, v, x = (WEIGHTS[weight](a, kind) for kind in KINDS)
    torch.testing.assert_close(eps * a, v)
    torch.testing.assert_close(eps * a / (1 - a), x)


def test_weights_are_the_papers():
    a = torch.tensor([0.5, 0.9, 0.2])  # SNR 1, 9 and 1/4
    torch.testing.assert_close(min_snr_weight(a, 5.0, "epsilon"), torch.tensor([1.0, 5 / 9, 1.0]))
    torch.testing.assert_close(min_snr_weight(a, 5.0, "v_prediction"), torch.tensor([0.5, 0.5, 0.2]))
    torch.testing.assert_close(min_snr_weight(a, 5.0, "sample"), torch.tensor([1.0, 5.0, 0.25]))
    torch.testing.assert_close(debiased_weight(a, "epsilon"), torch.tensor([1.0, 1 / 3, 2.0]))
    torch.testing.assert_close(v_like_weight(a, "epsilon"), torch.tensor([2.0, 10 / 9, 5.0]))
    assert torch.equal(min_snr_weight(a, None, "epsilon"), torch.ones(3))
    # with a zero terminal SNR, where sd-scripts has NaN and infinity
    assert min_snr_weight(torch.zeros(1), 5.0, "epsilon") == 1 and debiased_weight(torch.zeros(1), "epsilon") < 32


def test_debiased_weights_have_no_cap_within_stable_diffusions_schedule():
    torch.testing.assert_close(debiased_weight(SD, "epsilon"), ((1 - SD) / SD).sqrt())


def test_huber_is_worked_out():
    d, delta = torch.tensor([[3.0], [0.0]]), torch.tensor([4.0, 4.0])
    assert huber(d, delta).tolist() == [[8.0], [0.0]]  # 2 * 4 * (5 - 4)
    assert smooth_l1(d, delta).tolist() == [[2.0], [0.0]]
    small = torch.tensor([[1e-4]])
    torch.testing.assert_close(huber(small, torch.ones(1)), small.square(), rtol=1e-5, atol=0)  # roots would cancel
    large = torch.tensor([[1e4]])
    torch.testing.assert_close(huber(large, torch.full((1,), 0.1)), 0.2 * large, rtol=1e-4, atol=0)


def test_hubers_delta_falls_over_the_timesteps():
    t = torch.tensor([0, 999])
    torch.testing.assert_close(huber_delta(t, 1000, 0.1, "exponential"), torch.tensor([1.0, 0.1]))
    assert huber_delta(torch.tensor([500]), 1001, 0.01, "exponential") == pytest.approx(0.1)
    assert huber_delta(t, 1000, 0.25, "constant").tolist() == [0.25, 0.25]
    with pytest.raises(ValueError, match="snr"):
        huber_delta(t, 1000, 0.1, "snr")


def test_a_mask_of_ones_is_no_mask_to_the_bit():
    errors = torch.rand(3, 4, 17, 13)
    assert torch.equal(mean_by_sample(errors, torch.ones(3, 1, 17, 13)), mean_by_sample(errors))


def test_a_masked_loss_is_the_mean_over_its_area():
    errors = torch.tensor([1.0, 3.0, 5.0, 100.0]).view(1, 1, 2, 2).expand(1, 4, 2, 2)
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
    assert mean_by_sample(errors, mask) == 2.0  # the same for a large subject as for a small one
    assert mean_by_sample(errors, torch.zeros(1, 1, 2, 2)) == 0.0
    # outside counts 0.5: (1 + 3 + 2.5 + 50) / 3
    torch.testing.assert_close(mean_by_sample(errors, 0.5 + mask / 2), torch.tensor([56.5 / 3]))
