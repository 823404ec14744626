"""The one reader of a folder of pictures: the README's table of what may lie there, each row tried with ppim and train."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lorakit.captioners import BadCaption, CaptionerSettings, Shown
from lorakit.captioners.keep import load
from lorakit.data import dataset, pngtext
from lorakit.errors import InputError
from lorakit.io.record import recorded
from lorakit.jobs.ppim import reading
from tests.conftest import picture

README = Path(__file__).parents[2] / "README.md"


def put(folder, name, text=None):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if Path(name).suffix.lower() in (".txt", ".caption", ".csv", ".jsonl"):
        file.write_text(text or "a dog")
    else:
        picture((16, 12), seed=len(name)).save(file, format="PNG")
        if text is not None:
            file.with_suffix(".txt").write_text(text)
    return file


def drawn(file):
    """A picture that lorakit drew."""
    settings = {
        "prompt": "a dog",
        "steps": 2,
        "scheduler": "ddim",
        "guidance": 1,
        "seed": 0,
        "size": [16, 12],
        "model": "tiny",
        "version": "1",
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pngtext.encode(np.asarray(picture((16, 12), seed=len(file.name))), settings))
    return file


@dataclass(frozen=True)
class Seen:
    """What both see: captions, repeats and mask by picture, and what is said."""

    pictures: dict
    said: str


def by_train(folder, **options):
    notes = []
    found = dataset.read(folder, options.pop("prompt", None), notes.append, **options)
    shown = {
        e.file.relative_to(folder).as_posix(): (e.captions, e.repeats, e.mask and e.mask.relative_to(folder).as_posix())
        for e in found
    }
    return Seen(shown, "\n".join(notes))


def by_ppim(folder, captions=True):
    notes, keep, shown = [], load(CaptionerSettings()), {}
    for one in reading.sources(folder, folder.parent / "made", notes.append, captions=captions):
        if one.problem:
            shown[one.path] = one.problem
            continue
        file = folder / one.path
        try:
            text = keep([Shown(file, file, [folder / name for name in one.captions], one.told)])[0].text
        except BadCaption as reason:
            shown[one.path] = str(reason)
            continue
        mask = dataset.mask_of([folder / mask for mask in one.masks])
        said = tuple(line for line in text.split("\n") if line)
        shown[one.path] = (said, one.repeats, mask and mask.relative_to(folder).as_posix())
    return Seen(shown, "\n".join(notes))


@dataclass(frozen=True)
class Row:
    """A row of the table: what lies in the folder, what it is, what `train` and `ppim` do with it, and the proof."""

    lies: str
    what: str
    train: str
    ppim: str
    proof: Callable[[Path], None]

    def __str__(self) -> str:
        return f"| {self.lies} | {self.what} | {self.train} | {self.ppim} |"


ROWS: list[Row] = []


def row(lies, what, train, ppim):
    def add(proof):
        ROWS.append(Row(lies, what, train, ppim, proof))
        return proof

    return add


def same(folder, **pictures):
    """Both see these pictures, with (captions, repeats, mask); gives what they said."""
    wanted = {name.replace("__", "/").replace("_", "."): value for name, value in pictures.items()}
    train, ppim = by_train(folder), by_ppim(folder)
    assert train.pictures == ppim.pictures == wanted
    return train.said, ppim.said


@row(
    "`a.png`, `b.JPG`, `below/c.webp` …",
    "a picture: PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF, HEIC",
    "trained on",
    "prepared",
)
def pictures(folder):
    (
        put(folder, "a.png", "a"),
        put(folder, "b.JPG", "b"),
        put(folder, "below/c.webp", "c"),
        put(folder, "below/a.png", "d"),
    )
    same(
        folder,
        a_png=(("a",), 1, None),
        b_JPG=(("b",), 1, None),
        below__c_webp=(("c",), 1, None),
        below__a_png=(("d",), 1, None),
    )


@row(
    "links to files and folders",
    "what they lead to, each folder once; what lies outside is said",
    "trained on",
    "prepared",
)
def links(folder):
    put(folder.parent, "disk/a.png", "a"), put(folder, "b.png", "b")
    (folder / "in").symlink_to(folder.parent / "disk", target_is_directory=True)
    (folder / "again").symlink_to(folder.parent / "disk", target_is_directory=True)
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "c.png").symlink_to(folder.parent / "disk/a.png")
    (folder / "c.txt").write_text("c")
    train, ppim = by_train(folder), by_ppim(folder)
    assert train.pictures == ppim.pictures and len(train.pictures) == 3 and "b.png" in train.pictures
    for seen in (train, ppim):
        assert "2 pictures are outside" in seen.said


@row("`.hidden/`, `.a.png`", "nothing", "passed by", "passed by")
def hidden(folder):
    put(folder, "a.png", "a"), put(folder, ".b.png", "b"), put(folder, ".c/d.png", "d")
    assert same(folder, a_png=(("a",), 1, None)) == ("", "")


@row(
    "`a.psd`, `a.cr2`, `a.jxl`, `a.svg` …",
    "a picture of a kind that is not read",
    "left out, said",
    "left out, in the report",
)
def others(folder):
    put(folder, "a.png", "a"), put(folder, "b.psd"), put(folder, "c.CR2")
    train, ppim = by_train(folder), by_ppim(folder)
    assert list(train.pictures) == ["a.png"] and "1 Photoshop, 1 CR2" in train.said
    assert "Photoshop is not read" in ppim.pictures["b.psd"] and "CR2 is not read" in ppim.pictures["c.CR2"]


@row(
    "`a.txt`, `a.TXT`, `a.caption`, `a.png.txt`",
    "captions of `a.png`, one a line; UTF-8, or UTF-16 with its mark",
    "an epoch shows one of them",
    "`--caption keep` carries each line over; else they are counted",
)
def caption_files(folder):
    for name in ("a.txt", "b.TXT", "c.caption", "d.png.txt", "E.Txt"):
        put(folder, name, f"{name}\nsecond\n\n")
    for name in ("a.png", "b.png", "c.png", "d.png", "e.PNG"):
        put(folder, name)
    (folder / "a.txt").write_bytes("größer\r\nsecond".encode("utf-16"))
    same(
        folder,
        a_png=(("größer", "second"), 1, None),
        b_png=(("b.TXT", "second"), 1, None),
        c_png=(("c.caption", "second"), 1, None),
        d_png=(("d.png.txt", "second"), 1, None),
        e_PNG=(("E.Txt", "second"), 1, None),
    )
    assert "5 pictures with captions that are not read; --caption keep" in by_ppim(folder, captions=False).said


@row("two caption files that differ", "a fault", "exit 3, with all faults", "that picture is left out, in the report")
def two_captions(folder):
    (
        put(folder, "a.png", "one"),
        put(folder, "a.caption", "two"),
        put(folder, "b.png", "b"),
        put(folder, "b.png.txt", "b"),
    )
    with pytest.raises(InputError, match=r"two caption files that differ: a.caption and a.txt"):
        by_train(folder)
    assert "a.caption and a.txt differ" in by_ppim(folder).pictures["a.png"]
    (folder / "a.caption").unlink()
    same(folder, a_png=(("one",), 1, None), b_png=(("b",), 1, None))


@row("`b.txt` without `b.png`", "a caption of nothing", "said", "said, with `--caption keep`")
def loose_captions(folder):
    put(folder, "a.png", "a"), put(folder, "b.txt"), put(folder, "texts/c.txt")
    for said in same(folder, a_png=(("a",), 1, None)):
        assert said == "1 caption file of no picture is not read: b.txt"


@row(
    "`metadata.jsonl`, `metadata.csv`",
    "a row a picture: `file_name` (with `/` or `\\`), `text`, `repeats`, `mask`; a caption file rules over it, and what is in "
    "no row is left out",
    "read",
    "read; its captions with `--caption keep`",
)
def tables(folder):
    for name in ("x/a.png", "b.png", "c.png", "own.png"):
        put(folder, name)
    put(folder, "b.txt", "beside"), put(folder, "m.png")
    lines = [
        {"file_name": "x\\a.png", "text": ["one", "two"], "repeats": 3},
        {"file_name": "b.png", "text": "row", "mask": "m.png"},
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    put(folder, "csv/d.png"), put(folder, "csv/e.png"), put(folder, "csv/f.png")
    (folder / "csv/metadata.csv").write_bytes(
        b'\xef\xbb\xbffile_name;text;repeats\r\nd.png;"red; green";2\r\n.\\e.png;e;\r\n'
    )
    for said in same(
        folder,
        x__a_png=(("one", "two"), 3, None),
        b_png=(("beside",), 1, "m.png"),
        csv__d_png=(("red; green",), 2, None),
        csv__e_png=(("e",), 1, None),
    ):
        assert re.search(r"3 pictures are in no row .*c.png, csv/f.png, own.png", said)
    put(folder, "metadata.jsonl", '{"file_name": "gone.png"}\nnonsense\n')
    for read in (by_train, by_ppim):
        with pytest.raises(InputError, match=r"gone\.png") as told:
            read(folder)
        assert "metadata.jsonl:2" in str(told.value)


@row(
    "`10_sks dog/a.png`",
    "10 repeats, and “sks dog” where there is no other caption",
    "shown 10 times an epoch",
    '`"repeats": 10`; its caption with `--caption keep`',
)
def kohya(folder):
    put(folder, "10_sks dog/a.png"), put(folder, "1_x/2_sks cat/b.png", "own"), put(folder, "c.png", "c")
    train, ppim = by_train(folder), by_ppim(folder)
    assert (
        train.pictures
        == ppim.pictures
        == {
            "10_sks dog/a.png": (("sks dog",), 10, None),
            "1_x/2_sks cat/b.png": (("own",), 2, None),
            "c.png": (("c",), 1, None),
        }
    )


@row("`0_later/a.png`", "0 repeats", "left out, said", "left out, said")
def zero(folder):
    put(folder, "0_later/a.png"), put(folder, "b.png", "b")
    for said in same(folder, b_png=(("b",), 1, None)):
        assert said == "left out, with 0 for their number: 0_later"


@row(
    "`2023_summer/a.png`",
    "a date: a number above 200 is none of repeats",
    "shown once an epoch, said; `--repeats kohya` takes it so",
    "no repeats, said",
)
def dates(folder):
    put(folder, "2023_summer/a.png", "a"), put(folder, "b.png", "b")
    for said in (train := by_train(folder)).said, (ppim := by_ppim(folder)).said:
        assert "taken for dates and no repeats: 2023_summer" in said
    assert train.pictures == ppim.pictures == {"2023_summer/a.png": (("a",), 1, None), "b.png": (("b",), 1, None)}
    assert by_train(folder, repeats="kohya").pictures["2023_summer/a.png"][1] == 2023


@row(
    "`100_dog/`, `4_cat/`",
    "repeats that are more than 20 times as many as others",
    "exit 3; `--repeats kohya` or `none` says what is meant",
    "taken, said",
)
def unequal(folder):
    put(folder, "100_dog/a.png"), put(folder, "4_cat/b.png")
    with pytest.raises(InputError, match="20 times as often") as told:
        by_train(folder)
    assert "--repeats none" in str(told.value) and "100_dog (100 times) and 4_cat (4)" in str(told.value)
    ppim = by_ppim(folder)
    assert "more than 20 times" in ppim.said and ppim.pictures["100_dog/a.png"][1] == 100
    for asked, wanted in (("kohya", [100, 4]), ("none", [1, 1]), ("7", [7, 7])):
        assert [times for _, times, _ in by_train(folder, repeats=asked).pictures.values()] == wanted


@row(
    "`a.mask.png`, `a.mask.jpg`, `a.mask.PNG`, `a-masklabel.png`, `masks/a.png`",
    "the mask of `a.png`: white is learnt; two must be the same",
    "weighs the loss, `--mask-weight`",
    "cut, turned and scaled with its picture to `a.mask.png`, unless `--mask` makes others",
)
def mask_files(folder):
    for name in ("a", "b", "c", "d"):
        put(folder, f"x/{name}.png", name)
    for name in ("a.mask.png", "b.mask.jpg", "c.mask.PNG", "d-masklabel.png"):
        put(folder, f"x/{name}")
    put(folder, "y/e.jpg", "e"), put(folder, "y/masks/e.png"), put(folder, "z/images/1_f/f.png", "f")
    put(folder, "z/mask/1_f/f.png")
    train, ppim = by_train(folder), by_ppim(folder)
    assert {name: mask for name, (_, _, mask) in train.pictures.items()} == {
        "x/a.png": "x/a.mask.png",
        "x/b.png": "x/b.mask.jpg",
        "x/c.png": "x/c.mask.PNG",
        "x/d.png": "x/d-masklabel.png",
        "y/e.jpg": "y/masks/e.png",
        "z/images/1_f/f.png": "z/mask/1_f/f.png",
    }
    assert train.pictures == ppim.pictures and train.said == ppim.said == ""
    picture((16, 12), seed=99).save(folder / "x/a-masklabel.png")
    with pytest.raises(InputError, match="masks of one picture and differ"):
        by_train(folder)


@row("`b.mask.png` without `b.png`", "a mask of nothing", "left out, said", "left out, said")
def lone_masks(folder):
    put(folder, "a.png", "a"), put(folder, "b.mask.png"), put(folder, "masks/a.png"), put(folder, "masks/c.png")
    for said in same(folder, a_png=(("a",), 1, "masks/a.png")):
        assert said == "2 masks are of no picture, left out: b.mask.png, masks/c.png"


@row("`a_mask.png` beside `a.png`", "a picture, for photographs are named so too", "trained on, said", "prepared, said")
def perhaps_masks(folder):
    put(folder, "a.png", "a"), put(folder, "a_mask.png", "b")
    train, ppim = by_train(folder), by_ppim(folder)
    assert train.pictures == ppim.pictures and len(ppim.pictures) == 2
    for seen in (train, ppim):
        assert "1 picture is named like a mask, taken for a picture: a_mask.png" in seen.said


@row(
    "what lorakit drew: samples, previews, class pictures",
    "its own, unless there is nothing else, or a person has captioned it",
    "left out, named once",
    "left out, named once",
)
def drawings(folder):
    put(folder, "a.png", "a")
    for name in ("00000.png", "dog.run/previews/step-000010-0.png", "mine.png"):
        drawn(folder / name)
    (folder / "mine.txt").write_text("my words")
    with recorded(folder / "class") as record:
        drawn(folder / "class/00000.png")
        for name, text in (("00000.txt", "a dog"), ("metadata.jsonl", '{"file_name": "00000.png", "text": "a dog"}')):
            (folder / "class" / name).write_text(text)
            record.add(name, folder / "class" / name)
    for said in same(folder, a_png=(("a",), 1, None), mine_png=(("my words",), 1, None)):
        assert said == (
            f"left out of {folder}: 3 that lorakit wrote itself (00000.png, 1 in class, 1 in dog.run/previews)"
        )
    (folder / "class/00000.txt").unlink()  # the table is read where its pictures are data
    train, ppim = by_train(folder / "class"), by_ppim(folder / "class")
    assert train.pictures == ppim.pictures == {"00000.png": (("a dog",), 1, None)}
    assert "all pictures of" in train.said and train.said == ppim.said
    assert by_train(folder, drawings=True, prompt="x").pictures.keys() >= {"a.png", "00000.png"}


@row(
    "contact sheets, grids, plots, films of lorakit's",
    "its own, to be looked at",
    "left out, named once",
    "left out, named once",
)
def sheets(folder):
    put(folder, "a.png", "a")
    picture().save(folder / "plot.png", pnginfo=pngtext.drafted())
    put(folder, "contact-sheet.png").with_name(".manifest.jsonl").write_text("")
    with recorded(folder) as record:
        picture().save(folder / "grid.gif")
        record.add("grid.gif", folder / "grid.gif")
    for said in same(folder, a_png=(("a",), 1, None)):
        assert "3 that lorakit wrote itself (contact-sheet.png, grid.gif, plot.png)" in said


@row("the run folder, the output, `--prior-dir`", "no part of the set, wherever they lie", "left out, named once", "—")
def places(folder):
    put(folder, "a.png", "a"), put(folder, "reg/b.png", "b"), put(folder, "x.run/c.png", "c")
    seen = by_train(
        folder, places={folder / "reg": "--prior-dir", folder / "x.run": "the run folder", folder / "no": "no"}
    )
    assert list(seen.pictures) == ["a.png"]
    assert seen.said == f"left out of {folder}: 1 of --prior-dir, 1 of the run folder"
    assert list(by_train(folder, places={folder: "the run folder"}).pictures) == ["a.png", "reg/b.png", "x.run/c.png"]


@row("`{red\\|blue}` in a caption", "as it stands", "with `--wildcards` one of the two", "carried over as it stands")
def choices(folder):
    put(folder, "a.png", "a {red|blue} ball")
    same(folder, a_png=(("a {red|blue} ball",), 1, None))


@pytest.mark.posix
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.proof.__name__)
def test_a_row_of_the_table(row, tmp_path):
    (tmp_path / "set").mkdir()
    row.proof(tmp_path / "set")


def test_the_table_in_the_readme_is_this_one():
    head = "| in the folder | is | `train` | `ppim` |\n| --- | --- | --- | --- |\n"
    table = head + "".join(f"{row}\n" for row in ROWS)
    assert table in README.read_text(encoding="utf-8"), table


def test_files_of_windows_fit_but_for_the_case_of_letters(tmp_path):
    put(tmp_path, "IMG_1.JPG"), put(tmp_path, "img_1.txt", "one"), put(tmp_path, "img_1.MASK.png")
    seen = by_train(tmp_path)
    assert seen.pictures == by_ppim(tmp_path).pictures == {"IMG_1.JPG": (("one",), 1, "img_1.MASK.png")}
    put(tmp_path, "img_1.png")  # now the files are this one's to the letter
    assert by_ppim(tmp_path).pictures == {"IMG_1.JPG": ((), 1, None), "img_1.png": (("one",), 1, "img_1.MASK.png")}


def test_a_mask_of_a_row_that_was_taken_away_is_none_and_another_that_lacks_is_a_fault(tmp_path):
    put(tmp_path, "a.png")
    line = {"file_name": "a.png", "text": "a", "mask": "a.mask.png"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line))
    assert by_train(tmp_path).pictures == {"a.png": (("a",), 1, None)}
    (tmp_path / "metadata.jsonl").write_text(json.dumps({**line, "mask": "elsewhere/a.png"}))
    with pytest.raises(InputError, match=r"1 masks? that tables name"):
        by_train(tmp_path)


def test_a_csv_of_something_else_and_a_parquet_are_said_not_to_be_read(tmp_path):
    put(tmp_path, "a.png", "a")
    (tmp_path / "metadata.csv").write_text("camera,lens\nx,y\n")
    (tmp_path / "metadata.parquet").write_text("")
    seen = by_train(tmp_path)
    assert list(seen.pictures) == ["a.png"]
    assert "metadata.csv is not read: metadata.csv has no column file_name" in seen.said
    assert "metadata.parquet is not read; write it as metadata.jsonl" in seen.said


def test_repeats_beyond_all_reason_are_refused_whoever_asks(tmp_path):
    put(tmp_path, "20240315_x/a.png", "a")
    with pytest.raises(InputError, match="20240315_x"):
        by_train(tmp_path, repeats="kohya")


def test_class_pictures_are_those_that_a_table_names_and_those_that_were_put_beside_them(tmp_path):
    drawn(tmp_path / "00000.png")
    put(tmp_path, "metadata.jsonl", '{"file_name": "00000.png", "text": "a dog", "source": "prior-gen"}')
    put(tmp_path, "1_cat/mine.png")
    classes = by_train(tmp_path, drawings=True)
    assert classes.pictures.keys() == {"00000.png", "1_cat/mine.png"} and not classes.said
    assert by_train(tmp_path).pictures.keys() == {"00000.png"}
