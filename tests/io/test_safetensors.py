"""The strict safetensors layer: what is good is read exactly, what is not is refused by name, files are whole."""

import gc
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch as library
import torch

from lorakit import arrays
from lorakit.arrays import SIZES, Stored
from lorakit.errors import InputError, NumericError, RefusedError, StorageError
from lorakit.io import files, safetensors
from lorakit.io import torch_files as tensors
from lorakit.io.header import MAX_HEADER, parse_header

ENTRY = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


def file_of(header: str | bytes, data: bytes = b"") -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return len(text).to_bytes(8, "little") + text + data


def of_every_dtype() -> dict[str, torch.Tensor]:
    """A matrix, a scalar and an empty tensor of each."""
    out = {}
    for name in arrays._TORCH.values():
        dtype = getattr(torch, name)
        out[f"{name}.matrix"] = torch.arange(6).reshape(2, 3).to(dtype)
        out[f"{name}.scalar"] = torch.tensor(1).to(dtype)
        out[f"{name}.empty"] = torch.zeros(0, 5).to(dtype)
    return out


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bytes(arrays.raw(a)) == bytes(arrays.raw(b))


# Round trips


def test_the_library_reads_what_we_write(tmp_path):
    ours = of_every_dtype()
    safetensors.write(tmp_path / "a.safetensors", ours, {"note": 'ä "quoted"\n\U0001f98a'})
    theirs = library.load_file(tmp_path / "a.safetensors")
    assert theirs.keys() == ours.keys() and all(same(ours[key], theirs[key]) for key in ours)
    with library.safe_open(tmp_path / "a.safetensors", "pt") as handle:
        assert handle.metadata()["note"] == 'ä "quoted"\n\U0001f98a'


def test_we_read_what_the_library_writes(tmp_path):
    theirs = of_every_dtype()
    library.save_file(theirs, tmp_path / "a.safetensors", {"note": 'ä "quoted"\n\U0001f98a\x7f'})
    file = safetensors.open_file(tmp_path / "a.safetensors")
    assert file.metadata == {"note": 'ä "quoted"\n\U0001f98a\x7f'}
    assert file.keys() == theirs.keys() and len(file) == len(theirs)
    assert all(same(stored.tensor(), theirs[key]) for key, stored in file.items())
    read, notes = tensors.read(tmp_path / "a.safetensors")
    assert notes == file.metadata and all(same(read[key], theirs[key]) for key in theirs)


def test_stored_numpy_and_torch_arrays_give_the_same_bytes(tmp_path):
    torches = {key: x for key, x in of_every_dtype().items() if "bfloat" not in key and "float8" not in key}
    safetensors.write(tmp_path / "torch", torches, {})
    safetensors.write(tmp_path / "numpy", {key: x.numpy() for key, x in torches.items()}, {})
    safetensors.write(tmp_path / "stored", safetensors.open_file(tmp_path / "torch"), {})
    assert (tmp_path / "torch").read_bytes() == (tmp_path / "numpy").read_bytes() == (tmp_path / "stored").read_bytes()


def test_arrays_that_are_not_laid_out_row_by_row_are(tmp_path):
    x = torch.arange(6.0).reshape(2, 3)
    safetensors.write(tmp_path / "a", {"torch": x.T, "numpy": x.numpy().T, "big": x.numpy()[:, ::2]}, {})
    found, _ = tensors.read(tmp_path / "a")
    assert found["torch"].equal(x.T) and found["numpy"].equal(x.T) and found["big"].equal(x[:, ::2])


def test_a_file_may_hold_nothing(tmp_path):
    safetensors.write(tmp_path / "a", {}, {}, hashed=False)
    assert (tmp_path / "a").read_bytes() == file_of("{}".ljust(8))
    assert dict(safetensors.open_file(tmp_path / "a")) == library.load_file(tmp_path / "a") == {}


@pytest.mark.posix
def test_tensors_stay_readable_without_their_file_object_and_close_with_the_last(tmp_path):
    def one() -> Stored:
        return safetensors.open_file(tmp_path / "a")["b"]

    safetensors.write(tmp_path / "a", {"b": np.ones(3, np.float32)}, {})
    before = len(os.listdir("/proc/self/fd"))
    stored = one()
    (tmp_path / "a").unlink()
    assert stored.float().tolist() == [1, 1, 1] and stored.raw() == stored.raw()
    del stored
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_tensors_read_by_torch_are_their_own(tmp_path):
    safetensors.write(tmp_path / "a", {"b": np.ones(3, np.float32)}, {})
    first, second = tensors.read(tmp_path / "a")[0]["b"], tensors.read(tmp_path / "a")[0]["b"]
    first += 1
    assert second.tolist() == [1, 1, 1]


# The same bytes each time

WRITES = """
import sys
import numpy as np
from pathlib import Path
from lorakit.io import safetensors
tensors = {f"layer{i}.{kind}": np.full(5, i, kind) for i in range(20) for kind in {"float16", "float32", "uint8"}}
notes = {key: key for key in {"alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"}}
print(safetensors.write(Path(sys.argv[1]), tensors, notes))
"""


def test_the_same_content_is_the_same_bytes_in_every_process(tmp_path):
    found = set()
    for seed in range(4):
        subprocess.run(
            [sys.executable, "-c", WRITES, tmp_path / f"{seed}"],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            check=True,
            timeout=60,
        )
        found.add((tmp_path / f"{seed}").read_bytes())
    assert len(found) == 1


def test_wide_types_come_first_and_all_are_aligned(tmp_path):
    safetensors.write(tmp_path / "a", of_every_dtype(), {"b": "1", "a": "2"})
    data = (tmp_path / "a").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    notes = header.pop("__metadata__")
    assert list(notes) == sorted(notes) and data[8:24] == b'{"__metadata__":'
    assert list(header) == sorted(header, key=lambda name: (-SIZES[header[name]["dtype"]], name))
    start = safetensors.open_file(tmp_path / "a").header.data_start
    assert start % 8 == 0
    assert all((start + x["data_offsets"][0]) % SIZES[x["dtype"]] == 0 for x in header.values())


# Hashes


def test_the_hash_is_of_the_data_alone_and_in_the_metadata(tmp_path):
    content = {"a": np.arange(700_000, dtype=np.float32), "b": np.ones(3, np.float16)}  # more than a piece, and less
    found = safetensors.write(tmp_path / "a", content, {"note": "x"})
    data = (tmp_path / "a").read_bytes()
    expected = hashlib.sha256(content["a"].tobytes() + content["b"].tobytes()).hexdigest()
    assert found == expected == hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    assert safetensors.data_hash(tmp_path / "a") == expected
    notes = safetensors.open_file(tmp_path / "a").metadata
    assert notes == {"note": "x", "modelspec.hash_sha256": f"0x{expected}", "sshs_model_hash": expected}


def test_hashes_of_another_file_do_not_come_along(tmp_path):
    stale = {"sshs_model_hash": "1", "sshs_legacy_hash": "2", "modelspec.hash_sha256": "3", "note": "x"}
    assert safetensors.write(tmp_path / "a", {}, stale, hashed=False) == ""
    assert safetensors.open_file(tmp_path / "a").metadata == {"note": "x"}
    safetensors.write(tmp_path / "a", {}, stale)
    assert "sshs_legacy_hash" not in safetensors.open_file(tmp_path / "a").metadata


def test_the_hash_stays_where_only_the_metadata_changes(tmp_path):
    first = safetensors.write(tmp_path / "a", {"x": np.ones(3)}, {"note": "x"})
    assert first == safetensors.write(tmp_path / "a", {"x": np.ones(3)}, {})


# What is refused in reading

HUGE = 2**64 - 1
BAD_ENTRIES = {
    "negative offset": ('{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}', "two whole numbers"),
    "reversed offsets": ('{"dtype":"F32","shape":[1],"data_offsets":[4,0]}', "takes 4 bytes, not -4"),
    "fractional offset": ('{"dtype":"F32","shape":[1],"data_offsets":[0.0,4]}', "two whole numbers"),
    "exponent": ('{"dtype":"F32","shape":[1],"data_offsets":[0,4e0]}', "two whole numbers"),
    "leading zero": ('{"dtype":"F32","shape":[01],"data_offsets":[0,4]}', "whole numbers"),
    "one offset": ('{"dtype":"F32","shape":[1],"data_offsets":[4]}', "two whole numbers"),
    "three offsets": ('{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}', "two whole numbers"),
    "huge offset": (f'{{"dtype":"F32","shape":[1],"data_offsets":[0,{HUGE}]}}', "two whole numbers"),
    "offset past end": ('{"dtype":"F32","shape":[1],"data_offsets":[4,8]}', "a hole of 4 bytes before a"),
    "too many bytes": ('{"dtype":"F32","shape":[2],"data_offsets":[0,4]}', r"a of F32 \[2\] takes 8 bytes, not 4"),
    "overflow": (f'{{"dtype":"F32","shape":[{2**62},4],"data_offsets":[0,4]}}', "larger than any file"),
    "overflow of nothing": (f'{{"dtype":"F32","shape":[0,{2**62}],"data_offsets":[0,0]}}', "larger than any file"),
    "negative dimension": ('{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}', "shape must be whole numbers"),
    "nested shape": ('{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}', "shape must be a list of numbers"),
    "many dimensions": (f'{{"dtype":"F32","shape":[{",".join("1" * 99)}],"data_offsets":[0,4]}}', "99 dimensions"),
    "shape no list": ('{"dtype":"F32","shape":1,"data_offsets":[0,4]}', "shape must be a list"),
    "unknown dtype": ('{"dtype":"F99","shape":[1],"data_offsets":[0,4]}', "dtype F99, which lorakit does not know"),
    "dtype of half bytes": ('{"dtype":"F4","shape":[3],"data_offsets":[0,4]}', "dtype F4"),
    "dtype null": ('{"dtype":null,"shape":[1],"data_offsets":[0,4]}', "dtype must be a word"),
    "no dtype": ('{"shape":[1],"data_offsets":[0,4]}', "has no dtype"),
    "empty entry": ("{}", "cannot read the entry of a"),
    "list for entry": ('["F32",[1],[0,4]]', "entry of a is no object"),
    "extra field": (ENTRY[:-1] + ',"extra":[1]}', "unknown field extra"),
    "extra number": (ENTRY[:-1] + ',"extra":1}', "unknown field extra"),
    "field twice": ('{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}', "two fields dtype"),
    "trailing comma": (ENTRY[:-1] + ",}", "cannot read the entry"),
    "not closed": (ENTRY[:-1], "expected|cannot read|no end|does not end"),
}
DATA = bytes(4)
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "seven bytes": (bytes(7), "was cut short: it has 7 bytes"),
    "no header": (bytes(8), "no header"),
    "length 1": (file_of("{"), "no header"),
    "length of all ones": (b"\xff" * 16, "is not a safetensors file"),
    "length over the limit": ((10**8 + 1).to_bytes(8, "little") + b"{}", "header of 100000001 bytes"),
    "length beyond file": ((100).to_bytes(8, "little") + b"{}", "ends at byte 108, and the file has 10"),
    "html": (b"\n<!DOCTYPE html><html><body>404</body></html>", "HTML page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "zip": (b"PK\x03\x04" + bytes(40), "zip archive.*pickle"),
    "pickle": (b"\x80\x02}q\x00.", "is a pickle"),
    "pickle 4": (b"\x80\x04\x95" + b"\xff" * 20, "is a pickle"),
    "server error": (b'{"error":"Unauthorized"}', "JSON text"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(40), "is not a safetensors file"),
    "data cut": (file_of(f'{{"a":{ENTRY}}}', b"123"), "cut short: 3 of 4 bytes"),
    "extra bytes": (file_of(f'{{"a":{ENTRY}}}', b"12345"), "has 1 bytes after its last tensor"),
    "not json": (file_of("{]"), "damaged header"),
    "not closed": (file_of('{"a":'), "damaged header"),
    "trailing comma": (file_of(f'{{"a":{ENTRY},}}', DATA), "damaged header"),
    "no comma": (file_of(f'{{"a":{ENTRY}"b":{ENTRY}}}', DATA), "damaged header"),
    "two objects": (file_of(f'{{"a":{ENTRY}}}{{}}', DATA), "something follows"),
    "nul padding": (file_of(f'{{"a":{ENTRY}}}\0', DATA), "something follows"),
    "not utf-8": (file_of(b'{"\xff":' + ENTRY.encode() + b"}", DATA), "not UTF-8 at byte 10"),
    "half a surrogate": (file_of(f'{{"\\ud800":{ENTRY}}}', DATA), "surrogate"),
    "raw control character": (file_of(f'{{"a\n":{ENTRY}}}', DATA), "damaged header"),
    "json list": (file_of("[1,2]" + " " * 40), "must begin with {"),
    "leading blank": (file_of(f' {{"a":{ENTRY}}}', DATA), "must begin with {"),
    "byte order mark": (file_of(f'\ufeff{{"a":{ENTRY}}}', DATA), "must begin with {"),
    "nesting": (file_of('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), "entry of a is no object"),
    "nesting of objects": (file_of('{"a":' * 100_000 + "1" + "}" * 100_000), "damaged header"),
    "overlap": (file_of(f'{{"a":{ENTRY},"b":{ENTRY}}}', DATA), "b overlaps a"),
    "partial overlap": (
        file_of(f'{{"a":{ENTRY},"b":{{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}}}', bytes(6)),
        "b overlaps a",
    ),
    "hole": (
        file_of(f'{{"a":{ENTRY},"b":{{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}}}', bytes(12)),
        "a hole of 4 bytes before b",
    ),
    "same name": (
        file_of(f'{{"a":{ENTRY},"a":{{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}}}', bytes(8)),
        "two tensors named a",
    ),
    "same name escaped": (
        file_of(f'{{"a":{ENTRY},"\\u0061":{{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}}}', bytes(8)),
        "two tensors named a",
    ),
    "two metadata": (file_of('{"__metadata__":{},"__metadata__":{}}'), "two __metadata__"),
    "two of a note": (file_of('{"__metadata__":{"k":"1","k":"2"}}'), "two values of k"),
    "number in metadata": (file_of('{"__metadata__":{"k":1}}'), "value of k in __metadata__ is no string"),
    "metadata list": (file_of('{"__metadata__":["k"]}'), "must be an object of strings"),
    "metadata null": (file_of('{"__metadata__":null}'), "must be an object of strings"),
    "tensor named metadata": (file_of(f'{{"__metadata__":{ENTRY}}}', DATA), "value of shape in __metadata__"),
    "many tensors": (
        file_of(
            "{" + ",".join(f'"{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(100_001)) + "}"
        ),
        "more than 100000 tensors",
    ),
    "long name": (file_of(f'{{"{"x" * 5000}":{ENTRY}}}', DATA), "name of more than 4096"),
    "control characters": (file_of('{"\\u001b[31m":{}}'), r"\\x1b\[31m"),
} | {name: (file_of(f'{{"a":{entry}}}', DATA), says) for name, (entry, says) in BAD_ENTRIES.items()}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_with_its_name_and_fault(tmp_path, name):
    content, says = BAD_FILES[name]
    (tmp_path / "bad.safetensors").write_bytes(content)
    for read in (safetensors.open_file, safetensors.data_hash, tensors.read):
        with pytest.raises(InputError, match=f"(?s)^{tmp_path / 'bad.safetensors'} .*(?:{says})") as refused:
            read(tmp_path / "bad.safetensors")
    assert len(str(refused.value)) < 500 and str(refused.value).isprintable()


def test_a_file_cut_at_any_byte_is_refused(tmp_path):
    safetensors.write(tmp_path / "whole", {"a": np.ones(5, np.float32), "b": np.ones(1, np.uint8)}, {"note": "x"})
    data = (tmp_path / "whole").read_bytes()
    for end in range(len(data)):
        (tmp_path / "cut").write_bytes(data[:end])
        with pytest.raises(InputError, match="/cut "):
            safetensors.open_file(tmp_path / "cut")


@pytest.mark.parametrize(
    "header",
    [
        f'{{"a":{ENTRY}}}   ',
        f'{{ "a" : {ENTRY} }}\n',
        json.dumps({"a": json.loads(ENTRY)}),
        '{"a":{"data_offsets":[0,4],"shape":[1],"dtype":"F32"}}',
        '{"a": {\n\t"shape": [ 1 ],\r\n "dtype" : "F32" , "data_offsets": [ 0 , 4 ] } }',
        f'{{"a":{ENTRY},"__metadata__":{{}}}}',
        f'{{"\\u0061":{ENTRY}}}',
    ],
)
def test_json_may_be_spelled_in_other_ways(header):
    data = file_of(header, DATA)
    assert parse_header(data, len(data)).entries == {"a": ("F32", (1,), 0, 4)}
    assert list(library.load(data)) == ["a"]


def test_names_are_text_and_nothing_more(tmp_path):
    names = ["../../etc/passwd", "a\0b", "\x1b[31m", "", " ", "ä\U0001f98a", '"\\', "__metadata", "\u2028"]
    safetensors.write(tmp_path / "a", {name: np.full(1, i, np.uint8) for i, name in enumerate(names)}, {"": "\0"})
    file = safetensors.open_file(tmp_path / "a")
    assert {name: int(file[name].raw()[0]) for name in file} == {name: i for i, name in enumerate(names)}
    assert file.metadata[""] == "\0" and set(library.load_file(tmp_path / "a")) == set(names)


@pytest.mark.posix
def test_missing_files_folders_and_pipes_are_told_in_plain_words(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, says in (
        ("missing", "missing: no such adapter"),
        ("folder", "folder is not a file but a folder"),
        ("pipe", "pipe"),
        ("missing/a", "no such"),
        ("x" * 300, "could not be read"),
    ):
        with pytest.raises(InputError, match=says):
            safetensors.open_file(tmp_path / name, "adapter")
    with pytest.raises(InputError, match="device"):
        safetensors.open_file("/dev/zero")


@pytest.mark.posix
@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root reads everything")
def test_a_file_without_permission_is_told(tmp_path):
    (tmp_path / "a").write_bytes(file_of("{}"))
    (tmp_path / "a").chmod(0)
    with pytest.raises(InputError, match="Permission denied"):
        safetensors.open_file(tmp_path / "a")


def test_a_file_that_shrinks_while_it_is_open_is_an_input_error(tmp_path):
    safetensors.write(tmp_path / "a", {"x": np.ones(1000, np.float32)}, {})
    file = safetensors.open_file(tmp_path / "a")
    os.truncate(tmp_path / "a", 2000)
    with pytest.raises(InputError, match="a was cut short while being read"):
        file["x"].raw()


# Bounds: each header read in a process of its own

M = MAX_HEADER
U8 = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'


def many(count, entry) -> str:
    return "{" + ",".join(entry(i) for i in range(count)) + "}"


def note(text: str) -> str:
    return '{"__metadata__":{"a":"' + text + '"}}'


HOSTILE = {
    "tensors": lambda: many(290_000, lambda i: f'"{i}":{U8}'),
    "fields in another order": lambda: many(
        100_000, lambda i: f'"{i}\\n":{{"data_offsets":[0,0],{" " * 70}"shape":[0],"dtype":"U8"}}'
    ),
    "shapes": lambda: many(
        100_000, lambda i: f'"{i}":' + U8.replace("[0]", f"[0,{i + 300},{','.join(['257'] * 5 + ['1'] * 9)}]")
    ),
    "notes": lambda: '{"__metadata__":' + many(1_400_000, lambda i: f'"{i:x}":""') + "}",
    "wide text": lambda: note("a" * (M - 40) + "\U0001f98a"),
    "wide names": lambda: many(4000, lambda i: f'"{i}{"a" * 4000}\U0001f98a":{U8}'),
    "escapes": lambda: note("\\n" * (M // 2 - 40) + "\U0001f98a"),
    "quotes": lambda: note('\\"' * (M // 2 - 40)),
    "open quote": lambda: '{"' + "a" * (M - 9),
    "blanks": lambda: "{" + " " * (M - 20) + "}",
    "blanks in an entry": lambda: '{"a":{' + " " * (M - 20) + "}}",
    "brackets": lambda: '{"a":' + "[" * (M - 20),
    "braces": lambda: '{"a":' * (M // 5 - 20),
    "shape": lambda: '{"a":' + U8.replace("[0]", "[" + "0," * (M // 2 - 60) + "0]") + "}",
}
MEASURED = """
import sys, time
from lorakit.errors import InputError
from lorakit.io.safetensors import open_file
def peak():  # getrusage would count the parent's pages, from before exec
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
before, start = peak(), time.process_time()
try:
    file = open_file(sys.argv[1])
except InputError:
    pass
print(time.process_time() - start, peak() - before)
"""


@pytest.mark.parametrize("name", HOSTILE)
def test_no_header_costs_more_than_a_second_and_200_mb(tmp_path, name):
    content = file_of(HOSTILE[name]())
    assert 9 << 20 < len(content) <= M + 8
    (tmp_path / "a").write_bytes(content)
    command = [sys.executable, "-c", MEASURED, tmp_path / "a"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    seconds, megabytes = map(float, done.stdout.split())
    assert seconds < 3 and megabytes < 200  # one second where nothing else runs


# What is refused in writing, and what a write leaves


def test_tensors_that_are_not_finite_are_named_and_nothing_is_written(tmp_path):
    (tmp_path / "a").write_text("old")
    big = np.ones(2_000_000, np.float32)
    big[-1] = np.inf
    content = {
        "good": np.ones(3),
        "big": big,
        "half": np.full(2, np.nan, np.float16),
        "brain": torch.tensor([torch.nan]).bfloat16(),
    }
    with pytest.raises(NumericError, match="a: NaN or infinity in 3 tensors, first big; nothing was written"):
        safetensors.write(tmp_path / "a", content, {})
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "old"
    assert not [thread for thread in threading.enumerate() if thread.name == "sha256"]


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        ({"\ud800": np.ones(1)}, {}),
        ({}, {"a": 1}),
        ({"__metadata__": np.ones(1)}, {}),
        ({"a": np.ones(1, np.complex64)}, {}),
        ({"x" * 5000: np.ones(1)}, {}),
        ({}, {"a": "x" * MAX_HEADER}),
    ],
)
def test_what_we_would_not_read_we_do_not_write(tmp_path, content, notes):
    with pytest.raises(InputError, match=f"{tmp_path / 'a'}"):
        safetensors.write(tmp_path / "a", content, notes)
    assert list(tmp_path.iterdir()) == []


def test_a_file_can_be_written_onto_itself(tmp_path):
    safetensors.write(tmp_path / "a", {"x": np.arange(500_000, dtype=np.float32)}, {"n": "1"})
    before = (tmp_path / "a").read_bytes()
    file = safetensors.open_file(tmp_path / "a")
    safetensors.write(tmp_path / "a", file, file.metadata)
    assert (tmp_path / "a").read_bytes() == before


@pytest.mark.posix
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_of_the_umask_and_an_old_one_keeps_its_own(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        safetensors.write(tmp_path / "a", {}, {})
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
        (tmp_path / "a").chmod(0o640)
        safetensors.write(tmp_path / "a", {}, {})
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    finally:
        os.umask(before)


@pytest.mark.posix
def test_a_symlink_is_followed_and_kept(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real/a")
    for _ in range(2):  # first it points to nothing
        safetensors.write(tmp_path / "link", {"x": np.ones(1)}, {})
        assert (tmp_path / "link").is_symlink() and list(safetensors.open_file(tmp_path / "real" / "a")) == ["x"]
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["a"]


@pytest.mark.posix
def test_devices_pipes_and_folders_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "null").symlink_to("/dev/null")
    for name, kind in (("pipe", RefusedError), ("null", RefusedError), ("folder", StorageError)):
        with pytest.raises(kind, match=name):
            safetensors.write(tmp_path / name, {}, {})
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode) and stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert sorted(os.listdir(tmp_path)) == ["folder", "null", "pipe"]


@pytest.mark.posix
def test_a_full_disk_keeps_the_old_file():
    """/dev/shm is small enough only in a limit: files of this process may have 1 MB."""
    code = (
        "import resource, signal, sys; import numpy as np; from pathlib import Path\n"
        "from lorakit.errors import StorageError; from lorakit.io import safetensors\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try: safetensors.write(Path(sys.argv[1]), {'x': np.ones(1 << 20)}, {})\n"
        "except StorageError as error: print(error)\n"
    )
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "a")
        file.write_text("old")
        done = subprocess.run(
            [sys.executable, "-c", code, file], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout == f"{file} could not be written: File too large\n"
        assert file.read_text() == "old" and os.listdir(folder) == ["a"]


@pytest.mark.posix
def test_a_write_that_is_killed_leaves_the_old_file_and_the_next_sweeps_up(tmp_path):
    safetensors.write(tmp_path / "a", {"x": np.zeros(9)}, {})
    before = (tmp_path / "a").read_bytes()
    code = (
        "import sys, time; import numpy as np; from pathlib import Path; from lorakit.arrays import Stored\n"
        "from lorakit.io import safetensors\n"
        "def slow():\n    print('reading', flush=True)\n    time.sleep(60)\n"
        "content = {'a': np.ones(1 << 22), 'z': Stored('F32', (1,), slow)}\n"  # 32 MiB: more than is read ahead
        "safetensors.write(Path(sys.argv[1]), content, {})\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "a"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGKILL)
    left = [path for path in tmp_path.iterdir() if path.name != "a"]
    assert [path.name.startswith(f".a.{process.pid}-") and path.name.endswith(".partial") for path in left] == [True]
    assert left[0].stat().st_size > 1 << 20 and (tmp_path / "a").read_bytes() == before
    files._left_over.cache_clear()  # as in a new process
    safetensors.write(tmp_path / "b", {}, {})
    assert left[0].exists()  # another target's
    safetensors.write(tmp_path / "a", {"x": np.ones(9)}, {})
    assert sorted(os.listdir(tmp_path)) == ["a", "b"] and (tmp_path / "a").read_bytes() != before


def test_a_temporary_file_of_a_living_process_stays(tmp_path):
    for pid in (os.getpid(), 1):
        (tmp_path / f".a.{pid}-0123abcd.partial").write_text("")
    (tmp_path / ".a.2147483646-0123abcd.partial").mkdir()
    safetensors.write(tmp_path / "a", {}, {})
    assert sorted(os.listdir(tmp_path)) == sorted([f".a.{os.getpid()}-0123abcd.partial", ".a.1-0123abcd.partial", "a"])


def test_two_writers_and_a_reader_see_whole_files(tmp_path):
    content = {value: {"x": np.full(300_000, value, np.float32)} for value in (1, 2)}
    safetensors.write(tmp_path / "a", content[1], {})
    ends = time.monotonic() + 1

    def writes(value: int) -> None:
        while time.monotonic() < ends:
            safetensors.write(tmp_path / "a", content[value], {})

    threads = [threading.Thread(target=writes, args=(value,)) for value in content]
    for thread in threads:
        thread.start()
    while time.monotonic() < ends:
        assert set(safetensors.open_file(tmp_path / "a")["x"].float()) in ({1}, {2})
    for thread in threads:
        thread.join()
    assert os.listdir(tmp_path) == ["a"]


def test_neither_torch_nor_the_library_is_needed(tmp_path):
    code = (
        "import sys; from lorakit.io import safetensors; import numpy as np; from pathlib import Path\n"
        "safetensors.write(Path('a'), {'x': np.ones(3)}, {}); safetensors.open_file('a')['x'].float()\n"
        "print(sorted({'torch', 'safetensors'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(safetensors.__file__).parents[2])},
    )
    assert done.stdout == "[]\n"
