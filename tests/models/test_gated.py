"""Adapters beside a model: every kind of delta, both ways to answer, and nothing left behind."""

import numpy as np
import pytest
import torch
from torch import nn

from lorakit import deltas
from lorakit.adapter import Adapter
from lorakit.deltas.dora import DoRA
from lorakit.deltas.low_rank import LowRank
from lorakit.errors import InputError
from lorakit.models.gated import Stack
from tests.support.delta_samples import SAMPLES, Sample


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lin = nn.Linear(12, 8)
        self.conv = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.point = nn.Conv2d(6, 5, 1, bias=False)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(self.lin(x))


def low(name: str, shape: tuple[int, ...], seed: int, rank: int = 3) -> LowRank:
    g = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, *shape[1:], generator=g)
    return LowRank(down, torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=g), 1.5)


def answers(net: Net) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(5)
    x, picture = torch.randn(2, 7, 12, generator=g), torch.randn(2, 4, 10, 10, generator=g)
    return [net(x), net.conv(picture), net.point(net.conv(picture))]


@pytest.fixture
def both():
    net = Net()
    adapters = [
        Adapter(
            modules={
                f"unet.{n}": low(n, tuple(getattr(net, n).weight.shape), seed + i)
                for i, n in enumerate(("lin", "conv", "point"))
            }
        )
        for seed in (1, 11)
    ]
    return net, adapters


def stacked(net, adapters, limit=None):
    stack = Stack({"unet": net}, limit)
    for i, adapter in enumerate(adapters):
        stack.add(i, adapter, lambda name: 1.0, f"file {i}")
    stack.ready()
    return stack


@pytest.mark.parametrize("uses", [1e-9, 1.0, 30.0])  # apart; by what is less work; composed and kept
@torch.no_grad()
def test_the_answer_is_that_of_the_weights_plus_the_weighted_deltas(both, uses):
    net, adapters = both
    wanted = Net()
    for adapter, weight in zip(adapters, (0.7, -0.4), strict=True):
        for name, delta in adapter.modules.items():
            module = wanted.get_submodule(name.removeprefix("unet."))
            module.weight += weight * delta.delta()
    stack = stacked(net, adapters)
    with stack.gates.at((0.7, -0.4), uses):
        for _ in range(2):
            for got, expected in zip(answers(net), answers(wanted), strict=True):
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert (
        stack.gates.kept.built == {1e-9: 0, 1.0: 2 * 2, 30.0: 3}[uses]
    )  # nothing; two modules' deltas, the third apart; weights


@torch.no_grad()
def test_without_room_for_deltas_the_products_are_made_anew(both):
    net, adapters = both
    stack = stacked(net, adapters, limit=0)
    with stack.gates.at((0.7, -0.4)):
        one = answers(net)
    assert stack.gates.kept.built == 0
    stack.remove()
    stack = stacked(net, adapters)
    with stack.gates.at((0.7, -0.4)):
        torch.testing.assert_close(answers(net), one)


@torch.no_grad()
def test_weight_zero_and_taking_off_leave_every_bit(both):
    net, adapters = both
    before, weights = answers(net), {k: v.clone() for k, v in net.state_dict().items()}
    stack = stacked(net, adapters)
    with stack.gates.at((0.0, 0.0)):
        assert all(torch.equal(a, b) for a, b in zip(answers(net), before, strict=True))
    with stack.gates.at((1.0, 2.0), 9):
        assert not torch.equal(answers(net)[0], before[0])
    assert all(torch.equal(a, b) for a, b in zip(answers(net), before, strict=True))  # outside of `at`
    stack.remove()
    assert all(torch.equal(a, b) for a, b in zip(answers(net), before, strict=True))
    assert net.state_dict().keys() == weights.keys()
    assert all(torch.equal(x, weights[k]) for k, x in net.state_dict().items())


@torch.no_grad()
def test_what_is_kept_stays_within_its_bytes(both):
    net, adapters = both
    stack = stacked(net, adapters, limit=8 * 12 * 4 + 100)
    for weight in (0.1, 0.2, 0.3):
        with stack.gates.at((weight, 0.0), 5):
            net.lin(torch.ones(40, 12))
    assert stack.gates.kept.built == 3 and stack.gates.kept.bytes == 8 * 12 * 4
    with stack.gates.at((0.3, 0.0), 5):
        net.lin(torch.ones(40, 12))
    assert stack.gates.kept.built == 3


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
@torch.no_grad()
def test_every_kind_of_delta_is_applied_at_its_weight(sample: Sample):
    shape = sample.base
    delta = deltas.read(sample.parts, shape).mapped(lambda x: torch.as_tensor(np.ascontiguousarray(x)))
    module = (
        nn.LayerNorm(shape[0])
        if len(shape) == 1
        else nn.Linear(shape[1], shape[0])
        if len(shape) == 2
        else nn.Conv2d(shape[1], shape[0], shape[2:])
    )
    net, base = nn.Sequential(module), module.weight.detach().clone()
    stack = Stack({"unet": net})
    stack.add(0, Adapter(modules={"unet.0": delta}), lambda name: 1.0, "file")
    stack.ready()
    x = torch.randn(2, *((shape[0],) if len(shape) == 1 else (shape[1],) if len(shape) == 2 else (shape[1], 6, 6)))
    wanted = base + 0.6 * torch.as_tensor(delta.delta(base)).reshape(base.shape)
    for uses in (1.0, 20.0):
        with stack.gates.at((0.6,), uses):
            got = net(x)
        held = {"0.weight": wanted}
        torch.testing.assert_close(
            got, torch.func.functional_call(nn.Sequential(module), held, (x,)), rtol=1e-4, atol=1e-4
        )


@torch.no_grad()
def test_biases_and_factors_by_module():
    net = Net()
    stack = Stack({"unet": net})
    added = Adapter(
        modules={"unet.lin": low("lin", (8, 12), 1)},
        biases={"unet.lin": torch.arange(8.0), "unet.point": torch.ones(5)},
    )
    stack.add(0, added, lambda name: 0.5 if name == "unet.lin" else 1.0, "file")
    stack.ready()
    x, base = torch.randn(1, 12), net.lin.base
    picture = torch.randn(1, 6, 3, 3)
    with stack.gates.at((2.0,)):
        expected = nn.functional.linear(
            x, base.weight + added.modules["unet.lin"].delta(), base.bias + torch.arange(8.0)
        )
        torch.testing.assert_close(net.lin(x), expected)
        torch.testing.assert_close(net.point(picture), net.point.base(picture) + 2)


def test_what_does_not_fit_is_named_and_what_the_model_lacks_is_listed():
    net = Net()
    modules = {
        "unet.lin": low("lin", (8, 12), 1),
        "unet.nowhere": low("x", (8, 12), 2),
        "text_encoder.x": low("x", (8, 12), 2),
    }
    done = Stack({"unet": net}).add(0, Adapter(modules=modules), lambda name: 1.0, "file")
    assert done.counts == {"unet": 1} and done.unmatched == ("unet.nowhere", "text_encoder.x")
    with pytest.raises(InputError, match="no effect"):
        Stack({"unet": Net()}).add(0, Adapter(modules={"unet.nowhere": low("x", (8, 12), 2)}), lambda name: 1.0, "file")
    with pytest.raises(InputError, match="another base model"):
        Stack({"unet": Net()}).add(0, Adapter(modules={"unet.lin": low("x", (8, 13), 2)}), lambda name: 1.0, "file")
    bad = LowRank(torch.full((1, 12), torch.nan), torch.ones(8, 1), 1.0)
    with pytest.raises(InputError, match="NaN"):
        Stack({"unet": Net()}).add(0, Adapter(modules={"unet.lin": bad}), lambda name: 1.0, "file")


def test_gradients_reach_the_gates_and_nothing_else(both):
    net, adapters = both
    net.requires_grad_(False)
    stack = stacked(net, adapters)
    gates = torch.tensor([0.5, 0.5], requires_grad=True)
    with stack.gates.at((), learned=lambda number, name: gates[number]):
        loss = sum(x.square().mean() for x in answers(net))
    loss.backward()
    step = torch.tensor([1e-3, 0.0])
    values = []
    for sign in (1, -1):
        moved = gates.detach() + sign * step
        with torch.no_grad(), stack.gates.at(moved.tolist()):
            values.append(sum(x.square().mean() for x in answers(net)))
    assert gates.grad[0].item() == pytest.approx(float(values[0] - values[1]) / 2e-3, rel=1e-2)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("uses", [1, 30])
@pytest.mark.parametrize("limit", [0, 1 << 30])
@pytest.mark.parametrize("weights", [(0.7, 0.0, 0.3), (0.0, 0.7, 0.0), (0.7, 0.3, 0.0)])
def test_an_adapter_at_weight_zero_leaves_no_trace_among_others(weights, uses, limit):
    torch.manual_seed(0)
    unet = {"wide": nn.Linear(320, 320), "narrow": nn.Linear(64, 320), "conv": nn.Conv2d(32, 64, 3, padding=1)}
    x = [torch.randn(2, 50, 320), torch.randn(2, 50, 64), torch.randn(2, 32, 12, 12)]
    shapes = {name: tuple(module.weight.shape) for name, module in unet.items()}
    adapters = [Adapter(modules={f"unet.{n}": low(n, s, seed, rank=8) for n, s in shapes.items()}) for seed in range(3)]
    found = []
    for chosen in (range(3), [i for i, weight in enumerate(weights) if weight]):
        stack = Stack({"unet": nn.ModuleDict(unet)}, limit)
        for number, i in enumerate(chosen):
            stack.add(number, adapters[i], lambda name: 1.0, f"file {i}")
        stack.ready()
        if limit:  # what is kept as deltas is the sum of others, whatever there is room for
            for module in stack.modules.values():
                module.light = True
        with torch.inference_mode(), stack.gates.at([weights[i] for i in chosen], uses):
            found.append([stack.parts["unet"][n](one) for n, one in zip(unet, x, strict=True)])
        stack.remove()
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("axis", [0, 1])
def test_a_dora_at_half_its_weight_goes_half_of_the_way(axis):
    """As ComfyUI and A1111 have it: W + w (m (W + delta) / |W + delta| - W)."""
    net, wanted = Net(), Net()
    inner, weight = low("lin", (8, 12), 3), wanted.lin.weight
    lengths = torch.linspace(0.5, 2, 8)[:, None] if axis == 0 else torch.linspace(0.5, 2, 12)[None]
    adapted = weight + inner.delta()
    whole = lengths * adapted / adapted.norm(dim=1 - axis, keepdim=True)
    weight += 0.5 * (whole - weight)
    stack = stacked(net, [Adapter(modules={"unet.lin": DoRA(inner, lengths)})])
    with stack.gates.at((0.5,)):
        torch.testing.assert_close(answers(net)[0], answers(wanted)[0], rtol=1e-4, atol=1e-5)
