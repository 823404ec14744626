"""Deltas as LyCORIS applies them in its own forward pass, which is what its files were trained for.

Not as its merging has them: `get_diff_weight` of LoHa and LoKr multiplies by alpha / rank a second time.
"""

import pytest
import torch
from torch import nn

from lorakit import deltas

modules = pytest.importorskip("lycoris").modules
from lycoris.functional.general import rebuild_tucker  # noqa: E402
from lycoris.modules.glora import _glora_weight  # noqa: E402

LINEAR, POINT, CONV = (nn.Linear, (24, 18)), (nn.Conv2d, (24, 18, 1)), (nn.Conv2d, (24, 18, 3))
WEIGHTS = {"linear": LINEAR, "1x1": POINT, "3x3": CONV}
over_weights = pytest.mark.parametrize("weight", WEIGHTS)
over_types = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def layer(name, dtype):
    """A frozen layer, 18 inputs and 24 outputs."""
    torch.manual_seed(0)
    kind, (out, width, *kernel) = WEIGHTS[name]
    frozen = kind(width, out, *kernel, **({"padding": kernel[0] // 2} if kernel else {}), bias=False)
    return frozen.requires_grad_(False).to(dtype)


def applied(module, frozen):
    """What the module adds to the frozen weight, read off its forward pass on one impulse an input."""
    width, *kernel = frozen.weight.shape[1:]
    impulses = torch.eye(width, dtype=frozen.weight.dtype)
    if not kernel:
        return (module(impulses) - frozen(impulses)).T
    images = torch.zeros(width, width, *kernel, dtype=frozen.weight.dtype)
    images[..., kernel[0] // 2, kernel[1] // 2] = impulses
    return (module(images) - frozen(images)).flip(2, 3).transpose(0, 1)


@torch.no_grad()
def check(kind, frozen, **options):
    """Worst difference over the largest entry of the delta; the tensors are LyCORIS' own state dict, drawn anew."""
    module = kind("it", frozen, **options).to(frozen.weight.dtype).eval()
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.5)
    parts = {key: x.detach().clone() for key, x in module.state_dict().items()}
    delta = deltas.read(parts, tuple(frozen.weight.shape))
    assert deltas.write(delta).keys() == parts.keys()
    got, wanted = delta.delta(frozen.weight), applied(module, frozen)
    assert got.shape == wanted.shape and got.dtype == frozen.weight.dtype
    error = float((got - wanted).abs().max() / wanted.abs().max())
    assert error < (2e-5 if frozen.weight.dtype == torch.float32 else 1e-11), error
    numpy = delta.mapped(lambda x: x.numpy()).delta(frozen.weight.numpy())
    assert abs(numpy - wanted.numpy()).max() < 2e-5 * wanted.abs().max()
    return delta


@over_types
@over_weights
@pytest.mark.parametrize("tucker", [False, True])
def test_locon(weight, tucker, dtype):
    delta = check(modules.LoConModule, layer(weight, dtype), lora_dim=4, alpha=3, use_tucker=tucker)
    assert delta.kind == ("tucker" if tucker and weight == "3x3" else "lora")


def test_locon_whose_alpha_counts_by_the_root_of_the_rank():
    assert check(modules.LoConModule, layer("linear", torch.float64), lora_dim=4, alpha=3, rs_lora=True).alpha == 6


@over_types
@over_weights
@pytest.mark.parametrize("tucker", [False, True])
def test_loha(weight, tucker, dtype):
    delta = check(modules.LohaModule, layer(weight, dtype), lora_dim=3, alpha=2, use_tucker=tucker)
    assert delta.kind == "loha" and (delta.t1 is not None) == (tucker and weight == "3x3")


@over_types
@over_weights
@pytest.mark.parametrize("factor", [2, -1])
@pytest.mark.parametrize(
    "options",
    [
        {"lora_dim": 2},
        {"lora_dim": 2, "use_tucker": True},
        {"lora_dim": 1, "decompose_both": True},
        {"lora_dim": 99},
        {"full_matrix": True, "lora_dim": 2},
        {"lora_dim": 2, "unbalanced_factorization": True},
    ],
    ids=lambda options: "-".join(options),
)
def test_lokr(weight, factor, options, dtype):
    assert check(modules.LokrModule, layer(weight, dtype), alpha=3, factor=factor, **options).kind == "lokr"


def test_lokr_covers_every_way_to_decompose():
    seen = set()
    for factor, options in [(2, {"lora_dim": 2}), (-1, {"lora_dim": 1, "decompose_both": True}), (2, {"lora_dim": 99})]:
        module = modules.LokrModule("it", layer("3x3", torch.float32), alpha=3, factor=factor, **options)
        seen.add(tuple(sorted(key for key in module.state_dict() if key != "alpha")))
    assert seen == {
        ("lokr_w1", "lokr_w2_a", "lokr_w2_b"),
        ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"),
        ("lokr_w1", "lokr_w2"),
    }


@over_types
@over_weights
@torch.no_grad()
def test_full(weight, dtype):
    """Its module takes the frozen weight over and trains the sum; the file has the difference."""
    frozen, whole = layer(weight, dtype), layer(weight, dtype)
    module = modules.FullModule("it", whole)
    module.apply_to()
    module.weight.add_(torch.randn_like(module.weight))
    delta = deltas.read({key: x.clone() for key, x in module.state_dict().items()})
    assert delta.kind == "full"
    torch.testing.assert_close(delta.delta(), applied(module, frozen), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("frozen", [nn.LayerNorm(6), nn.GroupNorm(2, 6)], ids=["layer", "group"])
@torch.no_grad()
def test_norm(frozen):
    module = modules.NormModule("it", frozen)
    nn.init.normal_(module.w_norm)
    images = torch.randn(5, 6) if isinstance(frozen, nn.LayerNorm) else torch.randn(5, 6, 3, 3)
    parts = module.state_dict()
    assert parts.keys() == {"w_norm", "b_norm"}
    delta = deltas.read({"w_norm": parts["w_norm"]})
    wanted = module(images)
    frozen.weight += delta.delta()
    torch.testing.assert_close(module.org_forward(images), wanted)


@over_types
@over_weights
@pytest.mark.parametrize("on_input", [False, True])
def test_ia3(weight, on_input, dtype):
    assert check(modules.IA3Module, layer(weight, dtype), train_on_input=on_input).on_input == on_input


@over_types
@over_weights
def test_glora(weight, dtype):
    delta = check(modules.GLoRAModule, layer(weight, dtype), lora_dim=4, alpha=3)
    assert delta.kind == "glora" and not delta.old
    a1, a2, b1, b2 = delta.a1, delta.a2, delta.b1, delta.b2
    if weight != "3x3":  # the first LyCORIS refused kernels
        old = deltas.read(
            {"a1.weight": a2, "a2.weight": a1, "b1.weight": b2, "b2.weight": b1, "alpha": torch.tensor(3)}
        )
        base = layer(weight, dtype).weight
        assert old.old and torch.equal(old.delta(base), delta.delta(base))


def test_glora_with_a_core():
    """Its modules never make one; the formula stands."""
    base, bm = torch.randn(7, 5, 3, 3), torch.randn(2, 2, 3, 3)
    a1, a2, b1, b2 = torch.randn(5, 2, 1, 1), torch.randn(2, 5, 1, 1), torch.randn(7, 2, 1, 1), torch.randn(2, 5, 1, 1)
    parts = {"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2, "bm.weight": bm}
    delta = deltas.read({**parts, "alpha": torch.tensor(3.0)})
    torch.testing.assert_close(delta.delta(base), _glora_weight(base, a1, a2, b1, b2, bm, 1.5), rtol=1e-4, atol=1e-5)


@over_weights
@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("constraint", [0, 0.01, 5])
@pytest.mark.parametrize("kind", ["DiagOFTModule", "ButterflyOFTModule"])
def test_oft(kind, weight, constraint, rescaled):
    """In float32 only: LyCORIS inverts in float32 whatever it is given."""
    frozen = layer(weight, torch.float32)
    dim = 4 if kind == "DiagOFTModule" else 6
    delta = check(getattr(modules, kind), frozen, lora_dim=dim, constraint=constraint, rescaled=rescaled)
    assert delta.kind == ("oft" if kind == "DiagOFTModule" else "boft") and (delta.rescale is not None) == rescaled
    if kind == "ButterflyOFTModule":
        assert tuple(delta.blocks.shape) == (3, 4, 6, 6)


@over_types
@over_weights
@pytest.mark.parametrize("on_output", [False, True])
@pytest.mark.parametrize(
    "kind, options",
    [
        ("LoConModule", {}),
        ("LoConModule", {"use_tucker": True}),
        ("LohaModule", {}),
        ("LohaModule", {"use_tucker": True}),
        ("LokrModule", {"factor": 2}),
        ("LokrModule", {"factor": 2, "use_tucker": True}),
    ],
    ids=lambda x: x if isinstance(x, str) else "-".join(x),
)
def test_dora(kind, options, on_output, weight, dtype):
    delta = check(
        getattr(modules, kind),
        layer(weight, dtype),
        lora_dim=2,
        alpha=3,
        weight_decompose=True,
        wd_on_out=on_output,
        **options,
    )
    assert delta.kind == "dora" and delta.axis == (0 if on_output else 1)


def test_a_flat_kernel_is_laid_out_as_tucker_is():
    t, a, b = torch.randn(3, 3, 3, 2), torch.randn(3, 9), torch.randn(3, 8)
    ones = {"hada_w2_a": torch.ones(3, 9) / 3, "hada_w2_b": torch.ones(3, 8), "hada_t2": torch.zeros(3, 3, 3, 2)}
    ones["hada_t2"][range(3), range(3)] = 1
    delta = deltas.read({"hada_w1_a": a, "hada_w1_b": b, "hada_t1": t, **ones})
    torch.testing.assert_close(delta.delta(), rebuild_tucker(t, a, b), rtol=1e-4, atol=1e-5)
