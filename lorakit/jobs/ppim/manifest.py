"""What became of each source picture: one JSON line each in `.manifest.jsonl`, kept on disk and not in memory.

While a run is at work it appends to `.manifest.journal`, which a killed run leaves for the next one to go on from. The
files that are of the whole set, such as `report.html`, have a record under the name WHOLE, which no source can have.

A record says what a file holds before the file is written, and under `..._before` what it held: whenever a run is
killed, each file of ppim's has the one content or the other, and any third one is a person's.
"""

import io
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from lorakit.data.own import MANIFEST
from lorakit.errors import StorageError
from lorakit.io.files import replacing
from lorakit.io.plain import json_object
from lorakit.jobs.ppim.record import is_sound
from lorakit.runtime.platform import sync

FILE, JOURNAL, WHOLE = MANIFEST, ".manifest.journal", ""
_SYNC = 1.0  # seconds of work that a power cut may take from the journal
BEFORE = ("file_before", "mask_before", "text_before")
_LONGEST = 64 << 20  # bytes of a line, small pictures included


class Manifest:
    """Records by source. `get` reads the newest from disk; `put` is on disk when it returns, or of a dry run in memory."""

    def __init__(self, folder: Path, *, dry_run: bool = False) -> None:
        self._folder, self._dry_run = folder, dry_run
        self._finished: dict[str, tuple[bool, int, int]] = {}  # source: in the journal?, offset, length
        self._index(folder / FILE, False, self._finished)
        self._where = dict(self._finished)
        end = self._index(folder / JOURNAL, True, self._where)
        self.resumed = end > 0
        self._synced = 0.0
        try:
            self._journal = self._opened(folder / JOURNAL, end)
            self._old = (folder / FILE).open("rb") if (folder / FILE).is_file() else None
        except OSError as error:
            raise StorageError(f"{folder / JOURNAL} could not be written: {error.strerror}") from error
        # What stands in metadata.jsonl: of a run that ended, or of one that was killed when it had written it.
        self._told = self._where if self._where.get(WHOLE, (False,))[0] else self._finished

    def _opened(self, file: Path, end: int) -> BinaryIO:
        if self._dry_run:
            journal: BinaryIO = io.BytesIO(file.read_bytes()[:end] if end else b"")
        else:
            journal = file.open("r+b" if end else "w+b")
            journal.truncate(end)  # a line that was cut off is gone, and the next one starts cleanly
        journal.seek(end)
        return journal

    def _index(self, file: Path, journal: bool, where: dict[str, tuple[bool, int, int]]) -> int:
        """Note where each whole line lies; a damaged line counts as none. Gives where the last whole line ends."""
        offset = 0
        if not file.is_file():
            return 0
        with suppress(OSError), file.open("rb") as lines:
            while (line := lines.readline(_LONGEST)).endswith(b"\n"):
                with suppress(ValueError):
                    record = json_object(line)
                    if is_sound(record):
                        where[record["source"]] = (journal, offset, len(line))
                offset += len(line)
        return offset

    def sources(self) -> set[str]:
        return self._where.keys() - {WHOLE}

    def get(self, source: str) -> dict[str, Any]:
        """The record of a source, {} where there is none."""
        return self._at(self._where.get(source))

    def told(self, source: str) -> dict[str, Any]:
        """The record from which the metadata.jsonl that is there was written, {} where it was written without one."""
        return self._at(self._told.get(source))

    def finished(self, source: str) -> dict[str, Any]:
        """The record as the last run that ended has left it, {} where there is none."""
        return self._at(self._finished.get(source))

    def _at(self, place: tuple[bool, int, int] | None) -> dict[str, Any]:
        if place is None:
            return {}
        journal, offset, length = place
        file = self._journal if journal else self._old
        assert file is not None
        file.seek(offset)
        return json.loads(file.read(length))

    def put(self, source: str, record: dict[str, Any]) -> None:
        line = self._line({**record, "source": source})
        try:
            offset = self._journal.seek(0, os.SEEK_END)
            self._journal.write(line)
            self._journal.flush()
            if not self._dry_run and time.monotonic() - self._synced > _SYNC:
                sync(self._journal.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise StorageError(f"{self._folder / JOURNAL} could not be written: {error.strerror}") from error
        if self._told is self._where:
            self._told = dict(self._where)
        self._where[source] = (True, offset, len(line))

    @staticmethod
    def _line(record: dict[str, Any]) -> bytes:
        return json.dumps(record, ensure_ascii=False, sort_keys=True).encode() + b"\n"

    def records(self, sources: Iterable[str]) -> Iterator[dict[str, Any]]:
        return (self.get(source) for source in sources)

    def finish(self, sources: Iterable[str]) -> None:
        """Write `.manifest.jsonl` of these sources, in this order; the journal goes. Sources that are gone stay in it
        until --prune, which must know what was made of them."""
        if self._dry_run:
            return
        with replacing(self._folder / FILE) as partial:
            with partial.open("wb") as out:
                for record in self.records([*sources, WHOLE]):
                    for row in record.get("rows", ()):
                        for key in BEFORE:
                            row.pop(key, None)
                    out.write(self._line(record))
            self.close()  # Windows replaces no file that is open
        (self._folder / JOURNAL).unlink(missing_ok=True)

    def close(self) -> None:
        self._journal.close()
        if self._old is not None:
            self._old.close()
