"""Each method on numbers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.deltas.low_rank import LowRank
from lorakit.merging.kernel.draws import generator
from lorakit.registry import MERGE_METHODS


def of(rows):
    """A delta with these entries, as factors: the identity beside it."""
    dense = np.array(rows, dtype="f8")
    return LowRank(dense, np.eye(len(rows)), float(len(rows)))


def joined(method, deltas, weights, **more):
    found = MERGE_METHODS[method].merge(deltas, weights, **more)
    return found if isinstance(found, np.ndarray) else found[0] @ found[1]


def draws(count, *key):
    return [generator("test", *key, i) for i in range(count)]


def close(found, wanted, rtol=1e-7, atol=1e-7):
    np.testing.assert_allclose(found, np.array(wanted), rtol=rtol, atol=atol)


A, B = of([[4.0, -1.0], [2.0, 3.0]]), of([[-1.0, -2.0], [5.0, 0.5]])


def test_linear_and_cat_are_the_weighted_sum():
    for method in ("linear", "cat"):
        close(joined(method, [A, B], [2.0, -1.0]), [[9.0, 0.0], [-1.0, 5.5]])


def test_magnitude_keeps_the_largest_half():
    close(joined("magnitude", [A, B], [1.0, 1.0], density=0.5), [[4.0, -2.0], [5.0, 3.0]])


def test_ties_takes_the_mean_of_those_that_agree_with_the_sum():
    # Nothing trimmed: 4 beats -1; -1 and -2 agree; 2 and 5 agree; 3 and 0.5 agree.
    close(joined("ties", [A, B], [1.0, 1.0], density=1.0), [[4.0, -1.5], [3.5, 1.75]])
    # Half trimmed: A keeps 4 and 3, B keeps -2 and 5, and each entry is alone.
    close(joined("ties", [A, B], [1.0, 1.0], density=0.5), [[4.0, -2.0], [5.0, 3.0]])


def test_ties_elects_by_the_weighted_sum():
    # B weighs 5: -5 beats 4.
    close(joined("ties", [A, B], [1.0, 5.0], density=1.0), [[-5.0, -5.5], [13.5, 2.75]])


@pytest.mark.parametrize("method", ["dare", "della"])
def test_what_is_dropped_at_random_is_made_up_for_on_average(method):
    delta = of([[float(1 + (3 * i + j) % 7) for j in range(40)] for i in range(40)])
    runs = [joined(method, [delta], [1.0], density=0.5, generators=draws(1, n)) for n in range(200)]
    mean = np.mean(runs, 0)
    assert abs(float(mean.sum() / delta.delta().sum()) - 1) < 0.01
    assert abs(float((runs[0] != 0).mean()) - 0.5) < 0.05
    if method == "dare":
        kept = runs[0][runs[0] != 0]
        np.testing.assert_allclose(kept, 2 * delta.delta()[runs[0] != 0])


def test_della_keeps_large_entries_more_often():
    delta = of([[float(1 + j) for j in range(50)] for _ in range(50)])
    found = joined("della", [delta], [1.0], density=0.5, spread=0.8, generators=draws(1))
    kept = (found != 0).mean(0)
    assert float(kept[:10].mean()) < 0.3 and float(kept[-10:].mean()) > 0.7  # chances 0.10 to 0.17, 0.83 to 0.90


def test_what_one_adapter_loses_does_not_depend_on_the_others():
    delta, other = of([[1.0] * 20] * 20), of([[1.0] * 20] * 20)
    alone = joined("dare", [delta, None], [1.0, 1.0], generators=draws(2))
    both = joined("dare", [delta, other], [1.0, 1e-9], generators=draws(2))
    np.testing.assert_allclose(both, alone, rtol=0, atol=1e-8)


def test_slerp_goes_along_the_arc():
    a, b = of([[3.0, 0.0]]), of([[0.0, 3.0]])
    half = 3 * math.sqrt(0.5)
    close(joined("slerp", [a, b], [0.5, 0.5]), [[half, half]])
    close(joined("slerp", [a, b], [1.0, 0.0]), [[3.0, 0.0]])
    third = math.pi / 6  # t = 1/3 of a right angle
    close(joined("slerp", [a, b], [2.0, 1.0]), [[9 * math.cos(third), 9 * math.sin(third)]])  # weights sum to 3


def test_slerp_interpolates_the_norm_and_meets_equal_directions():
    close(joined("slerp", [of([[2.0, 0.0]]), of([[6.0, 0.0]])], [0.5, 0.5]), [[4.0, 0.0]])
    found = joined("slerp", [A, B], [0.5, 0.5])
    norms = [np.linalg.norm(x.delta()) for x in (A, B)]
    assert np.linalg.norm(found) == pytest.approx(sum(norms) / 2)


def test_slerp_refuses_what_has_no_arc():
    with pytest.raises(ValueError, match="two adapters"):
        joined("slerp", [A, B, A], [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="negative"):
        joined("slerp", [A, B], [1.0, -1.0])


def test_slerp_goes_straight_between_opposites():
    close(joined("slerp", [of([[2.0, 0.0]]), of([[-4.0, 0.0]])], [0.5, 0.5]), [[-1.0, 0.0]])


def test_orthogonal_takes_the_first_ones_rows_and_columns_out_of_the_second():
    a = of([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])  # reads input 1, writes output 1
    b = of([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    close(joined("orthogonal", [a, b], [2.0, 1.0]), [[2.0, 0.0, 0.0], [0.0, 5.0, 6.0], [0.0, 8.0, 9.0]])


def test_orthogonal_leaves_no_overlap():
    draw = np.random.default_rng(0).standard_normal
    a, b = (LowRank(draw((3, 30)), draw((20, 3)), 3.0) for _ in range(2))
    second = joined("orthogonal", [a, b], [1.0, 1.0]) - a.delta()
    assert abs(a.delta().T @ second).max() < 1e-5 and abs(a.delta() @ second.T).max() < 1e-5


def test_regmean_sums_what_is_apart_and_averages_what_is_shared():
    a, b = of([[2.0, 0.0], [0.0, 0.0]]), of([[0.0, 0.0], [0.0, 3.0]])  # inputs 1 and 2
    close(joined("regmean", [a, b], [1.0, 0.5]), [[2.0, 0.0], [0.0, 1.5]])
    close(joined("regmean", [a, a], [1.0, 1.0]), [[2.0, 0.0], [0.0, 0.0]])
    # Both read input 1 alone, so their second moments are equal and the minimiser is the mean.
    close(joined("regmean", [a, of([[0.0, 0.0], [4.0, 0.0]])], [1.0, 1.0]), [[1.0, 0.0], [2.0, 0.0]])


def test_regmean_is_the_minimiser():
    draw = np.random.default_rng(1).standard_normal
    deltas = [LowRank(draw((2, 9)), draw((7, 2)), 2.0) for _ in range(2)]
    dense, weights = [d.delta() for d in deltas], [0.8, 0.5]
    moments = [d.T @ d / np.linalg.norm(d) ** 2 for d in dense]

    def loss(x):
        return sum(
            w * float(((x - w * d) @ c * (x - w * d)).sum()) for d, c, w in zip(dense, moments, weights, strict=True)
        )

    found = joined("regmean", deltas, weights)
    assert all(loss(found) <= loss(found + 1e-2 * draw((7, 9))) for _ in range(20))
    assert loss(found) < loss(sum(w * d for w, d in zip(weights, dense, strict=True)))


def test_zip_keeps_columns_that_differ_and_shares_those_that_agree():
    a, b = of([[1.0, 2.0], [0.0, 2.0]]), of([[0.0, 1.0], [3.0, 1.0]])  # columns 1 at right angles, columns 2 parallel
    m = 1 / 1.5  # (1 + conflict cos²) m = 1
    close(joined("zip", [a, b], [1.0, 1.0], conflict=0.5), [[1.0, 3 * m], [3.0, 3 * m]])
    close(joined("zip", [a, b], [1.0, 1.0], conflict=0.0), [[1.0, 3.0], [3.0, 3.0]])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.lists(st.floats(-2, 2), min_size=1, max_size=4), st.integers(0, 99))
def test_the_order_of_adapters_does_not_matter(out, fan_in, weights, seed):
    draw = np.random.default_rng(seed).standard_normal
    deltas = [LowRank(draw((2, fan_in)), draw((out, 2)), 1.0) for _ in weights]
    for method in ("linear", "cat", "magnitude", "ties", "zip", "regmean"):
        there, back = joined(method, deltas, weights), joined(method, deltas[::-1], weights[::-1])
        np.testing.assert_allclose(there, back, rtol=1e-6, atol=1e-6)
