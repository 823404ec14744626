import subprocess
import sys

import pytest

CODE = """
import resource
import numpy as np
from lorakit.runtime.heap import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 26, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
KEEP
print(faults(), faults())
"""


@pytest.mark.posix
@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_taken_again_without_a_page_fault():
    done = subprocess.run(
        [sys.executable, "-c", CODE.replace("KEEP", "keep_freed_memory()")], capture_output=True, text=True
    )
    first, second = map(int, done.stdout.split())
    assert first > 0 and second <= first // 8
