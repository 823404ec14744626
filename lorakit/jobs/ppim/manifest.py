"""What became of each source picture: one JSON line each in `.manifest.jsonl`, kept on disk and not in memory.

While a run is at work it appends to `.manifest.journal`, which a killed run leaves for the next one to go on from.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from lorakit.errors import StorageError
from lorakit.io.files import replacing, sha256_of
from lorakit.io.plain import json_object
from lorakit.jobs.ppim.record import is_sound

FILE, JOURNAL = ".manifest.jsonl", ".manifest.journal"
_LONGEST = 64 << 20  # bytes of a line, small pictures included


def known(folder: Path) -> Callable[[str, bool], bool] | None:
    """Which files of a training set are ppim's by its manifest and journal, as `io.record.survey` asks for it; None for a
    folder that has neither."""
    names: dict[str, set[str]] = {}
    there = [folder / name for name in (FILE, JOURNAL) if (folder / name).is_file()]
    for line in (line for file in there for line in file.read_bytes().splitlines()):
        with suppress(ValueError, TypeError, AttributeError):
            for row in json.loads(line).get("rows", ()):
                names.setdefault(str(row.get("file_name")), set()).add(str(row.get("file_sha256")))
                names.setdefault(str(row.get("mask")), set()).add(str(row.get("mask_sha256")))

    def is_known(name: str, listed: bool) -> bool:
        return name in (FILE, JOURNAL) or (name in names and sha256_of(folder / name) in names[name])

    return is_known if there else None


class Manifest:
    """Records by source. `get` reads the newest from disk; `put` is on disk when it returns."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._where: dict[str, tuple[bool, int, int]] = {}  # source: in the journal?, offset, length
        self._index(folder / FILE, False)
        end = self._index(folder / JOURNAL, True)
        self.resumed = end > 0
        try:
            self._journal = (folder / JOURNAL).open("r+b" if self.resumed else "w+b")
            self._journal.truncate(end)  # a line that was cut off is gone, and the next one starts cleanly
            self._journal.seek(end)
        except OSError as error:
            raise StorageError(f"{folder / JOURNAL} could not be written: {error.strerror}") from error
        self._old = (folder / FILE).open("rb") if (folder / FILE).is_file() else None

    def _index(self, file: Path, journal: bool) -> int:
        """Note where each whole line lies; a damaged line counts as none. Gives where the last whole line ends."""
        offset = 0
        if not file.is_file():
            return 0
        with suppress(OSError), file.open("rb") as lines:
            while (line := lines.readline(_LONGEST)).endswith(b"\n"):
                with suppress(ValueError):
                    record = json_object(line)
                    if is_sound(record):
                        self._where[record["source"]] = (journal, offset, len(line))
                offset += len(line)
        return offset

    def sources(self) -> set[str]:
        return set(self._where)

    def get(self, source: str) -> dict[str, Any]:
        """The record of a source, {} where there is none."""
        if source not in self._where:
            return {}
        journal, offset, length = self._where[source]
        file = self._journal if journal else self._old
        assert file is not None
        file.seek(offset)
        return json.loads(file.read(length))

    def put(self, source: str, record: dict[str, Any]) -> None:
        line = json.dumps({**record, "source": source}, ensure_ascii=False, sort_keys=True).encode() + b"\n"
        try:
            offset = self._journal.seek(0, 2)
            self._journal.write(line)
            self._journal.flush()
        except OSError as error:
            raise StorageError(f"{self._folder / JOURNAL} could not be written: {error.strerror}") from error
        self._where[source] = (True, offset, len(line))

    def records(self, sources: Iterable[str]) -> Iterator[dict[str, Any]]:
        return (self.get(source) for source in sources)

    def finish(self, sources: Iterable[str]) -> None:
        """Write `.manifest.jsonl` of these sources, in this order; the journal goes. Sources that are gone stay in it
        until --prune, which must know what was made of them."""
        with replacing(self._folder / FILE) as partial:
            with partial.open("wb") as out:
                for record in self.records(sources):
                    out.write(json.dumps(record, ensure_ascii=False, sort_keys=True).encode() + b"\n")
            self.close()  # Windows replaces no file that is open
        (self._folder / JOURNAL).unlink(missing_ok=True)

    def close(self) -> None:
        self._journal.close()
        if self._old is not None:
            self._old.close()
