"""What a person may have written or changed in a training set stays, whatever is run over it again."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from tests.conftest import picture

pytestmark = pytest.mark.usefixtures("one_worker")
NAMES = ("ant", "bee", "cat", "dog", "eel")
TEMPLATE = ("--caption-template", "a photo of {token}, {caption}", "--token", "sks", "--caption", "filename")


@pytest.fixture
def data(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for number, name in enumerate(NAMES):
        picture((120 + 10 * number, 100), seed=number).save(raw / f"{name}.png")
    return tmp_path / "data"


@pytest.fixture
def ppim(program):
    def run(*options, status=0, raw="raw"):
        done = program("ppim", raw, "data", *options, "--json", status=status)
        return json.loads(done.stdout or "{}") | {"said": done.stderr}

    return run


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def rows(data):
    return [json.loads(line) for line in (data / "metadata.jsonl").read_text().splitlines()]


def captions(data):
    return {name: (data / f"{name}.txt").read_text().strip() for name in NAMES if (data / f"{name}.txt").is_file()}


def edit_rows(data, change):
    """`change` gets the rows and gives those to write."""
    written = change(rows(data))
    (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))


def retouch(file, colour="red"):
    with Image.open(file) as opened:
        Image.new("RGB", opened.size, colour).save(file)
    return file.read_bytes()


def test_captions_stay_where_the_options_that_made_them_are_left_out(ppim, data):
    ppim(*TEMPLATE)
    whole = captions(data)
    assert whole["ant"] == "a photo of sks, ant"
    for options in ((), ("--caption", "filename"), ("--caption", "keep"), ("--token", "sks")):
        done = ppim(*options)
        assert captions(data) == whole, options
        assert "5 captions stay as they are; --force writes them anew" in done["said"]
        assert done["kept"]["captions"] == 5
        assert [row["text"] for row in rows(data)] == list(whole.values())
    assert "--caption-template" in done["said"] or "--caption" in done["said"]
    ppim("--force")
    assert captions(data) == {}


def test_captions_of_ours_are_made_anew_by_other_options_of_the_same_kind(ppim, data):
    ppim(*TEMPLATE)
    ppim(*TEMPLATE[:1], "a drawing of {token}, {caption}", *TEMPLATE[2:])
    assert captions(data)["bee"] == "a drawing of sks, bee"
    (data.parent / "raw" / "bee.txt").write_text("a small bee")
    done = ppim(*TEMPLATE[:4], "--caption", "keep")
    assert captions(data)["bee"] == "a photo of sks, a small bee" and captions(data)["ant"] == "a photo of sks"
    (data.parent / "raw" / "bee.txt").unlink()
    done = ppim("--caption", "keep")  # says nothing of any picture now
    assert captions(data)["bee"] == "a photo of sks, a small bee" and done["kept"]["captions"] == 5


def test_a_caption_that_cannot_be_read_any_more_takes_nothing_away(ppim, data):
    (data.parent / "raw" / "bee.txt").write_text("eine Hummel")
    ppim("--caption", "keep")
    (data.parent / "raw" / "bee.txt").write_bytes("müde".encode("cp1252"))
    done = ppim("--caption", "keep")
    assert captions(data) == {"bee": "eine Hummel"} and (data / "bee.png").is_file() and not done["rejected"]


@pytest.mark.parametrize("content", ["my own words\n", "", "two\nlines\n"], ids=["words", "empty", "lines"])
def test_a_caption_of_a_persons_stays_to_the_byte(ppim, data, content):
    ppim("--caption", "filename")
    (data / "cat.txt").write_text(content)
    for options in ((), ("--caption", "filename", "--token", "sks"), ("--size", "48", "--caption", "filename")):
        done = ppim(*options)
        assert (data / "cat.txt").read_text() == content and "1 caption written by hand" in done["said"]
    assert "cat" in ppim("--caption", "filename", "--force")["outputs"][0] or captions(data)["cat"] == "cat"


def test_a_caption_in_another_coding_stays_to_the_byte(ppim, data):
    ppim()
    (data / "cat.txt").write_bytes("müde Katze".encode("cp1252"))
    ppim("--caption", "filename")
    assert (data / "cat.txt").read_bytes() == "müde Katze".encode("cp1252")


def test_masks_stay_where_none_are_asked_for_and_where_they_were_repainted(ppim, data):
    ppim("--mask", "subject")
    before = {name: (data / f"{name}.mask.png").read_bytes() for name in NAMES}
    done = ppim()
    assert {name: (data / f"{name}.mask.png").read_bytes() for name in NAMES} == before
    assert "5 masks stay as they are; --force removes them" in done["said"] and done["kept"]["masks"] == 5
    mine = retouch(data / "cat.mask.png", "white")
    for options in (("--mask", "subject"), ("--size", "48", "--mask", "subject"), ()):
        ppim(*options)
        assert (data / "cat.mask.png").read_bytes() == mine, options
    ppim("--mask", "subject", "--force")
    assert (data / "cat.mask.png").read_bytes() == before["cat"]
    ppim("--force")
    assert not list(data.glob("*.mask.png"))


def test_a_mask_that_a_person_has_made_is_never_ppims(ppim, data):
    ppim("--caption", "filename")
    Image.new("L", (64, 64), 200).save(data / "cat.mask.png")
    mine = (data / "cat.mask.png").read_bytes()
    for options in ((), ("--mask", "subject"), ("--mask", "subject", "--force"), ("--force",)):
        done = ppim(*options)
        assert (data / "cat.mask.png").read_bytes() == mine and "cat.mask.png" in done["said"]


def test_a_damaged_mask_is_mended(ppim, data):
    ppim("--mask", "subject")
    before = tree(data)
    (data / "cat.mask.png").write_bytes(b"damaged")
    ppim("--mask", "subject")
    assert tree(data) == before


def test_a_retouched_picture_stays_until_forced(ppim, data):
    ppim()
    before = tree(data)
    mine = retouch(data / "cat.png")
    for options in ((), ("--size", "48"), ("--crop", "pad"), ()):
        done = ppim(*options)
        assert (data / "cat.png").read_bytes() == mine, options
        assert "1 picture changed by hand stays as it is; --force makes it anew: cat.png" in done["said"]
        assert len(rows(data)) == 5
    picture((90, 90), seed=77).save(data.parent / "raw" / "cat.png")  # its source is another one now
    assert ppim()["kept"]["pictures"] == 1 and (data / "cat.png").read_bytes() == mine
    picture((140, 100), seed=2).save(data.parent / "raw" / "cat.png")
    ppim("--force")
    assert tree(data) == before


def test_a_retouched_picture_costs_no_work_in_later_runs(ppim, data):
    ppim()
    retouch(data / "cat.png")
    ppim()
    assert ppim()["prepared"] == 0


def test_rows_that_were_edited_survive(ppim, data):
    ppim("--caption", "filename")

    def change(found):
        found[0] |= {"text": "my ant", "repeats": 3}
        found[1] |= {"note": "the good one"}
        found[2].pop("quality")
        return [found[4], found[1], found[0], found[2], {"file_name": "own.png", "text": "mine", "x": 1}]  # no dog

    picture((64, 64), seed=50).save(data / "own.png")
    edit_rows(data, change)
    edited = rows(data)
    for _ in range(2):
        done = ppim("--caption", "filename")
        assert [{k: v for k, v in row.items() if k != "by_hand"} for row in rows(data)] == edited
        assert captions(data)["ant"] == "my ant" and done["kept"]["rows"] == 3 and (data / "dog.png").is_file()
        assert "1 picture left out, without a line in metadata.jsonl" in done["said"] and "dog.png" in done["said"]
    picture((70, 70), seed=60).save(data.parent / "raw" / "aaa.png")
    ppim("--caption", "filename", "--size", "48")
    assert [row["file_name"] for row in rows(data)] == [
        "eel.png",
        "bee.png",
        "ant.png",
        "cat.png",
        "own.png",
        "aaa.png",
    ]
    assert rows(data)[2]["repeats"] == 3 and rows(data)[2]["size"] == [48, 48]
    ppim("--caption", "filename", "--force")
    names = [row["file_name"] for row in rows(data)]
    assert names == ["aaa.png", *(f"{name}.png" for name in NAMES), "own.png"]
    assert "repeats" not in rows(data)[1] and rows(data)[1]["text"] == "ant" and "quality" in rows(data)[3]


def test_a_row_taken_in_again_is_in_the_set_again(ppim, data):
    ppim("--caption", "filename")
    whole = (data / "metadata.jsonl").read_text()
    edit_rows(data, lambda found: found[1:])
    assert ppim("--caption", "filename")["written"] == 4
    (data / "metadata.jsonl").write_text(whole)
    done = ppim("--caption", "filename")
    assert done["written"] == 5 and "left out" not in done["said"] and (data / "metadata.jsonl").read_text() == whole


def test_a_picture_left_out_wholly_is_not_made_again(ppim, data):
    ppim("--caption", "filename")
    edit_rows(data, lambda found: found[1:])
    (data / "ant.png").unlink()
    for options in ((), ("--size", "48")):
        assert ppim("--caption", "filename", *options)["written"] == 4 and not (data / "ant.png").exists()
    ppim("--caption", "filename", "--force")
    assert (data / "ant.png").is_file()


def test_several_captions_in_a_row_reach_training(ppim, data):
    from lorakit.data.dataset import read

    ppim("--caption", "filename")
    edit_rows(data, lambda found: [found[0] | {"text": ["one", "two"]}, found[1] | {"text": "three\nfour"}, *found[2:]])
    for _ in range(2):
        ppim("--caption", "filename")
        assert [one.captions for one in read(data, None)][:3] == [("one", "two"), ("three", "four"), ("cat",)]
    assert rows(data)[0]["text"] == ["one", "two"] and rows(data)[1]["text"] == "three\nfour"


def test_a_table_that_cannot_be_read_is_refused_and_made_anew_with_force(ppim, data):
    ppim()
    bad = b'{broken\n[1]\n{"file_name": "\\ud800"}\n{"file_name": "m\xfcde.png"}\n'
    (data / "metadata.jsonl").write_bytes((data / "metadata.jsonl").read_bytes() + bad)
    before = tree(data)
    assert "line 6, 7, 8, 9" in ppim(status=3)["said"]
    assert {**tree(data), ".manifest.journal": None} == {**before, ".manifest.journal": None}
    ppim("--force")
    assert len(rows(data)) == 5


def test_files_of_a_persons_are_never_touched_and_are_named_once(ppim, data):
    ppim("--caption", "filename")
    picture((64, 64), seed=70).save(data / "own.png")
    (data / "own.txt").write_text("my own picture")
    (data / "notes").mkdir()
    (data / "notes" / "novel.txt").write_text("chapter one")
    own = {name: content for name, content in tree(data).items() if "own" in name or "no" in name}
    for options in ((), ("--prune",), ("--force", "--prune"), ("--size", "48", "--force")):
        done = ppim("--caption", "filename", *options)
        assert done["said"].count("own.png") == 1 and "3 files in data are not ppim's" in done["said"]
        assert own.items() <= tree(data).items() and done["written"] == 5


def test_a_persons_file_where_ours_would_stand_stays(ppim, data):
    ppim()
    picture((64, 64), seed=71).save(data / "fox.png")
    mine = (data / "fox.png").read_bytes()
    picture((99, 99), seed=72).save(data.parent / "raw" / "fox.jpg")
    for options in ((), ("--force",)):
        done = ppim(*options)
        assert (data / "fox.png").read_bytes() == mine and "not ppim's; rename it" in done["rejected"][0]["reason"]
    (data / "fox.png").unlink()
    assert ppim()["written"] == 6


def test_links_stay_links_and_what_they_lead_to_stays(ppim, data, tmp_path):
    ppim("--caption", "filename")
    (tmp_path / "elsewhere.txt").write_text("cat\n")
    (tmp_path / "elsewhere.png").write_bytes((data / "cat.png").read_bytes())
    before = (tmp_path / "elsewhere.png").read_bytes()
    for suffix in ("txt", "png"):
        (data / f"cat.{suffix}").unlink()
        (data / f"cat.{suffix}").symlink_to(tmp_path / f"elsewhere.{suffix}")
    ppim("--caption", "filename", "--token", "sks", "--size", "48")
    assert (data / "cat.txt").is_symlink() and (data / "cat.png").is_symlink()
    ppim("--caption", "filename", "--token", "sks", "--size", "48", "--force")
    assert (tmp_path / "elsewhere.txt").read_text() == "cat\n" and (tmp_path / "elsewhere.png").read_bytes() == before
    assert (data / "cat.txt").read_text() == "sks cat\n" and not (data / "cat.png").is_symlink()


@pytest.mark.parametrize("name", ["report.html", "contact-sheet.png"])
def test_a_report_of_a_persons_stays(ppim, data, name):
    (data).mkdir()
    ppim("--contact-sheet")
    ours = (data / name).read_bytes()
    (data / name).write_text("my own page")
    assert f"{name} was changed and stays as it is" in ppim("--contact-sheet")["said"]
    assert (data / name).read_text() == "my own page"
    ppim("--contact-sheet", "--force")
    assert (data / name).read_bytes() == ours


def test_a_contact_sheet_that_is_not_ppims_stays_with_force_too(ppim, data):
    ppim()
    (data / "contact-sheet.png").write_text("mine")
    for options in ((), ("--force",)):
        assert "is not ppim's" in ppim("--contact-sheet", *options)["said"]
        assert (data / "contact-sheet.png").read_text() == "mine"


def test_a_folder_that_ppim_has_not_made_is_refused_by_what_is_in_it(ppim, data):
    data.mkdir()
    (data / "novel.txt").write_text("chapter one")
    assert "novel.txt is there" in ppim(status=4)["said"]
    ppim("--force")
    assert (data / "novel.txt").read_text() == "chapter one" and len(rows(data)) == 5


def test_a_table_that_ppim_has_not_made_is_refused_with_force_too(ppim, data):
    data.mkdir()
    (data / "metadata.jsonl").write_text('{"file_name": "x.png", "text": "mine"}\n')
    before = tree(data)
    for options in ((), ("--force",)):
        assert "metadata.jsonl was not made by ppim" in ppim(*options, status=4)["said"]
        assert tree(data) == before


def test_prune_removes_what_is_ours_and_names_what_was_changed(ppim, data):
    ppim("--caption", "filename", "--mask", "subject")
    (data / "ant.txt").write_text("my words")
    mask, retouched = retouch(data / "bee.mask.png", "white"), retouch(data / "cat.png")
    for name in ("ant", "bee", "cat"):
        (data.parent / "raw" / f"{name}.png").unlink()
    options = ("--caption", "filename", "--mask", "subject")
    assert "3 pictures in data no part of the set any more" in ppim(*options)["said"]
    assert (data / "ant.png").is_file()
    done = ppim(*options, "--prune")
    assert "3 files changed by hand stay" in done["said"] and done["kept"]["files"] == 3
    there = {path.name for path in data.iterdir() if path.name[:3] in ("ant", "bee", "cat")}
    assert there == {"ant.txt", "bee.mask.png", "cat.png"}
    assert (data / "bee.mask.png").read_bytes() == mask and (data / "cat.png").read_bytes() == retouched
    assert "3 files in data are not ppim's" in ppim(*options)["said"]


def test_pictures_that_fall_out_of_the_set_stay_until_prune(ppim, data):
    picture((40, 40), seed=9).save(data.parent / "raw" / "small.png")
    ppim("--caption", "filename", "--upscale", "lanczos", "--mask", "subject")
    before = {name: content for name, content in tree(data).items() if name.startswith("small")}
    assert len(before) == 3
    done = ppim("--caption", "filename")  # without --upscale it is too small
    assert len(done["rejected"]) == 1 and before.items() <= tree(data).items()
    ppim("--caption", "filename", "--upscale", "lanczos")
    assert before.items() <= tree(data).items() and len(rows(data)) == 6
    ppim("--caption", "filename", "--prune")
    assert not [name for name in tree(data) if name.startswith("small")]


def test_a_caption_goes_with_its_picture_when_that_is_called_otherwise(ppim, data):
    ppim("--caption", "filename")
    (data / "cat.txt").write_text("my cat")
    picture((99, 99), seed=80).save(data.parent / "raw" / "cat.jpg")
    ppim("--caption", "filename")
    assert (data / "cat-png.txt").read_text() == "my cat" and not (data / "cat.txt").exists()
    ppim("--caption", "filename", "--image-format", "webp")
    assert (data / "cat-png.txt").read_text() == "my cat" and not (data / "cat-png.png").exists()


def test_dry_run_says_what_would_stay_and_changes_nothing(ppim, data):
    ppim(*TEMPLATE, "--mask", "subject")
    retouch(data / "cat.png")
    edit_rows(data, lambda found: [found[0] | {"repeats": 2}, *found[2:]])
    (data.parent / "raw" / "bad.png").write_text("no picture")
    before = tree(data.parent)
    dry = ppim("--dry-run")
    assert tree(data.parent) == before
    for line in ("5 captions stay", "5 masks stay", "1 picture changed by hand", "1 picture left out", "1 line edited"):
        assert line in dry["said"], line
    assert dry["outputs"] == [] and len(dry["rejected"]) == 1
    wet = ppim()
    assert {**dry, "outputs": 0, "seconds": 0} == {**wet, "outputs": 0, "seconds": 0}


def test_a_killed_run_takes_nothing_of_its_own_for_a_persons(ppim, data, tmp_path):
    raw = tmp_path / "raw"
    for number in range(40):
        picture((500, 400), seed=number).save(raw / f"{number:02d}.png", compress_level=1)
    options = ["--caption", "filename", "--mask", "subject"]
    ppim(*options)
    for round_, size in enumerate((48, 80)):
        more = [*options, "--size", str(size)]
        command = [sys.executable, "-m", "lorakit", "ppim", "raw", "data", *more, "--token", f"t{size}"]
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        journal, started = data / ".manifest.journal", time.monotonic()
        while not (journal.is_file() and journal.read_bytes().count(b"\n") >= 5 + 60 * round_):
            assert process.poll() is None and time.monotonic() - started < 60
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = ppim(*options, "--token", "sks")
    assert done["kept"] == dict.fromkeys(done["kept"], 0) and "not ppim's" not in done["said"]
    assert not list(data.glob(".ppim-new*"))


def test_what_a_person_changes_after_a_kill_stays_too(ppim, data, tmp_path):
    raw = tmp_path / "raw"
    for number in range(20):
        picture((500, 400), seed=number).save(raw / f"{number:02d}.png", compress_level=1)
    command = [sys.executable, "-m", "lorakit", "ppim", "raw", "data", "--size", "48"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not (data / "05.png").is_file():
        assert process.poll() is None
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    mine = retouch(data / "00.png")
    (data / "01.txt").write_text("my own\n")
    ppim("--caption", "filename")
    assert (data / "00.png").read_bytes() == mine and (data / "01.txt").read_text() == "my own\n"
