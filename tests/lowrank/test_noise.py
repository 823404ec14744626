import numpy as np
import pytest

from lorakit.arrays import cast, floats
from lorakit.lowrank import noise
from tests.support.matrices import with_values

KINDS = ("F16", "BF16")


def rounded(x, kind):
    return floats(cast(np.asarray(x, "f4"), kind)).reshape(np.shape(x))


def pair(kind, rank, seed=0, size=(512, 640)):
    """(tuned, base) as files hold them: a base rounded to `kind`, tuned from there."""
    base = rounded(normal(size, seed), kind)
    change = with_values(*size, np.linspace(1, 0.2, rank), seed + 1) if rank else np.zeros(size)
    return rounded(base + change, kind), base


def normal(size, seed):
    return np.random.default_rng(seed).standard_normal(size, np.float32) * np.float32(0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_rounding_alone_is_below_the_floor_and_fills_it(kind):
    exact = normal((512, 640), 1)
    stored = rounded(exact, kind)
    top = float(np.linalg.svd(stored - exact, compute_uv=False)[0])
    floor = noise.floor(stored, kind, exact, "F32")
    assert 0.7 * floor < top < floor


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 16])
@pytest.mark.parametrize("seed", range(3))
def test_the_rank_of_the_change_is_what_is_above_the_floor(kind, rank, seed):
    tuned, base = pair(kind, rank, seed)
    s = np.linalg.svd(tuned - base, compute_uv=False)
    total = float((s.astype("f8") ** 2).sum())
    floor = noise.floor(tuned, kind, base, kind, s, total)
    assert int((s > floor).sum()) == rank


@pytest.mark.parametrize("kind", KINDS)
def test_two_roundings_are_told_from_one(kind):
    exact = normal((512, 640), 3)
    change = with_values(512, 640, [1.0, 0.5, 0.3])
    tuned, base = (rounded(x, kind) for x in (exact + change, exact))
    s = np.linalg.svd(tuned - base, compute_uv=False)
    floor = noise.floor(tuned, kind, base, kind, s, float((s.astype("f8") ** 2).sum()))
    assert int((s > floor).sum()) == 3
    assert floor > 1.3 * noise.floor(tuned, kind, base, kind)


def test_rows_of_other_sizes_count():
    exact = normal((512, 640), 4) * np.logspace(-3, 0, 512, dtype="f4")[:, None]
    stored = rounded(exact, "BF16")
    assert float(np.linalg.svd(stored - exact, compute_uv=False)[0]) < noise.floor(stored, "BF16", exact, "F32")


def test_full_precision_has_no_floor():
    x = np.ones((3, 4), "f4")
    assert noise.floor(x, "F32", x, "F32") == 0


def test_a_step_is_that_of_the_type():
    rows, _ = noise.variances(np.array([[1.0, 1.5, 2.0, 1e-7]], "f4"), "F16")  # 2^-10, 2^-10, 2^-9, 2^-24
    assert float(rows[0]) == pytest.approx((2 * 2.0**-20 + 2.0**-18 + 2.0**-48) / 12)
