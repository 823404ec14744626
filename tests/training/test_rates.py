import torch

from lorakit.diffusion.noise import normal
from lorakit.training.rates import rate


def test_draws_depend_on_their_key_alone():
    assert torch.equal(normal((3,), 1, "a"), normal((3,), 1, "a"))
    assert not torch.equal(normal((3,), 1, "a"), normal((3,), 2, "a"))
    assert not torch.equal(normal((3,), 1, "a"), normal((3,), 1, "b"))


def test_the_rate_rises_and_falls():
    values = [rate(step, 100, 1.0, "cosine", 9) for step in range(100)]
    assert values[0] == 0.1 and max(values) > 0.98 and 0.2 <= values[-1] < 0.21
