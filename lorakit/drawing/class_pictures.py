"""Class pictures for prior preservation: only missing ones are drawn, each from seed + i alone."""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lorakit.data import dataset, pngtext, quality
from lorakit.data.images import as_written
from lorakit.data.looks import Look, look
from lorakit.data.trigger_words import by_itself
from lorakit.drawing.request import Request
from lorakit.drawing.session import drawing, pictures, settings_of
from lorakit.errors import InputError, RefusedError, StorageError, reason
from lorakit.io.files import check_place, write_bytes, write_text
from lorakit.io.paths import home_folder
from lorakit.io.record import Record, recorded
from lorakit.models.fingerprint import weights_hash
from lorakit.models.load import Components
from lorakit.models.places import base_hash
from lorakit.models.sample import Drawing
from lorakit.runtime.locks import forget, held
from lorakit.runtime.signals import telling
from lorakit.runtime.world import World, place
from lorakit.schedulers import USUAL
from lorakit.talk import Note, Talk, silent

_TABLE = "metadata.jsonl"
_STRIDE = 1_000_003  # to the next seed of the same picture: far from the seeds of all others
_TRIES = 3
_SAME_BITS, _SAME_COLOURS = 2, 1.5  # of two pictures a person would call equal; see data/looks


class Slots:
    """The wanted pictures: number i is drawn of prompt i modulo their count, from seed + i."""

    def __init__(self, request: Request, how: Drawing, output: Path) -> None:
        self.request, self.how, self.output = request, how, output

    def file(self, i: int) -> Path:
        return self.output / f"{i:05d}.png"

    def files(self, i: int) -> tuple[Path, Path]:
        """Its picture and its caption."""
        return self.file(i), self.file(i).with_suffix(".txt")

    def known(self, name: str, listed: bool) -> bool:
        """Whether a file shows by itself that it was drawn here: one that has been damaged, or of an earlier lorakit, which
        kept no record."""
        file = self.output / name
        if file.suffix == ".png" and _is_damaged(file):
            return True
        if listed:
            return False
        if name == _TABLE:
            return _is_ours(file)
        drawn = pngtext.read(file.with_suffix(".png"))
        return drawn is not None and (
            file.suffix == ".png" or file.read_text(encoding="utf-8") == f"{drawn.get('prompt')}\n"
        )

    def prompt(self, i: int) -> str:
        return self.request.prompts[i % len(self.request.prompts)]

    def settings(self, i: int, attempt: int = 0) -> dict[str, Any]:
        seed = self.request.seed + i + attempt * _STRIDE
        return settings_of(self.request, self.how, self.prompt(i), seed, [])

    def attempt(self, i: int) -> int | None:
        """Which attempt at picture i the file there is, None where it was made otherwise or is damaged."""
        found = pngtext.read(self.file(i))
        return next((k for k in range(_TRIES + 1) if found == self.settings(i, k)), None)

    def missing(self) -> tuple[list[int], list[int]]:
        """Numbers of the pictures that are not there, and of those that are there but were made otherwise."""
        absent, other = [], []
        for i in range(self.request.count):
            if not self.file(i).exists():
                absent.append(i)
            elif self.attempt(i) is None:
                other.append(i)
        return absent, other

    def write(self, i: int, attempt: int, picture: np.ndarray) -> None:
        write_text(self.file(i).with_suffix(".txt"), self.prompt(i) + "\n")
        write_bytes(self.file(i), pngtext.encode(picture, self.settings(i, attempt)))  # last: what is there is whole


def _is_damaged(picture: Path) -> bool:
    """Whether a file begins as the pictures do that lorakit draws, and cannot be read to its end."""
    if b"iTXtparameters\0" not in picture.read_bytes()[:200]:
        return False
    try:
        with Image.open(picture, formats=("PNG",)) as opened:
            opened.load()
    except (OSError, SyntaxError, ValueError):
        return True
    return False


def _is_ours(table: Path) -> bool:
    """Whether all lines of a metadata.jsonl are of pictures that prior-gen drew."""
    try:
        rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
        return all(row["source"] == "prior-gen" for row in rows)
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def is_blank(picture: np.ndarray) -> bool:
    """Black, or any one colour: what a decoder makes of NaN, and safety filters of what they refuse."""
    return float(picture.std()) < 1.5


def _nearly_equal(a: Look, b: Look) -> bool:
    if (a.bits ^ b.bits).bit_count() > _SAME_BITS:
        return False
    one, other = (np.frombuffer(x.colours, np.uint8).astype(np.float32) for x in (a, b))
    return float(np.sqrt(np.square(one - other).mean())) <= _SAME_COLOURS


def _draw(components: Components, slots: Slots, todo: Sequence[int], attempt: int, talk: Talk) -> None:
    """Draw these pictures at their `attempt` and write them."""
    jobs = [(slots.prompt(i), slots.request.seed + i + attempt * _STRIDE) for i in todo]
    for done, picture in enumerate(pictures(components, slots.request, slots.how, jobs, talk.note) if jobs else ()):
        slots.write(todo[done], attempt, picture)
        talk.tick(done + 1, len(todo))


def _fault(picture: Image.Image, seen: Look, before: Sequence[Look]) -> str:
    """Why this picture is no use beside those before it; "" where it is."""
    if is_blank(np.asarray(picture)):
        return "blank"
    twin = next((j for j, other in enumerate(before) if _nearly_equal(other, seen)), None)
    return "" if twin is None else f"nearly equal to {twin:05d}.png"


def _redraw(components: Components, slots: Slots, talk: Talk) -> list[dict[str, Any]]:
    """Draw blank pictures and later ones of nearly equal pairs again, from their next seeds; lists what was done.

    It looks at all pictures in order, so that the outcome is the same however they were shared out or cut off.
    """
    looks: list[Look] = []
    redrawn = []
    for i in range(slots.request.count):
        attempt, reason = slots.attempt(i) or 0, ""
        while True:
            picture = as_written(slots.file(i))
            seen = look(picture)
            fault = _fault(picture, seen, looks)
            reason = reason or fault
            if not fault or attempt == _TRIES:
                break
            attempt += 1
            _draw(components, slots, [i], attempt, talk)
        looks.append(seen)
        if fault:
            talk.note(f"{slots.file(i)}: {fault}, after {_TRIES} other seeds too")
        if attempt:
            seed = slots.settings(i, attempt)["seed"]
            redrawn.append({"file": slots.file(i).name, "seed": seed, "reason": reason or "redrawn in an earlier run"})
    return redrawn


def goes_on(request: Request, components: Components, output: Path) -> bool:
    """Whether a folder is for these pictures to be drawn into: it holds no other picture, and lacks some of them."""
    slots = Slots(request, drawing(components, request), output)
    absent, other = slots.missing()
    there = set(dataset.find(output)) if output.is_dir() else set()
    return bool(absent) and not other and there <= {slots.file(i) for i in range(request.count)}


def _without(caption: str, token: str, word: str) -> str:
    """The caption with the class word in the token's place, once: a class word that stands beside the token already, as
    in "sks dog", is not said twice."""
    whole, beside = by_itself(token), f"(?i:{by_itself(word)})"
    pattern = rf"(?:{beside}[\s,]+)?{whole}(?:[\s,]+{beside})?" if word else whole
    return re.sub(pattern, lambda match: word, caption)


def class_prompts(data: Path, token: str, word: str, note: Note = silent) -> list[str]:
    """Class prompts from the captions of a training set: the token taken out, or the class word in its place.

    "a photo of a sks dog on grass" gives "a photo of a dog on grass". Each once, in the order of the pictures.
    """
    found: dict[str, None] = {}
    for example in dataset.read(data, None, note):
        caption = _without(example.caption, token, word) if token else example.caption
        text = " ".join(caption.split()).replace(" ,", ",").strip(" ,")
        if text:
            found[text] = None
    if not found:
        raise InputError(f"--from {data}: its captions hold nothing but the token; name its class with --class-word")
    return list(found)


def _row(slots: Slots, i: int) -> dict[str, Any]:
    file = slots.file(i)
    encoded = file.read_bytes()
    picture = as_written(file)
    return {
        "file_name": file.name,
        "text": slots.prompt(i),
        "seed": slots.settings(i, slots.attempt(i) or 0)["seed"],
        "source": "prior-gen",
        "sha256": hashlib.sha256(encoded).hexdigest(),
        "size": list(picture.size),
        "quality": quality.figures(picture),
        "verdict": "taken",
    }


def run(
    request: Request,
    output: Path,
    components: Components,
    *,
    force: bool,
    dry_run: bool,
    talk: Talk,
    turn: World | None = None,
) -> dict[str, Any]:
    """`count` pictures of the prompts into a folder. Pictures of other settings are refused, or with force drawn anew.

    turn   of several processes over one folder, each draws its own and the first finishes the set; by default as the
           environment says
    """
    turn = turn or place()
    check_place(output)
    slots = Slots(request, drawing(components, request), output)
    absent, other = slots.missing()
    todo = sorted(absent + other)
    Record(output, slots.known).check([_TABLE, *(file.name for i in todo for file in slots.files(i))])
    if other and not force:
        raise RefusedError(
            f"{output} holds {len(other)} pictures made with other settings, such as {other[0]:05d}.png; "
            "choose another folder or draw them anew with --force"
        )
    with (
        held(output, ".lock" if turn.main else f".lock.{turn.rank}", dry_run=dry_run),
        recorded(output, slots.known),
        telling(lambda: _kept(slots)),
    ):
        if dry_run:
            talk.note(f"{len(todo)} pictures would be drawn into {output}")
            return {"outputs": [], "made": len(todo), "kept": request.count - len(todo), "redrawn": None}
        mine = [i for i in todo if turn.mine(i)]
        _draw(components, slots, mine, 0, talk)
        if not turn.main:
            return {"outputs": [str(slots.file(i)) for i in mine], "made": len(mine), "kept": 0, "redrawn": []}
        return _finish(components, slots, todo, turn, talk)


def _kept(slots: Slots) -> str:
    count = sum(slots.file(i).exists() for i in range(slots.request.count))
    return f"{count} of {slots.request.count} pictures are in {slots.output}; the same command goes on from there"


def _finish(components: Components, slots: Slots, todo: list[int], turn: World, talk: Talk) -> dict[str, Any]:
    """What the first process does when its own pictures are drawn: wait for the others, and see that all is there."""
    output, count = slots.output, slots.request.count
    with ExitStack() as others:
        for number in range(1, turn.size):
            others.callback(forget, output, f".lock.{number}")
            others.enter_context(held(output, f".lock.{number}", wait=True))
        left = [i for i in todo if slots.attempt(i) is None]  # of a process that died
        _draw(components, slots, left, 0, talk)
        redrawn = _redraw(components, slots, talk)
    for one in redrawn:
        talk.note(f"{output / one['file']} was drawn from seed {one['seed']}: the first try was {one['reason']}")
    rows = [_row(slots, i) for i in range(count)]
    write_text(output / _TABLE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return {
        "outputs": [str(slots.file(i)) for i in range(count)],
        "made": len(todo),
        "kept": count - len(todo),
        "redrawn": redrawn,
    }


_ELSEWHERE = "name a folder with --prior-dir, or set XDG_CACHE_HOME"


def cache_folder(*, dry_run: bool = False) -> Path:
    """Where lorakit keeps what it can make again: $XDG_CACHE_HOME/lorakit, marked as a cache for backup programs."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(named):  # such a one is not to be heeded, says the standard
        named = os.path.join(home_folder(f"class pictures; {_ELSEWHERE}"), ".cache")
    home = Path(named) / "lorakit"
    tag = home / "CACHEDIR.TAG"
    try:
        if not tag.is_file() and not dry_run:
            write_text(tag, "Signature: 8a477f597d28d172789f06886806bc55\n# made by lorakit; it can be deleted\n")
    except (OSError, StorageError) as error:
        why = error if isinstance(error, OSError) else error.__cause__
        said = reason(why) if isinstance(why, OSError) else error
        raise StorageError(f"class pictures cannot be kept in {home}: {said}; {_ELSEWHERE}") from error
    return home


def prior_set(
    request: Request,
    components: Components,
    *,
    talk: Talk,
    cache: Path | None = None,
    base: str | None = None,
    dry_run: bool = False,
) -> Path:
    """The folder of these class pictures in the cache, filled where it lacks some; for `train --mode dreambooth`.

    Its name is made of all that a picture depends on but its number: model weights and scheduler, the prompts and the negative prompt
    with what the tokenizers make of them, steps, guidance, scheduler, size, seed, dtype and kind of device. A larger
    count goes on where a smaller one ended; who asks for the same set at the same time waits.

    base    `base_hash` of the model, where it is known already
    """
    how = drawing(components, request)
    key: dict[str, Any] = {
        "weights": base or base_hash(components.folder),
        "prompts": list(request.prompts),
        "how": dataclasses.asdict(how),
        "negative": request.negative,
        "seed": request.seed,
        "dtype": str(components.dtype),
        "device": components.device.type,
        "process": components.scheduler_config,
        "ids": [one([*request.prompts, request.negative]).input_ids for one in components.tokenizers.values()],
    }
    del key["how"]["batch_size"]
    if how.spacing == USUAL:
        del key["how"]["spacing"]  # as of the sets that were drawn before there were others
    if components.other_vae:
        key["vae"] = weights_hash([components.vae], components.vae.config.scaling_factor)
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
    home = cache or cache_folder(dry_run=dry_run) / "prior"
    folder = home / name
    # Pictures carry the model's name as it was called; in the cache the weights are the name.
    other = f"weights {key['vae'][:16]}" if components.other_vae else None
    request = dataclasses.replace(request, model=f"weights {key['weights'][:16]}", vae=other)
    with held(home, f".{name}.lock", wait=True, dry_run=dry_run):
        held_now, _ = Slots(request, how, folder).missing()
        if held_now:
            talk.note(f"drawing {len(held_now)} class pictures into {folder}")
            run(request, folder, components, force=True, dry_run=dry_run, talk=talk, turn=World())
        else:
            talk.note(f"the class pictures are there already: {folder}")
    return folder
