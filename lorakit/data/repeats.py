"""How often an epoch shows a picture: what tables and folders named as `10_sks dog` say, as far as it is meant so."""

from collections.abc import Mapping, Sequence

from lorakit.data.faults import Faults
from lorakit.data.pictures import PictureFile
from lorakit.data.tables import MOST_REPEATS, TOO_OFTEN
from lorakit.errors import some
from lorakit.talk import Note

AUTO, KOHYA, NONE = "auto", "kohya", "none"
PLAUSIBLE = 200  # repeats; kohya's are 1 to a few dozen, and a year is more
UNEQUAL = 20  # times as many as another folder's


def times_of(asked: str) -> int | None:
    """How often each picture is asked for; None where names and tables say it. ValueError for what is no such thing."""
    if asked in (AUTO, KOHYA):
        return None
    times = 1 if asked == NONE else int(asked)
    if not 1 <= times <= MOST_REPEATS:
        raise ValueError(asked)
    return times


def repeats_of(
    pictures: Sequence[PictureFile], asked: str, faults: Faults, note: Note, unequal: str = "", dated: str = ""
) -> list[int]:
    """How often an epoch shows each picture, 0 for those that are left out.

    asked       auto, kohya, none or a number: see the option --repeats
    unequal     what to do about folders that differ too much; without it that is a note and no fault
    dated       what to do where a number is none of repeats
    """
    if (times := times_of(asked)) is not None:
        return [times] * len(pictures)
    of_table = [one.row.repeats if one.row is not None else None for one in pictures]
    by_name = [one.number for one, told in zip(pictures, of_table, strict=True) if told is None]
    said = {number.folder: number.times for number in by_name if number is not None}
    most = PLAUSIBLE if asked == AUTO else MOST_REPEATS
    meant = {folder: times for folder, times in said.items() if times <= most}
    if dates := [folder for folder in said if folder not in meant]:
        if asked == AUTO:
            note(f"taken for dates and no repeats: {some(dates, 3)}{dated}")
        for folder in dates if asked == KOHYA else ():
            faults.add(TOO_OFTEN, f"{said[folder]} times (folder '{folder}')")
    if empty := [folder for folder, times in meant.items() if not times]:
        note(f"left out, with 0 for their number: {some(empty, 3)}")
    found = [
        told or (meant.get(one.number.folder, 1) if one.number else 1)
        for one, told in zip(pictures, of_table, strict=True)
    ]
    if asked == AUTO and (apart := _apart(meant, others=len(meant) < len(said) or None in by_name)):
        if unequal:
            faults.add(f"folders would show pictures more than {UNEQUAL} times as often as others; {unequal}", apart)
        else:
            note(f"folders show pictures more than {UNEQUAL} times as often as others: {apart}")
    return found


def _apart(meant: Mapping[str, int], others: bool) -> str:
    """The folders of most and least repeats, where they are too far apart; `others` says that there are pictures that are
    shown once."""
    shown = {folder: times for folder, times in meant.items() if times} | ({"all others": 1} if others else {})
    if not shown or max(shown.values()) <= UNEQUAL * min(shown.values()):
        return ""
    most, least = max(shown, key=shown.__getitem__), min(shown, key=shown.__getitem__)
    return f"{most} ({shown[most]} times) and {least} ({shown[least]})"
