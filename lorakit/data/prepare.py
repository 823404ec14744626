"""One source picture to the training pictures made of it. Runs in a worker process; see `lorakit.data.worker`."""

import base64
import hashlib
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lorakit.data import quality, thumbs
from lorakit.data.crops import PictureView, PlacedCrop
from lorakit.data.decode import HEIC_SUFFIXES, MOST_PIXELS, BadPicture, Decoded, Unread, decode
from lorakit.data.images import Crop, cut, read_file
from lorakit.data.looks import look
from lorakit.data.mask_files import mask_name, mask_of, of_file
from lorakit.io.files import write_bytes
from lorakit.registry import AUGMENTS, CROPS

_SUFFIXES = {"JPEG": (".jpg", ".jpeg"), "TIFF": (".tif", ".tiff"), "HEIF": HEIC_SUFFIXES}


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """What a written picture depends on besides its source's bytes."""

    size: tuple[int, int]
    multiple: int
    crop: str = "center"
    augments: tuple[str, ...] = ()
    copies: int = 1
    seed: int = 0
    image_format: str = "png"
    min_size: int = 1
    min_sharpness: float = 0.0
    upscale: str = "none"
    background: tuple[int, int, int] = (255, 255, 255)
    max_pixels: int = MOST_PIXELS
    first_frame: bool = False


def encode(picture: Image.Image, image_format: str) -> bytes:
    """File bytes, the same for the same pixels, with nothing but pixels in them.

    Run-length PNG of level 1 is as small as level 6 on photographs and five times faster.
    """
    data = io.BytesIO()
    if image_format == "jpg":
        picture.save(data, "JPEG", quality=95, subsampling=0)
    elif image_format == "webp":
        picture.save(data, "WEBP", lossless=True, method=2)
    else:
        picture.save(data, "PNG", compress_level=1, compress_type=3)
    return data.getvalue()


def target(source: tuple[int, int], wanted: PrepareSettings) -> tuple[int, int]:
    """The size (width, height) at which a picture of size `source` is drawn."""
    choose = getattr(CROPS[wanted.crop], "target", None)
    return choose(source, wanted.size, wanted.multiple) if choose else wanted.size


def scale(source: tuple[int, int], wanted: PrepareSettings) -> float:
    """Source pixels along one drawn pixel before any augmentation; below 1 the picture would be enlarged."""
    drawn = target(source, wanted)
    across, down = source[0] / drawn[0], source[1] / drawn[1]
    return max(across, down) if wanted.crop == "pad" else min(across, down)


def _check(source: tuple[int, int], wanted: PrepareSettings) -> None:
    if min(source) < wanted.min_size:
        raise BadPicture(f"{source[0]}x{source[1]} is smaller than --min-size {wanted.min_size}")
    if scale(source, wanted) < 1 and wanted.upscale == "none":
        drawn = target(source, wanted)
        raise BadPicture(
            f"{source[0]}x{source[1]} would have to be enlarged to {drawn[0]}x{drawn[1]}; "
            "--upscale lanczos does that, or choose a smaller --size"
        )


def varied(cut: Crop, wanted: PrepareSettings, seed: str, copy: int) -> tuple[Crop, list[dict[str, Any]], list[str]]:
    """The cut of copy number `copy` (0 is the plain one), its augmentations with all their numbers, and remarks."""
    done: list[dict[str, Any]] = []
    remarks: list[str] = []
    if copy == 0 and wanted.copies > 1:
        return cut, done, remarks
    for name in sorted(wanted.augments):
        part = AUGMENTS[name]
        parameters = part.draw(random.Random(f"{wanted.seed}/{seed}/{copy}/{name}"))
        if hasattr(part, "cut"):
            changed = part.cut(cut, parameters)
            if changed.scale < min(1.0, cut.scale) and wanted.upscale == "none":
                remarks.append(f"{name} left out: the picture would have to be enlarged")
                continue
            cut = changed
        done.append({"name": name, **parameters})
    return cut, done, remarks


def draw(
    found: Decoded, how: Crop, augmentations: list[dict[str, Any]], background: tuple[int, int, int]
) -> Image.Image:
    """The picture that a row of metadata.jsonl describes."""
    picture = cut(found.image, how, background, found.size)
    for one in augmentations:
        part = AUGMENTS[one["name"]]
        if hasattr(part, "pixels"):
            picture = part.pixels(picture, one)
    return picture


def draw_mask(mask: Image.Image, how: Crop, size: tuple[int, int]) -> bytes:
    """File bytes of a grey mask of the whole source, cut and turned as its picture is; of `size`, to which a picture that
    is enlarged late comes."""
    part = cut(mask, how, source=mask.size)
    return encode(part if part.size == size else part.resize(size, Image.Resampling.BILINEAR), "png")


def mask_share(mask: Image.Image) -> float:
    """The share of a picture under a mask, by how white it is."""
    return round(sum(i * n for i, n in enumerate(mask.histogram())) / 255 / (mask.width * mask.height), 4)


def _row(
    found: Decoded,
    placed: PlacedCrop,
    wanted: PrepareSettings,
    *,
    name: str,
    digest: str,
    copy: int,
    into: Path | None,
    thumb: bool,
    mask: Image.Image | None = None,
) -> dict[str, Any]:
    how, augmentations, remarks = varied(placed.cut, wanted, digest, copy)
    enlarged = how.scale < 1
    late = enlarged and wanted.upscale not in ("none", "lanczos")
    if late:  # a model enlarges it afterwards: keep its own pixels till then
        box = how.box
        how = Crop(box=box, size=(box[2] - box[0], box[3] - box[1]), pad=False, angle=how.angle, mirrored=how.mirrored)
    picture = draw(found, how, augmentations, wanted.background)
    file = f"{name}{f'+{copy}' if copy else ''}.{wanted.image_format}"
    judged = quality.figures(picture)
    if copy == 0 and judged["sharpness"] < wanted.min_sharpness:
        raise BadPicture(f"sharpness {judged['sharpness']:g} is below --min-sharpness {wanted.min_sharpness:g}")
    encoded = encode(picture, wanted.image_format)
    if into is not None:
        write_bytes(into / file, encoded)
    covered = None if mask is None else draw_mask(mask, how, placed.cut.size)
    if into is not None and covered is not None:
        write_bytes(into / mask_name(file), covered)
    row: dict[str, Any] = {
        "file_name": file,
        "text": "",
        "source_size": list(found.size),
        "crop_box": list(how.box),
        "size": list(placed.cut.size),
        "crop": wanted.crop,
        "cut_off": _cut_off(placed.cut, found.size),
        "augmentations": augmentations,
        "quality": judged,
        "upscaled": enlarged,
        "file_sha256": hashlib.sha256(encoded).hexdigest(),
        "notes": [*remarks, *quality.remarks(judged)],
    }
    if thumb:
        row["thumb"] = thumbs.data_uri(picture)
    if placed.why:
        row["crop_why"] = placed.why
    if placed.figures:
        row["crop_figures"] = placed.figures
    if late:
        row["enlarge_to"] = list(placed.cut.size)
    if covered is not None:
        with Image.open(io.BytesIO(covered)) as drawn:
            row["carried"] = [hashlib.sha256(covered).hexdigest(), mask_share(drawn)]
    return row


def _cut_off(how: Crop, source: tuple[int, int]) -> float:
    left, top, right, bottom = how.box
    return 0.0 if how.pad else round(1 - (right - left) * (bottom - top) / (source[0] * source[1]), 4)


def prepare(
    file: Path,
    into: Path | None,
    name: str,
    *,
    wanted: PrepareSettings,
    known: str | None,
    intact: Callable[[], bool],
    thumb: bool,
    masks: Sequence[Path] = (),
    known_mask: str = "",
) -> dict[str, Any]:
    """Read one source and write its pictures into the folder `into`; nothing is written where that is None.

    known   sha256 of the source when it was last prepared in the same way; where it has not changed and `intact()`
            says that its pictures are still there, nothing is done
    thumb   keep small pictures for the report
    masks   the masks of the source, which are one
    known_mask  as `known`, of the mask; "" for none
    gives   {"same": True}, or the source's record: sha256, look, rows; raises BadPicture
    """
    content = read_file(file)
    digest = hashlib.sha256(content).hexdigest()
    covers = mask_of(masks)
    mask_digest = "" if covers is None else hashlib.sha256(read_file(covers)).hexdigest()
    if (digest, mask_digest) == (known, known_mask) and intact():
        return {"same": True}
    record: dict[str, Any] = {"sha256": digest, "bytes": len(content)}
    record |= {"mask_source": mask_digest} if mask_digest else {}
    spare = 0.7 if {"zoom", "rotate"} & set(wanted.augments) else 1.0
    try:
        found = decode(
            content,
            scale_of=lambda size: scale(size, wanted) * spare,
            background=wanted.background,
            most_pixels=wanted.max_pixels,
            first_frame=wanted.first_frame,
        )
        record |= {"format": found.format, "source_size": list(found.size), "notes": list(found.notes)}
        small = found.image.reduce(max(1, min(found.image.size) // thumbs.SIDE))  # for all that needs no detail
        if thumb:
            record["thumb"] = thumbs.data_uri(small)
        _check(found.size, wanted)
        placed = CROPS[wanted.crop].place(
            PictureView(found.image, found.size, target(found.size, wanted), f"{wanted.seed}/{digest}")
        )
        seen = look(small)
        record |= {"look": f"{seen.bits:016x}", "colours": base64.b85encode(seen.colours).decode()}
        suffix = file.suffix.lower()
        if suffix not in _SUFFIXES.get(found.format, (f".{found.format.lower()}",)):
            record["notes"].append(f"named {suffix}, but is {found.format}")
        mask = None if covers is None else of_file(covers, found.size)
        record["rows"] = [
            _row(found, placed, wanted, name=name, digest=digest, copy=copy, into=into, thumb=thumb, mask=mask)
            for copy in range(wanted.copies)
        ]
    except BadPicture as reason:
        record |= {"reason": str(reason)} | ({"again": True} if isinstance(reason, Unread) else {})
    return record
