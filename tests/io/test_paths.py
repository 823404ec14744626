"""Paths as they are written, also by people and programs of another system."""

import json
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest

from lorakit.composition.module_weights import which
from lorakit.data.dataset import read
from lorakit.errors import InputError
from lorakit.io.paths import file_named, leads_out, relative_name, split
from lorakit.naming import names, plain
from lorakit.runtime.platform import words
from tests.conftest import picture


@pytest.mark.parametrize(
    ("argument", "path", "weight"),
    [
        (r"C:\x.safetensors", r"C:\x.safetensors", 1.0),
        (r"C:\x.safetensors:0.5", r"C:\x.safetensors", 0.5),
        ("C:/a b/x.safetensors:-1e-1", "C:/a b/x.safetensors", -0.1),
        (r"\\server\share\x.safetensors", r"\\server\share\x.safetensors", 1.0),
        (r"\\server\share\x.safetensors:2", r"\\server\share\x.safetensors", 2.0),
    ],
)
def test_a_drive_letter_is_no_weight(argument, path, weight):
    assert split(argument) == (path, weight)


@pytest.mark.parametrize(
    ("path", "folder", "name"),
    [
        (PureWindowsPath(r"C:\work\loras\x.safetensors"), PureWindowsPath(r"C:\work"), "loras/x.safetensors"),
        (PureWindowsPath(r"C:\x.safetensors"), PureWindowsPath(r"c:\Work\deep"), "../../x.safetensors"),
        (PureWindowsPath(r"D:\x.safetensors"), PureWindowsPath(r"C:\work"), "D:/x.safetensors"),
        (PurePosixPath("/srv/loras/x.safetensors"), PurePosixPath("/srv/deep"), "../loras/x.safetensors"),
        (PurePosixPath("/srv/a\\b.safetensors"), PurePosixPath("/srv"), "a\\b.safetensors"),
    ],
)
def test_a_recipe_names_files_with_slashes_on_every_system(path, folder, name):
    assert relative_name(path, folder) == name


def test_a_name_written_on_windows_finds_its_file_and_one_with_a_backslash_is_itself(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").touch()
    assert file_named(tmp_path, r"sub\a.png") == tmp_path / "sub" / "a.png"
    (tmp_path / r"sub\b.png").touch()
    assert file_named(tmp_path, r"sub\b.png") == tmp_path / r"sub\b.png"


@pytest.mark.parametrize(
    "name", ["../a.png", "/a.png", r"..\a.png", r"\a.png", "a/../../b.png", r"//server/share/a.png"]
)
def test_a_name_that_leads_out_of_its_folder_is_known_on_both_systems(name):
    assert leads_out(name, PurePosixPath) and leads_out(name, PureWindowsPath)
    assert not leads_out("sub/a..b.png", PurePosixPath) and not leads_out(r"sub\.a.png", PureWindowsPath)


@pytest.mark.parametrize("name", ["C:a.png", r"C:\a.png", "C:/a.png"])
def test_a_drive_leads_out_where_there_are_drives(name):
    assert leads_out(name, PureWindowsPath)


def test_a_table_written_on_windows_is_read(tmp_path):
    (tmp_path / "sub").mkdir()
    picture().save(tmp_path / "sub" / "a.png")
    (tmp_path / "metadata.jsonl").write_bytes(b'{"file_name": "sub\\\\a.png", "text": "a cat"}\r\n')
    (example,) = read(tmp_path, None)
    assert example.file == tmp_path / "sub" / "a.png" and example.captions == ("a cat",)


def test_a_table_cannot_name_a_picture_outside_with_backslashes(tmp_path):
    picture().save(tmp_path / "a.png")
    data = tmp_path / "data"
    data.mkdir()
    (data / "metadata.jsonl").write_text(json.dumps({"file_name": r"..\a.png", "text": "a"}), encoding="utf-8")
    with pytest.raises(InputError, match="lead out of the folder"):
        read(data, None)


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("con.png", "_con"),
        ("CON.tar.png", "_CON.tar"),
        ("aux .jpg", "_aux"),
        ("com1.png", "_com1"),
        ("LPT³.png", "_LPT³"),
        ("nul", "_nul"),
        ("sub/con.png", "sub-con"),
        ("console.png", "console"),
        ("a. .png", "a"),
        ("a<b>:c?.png", "a_b__c_"),
    ],
)
def test_a_name_that_is_made_is_a_name_on_windows_too(source, stem):
    assert plain(source) == stem


def test_names_that_differ_in_case_or_accents_alone_stay_apart():
    made = names(["A.png", "a.png", "B.png", "b.jpg", "caf\u00e9.png", "cafe\u0301.png", "con.png", "_con.png"])
    assert len({name.casefold() for name in made}) == len(made)


def test_an_adapter_is_called_by_its_path_however_its_slashes_lean():
    files = [PureWindowsPath(r"C:\loras\a.safetensors"), PureWindowsPath(r"D:\loras\b.safetensors")]
    assert which("d:/loras/b.safetensors", files, "--block-weights") == 1
    assert which("a", files, "--block-weights") == 0


def test_a_backslash_escapes_in_options_except_on_windows():
    text = r'--image C:\pics\a.png --negative "a b"'
    assert words(text, windows=True) == ["--image", r"C:\pics\a.png", "--negative", "a b"]
    assert words(text, windows=False) == ["--image", "C:picsa.png", "--negative", "a b"]
    assert words(r'"C:\Program Files\Notes\n.exe" -w', windows=True) == [r"C:\Program Files\Notes\n.exe", "-w"]


def test_regions_and_tokens_take_paths_with_drive_letters(program, tmp_path):
    from lorakit.formats import writing
    from tests.support.adapter_files import random_adapter

    writing.save(
        tmp_path / "a.safetensors", random_adapter("tiny", lambda name: ".attn1.to_q" in name, seed=1), "kohya"
    )
    Path(tmp_path, r"C:\mask.png").write_bytes(b"")
    picture().save(tmp_path / "m.png")
    (tmp_path / "m.png").rename(tmp_path / r"C:\mask.png")
    program("compose", "a.safetensors", "--region", r"a=C:\mask.png:8", "-o", "r.toml")
    text = (tmp_path / "r.toml").read_text(encoding="utf-8")
    assert r"C:\\mask.png" in text and "feather = 8" in text
