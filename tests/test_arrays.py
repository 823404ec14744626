"""Tensors of files as numbers: every bit pattern of every half-precision type."""

import numpy as np
import pytest
import torch

from lorakit.arrays import Stored, cast, finite, floats, number, raw, times_power_of_two

ALL = np.arange(65536, dtype="<u2")
TORCH = {"F16": torch.float16, "BF16": torch.bfloat16}


def stored(dtype: str, bits: np.ndarray) -> Stored:
    return Stored(dtype, bits.shape, lambda: bits.tobytes())


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@pytest.mark.parametrize("bits", [ALL, ALL[(ALL & 0x7C00) != 0x7C00]], ids=["all", "finite"])
def test_every_half_is_read_as_torch_reads_it(dtype, bits):
    ours = stored(dtype, bits).float()
    theirs = torch.from_numpy(bits.astype("<i2")).view(TORCH[dtype]).float().numpy()
    np.testing.assert_array_equal(ours, theirs)
    assert finite(stored(dtype, bits)) == bool(np.isfinite(theirs).all())


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_every_byte_is_read_as_torch_reads_it(dtype):
    data = np.arange(256, dtype=np.uint8)
    one = Stored(dtype, (256,), data.tobytes)
    np.testing.assert_array_equal(one.float(), one.tensor().float().numpy())


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_rounding_is_torchs(dtype):
    draw = np.random.default_rng(0)
    values = np.concatenate(
        [draw.standard_normal(5000), 2.0 ** draw.uniform(-40, 15, 5000), [0, -0.0, np.inf, -np.inf, np.nan]]
    ).astype("f4")
    ours = floats(cast(values, dtype))
    np.testing.assert_array_equal(ours, torch.from_numpy(values).to(TORCH[dtype]).float().numpy())


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@pytest.mark.parametrize("power", [-9, -1, 1, 4])
def test_a_power_of_two_is_the_product_rounded_once(dtype, power):
    """Over every number whose product is in range: normal, subnormal and zero, of both signs."""
    values = stored(dtype, ALL).float()
    with np.errstate(over="ignore", invalid="ignore"):
        kept = ALL[np.isfinite(floats(cast(values * np.float32(2.0**power), dtype)))]
    moved, lost = times_power_of_two(stored(dtype, kept), power)
    product = stored(dtype, kept).float() * np.float32(2.0**power)
    np.testing.assert_array_equal(floats(moved), floats(cast(product, dtype)))
    error = np.linalg.norm((floats(moved) - product).astype("f8")) / abs(product).max()
    assert lost == pytest.approx(error, rel=1e-3) and (lost > 0) == (power < 0)


@pytest.mark.parametrize("values", [[60000.0], [np.inf], [np.nan]])
def test_it_declines_what_would_leave_the_range(values):
    half = cast(np.array(values, "f4"), "F16")
    assert times_power_of_two(stored("F16", np.frombuffer(raw(half), "<u2")), 1) is None


@pytest.mark.parametrize(
    "x", [np.float32(2), np.array([2], "i8"), np.array([[2.0]], "f2"), torch.tensor(2.0, dtype=torch.bfloat16)]
)
def test_one_number_of_any_shape(x):
    assert number(x) == 2


def test_more_than_one_number_is_no_number():
    with pytest.raises(ValueError, match="one number"):
        number(np.ones(2))


def test_every_half_and_what_lies_around_every_midpoint_is_rounded_as_numpy_does():
    halves = ALL.view("<f2").astype("f4")
    halves = np.sort(halves[np.isfinite(halves)])
    middles = ((halves[1:].astype("f8") + halves[:-1]) / 2).astype("f4")
    around = [np.nextafter(middles, np.float32(side)) for side in (-np.inf, np.inf)]
    for values in (halves, middles, *around, np.float32([65519.99, -65519.99, 0.0, -0.0])):
        parts = np.array_split(values, 7)  # of which the outer ones hold what overflows
        with np.errstate(over="ignore"):
            wanted = [part.astype("<f2").view("<u2") for part in parts]
        for part, want in zip(parts, wanted, strict=True):
            np.testing.assert_array_equal(np.frombuffer(raw(cast(part, "F16")), "<u2"), want)
