"""Class pictures for prior preservation: only missing ones are drawn, each from seed + i alone."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorakit.data import pngtext
from lorakit.errors import RefusedError
from lorakit.io.files import check_target, write_bytes, write_text
from lorakit.jobs.sample import Request, drawing, pictures, settings_of
from lorakit.models.load import Components


def missing(folder: Path, wanted: list[dict[str, Any]]) -> tuple[list[int], list[int]]:
    """Numbers of the pictures that are not there, and of those that are there but were made otherwise."""
    absent, other = [], []
    for i, settings in enumerate(wanted):
        file = folder / f"{i:05d}.png"
        if not file.exists():
            absent.append(i)
        elif pngtext.read(file) != settings:
            other.append(i)
    return absent, other


def run(
    request: Request,
    output: Path,
    components: Components,
    *,
    force: bool,
    dry_run: bool,
    tick: Callable[[int, int], None],
    note: Callable[[str], None],
) -> dict[str, Any]:
    """`count` pictures of the class into a folder. Pictures of other settings are refused, or with force drawn anew."""
    check_target(output, force=True, folder=True)
    how, prompt = drawing(components, request), request.prompts[0]
    wanted = [settings_of(request, how, prompt, request.seed + i, []) for i in range(request.count)]
    todo, other = missing(output, wanted)
    if other and not force:
        raise RefusedError(
            f"{output} holds {len(other)} pictures made with other settings, such as {other[0]:05d}.png; "
            "choose another folder or draw them anew with --force"
        )
    todo = sorted(todo + other)
    if dry_run:
        note(f"{len(todo)} pictures would be drawn into {output}")
        return {"outputs": [], "made": 0, "kept": request.count - len(todo)}
    jobs = [(prompt, request.seed + i) for i in todo]
    for done, picture in enumerate(pictures(components, request, how, jobs, note) if jobs else ()):
        i = todo[done]
        write_text(output / f"{i:05d}.txt", prompt + "\n")
        write_bytes(output / f"{i:05d}.png", pngtext.encode(picture, wanted[i]))  # last: what is there is whole
        tick(done + 1, len(todo))
    names = [output / f"{i:05d}.png" for i in range(request.count)]
    rows = [
        {
            "file_name": file.name,
            "text": prompt,
            "seed": request.seed + i,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for i, file in enumerate(names)
    ]
    write_text(output / "metadata.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return {"outputs": [str(name) for name in names], "made": len(todo), "kept": request.count - len(todo)}
