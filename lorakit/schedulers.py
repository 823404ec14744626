"""Sampling schedulers by name, and how they may space their steps: diffusers' classes and settings, as text, so that
listing them imports nothing."""

from typing import Any, NamedTuple

# The spacings of --spacing and what diffusers is told for each. It has no formula of its own for the webuis' SGM Uniform
# and gives trailing for it.
SPACINGS: dict[str, dict[str, Any]] = {
    "leading": {"timestep_spacing": "leading"},
    "trailing": {"timestep_spacing": "trailing"},
    "linspace": {"timestep_spacing": "linspace"},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "sgm-uniform": {"timestep_spacing": "trailing"},
}
USUAL = "usual"  # in the place of a spacing: the scheduler's own, whatever the model says; older pictures are of it
_LEADING = ("leading", "trailing", "linspace", "sgm-uniform")
_LINSPACE = ("linspace", "leading", "trailing", "sgm-uniform")
_SIGMAS = ("karras", "exponential", "beta")
_ALL = ("epsilon", "v_prediction", "sample")


class Form(NamedTuple):
    """A scheduler for one kind of process: diffusers' class, its settings, the spacings it has, its own first (none where
    it visits the timesteps that a model was distilled for), what the model may predict, and whether it may be of zero
    terminal SNR."""

    cls: str
    settings: dict[str, Any]
    spacings: tuple[str, ...] = ()
    predictions: tuple[str, ...] = _ALL
    zero_snr: bool = True


class SchedulerKind(NamedTuple):
    """One scheduler: its form for models over betas, the one for rectified flows (None where the method has none), and
    whether a step draws noise."""

    betas: Form
    flow: Form | None
    draws: bool = False


_DPM = "DPMSolverMultistepScheduler"
_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SCHEDULERS: dict[str, SchedulerKind] = {
    "ddim": SchedulerKind(Form("DDIMScheduler", {"set_alpha_to_one": False, "clip_sample": False}, _LEADING), None),
    "dpm++": SchedulerKind(
        Form(_DPM, {"algorithm_type": "dpmsolver++"}, (*_LINSPACE, *_SIGMAS)),
        Form(_DPM, {"algorithm_type": "dpmsolver++", **_FLOW}, ("linspace",)),
    ),
    "dpm++-sde": SchedulerKind(
        Form(_DPM, {"algorithm_type": "sde-dpmsolver++"}, (*_LINSPACE, *_SIGMAS)),
        Form(_DPM, {"algorithm_type": "sde-dpmsolver++", **_FLOW}, ("linspace",)),
        draws=True,
    ),
    "euler": SchedulerKind(
        Form("EulerDiscreteScheduler", {}, (*_LINSPACE, *_SIGMAS)),
        Form("FlowMatchEulerDiscreteScheduler", {}, ("linspace", *_SIGMAS)),
    ),
    "euler-a": SchedulerKind(
        Form("EulerAncestralDiscreteScheduler", {}, _LINSPACE, ("epsilon", "v_prediction")), None, draws=True
    ),
    "unipc": SchedulerKind(
        Form("UniPCMultistepScheduler", {}, (*_LINSPACE, *_SIGMAS)),
        Form("UniPCMultistepScheduler", _FLOW, ("linspace",)),
    ),
    "pndm": SchedulerKind(
        Form(
            "PNDMScheduler",
            {"skip_prk_steps": True, "set_alpha_to_one": False},
            _LEADING,
            ("epsilon", "v_prediction"),
            zero_snr=False,
        ),
        None,
    ),
    "lcm": SchedulerKind(
        Form("LCMScheduler", {}), Form("FlowMatchLCMScheduler", {}, ("linspace", *_SIGMAS)), draws=True
    ),
    "tcd": SchedulerKind(Form("TCDScheduler", {}), None, draws=True),
}
