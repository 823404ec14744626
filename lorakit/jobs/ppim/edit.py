"""All captions in one text file, in the editor of the user's choice, and back."""

import os
import subprocess
from pathlib import Path
from typing import Any

from lorakit.data.caption_files import one_line
from lorakit.errors import InputError, UsageError, some
from lorakit.io.files import write_text
from lorakit.jobs.ppim.keeping import caption_file
from lorakit.jobs.ppim.lint import count
from lorakit.jobs.ppim.manifest import Manifest
from lorakit.jobs.ppim.reading import RawPicture
from lorakit.jobs.ppim.table import forget_text
from lorakit.runtime import platform

_HEAD = """# One picture a line: its name, a tab, its caption; a tab between several. Change the captions, save and close.
# An empty caption is kept empty. Lines that begin with # are not read. To change nothing, close without saving.
"""


def parse(text: str, known: dict[str, str]) -> dict[str, str]:
    """Captions by picture, of a file as `edit` writes it. InputError lists all lines that cannot be read."""
    found: dict[str, str] = {}
    wrong = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#") or not line.strip():
            continue
        name, tab, caption = line.partition("\t")
        if not tab or name not in known or name in found:
            why = "no tab" if not tab else "twice" if name in found else "no such picture"
            wrong.append(f"line {number} ({why}): {line[:40]}")
        else:
            found[name] = "\n".join(text for part in caption.split("\t") if (text := one_line(part).text))
    if wrong:
        raise InputError("captions.edit.txt: " + some(wrong, 3, "; "))
    return found


def editor() -> list[str]:
    """The words of the command that the environment names. UsageError where it names none."""
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not named:
        raise UsageError("--edit opens the editor that $VISUAL or $EDITOR names; set one, such as EDITOR=nano")
    try:
        return platform.words(named)
    except ValueError as error:
        raise UsageError(f"$VISUAL or $EDITOR, {named}: {error}") from None


def edit(given: list[RawPicture], data: Path, manifest: Manifest, note: Any) -> int:
    """Gives how many captions were changed. A file that cannot be read stays, and the next --edit opens it again."""
    command = editor()
    known = {row["file_name"]: row["text"] for s in given for row in manifest.get(s.key).get("rows", ())}
    file = data / "captions.edit.txt"
    if file.is_file():
        note(
            f"{file} of an earlier --edit is opened again; to begin with the captions as they are now, remove it first"
        )
    else:
        write_text(file, _HEAD + "".join("\t".join([name, *text.split("\n")]) + "\n" for name, text in known.items()))
    done = subprocess.run([*command, str(file)], check=False)
    if done.returncode:
        raise UsageError(f"the editor '{' '.join(command)}' ended with status {done.returncode}; nothing was changed")
    found = parse(file.read_text(encoding="utf-8-sig"), known)
    changed = 0
    for source in given:
        record = manifest.get(source.key)
        for row in record.get("rows", ()):
            text = found.get(row["file_name"], row["text"])
            if text == row["text"]:
                continue
            changed += 1
            forget_text(row)
            row |= {"text": text, "by_hand": True}
            write_text(caption_file(data / row["file_name"]), text + "\n" if text else "")
            manifest.put(source.key, record)
    file.unlink()
    note(f"{count(changed, 'caption')} changed")
    return changed
