"""What is wrong with a training set, all of it, before the first step."""

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lorakit.data import masks
from lorakit.data.dataset import Example, size_of
from lorakit.data.images import MOST_PIXELS, BadPicture, load, read_file
from lorakit.errors import some

_BITS_APART = 6  # of 64 in the hash, for two pictures to look alike
_GREY_APART = 6.0  # of 255, the mean over their thumbnails


@dataclass(frozen=True)
class Print:
    """What a picture is told from others by: its file's sha256, and its look.

    bits    64 of them, in eight bytes: whether each of 8x8 places is lighter than the one to its right
    small   [8, 8, 3] uint8, the picture in 64 pixels
    """

    digest: str
    size: tuple[int, int]
    bits: int
    small: np.ndarray


@dataclass(frozen=True)
class Finding:
    """One kind of fault and the files that have it; pictures that belong together are joined by ` = `."""

    text: str
    files: tuple[str, ...]
    error: bool = False

    def __str__(self) -> str:
        return f"{self.text}: {some(self.files, 5)}"


@dataclass(frozen=True)
class Linted:
    """All findings, errors first; `prints` by example, None where it could not be read; `alike`, pairs of examples."""

    findings: tuple[Finding, ...]
    prints: tuple[Print | None, ...]
    alike: tuple[tuple[int, int], ...]

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.error]


def print_of(image: Image.Image, digest: str) -> Print:
    """The difference hash of a picture (Krawetz, 2013), upright RGB."""
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = np.packbits(grey[:, :-1] > grey[:, 1:])
    small = np.asarray(image.resize((8, 8), Image.Resampling.BOX))
    return Print(digest, image.size, int.from_bytes(bits.tobytes(), "big"), small)


def _look(file: Path, data: bytes) -> Image.Image:
    """The picture in `data`, whole or reduced. A JPEG is decoded at an eighth, in a fraction of the time, and still to its
    end."""
    faults = (OSError, ValueError, SyntaxError)  # `load` tells them in words
    with suppress(*faults), Image.open(io.BytesIO(data), formats=("JPEG",)) as opened:
        if opened.width * opened.height <= MOST_PIXELS:
            opened.draft("RGB", (64, 64))
            return ImageOps.exif_transpose(opened).convert("RGB")
    return load(file)


def _read(example: Example) -> Print | str:
    """Its print, or why it cannot be used."""
    try:
        data = read_file(example.file)
        image = _look(example.file, data)
        size = size_of(example.file) or image.size
        if example.mask is not None:
            masks.of_file(example.mask, size)
        return replace(print_of(image, hashlib.sha256(data).hexdigest()), size=size)
    except BadPicture as reason:
        return str(reason)


def alike(prints: Sequence[Print | None]) -> list[tuple[int, int]]:
    """Pairs (i < j) of pictures that look the same but for size, quality or a slight change; copies among them.

    The hash finds them, the thumbnails confirm: plain and dark pictures have equal hashes without being alike. All pairs
    are looked at: 5,000 pictures take about a quarter of a second.
    """
    there = [i for i, one in enumerate(prints) if one is not None]
    bits = np.array([one.bits for one in prints if one is not None], np.uint64)
    small = np.array([one.small for one in prints if one is not None], np.float32)
    pairs = []
    for start in range(0, len(bits), 512):
        apart = np.bitwise_count(bits[start : start + 512, None] ^ bits[None])
        rows, columns = np.nonzero(apart <= _BITS_APART)
        later = columns > rows + start
        for i, j in zip((rows[later] + start).tolist(), columns[later].tolist(), strict=True):
            if np.abs(small[i] - small[j]).mean() <= _GREY_APART:
                pairs.append((there[i], there[j]))
    return pairs


def _groups(pairs: Sequence[tuple[int, int]], names: Sequence[str]) -> tuple[str, ...]:
    """Names of pictures that hang together, each group in one string."""
    group = list(range(len(names)))
    for i, j in sorted(pairs):
        low, high = sorted((group[i], group[j]))
        group = [low if g == high else g for g in group] if low != high else group
    members: dict[int, list[str]] = {}
    for i, g in enumerate(group):
        members.setdefault(g, []).append(names[i])
    return tuple(" = ".join(several) for several in members.values() if len(several) > 1)


def _count(files: tuple[str, ...], noun: str, rest: str) -> str:
    return f"{len(files)} {noun}{'s' * (len(files) != 1)} {rest}"


def _of_captions(examples: Sequence[Example], tokens: Sequence[str]) -> list[Finding]:
    found = []
    empty = tuple(e.file.name for e in examples if not all(caption.strip() for caption in e.captions))
    if empty:
        found.append(Finding(_count(empty, "picture", "with an empty caption"), empty, error=True))
    for token in tokens:
        lacking = tuple(e.file.name for e in examples if not all(token in caption for caption in e.captions))
        if lacking and len(lacking) == len(examples):
            found.append(Finding(f"no caption has {token}", lacking, error=True))
        elif lacking:
            found.append(Finding(_count(lacking, "caption", f"without {token}"), lacking))
    return found


def lint(examples: Sequence[Example], side: int, tokens: Sequence[str] = (), workers: int = 2) -> Linted:
    """Look at every picture and caption.

    side    pixels of the square to train at; a picture with fewer pixels is trained on smaller, or enlarged
    tokens  the placeholder tokens; captions should have each

    Errors are pictures and masks that cannot be used, empty captions, and a token no caption has.
    """
    names = [example.file.name for example in examples]
    with ThreadPoolExecutor(workers) as pool:
        read = list(pool.map(_read, examples))
    prints = tuple(one if isinstance(one, Print) else None for one in read)
    bad = tuple(f"{name} ({one})" for name, one in zip(names, read, strict=True) if isinstance(one, str))
    findings = [Finding(_count(bad, "picture", "not usable"), bad, error=True)] if bad else []
    findings += _of_captions(examples, tokens)
    pairs = alike(prints)
    copies = [(i, j) for i, j in pairs if _digest(prints[i]) == _digest(prints[j])]
    near = sorted(set(pairs) - set(copies))
    tiny = tuple(
        f"{name} ({one.size[0]}x{one.size[1]})"
        for name, one in zip(names, prints, strict=True)
        if one is not None and one.size[0] * one.size[1] < side * side
    )
    flat = tuple(
        n for n, one in zip(names, prints, strict=True) if one is not None and np.ptp(one.small, axis=(0, 1)).max() == 0
    )
    changed = tuple(
        example.file.name
        for example, one in zip(examples, prints, strict=True)
        if one is not None and example.written not in ("", one.digest)
    )
    for noun, text, files in (
        ("picture", "changed since ppim wrote it, which ppim leaves as it is", changed),
        ("group", "of the same picture, which counts as often as it is there", _groups(copies, names)),
        ("group", "of pictures that look the same", _groups(near, names)),
        ("picture", f"of fewer pixels than {side}x{side}", tiny),
        ("picture", "of one colour", flat),
    ):
        if files:
            findings.append(Finding(_count(files, noun, text), files))
    findings.sort(key=lambda finding: not finding.error)
    return Linted(tuple(findings), prints, tuple(pairs))


def _digest(one: Print | None) -> str:
    return "" if one is None else one.digest
