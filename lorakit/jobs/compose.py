"""A composition of adapters, written as a recipe that `sample`, `merge` and `compose` read."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lorakit.io.files import check_target, write_text
from lorakit.jobs import adapters


def run(
    arguments: Sequence[str], output: Path, *, force: bool, dry_run: bool, note: Callable[[str], None]
) -> dict[str, Any]:
    """Constant weights by adapter; every file is read, so that a recipe never names a broken one."""
    check_target(output, force=force)
    given = adapters.read_arguments(arguments)
    layers = [len(adapters.load(one.file).modules) for one in given]
    lines = [f"lorakit = {adapters.RECIPE_VERSION}"]
    for one, count in zip(given, layers, strict=True):
        path = os.path.relpath(one.file.resolve(), output.resolve().parent)
        note(f"{one.file} at {one.weight:g}: {count} modules")
        lines += [
            "",
            "[[adapter]]",
            f"name = {json.dumps(one.file.stem)}",
            f"path = {json.dumps(path, ensure_ascii=False)}",
        ]
        lines += [f"weight = {float(one.weight)!r}", f'sha256 = "{one.sha256()}"']
    if not dry_run:
        write_text(output, "\n".join(lines) + "\n")
    return {
        "outputs": [] if dry_run else [str(output)],
        "adapters": [{"path": str(o.file), "weight": o.weight} for o in given],
    }
