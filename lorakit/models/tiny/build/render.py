"""Vector and bitmap emoji to one array of 128x128 RGBA pictures, and the placing of a picture on a background."""

import io
import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from lorakit.models.tiny.build.concepts import Concept, plain_code, read_concepts
from lorakit.models.tiny.build.sources import BY_STYLE, NAMES, fetch

SIDE = 128
COLOURS = {
    "white": (255, 255, 255),
    "black": (20, 20, 20),
    "gray": (150, 150, 150),
    "red": (220, 50, 50),
    "orange": (245, 150, 50),
    "yellow": (250, 220, 80),
    "green": (80, 180, 90),
    "light green": (180, 230, 160),
    "teal": (60, 170, 170),
    "blue": (60, 110, 220),
    "light blue": (160, 210, 245),
    "navy blue": (30, 40, 100),
    "purple": (140, 80, 190),
    "pink": (250, 170, 200),
    "brown": (130, 85, 50),
    "beige": (240, 225, 195),
}


@dataclass(frozen=True)
class Pictures:
    """All rendered pictures: rgba uint8 [n, 128, 128, 4] (straight alpha), and of each the style and concept."""

    rgba: np.ndarray
    styles: tuple[str, ...]
    concepts: tuple[Concept, ...]

    def where(self, *, styles: Sequence[str], trained: bool | None = None, held_out: bool | None = None) -> list[int]:
        return [
            i
            for i, (style, concept) in enumerate(zip(self.styles, self.concepts, strict=True))
            if style in styles
            and (trained is None or concept.trained(style) == trained)
            and (held_out is None or concept.held_out == held_out)
        ]


def _draw(source: str | Path) -> np.ndarray:
    """An SVG text or a bitmap file as [128, 128, 4], centred whole in the square; scaled with premultiplied alpha."""
    if isinstance(source, str):
        import resvg_py

        source = io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=source, width=SIDE, height=SIDE)))  # type: ignore
    with Image.open(source) as opened:
        picture = ImageOps.contain(opened.convert("RGBa"), (SIDE, SIDE), Image.Resampling.LANCZOS)
    square = Image.new("RGBa", (SIDE, SIDE))
    square.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    return np.asarray(square.convert("RGBA"))


def _svgs(package: Path, concepts: dict[str, Concept]) -> Iterator[tuple[Concept, str]]:
    codes = json.loads((package / "chars.json").read_text(encoding="utf-8"))
    icons = json.loads((package / "icons.json").read_text(encoding="utf-8"))
    slugs = {plain_code(code): slug for code, slug in codes.items()}
    for code, concept in concepts.items():
        slug = slugs.get(code, "")
        alias = icons.get("aliases", {}).get(slug, {}).get("parent", "")
        icon = icons["icons"].get(slug) or icons["icons"].get(alias)
        if icon is None:
            continue
        width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
        box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
        yield (
            concept,
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}" '
            f'width="{width}" height="{height}" color="#000">{icon["body"]}</svg>',
        )


def _sources(packages: Path, concepts: dict[str, Concept]) -> Iterator[tuple[str, Concept, str | Path]]:
    for style, package in BY_STYLE.items():
        home = fetch(package, packages)
        if (home / "icons.json").is_file():
            yield from ((style, concept, svg) for concept, svg in _svgs(home, concepts))
        else:
            for file in sorted((home / "assets").glob("*.webp")):
                if concept := concepts.get(plain_code(file.stem)):
                    yield style, concept, file


def render(packages: Path, work: Path) -> Pictures:
    """Fetch what is missing, draw everything once into `work/pictures.npy`, and open it."""
    concepts = read_concepts(fetch(NAMES, packages))
    index, array = work / "pictures.json", work / "pictures.npy"
    if not index.is_file():
        sources = list(_sources(packages, concepts))
        with ProcessPoolExecutor() as pool:
            drawn = list(pool.map(_draw, [source for *_, source in sources], chunksize=32))
        kept = [i for i, picture in enumerate(drawn) if picture[..., 3].mean() > 3]  # not empty
        np.save(array, np.stack([drawn[i] for i in kept]))
        index.write_text(
            json.dumps([(sources[i][0], sources[i][1].code) for i in kept]), encoding="utf-8", newline="\n"
        )
    rows = json.loads(index.read_text(encoding="utf-8"))
    return Pictures(
        np.load(array, mmap_mode="r"), tuple(style for style, _ in rows), tuple(concepts[code] for _, code in rows)
    )


def premultiplied(pictures: Pictures, which: Sequence[int]) -> Tensor:
    """The pictures as float [b, 4, 128, 128] in 0..1, colours multiplied by alpha."""
    rgba = torch.from_numpy(np.ascontiguousarray(pictures.rgba[list(which)])).permute(0, 3, 1, 2).float() / 255
    return torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)


def place(rgba: Tensor, background: Tensor, scale: Tensor, shift: Tensor, size: int = 64) -> Tensor:
    """Pictures laid on plain backgrounds.

    rgba [b, 4, 128, 128] premultiplied, background [b, 3] in 0..1, scale [b] (1 fills the square), shift [b, 2] as a
    share of half the side (x, y); gives [b, 3, size, size] in -1..1, sampled at twice the size and averaged down.
    """
    matrix = torch.zeros(len(rgba), 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / scale
    matrix[:, :, 2] = -shift / scale[:, None]
    grid = functional.affine_grid(matrix, [len(rgba), 4, 128, 128], align_corners=False)
    drawn = functional.grid_sample(rgba, grid, align_corners=False)
    drawn = functional.avg_pool2d(drawn, 128 // size)
    return (drawn[:, :3] + (1 - drawn[:, 3:]) * background[:, :, None, None]).clamp(0, 1) * 2 - 1


def place_plain(pictures: Pictures, which: Sequence[int], size: int = 64, colour: str = "white") -> Tensor:
    """The clean reference of each picture: centred, at 0.88 of the square, on one colour."""
    count = len(which)
    background = torch.tensor(COLOURS[colour]).float().expand(count, 3) / 255
    return place(premultiplied(pictures, which), background, torch.full((count,), 0.88), torch.zeros(count, 2), size)


def random_backgrounds(count: int, white: float, draw: random.Random) -> tuple[list[str], Tensor]:
    """Names and colours [count, 3] in 0..1; `white` is the share of plain white, other colours vary by 8 steps."""
    names = ["white" if draw.random() < white else draw.choice(list(COLOURS)) for _ in range(count)]
    colours = [
        [min(255, max(0, c + (draw.randint(-8, 8) if name != "white" else 0))) for c in COLOURS[name]] for name in names
    ]
    return names, torch.tensor(colours).float() / 255
