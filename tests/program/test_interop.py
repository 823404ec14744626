"""diffusers reads our files to the same deltas and the same pictures."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from lorakit.adapter import Adapter
from lorakit.diffusion.noise import generator
from lorakit.formats import writing
from lorakit.models.encode import conditioning_of, to_pictures
from lorakit.models.gated import Stack
from lorakit.models.load import load
from lorakit.models.places import folder_of
from lorakit.models.sample import Acting, Drawing, Forward, PictureRequest, denoise
from lorakit.models.solvers import Solver
from lorakit.training import variants
from lorakit.training.variants import lora
from tests.support.plain import load as load_plain


@pytest.fixture(scope="module")
def components():
    return load("tiny", torch.device("cpu"), torch.float32)


def trained(components) -> Adapter:
    draw = torch.Generator().manual_seed(0)
    targets = variants.targets({"unet": components.unet}, "all", [], 4, 2.0)
    attached = variants.attach(targets, lora, lambda shape, name: torch.randn(shape, generator=draw))
    for name, p in attached.parameters.items():
        if name.endswith(".up"):
            p.data.normal_(0, 0.05, generator=draw)
    attached.detach()
    return Adapter(modules=attached.deltas())


@pytest.mark.parametrize("file_format", ["kohya", "diffusers"])
def test_deltas_and_pictures_agree_with_diffusers(components, tmp_path, file_format):
    adapter, file = trained(components), tmp_path / "lora.safetensors"
    writing.save(file, adapter, file_format)
    pipe = StableDiffusionPipeline.from_pretrained(folder_of("tiny"), torch_dtype=torch.float32, safety_checker=None)
    base = {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}
    pipe.load_lora_weights(str(file))
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    told, _ = conditioning_of(components, ["a cat", ""])
    states = told.states
    time = torch.tensor([400])
    with torch.no_grad():
        theirs = pipe.unet(latents, time, states[:1]).sample
        plain = components.unet(latents, time, states[:1]).sample
        stack = Stack(components.parts)
        stack.add(0, load_plain(file), lambda name: 1.0, "file")
        stack.ready()
        with stack.gates.at((1.0,)):
            ours = components.unet(latents, time, states[:1]).sample
        how, forwards = Drawing(size=(64, 64), steps=8, guidance=3.0, scheduler="ddim"), [[Forward((1.0,), 8.0)]] * 8
        picture = PictureRequest.of(3, told[0], told[1])
        drawn = to_pictures(components, denoise(components, [picture], how, Acting(stack.gates, forwards)))
        stack.remove()
        pipe.scheduler = Solver(components, "ddim", 8).scheduler
        noise = torch.randn((1, 4, 16, 16), generator=generator(3, "sample"))
        same = pipe(
            "a cat", height=64, width=64, num_inference_steps=8, guidance_scale=3.0, latents=noise, output_type="np"
        )
    assert (ours - plain).abs().max() > 1e-2
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    pipe.fuse_lora()
    fused = pipe.unet.state_dict()
    for module, low in adapter.modules.items():
        path = module.removeprefix("unet.")
        got = fused[f"{path}.base_layer.weight"] - base[f"{path}.weight"]
        torch.testing.assert_close(got, low.delta(), rtol=1e-4, atol=1e-5)
    levels = np.abs(drawn[0] - same.images[0] * 255)
    assert levels.max() <= 0.5 + 255e-4  # ours is rounded to bytes, theirs is not: apart by rounding and 1e-4
