import json

from PIL import Image

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


def test_a_second_run_does_nothing_and_ends_in_the_same_bytes(lorakit, tmp_path):
    raw = make_raw(tmp_path)
    lorakit("ppim", raw, "data", "--caption", "filename")
    before, stamp = snapshot(tmp_path / "data"), (tmp_path / "data" / "sub-tall.png").stat().st_mtime_ns
    lorakit("ppim", raw, "data", "--caption", "filename")
    assert snapshot(tmp_path / "data") == before
    assert (tmp_path / "data" / "sub-tall.png").stat().st_mtime_ns == stamp
    assert before["red_apple-01.txt"] == b"red apple\n"


def test_exif_turns_the_picture(lorakit, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    image = Image.new("RGB", (64, 64), "red")
    image.paste("blue", (0, 0, 64, 32))  # the upper half is blue
    exif = Image.Exif()
    exif[0x0112] = 3  # shown upside down
    image.save(raw / "a.png", exif=exif)
    lorakit("ppim", raw, "data")
    out = Image.open(tmp_path / "data" / "a.png")
    assert out.getpixel((32, 60)) == (0, 0, 255) and not out.getexif()


def test_crops(lorakit, tmp_path):
    raw = make_raw(tmp_path)
    lorakit("ppim", raw, "buckets", "--crop", "bucket")
    lorakit("ppim", raw, "padded", "--crop", "pad")
    wide = Image.open(tmp_path / "buckets" / "red_apple-01.png")
    assert wide.width > wide.height and wide.width % 16 == wide.height % 16 == 0
    assert Image.open(tmp_path / "padded" / "red_apple-01.png").getpixel((32, 1)) == (255, 255, 255)


def test_duplicates_and_strict(json_of, lorakit, tmp_path):
    raw = make_raw(tmp_path)
    (raw / "copy.png").write_bytes((raw / "red_apple-01.png").read_bytes())
    assert json_of("ppim", raw, "data")["duplicates"] == 1
    lorakit("ppim", raw, "strict", "--strict", status=3)


def test_raw_is_left_alone_and_a_strange_folder_is_refused(lorakit, tmp_path):
    raw = make_raw(tmp_path)
    lorakit("ppim", raw, raw / "data", status=3)
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "mine.txt").write_text("")
    lorakit("ppim", raw, "strange", status=4)
