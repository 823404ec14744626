"""Fuzzes the header parser: python -m tests.fuzz.safetensors_header --seconds 60 [--seed 1]

Headers, good and hostile, are mutated at random; what leads to a new kind of answer joins the corpus. A failure is any
exception but InputError, an answer that takes a second, and a header that we accept and that json or the safetensors
library refuses or reads otherwise.
"""

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import safetensors

from lorakit.errors import InputError
from lorakit.io.header import Header, parse_header

MOST_DATA = 1 << 16  # bytes of tensors that are handed to the library
LARGEST = 20_000  # bytes of a header; what is larger is the business of the tests of time and memory

TOKENS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"',
    b"\\",
    b" ",
    b"\n",
    b"\t",
    b"\r",
    b"\0",
    b"0",
    b"1",
    b"-1",
    b"-0",
    b"01",
    b"1.0",
    b"1e3",
    b"4",
    b"8",
    b"4294967296",
    b"9223372036854775807",
    b"9223372036854775808",
    b"18446744073709551615",
    b"99999999999999999999",
    b"true",
    b"null",
    b"NaN",
    b"Infinity",
    b'""',
    b"{}",
    b"[]",
    b'"dtype"',
    b'"shape"',
    b'"data_offsets"',
    b'"__metadata__"',
    b'"F32"',
    b'"F16"',
    b'"BF16"',
    b'"U8"',
    b'"BOOL"',
    b'"F8_E4M3"',
    b'"F4"',
    b'"F64"',
    b'"f32"',
    b'"a"',
    b'"\\u0061"',
    b'"\\ud800"',
    b'"\\ud83e\\udd8a"',
    b'"\\u0000"',
    b'"\\x"',
    b'"\\u12"',
    "ä".encode(),
    "\U0001f98a".encode(),
    b"\xff",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    "\u2028".encode(),
    "\u0661".encode(),
    b"/*",
    b"//",
    b"'",
    b"1_0",
    b" " * 100,
    b'"a":',
    b"[0,4]",
    b"[0,0]",
    b"[4,0]",
    b"[1]",
    b"[0]",
    b"[1,1,1,1,1,1,1,1]",
    b'"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}',
    b',"__metadata__":{"k":"v"}',
    b'"extra":1',
]
HEADERS = [
    b"{}",
    b"{}   ",
    b'{"__metadata__":{}}',
    b'{"__metadata__":{"a":"b","c":"\\n\\"\\u00e4"}}',
    b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    b'{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"F16","shape":[],"data_offsets":[24,26]}}',
    b'{"b":{"dtype":"I64","shape":[1],"data_offsets":[4,12]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    b'{"e":{"dtype":"U8","shape":[0,5],"data_offsets":[0,0]},"f":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}}  ',
    b'{ "a" : { "shape" : [ 1 , 2 ] , "data_offsets" : [ 0 , 4 ] , "dtype" : "BF16" } , "__metadata__" : { "x" : "y" } }',
    b'{"__metadata__":{"x":"y"},"\\u0061\\\\":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}',
    json.dumps({"a\U0001f98a": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}}).encode(),
    '{"a\U0001f98aä":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}}'.encode(),
    b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}',
    b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"extra":1}}',
    b'{"a":' + b"[" * 200,
    b"{"
    + b",".join(b'"%d":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}' % (i, i, i + 1) for i in range(40))
    + b"}",
]
OTHERS = [
    b"",
    b"\0" * 7,
    b"\xff" * 16,
    b"<!DOCTYPE html>",
    b"version https://git-lfs.github.com/spec/v1\n",
    b"PK\x03\x04" + b"\0" * 30,
    b"\x80\x02}q\0.",
    b'{"error":"x"}',
]


@dataclass
class Tally:
    executions: int = 0
    accepted: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{self.executions} executions in {self.seconds:.0f} s, {self.executions / max(self.seconds, 1e-9):.0f}/s, "
            f"{self.accepted} accepted, {len(self.answers)} kinds of answer, slowest {self.slowest * 1000:.1f} ms"
        )


class Failure(AssertionError):
    """The input is in the message."""


def framed(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


def flip_bit(rng: random.Random, data: bytearray, at: int, other: bytes) -> None:
    if at < len(data):
        data[at] ^= 1 << rng.randrange(8)


def set_byte(rng: random.Random, data: bytearray, at: int, other: bytes) -> None:
    data[at : at + 1] = bytes([rng.randrange(256)])


def put_token(rng: random.Random, data: bytearray, at: int, other: bytes) -> None:
    data[at:at] = rng.choice(TOKENS)


def swap_token(rng: random.Random, data: bytearray, at: int, other: bytes) -> None:
    spans = [match.span() for match in re.finditer(rb'"[^"]*"|-?\d+|[{}\[\],:]', bytes(data[8:]))]
    if spans:
        begin, end = rng.choice(spans)
        data[8 + begin : 8 + end] = rng.choice(TOKENS)


def put_blanks(rng: random.Random, data: bytearray, at: int, other: bytes) -> None:
    """Between tokens, where they change nothing."""
    ends = [match.end() for match in re.finditer(rb"[{}\[\],:]", bytes(data[8:]))]
    if ends:
        at = 8 + rng.choice(ends)
        data[at:at] = rng.choice((b" ", b"\n", b"\t\r", b" " * 50))


def cut(rng: random.Random, data: bytearray, at: int, other: bytes) -> None:
    del data[at : at + rng.choice((1, 1, 4, 20))]


def double(rng: random.Random, data: bytearray, at: int, other: bytes) -> None:
    data[at:at] = data[at : at + rng.choice((1, 8, 60))]


def splice(rng: random.Random, data: bytearray, at: int, other: bytes) -> None:
    data[at:] = other[rng.randrange(len(other) + 1) :]


def join(rng: random.Random, data: bytearray, at: int, other: bytes) -> None:
    """Two headers into one: names may meet, offsets do."""
    data[:] = data[:8] + bytes(data[8:]).rstrip()[:-1] + b"," + other[9:]


def change_number(rng: random.Random, data: bytearray, at: int, other: bytes) -> None:
    spans = [match.span() for match in re.finditer(rb"\d+", bytes(data[8:]))]
    if spans:
        begin, end = rng.choice(spans)
        value = int(data[8 + begin : 8 + end]) + rng.choice((-4, -1, 1, 4, 8, 2**32, 2**63))
        data[8 + begin : 8 + end] = b"%d" % value


def set_length(rng: random.Random, data: bytearray, at: int, other: bytes) -> None:
    data[:8] = rng.choice((0, 1, len(data), 2**63, 2**64 - 1, rng.randrange(300))).to_bytes(8, "little")


MUTATIONS = [
    flip_bit,
    set_byte,
    put_token,
    swap_token,
    put_blanks,
    put_blanks,
    cut,
    double,
    splice,
    join,
    change_number,
    set_length,
]


def mutated(rng: random.Random, corpus: list[bytes]) -> bytes:
    """A member of the corpus changed in one to four places; its length field is mended most times."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        rng.choice(MUTATIONS)(rng, data, rng.randrange(len(data) + 1), rng.choice(corpus))
    del data[LARGEST:]
    if len(data) > 8 and rng.random() < 0.9:
        data[:8] = (len(data) - 8).to_bytes(8, "little")
    return bytes(data)


def data_bytes(rng: random.Random, head: bytes) -> int:
    """Bytes of data that the file shall have: mostly what the header asks for."""
    if rng.random() < 0.05:
        return rng.randrange(40)
    ends = [int(number) for number in re.findall(rb",[ \t\n\r]*(\d{1,9})[ \t\n\r]*\]", head)]
    return max(ends, default=0)


def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len(dict(pairs)) == len(pairs), "a key stands twice"
    return dict(pairs)


def check_accepted(head: bytes, size: int, header: Header) -> None:
    """What we took must be what json and the safetensors library see, and without holes."""
    length = header.data_start - 8
    plain = json.loads(head[8 : 8 + length], object_pairs_hook=once)
    notes = plain.pop("__metadata__", {})
    assert notes == header.metadata
    assert plain == {
        name: {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        for name, (dtype, shape, begin, end) in header.entries.items()
    }
    at = header.data_start
    for _, _, begin, end in sorted(header.entries.values(), key=lambda entry: entry[2:]):
        assert header.data_start + begin == at
        at = header.data_start + end
    assert at == size
    if size - header.data_start <= MOST_DATA:
        theirs = safetensors.deserialize(head[: header.data_start] + bytes(size - header.data_start))
        assert {name: (x["dtype"], tuple(x["shape"])) for name, x in theirs} == {
            name: entry[:2] for name, entry in header.entries.items()
        }


def raised_at(error: BaseException) -> str:
    """The line that refused: a kind of answer, whatever names are in the text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    assert trace is not None
    return f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}"


def execute(head: bytes, size: int, tally: Tally) -> str:
    """The kind of the answer."""
    start = time.thread_time()
    try:
        header = parse_header(head, size)
        taken = time.thread_time() - start
        check_accepted(head, size, header)
        tally.accepted += 1
        answer = f"accepted {min(len(header.entries), 3)} {min(len(header.metadata), 3)}"
    except InputError as error:
        taken = time.thread_time() - start
        answer = raised_at(error)
        tally.examples.setdefault(answer, str(error))
    except BaseException as error:
        raise Failure(f"parse_header({head!r}, {size}): {type(error).__name__}: {error}") from error
    if taken > 1:
        raise Failure(f"parse_header({head!r}, {size}) took {taken:.2f} s")
    tally.executions += 1
    tally.slowest = max(tally.slowest, taken)
    tally.answers[answer] += 1
    return answer


def run(seconds: float, seed: int = 0, report_every: float = float("inf")) -> Tally:
    """Fuzz for so long; Failure where something is found."""
    rng, tally = random.Random(seed), Tally()
    corpus = [framed(header) for header in HEADERS] + OTHERS
    for head in corpus:
        execute(head, len(head) + data_bytes(rng, head), tally)
    start = time.monotonic()
    next_report = start + report_every
    while (now := time.monotonic()) - start < seconds:
        for _ in range(200):
            head = mutated(rng, corpus)
            size = len(head) + data_bytes(rng, head)
            if rng.random() < 0.01:
                head = head[: rng.randrange(len(head) + 1)]  # a file that shrank while it was read
            known = len(tally.answers)
            answer = execute(head, size, tally)
            if len(tally.answers) > known or (answer.startswith("accepted") and len(head) > 60 and rng.random() < 0.01):
                place = len(corpus) if len(corpus) < 500 else rng.randrange(len(HEADERS), 500)
                corpus[place : place + 1] = [head]
        tally.seconds = now - start
        if now > next_report:
            print(tally, flush=True)
            next_report = now + report_every
    tally.seconds = time.monotonic() - start
    return tally


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    try:
        tally = run(given.seconds, given.seed, report_every=60)
    except Failure as failure:
        print(f"FAILED (seed {given.seed}): {failure}", file=sys.stderr, flush=True)
        return 1
    print(tally)
    for answer, count in tally.answers.most_common():
        print(f"{count:>10}  {answer}  {tally.examples.get(answer, '')[:100]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
