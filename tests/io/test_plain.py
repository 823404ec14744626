"""Untrusted text: what is in bounds is read as ever, what is not is told."""

import json
import os

import pytest

from lorakit.errors import InputError
from lorakit.io.plain import bounded_lines, json_object, json_of, read_json, read_lines, read_text, toml_of


def test_text_is_read_with_and_without_a_byte_order_mark(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfab\r\n\xc3\xa9")
    assert read_text(tmp_path / "a", "text") == "ab\r\né"
    assert list(read_lines(tmp_path / "a", "text")) == [(1, "ab"), (2, "é")]
    (tmp_path / "b").write_bytes(b"ab\xe9")
    with pytest.raises(InputError, match=r"b is not UTF-8 \(byte 2\)"):
        read_text(tmp_path / "b", "text")
    with pytest.raises(InputError, match="b is not UTF-8"):
        list(read_lines(tmp_path / "b", "text"))


def test_pipes_devices_folders_and_large_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "large").write_bytes(bytes(1001))
    for name in ("pipe", "device", ".", "nowhere", "large"):
        with pytest.raises(InputError, match="1,001 bytes" if name == "large" else None):
            read_text(tmp_path / name, "text", 1000)
    with pytest.raises(InputError, match="line 2 has more than"), (tmp_path / "lines").open("w+") as file:
        file.write("a\n" + "b" * (1 << 21))
        file.seek(0)
        list(bounded_lines(file, "lines"))


def test_json_is_read_to_its_bounds(tmp_path):
    assert json_of("[" * 64 + "]" * 64) == json.loads("[" * 64 + "]" * 64)
    assert json_object('{"a": 1, "a": 2.5, "b": null}') == {"a": 2.5, "b": None}
    assert json_of("1" + "0" * 299) == 10**299  # tokenizers are told such lengths
    for text, says in (
        ("[" * 65 + "]" * 65, "nested"),
        ("[" * 60_000, "nested"),
        ("1" * 301, "digits"),
        ("1" * 5000, "digits"),
        ("{", "Expecting"),
    ):
        with pytest.raises(ValueError, match=says):
            json_of(text)
    with pytest.raises(ValueError, match="expected an object, got a list"):
        json_object("[]")
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(InputError, match=r"a\.json: not JSON: expected an object"):
        read_json(tmp_path / "a.json", "config")


def test_toml_is_read_to_its_bounds():
    text = (
        "a.b.c = 1.5\n\"x.y\".'z.w' = [1.5, -2.5e3, 0x1F]  # a.b.c\ns = '''\n"
        + "a." * 50
        + "'''\nd = 1979-05-27T07:32:00.999\n"
    )
    found = toml_of("\ufeff" + text)
    assert found["a"]["b"]["c"] == 1.5 and found["x.y"]["z.w"] == [1.5, -2500, 31] and found["s"] == "a." * 50
    for text, says in (
        ("a." * 17 + "a = 1", "17 parts|16 parts"),
        ("x = 1\n[" + "'a' . " * 17 + "a]", r"line 2"),
        ("a = " + "[" * 65 + "]" * 65, "nested"),
        ("a=" + "{a=" * 9999, "nested"),
        ("a = 0x1" + "0" * 260, "300 digits"),
        ("a = ", "Invalid value"),
    ):
        with pytest.raises(ValueError, match=says):
            toml_of(text)
