"""Whatever the bytes, the header parser answers with a header or with InputError."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.arrays import SIZES
from lorakit.errors import InputError
from lorakit.io.header import parse_header
from tests.fuzz import safetensors_header

SECONDS = float(os.environ.get("LORAKIT_FUZZ_SECONDS", "3"))
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda name: name != "__metadata__")
SHAPES = st.tuples(st.sampled_from(sorted(SIZES)), st.lists(st.integers(0, 5), max_size=4))


@pytest.mark.timeout(SECONDS + 120)
def test_mutated_headers_are_refused_or_read_as_others_read_them():
    tally = safetensors_header.run(SECONDS, seed=1)
    print(tally)
    assert tally.executions > 100 * SECONDS and tally.accepted > 30


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400), st.booleans())
def test_any_bytes_are_a_header_or_an_input_error(data, size, framed):
    head = safetensors_header.framed(b"{" + data) if framed else data
    try:
        parse_header(head, max(size, len(head)))
    except InputError as error:
        assert str(error).isprintable() and len(str(error)) < 600


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(NAMES, SHAPES, max_size=6),
    st.dictionaries(NAMES, NAMES, max_size=4),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 1]),
    st.randoms(),
)
def test_any_spelling_of_a_header_is_read(tensors, metadata, ascii_only, spaced, indent, rng):
    entries, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        begin, at = at, at + SIZES[dtype]
        for size in shape:
            at = begin + (at - begin) * size
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, at]}
    header = list(
        ({"__metadata__": metadata} | {k: dict(rng.sample(list(v.items()), 3)) for k, v in entries.items()}).items()
    )
    rng.shuffle(header)
    text = json.dumps(
        dict(header), ensure_ascii=ascii_only, indent=indent, separators=(", ", ": ") if spaced else (",", ":")
    ).encode()
    parsed = parse_header(safetensors_header.framed(text), 8 + len(text) + at)
    assert parsed.metadata == metadata and parsed.data_start == 8 + len(text)
    assert parsed.entries == {
        name: (entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"]) for name, entry in entries.items()
    }
