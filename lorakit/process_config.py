"""What a model says of its diffusion process, in the words of diffusers: the config of a scheduler. Needs no torch.

A config names the solver that the model's authors drew with. What is read here is which process that solver is over,
what the model was trained to answer, and where its noise ends. Single files say the same by marks, which become a config
(`lorakit.formats.layouts.marks`), and a user can say otherwise (`Overrides`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorakit.errors import InputError, UsageError
from lorakit.talk import Note

Config = Mapping[str, Any]

SCHEDULER = "scheduler/scheduler_config.json"  # where a diffusers folder has it
PREDICTIONS = ("epsilon", "v_prediction", "sample")
FLOW = "flow"
KINDS = (*PREDICTIONS, FLOW)
# Stable Diffusion's own noise, which a model has where it does not say otherwise.
STABLE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
_BETAS = (
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
_GROWTH = {"base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 4096, "max_shift": 1.15}
_WHOLE = ("num_train_timesteps", "base_image_seq_len", "max_image_seq_len")
_FLOWING = ("flow_prediction", "flow_matching", FLOW)


@dataclass(frozen=True)
class Overrides:
    """What a user says of a model in place of what it says of itself; None leaves that as it is.

    prediction   one of KINDS
    zero_snr     whether nothing of the picture is left at the last timestep
    shift        of a rectified flow
    """

    prediction: str | None = None
    zero_snr: bool | None = None
    shift: float | None = None

    def __post_init__(self) -> None:
        """UsageError for what no model can be."""
        if self.prediction not in (None, *KINDS):
            raise UsageError(f"--prediction-type {self.prediction}: there are {', '.join(KINDS)}")
        if self.shift is not None and not (math.isfinite(self.shift) and self.shift > 0):
            raise UsageError(f"--shift must be a number above 0, got {self.shift:g}")
        if self.shift is not None and self.prediction in PREDICTIONS:
            raise UsageError(
                f"--shift is a rectified flow's, which --prediction-type {self.prediction} is not; leave one of them out"
            )
        if self.zero_snr and (self.prediction == FLOW or self.shift is not None):
            raise UsageError(_NO_ZERO_SNR)

    def __bool__(self) -> bool:
        return self != Overrides()


NOTHING = Overrides()
_NO_ZERO_SNR = "--zero-snr has no meaning for a rectified flow, which ends in pure noise as it is"


def is_flow(config: Config) -> bool:
    """Whether it is of a rectified flow."""
    return (
        config.get("_class_name") in _FLOW
        or config.get("prediction_type") in _FLOWING
        or bool(config.get("use_flow_sigmas"))
    )


def prediction_of(config: Config) -> str:
    """What the model answers: one of KINDS, or another word, which `check` refuses."""
    return FLOW if is_flow(config) else str(config.get("prediction_type", "epsilon"))


def ends_in_noise(config: Config) -> bool:
    return not is_flow(config) and bool(config.get("rescale_betas_zero_snr"))


def shift_of(config: Config) -> Any:
    """A flow's shift, as the file has it."""
    return config.get("shift", config.get("flow_shift", 1.0))


def growth_of(config: Config) -> dict[str, Any]:
    """What a flow whose shift grows with the picture's size says of that, as the file has it."""
    return {key: config.get(key, usual) for key, usual in _GROWTH.items()}


def shift_said(config: Config) -> Any:
    """A flow's shift, or that it goes by the picture's size."""
    return "by the picture's size" if config.get("use_dynamic_shifting") else shift_of(config)


def shift_words(config: Config) -> str:
    """The same as text."""
    shift = shift_said(config)
    return f"{shift:g}" if isinstance(shift, int | float) else str(shift)[:40]


def words(config: Config) -> str:
    """ "predicts v_prediction, zero terminal SNR, spacing trailing", as far as the config says so."""
    if is_flow(config):
        return f"is a rectified flow, shift {shift_words(config)}"
    found = [f"predicts {prediction_of(config)}"]
    found += ["zero terminal SNR"] if ends_in_noise(config) else []
    found += [f"spacing {spacing}"] if (spacing := config.get("timestep_spacing")) else []
    return ", ".join(found)


def unknown(config: Config) -> str:
    """The class of a scheduler over no process that lorakit knows, with what is foreign in it; "" where it knows it."""
    name = str(config.get("_class_name", "DDIMScheduler"))
    if name in _FLOW:
        return ""
    if name not in _BETAS:
        return name
    return f"{name} over continuous noise levels" if config.get("timestep_type") == "continuous" else ""


def check_known(config: Config, source: str, pipeline: str = "") -> None:
    """InputError for the scheduler of another process than lorakit knows; it names the class and the model's pipeline."""
    if name := unknown(config):
        whose = f", of {pipeline}" if pipeline else ""
        raise InputError(
            f"{source}: its scheduler is {name}{whose}, a noise schedule that lorakit does not know; it trains and draws "
            "models over betas (Stable Diffusion's own) and rectified flows"
        )


def check(config: Config, source: str, pipeline: str = "") -> None:
    """InputError for a config that is of none of the processes lorakit knows, or a flow with impossible numbers."""
    check_known(config, source, pipeline)
    if not is_flow(config):
        if (prediction := prediction_of(config)) not in PREDICTIONS:
            raise InputError(
                f"{source}: its scheduler predicts '{prediction[:40]}', which lorakit does not know; say what it predicts "
                f"with --prediction-type {'|'.join(KINDS)}"
            )
        return
    for key in ("shift_terminal", "invert_sigmas"):
        if config.get(key):
            raise InputError(
                f"{source}: its scheduler has {key}, which lorakit does not know; it would draw at other times"
            )
    numbers = {"num_train_timesteps": config.get("num_train_timesteps", 1000)}
    if config.get("use_dynamic_shifting"):
        numbers |= growth_of(config)
        if (of := config.get("time_shift_type", "exponential")) not in ("exponential", "linear"):
            raise InputError(
                f"{source}: its scheduler has the time_shift_type {str(of)[:40]!r}, expected exponential or linear"
            )
    else:
        numbers["shift"] = shift_of(config)
    wrong = [key for key, x in numbers.items() if not _is_above_0(x, whole=key in _WHOLE)]
    if wrong or numbers.get("max_image_seq_len", 2) <= numbers.get("base_image_seq_len", 1):
        said = " and ".join(f"{key} {numbers[key]!r}" for key in wrong or _WHOLE[1:])
        raise InputError(
            f"{source}: its scheduler has {said}, expected numbers above 0" + ", the first smaller" * (not wrong)
        )


def _is_above_0(x: Any, whole: bool) -> bool:
    number = isinstance(x, int) or (isinstance(x, float) and not whole)
    return number and not isinstance(x, bool) and 0 < x < math.inf


def of_kind(prediction: str, steps: Any = 1000) -> dict[str, Any]:
    """The config of a model of Stable Diffusion's noise, or of a rectified flow without a shift."""
    if prediction == FLOW:
        return {"_class_name": _FLOW[0], "num_train_timesteps": steps, "shift": 1.0}
    return {
        "_class_name": "DDIMScheduler",
        **STABLE,
        "num_train_timesteps": steps,
        "steps_offset": 1,
        "prediction_type": prediction,
        "clip_sample": False,
        "set_alpha_to_one": False,
    }


def ending_in_noise(config: Config, zero: bool = True) -> dict[str, Any]:
    """The same with a zero terminal SNR, whose noisiest step is one of its own (Lin et al., 2024); or without."""
    spacing = {"timestep_spacing": "trailing"} if zero else {}
    return {**config, "rescale_betas_zero_snr": zero, **spacing}


def overridden(config: Config, wanted: Overrides, source: str) -> tuple[dict[str, Any], list[str]]:
    """The config with what the user says of the model; and what that changes, a phrase each. UsageError for what has no
    meaning for such a model."""
    found, told = dict(config), list[str]()
    if wanted.prediction is not None and wanted.prediction != (own := prediction_of(found)):
        told.append(f"--prediction-type {wanted.prediction}, not {own}")
        if FLOW in (own, wanted.prediction):
            found = of_kind(wanted.prediction, found.get("num_train_timesteps", 1000))
        else:
            found["prediction_type"] = wanted.prediction
    if wanted.zero_snr and is_flow(found):
        raise UsageError(_NO_ZERO_SNR)
    if wanted.zero_snr is not None and wanted.zero_snr != ends_in_noise(found):
        told.append("--zero-snr" if wanted.zero_snr else "--no-zero-snr")
        found = ending_in_noise(found, wanted.zero_snr)
    if wanted.shift is not None:
        if not is_flow(found):
            raise UsageError(f"--shift is a rectified flow's, and {source} {words(found)}; add --prediction-type flow")
        if wanted.shift != shift_of(found) or found.get("use_dynamic_shifting"):
            told.append(f"--shift {wanted.shift:g}" + (f", not {shift_words(found)}" if is_flow(config) else ""))
            key = "shift" if found.get("_class_name") in _FLOW else "flow_shift"
            found |= {key: wanted.shift, "use_dynamic_shifting": False}
    return found, told


def settled(config: Config, where: str, wanted: Overrides, source: str, pipeline: str, note: Note) -> dict[str, Any]:
    """The config that counts: what the model says at `where`, with what the user says instead. One note tells both.

    pipeline   the class that the model is for, for errors
    raises     InputError for a process that lorakit does not know; UsageError for an override without meaning
    """
    check_known(config, source, pipeline)
    found, changes = overridden(config, wanted, source)
    check(found, source, pipeline)
    by = f"{where}; overridden by {', '.join(changes)}" if changes else where
    note(f"{source} {words(found)} ({by})")
    if ends_in_noise(found) and prediction_of(found) == "epsilon":
        note(
            f"{source} is to predict the noise with a zero terminal SNR: at the last timestep, where there is nothing else, it "
            "can learn nothing and tell nothing; that is meant for models that predict v"
        )
    return found
