"""Which files belong to which picture, by their names alone: captions and masks.

`a.txt`, `a.caption`, `a.png.txt` and `a.png.caption` are captions of `a.png`; `a.mask.png`, `a-masklabel.png` (as
OneTrainer names them) and the same after `a.png` are its masks, in any format that pictures are read in. The case of the
endings makes no difference; that of the rest does where there are files to tell apart.
"""

import os
from collections.abc import Iterable, Mapping, Sequence

CAPTIONS = (".txt", ".caption")
_MASKS = (".mask", "-masklabel")
_PERHAPS = ("_mask", "-mask", "_masklabel", ".masklabel")  # what people and other programs call a mask too


def _without(name: str, endings: Iterable[str]) -> str | None:
    """The name without the first of the endings that it has, in any case; None where it has none, or is nothing else."""
    lower = name.lower()
    return next((name[: -len(end)] for end in endings if lower.endswith(end) and len(name) > len(end)), None)


def captioned(name: str) -> str | None:
    """Whose caption a file is: `a` or `a.png`; None for a file that is none."""
    return _without(name, CAPTIONS)


def masked(name: str) -> str | None:
    """Whose mask a picture file is: `a` or `a.png`; None for a picture that is none."""
    return _without(os.path.splitext(name)[0], _MASKS)


def perhaps_masked(name: str) -> str | None:
    """The same for names that a mask may have and a photograph too."""
    return _without(os.path.splitext(name)[0], _PERHAPS)


def owners(pictures: Sequence[str], beside: Mapping[str, str]) -> dict[str, list[str]]:
    """What belongs to each picture of a folder.

    beside  name of a file to what it says it belongs to, a picture's name with or without its ending
    gives   picture to names, where it has any. What fits no picture to the letter belongs to those that it fits but for
            the case of letters, where these have nothing of their own: files of Windows name one another so
    """
    exact: dict[str, list[str]] = {}
    for name, of in beside.items():
        exact.setdefault(of, []).append(name)
    found = {p: names for p in pictures if (names := [n for of in _names(p) for n in exact.get(of, ())])}
    taken = {name for names in found.values() for name in names}
    loose: dict[str, list[str]] = {}
    for name, of in beside.items():
        if name not in taken:
            loose.setdefault(of.casefold(), []).append(name)
    for picture in pictures if loose else ():
        if picture not in found and (names := [n for of in _names(picture) for n in loose.get(of.casefold(), ())]):
            found[picture] = names
    return found


def _names(picture: str) -> tuple[str, str]:
    return os.path.splitext(picture)[0], picture
