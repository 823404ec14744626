"""Packed convolutions: torch's own result and gradient, for whatever is packed; everything else untouched."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from lorakit.diffusion.noise import normal
from lorakit.models import packed as packing
from lorakit.models.load import load
from lorakit.models.packed import _can, _multiplies_bfloat16, pack
from lorakit.registry import TRAINABLE
from lorakit.training.variants import attach, targets
from tests.tiny import make

pytestmark = pytest.mark.skipif(not _can(), reason="weights are packed on AVX processors alone")

SHAPES = {  # name to (inputs, outputs, kernel, stride, padding)
    "usual": (24, 40, 3, 1, 1),
    "strided": (16, 16, 3, 2, 1),
    "one pixel": (24, 16, 1, 1, 0),
    "no padding": (8, 8, 3, 1, 0),
    "much padding": (8, 8, 3, 1, 3),
    "one channel": (1, 5, 5, 1, 2),
}


def both(name: str, bias: bool = True) -> tuple[nn.Conv2d, nn.Conv2d]:
    inputs, outputs, kernel, stride, padding = SHAPES[name]
    torch.manual_seed(0)
    plain = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=bias).requires_grad_(False)
    packed = copy.deepcopy(plain)
    assert pack(packed) == 1
    return plain, packed


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_the_same_result_and_gradient(name: str, bias: bool) -> None:
    plain, packed = both(name, bias)
    for shape in [(2, 9, 11), (1, 16, 16), (2, 9, 11)]:
        x = torch.randn(shape[0], SHAPES[name][0], *shape[1:], requires_grad=True)
        for form in (torch.contiguous_format, torch.channels_last):
            y, wanted = packed(x.contiguous(memory_format=form)), plain(x)
            torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-5)
            g = torch.randn_like(wanted)
            own, theirs = torch.autograd.grad(y, x, g)[0], torch.autograd.grad(wanted, x, g)[0]
            torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-4)


def test_without_a_gradient_not_a_bit_differs() -> None:
    plain, packed = both("usual")
    x = torch.randn(2, 24, 16, 16)
    with torch.no_grad():
        assert torch.equal(packed(x), plain(x))
    assert packed(x.requires_grad_()).grad_fn.name() == "_PackedBackward"


def test_what_is_kept_does_not_grow_with_shapes_that_are_laid_out_alike() -> None:
    _, packed = both("usual")
    for side in range(8, 24):
        packed(torch.randn(1, 24, side, side, requires_grad=True))
    there = vars(packed)["_conv_forward"]._there
    assert len(there._by_shape) == 16
    assert len(there._by_layout) <= 3


def test_a_weight_that_was_written_to_is_laid_out_anew() -> None:
    plain, packed = both("usual")
    x = torch.randn(1, 24, 8, 8, requires_grad=True)
    packed(x)
    with torch.no_grad():
        for module in (plain, packed):
            module.weight.mul_(2)
    torch.testing.assert_close(packed(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not _multiplies_bfloat16(), reason="this CPU has no units for bfloat16")
@pytest.mark.parametrize("name", SHAPES)
def test_bfloat16_is_packed_with_and_without_a_gradient(name: str) -> None:
    inputs, outputs, kernel, stride, padding = SHAPES[name]
    plain = nn.Conv2d(inputs, outputs, kernel, stride, padding, dtype=torch.bfloat16).requires_grad_(False)
    packed = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    assert pack(packed) == 1
    x = torch.randn(2, inputs, 9, 11, dtype=torch.bfloat16)
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), plain(x), rtol=2e-2, atol=2e-2)
    x.requires_grad_()
    y, wanted = packed(x), plain(x)
    g = torch.randn_like(wanted)
    own, theirs = torch.autograd.grad(y, x, g)[0], torch.autograd.grad(wanted, x, g)[0]
    torch.testing.assert_close(own, theirs, rtol=2e-2, atol=2e-2 * float(theirs.abs().max()))


def _note_dtypes(seen: set[torch.dtype], module: nn.Module, given: object, out: object) -> None:
    seen.update(x.dtype for x in (out if isinstance(out, tuple) else (out,)) if isinstance(x, torch.Tensor))


def test_in_bfloat16_a_model_answers_as_in_float32_and_computes_in_it_alone(tmp_path) -> None:
    folder, found = str(make(tmp_path / "model", "sd1")), {}
    x, states = normal((2, 4, 16, 16), "x"), None
    for kind in (torch.float32, torch.bfloat16):
        unet = load(folder, torch.device("cpu"), kind).unet
        states = normal((2, 77, unet.config.cross_attention_dim), "states")
        seen: set[torch.dtype] = set()
        for module in unet.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm)):
                module.register_forward_hook(partial(_note_dtypes, seen))
        with torch.no_grad():
            found[kind] = unet(x.to(kind), torch.tensor([3, 900]), states.to(kind), return_dict=False)[0].float()
        assert seen == {kind}
    assert unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    wanted = found[torch.float32]
    assert (found[torch.bfloat16] - wanted).norm() < 0.03 * wanted.norm()


def test_only_frozen_plain_convolutions_of_float32_are_packed(monkeypatch) -> None:
    monkeypatch.setattr(packing, "_multiplies_bfloat16", lambda: False)
    left = [
        nn.Conv2d(4, 4, 3, padding=1),  # trained
        nn.Conv2d(4, 4, 3, padding=1, groups=2).requires_grad_(False),
        nn.Conv2d(4, 4, 3, padding="same").requires_grad_(False),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular").requires_grad_(False),
        nn.Conv2d(4, 4, 3, dilation=2).requires_grad_(False),
        nn.Conv2d(4, 4, 1, stride=2).requires_grad_(False),
        nn.Conv2d(4, 4, 3, dtype=torch.bfloat16).requires_grad_(False),
        nn.Linear(4, 4).requires_grad_(False),
    ]
    assert pack(nn.ModuleList(left)) == 0
    packed = nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
    assert pack(packed) == 1
    assert pack(packed) == 0  # a second time


def test_another_weight_goes_its_own_way_and_state_dicts_stay() -> None:
    plain, packed = both("usual")
    assert packed.state_dict().keys() == plain.state_dict().keys()
    x, other = torch.randn(1, 24, 8, 8), torch.randn(40, 24, 3, 3, requires_grad=True)
    y = packed._conv_forward(x, other, None)
    assert torch.equal(y, plain._conv_forward(x, other, None))
    assert y.grad_fn.name() == "ConvolutionBackward0"
    with torch.autocast("cpu", torch.bfloat16):
        assert packed(x.requires_grad_()).dtype == torch.bfloat16


@pytest.mark.parametrize("target", ["attention", "all"])
def test_adapters_of_a_whole_model_get_the_same_gradients(target: str, tmp_path) -> None:
    """With and without convolutions among what is adapted: those go through the packed weight and a branch."""
    unet = load(str(make(tmp_path / "model", "sd1")), torch.device("cpu"), torch.float32).unet
    found = attach(targets({"unet": unet}, target, [], 4, None), TRAINABLE["lora"], normal)
    parameters = list(found.parameters.values())
    with torch.no_grad():
        for i, p in enumerate(parameters):
            p.copy_(0.1 * normal(tuple(p.shape), i))
    x, states = normal((2, 4, 16, 16), "x"), normal((2, 77, unet.config.cross_attention_dim), "states")

    def gradients() -> list[torch.Tensor]:
        said = unet(x, torch.tensor([3, 900]), states, return_dict=False)[0]
        return list(torch.autograd.grad(said.square().mean(), parameters))

    plain = gradients()
    assert pack(unet) > 10
    for own, wanted in zip(gradients(), plain, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-3, atol=1e-6 + 1e-4 * wanted.abs().max().item())
