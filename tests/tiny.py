"""Random Stable Diffusions of a few channels, of the shapes of SD1, SD2 and SDXL, made on the spot."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lorakit.models.config import folder_of

FAMILIES = ("sd1", "sd2", "sdxl")


def _text(width: int, projected: bool = False) -> torch.nn.Module:
    config = CLIPTextConfig(
        vocab_size=2048, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, bos_token_id=2046, eos_token_id=2047, pad_token_id=2047, projection_dim=width,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def make(folder: Path, family: str = "sd1", seed: int = 0) -> Path:
    """Write a random model of the family's classes and spelling into `folder`, in about a second."""
    torch.manual_seed(seed)
    extra = {}
    if family == "sd2":
        extra = {"use_linear_projection": True}
    if family == "sdxl":
        extra = {
            "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 8 * 6 + 32, "transformer_layers_per_block": (1, 2),
        }  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D") if family != "sdxl" else ("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D") if family != "sdxl" else ("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32 if family != "sdxl" else 64, attention_head_dim=4, norm_num_groups=8, **extra,
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 16, 16), latent_channels=4, norm_num_groups=8, sample_size=64,
    )  # fmt: skip
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    _text(32).save_pretrained(folder / "text_encoder")
    index = {"_class_name": "StableDiffusionPipeline"}
    if family == "sdxl":
        _text(32, projected=True).save_pretrained(folder / "text_encoder_2")
        index = {"_class_name": "StableDiffusionXLPipeline"}
    (folder / "tokenizer").mkdir()
    for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / "tokenizer" / file).write_bytes((folder_of("tiny") / "tokenizer" / file).read_bytes())
    kind = "v_prediction" if family == "sd2" else "epsilon"
    DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type=kind,
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
