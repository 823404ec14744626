"""A finished set looked at as training will see it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lorakit.errors import some
from lorakit.jobs.ppim.settings import Settings

_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "eval"})
_MUCH = 0.35  # share of a picture cut off that deserves a line
_LITTLE = 0.1  # share of a picture under its mask that does


@dataclass(frozen=True, kw_only=True)
class Lint:
    """`lines` for people, and the figures of the report: pictures by drawn size, mean share cut off, how many pictures
    there are and how many have a mask."""

    lines: list[str]
    sizes: dict[str, int]
    cut_off: float
    pictures: int = 0
    masks: int = 0


def count(number: int, what: str) -> str:
    """The number and its thing: "1 picture", "2 pictures"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _split(source: str) -> str:
    first = source.partition("/")[0].lower()
    return first if "/" in source and first in _SPLITS else ""


def leaks(records: Iterable[dict[str, Any]]) -> list[str]:
    """Pictures that stand in one split of RAW and again in another."""
    return [
        f"{record['source']} {record['duplicate_how']} {record['duplicate_of']}"
        for record in records
        if "duplicate_of" in record
        and _split(record["source"]) != _split(record["duplicate_of"])
        and (_split(record["source"]) or _split(record["duplicate_of"]))
    ]


def lint(rows: Iterable[dict[str, Any]], records: Iterable[dict[str, Any]], settings: Settings) -> Lint:
    """Buckets, what is cut off, captions, copies and leaks, in a line each where there is something to say."""
    sizes: Counter[str] = Counter()
    kinds: dict[str, list[str]] = {}
    seen: dict[str, list[str]] = {"empty": [], "tokenless": [], "much": [], "little": [], "whole": []}
    texts: Counter[str] = Counter()
    cut_off, total, masks = 0.0, 0, 0
    for row in rows:
        total += 1
        masks += "mask" in row
        name = row["file_name"]
        sizes["{}x{}".format(*row["size"])] += 1
        cut_off += row["cut_off"]
        texts[row["text"]] += 1
        share = row.get("mask_share", 0.5)
        for kind, hit in (
            ("empty", not row["text"]),
            ("much", row["cut_off"] > _MUCH),
            ("little", settings.mask == "subject" and share < _LITTLE),
            ("whole", settings.mask != "none" and share == 1),
            ("tokenless", bool(settings.token and row["text"]) and settings.token not in row["text"]),
        ):
            if hit and len(seen[kind]) < 1000:
                seen[kind].append(name)
        for note in row["notes"]:
            kinds.setdefault(note, []).append(name)
    lines = [f"{count(len(names), 'picture')}: {note} ({some(names, 3)})" for note, names in sorted(kinds.items())]
    lines += [f"{len(seen['empty'])} of {count(total, 'caption')} are empty: {some(seen['empty'], 3)}"] * bool(
        seen["empty"]
    )
    lines += [
        f"{len(seen['tokenless'])} of {count(total, 'caption')} lack the token '{settings.token}': {some(seen['tokenless'], 3)}"
    ] * bool(seen["tokenless"])
    lines += [
        f"{count(len(seen['much']), 'picture')} cut by more than {_MUCH:.0%}: {some(seen['much'], 3)}; --crop bucket keeps more"
    ] * (bool(seen["much"]))
    lines += [
        f"{count(len(seen['little']), 'mask')} with less than {_LITTLE:.0%} of the picture: {some(seen['little'], 3)}; "
        "is it the subject? --mask-prompt finds it by its name"
    ] * bool(seen["little"])
    lines += [
        f"{count(len(seen['whole']), 'mask')} of the whole picture, where no {settings.mask} was found: {some(seen['whole'], 3)}"
    ] * bool(seen["whole"])
    lonely = sorted(size for size, times in sizes.items() if times == 1)
    if settings.crop == "bucket" and lonely and len(sizes) > 1:
        lines.append(
            f"{count(len(lonely), 'bucket')} with one picture alone, which trains in batches of one: {some(lonely, 3)}"
        )
    if settings.copies > 1:
        lines.append(
            "the changed copies of a picture belong together: a --validation-split of this set would test on what was trained"
        )
    lines += [f"the same picture in two splits: {line}" for line in leaks(records)]
    return Lint(
        lines=lines, sizes=dict(sorted(sizes.items())), cut_off=cut_off / max(1, total), pictures=total, masks=masks
    )
