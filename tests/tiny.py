"""Random Stable Diffusions of a few channels, of the shapes of SD1, SD2 and SDXL, made on the spot."""

import json
import tempfile
from functools import lru_cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lorakit.models.places import folder_of

FAMILIES = ("sd1", "sd2", "sdxl")


def _text(
    width: int,
    heads: int = 2,
    activation: str = "quick_gelu",
    projected: bool = False,
    layers: int = 2,
    length: int = 32,
) -> torch.nn.Module:
    config = CLIPTextConfig(
        vocab_size=2048,
        hidden_size=width,
        intermediate_size=(2 if layers == 2 else 4) * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=length,
        bos_token_id=2046,
        eos_token_id=2047,
        pad_token_id=2047,
        projection_dim=width,
        hidden_act=activation,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def make(
    folder: Path, family: str = "sd1", seed: int = 0, layers: int = 1, *, usual: bool = False, inputs: int = 4
) -> Path:
    """Write a random model of the family's classes and spelling into `folder`.

    layers    of each block; with 2, as the original checkpoints have, its groups are 32 as well
    usual     what no tensor tells (heads, activations) is as the family has it: a single file of it can be read
    inputs    channels that the UNet takes; an inpainting one takes 9
    """
    files, drawn = _files(family, seed, layers, usual, inputs)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    torch.set_rng_state(drawn)
    return folder


@lru_cache(16)
def _files(family: str, seed: int, layers: int, usual: bool, inputs: int) -> tuple[dict[str, bytes], torch.Tensor]:
    """What `make` writes, by name, and the state of torch's generator after it: a model is made once for all tests."""
    with tempfile.TemporaryDirectory() as home:
        _make(Path(home), family, seed, layers, usual, inputs)
        found = {str(file.relative_to(home)): file.read_bytes() for file in Path(home).rglob("*") if file.is_file()}
    return found, torch.get_rng_state()


def _make(folder: Path, family: str, seed: int, layers: int, usual: bool, inputs: int) -> None:
    torch.manual_seed(seed)
    extra = {}
    if family == "sd2":
        extra = {"use_linear_projection": True}
    if family == "sdxl":
        extra = {
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 8 * 6 + 32,
            "transformer_layers_per_block": (1, 2),
        }
    heads: int | tuple[int, ...] = 4
    if usual:
        heads = 8 if family == "sd1" else (1, 1)
    if usual and family == "sd2":
        extra["upcast_attention"] = True
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=inputs,
        out_channels=4,
        layers_per_block=layers,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D")
        if family != "sdxl"
        else ("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D") if family != "sdxl" else ("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32 if family != "sdxl" else 64,
        attention_head_dim=heads,
        norm_num_groups=8 if layers == 1 else 32,
        **extra,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 16, 16) if layers == 1 else (32, 64, 64),
        latent_channels=4,
        layers_per_block=layers,
        norm_num_groups=8 if layers == 1 else 32,
        sample_size=64,
    )
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    heads_of_text, activation = (1 if usual else 2), "gelu" if usual and family == "sd2" else "quick_gelu"
    _text(32, heads_of_text, activation).save_pretrained(folder / "text_encoder")
    index = {"_class_name": "StableDiffusionPipeline"}
    if family == "sdxl":
        _text(32, heads_of_text, "gelu" if usual else "quick_gelu", projected=True).save_pretrained(
            folder / "text_encoder_2"
        )
        index = {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}
    if family == "sdxl":
        (folder / "tokenizer_2").mkdir()
    (folder / "tokenizer").mkdir()
    for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        for place in folder.glob("tokenizer*"):
            (place / file).write_bytes((folder_of("tiny") / "tokenizer" / file).read_bytes())
    kind = "v_prediction" if family == "sd2" else "epsilon"
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=kind,
    ).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(index))


def reduced(folder: Path) -> Path:
    """A random SD1 of half the channels in every part, with whole blocks, layers and heads, for pictures of 256x256.

    What a step of it costs, and what encoding pictures and captions costs beside it, tells of the real one.
    """
    make(folder)
    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=32, block_out_channels=(160, 320, 640, 640), cross_attention_dim=384, attention_head_dim=8
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(64, 128, 256, 256),
        latent_channels=4,
        layers_per_block=2,
        sample_size=256,
    ).save_pretrained(folder / "vae")
    _text(384, heads=6, layers=12, length=77).save_pretrained(folder / "text_encoder")
    settings = folder / "tokenizer/tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "model_max_length": 77}))
    return folder


def single(folder: Path, file: Path, family: str) -> Path:
    """The model of two layers a block in `folder` as an original checkpoint; written out from what others' code does."""
    unet = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae/diffusion_pytorch_model.safetensors")
    out = {f"model.diffusion_model.{_sgm(name, family)}": x for name, x in unet.items()}
    for name, x in vae.items():
        point = ".attentions.0.to_" in name and name.endswith("weight")
        out[f"first_stage_model.{_ldm(name)}"] = x[:, :, None, None] if point else x
    text = load_file(folder / "text_encoder/model.safetensors")
    text = {name if name.startswith("text_model.") else f"text_model.{name}": x for name, x in text.items()}
    if family == "sd1":
        out |= {f"cond_stage_model.transformer.{name}": x for name, x in text.items()}
    elif family == "sd2":
        out |= {f"cond_stage_model.model.{name}": x for name, x in _open_clip(text).items()}
        last = {k: x for k, x in out.items() if k.startswith("cond_stage_model.model.transformer.resblocks.1.")}
        out |= {k.replace("resblocks.1.", "resblocks.2."): x + 1 for k, x in last.items()}  # never run
        out["cond_stage_model.model.text_projection"] = torch.eye(32)
    else:
        out |= {f"conditioner.embedders.0.transformer.{name}": x for name, x in text.items()}
        big = load_file(folder / "text_encoder_2/model.safetensors")
        big = {k if k.startswith(("text_model.", "text_projection")) else f"text_model.{k}": x for k, x in big.items()}
        out |= {f"conditioner.embedders.1.model.{name}": x for name, x in _open_clip(big).items()}
    out["model_ema.decay"] = torch.tensor(0.5)
    save_file({key: x.contiguous() for key, x in out.items()}, file)
    return file


def _sgm(name: str, family: str) -> str:
    part = name.split(".")
    if part[0] in ("conv_in", "conv_norm_out", "conv_out"):
        return {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}[part[0]] + "." + part[1]
    if part[0] in ("time_embedding", "add_embedding"):
        place = "time_embed" if part[0] == "time_embedding" else "label_emb.0"
        return f"{place}.{0 if part[1] == 'linear_1' else 2}.{part[2]}"
    if part[0] == "mid_block":
        number = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}[f"{part[1]}.{part[2]}"]
        place, kind, rest = f"middle_block.{number}", part[1], part[3:]
    elif part[2] == "downsamplers":
        return f"input_blocks.{3 * (int(part[1]) + 1)}.0.op.{part[5]}"
    elif part[2] == "upsamplers":
        return f"output_blocks.{3 * int(part[1]) + 2}.{2 if family == 'sdxl' else 1}.conv.{part[5]}"
    else:
        side, start = ("input_blocks", 1) if part[0] == "down_blocks" else ("output_blocks", 0)
        kind, rest = part[2], part[4:]
        place = f"{side}.{start + 3 * int(part[1]) + int(part[3])}.{0 if kind == 'resnets' else 1}"
    if kind == "resnets":
        inner = {
            "norm1": "in_layers.0",
            "conv1": "in_layers.2",
            "time_emb_proj": "emb_layers.1",
            "norm2": "out_layers.0",
            "conv2": "out_layers.3",
            "conv_shortcut": "skip_connection",
        }
        return f"{place}.{inner[rest[0]]}.{rest[1]}"
    return ".".join([place, *rest])


def _ldm(name: str) -> str:
    for ours, theirs in (
        ("conv_norm_out", "norm_out"),
        ("mid_block.resnets.0", "mid.block_1"),
        ("mid_block.resnets.1", "mid.block_2"),
        ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
        ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
        ("mid_block.attentions.0.to_", "mid.attn_1."),
        ("conv_shortcut", "nin_shortcut"),
        ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"),
        ("resnets", "block"),
        ("down_blocks", "down"),
        ("up_blocks.0", "up.2"),
        ("up_blocks.1", "up.1"),
        ("up_blocks.2", "up.0"),
    ):
        name = name.replace(ours, theirs)
    return name


def _open_clip(text: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    out = {
        "token_embedding.weight": text["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": text["text_model.embeddings.position_embedding.weight"],
        "ln_final.weight": text["text_model.final_layer_norm.weight"],
        "ln_final.bias": text["text_model.final_layer_norm.bias"],
    }
    if "text_projection.weight" in text:
        out["text_projection"] = text["text_projection.weight"].T
    for i in range(2):
        layer, block = f"text_model.encoder.layers.{i}.", f"transformer.resblocks.{i}."
        for kind in ("weight", "bias"):
            q, k, v = (text[f"{layer}self_attn.{n}_proj.{kind}"] for n in "qkv")
            out[f"{block}attn.in_proj_{kind}"] = torch.cat([q, k, v])
            for theirs, ours in (
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("attn.out_proj", "self_attn.out_proj"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ):
                out[f"{block}{theirs}.{kind}"] = text[f"{layer}{ours}.{kind}"]
    return out
