"""A pipe where a file is read is refused at once, by name, in every command and option that reads one."""

import os
import shutil
import socket
from pathlib import Path

import pytest

from lorakit.formats import writing
from lorakit.models.places import folder_of
from tests.conftest import picture
from tests.support.adapter_files import random_adapter

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes"),
    pytest.mark.timeout(120),
]


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> Path:
    """A pipe of each ending, an adapter, a picture, and folders with a pipe where a file should be."""
    for name in ("pipe", "pipe.safetensors", "pipe.ckpt", "pipe.toml", "pipe.png"):
        os.mkfifo(tmp_path / name)
    writing.save(tmp_path / "a.safetensors", random_adapter("tiny", lambda n: ".mid_block." in n), "kohya")
    picture().save(tmp_path / "p.png")
    for name in ("pipe.png", "0.txt", "0.caption", "0.mask.png", "metadata.jsonl"):
        data = tmp_path / f"with {name}"
        data.mkdir()
        picture().save(data / "0.png")
        if not name.endswith(("txt", "caption")):
            (data / "0.txt").write_text("a cat")
        os.mkfifo(data / name)
    shutil.copytree(folder_of("tiny") / "tokenizer", tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "merges.txt").unlink()
    os.mkfifo(tmp_path / "tokenizer" / "merges.txt")
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text("{}")
    os.mkfifo(tmp_path / "peft" / "adapter_model.safetensors")
    return tmp_path


DRAW = ("sample", "a cat", "--steps", "1")
LEARN = ("--steps", "1", "--batch-size", "1")


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "pipe"),
        ("inspect", "a.safetensors", "pipe.safetensors"),
        ("inspect", "--similarity", "a.safetensors", "pipe.safetensors"),
        ("merge", "a.safetensors", "pipe.safetensors"),
        ("merge", "a.safetensors", "pipe:0.5"),
        ("merge", "pipe.toml"),
        ("merge", "a.safetensors", "--into", "pipe.safetensors", "-o", "out"),
        ("merge", "a.safetensors", "--into", "pipe.ckpt", "-o", "out"),
        ("compose", "a.safetensors", "pipe"),
        ("compose", "a.safetensors", "--region", "a=pipe.png"),
        ("convert", "pipe", "out.safetensors"),
        ("convert", "a.safetensors", "out.safetensors", "--to", "diffusers", "--model", "pipe"),
        ("extract", "pipe.safetensors"),
        ("extract", "tiny", "--base", "pipe.safetensors"),
        (*DRAW, "--lora", "pipe"),
        (*DRAW, "--recipe", "pipe.toml"),
        (*DRAW, "--image", "pipe.png"),
        (*DRAW, "--image", "p.png", "--mask", "pipe.png"),
        (*DRAW, "--model", "pipe.safetensors"),
        ("sample", "--prompts", "pipe"),
        ("sample", "--from", "pipe.png"),
        ("prior-gen", "--prompts", "pipe", "out"),
        ("train", "with pipe.png", *LEARN),
        ("train", "with 0.txt", *LEARN),
        ("train", "with 0.caption", *LEARN),
        ("train", "with 0.mask.png", *LEARN),
        ("train", "with metadata.jsonl", *LEARN),
        ("train", "with pipe.png", *LEARN, "--model", "pipe.ckpt", "--instance-prompt", "x"),
        ("ppim", "with 0.txt", "out", "--caption", "keep"),
        ("ppim", "with pipe.png", "out", "--caption", "clip", "--caption-vocabulary", "pipe"),
    ],
    ids=" ".join,
)
def test_a_pipe_is_refused_and_named(program, files, arguments):
    done = program(*arguments, status=3)
    assert "pipe" in done.stderr.partition("lorakit: ")[2]
    assert not [path for path in files.iterdir() if path.name.startswith("out") and path.suffix]


@pytest.mark.parametrize("arguments", [("inspect", "peft"), ("merge", "peft", "a.safetensors")], ids=" ".join)
def test_a_pipe_in_a_folder_is_no_file_of_it(program, arguments):
    program(*arguments, status=3)


@pytest.mark.parametrize(("name", "status"), [("pipe", 2), ("pipe.toml", 2), ("pipe.safetensors", 3)])
def test_a_configuration_that_is_a_pipe_is_refused(program, name, status):
    assert "a pipe" in program("train", "--config", name, status=status).stderr


def test_a_tokenizer_with_a_pipe_in_it_is_not_opened(files):
    from lorakit.errors import InputError
    from lorakit.io.inputs import check_plain

    with pytest.raises(InputError, match=r"merges\.txt \(a pipe\)"):
        check_plain(files / "tokenizer", "tokenizer")


def test_all_that_cannot_be_read_are_named_at_once(program, tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(tmp_path)
        server.bind("socket")
        said = program("merge", "no", "pipe", "nor", "socket", "/dev/null", status=3).stderr
    for fault in (
        "no such adapter file: no, nor",
        "but a pipe (save what comes through it as a file first): pipe",
        "but a socket: socket",
        "but a device: /dev/null",
    ):
        assert fault in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "1.safetensors", "a.safetensors", "2.safetensors", "3.pt"),
        ("inspect", "--similarity", "1.safetensors", "2.safetensors", "3.pt"),
        ("merge", "1.safetensors", "2.safetensors", "3.pt"),
        ("compose", "1.safetensors", "2.safetensors", "3.pt"),
        (*DRAW, "--lora", "1.safetensors", "--lora", "2.safetensors", "--lora", "3.pt"),
        ("extract", "1.safetensors", "--base", "2.safetensors"),
        ("merge", "1.toml", "2.toml"),
        (*DRAW, "--lora", "1.toml", "--lora", "2.toml"),
        (*DRAW, "--image", "1.png", "--mask", "2.png"),
    ],
    ids=" ".join,
)
def test_broken_files_are_named_together(program, tmp_path, arguments):
    for name in ("1.safetensors", "2.safetensors", "1.toml", "2.toml"):
        (tmp_path / name).write_bytes(b"no")
    (tmp_path / "3.pt").write_bytes(b"\x80\x02evil")
    said = program(*arguments, status=3).stderr
    assert all(name in said for name in arguments if name[0] in "123" and name != "1")
    assert said.count("\n") <= 4
