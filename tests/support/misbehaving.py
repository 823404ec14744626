"""A worker that does to itself what hostile pictures do to decoders."""

import json
import os
import resource
import signal
import sys
import time


def main() -> None:
    sys.stdin.buffer.readline()
    size = 512 << 20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    for line in sys.stdin.buffer:
        what = json.loads(line)["do"]
        if what == "hang":
            time.sleep(60)
        elif what == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif what == "grow":
            bytearray(1 << 30)  # a MemoryError that nobody catches ends the process
        print(json.dumps({"did": what, "pid": os.getpid()}), flush=True)


if __name__ == "__main__":
    main()
