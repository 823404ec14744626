"""Embeddings in pictures, as AUTOMATIC1111's webui hides them: in a text chunk, and in the pixels at both edges."""

import base64
import json
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lorakit.arrays import floats
from lorakit.errors import InputError
from lorakit.formats import embedding_png, files

VECTORS = np.random.default_rng(1).standard_normal((3, 768)).astype("f4").round(4)
DATA = {
    "string_to_token": {"*": 265},
    "string_to_param": {"*": {"TORCHTENSOR": VECTORS.tolist()}},
    "name": "probe",
    "step": 3,
}


def picture() -> np.ndarray:
    return np.random.default_rng(2).integers(1, 255, (64, 48, 3)).astype("u1") | 1


def with_text(file, text):
    info = PngInfo()
    info.add_text("sd-ti-embedding", text)
    Image.fromarray(picture()).save(file, pnginfo=info)
    return file


def with_edges(file, data: bytes):
    """The low four bits of the data on the left of a picture, the high ones on the right, behind black columns."""
    packed = np.frombuffer(zlib.compress(data), "u1")
    height = 64
    padded = np.resize(packed, -(-len(packed) // (height * 3)) * height * 3).reshape(height, -1, 3)
    state, mixed = 0, []
    for _ in range(padded.size):
        state = (1664525 * state + 1013904223) % 2**32
        mixed.append(state % 255 & 15)
    mix, bright = np.array(mixed, "u1").reshape(padded.shape), 0x50
    black = np.zeros((height, 1, 3), "u1")
    sides = [(half ^ mix) | bright for half in (padded & 15, padded >> 4)]
    Image.fromarray(np.concatenate([sides[0], black, picture(), black, sides[1]], 1)).save(file)
    return file


@pytest.mark.parametrize("way", ["text", "edges"])
def test_an_embedding_in_a_picture_is_read(tmp_path, way):
    data = json.dumps(DATA).encode()
    file = (
        with_text(tmp_path / "x.png", base64.b64encode(data).decode())
        if way == "text"
        else with_edges(tmp_path / "x.png", data)
    )
    adapter = files.read(file)
    assert adapter.format == "a1111-embedding" and adapter.metadata["step"] == "3"
    assert np.array_equal(floats(adapter.embeddings["probe"]["text_encoder"]), VECTORS)
    files.check(file)


def test_the_mixing_numbers_are_those_of_the_webui():
    state, wanted = 0, []
    for _ in range(1000):
        state = (1664525 * state + 1013904223) % 2**32
        wanted.append(state % 255 & 15)
    assert embedding_png._mixing(1000).tolist() == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("%%%", "not base64"),
        (base64.b64encode(b"[").decode(), "damaged"),
        (base64.b64encode(b"{}").decode(), "no vectors"),
        (
            base64.b64encode(b'{"string_to_param": {"*": {"TORCHTENSOR": [[1], [2, 3]]}}}').decode(),
            "no table of numbers",
        ),
        (base64.b64encode(b"[" * 100000).decode(), "damaged"),
    ],
)
def test_damaged_ones_are_named(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        files.contents(with_text(tmp_path / "x.png", text))


def test_a_picture_without_an_embedding_is_told_as_such(tmp_path):
    for name, pixels in (("a", picture()), ("b", np.zeros((8, 8, 3), "u1"))):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        with pytest.raises(InputError, match="no embedding in it"):
            files.contents(tmp_path / f"{name}.png")


def test_edges_that_unpack_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_png, "_MOST", 1000)
    with pytest.raises(InputError, match="more than"):
        files.contents(with_edges(tmp_path / "x.png", b"0" * 5000))
