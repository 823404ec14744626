import json

from PIL import Image

from lorakit.data import dataset
from lorakit.jobs.ppim.edit import parse
from tests.conftest import picture


def rows(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def snapshot(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def make_raw(tmp_path):
    raw = tmp_path / "raw"
    (raw / "sub").mkdir(parents=True)
    picture((300, 200)).save(raw / "red_apple-01.png")
    picture((200, 300), seed=1).save(raw / "sub" / "tall.jpg", quality=95)
    (raw / "sub" / "tall.txt").write_text("a tall thing\n")
    (raw / "bad.png").write_text("no picture")
    return raw


def test_pictures_captions_and_manifest(json_of, tmp_path):
    raw = make_raw(tmp_path)
    done = json_of(
        "ppim",
        raw,
        "data",
        "--caption",
        "keep",
        "--caption-template",
        "a photo of {token}, {caption}",
        "--token",
        "sks",
    )
    assert (done["read"], done["written"], done["duplicates"]) == (3, 2, 0)
    assert [r["file"].endswith("bad.png") for r in done["rejected"]] == [True]
    data = tmp_path / "data"
    assert (data / "sub-tall.txt").read_text() == "a photo of sks, a tall thing\n"
    assert (data / "red_apple-01.txt").read_text() == "a photo of sks\n"
    assert {tuple(row["crop_box"]) for row in rows(data)} == {(50, 0, 250, 200), (0, 50, 200, 250)}
    assert all(Image.open(data / row["file_name"]).size == (64, 64) for row in rows(data))
    assert "bad.png" in (data / "report.html").read_text()


def test_a_second_run_does_nothing_and_ends_in_the_same_bytes(program, tmp_path):
    raw = make_raw(tmp_path)
    program("ppim", raw, "data", "--caption", "filename")
    before, stamp = snapshot(tmp_path / "data"), (tmp_path / "data" / "sub-tall.png").stat().st_mtime_ns
    program("ppim", raw, "data", "--caption", "filename")
    assert snapshot(tmp_path / "data") == before
    assert (tmp_path / "data" / "sub-tall.png").stat().st_mtime_ns == stamp
    assert before["red_apple-01.txt"] == b"red apple\n"


def test_exif_turns_the_picture(program, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    image = Image.new("RGB", (64, 64), "red")
    image.paste("blue", (0, 0, 64, 32))  # the upper half is blue
    exif = Image.Exif()
    exif[0x0112] = 3  # shown upside down
    image.save(raw / "a.png", exif=exif)
    program("ppim", raw, "data")
    out = Image.open(tmp_path / "data" / "a.png")
    assert out.getpixel((32, 60)) == (0, 0, 255) and not out.getexif()


def test_crops(program, tmp_path):
    raw = make_raw(tmp_path)
    program("ppim", raw, "buckets", "--crop", "bucket")
    program("ppim", raw, "padded", "--crop", "pad")
    wide = Image.open(tmp_path / "buckets" / "red_apple-01.png")
    assert wide.width > wide.height and wide.width % 16 == wide.height % 16 == 0
    assert Image.open(tmp_path / "padded" / "red_apple-01.png").getpixel((32, 1)) == (255, 255, 255)


def test_duplicates_and_strict(json_of, program, tmp_path):
    raw = make_raw(tmp_path)
    (raw / "copy.png").write_bytes((raw / "red_apple-01.png").read_bytes())
    assert json_of("ppim", raw, "data")["duplicates"] == 1
    program("ppim", raw, "strict", "--strict", status=3)


def test_raw_is_left_alone_and_a_strange_folder_is_refused(program, tmp_path):
    raw = make_raw(tmp_path)
    program("ppim", raw, raw / "data", status=3)
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "mine.txt").write_text("")
    program("ppim", raw, "strange", status=4)


def test_a_set_is_trained_on_alike_before_and_after_it_is_prepared(program, tmp_path, one_worker):
    raw = tmp_path / "raw"
    for i, (name, caption) in enumerate(
        (
            ("3_sks dog/a.png", None),
            ("3_sks dog/b.png", "one\ntwo"),
            ("t/c.png", None),
            ("2023_x/d.png", "d"),
            ("0_no/e.png", "e"),
        )
    ):
        file = raw / name
        file.parent.mkdir(parents=True, exist_ok=True)
        picture((90, 80), seed=i).save(file)
        if caption:
            file.with_suffix(".TXT").write_text(caption)
    Image.new("L", (90, 80), 99).save(raw / "t/c-masklabel.png")
    (raw / "t/metadata.csv").write_text("file_name,text,repeats\nc.png,a row,5\n")
    program("ppim", "raw", "data", "--caption", "keep")
    before = [(e.captions, e.repeats, e.mask is not None) for e in dataset.read(raw, None)]
    after = [(e.captions, e.repeats, e.mask is not None) for e in dataset.read(tmp_path / "data", None)]
    assert (
        before
        == after
        == [(("d",), 1, False), (("sks dog",), 3, False), (("one", "two"), 3, False), (("a row",), 5, True)]
    )
    whole = snapshot(tmp_path / "data")
    program("ppim", "raw", "data", "--caption", "keep")
    assert snapshot(tmp_path / "data") == whole
    (raw / "3_sks dog").rename(raw / "4_sks dog")
    program("ppim", "raw", "data", "--caption", "keep", "--prune")
    assert sorted(e.repeats for e in dataset.read(tmp_path / "data", None)) == [1, 4, 4, 5]


def test_several_captions_are_edited_with_tabs_between_them():
    assert parse("a.png\tone\t two \nb.png\t\n", {"a.png": "", "b.png": "x"}) == {"a.png": "one\ntwo", "b.png": ""}
