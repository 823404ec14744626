"""What is made from the prepared pictures: enlargement by a model, masks, captions. Each only where it is lacking."""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from lorakit import captioners, masks
from lorakit.captioners import BadCaption, Shown, Text
from lorakit.data import quality, thumbs
from lorakit.data.caption_rules import clean, replace
from lorakit.data.captions import fill
from lorakit.data.faces import need_opencv
from lorakit.data.images import as_written
from lorakit.data.prepare import encode
from lorakit.data.trigger_words import contains
from lorakit.io.files import write_bytes, write_text
from lorakit.jobs.ppim.manifest import Manifest
from lorakit.jobs.ppim.reading import Source, remove
from lorakit.jobs.ppim.settings import Settings, marked
from lorakit.registry import CAPTIONERS, MASKS

Tick = Callable[[int, int], None]


def need(settings: Settings) -> None:
    """Before any work: is what the finishing asks for to be had? UnavailableError or UsageError where it is not."""
    from lorakit.models.fetch import folder_of

    part, how = CAPTIONERS[settings.caption], caption_how(settings)
    if not getattr(part, "LIGHT", False):
        folder_of(part.name_of(how), "--caption-model")
    if settings.mask == "subject" and mask_how(settings).by_words:
        folder_of(settings.mask_model or MASKS["subject"].CLIPSEG, "--mask-model")
    elif settings.mask != "none":
        need_opencv(f"--mask {settings.mask}")


def caption_how(settings: Settings) -> captioners.How:
    return captioners.How(
        settings.caption_model, settings.base_model, settings.device, settings.dtype, settings.caption_vocabulary,
        settings.caption_threshold, settings.caption_encoding,
    )  # fmt: skip


def mask_how(settings: Settings) -> masks.How:
    return masks.How(settings.mask_prompt, settings.mask_model, settings.device, settings.dtype)


def _taken(given: Iterable[Source], manifest: Manifest) -> Iterator[tuple[Source, dict[str, Any]]]:
    for source in given:
        record = manifest.get(source.key)
        if record.get("rows"):
            yield source, record


def enlarge(given: list[Source], data: Path, settings: Settings, manifest: Manifest, tick: Tick) -> None:
    """Where a picture must grow and a model was asked for: it grows, and is drawn at its size."""
    if settings.upscale in ("none", "lanczos"):
        return
    todo = [source for source, record in _taken(given, manifest) if any("enlarge_to" in row for row in record["rows"])]
    if not todo:
        return
    from lorakit.models.upscale import load

    grow = load(settings.upscale_model, settings.device, settings.dtype)
    for number, (source, record) in enumerate(_taken(todo, manifest)):
        for row in record["rows"]:
            if "enlarge_to" not in row:
                continue
            size = tuple(row.pop("enlarge_to"))
            picture = grow(as_written(data / row["file_name"]), size)
            encoded = encode(picture, settings.image_format)
            write_bytes(data / row["file_name"], encoded)
            if "thumb" in row:
                row["thumb"] = thumbs.data_uri(picture)
            row |= {"file_sha256": hashlib.sha256(encoded).hexdigest(), "quality": quality.figures(picture)}
            row["upscaled_by"] = settings.upscale
        manifest.put(source.key, record)
        tick(number + 1, len(todo))


def _mask_is_whole(data: Path, row: dict[str, Any], mark: str) -> bool:
    if row.get("mask_mark") != [mark, row["file_sha256"]]:
        return False
    try:
        return hashlib.sha256((data / row["mask"]).read_bytes()).hexdigest() == row["mask_sha256"]
    except OSError:
        return False


def cover(given: list[Source], data: Path, settings: Settings, manifest: Manifest, tick: Tick) -> None:
    """A mask beside each picture, or none where none is asked for."""
    how = mask_how(settings)
    mark = marked([settings.mask, MASKS[settings.mask].identity(how)]) if settings.mask != "none" else ""
    todo = []
    for source, record in _taken(given, manifest):
        stale = [row for row in record["rows"] if "mask" in row and not mark]
        for row in stale:
            (data / row["mask"]).unlink(missing_ok=True)
            for key in ("mask", "mask_mark", "mask_sha256", "mask_share"):
                row.pop(key, None)
        if stale:
            manifest.put(source.key, record)
        if mark and not all(_mask_is_whole(data, row, mark) for row in record["rows"]):
            todo.append(source)
    if not todo:
        return
    make = MASKS[settings.mask].load(how)
    done = 0
    for some in _batches(todo, settings.batch_size):
        records = [(source, manifest.get(source.key)) for source in some]
        rows = [row for _, record in records for row in record["rows"]]
        made = make([as_written(data / row["file_name"]) for row in rows])
        for row, mask in zip(rows, made, strict=True):
            name = f"{Path(row['file_name']).stem}.mask.png"
            encoded = _mask_bytes(mask)
            write_bytes(data / name, encoded)
            share = round(sum(i * n for i, n in enumerate(mask.histogram())) / 255 / (mask.width * mask.height), 4)
            row |= {
                "mask": name, "mask_mark": [mark, row["file_sha256"]],
                "mask_sha256": hashlib.sha256(encoded).hexdigest(), "mask_share": share,
            }  # fmt: skip
        for source, record in records:
            manifest.put(source.key, record)
        done += len(some)
        tick(done, len(todo))


def _batches(items: list[Source], size: int) -> Iterator[list[Source]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _mask_bytes(mask: Image.Image) -> bytes:
    data = io.BytesIO()
    mask.save(data, "PNG", compress_level=6)
    return data.getvalue()


class Captioning:
    """Captions of all taken pictures, by rules that leave what people wrote alone."""

    def __init__(self, raw: Path, data: Path, settings: Settings, manifest: Manifest, force: bool) -> None:
        self.raw, self.data, self.settings, self.manifest, self.force = raw, data, settings, manifest, force
        self.how = caption_how(settings)
        self.part = CAPTIONERS[settings.caption]
        self.light = getattr(self.part, "LIGHT", False)
        self.mark = settings.caption if self.light else marked([settings.caption, self.part.identity(self.how)])

    def _text(self, own: str) -> str:
        settings = self.settings
        if not self.light and settings.caption_clean:
            own = clean(own)
        own = replace(own, settings.caption_replace)
        return fill(settings.template, own, settings.token) if settings.template else own

    def _shown(self, source: Source, record: dict[str, Any]) -> Shown:
        return Shown(self.raw / source.path, self.data / record["rows"][0]["file_name"])

    def _asked(self, given: list[Source], tick: Tick) -> Iterator[tuple[Source, Text]]:
        """The captioner's own words for each picture: asked anew where they cost nothing or may have changed."""
        say = None
        todo: list[Source] = []
        for source, record in _taken(given, self.manifest):
            picture = record["rows"][0]["file_sha256"]
            if self.light:
                say = say or self.part.load(self.how)
                try:
                    yield source, say([self._shown(source, record)])[0]
                except BadCaption as reason:
                    self._reject(source, record, str(reason))
            elif record.get("captioned") == [self.mark, picture]:
                yield source, Text(record["own"])
            else:
                todo.append(source)
        if todo and say is None:
            say = self.part.load(self.how)
        for start in range(0, len(todo), self.settings.batch_size):
            some = todo[start : start + self.settings.batch_size]
            records = [self.manifest.get(source.key) for source in some]
            said = say([self._shown(s, r) for s, r in zip(some, records, strict=True)])  # type: ignore[misc]
            for source, record, text in zip(some, records, said, strict=True):
                captioned = [self.mark, record["rows"][0]["file_sha256"]]
                self.manifest.put(source.key, {**record, "own": text.text, "captioned": captioned})
                yield source, text
            tick(min(len(todo), start + len(some)), len(todo))

    def _reject(self, source: Source, record: dict[str, Any], reason: str) -> None:
        for row in record.pop("rows"):
            remove(self.data, row, keep_text=bool(row.get("by_hand")))
        self.manifest.put(source.key, {**record, "reason": reason, "again": True})

    def run(self, given: list[Source], tick: Tick) -> int:
        """Write what is new or changed; gives how many captions were left as people have written them."""
        by_hand = 0
        for source, text in self._asked(given, tick):
            record = self.manifest.get(source.key)
            before = [dict(row) for row in record["rows"]]
            for row in record["rows"]:
                by_hand += self._settle(row, self._text(text.text))
                self._note_token(row)
            noted = record.get("caption_notes")
            record["caption_notes"] = list(text.notes)
            if record["rows"] != before or noted != record["caption_notes"]:
                self.manifest.put(source.key, record)
        return by_hand

    def _note_token(self, row: dict[str, Any]) -> None:
        """Note the token, by which training knows the trigger word, as long as the caption has it."""
        token = self.settings.token or row.get("token", "")
        if token and contains(row["text"], token):
            row["token"] = token
        else:
            row.pop("token", None)

    def _settle(self, row: dict[str, Any], text: str) -> bool:
        """Bring the caption's file to `text`, unless someone has written another one there."""
        file = (self.data / row["file_name"]).with_suffix(".txt")
        try:
            there = " ".join(file.read_text(encoding="utf-8-sig").split())
        except FileNotFoundError:
            there = None
        except (OSError, UnicodeDecodeError):
            there = ""
        edited = there is not None and there != row["text"] and there != text
        if not self.force and (edited or (row.get("by_hand") and there is not None)):
            row |= {"text": there, "by_hand": True}
            return True
        row.pop("by_hand", None)
        row["text"] = text
        if not text:
            file.unlink(missing_ok=True)
        elif there != text:
            write_text(file, text + "\n")
        return False
