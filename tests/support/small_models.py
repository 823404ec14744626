"""Random models of the classes that captioners, masks and enlargers load, made on the spot in folders."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from lorakit.models.places import folder_of


@contextmanager
def one_thread() -> Iterator[None]:
    """Models this small only wait for one another's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _tokenizer(folder: Path) -> object:
    from transformers import CLIPTokenizer

    files = folder_of("tiny") / "tokenizer"
    return CLIPTokenizer(str(files / "vocab.json"), str(files / "merges.txt"), model_max_length=32)


_CLIP_TEXT = {
    "vocab_size": 2048,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": 2046,
    "eos_token_id": 2047,
    "pad_token_id": 2047,
    "projection_dim": 16,
}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 16,
}


def blip(folder: Path) -> Path:
    from lorakit.models.tiny.build.captioner import new_model, processor

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *["a", "an", "the", "red", "blue", "cat", "dog", "on", "of", "emoji", "in", "sky"],
    ]
    torch.manual_seed(0)
    model = new_model(len(words))
    model.save_pretrained(folder)
    processor(words).save_pretrained(folder)
    return folder


def blip2(folder: Path) -> Path:
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        BlipImageProcessor,
        OPTConfig,
    )

    queries = 4
    pictures = BlipImageProcessor(size={"height": 32, "width": 32})
    speak = Blip2Processor(pictures, _tokenizer(folder), num_query_tokens=queries)
    wide = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = OPTConfig(
        vocab_size=len(speak.tokenizer),
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        word_embed_proj_dim=32,
        max_position_embeddings=64,
        bos_token_id=2046,
        eos_token_id=2047,
        pad_token_id=2047,
    )
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**wide, image_size=32, patch_size=8).to_dict(),
        qformer_config=Blip2QFormerConfig(**wide, encoder_hidden_size=32, vocab_size=8).to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=queries,
        image_token_index=speak.tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(5)
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    speak.save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    torch.manual_seed(1)
    CLIPModel(CLIPConfig(text_config=_CLIP_TEXT, vision_config=_VISION, projection_dim=16)).save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(pictures, _tokenizer(folder)).save_pretrained(folder)
    return folder


def clipseg(folder: Path) -> Path:
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPSegProcessor, ViTImageProcessor

    torch.manual_seed(2)
    config = CLIPSegConfig(
        text_config=_CLIP_TEXT,
        vision_config=_VISION,
        projection_dim=16,
        reduce_dim=16,
        extract_layers=[0, 1],
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    CLIPSegProcessor(ViTImageProcessor(size={"height": 32, "width": 32}), _tokenizer(folder)).save_pretrained(folder)
    return folder


def swin2sr(folder: Path) -> Path:
    from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution

    torch.manual_seed(3)
    config = Swin2SRConfig(
        image_size=16, patch_size=1, embed_dim=12, depths=[1], num_heads=[2], window_size=4, upscale=2, mlp_ratio=1.0
    )
    Swin2SRForImageSuperResolution(config).save_pretrained(folder)
    return folder


def tagger(folder: Path, tags: int = 6) -> Path:
    import timm

    torch.manual_seed(4)
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=tags, **settings)
    folder.mkdir(parents=True)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": tags,
        "model_args": settings,
        "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": tags},
    }
    (folder / "config.json").write_text(json.dumps(config))
    names = ["general,9", "long_hair,0", "^_^,0", "some_one,4", "blue_sky,0", "outdoors,0"]
    lines = [f"{i},{name},1" for i, name in enumerate(names[:tags])]
    (folder / "selected_tags.csv").write_text("tag_id,name,category,count\n" + "\n".join(lines) + "\n")
    return folder
