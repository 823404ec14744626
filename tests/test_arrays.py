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
@pytest.mark.parametrize("power", [-3, 1, 4])
def test_a_power_of_two_moves_exponents_alone(dtype, power):
    values = np.array([1.0, -2.5, 0.0, -0.0, 0.0625, 100.0], "f4")
    moved = times_power_of_two(stored(dtype, np.frombuffer(raw(cast(values, dtype)), "<u2")), power)
    np.testing.assert_array_equal(floats(moved), values * 2.0**power)


@pytest.mark.parametrize("values", [[60000.0], [1e-7], [np.inf], [np.nan], [2.0**-14]])
def test_it_declines_what_would_not_be_exact(values):
    half = cast(np.array(values, "f4"), "F16")
    x = stored("F16", np.frombuffer(raw(half), "<u2"))
    assert times_power_of_two(x, 1 if values[0] > 1 or not np.isfinite(values[0]) else -1) is None


@pytest.mark.parametrize(
    "x", [np.float32(2), np.array([2], "i8"), np.array([[2.0]], "f2"), torch.tensor(2.0, dtype=torch.bfloat16)]
)
def test_one_number_of_any_shape(x):
    assert number(x) == 2


def test_more_than_one_number_is_no_number():
    with pytest.raises(ValueError, match="one number"):
        number(np.ones(2))
