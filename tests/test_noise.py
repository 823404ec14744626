import torch

from lorakit.diffusion.loss import min_snr_weight, target
from lorakit.diffusion.noise import add_noise, normal
from lorakit.training.rates import rate


def test_draws_depend_on_their_key_alone():
    assert torch.equal(normal((3,), 1, "a"), normal((3,), 1, "a"))
    assert not torch.equal(normal((3,), 1, "a"), normal((3,), 2, "a"))
    assert not torch.equal(normal((3,), 1, "a"), normal((3,), 1, "b"))


def test_v_and_epsilon_say_the_same_thing():
    z, noise, a = torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2), torch.tensor([0.9, 0.2])
    x, v = add_noise(z, noise, a), target(z, noise, a, "v_prediction")
    s = a[:, None, None, None]
    torch.testing.assert_close(s.sqrt() * x - (1 - s).sqrt() * v, z)
    torch.testing.assert_close(target(z, noise, a, "epsilon"), noise)


def test_min_snr_weights_are_the_papers():
    a = torch.tensor([0.5, 0.9])  # SNR 1 and 9
    torch.testing.assert_close(min_snr_weight(a, 5.0, "epsilon"), torch.tensor([1.0, 5 / 9]))
    torch.testing.assert_close(min_snr_weight(a, 5.0, "v_prediction"), torch.tensor([0.5, 0.5]))


def test_the_rate_rises_and_falls():
    values = [rate(step, 100, 1.0, "cosine", 9) for step in range(100)]
    assert values[0] == 0.1 and max(values) > 0.98 and 0.2 <= values[-1] < 0.21
