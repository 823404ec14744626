"""What every kind of delta promises, over every sample of every kind."""

import numpy as np
import pytest
import torch

from lorakit import deltas
from lorakit.arrays import Stored, floats, raw
from lorakit.delta import NeedsBase, inner, relative_error
from lorakit.registry import DELTA_KINDS
from tests.support.delta_samples import SAMPLES, draw

every = pytest.mark.parametrize("sample", SAMPLES, ids=str)


def read(sample):
    return deltas.read(sample.parts, sample.base)


def base_of(sample):
    return draw(*sample.base, seed=7)


def dense(sample):
    return np.asarray(read(sample).delta(base_of(sample)), np.float64)


def close(got, wanted):
    np.testing.assert_allclose(np.asarray(got), np.asarray(wanted), rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_every_kind_has_a_sample():
    assert {sample.kind for sample in SAMPLES} == set(DELTA_KINDS.names())


@every
def test_a_sample_is_of_one_kind_and_its_endings_are_that_kinds(sample):
    assert [name for name in DELTA_KINDS.names() if DELTA_KINDS[name].matches(sample.parts)] == [sample.kind]
    assert sample.parts.keys() <= DELTA_KINDS[sample.kind].SUFFIXES
    assert type(read(sample)).__module__ == DELTA_KINDS[sample.kind].__name__


@every
def test_what_is_written_is_what_was_read(sample):
    written = deltas.write(read(sample))
    assert written.keys() == sample.parts.keys()
    for ending, array in written.items():
        np.testing.assert_array_equal(array, sample.parts[ending])
    again = deltas.write(deltas.read(written, sample.base))
    assert all(np.array_equal(again[ending], array) for ending, array in written.items())


@every
def test_a_delta_has_the_shape_of_its_weight(sample):
    delta = read(sample)
    assert delta.delta(base_of(sample)).shape == sample.base
    assert delta.shape in (None, sample.base)


@every
def test_factors_multiply_to_the_delta_where_a_kind_has_them(sample):
    delta = read(sample)
    assert not (delta.exact and delta.needs_base)
    if delta.low_rank_size is None:
        assert not delta.exact and not delta.narrow
        with pytest.raises(TypeError, match="low rank"):
            delta.factors(base_of(sample))
        return
    up, down = delta.factors(base_of(sample))
    assert up.shape[1] == down.shape[0] == delta.low_rank_size
    close((up @ down).reshape(sample.base), dense(sample))
    assert delta.exact or delta.needs_base


@every
def test_the_norm_is_that_of_the_dense_delta(sample):
    assert read(sample).norm(base_of(sample)) == pytest.approx(np.linalg.norm(dense(sample).ravel()), rel=1e-5)


@every
def test_a_delta_does_not_differ_from_itself_and_its_double_does_by_all_of_it(sample):
    delta, base = read(sample), base_of(sample)
    assert relative_error(delta, delta, base) == pytest.approx(0, abs=1e-9)
    assert inner(delta, delta, base) == pytest.approx(delta.norm(base) ** 2, rel=1e-5)
    if "alpha" in sample.parts and delta.low_rank_size and delta.rank:
        double = deltas.read({**sample.parts, "alpha": 2 * sample.parts["alpha"]}, sample.base)
        assert relative_error(delta, double, base) == pytest.approx(1, rel=1e-5)


@every
def test_torch_gives_the_numbers_that_numpy_gives(sample):
    base, delta = base_of(sample), read(sample).mapped(lambda x: torch.from_numpy(x.copy()))
    for weight in (base, torch.from_numpy(base)):
        got = delta.delta(weight)
        assert isinstance(got, torch.Tensor) and got.dtype == torch.float32
        close(got, dense(sample))
    assert isinstance(read(sample).delta(torch.from_numpy(base)), np.ndarray)
    assert delta.norm(base) == pytest.approx(read(sample).norm(base), rel=1e-5)
    assert relative_error(read(sample), delta, base) == pytest.approx(0, abs=1e-5)
    if delta.low_rank_size:
        up, down = delta.factors(base)
        close((up @ down).reshape(sample.base), dense(sample))


@every
def test_tensors_of_a_file_are_read_only_when_they_are_asked_for(sample):
    asked = []

    def stored(ending, x):
        return Stored("F32", x.shape, lambda: asked.append(ending) or raw(x))

    numbers = {"alpha", "on_input"}
    parts = {k: x if k in numbers else stored(k, x) for k, x in sample.parts.items()}
    delta = deltas.read(parts, sample.base)
    _ = delta.shape, delta.rank, delta.low_rank_size, delta.parameters, delta.narrow
    assert asked == []
    close(delta.delta(base_of(sample)), dense(sample))
    torch.testing.assert_close(delta.materialised().delta(base_of(sample)), torch.from_numpy(dense(sample)).float())
    assert set(asked) == parts.keys() - numbers


@every
def test_arguments_are_left_as_they_were(sample):
    base, delta = base_of(sample), read(sample)
    before = [x.copy() for x in (base, *delta.arrays().values())]
    delta.delta(base), delta.norm(base), relative_error(delta, delta, base)
    assert all(np.array_equal(a, b) for a, b in zip(before, (base, *delta.arrays().values()), strict=True))


@every
def test_parameters_are_the_numbers_a_file_holds(sample):
    held = sum(x.size for ending, x in sample.parts.items() if ending not in ("alpha", "on_input"))
    assert read(sample).parameters == held == sum(floats(x).size for x in read(sample).arrays().values())


@every
def test_a_missing_or_empty_tensor_is_named(sample):
    kind = DELTA_KINDS[sample.kind]
    for ending in sample.parts.keys() - sample.optional:
        rest = {key: x for key, x in sample.parts.items() if key != ending}
        twins = ending.removesuffix("_a").removesuffix("_b")  # of lokr_w1_a and lokr_w1_b, lokr_w1 would do as well
        with pytest.raises(ValueError, match=rf"\b{twins}"):
            kind.read(rest, None)
        with pytest.raises(ValueError, match=ending):
            kind.read({**sample.parts, ending: sample.parts[ending][..., None][..., :0]}, None)


@every
def test_a_stray_tensor_is_named(sample):
    with pytest.raises(ValueError, match="mystery"):
        deltas.read({**sample.parts, "mystery": draw(2)})


@every
def test_a_tensor_of_one_more_row_does_not_fit(sample):
    """Or makes a delta that is larger by that row: never one that looks like the weight's."""
    for ending, x in sample.parts.items():
        for axis in range(x.ndim):
            grown = np.concatenate([x, x.take([0], axis)], axis)
            try:
                delta = deltas.read({**sample.parts, ending: grown}, sample.base)
                assert delta.delta(base_of(sample)).shape != sample.base, (ending, axis)
            except ValueError:
                pass


@every
def test_a_kind_that_needs_the_base_says_so(sample):
    delta = read(sample)
    if not delta.needs_base:
        close(delta.delta(), dense(sample))
        return
    for use in (delta.delta, delta.norm, *([delta.factors] if delta.low_rank_size else [])):
        with pytest.raises(NeedsBase, match=delta.kind):
            use()
    with pytest.raises(NeedsBase):
        relative_error(delta, delta)
    with pytest.raises(NeedsBase):
        inner(delta, delta)


@every
def test_a_base_weight_of_another_size_is_refused(sample):
    if read(sample).needs_base:
        with pytest.raises(ValueError, match="base model's weight"):
            read(sample).delta(draw(sample.base[0] + 1, sample.base[1] + 1, *sample.base[2:]))
