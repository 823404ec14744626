"""Tags joined by commas, by a tagger through timm (WD14 and its like): a model folder with `selected_tags.csv`."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.captioners import Caption, CaptionerSettings, Captions, Shown
from lorakit.errors import InputError
from lorakit.io.plain import read_text

WD = "SmilingWolf/wd-vit-tagger-v3"
_GENERAL, _CHARACTER = 0, 4  # categories of the csv; 9 is a rating and no word for the picture
_CHARACTER_LEAST = 0.85  # names of characters are guessed too gladly below this
# Tags that are faces, not words: their underscores are eyes.
_FACES = frozenset(
    [
        "0_0",
        "(o)_(o)",
        "+_+",
        "+_-",
        "._.",
        "<o>_<o>",
        "<|>_<|>",
        "=_=",
        ">_<",
        "3_3",
        "6_9",
        ">_o",
        "@_@",
        "^_^",
        "o_o",
        "u_u",
        "x_x",
        "|_|",
        "||_||",
    ]
)


@dataclass(frozen=True)
class VocabularyTag:
    name: str
    category: int


def read_tags(file: Path) -> list[VocabularyTag]:
    """The tags in the order of the model's outputs. InputError for a file that has none."""
    try:
        lines = io.StringIO(read_text(file, "list of tags"), newline="")
        rows = [(row["name"], int(row.get("category") or 0)) for row in csv.DictReader(lines)]
    except (InputError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{file} is no list of tags with the columns name and category") from error
    return [VocabularyTag(name if name in _FACES else name.replace("_", " "), category) for name, category in rows]


def name_of(how: CaptionerSettings) -> str:
    return how.model or WD


def identity(how: CaptionerSettings) -> list[Any]:
    return [name_of(how), how.threshold, how.dtype]


def chosen(tags: Sequence[VocabularyTag], likely: Sequence[float], threshold: float) -> str:
    """The tags above their threshold, characters first, the likeliest first; of equals the first in the list."""
    least = {_GENERAL: threshold, _CHARACTER: max(threshold, _CHARACTER_LEAST)}
    found = [
        (tag.category != _CHARACTER, -share, tag.name)
        for tag, share in zip(tags, likely, strict=True)
        if share >= least.get(tag.category, 2)
    ]
    return ", ".join(name for *_, name in sorted(found, key=lambda f: f[:2]))


def load(how: CaptionerSettings) -> Captions:
    from lorakit.models.fetch import folder_of, whole
    from lorakit.runtime.device import pick_device, pick_dtype

    folder = folder_of(name_of(how), "--caption-model")
    where = pick_device(how.device)
    kind = pick_dtype(how.dtype, where)
    tags = read_tags(folder / "selected_tags.csv")
    with whole(folder, "--caption-model", "timm tagger") as folder:
        import timm
        import torch
        from PIL import Image

        model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).to(where, kind).eval()
        if model.num_classes != len(tags):
            raise ValueError(f"it has {model.num_classes} outputs, but selected_tags.csv has {len(tags)} tags")
        config = timm.data.resolve_model_data_config(model)
    side = config["input_size"][-1]
    mean, spread = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))

    def tensor(picture: Image.Image) -> Any:
        """[3, side, side]: the whole picture on a white square; taggers of this line read blue first."""
        longest = max(picture.size)
        square = Image.new("RGB", (longest, longest), (255, 255, 255))
        square.paste(picture, ((longest - picture.width) // 2, (longest - picture.height) // 2))
        square = square.resize((side, side), Image.Resampling.BICUBIC)
        x = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).view(side, side, 3).permute(2, 0, 1) / 255
        return ((x - mean) / spread).flip(0)

    @torch.inference_mode()
    def captions(shown: Sequence[Shown]) -> list[Caption]:
        x = torch.stack([tensor(one.opened()) for one in shown]).to(where, kind)
        likely = model(x).float().sigmoid().cpu().tolist()
        return [Caption(chosen(tags, shares, how.threshold)) for shares in likely]

    return captions
