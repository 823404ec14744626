"""Each kind's formula, worked out by hand, and what its reader refuses."""

import tracemalloc
from math import inf, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit import deltas
from lorakit.delta import inner, relative_error
from lorakit.deltas import loha
from lorakit.deltas.low_rank import LowRank
from tests.support.delta_samples import alpha, draw


def make(shape=None, **parts):
    """`read` of the parts, "__" standing for the dot of an ending."""
    named = {key.replace("__", "."): np.array(x, np.float32) for key, x in parts.items()}
    return deltas.read(named, shape)


def same(got, wanted):
    np.testing.assert_allclose(got, np.array(wanted, float), rtol=1e-6, atol=1e-6)


# LoRA and Tucker


def test_lora_is_up_times_down_times_alpha_over_rank():
    delta = make(lora_down__weight=[[1, 2], [3, 4]], lora_up__weight=[[1, 0], [0, 1], [1, 1]], alpha=1)
    same(delta.delta(), [[0.5, 1], [1.5, 2], [2, 3]])
    assert (delta.shape, delta.rank, delta.low_rank_size) == ((3, 2), 2, 2)


def test_a_lora_without_alpha_has_the_scale_1():
    same(make(lora_down__weight=[[1, 2], [3, 4]], lora_up__weight=[[1, 1]]).delta(), [[4, 6]])


def test_tucker_is_up_times_core_times_down():
    delta = make(lora_down__weight=[[[[11]]]], lora_mid__weight=[[[[5, 7]]]], lora_up__weight=[[2], [3]], alpha=2)
    same(delta.delta(), [[[[220, 308]]], [[[330, 462]]]])  # 2 * 5 * 11 * alpha 2 ..
    assert (delta.shape, delta.rank) == ((2, 1, 1, 2), 1)


def test_a_tucker_core_goes_from_down_to_up():
    delta = make(
        lora_down__weight=np.eye(2), lora_mid__weight=[[[[1]], [[2]]], [[[3]], [[4]]]], lora_up__weight=np.eye(2)
    )
    same(delta.delta()[:, :, 0, 0], [[1, 2], [3, 4]])  # mid[m, n]: m of up, n of down


# LoHa


def test_loha_multiplies_two_products_entry_by_entry():
    delta = make(hada_w1_a=[[1], [2]], hada_w1_b=[[3, 4]], hada_w2_a=[[5], [6]], hada_w2_b=[[7, 8]], alpha=0.5)
    same(delta.delta(), [[52.5, 80], [126, 192]])  # 1*3 * 5*7 / 2 ..
    assert delta.low_rank_size == 1


def test_loha_cores_take_the_matrices_with_the_rank_first():
    delta = make(
        hada_w1_a=[[1, 2]],
        hada_w1_b=[[3, 4, 5]],
        hada_t1=[[[[1, 10]]]],
        hada_w2_a=[[1, 1]],
        hada_w2_b=[[1, 1, 2]],
        hada_t2=[[[[1, 2]]]],
    )
    same(delta.delta(), [[[[3, 60]], [[4, 80]], [[10, 200]]], [[[6, 120]], [[8, 160]], [[20, 400]]]])
    assert delta.shape == (2, 3, 1, 2)


def test_a_loha_core_goes_from_inputs_to_outputs():
    half = {"a": np.eye(2), "b": np.eye(2), "t": np.array([[1.0, 2], [3, 4]]).reshape(2, 2, 1, 1)}
    ones = {"a": np.eye(2), "b": np.eye(2), "t": np.ones((2, 2, 1, 1))}
    delta = make(
        hada_w1_a=half["a"],
        hada_w1_b=half["b"],
        hada_t1=half["t"],
        hada_w2_a=ones["a"],
        hada_w2_b=ones["b"],
        hada_t2=ones["t"],
    )
    same(delta.delta()[:, :, 0, 0], [[1, 2], [3, 4]])  # t[m, n]: m of the outputs, n of the inputs


def test_a_flat_loha_takes_the_shape_of_its_weight_where_the_numbers_agree():
    parts = {"hada_w1_a": draw(2, 1), "hada_w1_b": draw(1, 12), "hada_w2_a": draw(2, 1), "hada_w2_b": draw(1, 12)}
    assert deltas.read(parts).shape == (2, 12)
    assert deltas.read(parts, (2, 3, 2, 2)).delta().shape == (2, 3, 2, 2)
    same(deltas.read(parts, (2, 3, 2, 2)).delta().reshape(2, 12), deltas.read(parts).delta())
    assert deltas.read(parts, (2, 3, 3, 3)).shape == (2, 12)  # of another size: whoever knows the model says so
    assert deltas.read(parts, (4, 6)).shape == (2, 12)


def test_the_norm_of_a_wide_loha_is_by_blocks_of_rows(monkeypatch):
    a, b = draw(50, 9), draw(9, 20)
    delta = deltas.read({"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": a, "hada_w2_b": b, "alpha": alpha(-9)})
    monkeypatch.setattr(loha, "_BLOCK", 60)  # 3 rows of 20; 50 rows end in a block of 2
    monkeypatch.setattr(loha, "gram_norm", None)
    assert delta.norm() == pytest.approx(np.linalg.norm((a @ b) ** 2), rel=1e-5)


def test_the_norm_of_a_wide_loha_never_holds_the_delta(monkeypatch):
    a, b = draw(800, 20), draw(20, 800)
    delta = deltas.read({"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": a, "hada_w2_b": b})
    monkeypatch.setattr(loha, "_BLOCK", 8000)
    tracemalloc.start()
    delta.norm()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 800 * 800 * 4 / 2


def test_the_norm_of_a_narrow_loha_is_by_its_factors(monkeypatch):
    a, b = draw(50, 2), draw(2, 60)
    delta = deltas.read({"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": a, "hada_w2_b": b})
    monkeypatch.setattr(loha, "_BLOCK", None)
    assert delta.norm() == pytest.approx(np.linalg.norm((a @ b) ** 2), rel=1e-5)


# LoKr


def test_lokr_is_a_kronecker_product():
    delta = make(lokr_w1=[[1, 2], [3, 4]], lokr_w2=[[0, 5], [6, 7]])
    same(delta.delta(), [[0, 5, 0, 10], [6, 7, 12, 14], [0, 15, 0, 20], [18, 21, 24, 28]])
    assert delta.norm() == pytest.approx(sqrt(30 * 110))


@pytest.mark.parametrize("stored", [4.0, 0.0, inf, -inf, float("nan")])
def test_a_whole_lokr_has_the_scale_1_whatever_its_alpha_says(stored):
    delta = make(lokr_w1=[[2]], lokr_w2=[[3]], alpha=stored)
    same(delta.delta(), [[6]])
    same(np.prod([float(m[0, 0]) for m in delta.factors()]), 6)
    assert delta.norm() == 6 and delta.rank is None
    assert np.isfinite(deltas.write(delta)["alpha"])


def test_a_lokr_scales_by_the_rank_of_w2_where_both_are_decomposed():
    both = make(lokr_w1_a=[[1, 1]], lokr_w1_b=[[1], [1]], lokr_w2_a=[[1, 1, 1, 1]], lokr_w2_b=[[1]] * 4, alpha=1)
    same(both.delta(), [[2]])  # 2 * 4 * alpha 1 / rank 4
    assert both.rank == 4
    first = make(lokr_w1_a=[[1, 1]], lokr_w1_b=[[1], [1]], lokr_w2=[[5]], alpha=1)
    same(first.delta(), [[5]])  # 2 * 5 / 2


def test_a_convolutional_lokr_keeps_the_kernel_of_w2():
    delta = make(lokr_w1=[[1, 2]], lokr_w2=[[[[3, 4]], [[5, 6]]]])
    same(delta.delta(), [[[[3, 4]], [[5, 6]], [[6, 8]], [[10, 12]]]])
    flat = make((1, 4, 1, 2), lokr_w1=[[1, 2]], lokr_w2_a=[[1]], lokr_w2_b=[[3, 4, 5, 6]])
    same(flat.delta(), delta.delta())
    assert make(lokr_w1=[[1, 2]], lokr_w2_a=[[1]], lokr_w2_b=[[3, 4, 5, 6]]).shape == (1, 8)
    shaped = make(lokr_w1=[[1, 2]], lokr_w2_a=[[1]], lokr_w2_b=[[[[3, 4]], [[5, 6]]]])
    same(shaped.delta(), delta.delta())


def test_the_rank_of_a_lokr_is_that_of_both_sides_together():
    assert deltas.read({"lokr_w1": draw(3, 5), "lokr_w2_a": draw(7, 2), "lokr_w2_b": draw(2, 6)}).low_rank_size == 6
    assert deltas.read({"lokr_w1": draw(5, 3), "lokr_w2": draw(4, 7)}).low_rank_size == 12
    assert deltas.read({"lokr_w1": draw(5, 3), "lokr_w2_a": draw(2, 9), "lokr_w2_b": draw(9, 6)}).low_rank_size == 6


# Dense and by channel


def test_a_full_delta_is_itself():
    same(make(diff=[[1, 2]]).delta(), [[1, 2]])
    assert make(diff=[[3, 4]]).norm() == 5


def test_a_norm_delta_is_itself():
    same(make(w_norm=[3, 4]).delta(), [3, 4])
    assert make(w_norm=[3, 4]).norm() == 5 and make(w_norm=[3, 4]).shape == (2,)


def test_ia3_scales_inputs_or_outputs():
    base = [[1, 2], [3, 4]]
    same(make(weight=[1, -2], on_input=1).delta(np.array(base)), [[1, -4], [3, -8]])
    same(make(weight=[1, -2], on_input=0).delta(np.array(base)), [[1, 2], [-6, -8]])


# GLoRA


def test_glora_is_a_change_of_the_inputs_and_a_delta_beside_it():
    a1, a2, b1, b2 = [[1], [0], [2]], [[1, 1, 0]], [[1], [2]], [[0, 1, 2]]
    base = np.array([[1.0, 2, 3], [4, 5, 6]])
    wanted = [[7, 8, 2], [16, 18, 4]]  # base @ a1 = 7, 16; times a2; plus b1 @ b2
    names = ("a1__weight", "a2__weight", "b1__weight", "b2__weight")
    now = make(**dict(zip(names, (a1, a2, b1, b2), strict=True)), alpha=0.5)
    old = make(**dict(zip(names, (a2, a1, b2, b1), strict=True)), alpha=0.5)
    same(now.delta(base), np.array(wanted) / 2)
    same(old.delta(base), np.array(wanted) / 2)
    assert (now.old, old.old, now.low_rank_size, now.shape, old.shape) == (False, True, 2, (2, 3), (2, 3))


def glora(*shapes):
    return {f"{key}.weight": draw(*shape) for key, shape in zip(("a1", "a2", "b1", "b2"), shapes, strict=True)}


def test_the_order_of_a_square_glora_is_told_by_the_weight_or_the_smaller_rank():
    now, old = glora((6, 2), (2, 6), (6, 2), (2, 6)), glora((2, 6), (6, 2), (2, 6), (6, 2))
    assert not deltas.read(now).old and deltas.read(now).rank == 2
    assert deltas.read(old).old and deltas.read(old).rank == 2
    assert not deltas.read(now, (6, 6)).old and deltas.read(now, (2, 2)).old  # rank 6 in a weight of 2x2
    assert not deltas.read(glora(*[(3, 3)] * 4)).old


def test_a_glora_with_a_kernel_changes_the_channels_at_each_of_its_points():
    parts = glora((3, 1, 1, 1), (1, 3, 1, 1), (4, 1, 1, 1), (1, 3, 1, 2))
    base, delta = draw(4, 3, 1, 2), deltas.read(parts)
    a, b = parts["a1.weight"].reshape(3, 1) @ parts["a2.weight"].reshape(1, 3), parts["b2.weight"]
    wanted = np.einsum("oiyx,ij->ojyx", base, a) + np.einsum("o,ijx->oijx", parts["b1.weight"].ravel(), b[0])
    same(delta.delta(base), wanted)
    assert delta.low_rank_size == 3  # once a point, and once


# OFT and BOFT


def test_oft_turns_by_the_transpose_of_cayleys_rotation():
    delta = make(oft_blocks=[[[0, 1], [0, 0]]])  # Q = [[0, 1], [-1, 0]] = R
    same(delta.delta(np.array([[1.0, 2], [3, 4]])), [[-4, -6], [-2, -2]])  # Rᵀ @ base = [[-3, -4], [1, 2]]


def test_oft_rescales_the_turned_weight():
    delta = make(oft_blocks=[[[0, 1], [0, 0]]], rescale=[[2], [3]])
    same(delta.delta(np.array([[1.0, 2], [3, 4]])), [[-7, -10], [0, 2]])


def test_the_alpha_of_an_oft_limits_the_norm_of_its_blocks():
    q = 0.5 / sqrt(2)  # alpha 0.25 * 2 outputs; the norm of [[0, q], [-q, 0]] is q * sqrt(2)
    cos, sin = (1 - q * q) / (1 + q * q), 2 * q / (1 + q * q)
    delta = make(oft_blocks=[[[0, 1], [0, 0]]], alpha=0.25)
    same(delta.delta(np.eye(2)) + np.eye(2), [[cos, -sin], [sin, cos]])
    loose = make(oft_blocks=[[[0, 1], [0, 0]]], alpha=1)
    same(loose.delta(np.eye(2)), make(oft_blocks=[[[0, 1], [0, 0]]]).delta(np.eye(2)))


def test_boft_turns_pairs_near_and_then_far():
    quarter, still = [[0, 1], [0, 0]], [[0, 0], [0, 0]]
    delta = make(oft_blocks=[[quarter, still], [quarter, still]])
    same(delta.delta(np.array([[1.0], [2], [3], [4]])), [[2], [-3], [-5], [0]])  # 2 -1 3 4, then 3 -1 -2 4
    rescaled = make(oft_blocks=[[quarter, still], [quarter, still]], rescale=[2, 1, 1, -1])
    same(rescaled.delta(np.array([[1.0], [2], [3], [4]])), [[5], [-3], [-5], [-8]])


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 4, 4, 4)])
def test_blocks_above_the_constraint_are_shrunk_together(shape):
    blocks = draw(*shape)
    out = shape[-3] * shape[-1]
    norm = np.linalg.norm(blocks - blocks.swapaxes(-1, -2))
    halved = deltas.read({"oft_blocks": blocks, "alpha": np.array(norm / 2 / out)})
    np.testing.assert_allclose(
        halved.delta(np.eye(out)), deltas.read({"oft_blocks": blocks / 2}).delta(np.eye(out)), atol=1e-6
    )


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([(3, 4, 4), (2, 2, 2, 2), (3, 4, 2, 2)]), st.floats(0.01, 100), st.integers(0, 99))
def test_a_rotation_keeps_the_length_of_every_column(shape, size, seed):
    delta = deltas.read({"oft_blocks": size * draw(*shape, seed=seed)})
    base = draw(delta.out, 3, seed=seed).astype("f8")
    np.testing.assert_allclose(
        np.linalg.norm(base + delta.delta(base), axis=0), np.linalg.norm(base, axis=0), rtol=1e-6
    )


# DoRA


def dora(magnitude, inner=((0, 0), (0, 0))):
    return make(lora_down__weight=inner, lora_up__weight=np.eye(2), dora_scale=magnitude)


def test_dora_sets_the_length_of_every_output_or_input():
    base, inner = np.array([[1.0, 4], [0, 5]]), [[2, 0], [0, 0]]  # together [[3, 4], [0, 5]]
    outputs = dora([[10], [5]], inner)
    assert outputs.axis == 0
    same(outputs.delta(base) + base, [[6, 8], [0, 5]])
    base, inner = np.array([[1.0, 0], [4, 5]]), [[2, 0], [0, 0]]  # together [[3, 0], [4, 5]]
    inputs = dora([[10, 5]], inner)
    assert inputs.axis == 1
    same(inputs.delta(base) + base, [[6, 0], [8, 5]])


def test_a_magnitude_of_one_dimension_is_the_outputs():
    assert dora([10, 5]).axis == 0
    same(dora([10, 5]).delta(np.diag([2.0, 1])), [[8, 0], [0, 4]])


def test_the_magnitude_of_a_single_output_is_its_own():
    delta = make(lora_down__weight=[[0, 0]], lora_up__weight=[[0]], dora_scale=[[10]])
    assert delta.axis == 0
    same(delta.delta(np.array([[3.0, 4]])), [[3, 4]])


def test_dora_leaves_a_row_of_zeros_zero():
    same(dora([3, 3]).delta(np.array([[0.0, 0], [0, 1]])), [[0, 0], [0, 2]])


def test_a_dora_whose_magnitudes_are_the_norms_is_the_inner_delta():
    base, inner = draw(20, 30), {"lora_down.weight": draw(2, 30), "lora_up.weight": draw(20, 2)}
    plain = deltas.read(inner)
    norms = np.linalg.norm((base + plain.delta()).astype("f8"), axis=1)
    assert relative_error(plain, deltas.read({**inner, "dora_scale": norms}), base) < 1e-6


def test_a_dora_of_inputs_needs_a_base_weight_that_has_as_many():
    parts = {"hada_w1_a": draw(2, 1), "hada_w1_b": draw(1, 12), "hada_w2_a": draw(2, 1), "hada_w2_b": draw(1, 12)}
    delta = deltas.read({**parts, "dora_scale": draw(1, 3, 1, 1)})  # 12 are 3 inputs with a kernel of 4 points
    assert delta.delta(draw(2, 3, 2, 2)).shape == (2, 3, 2, 2)
    with pytest.raises(ValueError, match=r"dora_scale \(1, 3, 1, 1\) does not fit a base model's weight of \(2, 12\)"):
        delta.delta(draw(2, 12))
    with pytest.raises(ValueError, match=r"a delta of \(2, 12\) for a base model's weight of \(2, 3, 1, 1\)"):
        delta.delta(draw(2, 3, 1, 1))


def test_what_changes_the_arrays_of_a_dora_reaches_its_inner_delta():
    delta = dora([10, 5]).mapped(lambda x: x * 2)
    same(delta.magnitude, [20, 10])
    same(delta.inner.up, 2 * np.eye(2))
    assert delta.arrays().keys() == {"down", "up", "magnitude"}


# What all share


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_factors_are_exact_for_any_shapes(data):
    n = st.integers(1, 5)
    a, b, c, d, r, k = (data.draw(n) for _ in range(6))
    parts = data.draw(
        st.sampled_from(
            [
                {"hada_w1_a": draw(a, r), "hada_w1_b": draw(r, b), "hada_w2_a": draw(a, k), "hada_w2_b": draw(k, b)},
                {"lokr_w1": draw(a, b), "lokr_w2": draw(c, d)},
                {"lokr_w1": draw(a, b), "lokr_w2_a": draw(c, r), "lokr_w2_b": draw(r, d)},
                {"lokr_w1_a": draw(a, r), "lokr_w1_b": draw(r, b), "lokr_w2": draw(c, d, k, 2)},
                {"lora_down.weight": draw(r, b), "lora_mid.weight": draw(k, r, c, d), "lora_up.weight": draw(a, k)},
                {
                    "a1.weight": draw(b, r),
                    "a2.weight": draw(r, b),
                    "b1.weight": draw(a, r),
                    "b2.weight": draw(r, b, c, d),
                },
            ]
        )
    )
    delta = deltas.read({**parts, "alpha": alpha(1.5)})
    base = draw(*delta.shape, seed=3)
    up, down = delta.factors(base)
    dense = delta.delta(base)
    assert up.shape == (dense.shape[0], delta.low_rank_size)
    np.testing.assert_allclose((up @ down).reshape(dense.shape), dense, rtol=1e-4, atol=1e-4 * np.abs(dense).max())
    assert delta.norm(base) == pytest.approx(np.linalg.norm(dense.ravel()), rel=1e-4)


@pytest.mark.parametrize("rank, by", [(2, "factors"), (5, "delta")])
def test_norms_and_differences_go_by_factors_where_those_are_smaller(rank, by, monkeypatch):
    a, b = ({"lora_down.weight": draw(rank, 20, seed=i), "lora_up.weight": draw(20, rank, seed=i)} for i in (1, 2))
    x, y = deltas.read(a), deltas.read(b)  # 2 * 2 * (20 + 20) < 20 * 20 <= 2 * 5 * (20 + 20)
    dense = x.delta().astype("f8"), y.delta().astype("f8")
    assert x.narrow == y.narrow and x.narrow  # 5 * (20 + 20) < 20 * 20
    called = []
    for name in ("factors", "delta"):
        whole = getattr(LowRank, name)
        monkeypatch.setattr(LowRank, name, lambda *a, n=name, f=whole: called.append(n) or f(*a))
    assert relative_error(x, y) == pytest.approx(np.linalg.norm(dense[0] - dense[1]) / np.linalg.norm(dense[0]))
    assert inner(x, y) == pytest.approx((dense[0] * dense[1]).sum(), rel=1e-5)
    assert called[0] == by and ("delta" in called) == (by == "delta")
    called.clear()
    assert x.norm() == pytest.approx(np.linalg.norm(dense[0]))
    assert called == ["factors"]


def test_a_delta_wider_than_its_weight_is_measured_dense():
    assert not make(lora_down__weight=draw(9, 4), lora_up__weight=draw(4, 9)).narrow


def test_a_small_difference_of_large_deltas_does_not_cancel():
    down, up = draw(2, 30).astype("f8"), draw(40, 2).astype("f8")
    a = deltas.read({"lora_down.weight": down, "lora_up.weight": up})
    b = deltas.read({"lora_down.weight": down, "lora_up.weight": up * (1 + 1e-10)})
    assert relative_error(a, b) == pytest.approx(1e-10, rel=1e-3)


def test_the_error_where_nothing_is_wanted_is_the_norm_of_what_is_got():
    assert relative_error(make(diff=[[0, 0]]), make(diff=[[3, 4]])) == 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_base_weight_of_any_type_is_calculated_with_in_float32(dtype):
    delta = deltas.read({"oft_blocks": torch.tensor([[[0, 1 / 3], [0, 0]]], dtype=dtype)})
    q = float(torch.tensor(1 / 3).to(dtype))
    cos, sin = (1 - q * q) / (1 + q * q), 2 * q / (1 + q * q)
    got = delta.delta(torch.eye(2, dtype=dtype))
    torch.testing.assert_close(got, torch.tensor([[cos - 1, -sin], [sin, cos - 1]]))


def test_values_of_float64_stay_so():
    parts = {"hada_w1_a": [[1 / 3]], "hada_w1_b": [[1.0]], "hada_w2_a": [[1.0]], "hada_w2_b": [[1.0]]}
    assert deltas.read({key: np.array(x) for key, x in parts.items()}).delta().item() == 1 / 3


LORA = {"lora_down.weight": draw(2, 3), "lora_up.weight": draw(4, 2)}
CONV = {"lora_down.weight": draw(2, 3, 1, 1), "lora_up.weight": draw(4, 2, 1, 1)}
LOHA = {"hada_w1_a": draw(4, 2), "hada_w1_b": draw(2, 3), "hada_w2_a": draw(4, 2), "hada_w2_b": draw(2, 3)}
LOKR = {"lokr_w1": draw(2, 3), "lokr_w2_a": draw(4, 2), "lokr_w2_b": draw(2, 5)}
REFUSED = {
    "up of another rank": ({**LORA, "lora_up.weight": draw(4, 3)}, r"down \(2, 3\) and up \(4, 3\)"),
    "up with a kernel": ({**CONV, "lora_up.weight": draw(4, 2, 3, 3)}, "has a kernel"),
    "up with three dimensions": ({**LORA, "lora_up.weight": draw(4, 2, 1)}, "do not belong together"),
    "alpha of two numbers": ({**LORA, "alpha": draw(2)}, "expected one number"),
    "infinite alpha": ({**LORA, "alpha": np.array(inf)}, "alpha is inf"),
    "core of another rank": ({**CONV, "lora_mid.weight": draw(2, 3, 3, 3)}, r"mid \(2, 3, 3, 3\)"),
    "down of Tucker with a kernel": (
        {**CONV, "lora_down.weight": draw(2, 3, 3, 3), "lora_mid.weight": draw(2, 2, 3, 3)},
        r"down \(2, 3, 3, 3\)",
    ),
    "halves of other widths": ({**LOHA, "hada_w2_b": draw(2, 4)}, r"w2_b \(2, 4\) do not belong together"),
    "halves of other heights": ({**LOHA, "hada_w2_a": draw(5, 2)}, r"w2_a \(5, 2\)"),
    "ranks apart": ({**LOHA, "hada_w1_a": draw(4, 3)}, r"w1_a \(4, 3\)"),
    "a half with a kernel": ({**LOHA, "hada_w1_b": draw(2, 3, 1, 1)}, "do not belong together"),
    "one core of two": ({**LOHA, "hada_t1": draw(4, 2, 3, 3)}, "hada_t2 is missing"),
    "a core of other ranks": (
        {**LOHA, "hada_t1": draw(3, 2, 3, 3), "hada_t2": draw(4, 2, 3, 3)},
        r"t \(3, 2, 3, 3\) do not belong",
    ),
    "cores of other kernels": (
        {**LOHA, "hada_t1": draw(4, 2, 3, 3), "hada_t2": draw(4, 2, 3, 1)},
        r"t2 \(4, 2, 3, 1\) do not belong",
    ),
    "w1 twice": ({**LOKR, "lokr_w1_a": draw(2, 1)}, "lokr_w1 is there twice, whole and as lokr_w1_a"),
    "w2_b alone": ({"lokr_w1": draw(2, 3), "lokr_w2_b": draw(2, 5)}, "lokr_w2_a is missing"),
    "w2 of another rank": ({**LOKR, "lokr_w2_b": draw(3, 5)}, r"lokr_w2_a \(4, 2\) and lokr_w2_b \(3, 5\)"),
    "w1 with a kernel": ({**LOKR, "lokr_w1": draw(2, 3, 3, 3)}, "lokr_w1 .* is not a matrix"),
    "w2 of three dimensions": ({"lokr_w1": draw(2, 3), "lokr_w2": draw(2, 3, 3)}, "lokr_w2 .* is not a matrix"),
    "a core without its sides": (
        {"lokr_w1": draw(2, 3), "lokr_w2": draw(2, 3), "lokr_t2": draw(2, 2, 3, 3)},
        "lokr_w2_a is missing",
    ),
    "a core of another rank": ({**LOKR, "lokr_t2": draw(2, 2, 3, 3)}, r"lokr_t2 \(2, 2, 3, 3\) do not belong"),
    "a diff of one number": ({"diff": np.array(1.0)}, "single number"),
    "w_norm of a matrix": ({"w_norm": draw(2, 2)}, "expected one, the channels"),
    "a weight of a matrix": ({"weight": draw(2, 2), "on_input": np.array(0)}, "one number a channel"),
    "glora of no order": (glora((6, 2), (6, 2), (6, 2), (2, 6)), "do not belong together"),
    "glora with a kernel on the wrong side": (glora((6, 2), (2, 6), (6, 2, 3, 3), (2, 6)), "do not belong together"),
    "blocks that are not square": ({"oft_blocks": draw(3, 2, 4)}, "not square"),
    "blocks of two dimensions": ({"oft_blocks": draw(4, 4)}, "not square"),
    "rescale of other outputs": ({"oft_blocks": draw(3, 2, 2), "rescale": draw(5, 1)}, r"rescale \(5, 1\)"),
    "odd butterfly": ({"oft_blocks": draw(2, 2, 3, 3)}, "even size"),
    "butterfly too deep": ({"oft_blocks": draw(3, 2, 2, 2)}, "too many stages"),
    "rescale of other butterfly": ({"oft_blocks": draw(2, 2, 2, 2), "rescale": draw(5, 1)}, r"rescale \(5, 1\)"),
    "a lone magnitude": ({"dora_scale": draw(4), "alpha": alpha(1)}, "dora_scale is alone"),
    "a magnitude of neither side": ({**LORA, "dora_scale": draw(5, 1)}, r"dora_scale \(5, 1\) does not fit"),
    "a magnitude of the other side": ({**LORA, "dora_scale": draw(1, 4)}, r"dora_scale \(1, 4\) does not fit"),
    "PEFT's magnitude of a convolution": ({**CONV, "dora_scale": draw(1, 4, 1, 1)}, "does not fit"),
    "a magnitude a weight": ({**LORA, "dora_scale": draw(4, 3)}, "does not fit"),
    "a magnitude of a dense delta": (
        {"diff": draw(4, 3), "dora_scale": draw(4)},
        "no kind of delta has just the tensors diff, dora_scale",
    ),
    "two kinds at once": ({**LORA, **LOHA}, "no kind of delta"),
    "nothing": ({"alpha": alpha(1)}, "no kind of delta has just the tensors alpha"),
}


@pytest.mark.parametrize("parts, words", REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_is_refused_with_a_sentence(parts, words):
    with pytest.raises(ValueError, match=words):
        deltas.read(parts)
