"""What a machine has no more of is told as that, in whose words ever it comes."""

import errno

import numpy as np
import pytest
import torch

from lorakit.errors import InputError
from lorakit.runtime.scarce import FILES, MEMORY, lacking


def _error(work):
    with pytest.raises(Exception) as raised:
        work()
    return raised.value


@pytest.mark.parametrize("work", [lambda: np.empty(1 << 60, np.uint8), lambda: torch.empty(1 << 60, dtype=torch.uint8)])
def test_numpy_and_torch_say_it_in_words_of_their_own(work):
    assert lacking(_error(work)) == MEMORY


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (MemoryError(), MEMORY),
        (RuntimeError("std::bad_alloc"), MEMORY),
        (RuntimeError("CUDA error: out of memory"), MEMORY),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), MEMORY),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), MEMORY),
        (OSError(errno.EMFILE, "Too many open files"), FILES),
        (OSError(errno.ENOSPC, "No space left on device"), None),
        (RuntimeError("size mismatch"), None),
        (ValueError("out of memory"), None),  # text of a file, say
    ],
)
def test_other_errors_are_left_alone(error, what):
    assert lacking(error) == what


def test_an_error_that_was_made_of_another_keeps_its_reason():
    def work():
        try:
            np.empty(1 << 60, np.uint8)
        except MemoryError as error:
            raise InputError("tiny is not a whole model") from error

    assert lacking(_error(work)) == MEMORY


def test_a_lock_that_another_process_holds_is_no_lack_of_threads():
    def work():
        try:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        except OSError as error:
            raise InputError("another run is at work") from error

    assert lacking(_error(work)) is None
