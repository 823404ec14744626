import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.arrays import Stored, cast, floats, raw
from lorakit.lowrank import difference as module
from lorakit.lowrank.difference import difference

KINDS = ("F16", "BF16", "F32")


def stored(values, kind, parts):
    data = bytes(raw(cast(np.asarray(values, "f4"), kind)))
    part = (lambda a, b: memoryview(data)[a:b]) if parts else None
    return Stored(kind, (len(values),), lambda: data, part)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(KINDS),
    st.integers(1, 40),
    st.integers(0, 40),
    st.booleans(),
    st.integers(0, 99),
    st.sampled_from([1e-9, 1e-6, 1e-3, 1.0, 1e3]),
)
def test_it_is_the_difference_of_the_values(kind, other, count, same, parts, seed, size):
    draw = np.random.default_rng(seed)
    base = draw.standard_normal(count) * size
    tuned = np.where(np.arange(count) < same, base, base + draw.standard_normal(count) * size / 9)
    a, b = stored(tuned, kind, parts), stored(base, other, parts)
    out = np.full(count, 7, "f4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE", 7)
        squared = difference(a, b, out)
    expected = floats(a).astype("f8") - floats(b)
    if squared is None:
        assert not expected.any()
    else:
        np.testing.assert_allclose(out, expected, rtol=1e-6, atol=0)
        assert squared == pytest.approx(float((expected**2).sum()), rel=1e-5)


def test_the_same_bytes_are_nothing_and_are_not_calculated_with(monkeypatch):
    monkeypatch.setattr(module, "_halves", None)
    values = np.random.default_rng(0).standard_normal(100)
    assert difference(stored(values, "F16", True), stored(values, "F16", False), np.empty(100, "f4")) is None


def test_zeros_of_either_sign_are_the_same():
    assert difference(stored([0.0, 1.0], "F16", False), stored([-0.0, 1.0], "F16", False), np.empty(2, "f4")) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["tuned", "base", "both"])
def test_what_is_not_finite_is_refused(kind, bad, where):
    tuned, base = np.ones(50), np.full(50, 2.0)
    if where != "base":
        tuned[30] = bad
    if where != "tuned":
        base[30] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        difference(stored(tuned, kind, False), stored(base, kind, False), np.empty(50, "f4"))


@pytest.mark.parametrize("large", [65504, -65504])
def test_the_largest_half_beside_infinity_is_told(large):
    with pytest.raises(ValueError, match="NaN or infinity"):
        difference(stored([large], "F16", False), stored([np.copysign(np.inf, large)], "F16", False), np.empty(1, "f4"))
