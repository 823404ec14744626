"""Wrong use, bad input, and ends that come from outside: each through the program."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from lorakit.formats import writing
from tests.conftest import captioned, picture
from tests.support.adapter_files import random_adapter


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian"], "did you mean 'train'"),
        (["train", "--rnak", "4"], "--rank"),
        (["train", "--rank", "0"], "--rank"),
        (["train", "--mode", "pivotal"], "needs --token"),
        (["train", "--mode", "pivotal", "--token", "<s1>", "--format", "diffusers"], "use kohya or lorakit"),
        (["train", "--mode", "lroa"], "did you mean 'lora'"),
        (["train", "--set", "rnak=4"], "did you mean 'rank'"),
        (["merge", "a.safetensors"], "two adapters"),
        (["merge", "a", "b", "--method", "liner"], "did you mean 'linear'"),
        (["sample"], "PROMPT"),
        (["sample", "x", "--scheduler", "eular"], "did you mean 'euler'"),
        (["sample", "x", "--size", "65"], "multiples"),
        (["ppim", "raw", "data", "--crop", "smrt"], "did you mean 'smart'"),
    ],
)
def test_a_wrong_command_line_is_one_clear_sentence(program, arguments, says):
    done = program(*arguments, status=2)
    assert done.stderr.splitlines()[-1].startswith("lorakit: ") and says in done.stderr
    assert done.stdout == ""


def test_an_unknown_config_key_is_named(program, tmp_path):
    (tmp_path / "lorakit.toml").write_text("[train]\nrnak = 4\n")
    assert "did you mean 'rank'" in program("train", status=2).stderr


def test_precedence_is_option_environment_file_default(program, tmp_path):
    (tmp_path / "lorakit.toml").write_text("[train]\nrank = 3\nalpha = 5\nseed = 6\n")
    env = {"LORAKIT_TRAIN_RANK": "4", "LORAKIT_TRAIN_ALPHA": "7"}
    printed = program("train", "--print-config", "--rank", "9", env=env).stdout.splitlines()
    assert {"rank = 9", "alpha = 7.0", "seed = 6", 'mode = "lora"'} <= set(printed)


def test_the_printed_config_gives_itself(program, tmp_path):
    printed = program("train", "--optimizer", "prodigy", "--print-config")
    assert "lr = 1.0\n" in printed.stdout and "from the optimizer: lr = 1\n" in printed.stderr
    first = program("train", "--rank", "4", "--print-config").stdout
    (tmp_path / "again.toml").write_text(first)
    assert program("train", "--config", "again.toml", "--print-config").stdout == first


def test_missing_inputs_are_named(program):
    assert "nowhere" in program("train", "nowhere", status=3).stderr
    assert "a.safetensors, b.safetensors" in program("merge", "a.safetensors", "b.safetensors", status=3).stderr
    assert "nowhere" in program("ppim", "nowhere", "data", status=3).stderr


def test_pictures_without_captions_are_all_listed(program, dataset):
    (dataset / "1.txt").unlink()
    (dataset / "2.txt").write_text(" ")
    assert "2 pictures have no caption: 1.png, 2.png" in program("train", dataset, status=3).stderr


def test_an_existing_output_is_refused_before_any_work(program, dataset, tmp_path):
    (tmp_path / "lora.safetensors").write_text("mine")
    assert "--force" in program("train", dataset, status=4).stderr
    assert (tmp_path / "lora.safetensors").read_text() == "mine"


@pytest.mark.posix
@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root writes everywhere")
def test_an_unwritable_place_is_refused(program, dataset, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    program("train", dataset, "-o", "locked/lora.safetensors", status=5)


def test_a_file_where_a_folder_should_be_is_a_storage_error(program, dataset, tmp_path):
    (tmp_path / "file").write_text("")
    program("train", dataset, "-o", "file/lora.safetensors", status=5)


def test_a_pickle_is_never_opened(program, tmp_path):
    (tmp_path / "a.pt").write_bytes(b"\x80\x02evil")
    assert "pickle" in program("compose", "a.pt", status=3).stderr


def test_a_cut_file_is_named(program, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"\xff\x00\x00\x00\x00\x00\x00\x00{}")
    assert "a.safetensors" in program("compose", "a.safetensors", status=3).stderr


def _wait_for(file: Path) -> None:
    deadline = time.monotonic() + 120
    while not file.exists() or not file.stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.posix
@pytest.mark.thorough
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (9, -9)])
def test_a_stopped_run_goes_on_to_the_same_bytes(program, start, dataset, tmp_path, number, status):
    options = ["--steps", 24, "--batch-size", 2, "--checkpoint-every", 4]
    program("train", dataset, "-o", "whole.safetensors", *options)
    process = start("train", dataset, "-o", "cut.safetensors", *options)
    _wait_for(tmp_path / "cut.run" / "checkpoints" / "step-000004.safetensors")
    process.send_signal(number)
    assert process.wait(timeout=60) == status
    assert not (tmp_path / "cut.safetensors").exists()
    resumed = program("train", dataset, "-o", "cut.safetensors", *options)
    assert "going on from" in resumed.stderr
    assert (tmp_path / "cut.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert len((tmp_path / "cut.run" / "log.jsonl").read_text().splitlines()) == 24


def test_a_second_run_over_the_same_output_is_refused(program, dataset, tmp_path):
    from lorakit.runtime.locks import held

    with held(tmp_path / "lora.run"):
        assert "another lorakit run" in program("train", dataset, status=4).stderr


def test_nan_ends_the_run_and_writes_nothing(program, dataset, tmp_path):
    done = program("train", dataset, "--lr", "1e30", "--steps", 20, "--batch-size", 1, "--max-grad-norm", 0, status=8)
    assert "--lr" in done.stderr and not (tmp_path / "lora.safetensors").exists()


@pytest.mark.posix
def test_ctrl_c_while_drawing_leaves_whole_pictures(start, tmp_path):
    process = start("prior-gen", "a photo of a cat", "out", "--count", 400, "--steps", 1)
    _wait_for(tmp_path / "out" / "00000.txt")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    from PIL import Image

    for file in (tmp_path / "out").glob("*.png"):
        Image.open(file).load()


def test_control_characters_of_a_name_do_not_reach_the_terminal(program, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "bad\x1b[31m.png").write_text("no")
    picture().save(raw / "good.png")
    done = program("ppim", raw, "data")
    assert "\x1b" not in done.stderr and "\\x1b[31m" in done.stderr


@pytest.fixture
def tiny_adapter(tmp_path):
    writing.save(tmp_path / "a.safetensors", random_adapter("tiny", lambda n: ".mid_block." in n), "kohya")
    return "a.safetensors"


@pytest.mark.posix
def test_a_disk_that_fills_while_a_folder_is_copied_is_a_short_error(start, tiny_adapter, tmp_path):
    done = start("merge", tiny_adapter, "--into", "tiny", "-o", "model", limits={"RLIMIT_FSIZE": 100_000})
    assert done.wait() == 5 and "model" in done.stderr and "File too large" in done.stderr
    assert len(done.stderr) < 600 and os.listdir(tmp_path) == [tiny_adapter]


@pytest.mark.posix
def test_more_open_files_than_are_allowed_are_no_fault_of_a_file(start, tiny_adapter, tmp_path):
    done = start("merge", *[tiny_adapter] * 30, "-o", "m.safetensors", limits={"RLIMIT_NOFILE": 20})
    assert done.wait() == 7 and "ulimit -n" in done.stderr and not (tmp_path / "m.safetensors").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep to the limit")
def test_memory_that_is_not_to_be_had_is_no_bug(start, tmp_path):
    limits = {"RLIMIT_AS": 3_500_000 << 10}
    done = start("sample", "a cat", "--size", 2048, "--steps", 1, "-o", "out", limits=limits)
    assert done.wait() == 7 and "out of memory" in done.stderr and os.listdir(tmp_path) == []


def test_an_option_of_a_shared_file_that_the_run_makes_no_use_of_is_one_note(program, tmp_path):
    captioned(tmp_path / "data", "a cat", [(64, 64)] * 2)
    (tmp_path / "lorakit.toml").write_text("[train]\nvalidation-split = 0.5\nearly-stop = 2\n")
    said = program("train", "data", "--steps", "1", "--batch-size", "2", "--dry-run").stderr
    (note,) = [line for line in said.splitlines() if "makes no use of" in line]
    assert "--validation-split holds out" in note and "--early-stop counts" in note
    for option in ("--validation-split=0.5", "--early-stop=2"):
        assert "add --validate-every N" in program("train", "data", option, status=2).stderr
