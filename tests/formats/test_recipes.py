"""Recipes are read strictly: every unknown key and every wrong type is told, with its line."""

from pathlib import Path

import pytest

from lorakit.errors import InputError
from lorakit.formats import recipes, writing
from tests.support.adapter_files import random_adapter

NUMBERS = ["true", '"1"', "[1]", "{ a = 1 }", "nan", "inf", "1979-05-27"]
TEXTS = ["5", "true", '["a"]', "{ a = 1 }", "1979-05-27"]
TABLES = ["5", "true", "[[1]]", "1979-05-27", '{ "unet" = true }', '{ "unet" = "1" }', "{ unet = { a = 1 } }"]
WRONG = {
    "name": TEXTS,
    "path": TEXTS,
    "sha256": TEXTS,
    "schedule": TEXTS,
    "region": TEXTS,
    "prompt": TEXTS,
    "weight": NUMBERS,
    "feather": NUMBERS,
    "layers": [*TABLES, '"x"', "[1]"],
    "parts": [*TABLES, '"x"', "[1]"],
    "blocks": [*TABLES, '["1", "0"]', "[true, 1]"],
}


@pytest.fixture
def said(tmp_path: Path) -> object:
    """What is said of a recipe that is wrong."""
    writing.save(tmp_path / "a.safetensors", random_adapter("tiny", lambda name: ".attn1.to_q" in name), "kohya")

    def read(text: str | bytes) -> str:
        file = tmp_path / "r.toml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(InputError) as raised:
            recipes.read(file)
        return str(raised.value).replace(f"{file}", "r.toml")

    return read


def test_every_key_has_a_test():
    assert WRONG.keys() == recipes._KEYS


@pytest.mark.parametrize("key", WRONG)
def test_a_value_of_another_type_is_told_with_its_line(key, said):
    for value in WRONG[key]:
        path = "" if key == "path" else 'path = "a.safetensors"\n'
        told = said(f"lorakit = 2\n\n[[adapter]]\n{path}{key} = {value}\n")
        assert told.startswith(f"r.toml, line {5 if path else 4}: adapter 1: ") and key in told, (value, told)


@pytest.mark.parametrize("version", ["true", "2.0", '"2"', "3", "0", "[2]"])
def test_the_version_is_a_whole_number(version, said):
    assert "expected lorakit = 2" in said(f'lorakit = {version}\n[[adapter]]\npath = "a.safetensors"\n')


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("wya = 'sum'", "r.toml, line 2: unknown: wya; did you mean 'way'?"),
        ("way = 5", "r.toml, line 2: way is 5, expected text"),
        ("way = ['sum']", "r.toml, line 2: way is ['sum'], expected text"),
        ("way = 'swich'", "r.toml, line 2: no way to compose 'swich'; did you mean 'switch'?"),
        ("every = 2", "r.toml, line 2: unknown: every"),
        ("way = 'switch'\nevrey = 2", "r.toml, line 3: unknown: evrey; did you mean 'every'?"),
        ("way = 'switch'\nevery = true", "r.toml, line 3: every is True, expected a number"),
    ],
)
def test_a_wrong_way_is_told_with_its_line(line, says, said):
    assert said(f'lorakit = 2\n{line}\n[[adapter]]\npath = "a.safetensors"\n').startswith(says)


def test_all_faults_are_told_at_once(said):
    told = said(
        "lorakit = 2\nevery = 1\n[[adapter]]\npaht = 'a.safetensors'\n[[adapter]]\npath = 'b.safetensors'\n"
        "wieght = 1\nname = 5\n[[adapter]]\npath = 'a.safetensors'\nparts = { vae = 1 }\n"
    )
    for fault in (
        "r.toml, line 2: unknown: every",
        "r.toml, line 3: adapter 1: expected a table with a path",
        "r.toml, line 6: adapter 2: ",
        "r.toml, line 7: adapter 2: unknown: wieght; did you mean 'weight'?",
        "r.toml, line 8: adapter 2: name is 5, expected text",
        "r.toml, line 11: adapter 3: no part 'vae'",
    ):
        assert fault in told
    assert len(told.splitlines()) <= 4


def test_version_one_knows_four_keys(said):
    told = said('lorakit = 1\nway = "sum"\n[[adapter]]\npath = "a.safetensors"\nprompt = "x"\n')
    assert (
        told.splitlines()[0].startswith("r.toml, line 2: unknown: way") and "line 5: adapter 1: unknown: prompt" in told
    )


def test_a_byte_order_mark_is_read_and_utf_16_refused(said, tmp_path):
    text = 'lorakit = 2\r\n[[adapter]]\r\npath = "a.safetensors"\r\n'
    (tmp_path / "r.toml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert recipes.read(tmp_path / "r.toml").members[0].name == "a"
    assert said(text.encode("utf-16")) == "r.toml is UTF-16 text; save it as UTF-8"
