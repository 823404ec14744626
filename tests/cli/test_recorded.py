"""What `train --config OUTPUT` takes from the metadata of a file, which anyone may have written."""

import inspect
import json
import tomllib
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lorakit.cli.train import train
from lorakit.config import Recorded, TrainConfig
from lorakit.errors import UsageError
from lorakit.io import torch_files as tensors
from lorakit.jobs.train import RunOptions
from lorakit.training.optimizers import OptimizerGroup, make

HINTS = typing.get_type_hints(TrainConfig, include_extras=True)
FIELDS = {field.name: typing.get_args(HINTS[field.name]) for field in fields(TrainConfig)}
TEXTS = {name for name, (kind, *_) in FIELDS.items() if "str" in str(kind)}
# Options that a recorded value names a file, a model or code with; each must be said anew.
FORBIDDEN = {
    "model": ["stabilityai/sdxl-turbo", "gpt2", "./model", "/models/x.ckpt", "x.safetensors", "Tiny"],
    "tokenizer": ["tokenizer"],
    "prior_dir": ["class"],
    "init_from": ["start.safetensors"],
    "optimizer": ["torch.optim:SGD", "mine:Mine", "adam"],
}
# Options of how and where a run writes and talks.
OF_THE_USER = {
    "output": "thesis.txt",
    "run_dir": "elsewhere",
    "force": True,
    "quiet": True,
    "json": True,
    "verbose": True,
    "data": "/etc",
    "device": "cuda:7",
    "resume": "other.run",
    "track": ["wandb"],
    "checkpoint_every": 1,
    "keep": 9,
    "preview_prompt": ["x"],
    "preview_every": 1,
    "plan": True,
    "show_targets": True,
    "replay": "bundle.json",
}


def record(file: Path, config: Any, options: Any = None, sources: Any = None) -> Path:
    parts = {"config": config, "options": options, "sources": sources}
    metadata = {f"lorakit.{k}": v if isinstance(v, str) else json.dumps(v) for k, v in parts.items() if v is not None}
    if file.suffix == ".safetensors":
        tensors.save(file, {"x": torch.ones(1)}, metadata)
    else:
        file.write_text(json.dumps(metadata))
    return file


@pytest.fixture
def printed(program: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """What a run with this recorded config would do: the table that it prints, and what it says."""

    def run(config: Any, *arguments: object, options: Any = None, sources: Any = None, status: int = 0) -> Any:
        record(tmp_path / "nice.safetensors", config, options, sources)
        done = program("train", "--config", "nice.safetensors", "--print-config", *arguments, status=status)
        return tomllib.loads(done.stdout).get("train"), done.stderr

    return run


def test_every_number_and_flag_is_taken_over(printed):
    other = {
        name: not _default(name) if "bool" in str(kind) else 0.25 if "float" in str(kind) else 3
        for name, (kind, *_) in FIELDS.items()
        if name not in TEXTS and name not in ("debiased", "v_like", "shift")
    } | {"steps": 30, "text_steps": 30}  # a run is longer than its warm-up
    taken, said = printed(other)
    assert {name: taken[name.replace("_", "-")] for name in other} == other and "not taken" not in said


def _default(name: str) -> Any:
    field = TrainConfig.__dataclass_fields__[name]
    return field.default if field.default is not MISSING else []


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_text_is_taken_over_where_it_is_marked_and_else_asked_for(name, printed):
    marked = Recorded.ANY in FIELDS[name]
    several = isinstance(_default(name), list)
    value = {
        "mode": "full",
        "prior_target": "teacher",
        "template": "object",
        "init": "pissa",
        "joint": "off",
        "loss": "huber",
        "timesteps": "importance",
        "lr_schedule": "linear",
        "variant": "loha",
        "timestep_range": "0:500",
        "dora_axis": "input",
        "prediction_type": "v_prediction",
        "repeats": "none",
    }.get(name, "<it>")
    with_tokens = {"mode": "ti", "token": ["<it>"]} if name in ("token", "init_token") else {}
    config = {**with_tokens, name: [value] if several else value}
    taken, said = printed(config, status=0 if marked else 2)
    if marked:
        assert taken[name.replace("_", "-")] == config[name]
    else:
        assert f"--{name.replace('_', '-')} '<it>'" in said and "nice.safetensors" in said


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in FORBIDDEN.items() for value in values])
def test_paths_hub_ids_and_code_are_the_users_to_say(name, value, printed, monkeypatch):
    option = f"--{name.replace('_', '-')}"
    _, said = printed({name: value, "rank": 3}, status=2)
    assert f"{option} {value}" in said and "nice.safetensors" in said and len(said.splitlines()) == 1
    given = "prodigy" if name == "optimizer" else "sd15" if name == "model" else "mine"
    taken, _ = printed({name: value, "rank": 3}, option, given)
    assert taken[option[2:]] == given and taken["rank"] == 3
    monkeypatch.setenv(f"LORAKIT_TRAIN_{name.upper()}", given)
    taken, _ = printed({name: value})
    assert taken[option[2:]] == given


def test_all_that_must_be_said_is_told_at_once(printed):
    _, said = printed({name: values[0] for name, values in FORBIDDEN.items()}, status=2)
    assert all(f"--{name.replace('_', '-')} {values[0]}" in said for name, values in FORBIDDEN.items())


@pytest.mark.parametrize("name", ["tiny", "sd15", "sdxl"])
def test_a_model_by_a_name_of_ours_is_taken_over(name, printed):
    assert printed({"model": name, "optimizer": "lion"})[0].items() >= {("model", name), ("optimizer", "lion")}


@pytest.mark.parametrize("where", ["config", "options"])
def test_where_and_how_a_run_writes_is_never_taken_over(where, printed, program):
    parts = {"config": {"rank": 3}, "options": {}}
    parts[where] = {**parts[where], **OF_THE_USER}
    taken, said = printed(parts["config"], options=parts["options"])
    bare = tomllib.loads(program("train", "--print-config").stdout)["train"]
    for name in OF_THE_USER:
        assert taken.get(name.replace("_", "-")) == bare.get(name.replace("_", "-"))
        assert f"--{name.replace('_', '-')}" in said
    assert said.count("not taken from the metadata of nice.safetensors") == 1


def test_what_a_run_records_beside_its_config_is_what_is_marked():
    marked = {
        name
        for name, parameter in inspect.signature(train).parameters.items()
        if name not in FIELDS and Recorded.ANY in getattr(parameter.annotation, "__metadata__", ())
    }
    life = RunOptions(
        output=Path("x"),
        run_folder=Path("y"),
        file_format="diffusers",
        save_dtype="float16",
        device="cpu",
        dtype="bfloat16",
        validate_every=2,
        early_stop=3,
    )
    assert life.recorded().keys() == marked | {"dtype"}


def test_what_the_bytes_depend_on_is_taken_over(printed):
    options = {"format": "diffusers", "save_dtype": "float16", "dtype": "float32", "validate_every": 5, "early_stop": 2}
    taken, said = printed({"rank": 3}, options=options)
    assert {name: taken[name.replace("_", "-")] for name in options} == options and "not taken" not in said


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"rnak": 3}, "records 'rnak', which is no setting of train"),
        ({"rank": 8.5}, "rank: expected a whole number, got 8.5"),
        ({"rank": True}, "rank: expected a whole number"),
        ({"lr": "1e-4"}, "lr: expected a number"),
        ({"lr": float("nan")}, "lr: expected a finite number"),
        ({"seed": 10**30}, "seed: expected a number below"),
        ({"flip": 1}, "flip: expected true or false, got 1"),
        ({"target": ["attention"]}, "target: expected text"),
        ({"token": "<s1>"}, "token: expected a list of text"),
        ({"token": ["<s1>", 5]}, "token: item 2: expected text, got 5"),
        ({"model": {"a": 1}}, "model: expected text, got a table"),
        ({"config": "other.toml"}, "records 'config'"),
        ([], "not a table"),
        ("{", "not a table"),
        ("[" * 60_000, "not a table"),
    ],
)
def test_a_record_that_is_no_config_is_refused_by_name(config, says, printed):
    _, said = printed(config, status=2)
    assert says in said and "nice.safetensors" in said
    if isinstance(config, dict):
        assert says in printed({"rank": 3}, options=config, status=2)[1]


def test_sources_are_words(printed):
    assert "sources" in printed({"rank": 3}, sources={"rank": {"a": 1}}, status=2)[1]
    assert "sources" in printed({"rank": 3}, sources={"rank": "<b>x</b>"}, status=2)[1]


def test_a_model_folder_and_its_record_are_configs(program, tmp_path):
    (tmp_path / "model").mkdir()
    assert "no config in its metadata" in program("train", "--config", "model", "--print-config", status=2).stderr
    record(tmp_path / "model" / "lorakit.json", {"rank": 3, "mode": "full", "init_from": "x"})
    for name in ("model", "model/lorakit.json"):
        assert "--init-from x" in program("train", "--config", name, "--print-config", status=2).stderr
        done = program("train", "--config", name, "--print-config", "--init-from", "y")
        assert "rank = 3" in done.stdout and 'init-from = "y"' in done.stdout
    assert "records a run of train" in program("merge", "a", "b", "--config", "model", status=2).stderr
    (tmp_path / "model" / "lorakit.json").write_text("[" * 60_000)
    assert "lorakit.json" in program("train", "--config", "model", "--print-config", status=2).stderr


def test_a_run_does_not_write_where_its_config_was_recorded_to(program, dataset, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    record(tmp_path / "nice.safetensors", {"rank": 1, "steps": 1, "batch_size": 1}, OF_THE_USER)
    program("train", dataset, "--config", "nice.safetensors", "-o", "mine.safetensors")
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"thesis.txt", "nice.safetensors", "data", "mine.safetensors", "mine.run"}
    assert (tmp_path / "thesis.txt").read_text() == "precious"


MODULE = "import pathlib, torch\npathlib.Path('imported').touch()\nclass Mine(torch.optim.SGD): pass\n"


def test_code_of_the_working_folder_runs_only_on_the_word_of_the_command_line(program, dataset, tmp_path, monkeypatch):
    """`python -m lorakit` looks for modules in the working folder first; a file or a variable must not use that."""
    monkeypatch.syspath_prepend("")
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "c.toml").write_text('[train]\noptimizer = "mine:Mine"\n')
    record(tmp_path / "nice.safetensors", {"optimizer": "mine:Mine"}, sources={"optimizer": "option"})
    short = ["train", dataset, "--steps", 1, "--batch-size", 1]
    said = program(*short, "--config", "c.toml", status=2).stderr
    assert "mine:Mine" in said and "working folder" in said and "c.toml, line 2" in said
    program(*short, "--config", "nice.safetensors", status=2)
    assert not (tmp_path / "imported").exists()
    program(*short, "--optimizer", "mine:Mine")
    assert (tmp_path / "imported").exists()


def test_installed_optimizers_are_found_without_the_working_folder():
    parameters = {"w": nn.Parameter(torch.ones(1))}
    assert isinstance(make("torch.optim:SGD", [OptimizerGroup(parameters)], 0.1, installed=True), torch.optim.SGD)
    with pytest.raises(UsageError, match="no_such_module"):
        make("no_such_module:X", [OptimizerGroup(parameters)], 0.1, installed=True)
