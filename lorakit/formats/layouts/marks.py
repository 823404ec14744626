"""What single files say beside their weights, in the marks that other programs read, and in a note of lorakit's own.

ComfyUI, the webuis built on it and OneTrainer know a checkpoint that predicts v by a tensor named `v_pred`, one with a
zero terminal SNR by `ztsnr`, and the processes of EDM by `edm_mean`, `edm_std` and `edm_vpred.*`; what those tensors hold is
of no matter. sd-scripts and others write `modelspec.prediction_type`. For all else that no tensor tells (a flow's shift, the
spacing of the steps, the scale of the latents) no other program has a mark: it stands in `lorakit.configs`, the configs of a
diffusers folder as far as they differ from what a reader takes without it. A pickle has no metadata; there the same texts
stand beside the tensors.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from lorakit import process_config
from lorakit.arrays import Stored
from lorakit.errors import InputError
from lorakit.io.plain import json_object
from lorakit.process_config import SCHEDULER

Configs = dict[str, dict[str, Any]]

V, ZERO_SNR = "v_pred", "ztsnr"
KIND, ARCHITECTURE, OWN = "modelspec.prediction_type", "modelspec.architecture", "lorakit.configs"
TEXTS = (KIND, ARCHITECTURE, OWN)
_PREFIXES = ("", "model.", "model.diffusion_model.")
# Marks of processes that lorakit does not know, to the class of scheduler that diffusers has for them.
_EDM = {
    "edm_vpred.sigma_max": "EDMEulerScheduler",
    "edm_vpred.sigma_min": "EDMEulerScheduler",
    "edm_mean": "EDMDPMSolverMultistepScheduler",
    "edm_std": "EDMDPMSolverMultistepScheduler",
}
_SPELLED = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "noise": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v_pred": "v_prediction",
    "vpred": "v_prediction",
    "velocity": "v_prediction",
    "sample": "sample",
    "x0": "sample",
    "flow": "flow",
    "flow_prediction": "flow",
    "flow_matching": "flow",
    "rectified_flow": "flow",
    "rf": "flow",
}
_WRITTEN = {"v_prediction": "v"}  # as the specification spells it
# Of the architectures of modelspec those that say what the model predicts, before "-edit", "/lora" and the like.
_ARCHITECTURES = {
    "stable-diffusion-v2-768-v": "v_prediction",
    "stable-diffusion-v2-512": "epsilon",
    "stable-diffusion-v2-inpainting": "epsilon",
    "stable-diffusion-v2-depth": "epsilon",
}
# What of a folder's configs no tensor tells.
_UNTOLD = {
    "model_index.json": ("force_zeros_for_empty_prompt",),
    "unet/config.json": (
        "attention_head_dim",
        "num_attention_heads",
        "sample_size",
        "upcast_attention",
        "norm_num_groups",
        "addition_time_embed_dim",
    ),
    "vae/config.json": (
        "scaling_factor",
        "shift_factor",
        "latents_mean",
        "latents_std",
        "force_upcast",
        "norm_num_groups",
        "sample_size",
    ),
    "text_encoder/config.json": ("num_attention_heads", "hidden_act", "layer_norm_eps", "eos_token_id"),
    "text_encoder_2/config.json": ("num_attention_heads", "hidden_act", "layer_norm_eps", "eos_token_id"),
}


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What a file says of its process.

    prediction   what the model answers, one of `process_config.KINDS` or a word that nobody knows; None where nothing says so
    own          what lorakit has noted of the configs
    where        what says it, for people
    clash        what says otherwise, and did not count
    edm          the class of the scheduler for a process that lorakit does not know
    """

    prediction: str | None = None
    zero_snr: bool = False
    own: Mapping[str, Mapping[str, Any]] | None = None
    where: str = ""
    clash: str = ""
    edm: str = ""

    def scheduler(self, plain: Mapping[str, Any]) -> dict[str, Any]:
        """The scheduler's config, where `plain` is that of a file without marks."""
        if self.edm:
            return {**plain, "_class_name": self.edm}
        noted = (self.own or {}).get(SCHEDULER)
        found = dict(noted) if noted else dict(plain)
        if self.prediction in process_config.KINDS:
            found, _ = process_config.overridden(found, process_config.Overrides(self.prediction), "")
        elif self.prediction is not None:
            found["prediction_type"] = self.prediction
        if self.zero_snr and not process_config.is_flow(found) and not process_config.ends_in_noise(found):
            found = process_config.ending_in_noise(found)
        return found


def read(keys: Collection[str], metadata: Mapping[str, str], source: str) -> Marks:
    """The marks of a file with these keys. A tensor counts more than modelspec's word, that more than its architecture, and
    lorakit's own note least: where it is contradicted, another program has changed the file since."""
    if edm := next(((key, name) for key, name in _EDM.items() if _has(keys, key)), None):
        return Marks(edm=edm[1], where=f"{edm[0]} in the file")
    own, claims = _own(metadata, source), []
    if _has(keys, V):
        claims.append(("v_prediction", V))
    if word := metadata.get(KIND, "").strip():
        kind = _SPELLED.get(word.lower().replace("-", "_").replace(" ", "_"), word)
        claims.append((kind, f"{KIND} {word[:40]}"))
    architecture = metadata.get(ARCHITECTURE, "").partition("/")[0]
    if architecture in _ARCHITECTURES:
        claims.append((_ARCHITECTURES[architecture], f"{ARCHITECTURE} {architecture}"))
    if own and SCHEDULER in own:
        claims.append((process_config.prediction_of(own[SCHEDULER]), OWN))
    prediction = claims[0][0] if claims else None
    found = [name for kind, name in claims if kind == prediction]
    found = [name for name in found if name != OWN] or found  # it says the same again
    clash = [name for kind, name in claims if kind != prediction]
    zero = _has(keys, ZERO_SNR)
    where = " and ".join([*found, *([ZERO_SNR] if zero else [])])
    return Marks(prediction=prediction, zero_snr=zero, own=own, where=where, clash=" and ".join(clash))


def _has(keys: Collection[str], mark: str) -> bool:
    return any(f"{prefix}{mark}" in keys for prefix in _PREFIXES)


def is_mark(key: str) -> bool:
    return any(key == f"{prefix}{mark}" for prefix in _PREFIXES for mark in (V, ZERO_SNR))


def _own(metadata: Mapping[str, str], source: str) -> Configs | None:
    """InputError where it is no table of tables: it would be guessed at otherwise."""
    if OWN not in metadata:
        return None
    try:
        found = json_object(metadata[OWN])
        if not all(isinstance(config, dict) for config in found.values()):
            raise ValueError("expected a table of each config")
    except ValueError as error:
        raise InputError(f"{source}: its {OWN} cannot be read: {error}") from error
    known = {path: [*keys] for path, keys in _UNTOLD.items()}
    return {
        path: {key: value for key, value in config.items() if path == SCHEDULER or key in known.get(path, ())}
        for path, config in found.items()
    }


def with_own(configs: Configs, own: Mapping[str, Mapping[str, Any]] | None) -> Configs:
    """The configs of a file, with what lorakit noted of the folder that it was made of; the scheduler's aside."""
    noted = {path: values for path, values in (own or {}).items() if path != SCHEDULER}
    return {path: {**config, **noted.get(path, {})} for path, config in configs.items()}


def written(
    scheduler: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]], plain: Configs, metadata: Mapping[str, str]
) -> tuple[dict[str, Stored], dict[str, str]]:
    """(tensors, metadata) by which a file says this; they are to stand in place of all others of its kind (`TEXTS`).

    configs   of the folder that the file is made of, by path; what no tensor tells of them is noted
    plain     what a reader takes for the configs without a mark
    metadata  of the model's own file
    raises   InputError for a process that lorakit does not know and has no marks for
    """
    process_config.check(scheduler, "the model")
    prediction, zero = process_config.prediction_of(scheduler), process_config.ends_in_noise(scheduler)
    marks = [name for name, on in ((V, prediction == "v_prediction"), (ZERO_SNR, zero)) if on]
    read_back = Marks(prediction=prediction, zero_snr=zero).scheduler(plain[SCHEDULER])
    noted: dict[str, Any] = {}
    for path, keys in _UNTOLD.items():
        if path in configs and path in plain:
            config, taken = configs[path], plain[path]
            rest = {key: config[key] for key in keys if key in config and _differ(config[key], taken.get(key))}
            noted |= {path: rest} if rest else {}
    own = {key: value for key, value in scheduler.items() if not key.startswith("_") or key == "_class_name"}
    if any(_differ(own.get(key), read_back.get(key)) for key in {*own, *read_back} if not key.startswith("_diffusers")):
        noted[SCHEDULER] = own
    texts = {KIND: _WRITTEN.get(prediction, prediction)}
    if architecture := metadata.get(ARCHITECTURE):
        known = _ARCHITECTURES.get(architecture)
        texts[ARCHITECTURE] = architecture if known in (None, prediction) else _architecture(prediction)
    if noted:
        texts[OWN] = json.dumps(noted, sort_keys=True)
    return {name: Stored("F32", (0,), bytes) for name in marks}, texts


def _differ(a: Any, b: Any) -> bool:
    """None and False are what a config has that leaves a value out."""
    return (a or None) != (b or None)


def of_training(scheduler: Mapping[str, Any], family: str | None) -> dict[str, str]:
    """What an adapter's metadata says of the process of the model that it was trained for, as kohya and modelspec spell it."""
    prediction = process_config.prediction_of(scheduler)
    found = {
        KIND: _WRITTEN.get(prediction, prediction),
        "ss_v_parameterization": str(prediction == "v_prediction"),
        "ss_zero_terminal_snr": str(process_config.ends_in_noise(scheduler)),
    }
    if process_config.is_flow(scheduler):
        found["lorakit.shift"] = process_config.shift_words(scheduler)
    if family == "sd2":
        found[ARCHITECTURE] = f"{_architecture(prediction)}/lora"
    return found


def _architecture(prediction: str) -> str:
    return next(
        name for name, kind in _ARCHITECTURES.items() if (kind == "v_prediction") == (prediction == "v_prediction")
    )
