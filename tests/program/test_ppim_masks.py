"""Masks beside raw pictures are carried over with whatever happens to the picture."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lorakit.data.faces import need_opencv
from lorakit.errors import LorakitError
from lorakit.jobs.ppim.keeping import Keeper
from lorakit.registry import AUGMENTS, CROPS
from tests.conftest import picture

pytestmark = pytest.mark.usefixtures("one_worker")


def shape(size=(200, 140)):
    """A white shape on black that looks like none of its mirror images."""
    drawn = Image.new("L", size)
    pen = ImageDraw.Draw(drawn)
    pen.ellipse((70, 40, 120, 90), fill=255)
    pen.rectangle((110, 60, 150, 120), fill=160)
    pen.polygon(((60, 110), (85, 130), (50, 130)), fill=255)
    return drawn


@pytest.fixture
def raw(tmp_path):
    """A picture that looks as its mask does, so that what is written can be compared."""
    folder = tmp_path / "raw"
    folder.mkdir()
    shape().convert("RGB").save(folder / "a.png")
    shape().save(folder / "a.mask.png")
    return folder


@pytest.fixture
def ppim(program):
    def run(*options, status=0):
        done = program("ppim", "raw", "data", *options, "--json", status=status)
        return json.loads(done.stdout or "{}") | {"said": done.stderr}

    return run


def grey(file):
    with Image.open(file) as opened:
        return np.asarray(opened.convert("L"), np.float64)


def rows(data):
    return [json.loads(line) for line in (data / "metadata.jsonl").read_text().splitlines()]


def tree(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def known_crops():
    try:
        need_opencv("--crop face")
        return CROPS.names()
    except LorakitError:
        return [name for name in CROPS.names() if name != "face"]


@pytest.mark.parametrize("crop", known_crops())
def test_whatever_is_done_to_a_picture_is_done_to_its_mask(ppim, raw, tmp_path, crop):
    geometry = [name for name in AUGMENTS.names() if hasattr(AUGMENTS[name], "cut")]
    assert len(geometry) >= 3
    turned = set()
    for augment in [*geometry, ",".join(AUGMENTS.names())]:
        data = tmp_path / "data"
        options = ("--augment", augment, "--copies", 4, "--crop", crop, "--background", "black", "--force", "--prune")
        assert ppim(*options)["masks"] == 4
        for row in rows(data):
            seen, mask = grey(data / row["file_name"]), grey(data / row["mask"])
            assert seen.shape == mask.shape
            assert np.corrcoef(seen.ravel(), mask.ravel())[0, 1] > 0.99, (augment, row["augmentations"])
            assert abs(row["mask_share"] - mask.mean() / 255) < 1e-3
            turned.add(mask.tobytes())
    assert len(turned) > 2 * len(geometry)  # they were changed at all


def test_a_mask_of_another_size_is_scaled_and_one_of_another_shape_leaves_the_picture_out(ppim, raw, tmp_path):
    shape().resize((100, 70)).save(raw / "a.mask.png")
    assert ppim()["masks"] == 1
    data = tmp_path / "data"
    assert np.corrcoef(grey(data / "a.png").ravel(), grey(data / "a.mask.png").ravel())[0, 1] > 0.99
    picture((90, 90), seed=4).save(raw / "b.png")
    Image.new("L", (90, 40)).save(raw / "b.mask.png")
    done = ppim()
    assert "b.mask.png is 90x40, but the picture 90x90" in done["rejected"][0]["reason"] and done["written"] == 1


def test_a_second_run_does_nothing_and_a_changed_mask_is_carried_anew(ppim, raw, tmp_path):
    picture((90, 90), seed=4).save(raw / "b.png")
    assert "1 of 2 pictures has a mask" in ppim()["said"]
    data, before = tmp_path / "data", tree(tmp_path / "data")
    done = ppim()
    assert tree(data) == before and done["prepared"] == 0 and "stays" not in done["said"]
    shape().transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(raw / "a.mask.png")
    assert ppim()["prepared"] == 1
    changed = {name for name, content in tree(data).items() if before[name] != content}
    assert changed - {"report.html", ".manifest.jsonl", "metadata.jsonl"} == {"a.mask.png"}
    (data / "a.mask.png").unlink()
    ppim()
    assert (data / "a.mask.png").is_file()


def test_masks_of_a_persons_and_of_other_options_stay(ppim, raw, tmp_path):
    ppim()
    file = tmp_path / "data" / "a.mask.png"
    carried = file.read_bytes()
    Image.new("L", (64, 64), 99).save(file)
    mine = file.read_bytes()
    done = ppim()
    assert file.read_bytes() == mine and "1 mask stays as it is" in done["said"] and ppim()["prepared"] == 0
    ppim("--force")
    assert file.read_bytes() == carried
    (raw / "a.mask.png").unlink()
    assert "1 mask stays as it is" in ppim()["said"] and file.read_bytes() == carried
    ppim("--force")
    assert not file.exists()


def test_masks_that_are_asked_for_come_instead_of_those_of_raw(ppim, raw, tmp_path):
    pytest.importorskip("cv2")
    ppim()
    file = tmp_path / "data" / "a.mask.png"
    carried = file.read_bytes()
    assert "1 mask of RAW is not carried over: --mask subject makes others" in ppim("--mask", "subject")["said"]
    made = file.read_bytes()
    assert made != carried
    ppim()
    assert file.read_bytes() == made  # an option that is left out takes nothing away
    ppim("--force")
    assert file.read_bytes() == carried


def test_a_run_that_ends_before_a_mask_is_in_its_place_goes_on(ppim, raw, tmp_path, monkeypatch):
    ppim()
    Image.new("L", (200, 140), 128).save(raw / "a.mask.png")
    moved = Keeper.move_in
    broken = pytest.raises(AssertionError)
    monkeypatch.setattr(Keeper, "move_in", lambda self, name: 1 / 0 if "mask" in name else moved(self, name))
    with broken:
        ppim()
    monkeypatch.setattr(Keeper, "move_in", moved)
    ppim()
    assert set(grey(tmp_path / "data" / "a.mask.png").ravel()) == {128.0}
    assert "carried" not in rows(tmp_path / "data")[0] and ppim()["prepared"] == 0


def test_a_dry_run_says_the_same_of_masks(ppim, raw, tmp_path):
    dry = ppim("--dry-run")
    wet = ppim()
    assert (dry["masks"], dry["written"]) == (wet["masks"], wet["written"]) == (1, 1)
    assert not ppim("--dry-run")["kept"]["masks"]
