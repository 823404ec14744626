"""What every trainable variant promises, beside a linear layer and convolutions."""

import copy

import pytest
import torch
from torch import nn

from lorakit import deltas
from lorakit.diffusion.noise import normal
from lorakit.registry import TRAINABLE
from lorakit.training.variants import attach, table, targets

LAYERS = {
    "linear": lambda: nn.Linear(24, 40),
    "large": lambda: nn.Linear(160, 120),  # beyond _fused.SMALL
    "bare": lambda: nn.Linear(30, 18, bias=False),
    "conv": lambda: nn.Conv2d(8, 12, 3, padding=1),
    "stride": lambda: nn.Conv2d(6, 8, 3, stride=2, padding=1),
    "point": lambda: nn.Conv2d(8, 16, 1),
}
INPUTS = {
    "linear": (3, 5, 24),
    "large": (3, 5, 160),
    "bare": (3, 30),
    "conv": (3, 8, 6, 6),
    "stride": (3, 6, 7, 7),
    "point": (3, 8, 4, 4),
}
BY_INPUT = "dora by input"  # DoRA with lengths of columns; without it, of rows
every = pytest.mark.parametrize("name", [*TRAINABLE.names(), BY_INPUT])
of_each = pytest.mark.parametrize("layer", LAYERS)


def draw(shape, key):
    return normal(shape, "test", key)


def put(name, layer, dtype=torch.float32, **options):
    """(root, a copy of it as it was, input, what is attached): the branch's parameters moved off their start."""
    torch.manual_seed(0)
    root = nn.ModuleDict({"layer": LAYERS[layer]()}).to(dtype)
    before, rank = copy.deepcopy(root), options.pop("rank", 3)
    chosen = targets({"unet": root}, "layer", options.pop("rules", []), rank, options.pop("alpha", 2.0))
    variant = TRAINABLE[name.partition(" ")[0]]
    attached = attach(chosen, variant, draw, axis=int(name == BY_INPUT), **options)
    return root, before, draw(INPUTS[layer], "x").to(dtype), attached


def move(attached, seed=1):
    with torch.no_grad():
        for key, p in attached.parameters.items():
            p.add_(0.3 * draw(tuple(p.shape), f"{key}{seed}"))


def merged(before, delta):
    """The layer with the delta in its weight, as a client would have it."""
    layer = copy.deepcopy(before["layer"])
    with torch.no_grad():
        layer.weight.add_(torch.as_tensor(delta.delta(layer.weight)).view_as(layer.weight))
    return layer


@every
@of_each
def test_at_first_the_model_answers_as_before_to_the_bit(name, layer):
    root, before, x, attached = put(name, layer)
    torch.testing.assert_close(root["layer"](x), before["layer"](x), rtol=0, atol=0)
    assert float(attached.deltas()["unet.layer"].delta(before["layer"].weight).abs().max()) < 1e-6


@every
@of_each
def test_the_written_delta_is_the_live_one(name, layer):
    root, before, x, attached = put(name, layer)
    move(attached)
    delta = attached.deltas()["unet.layer"]
    torch.testing.assert_close(root["layer"](x), merged(before, delta)(x), rtol=1e-4, atol=1e-4)
    assert (root["layer"](x) - before["layer"](x)).abs().max() > 0.05
    again = deltas.read(deltas.write(delta), tuple(before["layer"].weight.shape))
    torch.testing.assert_close(again.delta(before["layer"].weight), delta.delta(before["layer"].weight))


@every
@of_each
def test_gradients_are_those_of_the_written_delta_by_differences(name, layer):
    root, _, x, attached = put(name, layer)
    move(attached)
    x.requires_grad_(True)
    wanted = torch.autograd.grad(root["layer"](x).square().mean(), [x, *attached.parameters.values()])
    for key, p, gradient in zip(attached.parameters, attached.parameters.values(), wanted[1:], strict=True):
        if name.startswith("dora") and not key.endswith("magnitude"):
            continue  # the length counts as a constant there, which differences do not know
        way = draw(tuple(p.shape), f"way {key}")
        values = []
        for step in (1e-2, -2e-2):
            with torch.no_grad():
                p.add_(step * way)
                values.append(float(root["layer"](x).double().square().mean()))
        with torch.no_grad():
            p.add_(1e-2 * way)
        assert (values[0] - values[1]) / 2e-2 == pytest.approx(float((gradient * way).sum()), rel=2e-2, abs=1e-3)
    way = draw(tuple(x.shape), "way of x")
    with torch.no_grad():
        ends = [float(root["layer"](x + s * way).double().square().mean()) for s in (1e-2, -1e-2)]
    assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(float((wanted[0] * way).sum()), rel=2e-2, abs=1e-3)


@every
@of_each
def test_taken_off_nothing_is_left(name, layer):
    root, before, x, attached = put(name, layer)
    assert root.state_dict().keys() == before.state_dict().keys() and not list(root["layer"].children())
    move(attached)
    with attached.bare():
        torch.testing.assert_close(root["layer"](x), before["layer"](x), rtol=0, atol=0)
    assert not torch.equal(root["layer"](x), before["layer"](x))
    attached.detach()
    torch.testing.assert_close(root["layer"](x), before["layer"](x), rtol=0, atol=0)
    assert all(torch.equal(v, root.state_dict()[k]) for k, v in before.state_dict().items())
    assert vars(root["layer"]).keys() == vars(before["layer"]).keys()


@every
@of_each
def test_shapes_are_known_without_starting(name, layer):
    root, _, _, attached = put(name, layer)
    variant = TRAINABLE[name.partition(" ")[0]]
    attached.detach()
    (row,) = table(targets({"unet": root}, "layer", [], 3, 2.0), variant, int(name == BY_INPUT))
    assert row.parameters == sum(p.numel() for p in attached.parameters.values())
    assert (row.module, row.rank, row.alpha) == ("unet.layer", 3, 2.0) and row.shape == tuple(
        root["layer"].weight.shape
    )


@every
def test_the_start_is_drawn_from_the_parameters_name_alone(name):
    one, two = (put(name, "linear")[3].state() for _ in range(2))
    assert all(torch.equal(x, two[key]) for key, x in one.items())


@every
@of_each
def test_the_state_goes_on_to_the_bit_and_not_without_any_of_it(name, layer):
    root, _, x, attached = put(name, layer)
    move(attached)
    state, said = {k: v.clone() for k, v in attached.state().items()}, root["layer"](x)
    fresh, _, _, other = put(name, layer)
    other.restore(state)
    assert torch.equal(fresh["layer"](x), said)
    for key in state:
        with pytest.raises(Exception, match=key.rpartition(".")[2]):
            other.restore({k: v for k, v in state.items() if k != key})
    with pytest.raises(Exception, match="mystery"):
        other.restore({**state, "unet.mystery.up": torch.ones(1)})


@every
@of_each
def test_going_on_from_its_own_delta_changes_nothing(name, layer):
    root, _, x, attached = put(name, layer)
    move(attached)
    written, said = attached.deltas(), root["layer"](x)
    fresh, _, _, other = put(name, layer, alpha=5.0)
    loaded = other.load({**written, "unet.elsewhere": written["unet.layer"]})
    torch.testing.assert_close(fresh["layer"](x), said, rtol=1e-4, atol=1e-4)
    assert loaded.errors["unet.layer"] < 1e-6 and loaded.unmatched == ("unet.elsewhere",)
    with pytest.raises(Exception, match="none of the adapter's 1 modules"):
        other.load({"unet.elsewhere": written["unet.layer"]})


@every
@of_each
def test_dropout_is_by_sample_and_its_key(name, layer):
    root, before, x, attached = put(name, layer, dropout=0.4)
    move(attached)

    def said(which, keys):
        with attached.dropping([torch.Generator().manual_seed(k) for k in keys]):
            return root["layer"](x[which])

    whole = said([0, 1, 2], [7, 8, 9])
    torch.testing.assert_close(said([2, 0], [9, 7]), whole[[2, 0]], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(said([0], [8]), whole[:1], atol=1e-3)
    without = root["layer"](x).detach()
    mean = torch.stack([said([0, 1, 2], [3 * i, 3 * i + 1, 3 * i + 2]) for i in range(150)]).mean(0)
    spread = float((without - before["layer"](x)).detach().square().mean().sqrt())
    assert (
        float((mean - without).detach().square().mean().sqrt()) < 0.15 * spread
    )  # unbiased: 0.8 / sqrt(150) and a margin


@every
def test_a_bfloat16_base_keeps_float32_parameters_and_small_deltas(name):
    root, before, x, attached = put(name, "linear", torch.bfloat16)
    assert {p.dtype for p in attached.parameters.values()} == {torch.float32}
    assert torch.equal(root["layer"](x), before["layer"](x))
    move(attached)
    delta = attached.deltas()["unet.layer"]
    said, wanted = root["layer"](x).float(), before.float()["layer"](x.float())
    dense = torch.as_tensor(delta.delta(before["layer"].weight.float()))
    wanted = wanted + x.float() @ dense.T
    assert float((said - wanted).norm() / wanted.norm()) < 0.02
    gradients = torch.autograd.grad(root["layer"](x).float().square().mean(), list(attached.parameters.values()))
    assert all(g.dtype == torch.float32 and bool(g.isfinite().all()) for g in gradients)


@every
def test_autocast_computes_in_its_dtype(name):
    root, _, x, attached = put(name, "linear")
    move(attached)
    with torch.autocast("cpu", torch.bfloat16):
        half = root["layer"](x)
        gradients = torch.autograd.grad(half.float().square().mean(), list(attached.parameters.values()))
    assert half.dtype == torch.bfloat16 and all(g.dtype == torch.float32 for g in gradients)
    torch.testing.assert_close(half.float(), root["layer"](x), rtol=0.05, atol=0.1)


@every
def test_it_compiles_into_one_graph_with_the_same_gradients(name):
    root, _, x, attached = put(name, "large")
    move(attached)
    loss, parameters = lambda: root["layer"](x).square().mean(), list(attached.parameters.values())
    wanted = torch.autograd.grad(loss(), parameters)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(), parameters), wanted)


def test_loha_beside_its_layer_and_in_its_weight_are_one(monkeypatch):
    """Factors of rank r² or the dense delta: the same answer and gradients, and which is taken follows from the shapes."""
    root, _, x, attached = put("loha", "large")
    move(attached)
    branch = attached.branches["unet.layer"]
    assert branch._long_is_less(15)
    assert not put("loha", "large", rank=8)[3].branches["unet.layer"]._long_is_less(15)
    x, parameters, found = x.requires_grad_(), list(attached.parameters.values()), []
    for long in (True, False):
        monkeypatch.setattr(type(branch), "_long_is_less", lambda self, tokens, long=long: long)
        y = root["layer"](x)
        found.append([y, *torch.autograd.grad(y.square().mean(), [x, *parameters])])
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
