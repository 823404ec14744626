import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.deltas.low_rank import LowRank
from lorakit.lowrank.compress import compress, spectrum
from lorakit.lowrank.factorize import factorize

sides = st.integers(1, 12)


def low(out: int, fan_in: int, rank: int, seed: int, alpha: float = 1.0) -> LowRank:
    draw = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(rank, fan_in, generator=draw), torch.randn(out, rank, generator=draw), alpha)


def test_factorize_leaves_the_discarded_singular_values_as_error():
    delta = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    up, down, _ = factorize(delta, rank=1)
    torch.testing.assert_close(torch.linalg.matrix_norm(delta - up @ down), torch.tensor(5.0).sqrt())  # 2² + 1²


@settings(max_examples=40, deadline=None)
@given(sides, sides, sides, st.integers(0, 999))
def test_spectrum_of_factors_is_that_of_the_product(out, fan_in, rank, seed):
    part = low(out, fan_in, rank, seed)
    u, s, vh = spectrum(part.up, part.down)
    torch.testing.assert_close((u * s) @ vh, part.up @ part.down, rtol=1e-4, atol=1e-4)
    ours = spectrum(part.up.numpy(), part.down.numpy())
    assert all(isinstance(x, np.ndarray) and x.dtype == np.float32 for x in ours)
    np.testing.assert_allclose(ours[1], s.numpy(), rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(sides, sides, st.integers(0, 999))
def test_compress_is_as_good_as_the_dense_optimum(out, fan_in, seed):
    part = low(out, fan_in, 5, seed)
    up, down, error = compress(part.up, part.down, 2)
    dense = part.up @ part.down
    best_up, best_down, _ = factorize(dense, 2)
    ours, best = (torch.linalg.matrix_norm(dense - x) for x in (up @ down, best_up @ best_down))
    torch.testing.assert_close(ours, best, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(torch.tensor(error), ours / torch.linalg.matrix_norm(dense), rtol=1e-2, atol=1e-4)
