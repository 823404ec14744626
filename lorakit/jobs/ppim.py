"""A folder of pictures to a training set; only what is new or changed is done again."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lorakit.data import captions, images
from lorakit.errors import InputError, RefusedError
from lorakit.io.files import check_target, existing_folder, write_bytes, write_text
from lorakit.registry import CAPTIONERS
from lorakit.reports.page import Page


@dataclass(frozen=True)
class Settings:
    """What a written picture depends on besides its source."""

    size: tuple[int, int]
    multiple: int
    crop: str
    caption: str
    template: str
    token: str
    image_format: str
    min_size: int
    dedup: bool


@dataclass
class Verdict:
    """What became of one source picture; `reason` is empty where it was taken."""

    source: Path
    name: str
    reason: str = ""
    duplicate_of: str = ""
    row: dict[str, Any] | None = None


def _names(files: list[Path], raw: Path) -> dict[Path, str]:
    """Output names: the path below RAW with dashes for slashes; where two agree, the suffix tells them apart."""
    stems: dict[str, list[Path]] = {}
    for file in files:
        stems.setdefault("-".join(file.relative_to(raw).with_suffix("").parts), []).append(file)
    taken = {}
    for stem, same in stems.items():
        for file in same:
            taken[file] = stem if len(same) == 1 else f"{stem}-{file.suffix[1:].lower()}"
    return taken


def _cut(image: Image.Image, settings: Settings) -> images.Cut:
    if settings.crop == "bucket":
        return images.bucket(image.size, settings.size[0], settings.multiple)
    if settings.crop == "pad":
        return images.Cut((0, 0, *image.size), settings.size, pad=True)
    return images.centre(image.size, settings.size)


def _encode(image: Image.Image, image_format: str) -> bytes:
    data = io.BytesIO()
    if image_format == "jpg":
        image.save(data, "JPEG", quality=95, subsampling=0)
    elif image_format == "webp":
        image.save(data, "WEBP", lossless=True)
    else:
        image.save(data, "PNG")
    return data.getvalue()


def _sharpness(image: Image.Image) -> float:
    """Variance of the Laplacian of the grey picture."""
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    edges = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return round(float(edges.var()), 2) if edges.size else 0.0


def _prepare(file: Path, raw: Path, data: Path, name: str, digest: str, settings: Settings) -> dict[str, Any]:
    image = images.load(file)
    if min(image.size) < settings.min_size:
        raise images.BadPicture(f"{image.width}x{image.height} is smaller than --min-size {settings.min_size}")
    how = _cut(image, settings)
    drawn = images.cut(image, how)
    target = f"{name}.{settings.image_format}"
    write_bytes(data / target, _encode(drawn, settings.image_format))
    return {
        "file_name": target,
        "text": "",
        "source": file.relative_to(raw).as_posix(),
        "source_size": list(image.size),
        "crop_box": list(how.box),
        "size": list(drawn.size),
        "augmentations": [],
        "sha256": digest,
        "sharpness": _sharpness(drawn),
        "upscaled": drawn.width > how.box[2] - how.box[0],
    }


def _caption(file: Path, settings: Settings) -> str:
    own = CAPTIONERS[settings.caption].caption(file)
    return captions.fill(settings.template, own, settings.token) if settings.template else own


def _previous(data: Path) -> dict[str, dict[str, Any]]:
    """Rows of the last run by source path; a damaged manifest counts as none."""
    try:
        lines = (data / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        return {row["source"]: row for row in map(json.loads, lines)}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _verdicts(files: list[Path], raw: Path, data: Path, settings: Settings) -> Iterator[Verdict]:
    old, names, seen = _previous(data), _names(files, raw), dict[str, str]()
    mark = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode()).hexdigest()[:16]
    for file in files:
        verdict = Verdict(file, names[file])
        source = file.relative_to(raw).as_posix()
        try:
            if not file.is_file():
                raise images.BadPicture("not a regular file")
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            if settings.dedup and digest in seen:
                verdict.duplicate_of, verdict.reason = seen[digest], f"the same bytes as {seen[digest]}"
                yield verdict
                continue
            row = old.get(source, {})
            known = row.get("sha256") == digest and row.get("settings") == mark
            if not (known and (data / str(row["file_name"])).is_file()):
                row = _prepare(file, raw, data, names[file], digest, settings)
            verdict.row = {**row, "text": _caption(file, settings), "settings": mark}
            seen[digest] = source
        except images.BadPicture as reason:
            verdict.reason = str(reason)
        except (OSError, UnicodeDecodeError) as error:
            verdict.reason = str(getattr(error, "strerror", None) or error)
        yield verdict


def _write_caption(data: Path, row: dict[str, Any]) -> None:
    file = data / Path(row["file_name"]).with_suffix(".txt")
    if row["text"] and (not file.is_file() or file.read_text(encoding="utf-8") != row["text"] + "\n"):
        write_text(file, row["text"] + "\n")


def _report(data: Path, verdicts: list[Verdict]) -> str:
    page = Page("ppim: training set")
    page.text(f"{sum(v.row is not None for v in verdicts)} pictures taken, {sum(v.row is None for v in verdicts)} not.")
    for verdict in verdicts:
        if verdict.row is None:
            page.figure("data:,", f"{verdict.source.name}: {verdict.reason}", bad=True)
            continue
        row = verdict.row
        box, (width, height) = row["crop_box"], row["source_size"]
        left = 1 - (box[2] - box[0]) * (box[3] - box[1]) / (width * height)
        page.figure(
            row["file_name"],
            f'{row["file_name"]}: "{row["text"]}". From {row["source"]} ({width}x{height}), crop {box}, {left:.0%} cut off'
            + (", enlarged" if row["upscaled"] else ""),
        )
    return page.render()


def run(
    raw: Path, data: Path, settings: Settings, *, force: bool, strict: bool, dry_run: bool,
    tick: Callable[[int, int], None], note: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """Prepare RAW into DATA. A folder that is there and is not ours is refused unless forced."""
    existing_folder(raw, "pictures")
    if data.resolve() == raw.resolve() or raw.resolve() in data.resolve().parents:
        raise InputError(f"{data} lies in {raw}: choose a folder outside, so that the pictures stay as they are")
    ours = not data.exists() or (data.is_dir() and (not any(data.iterdir()) or (data / "metadata.jsonl").is_file()))
    if not ours and not force:
        raise RefusedError(f"{data} exists and was not made by ppim; choose another folder or use --force")
    check_target(data, force=True, folder=True)
    files = images.find(raw)
    if not files:
        raise InputError(f"{raw}: no pictures (png, jpg, webp, bmp, tiff, gif)")
    if dry_run:
        note(f"{len(files)} pictures would be prepared into {data}")
        return {"outputs": [], "read": len(files), "written": 0, "rejected": [], "duplicates": 0}
    data.mkdir(parents=True, exist_ok=True)
    verdicts: list[Verdict] = []
    for verdict in _verdicts(files, raw, data, settings):
        verdicts.append(verdict)
        if verdict.row is not None:
            _write_caption(data, verdict.row)
        else:
            note(f"{verdict.source}: {verdict.reason}")
        tick(len(verdicts), len(files))
    rows = [verdict.row for verdict in verdicts if verdict.row is not None]
    rejected = [{"file": str(v.source), "reason": v.reason} for v in verdicts if v.row is None and not v.duplicate_of]
    if not rows:
        raise InputError(
            f"{raw}: none of {len(files)} pictures can be used; the first: {verdicts[0].source.name} ({verdicts[0].reason})"
        )
    if strict and rejected:
        raise InputError(
            f"{len(rejected)} pictures cannot be used (--strict): {rejected[0]['file']} ({rejected[0]['reason']})"
        )
    write_text(data / "metadata.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_text(data / "report.html", _report(data, verdicts))
    return {
        "outputs": [str(data)],
        "read": len(files),
        "written": len(rows),
        "rejected": rejected,
        "duplicates": sum(bool(v.duplicate_of) for v in verdicts),
    }
