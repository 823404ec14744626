"""A dry run is the run up to its first write: the same checks with the same words, the same keys, and no trace on the disk."""

import io
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from lorakit.runtime.locks import held
from tests.conftest import captioned, picture
from tests.support.adapters_of_tiny import lora
from tests.tiny import make

FAST = ["--steps", "1", "--batch-size", "1", "--rank", "1"]
PRIOR = ["--class-prompt", "a cat", "--prior-count", "1"]
DRAW = ["--steps", "1", "--guidance", "1"]
TOKEN = ["--token", "<s1>", "--init-token", "animal"]

RIGHT = {
    "ppim": ["raw", "out"],
    "ppim with captions and masks": ["raw", "out", "--caption", "filename", "--mask", "subject", "--contact-sheet"],
    "ppim with a model's captions": ["raw", "out", "--caption", "blip"],
    "ppim over a set that is there": ["raw", "set"],
    "train": ["data", *FAST],
    "train --mode dreambooth": ["data", *FAST, "--mode", "dreambooth", *PRIOR],
    "train --mode dreambooth of a folder": ["data", *FAST, "--mode", "dreambooth", *PRIOR, "--prior-dir", "prior"],
    "train --mode ti": ["data", "--steps", "1", "--batch-size", "1", "--mode", "ti", *TOKEN],
    "train --mode pivotal": ["data", *FAST, "--mode", "pivotal", *TOKEN, "--ti-steps", "1"],
    "train --mode full": [
        "data",
        "--steps",
        "1",
        "--batch-size",
        "1",
        "--mode",
        "full",
        "--model",
        "base",
        "-o",
        "full",
    ],
    "train with validation": ["data", *FAST, "--validation-split", "0.3", "--validate-every", "1", "--ema", "0.9"],
    "train --plan": ["data", *FAST, "--plan"],
    "train --show-targets": ["data", *FAST, "--show-targets"],
    "prior-gen": ["a cat", "out", "--count", "1", *DRAW],
    "prior-gen of a set that is there": ["a cat", "prior", "--count", "2", "--steps", "20"],
    "extract of two models": ["tuned", "--base", "base", "--rank", "1", "--report", "page.html"],
    "extract of an adapter": ["a.safetensors", "--rank", "1"],
    "merge": ["a.safetensors", "b.safetensors", "--report", "page.html"],
    "merge --rank": ["a.safetensors", "b.safetensors", "--rank", "1", "--method", "ties", "--density", "0.5"],
    "merge --sweep": ["a.safetensors", "b.safetensors", "--sweep", "0:1:2"],
    "merge --into a file": ["changed.safetensors", "--into", "base", "-o", "whole.safetensors"],
    "merge --into a folder": ["a.safetensors", "--into", "tiny", "-o", "whole", "--rank", "1"],
    "compose": ["a.safetensors:0.5", "b.safetensors", "--plot", "plot.png"],
    "compose --bake": ["a.safetensors:0.5", "b.safetensors", "--bake", "-o", "baked.safetensors"],
    "compose --learn": [
        "a.safetensors",
        "b.safetensors",
        "--learn",
        "data",
        "--learn-steps",
        "1",
        "--learn-draws",
        "1",
    ],
    "sample": ["a cat", *DRAW, "--lora", "a.safetensors"],
    "sample of a recipe": ["a cat", *DRAW, "--recipe", "r.toml", "-o", "one.png"],
    "sample --grid": ["a cat", *DRAW, "--lora", "a.safetensors", "--grid", "x:lora.weight=0,1"],
    "sample --prompts": ["--prompts", "prompts.txt", *DRAW],
    "sample --image": ["a cat", *DRAW, "--image", "p.png", "--mask", "mask.png"],
    "convert": ["a.safetensors", "x.safetensors", "--to", "diffusers"],
    "convert to a folder": ["a.safetensors", "x", "--to", "peft"],
    "convert of what is in the format": ["a.safetensors", "x.safetensors", "--to", "kohya"],
    "inspect": ["a.safetensors", "base"],
    "inspect --similarity": ["a.safetensors", "b.safetensors", "--similarity", "--report", "page.html"],
}

# Command, then (arguments, exit status) of what is wrong.
WRONG = {
    "ppim": [
        (["nowhere", "out"], 3),
        (["raw", "raw/out"], 3),
        (["empty", "out"], 3),
        (["bad", "out"], 3),
        (["raw", "p.png"], 2),
        (["raw", "data"], 4),
        (["raw", "locked"], 4),
        (["mixed", "out", "--strict"], 3),
        (["raw", "out", "--size", "900"], 3),
        (["raw", "out", "--min-sharpness", "1e9"], 3),
        (["raw", "out", "--caption", "blip", "--caption-model", "./nowhere"], 3),
        (["coded", "out", "--caption", "keep", "--strict"], 3),
        (["raw", "edited"], 3),
        (["raw", "p.png/out"], 5),
    ],
    "train": [
        (["data", "--mode", "dreambooth"], 2),
        (["nowhere"], 3),
        (["empty"], 3),
        (["bad"], 3),
        (["data", "--size", "60"], 2),
        (["data", "--target", "nothing"], 2),
        (["data", "--timestep-range", "0:99999"], 2),
        (["data", "-o", "a.safetensors"], 4),
        (["data", "--mode", "ti", "--token", "<other>", "--init-token", "animal"], 3),
        (["data", "--mode", "ti", "--token", "<s1>", "--init-token", "animal", "--template", "{no}"], None),
        (["data", "--init-from", "nowhere.safetensors"], 3),
        (["data", "--resume", "nowhere"], 3),
        (["data", "--block-rank", "nothing=4"], 2),
        (["data", "--validation-split", "0.99"], None),
        (["data", "--model", "./nowhere"], None),
        (["data", "-o", "p.png/x.safetensors"], 5),
        (["data", "--run-dir", "locked"], 4),
        (["data", *FAST, "-o", "cut.safetensors", "--lr", "0.5"], 4),
        (["data", "--mode", "dreambooth", "--prior-count", "2", "--prior-dir", "other"], 2),
        (["data", "--optimizer", "nowhere:Nothing"], None),
        (["data", *FAST, "--variant", "loha", "--format", "diffusers"], 3),
        (["data", "--mode", "lora", "--text-encoder", "--target", "text_encoder.nope"], 2),
    ],
    "prior-gen": [
        (["a cat", "out", "--size", "60"], 2),
        (["a cat", "p.png"], 2),
        (["a cat", "other", "--count", "1", *DRAW], 4),
        (["a cat", "locked", *DRAW], 4),
        (["--from", "nowhere", "out"], None),
        (["a cat", "out", "--model", "./nowhere"], None),
        (["a cat", "p.png/out"], 5),
    ],
    "extract": [
        (["base", "--base", "base"], 3),
        (["nan", "--base", "base"], 3),
        (["tuned", "--base", "base", "--rank", "9999"], 2),
        (["tuned"], 3),
        (["tuned", "--base", "base", "-o", "a.safetensors"], 4),
        (["nowhere", "--base", "base"], None),
        (["tuned", "--base", "base", "--budget", "10B"], 2),
        (["a.safetensors", "--parts", "tokens"], 3),
        (["tuned", "--base", "base", "--target", "nothing"], None),
        (["nan.safetensors", "--rank", "1"], None),
        (["nan.safetensors"], None),
    ],
    "merge": [
        (["a.safetensors", "nan.safetensors"], 3),
        (["a.safetensors", "nowhere.safetensors"], 3),
        (["a.safetensors", "b.safetensors", "--budget", "10B"], 2),
        (["a.safetensors", "p.png"], 3),
        (["a.safetensors", "b.safetensors", "-o", "a.safetensors"], 4),
        (["a.safetensors", "--into", "base", "-o", "w"], None),
        (["a.safetensors", "b.safetensors", "--block-weights", "nope=1"], None),
        (["moving.toml"], 3),
        (["a.safetensors", "b.safetensors", "--rank", "1", "--into", "./nowhere", "-o", "w"], None),
        (["nan.safetensors", "--into", "tiny", "-o", "w"], 8),
        (["changed.safetensors", "--into", "tiny", "-o", "w.safetensors"], None),
        (["big.safetensors", "--into", "tiny", "-o", "w", "--save-dtype", "float16"], 8),
        (["a.safetensors", "b.safetensors", "--weights", "1"], 2),
        (["a.safetensors", "b.safetensors", "--sweep", "0:1:2", "-o", "s.safetensors"], 4),
    ],
    "compose": [
        (["a.safetensors", "-o", "r.toml"], 4),
        (["nowhere.safetensors"], 3),
        (["a.safetensors", "--block-weights", "a=nope=1"], None),
        (["a.safetensors", "--bake", "-o", "x.safetensors", "--schedule", "a=0@0,1@1"], 2),
        (["p.png"], 3),
        (["a.safetensors", "--learn", "empty"], 3),
        (["a.safetensors", "--learn", "bad"], 3),
        (["a.safetensors", "--learn", "data", "--schedule", "a=0@0,1@1"], 2),
        (["nan.safetensors", "--learn", "data"], None),
        (["a.safetensors", "--learn", "data", "--learn-per", "block", "--block-weights", "a=up=0.5"], 2),
        (["a.safetensors", "nan.safetensors", "--bake", "-o", "x.safetensors"], 3),
    ],
    "sample": [
        (["a cat", "--size", "60"], 2),
        (["a cat", "--lora", "nowhere.safetensors"], 3),
        (["a cat", "--lora", "p.png"], 3),
        (["a cat", "--image", "bad/x.png"], 3),
        (["a cat", "--image", "p.png", "--mask", "wide.png"], 3),
        (["a cat", "--image", "nowhere.png"], 3),
        (["a cat", "--lora", "a.safetensors", "--region", "a=nowhere.png"], 3),
        (["a cat", "-o", "p.png"], 4),
        (["a cat", "-n", "2", "-o", "one.png"], 2),
        (["a cat", "-n", "2", "--grid", "x:seed=1,2"], 2),
        (["a cat", "--mask", "p.png"], 2),
        (["a cat", "--scheduler", "eulr"], 2),
        (["a cat", "--model", "./nowhere"], None),
        (["--prompts", "nowhere.txt"], None),
        (["a cat", "--gif"], 2),
        (["--from", "p.png"], 3),
        (["a cat", "--guidance-schedule", "x"], 2),
    ],
    "convert": [
        (["nowhere", "x.safetensors"], 3),
        (["nan.safetensors", "x.safetensors"], 3),
        (["a.safetensors", "b.safetensors"], 4),
        (["a.safetensors", "x.safetensors", "--token", "new"], 2),
        (["p.png", "x.safetensors"], 3),
        (["a.safetensors", "x.safetensors", "--to", "a1111-embedding"], 3),
        (["a.safetensors", "x.safetensors", "--model", "./nowhere"], None),
    ],
    "inspect": [
        (["nowhere.safetensors"], 3),
        (["p.png"], 3),
        (["a.safetensors", "--similarity"], 2),
        (["a.safetensors", "nan.safetensors", "--similarity"], 8),
        (["a.safetensors", "b.safetensors", "--similarity", "--report", "page.txt"], None),
    ],
    "demo": [(["p.png"], 2), (["out", "--photos", "nowhere"], 3), (["out", "--photos", "bad"], 3), (["raw"], 4)],
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """All that the commands above read."""
    home = tmp_path_factory.mktemp("inputs")
    captioned(home / "data", "a photo of a <s1> cat")
    for name in ("raw", "mixed", "bad", "coded", "empty", "locked", "other"):
        (home / name).mkdir()
    for number in range(3):
        picture((90, 80), seed=number).save(home / "raw" / f"{number}.png")
    shutil.copy(home / "raw" / "0.png", home / "mixed" / "good.png")
    shutil.copy(home / "raw" / "0.png", home / "coded" / "x.png")
    (home / "coded" / "x.txt").write_bytes("müde".encode("cp1252"))
    for name in ("mixed", "bad"):
        (home / name / "x.png").write_text("no picture")
    picture((64, 64)).save(home / "p.png")
    Image.new("L", (64, 64), 255).save(home / "mask.png")
    Image.new("L", (90, 30), 255).save(home / "wide.png")
    (home / "prompts.txt").write_text("a cat\na dog --seed 3\n")
    (home / "s-000.safetensors").write_bytes(b"mine")
    lora(home / "a.safetensors", 1)
    lora(home / "b.safetensors", 2, text=True)
    for name, value in (("nan", np.nan), ("big", 3e38)):
        tensors = load_file(home / "a.safetensors")
        key = next(key for key in sorted(tensors) if key.endswith("lora_up.weight"))
        tensors[key][0, 0] = value
        save_file(tensors, home / f"{name}.safetensors")
    make(home / "base", layers=2)
    make(home / "tuned", layers=2, seed=1)
    shutil.copytree(home / "tuned", home / "nan")
    weights = home / "nan" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors[min(tensors)].flat[0] = np.nan
    save_file(tensors, weights, {"format": "pt"})
    return home


@pytest.fixture(scope="module")
def made(inputs) -> Path:
    """What earlier runs have left."""
    from lorakit.cli import _run

    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(inputs)
        patch.setenv("XDG_CACHE_HOME", str(inputs / "cache"))
        patch.setenv("LORAKIT_PPIM_WORKERS", "1")
        for arguments in (
            ["extract", "tuned", "--base", "base", "--rank", "1", "-o", "changed.safetensors"],
            ["compose", "a.safetensors", "b.safetensors:0.3", "-o", "r.toml"],
            ["compose", "a.safetensors", "--schedule", "a=0@0,1@1", "-o", "moving.toml"],
            ["ppim", "raw", "set"],
            ["ppim", "raw", "edited"],
            ["prior-gen", "a cat", "prior", "--count", "1"],
            ["prior-gen", "a dog", "other", "--count", "1", *DRAW],
            ["train", "data", *FAST, "-o", "cut.safetensors"],
        ):
            assert _run([*arguments, "-q"]) == 0, arguments
    (inputs / "edited" / "metadata.jsonl").write_text("{broken\n")
    (inputs / "cut.safetensors").unlink()  # as if the run had been cut off before its last write
    torch.set_num_threads(threads)
    return inputs


LARGE = 1 << 20  # bytes: weights, which are replaced and never written into


def _copied(source: str, target: str) -> None:
    (os.link if os.stat(source).st_size > LARGE else shutil.copy2)(source, target)


@pytest.fixture
def place(made, tmp_path, monkeypatch, one_worker) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True, copy_function=_copied)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path


def tree(folder: Path) -> dict[str, tuple[int, bytes | int | None]]:
    """Every path below a folder with its time of change, and a file's content, or of a large one which file it is."""
    found: dict[str, tuple[int, bytes | int | None]] = {}
    for path in folder.rglob("*"):
        about = path.stat()
        content = None if path.is_dir() else path.read_bytes() if about.st_size <= LARGE else about.st_ino
        found[str(path.relative_to(folder))] = (about.st_mtime_ns, content)
    return found


@pytest.mark.parametrize("name", RIGHT)
def test_a_dry_run_has_the_keys_of_the_run_and_leaves_no_trace(program, place, name):
    arguments = [name.split()[0], *RIGHT[name], "--json"]
    before = tree(place)
    dry = program(*arguments, "--dry-run")
    assert tree(place) == before
    assert dry.json["outputs"] == []
    done = program(*arguments)
    assert dry.json.keys() == done.json.keys()
    assert [type(value) for key, value in dry.json.items() if value is not None and key != "seconds"] == [
        type(done.json[key]) for key, value in dry.json.items() if value is not None and key != "seconds"
    ]


@pytest.mark.parametrize(("command", "number"), [(name, i) for name in WRONG for i in range(len(WRONG[name]))])
def test_what_the_run_refuses_the_dry_run_refuses_with_the_same_words(place, capfd, monkeypatch, command, number):
    from lorakit.cli import _run

    monkeypatch.chdir(place)
    arguments, status = WRONG[command][number]
    if command == "train" and "--steps" not in arguments:
        arguments = [*arguments, "--steps", "1"]  # should it be taken after all, it is not trained for long

    def run(*more: str) -> tuple[int, str]:
        threads = torch.get_num_threads()
        capfd.readouterr()
        try:
            code = _run([command, *arguments, *more, "-q"])
        finally:
            torch.set_num_threads(threads)
        return code, capfd.readouterr().err

    with held(place / "locked"):
        before = tree(place)
        dry = run("--dry-run")
        assert tree(place) == before
        assert dry == run()
    assert dry[0] in ((2, 3, 4, 5, 6, 8) if status is None else (status,)), dry[1]
    assert "a bug" not in dry[1]


@pytest.mark.parametrize("options", [["--dry-run"], ["--force"]])
def test_what_makes_no_difference_to_inspect_is_said(program, place, options):
    assert f"{options[0]} makes no difference here" in program("inspect", "a.safetensors", *options).stderr


def test_lines_from_stdin_are_checked_in_a_dry_run_and_not_drawn(program, tmp_path, monkeypatch):
    lines = 'a cat\n{"prompt": "a dog", "size": "60x60"}\na fox --seed 4\n'
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    done = program("sample", "--prompts", "-", *DRAW, "-o", "out", "--dry-run", "-q", status=2)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one.get("output", one.get("status")) for one in told] == [None, 2, None]
    assert [one.get("seed") for one in told] == [0, None, 4] and not (tmp_path / "out").exists()
