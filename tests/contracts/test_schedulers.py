"""What every scheduler promises, without adapters and with compositions of them."""

import pytest
import torch

from lorakit.adapter import Adapter
from lorakit.composition import Composition, Member, curve
from lorakit.deltas.low_rank import LowRank
from lorakit.drawing.ensemble import Ensemble
from lorakit.formats import writing
from lorakit.models.conditioning import Conditioning
from lorakit.models.load import load
from lorakit.models.prompts import PromptReading
from lorakit.models.sample import Drawing, PictureRequest, denoise, steps_done
from lorakit.registry import COMPOSINGS
from lorakit.schedulers import SCHEDULERS
from tests.tiny import make


@pytest.fixture(scope="module")
def components(tmp_path_factory):
    return load(str(make(tmp_path_factory.mktemp("model") / "model")), torch.device("cpu"), torch.float32)


def picture(seed: int, **more) -> PictureRequest:
    told = Conditioning(torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(0)))
    return PictureRequest.of(seed, told, Conditioning(torch.zeros_like(told.states)), **more)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_draws_the_same_finite_picture_twice(components, name):
    how = Drawing(size=(32, 32), steps=4, guidance=2.0, scheduler=name)
    first, second = (denoise(components, [picture(7)], how) for _ in range(2))
    assert torch.equal(first, second) and first.isfinite().all()
    assert not torch.equal(first, denoise(components, [picture(8)], how))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_little_strength_stays_near_the_picture_and_a_mask_keeps_it(components, name):
    start = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(1, 8, 8)
    mask[:, :, :4] = 1
    far, near = (
        (
            denoise(
                components,
                [picture(1, start=start)],
                Drawing(size=(32, 32), steps=10, guidance=1.0, scheduler=name, strength=s),
            )[0]
            - start
        )
        .abs()
        .mean()
        for s in (1.0, 0.2)
    )
    assert near < far
    kept = denoise(
        components, [picture(1, start=start, mask=mask)], Drawing(size=(32, 32), steps=4, guidance=2.0, scheduler=name)
    )[0]
    assert torch.equal(kept[:, :, 4:], start[:, :, 4:]) and not torch.equal(kept[:, :, :4], start[:, :, :4])


@pytest.fixture(scope="module")
def members(components, tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("adapters"), []
    for seed in (1, 2):
        draw = torch.Generator().manual_seed(seed)
        path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
        low = LowRank(torch.randn(2, 32, generator=draw), torch.randn(32, 2, generator=draw), 2.0)
        writing.save(folder / f"{seed}.safetensors", Adapter(modules={f"unet.{path}": low}), "kohya")
        found.append(
            Member(path=folder / f"{seed}.safetensors", weight=0.5, name=str(seed), curve=curve.read("2@0,0@1"))
        )
    return tuple(found)


@pytest.mark.parametrize("way", COMPOSINGS.names())
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_composition_draws_the_same_finite_picture_twice(components, members, name, way):
    how, composition = Drawing(size=(32, 32), steps=2, guidance=2.0, scheduler=name), Composition(members, way)
    ensemble = Ensemble(components, [composition], lambda text: None)
    acting = ensemble.acting(composition, steps_done(components, how), how.size)
    told, negative = ensemble.told(acting, "a cat", "", PromptReading())
    asked = PictureRequest(seed=7, told=told, negative=negative)
    first, second = (denoise(components, [asked], how, acting) for _ in range(2))
    assert torch.equal(first, second) and first.isfinite().all()
    nothing = ensemble.acting(composition.scaled(0.0), steps_done(components, how), how.size)
    assert not torch.equal(first, denoise(components, [asked], how, nothing))
    ensemble.remove()


def test_guidance_one_equals_no_guidance_in_half_the_work(components):
    seen = []
    hook = components.unet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    denoise(components, [picture(0)], Drawing(size=(32, 32), steps=2, guidance=1.0, scheduler="ddim"))
    denoise(components, [picture(0)], Drawing(size=(32, 32), steps=2, guidance=3.0, scheduler="ddim"))
    denoise(
        components, [picture(0)], Drawing(size=(32, 32), steps=4, guidance=3.0, scheduler="ddim", guidance_until=0.5)
    )
    denoise(
        components,
        [picture(0)],
        Drawing(size=(32, 32), steps=3, guidance=3.0, scheduler="ddim", guidance_curve=curve.read("1@0,1@0.5,2@1")),
    )
    hook.remove()
    assert seen == [1, 1, 2, 2, 2, 2, 1, 1, 1, 1, 2]
