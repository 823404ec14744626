"""Every option of `train` has an effect where its mark says so, and nowhere else: by what runs read of their config, and by
what comes out where all that is marked idle is changed."""

import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lorakit
from lorakit.config import TrainConfig
from lorakit.formats.layouts import open_model
from lorakit.io import torch_files as tensors
from lorakit.jobs.train import RunOptions, run
from lorakit.registry import MODES
from lorakit.talk import SILENT
from tests.conftest import captioned

ROOT = str(Path(lorakit.__file__).parent)
# What these read of a config they only write down or say.
TELLING = (
    "config.py",
    "effects.py",
    "fields.py",
    "jobs/train/identity.py",
    "jobs/train/planning.py",
    "jobs/train/report.py",
)
NAMES = {field.name for field in fields(TrainConfig)}
PROPERTIES = {name for name, value in vars(TrainConfig).items() if isinstance(value, property)}
# Read in every run, and handed on to what makes use of them or not.
HANDED_ON = {"cycles", "power", "template", "dora_axis", "init_from", "variant", "prior_dir", "prior_target"}
# Another value of each option that not every run makes use of.
OTHER: dict[str, Any] = {
    "instance_prompt": "x",
    "class_prompt": "x",
    "prior_dir": "nowhere",
    "prior_count": 7,
    "prior_weight": 0.3,
    "prior_target": "teacher",
    "init_token": ["thing"],
    "vectors": 2,
    "template": "style",
    "token_norm": 0.5,
    "shuffle_tags": True,
    "tag_warmup": 3,
    "keep_tokens": 1,
    "keep_separator": "|||",
    "caption_separator": ";",
    "rank": 3,
    "alpha": 2.0,
    "target": "all",
    "text_encoder": True,
    "text_steps": 1,
    "dropout": 0.5,
    "variant": "loha",
    "dora_axis": "input",
    "init": "kaiming",
    "block_rank": ["mid=2"],
    "lora_plus": 4.0,
    "ti_steps": 5,
    "joint": "off",
    "joint_token_weight": 0.3,
    "lr": 0.7,
    "lr_text": 0.7,
    "lr_token": 0.7,
    "cycles": 2,
    "power": 3.0,
    "floor": 0.7,
    "huber": 0.7,
}

READ: set[str] = set()


class Recording(TrainConfig):
    """A config that notes which of its fields a run reads."""

    def __getattribute__(self, name: str) -> Any:
        if name in NAMES:
            frame = sys._getframe(1)
            while frame.f_back and (frame.f_code.co_name in PROPERTIES or frame.f_code.co_filename == __file__):
                frame = frame.f_back
            if frame.f_code.co_filename.startswith(ROOT) and not frame.f_code.co_filename.endswith(TELLING):
                READ.add(name)
        return super().__getattribute__(name)


def config(mode: str, small: Path, own: Path, kind: type[TrainConfig] = TrainConfig, **more: Any) -> TrainConfig:
    tokens = {"token": ["<s1>"], "init_token": ["animal"]} if mode in ("ti", "pivotal") else {}
    steps = {"ti_steps": 1} if mode == "pivotal" else {}
    prior = {"class_prompt": "a thing", "prior_dir": str(own), "prior_count": 4} if mode == "dreambooth" else {}
    short = {"model": str(small), "size": 32, "steps": 2, "batch_size": 2}
    return kind(**{"mode": mode, **short, **tokens, **steps, **prior, **more})


def trained(data: Path, asked: TrainConfig, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors that a run writes, by file and name."""
    output = folder / ("model" if asked.mode == "full" else "x.safetensors")
    run(data, asked, RunOptions(output=output, run_folder=folder / "run", file_format="lorakit"), SILENT)
    if asked.mode != "full":
        return tensors.read(output)[0]
    return {name: x.tensor() for name, x in open_model(output).weights().items()}


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """Pictures of the subject, and class pictures."""
    return captioned(tmp_path / "data", "a <s1> thing, red,"), captioned(tmp_path / "class", "a thing,")


@pytest.mark.parametrize("mode", MODES.names())
def test_a_run_reads_what_is_marked_for_its_mode_and_no_other_option(mode, small, sets, tmp_path):
    data, own = sets
    everything = {"shuffle_tags": True, "variant": "dora", "loss": "huber"} | (
        {"text_encoder": True} if mode != "ti" else {}
    )
    READ.clear()
    trained(data, asked := config(mode, small, own, Recording, **everything), tmp_path)
    idle = {name for name, only in TrainConfig.marked() if not only.holds(asked)}
    assert NAMES - idle - HANDED_ON == READ - HANDED_ON


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES.names())
def test_what_is_marked_idle_changes_nothing(mode, small, sets, tmp_path):
    data, own = sets
    asked = config(mode, small, own, seed=3)
    idle = {name: OTHER[name] for name, only in TrainConfig.marked() if not only.holds(asked) and name in OTHER}
    idle.pop("keep_separator", None)  # which says the same thing as --keep-tokens
    found = [trained(data, one, tmp_path / str(i)) for i, one in enumerate((asked, replace(asked, **idle)))]
    assert found[0].keys() == found[1].keys() and len(idle) > 8
    assert all(torch.equal(x, found[1][name]) for name, x in found[0].items())
