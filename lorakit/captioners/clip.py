"""Phrases of a vocabulary that fit best by CLIP (Radford et al., 2021): one of each of its groups, joined by commas."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorakit.captioners import Caption, CaptionerSettings, Captions, Shown
from lorakit.errors import InputError
from lorakit.io.plain import read_text

CLIP = "openai/clip-vit-large-patch14"
_OWN = Path(__file__).with_name("vocabulary.txt")


def vocabulary(file: Path) -> dict[str, list[str]]:
    """Groups of phrases: `# name` begins one, `# name 2` one of which two phrases are taken; a phrase a line."""
    text = read_text(file, "the file of --caption-vocabulary")
    groups: dict[str, list[str]] = {}
    name = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("#"):
            name = line.lstrip("# ")
        elif line:
            groups.setdefault(name, []).append(line)
    if not groups:
        raise InputError(f"--caption-vocabulary {file} has no phrases; write one a line")
    return groups


def _file(how: CaptionerSettings) -> Path:
    return Path(how.vocabulary) if how.vocabulary else _OWN


def name_of(how: CaptionerSettings) -> str:
    return how.model or CLIP


def identity(how: CaptionerSettings) -> list[Any]:
    return [name_of(how), vocabulary(_file(how)), how.dtype]


def _count(name: str) -> int:
    last = name.rpartition(" ")[2]
    return int(last) if last.isdigit() else 1


def load(how: CaptionerSettings) -> Captions:
    from lorakit.models.fetch import folder_of, whole
    from lorakit.runtime.device import pick_device, pick_dtype

    groups = vocabulary(_file(how))
    folder = folder_of(name_of(how), "--caption-model")
    where = pick_device(how.device)
    kind = pick_dtype(how.dtype, where)
    with whole(folder, "--caption-model", "CLIP model") as folder:
        import torch
        from transformers import AutoProcessor, CLIPModel

        processor: Any = AutoProcessor.from_pretrained(folder)
        model: Any = CLIPModel.from_pretrained(folder, use_safetensors=True, dtype=kind).to(where).eval()

    @torch.inference_mode()
    def features(phrases: list[str]) -> Any:
        """Unit vectors [phrases, d]."""
        parts = []
        for start in range(0, len(phrases), 64):
            words = processor(text=phrases[start : start + 64], padding=True, truncation=True, return_tensors="pt")
            words = {key: value.to(where) for key, value in words.items() if key in ("input_ids", "attention_mask")}
            parts.append(_vectors(model.get_text_features(**words)))
        whole_set = torch.cat(parts).float()
        return whole_set / whole_set.norm(dim=-1, keepdim=True)

    known = {name: features(phrases) for name, phrases in groups.items()}

    @torch.inference_mode()
    def captions(shown: Sequence[Shown]) -> list[Caption]:
        pictures = [one.opened() for one in shown]
        pixels = processor(images=pictures, return_tensors="pt").pixel_values.to(where, kind)
        seen = _vectors(model.get_image_features(pixel_values=pixels)).float()
        said: list[list[str]] = [[] for _ in pictures]
        for name, vectors in known.items():
            order = (seen @ vectors.T).argsort(dim=1, descending=True, stable=True)[:, : _count(name)]
            for words, best in zip(said, order.tolist(), strict=True):
                words += [groups[name][place] for place in best]
        return [Caption(", ".join(words)) for words in said]

    return captions


def _vectors(found: Any) -> Any:
    """transformers 5 gives an output object where 4 gave the vectors."""
    return getattr(found, "pooler_output", found)
