"""UNets that are told the guidance (LCM), against diffusers' pipeline."""

import json

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, LCMScheduler, UNet2DConditionModel

from lorakit.diffusion.guidance import embedded
from lorakit.diffusion.noise import generator
from lorakit.drawing.request import Request
from lorakit.drawing.session import drawing
from lorakit.errors import UsageError
from lorakit.models.encode import conditioning_of
from lorakit.models.load import load
from lorakit.models.predict import predict
from lorakit.models.sample import Drawing, PictureRequest, denoise
from tests.tiny import make

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    folder = make(tmp_path_factory.mktemp("distilled") / "m")
    config = json.loads((folder / "unet/config.json").read_text())
    torch.manual_seed(1)
    unet = UNet2DConditionModel.from_config({**config, "time_cond_proj_dim": 16})
    torch.nn.init.normal_(unet.time_embedding.cond_proj.weight)  # zeros as it is made
    unet.save_pretrained(folder / "unet")
    return load(str(folder), CPU, torch.float32)


@pytest.mark.parametrize("guidance", [1.0, 1.5, 8.0])
@pytest.mark.parametrize("width", [16, 17, 256])
def test_the_guidance_is_embedded_as_diffusers_does(guidance, width):
    theirs = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, torch.tensor([guidance - 1]), width)
    assert torch.equal(embedded(guidance, width), theirs)


def test_drawing_is_diffusers_and_asks_no_negative_prompt(distilled):
    scheduler = LCMScheduler.from_config(distilled.scheduler_config)
    pipe = LatentConsistencyModelPipeline(
        distilled.vae,
        distilled.text_encoder,
        distilled.tokenizer,
        distilled.unet,
        scheduler,
        None,
        None,
        requires_safety_checker=False,
    )
    told, _ = conditioning_of(distilled, ["a cat", "something else"])
    picture = PictureRequest.of(0, told[0], told[1])
    how = Drawing(size=(64, 64), steps=1, guidance=8.5, scheduler="lcm")
    mine = denoise(distilled, [picture], how)
    noise = torch.randn((4, 16, 16), generator=generator(0, how.purpose))[None]
    theirs = pipe(
        prompt_embeds=told[0].states, latents=noise, num_inference_steps=1, guidance_scale=8.5, output_type="latent"
    ).images
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    other = denoise(distilled, [picture], Drawing(size=(64, 64), steps=1, guidance=2.0, scheduler="lcm"))
    assert not torch.allclose(mine, other, atol=1e-3)


def test_training_tells_it_no_guidance(distilled):
    told, _ = conditioning_of(distilled, ["a cat"])
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        said = predict(distilled, x, torch.tensor(500), told)
        theirs = distilled.unet(x, torch.tensor(500), told.states, timestep_cond=embedded(1.0, 16)).sample
    assert torch.equal(said, theirs)


def test_a_negative_prompt_that_is_not_asked_is_refused(distilled):
    request = Request(
        prompts=["a cat"],
        count=1,
        seed=0,
        negative="blurry",
        model="m",
        size=(64, 64),
        steps=1,
        guidance=8.0,
        scheduler="lcm",
        batch_size=1,
    )
    with pytest.raises(UsageError, match="--negative: this model is told the guidance"):
        drawing(distilled, request)
