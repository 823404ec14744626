"""ppim over time: what changes, what stays, what a kill leaves, and what people have written."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from PIL import Image

from lorakit.data.decode import decode
from lorakit.data.images import Crop
from lorakit.data.prepare import draw
from tests.conftest import picture

pytestmark = pytest.mark.usefixtures("one_worker")


def rows(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def snapshot(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for number, name in enumerate(("ant", "bee", "cat", "dog")):
        picture((120 + 10 * number, 100), seed=number).save(folder / f"{name}.png")
    return folder


def test_a_changed_source_is_done_anew_and_a_gone_one_leaves_with_prune(program, json_of, raw, tmp_path):
    json_of("ppim", raw, "data", "--caption", "filename")
    picture((90, 130), seed=9).save(raw / "bee.png")
    (raw / "dog.png").unlink()
    done = json_of("ppim", raw, "data", "--caption", "filename")
    assert done["prepared"] == 1 and done["written"] == 3 and (tmp_path / "data" / "dog.png").exists()
    json_of("ppim", raw, "data", "--caption", "filename", "--prune")
    program("ppim", raw, "fresh", "--caption", "filename")
    assert snapshot(tmp_path / "data") == snapshot(tmp_path / "fresh")


def test_damage_to_what_was_written_is_mended(json_of, raw, tmp_path):
    json_of("ppim", raw, "data")
    before = snapshot(tmp_path / "data")
    (tmp_path / "data" / "cat.png").write_bytes(b"damaged")
    assert json_of("ppim", raw, "data")["prepared"] == 1
    assert snapshot(tmp_path / "data") == before


def test_a_killed_run_goes_on_to_the_same_bytes(program, json_of, tmp_path):
    raw = tmp_path / "many"
    raw.mkdir()
    for number in range(14):
        picture((600, 500), seed=number).save(raw / f"{number:02d}.png", compress_level=1)
    command = [sys.executable, "-m", "lorakit", "ppim", "many", "killed", "--workers", "1"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    journal, started = tmp_path / "killed" / ".manifest.journal", time.monotonic()
    while not (journal.is_file() and journal.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None and time.monotonic() - started < 60
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "metadata.jsonl").exists()
    assert json_of("ppim", raw, "killed")["prepared"] <= 11
    program("ppim", raw, "whole")
    assert snapshot(tmp_path / "killed") == snapshot(tmp_path / "whole")


@pytest.mark.posix
def test_an_interrupt_ends_with_130_and_no_worker_stays(tmp_path):
    (tmp_path / "raw").mkdir()
    picture((900, 700), seed=1).save(tmp_path / "raw/000.png", compress_level=1)
    for number in range(1, 200):  # more than can be done before the signal comes
        os.link(tmp_path / "raw/000.png", tmp_path / f"raw/{number:03d}.png")
    command = [sys.executable, "-m", "lorakit", "ppim", "raw", "data", "--workers", "1", "--dedup", "off"]
    # Who started the tests in the background may have had them ignore the signal, and a child inherits that.
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=listens
    )
    while not (tmp_path / "data" / "000.png").is_file():
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130 and b"Traceback" not in process.stderr.read()
    for _ in range(100):
        alive = subprocess.run(
            ["ps", "-o", "stat=", "-g", str(process.pid)], capture_output=True, text=True, check=False
        )
        if not [state for state in alive.stdout.split() if not state.startswith("Z")]:
            return
        time.sleep(0.05)
    pytest.fail("a worker process is still there")


def test_near_duplicates_are_named_the_largest_stays_and_others_are_kept_apart(json_of, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    picture((200, 200), seed=1).save(raw / "b-large.png")
    picture((200, 200), seed=1).resize((100, 100)).save(raw / "a-small.jpg", quality=70)
    for number, colour in enumerate(("red", "blue", "green")):  # equal hashes, other colours
        Image.new("RGB", (99, 99), colour).save(raw / f"plain{number}.png")
    done = json_of("ppim", raw, "data")
    assert (done["duplicates"], done["written"], done["rejected"]) == (1, 4, [])
    assert {row["file_name"] for row in rows(tmp_path / "data")} >= {"b-large.png", "plain0.png", "plain2.png"}
    (raw / "b-large.png").unlink()
    assert json_of("ppim", raw, "data", "--prune")["written"] == 4  # what was a duplicate is none any more
    assert json_of("ppim", raw, "off", "--dedup", "off")["duplicates"] == 0


def test_copies_are_reproduced_from_their_lines(json_of, raw, tmp_path):
    json_of("ppim", raw, "data", "--augment", "flip,rotate,color,zoom", "--copies", "3", "--size", "48")
    found = rows(tmp_path / "data")
    assert [r["file_name"] for r in found[:3]] == ["ant.png", "ant+1.png", "ant+2.png"] and found[0][
        "augmentations"
    ] == []
    for row in found[1:6]:
        source = decode((raw / row["source"]).read_bytes())
        changes = row["augmentations"]
        how = Crop(
            box=tuple(row["crop_box"]),
            size=tuple(row["size"]),
            pad=False,
            angle=sum(c.get("angle", 0) for c in changes),
            mirrored=any(c.get("mirrored") for c in changes),
        )
        with Image.open(tmp_path / "data" / row["file_name"]) as written:
            assert np.array_equal(np.asarray(draw(source, how, changes, (255, 255, 255))), np.asarray(written))


def test_captions_written_by_hand_stay_until_forced(program, raw, tmp_path):
    program("ppim", raw, "data", "--caption", "filename")
    (tmp_path / "data" / "cat.txt").write_text("my own words\n")
    said = program("ppim", raw, "data", "--caption", "filename", "--token", "sks").stderr
    assert "1 caption written by hand" in said
    assert [row["text"] for row in rows(tmp_path / "data")] == ["sks ant", "sks bee", "my own words", "sks dog"]
    picture((99, 90), seed=8).save(raw / "bee.png")  # a new picture and a new template at once are no edit
    program("ppim", raw, "data", "--caption", "filename", "--token", "zwx")
    assert [row["text"] for row in rows(tmp_path / "data")] == ["zwx ant", "zwx bee", "my own words", "zwx dog"]
    program("ppim", raw, "data", "--caption", "filename", "--token", "sks", "--force")
    assert (tmp_path / "data" / "cat.txt").read_text() == "sks cat\n"


def test_edit_opens_all_captions_and_reads_them_back(program, raw, tmp_path):
    editor = tmp_path / "editor.sh"
    editor.write_text("#!/bin/sh\nsed -i 's/\\tbee$/\\ta new caption/' \"$1\"\n")
    editor.chmod(0o755)
    program("ppim", raw, "data", "--caption", "filename", "--edit", env={"EDITOR": str(editor), "VISUAL": ""})
    assert (tmp_path / "data" / "bee.txt").read_text() == "a new caption\n"
    assert [row["text"] for row in rows(tmp_path / "data")] == ["ant", "a new caption", "cat", "dog"]
    editor.write_text("#!/bin/sh\necho 'gone.png\twords' >> \"$1\"\n")
    failed = program("ppim", raw, "data", "--caption", "filename", "--edit", env={"EDITOR": str(editor)}, status=3)
    assert "no such picture" in failed.stderr and (tmp_path / "data" / "captions.edit.txt").is_file()


def test_small_and_blurred_pictures_are_refused_unless_asked_for(json_of, program, raw, tmp_path):
    picture((300, 300), seed=7).save(raw / "big.png")
    done = json_of("ppim", raw, "data", "--size", "110")
    assert done["written"] == 1 and len(done["rejected"]) == 4
    assert all("--upscale lanczos" in r["reason"] for r in done["rejected"])
    assert json_of("ppim", raw, "data", "--size", "110", "--upscale", "lanczos")["written"] == 5
    assert [row["upscaled"] for row in rows(tmp_path / "data")] == [True, True, False, True, True]
    failed = program("ppim", raw, "none", "--min-sharpness", "1e9", status=3)
    assert "of 5 pictures none" in failed.stderr and "--min-sharpness" in failed.stderr
    assert "sharpness" in (tmp_path / "none" / "report.html").read_text()


def test_bad_arguments_are_refused_at_once(program, raw):
    for wrong, hint in (
        (("--crop", "smrt"), "did you mean 'smart'"),
        (("--augment", "flop"), "did you mean 'flip'"),
        (("--copies", "3"), "--augment"),
        (("--background", "blurple"), "#a0c0ff"),
        (("--caption-template", "a {token}"), "--token"),
        (("--caption-replace", "x"), "OLD=NEW"),
        (("--size", "64x32", "--crop", "bucket"), "one number"),
    ):
        assert hint in program("ppim", raw, "data", *wrong, status=2).stderr


def test_no_torch_and_no_transformers_unless_a_model_is_asked_for(raw, tmp_path):
    code = (
        "import sys; from lorakit.cli import _run\n"
        f"assert _run(['ppim', {str(raw)!r}, 'data', '--crop', 'smart', '--caption', 'filename', '-q']) == 0\n"
        "print([m for m in ('torch', 'transformers', 'diffusers', 'timm', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_memory_does_not_grow_with_the_folder(tmp_path):
    """A few hundred bytes a picture: what 100,000 of them would need is measured on small ones."""
    import base64
    import tracemalloc

    from lorakit.jobs.ppim.keeping import Keeper
    from lorakit.jobs.ppim.manifest import Manifest
    from lorakit.jobs.ppim.reading import RawPicture, settle
    from lorakit.jobs.ppim.settings import Settings

    draw, used = np.random.default_rng(0), []
    for count in (100, 600):
        folder = tmp_path / str(count)
        folder.mkdir()
        given = [RawPicture(path=f"{i}.png", key=f"{i}.png", name=f"{i}") for i in range(count)]
        tracemalloc.start()
        manifest = Manifest(folder)
        for source in given:
            manifest.put(
                source.key,
                {
                    "sha256": draw.bytes(32).hex(),
                    "look": draw.bytes(8).hex(),
                    "source_size": [9, 9],
                    "colours": base64.b85encode(draw.bytes(192)).decode(),
                    "thumb": "x" * 9000,
                    "rows": [{"file_name": source.path}],
                },
            )
        settle(given, Settings(size=(64, 64), multiple=16), Keeper(folder, manifest, force=False, dry_run=False))
        used.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        manifest.close()
    assert (used[1] - used[0]) / 500 < 4000  # bytes a picture: 400 MB for 100,000


@pytest.mark.posix
def test_a_full_disk_ends_the_run_and_what_is_done_stays(json_of, tmp_path):
    (tmp_path / "raw").mkdir()
    picture((300, 300), seed=1).save(tmp_path / "raw" / "a.png")
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "raw" / "b.png")

    def full():
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # a write beyond fails as on a full disk

    command = [sys.executable, "-m", "lorakit", "ppim", "raw", "data", "--size", "256"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=full, check=False)
    assert done.returncode == 5 and "b.png could not be written" in done.stderr
    assert (tmp_path / "data" / "a.png").is_file() and not (tmp_path / "data" / "b.png").exists()
    assert json_of("ppim", "raw", "data", "--size", "256")["prepared"] == 1


def test_a_caption_that_cannot_be_read_leaves_its_picture_out(json_of, raw, tmp_path):
    (raw / "ant.txt").write_text("an ant")
    (raw / "bee.txt").write_bytes("eine Hummel, müde".encode("cp1252"))
    done = json_of("ppim", raw, "data", "--caption", "keep")
    assert "byte 14" in done["rejected"][0]["reason"] and done["written"] == 3
    assert not (tmp_path / "data" / "bee.png").exists()
    (raw / "bee.txt").write_text("eine Hummel, müde", encoding="utf-8")
    assert json_of("ppim", raw, "data", "--caption", "keep")["written"] == 4


def test_the_same_picture_in_two_splits_is_named_as_a_leak(json_of, tmp_path):
    for split in ("train", "test"):
        (tmp_path / "raw" / split).mkdir(parents=True)
        picture((90, 90)).save(tmp_path / "raw" / split / "x.png")
    assert any("two splits" in line for line in json_of("ppim", "raw", "data")["lint"])
