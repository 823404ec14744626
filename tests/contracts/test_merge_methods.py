"""What every merge method promises, whatever it does."""

import inspect
import subprocess
import sys

import numpy as np
import pytest

from lorakit.deltas.low_rank import LowRank
from lorakit.lowrank.ranks import RankRule
from lorakit.merging.kernel.draws import generator
from lorakit.merging.kernel.module import merged
from lorakit.registry import MERGE_METHODS

methods = pytest.mark.parametrize("method", MERGE_METHODS.names())
shapes = pytest.mark.parametrize("shape", [(1, 1), (7, 3), (12, 9), (4, 5, 3, 3)])


def low(shape, seed, rank=2, alpha=1.5, dtype="f8"):
    draw = np.random.default_rng(seed).standard_normal
    down = draw((rank, *shape[1:])).astype(dtype)
    return LowRank(down, draw((shape[0], rank, *[1] * (len(shape) - 2))).astype(dtype), alpha)


def settings(method, count=2, keep_all=False):
    known = inspect.signature(MERGE_METHODS[method].merge).parameters
    found = {"generators": [generator("test", i) for i in range(count)]} if "generators" in known else {}
    return found | ({"density": 1.0} if keep_all and "density" in known else {})


def joined(method, deltas, weights, **more):
    found = MERGE_METHODS[method].merge(deltas, weights, **(settings(method, len(deltas)) | more))
    return found if isinstance(found, np.ndarray) else found[0] @ found[1]


def resplit(delta, seed):
    """The same delta as other factors: up @ T and T^-1 @ down."""
    turn = np.random.default_rng(seed).standard_normal((delta.rank, delta.rank))
    up, down = delta.flat()
    return LowRank(
        (np.linalg.inv(turn) @ down).reshape(delta.down.shape), (up @ turn * 3).reshape(delta.up.shape), delta.alpha / 3
    )


@methods
@shapes
def test_a_lone_delta_is_scaled_by_its_weight(method, shape):
    part = low(shape, 1)
    for deltas, weights in (([part, None], [0.7, 0.3]), ([part, low(shape, 2)], [0.7, 0.0])):
        found = joined(method, deltas, weights, **settings(method, keep_all=True))
        np.testing.assert_allclose(found, 0.7 * part.delta().reshape(shape[0], -1), rtol=1e-7, atol=1e-12)


@methods
@shapes
def test_the_split_into_factors_does_not_matter(method, shape):
    a, b = low(shape, 1), low(shape, 2, rank=1)
    found = joined(method, [a, b], [0.7, 0.4])
    np.testing.assert_allclose(joined(method, [resplit(a, 3), resplit(b, 4)], [0.7, 0.4]), found, rtol=1e-6, atol=1e-7)


@methods
def test_arguments_stay_as_they_were(method):
    deltas = [low((7, 3), 1), low((7, 3), 2)]
    kept = [delta.mapped(np.copy) for delta in deltas]
    joined(method, deltas, [0.7, 0.4])
    for delta, before in zip(deltas, kept, strict=True):
        assert np.array_equal(delta.up, before.up) and np.array_equal(delta.down, before.down)


@methods
def test_weights_of_0_give_nothing(method):
    assert not joined(method, [low((7, 3), 1), low((7, 3), 2)], [0.0, 0.0]).any()


@methods
def test_the_same_draws_give_the_same_delta(method):
    deltas = [low((7, 3), 1), low((7, 3), 2)]
    assert np.array_equal(joined(method, deltas, [0.7, 0.4]), joined(method, deltas, [0.7, 0.4]))


@methods
@pytest.mark.parametrize("shape", [(12, 9), (4, 5, 3, 3)])
def test_a_merged_module_is_what_the_method_says_at_full_rank(method, shape):
    deltas = [low(shape, 1, dtype="f4"), low(shape, 2, rank=1, dtype="f4")]
    made = merged(MERGE_METHODS[method], deltas, [0.7, 0.4], settings(method), RankRule("full"))
    assert made.low is not None and made.error == 0 and made.low.shape == shape
    wanted = joined(method, deltas, [0.7, 0.4]).reshape(shape)
    assert np.linalg.norm(made.low.delta() - wanted) < 2e-6 * np.linalg.norm(wanted)


@methods
def test_a_density_of_0_or_above_1_is_refused(method):
    if "density" in inspect.signature(MERGE_METHODS[method].merge).parameters:
        for density in (0.0, 1.5, float("nan")):
            with pytest.raises(ValueError, match="density"):
                joined(method, [low((7, 3), 1), None], [1.0, 1.0], density=density)


@methods
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_the_type_and_the_shape_of_the_factors_are_kept(method, dtype):
    deltas = [low((4, 5, 3, 3), 1, dtype=dtype), None, low((4, 5, 3, 3), 2, rank=3, dtype=dtype)][
        : 3 if method != "slerp" else 1
    ]
    deltas += [low((4, 5, 3, 3), 3, dtype=dtype)] if method == "slerp" else []
    found = MERGE_METHODS[method].merge(deltas, [0.5] * len(deltas), **settings(method, len(deltas)))
    parts = found if isinstance(found, tuple) else (found,)
    assert all(part.dtype == np.dtype(dtype) and np.isfinite(part).all() for part in parts)
    assert (parts[0].shape[0], parts[-1].shape[-1]) == (4, 45)


def test_methods_say_what_they_are_and_import_no_torch():
    code = (
        "import sys; from lorakit.registry import MERGE_METHODS as all_\n"
        "for name in all_.names(): assert all_[name].__doc__ and all_[name].merge.__doc__, name\n"
        "import lorakit.jobs.merge; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
