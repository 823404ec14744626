"""Tiny models that say different things of their process, and the ways in which they are written."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tests import tiny

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
PROCESSES: dict[str, dict[str, Any]] = {
    "epsilon": {
        "_class_name": "PNDMScheduler",
        **BETAS,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    },
    "v": {
        "_class_name": "EulerDiscreteScheduler",
        **BETAS,
        "prediction_type": "v_prediction",
        "timestep_spacing": "linspace",
    },
    "v, zero": {
        "_class_name": "EulerDiscreteScheduler",
        **BETAS,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
    "sample": {"_class_name": "DDIMScheduler", **BETAS, "prediction_type": "sample", "timestep_spacing": "trailing"},
    "flow": {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 2.5},
    "flow of DPM": {
        "_class_name": "DPMSolverMultistepScheduler",
        "num_train_timesteps": 1000,
        "use_flow_sigmas": True,
        "prediction_type": "flow_prediction",
        "flow_shift": 3.0,
    },
}


def says(folder: Path, scheduler: dict[str, Any]) -> Path:
    """The model folder with another scheduler's config."""
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


def config(folder: Path, part: str = "scheduler") -> dict[str, Any]:
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    return json.loads((folder / part / name).read_text())


def changed(folder: Path, part: str, **values: Any) -> Path:
    """The model folder with other values in a part's config."""
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    (folder / part / name).write_text(json.dumps({**config(folder, part), **values}))
    return folder


def marked(file: Path, metadata: dict[str, str] | None = None, **tensors: Any) -> Path:
    """The single file with more tensors and other metadata; a dot in a tensor's name is two underscores."""
    more = {name.replace("__", "."): x for name, x in tensors.items()}
    save_file({**load_file(file), **more}, file, metadata)
    return file


def single(folder: Path, family: str, name: str = "one.safetensors", **more: Any) -> Path:
    """A whole single file of a tiny model of the family, which says nothing of its process."""
    made = tiny.make(folder / "made", family, layers=2, usual=True, **more)
    return tiny.single(made, folder / name, family)
