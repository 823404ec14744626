import json
import os

import pytest
from PIL import Image

from lorakit.data.dataset import measured, read, size_of
from lorakit.errors import InputError
from tests.conftest import picture


def put(folder, name, text=None, suffix=".txt"):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    picture((16, 12)).save(file)
    if text is not None:
        file.with_suffix(suffix).write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def table(folder, *rows):
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def captions(examples):
    return {example.file.name: example.captions for example in examples}


def test_sidecars_of_both_names_and_several_lines(tmp_path):
    put(tmp_path, "a.png", "\ufeffa dog\n\n a dog sitting \na dog\n")
    put(tmp_path, "sub/b.png", "b", ".caption")
    put(tmp_path, "c.png", "tab\there\x1b[0m \u202eturned\u202c")
    assert captions(read(tmp_path, None)) == {
        "a.png": ("a dog", "a dog sitting"),
        "b.png": ("b",),
        "c.png": ("tab here[0m turned",),
    }


def test_metadata_with_several_captions_repeats_and_a_sidecar_that_rules(tmp_path):
    put(tmp_path, "a.png")
    put(tmp_path, "b.png", "mine")
    put(tmp_path, "sub/c.png")
    table(
        tmp_path,
        {"file_name": "a.png", "text": ["one", "two"], "repeats": 3},
        {"file_name": "b.png", "text": "theirs"},
        {"file_name": "sub/c.png", "text": "c"},
        {"file_name": "sub/c.png", "text": "c again"},
    )
    found = read(tmp_path, None)
    assert captions(found) == {"a.png": ("one", "two"), "b.png": ("mine",), "c.png": ("c", "c again")}
    assert [example.repeats for example in found] == [3, 1, 1]


def test_tables_below_and_pictures_that_stand_in_none(tmp_path):
    put(tmp_path / "one", "a.png")
    put(tmp_path / "one", "new.png", "not listed")
    table(tmp_path / "one", {"file_name": "a.png", "text": "a"})
    put(tmp_path / "two", "b.png", "b")
    notes = []
    assert captions(read(tmp_path, None, notes.append)) == {"a.png": ("a",), "b.png": ("b",)}
    assert "new.png" in notes[0] and "left out" in notes[0]


def test_kohya_folders_nested(tmp_path):
    put(tmp_path, "10_sks dog/a.png")
    put(tmp_path, "10_sks dog/b.png", "own")
    put(tmp_path, "img/2_cat/sub/c.png")
    put(tmp_path, "plain/d.png", "d")
    found = read(tmp_path, None)
    assert captions(found) == {"a.png": ("sks dog",), "b.png": ("own",), "c.png": ("cat",), "d.png": ("d",)}
    assert {e.file.name: e.repeats for e in found} == {"a.png": 10, "b.png": 10, "c.png": 2, "d.png": 1}


def test_masks_go_with_their_pictures(tmp_path):
    put(tmp_path, "a.png", "a")
    put(tmp_path, "a.mask.png")
    put(tmp_path, "b.jpg", "b")
    first, second = read(tmp_path, None)
    assert first.mask == tmp_path / "a.mask.png" and second.mask is None


def test_an_instance_prompt_replaces_all_and_says_so(tmp_path):
    put(tmp_path, "a.png", b"\xff\xfe not read")
    put(tmp_path, "b.png")
    notes = []
    assert captions(read(tmp_path, "sks", notes.append)) == {"a.png": ("sks",), "b.png": ("sks",)}
    assert "captions of pictures are not read (1)" in notes[0]


def test_all_faults_are_told_at_once_by_kind(tmp_path):
    for i in range(7):
        put(tmp_path, f"bare{i}.png")
    put(tmp_path, "latin.png", "caf\xe9".encode("latin-1"))
    put(tmp_path, "two.png", "one")
    (tmp_path / "two.caption").write_text("other")
    put(tmp_path, "long.png", "x" * 70000)
    with pytest.raises(InputError) as told:
        read(tmp_path, None)
    lines = str(told.value).splitlines()
    assert len(lines) == 4
    text = "\n".join(lines)
    assert "1 caption file is not UTF-8" in text and "1 picture has two caption files" in text
    assert "7 pictures have no caption: bare0.png, bare1.png" in text and "..." in text
    assert "latin.txt (byte 3)" in text and "two.caption and two.txt" in text and "long.txt" in text


def test_bad_rows_are_all_listed(tmp_path):
    put(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": "a"}\nno json\n{"text": "x"}\n[1]\n{"file_name": "a.png", "repeats": 0}\n'
        + '{"file_name": "gone.png", "text": "x"}\n'
        + "[" * 100000
        + "\n"
    )
    with pytest.raises(InputError) as told:
        read(tmp_path, None)
    text = str(told.value)
    assert "5 lines" in text and "metadata.jsonl:2, metadata.jsonl:3" in text and "gone.png" in text


def test_a_table_names_nothing_outside_its_folder(tmp_path):
    put(tmp_path, "secret.png")
    put(tmp_path, "data/a.png")
    table(
        tmp_path / "data",
        *({"file_name": n, "text": "x"} for n in ("a.png", "../secret.png", f"{tmp_path}/secret.png")),
    )
    with pytest.raises(InputError, match="2 names that lead out of the folder: line 2, line 3"):
        read(tmp_path / "data", None)


def test_no_pictures_says_what_is_there(tmp_path):
    (tmp_path / "a.psd").write_text("")
    with pytest.raises(InputError, match=r"png.*1 \.psd"):
        read(tmp_path, None)


@pytest.mark.posix
def test_sizes_are_of_the_upright_picture_and_bad_ones_are_listed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    put(tmp_path, "flat.png")
    assert [e.size for e in measured(read(tmp_path, "x"))] == [(16, 12), (20, 40)]
    (tmp_path / "text.png").write_text("no picture")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match=r"2 pictures cannot be read: pipe\.png \(not a reg.*, text\.png \(not a pic"):
        measured(read(tmp_path, "x"))
    assert size_of(tmp_path / "nowhere.png") is None
