"""Drawing against diffusers' own pipelines, by latents, and the times at which steps stand."""

from dataclasses import replace

import diffusers
import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

from lorakit.data import masks
from lorakit.diffusion.noise import generator
from lorakit.diffusion.spacing import beta_quantile
from lorakit.errors import UsageError
from lorakit.models.conditioning import Conditioning
from lorakit.models.load import load
from lorakit.models.sample import Drawing, PictureRequest, denoise
from lorakit.models.solvers import Solver, named_spacing, spacing_of
from lorakit.schedulers import SCHEDULERS, SPACINGS, USUAL
from tests.tiny import make

PREDICTIONS = ("epsilon", "v_prediction", "sample")
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SHAPE = (4, 8, 8)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A function that gives a tiny model of a family, with another scheduler's config where one is given."""
    made = {}

    def get(family="sd1", inputs=4, **config):
        if (family, inputs) not in made:
            folder = make(tmp_path_factory.mktemp("model") / "model", family, inputs=inputs)
            made[family, inputs] = load(str(folder), torch.device("cpu"), torch.float32)
            made[family, inputs].unet.forward = answer
        return replace(made[family, inputs], scheduler_config={"_class_name": "DDIMScheduler", **BETAS, **config})

    return get


def answer(latents, t, encoder_hidden_states, added_cond_kwargs=None, return_dict=True, **more):
    """In the UNet's place, quickly: what differs with all that a UNet is told."""
    pooled = added_cond_kwargs["text_embeds"].mean() if added_cond_kwargs else 0.0
    states = encoder_hidden_states.mean((1, 2))[:, None, None, None]
    rest = latents[:, 4:].sum(1, keepdim=True)
    said = torch.sin(latents[:, :4] + states + pooled + rest / 8) + latents[:, :4] / 4 + t / 1000
    return UNet2DConditionOutput(sample=said) if return_dict else (said,)


def told(components, seed=0):
    draw = torch.Generator().manual_seed(seed)
    width = components.unet.config.cross_attention_dim
    pooled = torch.randn(1, 32, generator=draw) if components.sized else None
    return Conditioning(torch.randn(1, 32, width, generator=draw), pooled)


def ours(components, how, **more):
    return denoise(components, [PictureRequest.of(5, told(components, 1), told(components, 2), **more)], how)


def theirs(components, name, how, spacing=None, pipeline=None, **more):
    """What diffusers draws with its scheduler of the model's config, from the same noise and draws."""
    form = SCHEDULERS[name].betas
    settings = {k: x for k, x in form.settings.items() if k != "set_alpha_to_one"} | SPACINGS.get(spacing, {})
    scheduler = getattr(diffusers, form.cls).from_config(components.scheduler_config, **settings)
    cls = pipeline or (diffusers.StableDiffusionXLPipeline if components.sized else diffusers.StableDiffusionPipeline)
    kept = {"text_encoder_2": components.text_encoder_2, "tokenizer_2": components.tokenizer_2}
    kept = (
        kept
        if components.sized
        else {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    )
    pipe = cls(
        vae=components.vae,
        text_encoder=components.text_encoder,
        tokenizer=components.tokenizer,
        unet=components.unet,
        scheduler=scheduler,
        **kept,
    )
    pipe.set_progress_bar_config(disable=True)
    yes, no, draw = told(components, 1), told(components, 2), generator(5, "sample")
    if "image" not in more:
        more |= {"width": 32, "height": 32}
    if pipeline is None:  # the others draw it themselves
        more |= {"latents": torch.randn((1, *SHAPE), generator=draw)}
    pooled = (
        {"pooled_prompt_embeds": yes.pooled, "negative_pooled_prompt_embeds": no.pooled} if components.sized else {}
    )
    return pipe(
        prompt_embeds=yes.states,
        negative_prompt_embeds=no.states,
        num_inference_steps=how.steps,
        guidance_scale=how.guidance,
        generator=[draw],
        output_type="latent",
        eta=0.3 if name == "tcd" else 0.0,
        **pooled,
        **more,
    ).images


def near(a, b):
    return torch.linalg.vector_norm(a - b) <= 1e-4 * torch.linalg.vector_norm(b)


PAIRS = [
    (name, spacing)
    for name, kind in SCHEDULERS.items()
    for spacing in (None, *kind.betas.spacings)
    if spacing != "beta"
]


@pytest.mark.parametrize(("name", "spacing"), PAIRS)
def test_each_scheduler_and_spacing_draws_what_diffusers_draws(loaded, name, spacing):
    for prediction in SCHEDULERS[name].betas.predictions:
        model = loaded(prediction_type=prediction)
        how = Drawing(size=(32, 32), steps=3, guidance=2.0, scheduler=name, spacing=spacing)
        assert near(ours(model, how), theirs(model, name, how, spacing)), prediction


def test_beta_is_spaced_by_the_quantiles_of_its_distribution(loaded):
    expected = torch.tensor([0, 0.0008612388, 0.0395844056, 0.1756803787, 0.5, 0.9604155944, 1], dtype=torch.float64)
    shares = torch.tensor([0, 0.01, 0.1, 0.25, 0.5, 0.9, 1])
    torch.testing.assert_close(beta_quantile(shares), expected, rtol=1e-6, atol=1e-9)
    for name in ("euler", "dpm++", "unipc", "dpm++-sde"):
        solver = Solver(loaded(), name, 5, "beta")
        ends = Solver(loaded(), name, 5, "exponential").scheduler.sigmas[[0, 4]]
        inner = solver.scheduler.sigmas[1:4]
        wanted = ends[1] + torch.tensor([0.8243196213, 0.5, 0.1756803787]) * (ends[0] - ends[1])
        torch.testing.assert_close(inner, wanted, rtol=1e-5, atol=1e-6)
        assert torch.equal(solver.scheduler.sigmas[[0, 4]], ends) and solver.scheduler.sigmas[-1] == 0


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "karras", "exponential"])
def test_the_models_own_spacing_is_every_schedulers(loaded, spacing):
    own = SPACINGS[spacing] | ({} if "timestep_spacing" in SPACINGS[spacing] else {"timestep_spacing": "trailing"})
    model = loaded(**own)
    for name, kind in SCHEDULERS.items():
        theirs = getattr(diffusers, kind.betas.cls).from_config(model.scheduler_config, **kind.betas.settings)
        theirs.set_timesteps(7)
        assert torch.equal(Solver(model, name, 7).times, theirs.timesteps), name
        if hasattr(theirs, "sigmas"):
            assert torch.equal(Solver(model, name, 7).scheduler.sigmas, theirs.sigmas), name
    assert spacing_of(model, "euler", None) == spacing


def test_a_turbo_models_single_step_is_the_last_timestep(loaded):
    model = loaded(timestep_spacing="trailing")
    for name in ("ddim", "dpm++", "dpm++-sde", "euler", "euler-a", "unipc"):
        assert Solver(model, name, 1).times.tolist() == [999]


def test_the_text_says_a_spacing_where_it_makes_a_difference(loaded):
    assert named_spacing(loaded(), "dpm++", None) == USUAL  # what older texts, which say nothing, mean
    assert named_spacing(loaded(timestep_spacing="linspace", set_alpha_to_one=False), "dpm++", None) == USUAL
    assert named_spacing(loaded(timestep_spacing="leading"), "dpm++", None) == "leading"
    assert named_spacing(loaded(timestep_spacing="leading"), "dpm++", USUAL) == USUAL
    assert named_spacing(loaded(timestep_spacing="leading"), "lcm", None) == USUAL
    assert named_spacing(loaded(), "dpm++", "linspace") == "linspace"
    said = []
    assert named_spacing(replace(loaded(timestep_spacing="leading"), note=said.append), "euler", "karras") == "karras"
    assert said == ["--spacing karras is taken in the place of leading, which the model's scheduler says"]
    assert Solver(loaded(timestep_spacing="leading"), "dpm++", 4, USUAL).times.tolist() == [999, 749, 500, 250]


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("strength", [1.0, 0.75, 0.34, 0.2])
def test_image_to_image_starts_where_diffusers_starts(loaded, name, strength):
    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    model, how = loaded(), Drawing(size=(32, 32), steps=5, guidance=2.0, scheduler=name, strength=strength)
    expected = theirs(
        model, name, how, pipeline=diffusers.StableDiffusionImg2ImgPipeline, image=start[None], strength=strength
    )
    assert near(ours(model, how, start=start), expected)


@pytest.mark.parametrize("inputs", [4, 9])
@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++", "pndm"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_inpainting_is_that_of_diffusers(loaded, name, inputs, strength):
    draw = torch.Generator().manual_seed(3)
    start, masked = torch.randn(SHAPE, generator=draw), torch.randn(SHAPE, generator=draw)
    grey = torch.rand(1, 32, 32, generator=draw)
    model, how = loaded(inputs=inputs), Drawing(size=(32, 32), steps=4, guidance=2.0, scheduler=name, strength=strength)
    expected = theirs(
        model,
        name,
        how,
        pipeline=diffusers.StableDiffusionInpaintPipeline,
        image=start[None],
        mask_image=grey[None],
        masked_image_latents=masked[None],
        strength=strength,
        width=32,
        height=32,
    )
    mask = masks.for_latents(masks.either(grey * 255), 4)
    assert near(ours(model, how, start=start, mask=mask, masked=masked), expected)


@pytest.mark.parametrize("name", ["dpm++", "euler-a"])
def test_sdxl_is_drawn_as_diffusers_draws_it(loaded, name):
    model, how = loaded("sdxl"), Drawing(size=(32, 32), steps=3, guidance=2.0, scheduler=name)
    assert near(ours(model, how), theirs(model, name, how))


@pytest.mark.parametrize(
    ("config", "name", "spacing", "says"),
    [
        ({}, "ddim", "karras", "it has leading, trailing, linspace, sgm-uniform"),
        ({}, "pndm", "beta", "--scheduler pndm cannot space"),
        ({}, "euler-a", "exponential", "--scheduler euler-a cannot space"),
        ({}, "lcm", "trailing", "it visits the timesteps that it was made for"),
        ({"prediction_type": "sample"}, "euler-a", None, "which predicts 'sample'; there are ddim, dpm"),
        ({"prediction_type": "sample"}, "pndm", None, "no form for this model"),
        ({"rescale_betas_zero_snr": True}, "pndm", None, "with zero terminal SNR; there are ddim"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "ddim", None, "is a rectified flow; there are dpm"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "dpm++", "karras", "over a rectified flow cannot space"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "euler", "trailing", "it has linspace, karras"),
    ],
)
def test_what_has_no_meaning_is_refused_with_what_there_is(loaded, config, name, spacing, says):
    with pytest.raises(UsageError, match=says):
        Solver(loaded(**config), name, 3, spacing)


def test_a_model_of_zero_terminal_snr_begins_at_its_last_timestep_whatever_is_said(loaded):
    said = []
    model = replace(loaded(rescale_betas_zero_snr=True, timestep_spacing="leading"), note=said.append)
    for spacing in (None, "trailing", "linspace", "leading", "leading", "karras"):
        solver = Solver(model, "euler", 4, spacing)
        assert solver.times[0] == 999
    assert [text.split(" is not taken")[0] for text in said] == ["--spacing linspace", "--spacing leading"]


def test_so_many_steps_that_they_do_not_fit_are_an_error(loaded):
    with pytest.raises(UsageError, match="take fewer"):
        Solver(loaded(timestep_spacing="leading"), "ddim", 1000)
    with pytest.raises(UsageError, match="take fewer"):
        Solver(loaded(timestep_spacing="leading"), "dpm++", 1000)
    assert len(Solver(loaded(timestep_spacing="leading"), "dpm++", 1000, USUAL).times) == 1000


@pytest.mark.parametrize(
    ("strength", "steps"), [(0, 0), (0.01, 1), (0.1, 1), (0.19, 1), (0.55, 5), (0.999, 9), (1, 10)]
)
def test_a_strength_is_so_many_whole_steps_and_one_at_least(loaded, strength, steps):
    solver = Solver(loaded(), "dpm++", 10)
    assert len(solver.times) - solver.first(strength) == steps
    start = torch.randn(SHAPE)
    drawn = ours(loaded(), Drawing(size=(32, 32), steps=10, guidance=1.0, strength=strength), start=start)
    assert torch.equal(drawn[0], start) == (steps == 0)
