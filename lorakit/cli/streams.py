"""The standard streams, whatever they are tied to: a terminal, a file, a pipe that nobody reads any more, or nothing.

The work does not depend on who listens. A stream that was closed before the program began leads nowhere, and so does one
whose reader goes away: `lorakit inspect FILE | head -1` has given head what it wanted. Results that a disk has no room
for are an error, once.
"""

import codecs
import errno
import io
import os
import stat
import sys
import time
from typing import Any, TextIO

from lorakit.errors import StorageError


class _Lasting(io.RawIOBase):
    """The bytes of stdout or stderr. After the first that cannot be written, all are taken and dropped.

    results   StorageError where they cannot be written for another reason than that their reader has gone
    """

    def __init__(self, inner: Any, results: bool) -> None:
        self._inner, self._results, self._lost = inner, results, False

    def write(self, data: Any) -> int:
        if self._lost:
            return len(data)
        try:
            while (
                written := self._inner.write(data)
            ) is None:  # a pipe that is full, and that somebody set not to wait
                time.sleep(0.01)
        except OSError as error:
            self._lost = True
            if self._results and not self._reader_left(error):
                raise StorageError(f"standard output cannot be written: {error.strerror or error}") from error
            return len(data)
        return int(written)

    def _reader_left(self, error: OSError) -> bool:
        """A pipe or socket without its other end, or a terminal that was closed, which does not even say that it is one."""
        if isinstance(error, ConnectionError):
            return True
        if error.errno == errno.EIO:
            return stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
        # What Windows says of a pipe that nobody reads
        return error.errno == errno.EINVAL and stat.S_ISFIFO(os.fstat(self.fileno()).st_mode)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._inner.fileno())

    def isatty(self) -> bool:
        return bool(self._inner.isatty())


def _spelled(error: UnicodeError) -> tuple[str | bytes, int]:
    """What an encoding has no place for: a byte of a file name as it is, any other character as its escape."""
    assert isinstance(error, UnicodeEncodeError)
    c = error.object[error.start]
    byte = "\udc80" <= c <= "\udcff"
    return bytes([ord(c) - 0xDC00]) if byte else c.encode("ascii", "backslashreplace").decode(), error.start + 1


def _lasting(stream: TextIO, results: bool) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    encoding, by_line, at_once = stream.encoding, stream.line_buffering, stream.write_through
    buffer: Any = stream.detach()
    raw = buffer.detach() if isinstance(buffer, io.BufferedWriter) else buffer  # python -u has no buffer
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(raw, results)), encoding, "lorakit", line_buffering=by_line, write_through=at_once
    )


def in_utf8() -> None:
    """Begin again in Python's UTF-8 mode where the locale is one in which only ASCII can be written.

    Python leaves that mode out under LC_ALL=C where PYTHONUTF8=0 says so; then no file of another name can be made.
    """
    if codecs.lookup(sys.getfilesystemencoding()).name == "ascii" and not sys.flags.utf8_mode and sys.executable:
        os.environ["PYTHONUTF8"] = "1"  # for the processes that it starts
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def make_lasting() -> None:
    """Make the streams of this process such that neither work nor exit status depends on what they are tied to."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # Left closed, the first file that is opened would get the number, and what libraries print would go into it.
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))
    codecs.register_error("lorakit", _spelled)
    sys.stdout, sys.stderr = _lasting(sys.stdout, True), _lasting(sys.stderr, False)
    if isinstance(sys.stdin, io.TextIOWrapper):
        # Prompts come in UTF-8, as those of files do, whatever the locale says.
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")
