"""The line of each key of a TOML file, as errors tell it, and what is refused as no TOML file."""

import json
import random
import tomllib
from pathlib import Path

import pytest

from lorakit.errors import InputError
from lorakit.io import toml
from lorakit.io.toml import lines_of

TEXT = '''\
# rank = 1
title = "rank = 2"          # [train]
a.b = [1, [2,
  3], "] # no", { in_list = 1 }]
"quoted key".'x y' = { inline = 1, "two" = """
decoy = 1
""", three = 3 }
dated = 1979-05-27 07:32:00

[ train ]
text = """
rank = 3
[merge]
""""
rank = 4
plain = \'\'\'
[[adapter]]\'\'\'
[other."with.dot"]
key=true
[[adapter]]
path = "a"
[adapter.parts]
unet = 1
[[adapter]]
path = "b"
[[adapter.deep]]
n = 1
[[adapter.deep]]
n = 2
'''
LINES = {
    ("title",): 2,
    ("a",): 3,
    ("a", "b"): 3,
    ("a", "b", 3, "in_list"): 4,
    ("quoted key",): 5,
    ("quoted key", "x y"): 5,
    ("quoted key", "x y", "inline"): 5,
    ("quoted key", "x y", "two"): 5,
    ("quoted key", "x y", "three"): 7,
    ("dated",): 8,
    ("train",): 10,
    ("train", "text"): 11,
    ("train", "rank"): 15,
    ("train", "plain"): 16,
    ("other",): 18,
    ("other", "with.dot"): 18,
    ("other", "with.dot", "key"): 19,
    ("adapter",): 20,
    ("adapter", 0): 20,
    ("adapter", 0, "path"): 21,
    ("adapter", 0, "parts"): 22,
    ("adapter", 0, "parts", "unet"): 23,
    ("adapter", 1): 24,
    ("adapter", 1, "path"): 25,
    ("adapter", 1, "deep"): 26,
    ("adapter", 1, "deep", 0): 26,
    ("adapter", 1, "deep", 0, "n"): 27,
    ("adapter", 1, "deep", 1): 28,
    ("adapter", 1, "deep", 1, "n"): 29,
}


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_each_key_stands_in_its_line(ending):
    text = TEXT.replace("\n", ending)
    tomllib.loads(text)
    assert lines_of(text) == LINES


def _value(draw: random.Random, names: list[str], line: int, known: dict[str, int]) -> str:
    """A value whose text holds other keys' names; the keys of its own tables go to `known` with their lines."""
    decoy = f"{draw.choice(names)} = 1"
    kind = draw.randrange(8)
    if kind == 0:
        return draw.choice(["1", "-2.5e3", "true", "inf", "1979-05-27", "07:32:00"])
    if kind == 1:
        return json.dumps(f"{decoy} # ' \\ ]}}")
    if kind == 2:
        return f"'{decoy} # \" ]}}'"
    if kind == 3:
        return f'"""\n{decoy}\n[{decoy[0]}]\\"""" '.replace('\\""""', draw.choice(['"""', 'x""""', '\\""""']))
    if kind == 4:
        return f"'''{decoy}\n{decoy}\n'''"
    if kind == 5:
        return f'[1, # {decoy} ]\n  [ "{decoy}", ], \n]'
    inner = f"i{line}x{draw.randrange(10**6)}"
    known[inner] = line
    if kind == 6:
        return f'{{ {inner} = "{decoy}" }}'
    later = f"j{line}x{draw.randrange(10**6)}"
    known[later] = line + 2
    return f"[{{ {inner} = 1 }},\n # {decoy}\n {{ {later} = [] }}, ]"


@pytest.mark.parametrize("seed", range(60))
def test_no_key_is_told_to_stand_in_another_line(seed):
    draw = random.Random(seed)
    names = [f"k{i}" for i in range(20)]
    text, known = "", {}
    for name in names:
        at = text.count("\n") + 1
        known[name] = at
        quoted = draw.choice([name, f'"{name}"', f"'{name}'"])
        match draw.randrange(6):
            case 0:
                text += f"[{quoted}] # {draw.choice(names)} = 1\n"
            case 1:
                text += f"[[ {quoted} ]]\n"
            case 2:
                text += f"# {draw.choice(names)} = 1\n\n"
                known[name] = at + 2
                text += f"{quoted} = {_value(draw, names, at + 2, known)}\n"
            case 3:
                text += f"d{at} . {quoted} = {_value(draw, names, at, known)} # x\n"
            case _:
                text += f"{quoted}={_value(draw, names, at, known)}\n"
    tomllib.loads(text)
    found = {keys[-1]: line for keys, line in lines_of(text).items() if keys[-1] in known}
    assert found == known


def test_a_text_that_reads_otherwise_than_expected_has_no_lines():
    assert lines_of("a = ") == lines_of("] = 1") == {}


def _told(file: Path, data: bytes) -> str:
    file.write_bytes(data)
    with pytest.raises(InputError) as raised:
        toml.read(file, "recipe")
    return str(raised.value)


def test_what_is_no_toml_is_refused_with_its_line_and_what_to_do(tmp_path):
    file = tmp_path / "x.toml"
    text = "[a]\nb = 1\n"
    assert "is UTF-16 text; save it as UTF-8" in _told(file, text.encode("utf-16"))
    assert "line 3 is not UTF-8" in _told(file, text.encode() + b"c = '\xe9'")
    assert "at line 3" in _told(file, text.encode() + b"c = \n")
    assert "at line 3" in (told := _told(file, text.encode() + rb'c = "C:\Users\me"')) and "single quotes" in told
    assert "nested more than 64 deep" in _told(file, b"a = " + b"[" * 60_000)
    assert "digits" in _told(file, b"a = " + b"9" * 5000)
    assert "bytes; of recipe at most" in _told(file, b"#" * (5 << 20))
    assert all(str(file) in _told(file, data) for data in (b"a", b"\xff\xfe", b"\xff", b"a = [[[["))


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "x.toml").write_bytes(b"\xef\xbb\xbf[a]\r\nb = 1\r\n")
    document = toml.read(tmp_path / "x.toml", "recipe")
    assert document.tables == {"a": {"b": 1}} and document.place("a", "b") == f"{tmp_path / 'x.toml'}, line 2"
    assert document.place("a", "c") == str(tmp_path / "x.toml")
