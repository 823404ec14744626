"""What a training set depends on besides its source pictures."""

import hashlib
import json
from dataclasses import asdict, dataclass

from lorakit.data.decode import MOST_PIXELS
from lorakit.data.prepare import PrepareSettings
from lorakit.models.described import native_size


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of `ppim`; see its help."""

    size: tuple[int, int]
    multiple: int
    crop: str = "center"
    caption: str = "none"
    template: str = ""
    token: str = ""
    image_format: str = "png"
    min_size: int = 1
    dedup: bool = True
    augments: tuple[str, ...] = ()
    copies: int = 1
    seed: int = 0
    min_sharpness: float = 0.0
    upscale: str = "none"
    background: tuple[int, int, int] = (255, 255, 255)
    max_pixels: int = MOST_PIXELS
    first_frame: bool = False
    base_model: str = "tiny"
    caption_model: str = ""
    caption_clean: bool = True
    caption_replace: tuple[tuple[str, str], ...] = ()
    caption_vocabulary: str = ""
    caption_threshold: float = 0.35
    caption_encoding: str = ""
    mask: str = "none"
    mask_prompt: str = ""
    mask_model: str = ""
    upscale_model: str = ""
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 8
    workers: int = 0
    picture_seconds: float = 60.0
    prune: bool = False
    contact_sheet: bool = False
    edit: bool = False

    def wanted(self) -> PrepareSettings:
        return PrepareSettings(
            size=self.size,
            multiple=self.multiple,
            crop=self.crop,
            augments=self.augments,
            copies=self.copies,
            seed=self.seed,
            image_format=self.image_format,
            min_size=self.min_size,
            min_sharpness=self.min_sharpness,
            upscale=self.upscale,
            background=self.background,
            max_pixels=self.max_pixels,
            first_frame=self.first_frame,
        )

    @property
    def caption_options(self) -> list[str]:
        """The options that make captions, as far as they are given."""
        given = {
            "--caption": self.caption != "none",
            "--caption-template": bool(self.template),
            "--caption-replace": bool(self.caption_replace),
        }
        return [name for name, is_given in given.items() if is_given]

    @property
    def mask_options(self) -> list[str]:
        """The options that make masks, as far as they are given."""
        return ["--mask", *["--mask-prompt"] * bool(self.mask_prompt)] if self.mask != "none" else []

    def mark(self) -> str:
        """Short hex of all that a written picture depends on."""
        whole = {**asdict(self.wanted()), "upscale_model": self.upscale_model if self.upscale != "none" else ""}
        return marked(whole)


# (side, multiple of sides) of the models that everyone trains: preparing pictures for them needs no hub.
_NATIVE = {"sd15": (512, 64), "sd21": (768, 64), "sdxl": (1024, 64)}


def native(model: str) -> tuple[int, int]:
    """(side in pixels that a base model draws, what its sides are multiples of)."""
    return _NATIVE[model] if model in _NATIVE else native_size(model)


def marked(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
