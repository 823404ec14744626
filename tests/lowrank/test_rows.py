"""Deltas cut into bands of rows and put together again: exact, and as factors."""

import numpy as np
import pytest

from lorakit.arrays import dtype_of
from lorakit.deltas.dora import DoRA
from lorakit.deltas.full import Full
from lorakit.deltas.ia3 import IA3
from lorakit.deltas.low_rank import LowRank
from lorakit.lowrank.rows import join, split, swapped

SIZES, IN = (3, 5, 2), 12


def low(rows: int, rank: int, alpha: float = 1.0, seed: int = 0, dtype: str = "f4") -> LowRank:
    draw = np.random.default_rng(seed)
    return LowRank(
        draw.standard_normal((rank, IN)).astype(dtype), draw.standard_normal((rows, rank)).astype(dtype), alpha
    )


def dense(delta) -> np.ndarray:
    return np.asarray(delta.delta(), "f8")


def test_a_fused_delta_is_three_that_share_the_down_factor():
    fused = low(10, 2, 3.0, dtype="f2")
    parts = split(fused, SIZES)
    assert [part.rank for part in parts] == [2, 2, 2] and all(part.down is fused.down for part in parts)
    assert [dtype_of(part.up) for part in parts] == ["F16"] * 3
    np.testing.assert_array_equal(np.concatenate([dense(part) for part in parts]), dense(fused))
    back = join(parts, SIZES, IN)
    assert back.rank == 2 and back.down is fused.down and dtype_of(back.up) == "F16"
    np.testing.assert_array_equal(dense(back), dense(fused))


@pytest.mark.parametrize("alphas", [(1.0, 1.0, 1.0), (1.0, 2.0, 0.5)])
def test_three_apart_are_a_block_diagonal_and_come_apart_again(alphas):
    parts = [low(size, 2, alpha, i) for i, (size, alpha) in enumerate(zip(SIZES, alphas, strict=True))]
    fused = join(parts, SIZES, IN)
    assert fused.rank == 6
    np.testing.assert_allclose(dense(fused), np.concatenate([dense(part) for part in parts]), rtol=1e-6)
    again = split(fused, SIZES)
    assert [part.rank for part in again] == [2, 2, 2]  # not 6: the zeros are no ranks
    for one, other in zip(parts, again, strict=True):
        np.testing.assert_allclose(dense(other), dense(one), rtol=1e-6)


def test_fewer_ranks_are_enough_where_the_down_factors_depend_on_one_another():
    first = low(3, 2)
    other = LowRank(first.down * 2, low(5, 2, seed=1).up, 1.0)
    fused = join([first, other, None], SIZES, IN)
    assert fused.rank == 2
    np.testing.assert_allclose(dense(fused), np.concatenate([dense(first), dense(other), np.zeros((2, IN))]), atol=1e-5)


def test_a_part_that_lacks_is_zeros():
    fused = join([None, low(5, 2), None], SIZES, IN)
    assert fused.rank == 2 and not dense(fused)[:3].any() and not dense(fused)[8:].any()


def test_lengths_of_outputs_and_dense_deltas_go_with_their_rows():
    dora = DoRA(low(10, 2), np.arange(10, dtype="f4"))
    parts = split(dora, SIZES)
    assert [part.magnitude.tolist() for part in parts] == [[0, 1, 2], [3, 4, 5, 6, 7], [8, 9]]
    assert join(parts, SIZES, IN).magnitude.tolist() == list(range(10))
    full = Full(np.arange(10 * IN, dtype="f4").reshape(10, IN))
    np.testing.assert_array_equal(dense(join(split(full, SIZES), SIZES, IN)), dense(full))
    mixed = join([split(full, SIZES)[0], low(5, 2), None], SIZES, IN)
    np.testing.assert_array_equal(dense(mixed)[3:8], np.float32(dense(low(5, 2))))


def test_lengths_of_inputs_do_not_come_apart():
    with pytest.raises(TypeError, match="dora"):
        split(DoRA(low(10, 2), np.ones((1, IN), "f4")), SIZES)
    with pytest.raises(TypeError, match="ia3"):
        join([IA3(np.ones((3, 1), "f4"), False), None, None], SIZES, IN)


def test_halves_change_places():
    delta = low(10, 2, 3.0)
    np.testing.assert_array_equal(dense(swapped(delta)), np.roll(dense(delta), 5, 0))
    full = Full(np.arange(10 * IN, dtype="f4").reshape(10, IN))
    np.testing.assert_array_equal(dense(swapped(full)), np.roll(dense(full), 5, 0))
