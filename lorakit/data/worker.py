"""The program of a worker process: pictures are decoded here, under limits, and nowhere else.

It reads one request a line from standard input and answers each with one line of JSON, which is all it can say to the
process that started it. It ends when its input does.
"""

import hashlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from lorakit.runtime.platform import ENDING, limit_memory

_SPARE = 1 << 30  # bytes for the interpreter, its libraries and what encoders need
_A_PIXEL = 24  # bytes: several copies at full size, one of them in float32


def limit(most_pixels: int) -> None:
    """Memory by the largest picture that is let in; no core files; no signals meant for the whole group."""
    for number in ENDING:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    limit_memory(_SPARE + _A_PIXEL * most_pixels)


def _intact(data: Path, files: dict[str, str]) -> bool:
    """Are these files, given with their sha256, all there as they were written?"""
    try:
        return all(hashlib.sha256((data / name).read_bytes()).hexdigest() == digest for name, digest in files.items())
    except OSError:
        return False


def answer(request: dict[str, Any], raw: Path, data: Path, into: Path | None, wanted: Any) -> dict[str, Any]:
    from lorakit.data.decode import BadPicture
    from lorakit.data.prepare import prepare
    from lorakit.errors import StorageError

    try:
        file = raw / os.fsdecode(bytes.fromhex(request["path"]))
        return prepare(
            file,
            into,
            request["name"],
            wanted=wanted,
            known=request.get("known"),
            intact=lambda: _intact(data, request.get("files", {})),
            thumb=bool(request.get("thumb")),
            masks=[raw / os.fsdecode(bytes.fromhex(mask)) for mask in request.get("masks", ())],
            known_mask=request.get("known_mask", ""),
        )
    except BadPicture as reason:
        return {"reason": str(reason), "again": True}
    except StorageError as error:
        return {"storage": str(error)}
    except MemoryError:
        return {"reason": "needs more memory than one picture may take"}
    except Exception:  # noqa: BLE001  a bug of ours: it must not look like a fault of the picture
        return {"bug": traceback.format_exc()}


def main() -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)  # C libraries print their complaints about a file there; ours go into the answer
    setup = json.loads(sys.stdin.buffer.readline())
    from lorakit.data.prepare import PrepareSettings

    fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in setup["wanted"].items()}
    wanted = PrepareSettings(**fields)
    raw, data, into = (setup[key] and Path(os.fsdecode(bytes.fromhex(setup[key]))) for key in ("raw", "data", "into"))
    limit(wanted.max_pixels)
    for line in sys.stdin.buffer:
        reply = json.dumps(answer(json.loads(line), raw, data, into, wanted))
        out.write(reply + "\n")
        out.flush()


if __name__ == "__main__":
    main()
