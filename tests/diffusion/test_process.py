"""The processes, against the arithmetic of diffusers' schedulers and against each other."""

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from lorakit.diffusion.process import PREDICTIONS, Alphas, Flow
from lorakit.errors import UsageError

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
T = torch.tensor([0, 1, 250, 500, 998, 999])


def drawn():
    g = torch.Generator().manual_seed(0)
    return (torch.randn(len(T), 4, 3, 3, generator=g) for _ in range(2))


@pytest.mark.parametrize("zero", [False, True])
def test_noise_and_targets_over_betas_are_diffusers(zero):
    theirs = DDPMScheduler(**BETAS, rescale_betas_zero_snr=zero)
    clean, noise = drawn()
    ours = {kind: Alphas(theirs.alphas_cumprod, kind) for kind in PREDICTIONS}
    torch.testing.assert_close(ours["epsilon"].noisy(clean, noise, T), theirs.add_noise(clean, noise, T))
    assert torch.equal(ours["epsilon"].target(clean, noise, T), noise)
    assert torch.equal(ours["sample"].target(clean, noise, T), clean)
    torch.testing.assert_close(ours["v_prediction"].target(clean, noise, T), theirs.get_velocity(clean, noise, T))
    assert ours["epsilon"].ends_in_noise == zero and torch.equal(ours["epsilon"].told(T), T)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_is_diffusers(shift):
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    ours, (clean, noise) = Flow(1000, shift), drawn()
    told = ours.told(T)
    torch.testing.assert_close(told, theirs.timesteps.flip(0)[T], rtol=1e-6, atol=1e-3)
    at = torch.stack([theirs.timesteps[999 - t] for t in T])
    torch.testing.assert_close(ours.noisy(clean, noise, T), theirs.scale_noise(clean, at, noise), rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.target(clean, noise, T), noise - clean)
    assert float(told[-1]) == 1000


@pytest.mark.parametrize(
    "process", [*(Alphas(DDPMScheduler(**BETAS).alphas_cumprod, k) for k in PREDICTIONS), Flow(1000, 2.0)]
)
def test_the_right_answer_gives_the_picture_back(process):
    clean, noise = drawn()
    noisy, answer = process.noisy(clean, noise, T), process.target(clean, noise, T)
    for i, told in enumerate(process.told(T)):
        found = process.finished(noisy[i : i + 1], answer[i : i + 1], told)
        torch.testing.assert_close(found, clean[i : i + 1], rtol=1e-3, atol=1e-3)


def test_min_snr_gives_the_last_timestep_of_a_zero_terminal_schedule_a_weight():
    """snr + 1 is capped at 5 there, and divided by itself for v: 1 where nothing of the picture is left."""
    for kind, begins in (("v_prediction", lambda a: 5 * (1 - a)), ("sample", lambda a: torch.tensor(5.0))):
        whole = Alphas(DDPMScheduler(**BETAS).alphas_cumprod, kind)
        bent = Alphas(DDPMScheduler(**BETAS, rescale_betas_zero_snr=True).alphas_cumprod, kind)
        assert whole.weights("min-snr", 5.0)[-1] < 0.01 and bent.weights("min-snr", 5.0)[-1] == 1
        torch.testing.assert_close(bent.weights("min-snr", 5.0)[0], begins(bent.alphas[0]))


def test_a_flow_has_no_weights_but_ones():
    assert torch.equal(Flow(10).weights("min-snr", 5.0), torch.ones(10))
    for rule in ("debiased", "v-like"):
        with pytest.raises(UsageError, match=f"--{rule} .* rectified flow"):
            Flow(10).weights(rule)
