"""Ctrl-C in a long command says what is kept and how to go on."""

import os
import signal
from pathlib import Path

import pytest

from lorakit import cli
from lorakit.cli import output
from lorakit.formats import writing
from tests.conftest import captioned
from tests.support.adapter_files import random_adapter

pytestmark = pytest.mark.usefixtures("small_model")
KEPT = {
    ("ppim", "data", "set", "--size", "64"): "stopped; 1 of 4 pictures are done in set; the same command goes on",
    (
        "prior-gen",
        "a cat",
        "prior",
        "-n",
        "3",
        "--steps",
        "1",
        "--batch-size",
        "1",
    ): "stopped; 1 of 3 pictures are in prior; the same command goes on",
    ("sample", "a cat", "-n", "3", "--steps", "1", "--batch-size", "1", "-o", "drawn"): "in drawn",
    ("train", "data", "--steps", "4", "--batch-size", "1"): ", which is saved; the same command goes on",
    (
        "train",
        "data",
        "--steps",
        "4",
        "--batch-size",
        "1",
        "--mode",
        "dreambooth",
        "--class-prompt",
        "a cat",
        "--prior-count",
        "9",
    ): "of 9 pictures are in",
    ("merge", "a.safetensors", "a.safetensors", "--weights", "1,1"): "stopped; nothing was written",
    ("extract", "a.safetensors", "--rank", "1"): "stopped; nothing was written",
    (
        "compose",
        "a.safetensors",
        "--learn",
        "data",
        "--learn-steps",
        "1",
        "--learn-draws",
        "1",
    ): "stopped; nothing was written",
    ("convert", "a.safetensors", "b.safetensors", "--to", "diffusers"): "stopped; written and whole: b.safetensors",
    ("demo", "tour", "--steps", "2"): "the same command goes on",
}


@pytest.mark.parametrize("arguments", KEPT, ids=" ".join)
def test_a_signal_is_answered_with_what_is_kept(program, tmp_path: Path, monkeypatch, arguments):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    captioned(tmp_path / "data", "a photo of a cat")
    writing.save(tmp_path / "a.safetensors", random_adapter("tiny", lambda n: ".mid_block.attentions" in n), "kohya")
    tick = output._Lines.__call__

    def first(self: output._Lines, done: int, total: int) -> None:
        tick(self, done, total)
        monkeypatch.setattr(output._Lines, "__call__", tick)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(output._Lines, "__call__", first)
    old = signal.signal(signal.SIGINT, cli._stop)
    try:
        said = program(*arguments, status=130).stderr.splitlines()[-1]
    finally:
        signal.signal(signal.SIGINT, old)
    assert said.startswith("lorakit: stopped") and KEPT[arguments] in said and len(said) < 300
