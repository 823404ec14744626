"""What makes a run another one: all that is read of its pictures, and it is said what has changed."""

import hashlib
import json
import shutil

import pytest
from PIL import Image

from lorakit.data.dataset import Example
from lorakit.io import safetensors
from lorakit.jobs.train.identity import data_hash
from tests.conftest import captioned, picture


@pytest.fixture
def data(tmp_path):
    folder = captioned(tmp_path / "data", "a photo of a sks thing", [(64, 64)] * 2)
    Image.new("L", (64, 64), 200).save(folder / "0.mask.png")
    return folder


def repainted(folder):
    Image.new("L", (64, 64), 90).save(folder / "0.mask.png")
    return "masks have changed: 0.png"


def unmasked(folder):
    (folder / "0.mask.png").unlink()
    return "masks have changed: 0.png"


def second_caption(folder):
    (folder / "1.txt").write_text("a photo of a sks thing number 1\nthe second words\n")
    return "captions have changed: 1.png"


def repeats(folder):
    (folder / "metadata.jsonl").write_text(
        '{"file_name": "0.png", "repeats": 2}\n{"file_name": "1.png", "repeats": 1}\n'
    )
    return "repeats have changed: 0.png"


def another_picture(folder):
    picture((64, 64), seed=9).save(folder / "1.png")
    return "pictures have changed: 1.png"


def more_pictures(folder):
    picture((64, 64), seed=10).save(folder / "2.png")
    (folder / "2.txt").write_text("sks")
    return "pictures are new: 2.png"


def fewer_pictures(folder):
    (folder / "1.png").unlink()
    return "pictures are gone: 1.png"


CHANGES = [repainted, unmasked, second_caption, repeats, another_picture, more_pictures, fewer_pictures]
TRAIN = ("train", "data", "-o", "a.safetensors", "--steps", 1, "--batch-size", 1, "--rank", 1)


@pytest.fixture
def unfinished(program, tmp_path, data):
    """A run that was cut off after its last step and before its output."""
    program(*TRAIN)
    (tmp_path / "a.safetensors").unlink()
    return data


def test_what_was_changed_before_a_run_goes_on_is_refused_by_name(program, tmp_path, unfinished):
    for change in CHANGES:
        shutil.rmtree(tmp_path / "kept", ignore_errors=True)
        shutil.copytree(unfinished, tmp_path / "kept")
        said = change(unfinished)
        assert said in program(*TRAIN, status=4).stderr, change.__name__
        shutil.rmtree(unfinished)
        (tmp_path / "kept").rename(unfinished)
    assert "going on from" in program(*TRAIN).stderr  # as it was
    assert "lorakit.data_items" not in safetensors.open_file(tmp_path / "a.safetensors").metadata


def test_a_class_picture_that_was_changed_is_named(program, tmp_path, data):
    captioned(tmp_path / "class", "a thing", [(64, 64)] * 2)
    options = (*TRAIN, "--prior-dir", "class", "--prior-count", 2)
    program(*options)
    (tmp_path / "a.safetensors").unlink()
    picture((64, 64), seed=77).save(tmp_path / "class/1.png")
    assert "pictures have changed: class picture 1.png" in program(*options, status=4).stderr


def test_the_hash_is_of_all_that_is_read_and_as_ever_of_what_is_plain(tmp_path):
    for name, shade in (("m", 1), ("n", 2)):
        Image.new("L", (8, 8), shade).save(tmp_path / f"{name}.png")
    plain = Example(file=tmp_path / "a.png", captions=("a dog",))
    whole = data_hash([plain], ["0" * 64])
    assert whole == hashlib.sha256(f"{'0' * 64}a.png\0a dog\0{1}\n".encode()).hexdigest()
    others = [
        Example(file=tmp_path / "a.png", captions=("a dog", "a cat")),
        Example(file=tmp_path / "a.png", captions=("a dog", "a bird")),
        Example(file=tmp_path / "a.png", captions=("a dog",), repeats=2),
        Example(file=tmp_path / "a.png", captions=("a dog",), mask=tmp_path / "m.png"),
        Example(file=tmp_path / "a.png", captions=("a dog",), mask=tmp_path / "n.png"),
        Example(file=tmp_path / "b.png", captions=("a dog",)),
    ]
    assert data_hash([plain], ["0" * 64], classes=1) != whole
    assert len({whole, *(data_hash([one], ["0" * 64]) for one in others)}) == len(others) + 1


def test_a_run_in_the_folder_of_its_pictures_trains_on_the_same_ones_again(program, tmp_path):
    from tests.data.test_folder import drawn

    for i in range(2):
        picture((64, 64), seed=i).save(tmp_path / f"{i}.png")
    options = ("train", ".", "-o", "dog.safetensors", "--instance-prompt", "sks", "--steps", 1, "--batch-size", 1)
    options += ("--rank", 1, "--prior-dir", "class", "--prior-count", 2, "--force")
    captioned(tmp_path / "class", "a thing", [(64, 64)] * 2)
    program(*options)
    first = safetensors.open_file(tmp_path / "dog.safetensors").metadata["lorakit.data"]
    drawn(tmp_path / "cat.run/previews/step-000001-0.png"), drawn(tmp_path / "00000.png")
    said = program(*options, "--resume", "never").stderr
    assert "plan: pictures by size: 2 of 64x64" in said and said.count("left out of .:") == 1
    assert "2 that lorakit wrote itself (00000.png, 1 in cat.run/previews), 2 of --prior-dir" in said
    assert safetensors.open_file(tmp_path / "dog.safetensors").metadata["lorakit.data"] == first


def test_masks_and_repeats_are_said_and_options_without_any_are_refused(program, tmp_path, data):
    captioned(data / "3_more", "sks", [(64, 64)])
    planned = program(*TRAIN, "--plan", "--json")
    assert "; 1 with a mask; repeats: an epoch shows 2 of them once, 1 of them 3 times" in planned.stderr
    assert json.loads(planned.stdout)["masks"] == 1 and json.loads(planned.stdout)["repeats"] == {"1": 2, "3": 1}
    (data / "0.mask.png").unlink()
    said = program(*TRAIN, "--mask-weight", 0.5, "--wildcards", status=2).stderr
    assert "--mask-weight has an effect only where" in said and "--wildcards has an effect only where" in said
    (data / "0.txt").write_text("a {red|blue} thing")
    assert "{a|b} is shown as it stands in captions of 0.png" in program(*TRAIN, "--dry-run").stderr
