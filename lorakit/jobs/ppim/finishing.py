"""What is made from the prepared pictures: enlargement by a model, masks, captions. Each only where it is lacking."""

import hashlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from lorakit import captioners, masks
from lorakit.captioners import BadCaption, Caption, Shown
from lorakit.data import quality, thumbs
from lorakit.data.caption_rules import clean, replace
from lorakit.data.captions import fill
from lorakit.data.faces import need_opencv
from lorakit.data.images import as_written
from lorakit.data.mask_files import mask_name
from lorakit.data.prepare import encode, mask_share
from lorakit.data.trigger_words import contains
from lorakit.jobs.ppim.keeping import Keeper, caption_file, caption_in, is_odd, mask_file
from lorakit.jobs.ppim.manifest import Manifest
from lorakit.jobs.ppim.reading import CARRIED, RawPicture
from lorakit.jobs.ppim.settings import Settings, marked
from lorakit.jobs.ppim.table import forget_text
from lorakit.registry import CAPTIONERS, MASKS
from lorakit.talk import Tick


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


def caption_how(settings: Settings) -> captioners.CaptionerSettings:
    return captioners.CaptionerSettings(
        model=settings.caption_model,
        base=settings.base_model,
        device=settings.device,
        dtype=settings.dtype,
        vocabulary=settings.caption_vocabulary,
        threshold=settings.caption_threshold,
        encoding=settings.caption_encoding,
    )


def mask_how(settings: Settings) -> masks.MaskSettings:
    return masks.MaskSettings(settings.mask_prompt, settings.mask_model, settings.device, settings.dtype)


def _taken(given: Iterable[RawPicture], manifest: Manifest) -> Iterator[tuple[RawPicture, dict[str, Any]]]:
    for source in given:
        record = manifest.get(source.key)
        if record.get("rows"):
            yield source, record


def enlarge(given: list[RawPicture], settings: Settings, keeper: Keeper, tick: Tick) -> None:
    """Where a picture must grow and a model was asked for: it grows, and is drawn at its size."""
    if settings.upscale in ("none", "lanczos"):
        return
    data, manifest = keeper.data, keeper.manifest
    todo = [source for source, record in _taken(given, manifest) if any("enlarge_to" in row for row in record["rows"])]
    if not todo:
        return
    from lorakit.models.upscale import load

    grow = load(settings.upscale_model, settings.device, settings.dtype)
    if keeper.dry_run:
        keeper.unmade = True
        return
    for number, (source, record) in enumerate(_taken(todo, manifest)):
        for row in record["rows"]:
            if "enlarge_to" not in row:
                continue
            size = tuple(row.pop("enlarge_to"))
            picture = grow(as_written(data / row["file_name"]), size)
            encoded = encode(picture, settings.image_format)
            if "thumb" in row:
                row["thumb"] = thumbs.data_uri(picture)
            row["file_before"] = row["file_sha256"]
            row |= {"file_sha256": hashlib.sha256(encoded).hexdigest(), "quality": quality.figures(picture)}
            row["upscaled_by"] = settings.upscale
            manifest.put(source.key, record)
            keeper.write(data / row["file_name"], encoded)
        tick(number + 1, len(todo))


def repeat(given: list[RawPicture], keeper: Keeper) -> None:
    """Note in the rows how often an epoch is to show their pictures, where that is not once."""
    for source, record in _taken(given, keeper.manifest):
        wanted = {"repeats": source.repeats} if source.repeats != 1 else {}
        changed = [row for row in record["rows"] if {k: row[k] for k in ("repeats",) if k in row} != wanted]
        for row in changed:
            row.pop("repeats", None)
            row |= wanted
        if changed:
            keeper.manifest.put(source.key, record)


class Masking:
    """A mask beside each picture where one is asked for, or where the source has one, which is carried over. Masks that a
    person has changed or made stay, and so do ours where this run leaves out an option that made them."""

    def __init__(self, settings: Settings, keeper: Keeper) -> None:
        self.settings, self.keeper, self.how = settings, keeper, mask_how(settings)
        wanted = settings.mask != "none"
        self.mark = marked([settings.mask, MASKS[settings.mask].identity(self.how)]) if wanted else ""

    def run(self, given: list[RawPicture], tick: Tick) -> None:
        keeper, todo = self.keeper, []
        for source, record in _taken(given, keeper.manifest):
            before = [dict(row) for row in record["rows"]]
            if not self.mark:
                self._carry(source, record)
            verdicts = [self._verdict(row, bool(record.get("mask_source"))) for row in record["rows"]]
            if record["rows"] != before:
                keeper.manifest.put(source.key, record)
            if any(verdicts):
                todo.append(source)
        if not todo:
            return
        make = MASKS[self.settings.mask].load(self.how)
        if keeper.dry_run:
            keeper.unmade = True
            return
        done = 0
        for some in _batches(todo, self.settings.batch_size):
            self._make(some, make)
            done += len(some)
            tick(done, len(todo))

    def _make(self, some: list[RawPicture], make: masks.Make) -> None:
        data, manifest = self.keeper.data, self.keeper.manifest
        records = [(source, manifest.get(source.key)) for source in some]
        rows = [row for _, record in records for row in record["rows"] if self._verdict(row, carried=False)]
        made = make([as_written(data / row["file_name"]) for row in rows])
        coming = []
        for row, mask in zip(rows, made, strict=True):
            file = mask_file(data / row["file_name"])
            encoded = _mask_bytes(mask)
            share = mask_share(mask)
            row |= {
                "mask": file.name,
                "mask_before": row.get("mask_sha256"),
                "mask_mark": [self.mark, row["file_sha256"]],
                "mask_sha256": hashlib.sha256(encoded).hexdigest(),
                "mask_share": share,
                "masked_with": self.settings.mask_options,
            }
            coming.append((file, encoded))
        for source, record in records:
            manifest.put(source.key, record)
        for file, encoded in coming:
            self.keeper.write(file, encoded)

    def _carry(self, source: RawPicture, record: dict[str, Any]) -> None:
        """Bring the masks that wait in the staging folder to their places."""
        keeper = self.keeper
        coming = [row for row in record["rows"] if "carried" in row and self._may_come(row)]
        for row in coming:
            sha256, share = row["carried"]
            row |= {
                "mask": mask_name(row["file_name"]),
                "mask_before": row.get("mask_sha256"),
                "mask_mark": CARRIED,
                "mask_sha256": sha256,
                "mask_share": share,
                "masked_with": [],
            }
        if coming:
            keeper.manifest.put(source.key, record)
        for row in coming:
            keeper.move_in(row["mask"])
        for row in record["rows"]:
            row.pop("carried", None)

    def _may_come(self, row: dict[str, Any]) -> bool:
        file = mask_file(self.keeper.data / row["file_name"])
        state = self.keeper.state(file, row.get("mask_sha256"), row.get("mask_before"))
        if state == "ours" and row.get("masked_with") and not self.keeper.force:
            return False
        return self.keeper.may_replace(state)

    def _verdict(self, row: dict[str, Any], carried: bool) -> bool:
        """Whether the mask of a row is to be made; one that stays is counted, one that is there no more is forgotten.

        carried     whether the source has a mask, which is ours as it was carried over
        """
        keeper, file = self.keeper, mask_file(self.keeper.data / row["file_name"])
        row.pop("carried", None)
        state = keeper.state(file, row.get("mask_sha256"), row.get("mask_before"))
        if carried and row.get("mask_mark") == CARRIED and (state == "ours" or keeper.dry_run):
            return False
        if self.mark:
            if state == "ours" and row.get("mask_mark") == [self.mark, row["file_sha256"]]:
                return False
            left_out = set(row.get("masked_with", ())) - set(self.settings.mask_options)
            if state == "absent" or (state == "ours" and not left_out) or (state != "theirs" and keeper.force):
                return True
        elif state == "absent" or (keeper.force and state != "theirs"):
            if state != "absent":
                keeper.remove(file)
            for key in ("mask", "mask_before", "mask_mark", "mask_sha256", "mask_share", "masked_with"):
                row.pop(key, None)
            return False
        row["mask"] = file.name
        if state != "theirs":
            keeper.stays("masks", file.name)
        return False


def _batches(items: list[RawPicture], size: int) -> Iterator[list[RawPicture]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _mask_bytes(mask: Image.Image) -> bytes:
    data = io.BytesIO()
    mask.save(data, "PNG", compress_level=6)
    return data.getvalue()


class Captioning:
    """Captions of all taken pictures, by rules that leave alone what people wrote.

    A caption that ppim wrote and nobody has changed is written anew where this run gives all options that made it, or
    with `force`; it is never emptied because an option is left out.
    """

    def __init__(self, raw: Path, settings: Settings, keeper: Keeper) -> None:
        self.raw, self.settings, self.keeper = raw, settings, keeper
        self.data, self.manifest = keeper.data, keeper.manifest
        self.how = caption_how(settings)
        self.part = CAPTIONERS[settings.caption]
        self.light = getattr(self.part, "LIGHT", False)
        self.mark = settings.caption if self.light else marked([settings.caption, self.part.identity(self.how)])
        self.by_hand = 0
        self.left_out: set[str] = set()  # options that made captions which stay, and that this run does not give

    def _text(self, own: str) -> str:
        """What is made of the captioner's words; of several captions, of each."""
        return "\n".join(dict.fromkeys(map(self._line, own.split("\n"))))

    def _line(self, own: str) -> str:
        settings = self.settings
        if not self.light and settings.caption_clean:
            own = clean(own)
        own = replace(own, settings.caption_replace)
        return fill(settings.template, own, settings.token) if settings.template else own

    def _shown(self, source: RawPicture, record: dict[str, Any]) -> Shown:
        beside = [self.raw / file for file in source.captions]
        return Shown(self.raw / source.path, self.data / record["rows"][0]["file_name"], beside, source.told)

    def _asked(self, given: list[RawPicture], tick: Tick) -> Iterator[tuple[RawPicture, Caption]]:
        """The captioner's own words for each picture: asked anew where they cost nothing or may have changed."""
        say = None
        todo: list[RawPicture] = []
        for source, record in _taken(given, self.manifest):
            picture = record["rows"][0]["file_sha256"]
            if self.light:
                say = say or self.part.load(self.how)
                try:
                    yield source, say([self._shown(source, record)])[0]
                except BadCaption as reason:
                    self._reject(source, record, str(reason))
            elif record.get("captioned") == [self.mark, picture]:
                yield source, Caption(record["own"])
            else:
                todo.append(source)
        if todo and say is None:
            say = self.part.load(self.how)
        if todo and self.keeper.dry_run:  # there may be no pictures yet that a model could look at
            self.keeper.unmade = True
            return
        for start in range(0, len(todo), self.settings.batch_size):
            some = todo[start : start + self.settings.batch_size]
            records = [self.manifest.get(source.key) for source in some]
            said = say([self._shown(s, r) for s, r in zip(some, records, strict=True)])  # type: ignore[misc]
            for source, record, text in zip(some, records, said, strict=True):
                captioned = [self.mark, record["rows"][0]["file_sha256"]]
                self.manifest.put(source.key, {**record, "own": text.text, "captioned": captioned})
                yield source, text
            tick(min(len(todo), start + len(some)), len(todo))

    def _reject(self, source: RawPicture, record: dict[str, Any], reason: str) -> None:
        """Leave a picture out whose caption cannot be read; one that has a caption already stays as it is."""
        rows, keeper = record["rows"], self.keeper
        if any(row["text"] for row in rows) and not keeper.force:
            for row in rows:
                keeper.stays("captions", caption_file(self.data / row["file_name"]).name)
            self.manifest.put(source.key, {**record, "caption_notes": [reason]})
            return
        del record["rows"]
        if any("captioned_with" in row for row in rows):
            record["former"] = [*record.get("former", ()), *rows]
        else:  # prepared in this very run
            for row in rows:
                keeper.remove_row(row)
        self.manifest.put(source.key, {**record, "reason": reason, "again": True})

    def run(self, given: list[RawPicture], tick: Tick) -> None:
        """Write what is new or changed."""
        for source, text in self._asked(given, tick):
            record = self.manifest.get(source.key)
            before = [dict(row) for row in record["rows"]]
            writing = [self._settle(row, self._text(text.text)) for row in record["rows"]]
            for row in record["rows"]:
                self._note_token(row)
            noted = record.get("caption_notes")
            record["caption_notes"] = list(text.notes)
            if record["rows"] != before or noted != record["caption_notes"]:
                self.manifest.put(source.key, record)
            for row, to_write in zip(record["rows"], writing, strict=True):
                if to_write:
                    self._write(caption_file(self.data / row["file_name"]), row["text"])

    def _write(self, file: Path, text: str) -> None:
        if text:
            self.keeper.write(file, (text + "\n").encode())
        else:
            self.keeper.remove(file)

    def _note_token(self, row: dict[str, Any]) -> None:
        """Note the token, by which training knows the trigger word, as long as the caption has it."""
        token = self.settings.token or row.get("token", "")
        if token and contains(row["text"], token):
            row["token"] = token
        else:
            row.pop("token", None)

    def _settle(self, row: dict[str, Any], text: str) -> bool:
        """Bring a row to the caption `text`, unless the one that is there stays; gives whether its file is to be written."""
        file, old = caption_file(self.data / row["file_name"]), row["text"]
        there, options = caption_in(file), self.settings.caption_options
        edited = there is not None and there not in (old, row.get("text_before"), text or old)
        if not self.keeper.force and (edited or ((row.get("by_hand") or is_odd(file)) and there is not None)):
            if there != old:
                forget_text(row)
            row |= {"text": there, "by_hand": True}
            self.by_hand += 1
            self.keeper.stays("captions", file.name)
            return False
        left_out = set(row.get("captioned_with", ())) - set(options)
        if not self.keeper.force and there and there != text and (left_out or not text):
            row["text"] = there
            self.left_out |= left_out
            self.keeper.stays("captions", file.name)
            return False
        row.pop("by_hand", None)
        row |= {"text": text, "captioned_with": options}
        if text != old:
            row["text_before"] = old
        return there != text if text else bool(there)
