"""prior-gen on a random model: which pictures are made, of what, by whom, and how often."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lorakit.drawing import class_pictures as prior_gen
from lorakit.drawing.request import Request
from lorakit.errors import InputError, RefusedError, StorageError
from lorakit.models.load import load
from lorakit.runtime.world import World
from lorakit.talk import SILENT
from tests import tiny

QUIET = {"talk": SILENT}


@pytest.fixture(scope="module")
def components(tmp_path_factory):
    folder = tiny.make(tmp_path_factory.mktemp("model") / "sd1")
    return load(str(folder), torch.device("cpu"), torch.float32)


@pytest.fixture
def request_(components):
    return Request(
        prompts=["a dog", "a cat"],
        count=5,
        seed=3,
        negative="",
        model=components.name,
        size=(32, 32),
        steps=2,
        guidance=1.0,
        scheduler="dpm++",
        batch_size=2,
    )


def run(request, folder, components, **more):
    settings = {"force": False, "dry_run": False, **QUIET, **more}
    return prior_gen.run(request, folder, components, **settings)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir() if not f.name.startswith(".")}


def test_prompts_take_turns_and_each_picture_is_of_its_own_seed(components, request_, tmp_path):
    run(request_, tmp_path / "a", components)
    rows = [json.loads(line) for line in (tmp_path / "a" / "metadata.jsonl").read_text().splitlines()]
    assert [(r["file_name"], r["text"], r["seed"]) for r in rows[:3]] == [
        ("00000.png", "a dog", 3),
        ("00001.png", "a cat", 4),
        ("00002.png", "a dog", 5),
    ]
    assert {"quality", "sha256", "size", "verdict"} <= rows[0].keys()
    assert (tmp_path / "a" / "00001.txt").read_text() == "a cat\n"


def test_only_missing_pictures_are_made_to_the_same_bytes(components, request_, tmp_path):
    run(request_, tmp_path / "a", components)
    whole = snapshot(tmp_path / "a")
    run(replace(request_, count=3, batch_size=1), tmp_path / "b", components)
    done = run(replace(request_, batch_size=4), tmp_path / "b", components)
    assert (done["made"], done["kept"]) == (2, 3) and snapshot(tmp_path / "b") == whole
    (tmp_path / "b" / "00001.png").write_bytes(whole["00001.png"][:500])  # cut off by a full disk
    with pytest.raises(RefusedError, match="other settings"):
        run(request_, tmp_path / "b", components)
    run(request_, tmp_path / "b", components, force=True)
    assert snapshot(tmp_path / "b") == whole


def test_two_processes_share_the_work_and_make_the_same_bytes(components, request_, tmp_path):
    run(request_, tmp_path / "one", components)
    with ThreadPoolExecutor(2) as both:  # a lock of the kernel's belongs to the open file: threads will do
        made = list(both.map(lambda n: run(request_, tmp_path / "two", components, turn=World(n, 2)), (0, 1)))
    assert made[0]["made"] == 5 and made[1]["outputs"] == [str(tmp_path / "two" / f"0000{i}.png") for i in (1, 3)]
    assert snapshot(tmp_path / "two") == snapshot(tmp_path / "one")


def test_the_first_process_draws_what_a_dead_one_left(components, request_, tmp_path):
    run(request_, tmp_path / "one", components)
    run(request_, tmp_path / "alone", components, turn=World(0, 2))
    assert snapshot(tmp_path / "alone") == snapshot(tmp_path / "one")


def test_blank_and_equal_pictures_are_drawn_from_the_next_seed_and_listed(components, request_, tmp_path, monkeypatch):
    draws = prior_gen.pictures

    def faulty(components, request, how, jobs, note):
        for (_, seed), picture in zip(jobs, draws(components, request, how, jobs, note), strict=True):
            if seed == 4:
                yield np.zeros_like(picture)
            elif seed in (5, 7):
                yield np.random.default_rng(0).integers(0, 256, picture.shape, dtype=np.uint8)
            else:
                yield picture

    monkeypatch.setattr(prior_gen, "pictures", faulty)
    done = run(request_, tmp_path / "a", components)
    assert done["redrawn"] == [
        {"file": "00001.png", "seed": 4 + 1_000_003, "reason": "blank"},
        {"file": "00004.png", "seed": 7 + 1_000_003, "reason": "nearly equal to 00002.png"},
    ]
    before = snapshot(tmp_path / "a")
    assert run(request_, tmp_path / "a", components)["made"] == 0 and snapshot(tmp_path / "a") == before


def test_the_cache_finds_a_set_by_what_it_is_made_of(components, request_, tmp_path):
    first = prior_gen.prior_set(request_, components, cache=tmp_path, **QUIET)
    stamps = {f.name: f.stat().st_mtime_ns for f in first.glob("*.png")}
    assert prior_gen.prior_set(replace(request_, batch_size=1), components, cache=tmp_path, **QUIET) == first
    assert {f.name: f.stat().st_mtime_ns for f in first.glob("*.png")} == stamps
    longer = prior_gen.prior_set(replace(request_, count=6), components, cache=tmp_path, **QUIET)
    assert longer == first and len(list(first.glob("*.png"))) == 6
    assert prior_gen.prior_set(replace(request_, seed=9), components, cache=tmp_path, **QUIET) != first


def test_models_of_one_file_have_sets_of_their_own(components, request_, tmp_path):
    folders = []
    for name in ("one", "two"):
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode())
        model = replace(components, folder=tmp_path / f"{name}.safetensors")
        folders.append(prior_gen.prior_set(replace(request_, count=1), model, cache=tmp_path, **QUIET))
    assert folders[0] != folders[1]


def test_a_model_read_with_another_tokenizer_has_a_set_of_its_own(components, request_, tmp_path):
    shutil.copytree(components.folder / "tokenizer", tmp_path / "tokenizer")
    merges = tmp_path / "tokenizer/merges.txt"
    merges.write_text("\n".join(merges.read_text().splitlines()[:40]) + "\n")
    other = replace(components, tokenizer=type(components.tokenizer).from_pretrained(tmp_path / "tokenizer"))
    folders = {
        prior_gen.prior_set(replace(request_, count=1), one, cache=tmp_path, **QUIET) for one in (components, other)
    }
    assert len(folders) == 2


def test_class_prompts_are_the_captions_without_the_token(tmp_path, dataset):
    for number, text in enumerate(("a photo of sks, on grass", "a sks dog", "a sks dog", "sks")):
        (dataset / f"{number}.txt").write_text(text)
    assert prior_gen.class_prompts(dataset, "sks", "") == ["a photo of, on grass", "a dog"]
    assert prior_gen.class_prompts(dataset, "sks", "dog") == ["a photo of dog, on grass", "a dog", "dog"]
    for number in range(4):
        (dataset / f"{number}.txt").write_text("sks")
    with pytest.raises(InputError, match="--class-word"):
        prior_gen.class_prompts(dataset, "sks", "")


def test_ranks_come_from_the_environment(monkeypatch):
    from lorakit.runtime.world import place

    assert place() == World(0, 1, 0)
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert place() == World(3, 4, 1) and not place().main and place().mine(7) and not place().mine(8)


def test_prompts_of_a_file_need_no_other(program, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n# not this\na dog\n")
    done = program("prior-gen", "out", "--prompts", "prompts.txt", "--count", "2", "--dry-run")
    assert "2 pictures would be drawn into out" in done.stderr and not (tmp_path / "out").exists()
    assert "needs a prompt and a folder" in program("prior-gen", "out", status=2).stderr


@pytest.mark.parametrize("home", ["", "relative"])
def test_without_a_home_folder_it_is_said_where_class_pictures_can_go(monkeypatch, home):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", home)
    with pytest.raises(StorageError, match="no home folder for class pictures; name a folder with --prior-dir"):
        prior_gen.cache_folder()


def test_a_user_that_the_system_does_not_know_has_no_home_folder(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as it answers for numbers without a name
    with pytest.raises(StorageError, match="no home folder"):
        prior_gen.cache_folder()


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"class pictures cannot be kept in .*file/lorakit: .*--prior-dir"):
        prior_gen.cache_folder()


def test_a_relative_cache_home_is_not_heeded(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert prior_gen.cache_folder() == tmp_path / "home" / ".cache" / "lorakit"
