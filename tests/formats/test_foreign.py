"""Models that are none of Stable Diffusion 1, 2 and XL, by the name that people know them by."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorakit.errors import InputError
from lorakit.formats import foreign
from lorakit.formats.layouts import open_model
from lorakit.models.described import described
from tests.support.saying import changed, marked, single
from tests.tiny import make

PIPELINES = {
    "StableDiffusion3Pipeline": "Stable Diffusion 3",
    "FluxPipeline": "Flux",
    "Flux2KleinPipeline": r"Flux\.2",
    "PixArtSigmaPipeline": "PixArt",
    "KandinskyV22Pipeline": "Kandinsky",
    "StableCascadePriorPipeline": "Stable Cascade",
    "AnimateDiffPipeline": "a video model",
    "StableVideoDiffusionPipeline": "a video model",
    "WanPipeline": "a video model",
    "HunyuanVideoPipeline": "a video model",
    "QwenImagePipeline": "Qwen-Image",
    "ZImagePipeline": "Z-Image",
    "StableDiffusionUpscalePipeline": "an upscaler",
    "StableDiffusionInstructPix2PixPipeline": "InstructPix2Pix",
    "AnimaPipeline": "Anima",
    "AltDiffusionPipeline": "AltDiffusion",
}
KEYS = {
    "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": "Stable Diffusion 3",
    "double_blocks.0.img_attn.norm.key_norm.scale": "Flux",
    "model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale": "Flux",
    "adaln_single.linear.weight": "PixArt",
    "clip_txt_mapper.weight": "Stable Cascade",
    "add_embedding.image_norm.weight": "Kandinsky",
    "model.diffusion_model.input_blocks.1.0.time_stack.emb_layers.1.bias": "Stable Video Diffusion",
    "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": "AnimateDiff",
    "head.modulation": "Wan",
    "control_model.input_hint_block.0.weight": "a ControlNet",
    "net.x_embedder.proj.1.weight": "Cosmos",
}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_folder_is_named_as_what_it_is(tmp_path, name, program):
    (tmp_path / "m" / "transformer").mkdir(parents=True)
    (tmp_path / "m" / "model_index.json").write_text(json.dumps({"_class_name": name}))
    said = rf"m is {PIPELINES[name]} \({name}\); lorakit works with Stable Diffusion 1, 2 and XL"
    for look in (described, open_model):
        with pytest.raises(InputError, match=said):
            look(str(tmp_path / "m"))
    if name == "FluxPipeline":
        for words in (["inspect", "m"], ["sample", "a cat", "-m", "m"]):
            assert "m is Flux (FluxPipeline)" in program(*words, status=3).stderr


@pytest.mark.parametrize("key", KEYS)
def test_a_file_is_named_as_what_it_is(tmp_path, key, program):
    save_file({key: torch.zeros(2, 2), "other.weight": torch.zeros(2)}, tmp_path / "m.safetensors")
    with pytest.raises(
        InputError, match=f"m.safetensors is .*{KEYS[key]}.*; lorakit works with Stable Diffusion 1, 2 and XL"
    ):
        open_model(tmp_path / "m.safetensors")
    if "double_blocks" in key:
        for words in (["inspect", "m.safetensors"], ["sample", "a cat", "-m", "m.safetensors"]):
            assert "m.safetensors is Flux; " in program(*words, status=3).stderr


def test_stable_diffusion_is_not_foreign(tmp_path):
    for family in ("sd1", "sd2", "sdxl"):
        keys = load_file(single(tmp_path / family, family)).keys()
        foreign.check_keys(keys, "m")
        foreign.check_kindred(keys, "m")
    for name in (
        "StableDiffusionPipeline",
        "StableDiffusionXLPipeline",
        "StableDiffusionInpaintPipeline",
        "LatentConsistencyModelPipeline",
    ):
        assert foreign.of_pipeline(name) == ""


@pytest.mark.parametrize(
    ("part", "values", "says"),
    [
        ("unet", {"in_channels": 8}, "takes 8 channels, as InstructPix2Pix"),
        ("unet", {"in_channels": 5}, "takes 5 channels, as depth-to-image"),
        ("unet", {"out_channels": 8}, "answers 8 channels"),
        ("unet", {"class_embed_type": "projection"}, "is told a class .class_embed_type projection"),
        ("unet", {"num_class_embeds": 1000}, "is told a class .num_class_embeds"),
        ("unet", {"addition_embed_type": "image"}, "addition_embed_type image"),
        ("unet", {"encoder_hid_dim_type": "text_image_proj"}, "encoder_hid_dim_type"),
        ("unet", {"attention_type": "gated"}, "attention of the type gated"),
        ("unet", {"_class_name": "UNetMotionModel"}, "its unet is a UNetMotionModel"),
        ("vae", {"_class_name": "AutoencoderTiny"}, "its vae is a AutoencoderTiny"),
        ("vae", {"latents_std": [1, 2, 3]}, "latents_std must be a list of 4 numbers above 0"),
        ("vae", {"scaling_factor": "x"}, "scaling_factor is x"),
        ("text_encoder", {"architectures": ["T5EncoderModel"]}, "its text_encoder is a T5EncoderModel"),
        ("scheduler", {"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler, of StableDiffusionPipeline"),
    ],
)
def test_a_part_that_asks_for_more_is_refused_at_load(tmp_path, part, values, says):
    with pytest.raises(InputError, match=says):
        described(str(changed(make(tmp_path / "m"), part, **values)))


def test_the_refiner_is_named_in_both_layouts(tmp_path):
    folder = make(tmp_path / "m", "sdxl")
    for file in (folder / "text_encoder").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="is the SDXL refiner"):
        described(str(folder))
    file = single(tmp_path, "sdxl")
    held = {k.replace("embedders.1", "embedders.0"): x for k, x in load_file(file).items() if "embedders.0" not in k}
    save_file(held, file)
    with pytest.raises(InputError, match="is the SDXL refiner"):
        described(str(file))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            {"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)},
            "EDMDPMSolverMultistepScheduler, of StableDiffusionXLPipeline",
        ),
        ({"edm_vpred__sigma_max": torch.tensor(120.0)}, "EDMEulerScheduler"),
        ({"depth_model__a": torch.zeros(1)}, "is a depth-to-image model"),
        ({"embedder__model__ln_final__weight": torch.zeros(1)}, "is Stable unCLIP"),
        ({"low_scale_model__a": torch.zeros(1)}, "is an upscaler"),
    ],
)
def test_a_file_like_stable_diffusion_is_named_by_its_marks(tmp_path, more, says):
    with pytest.raises(InputError, match=says):
        described(str(marked(single(tmp_path, "sdxl"), **more)))


def test_a_file_whose_unet_is_shown_a_picture_is_refused(tmp_path):
    with pytest.raises(InputError, match="takes 8 channels"):
        described(str(single(tmp_path, "sd1", inputs=8)))
