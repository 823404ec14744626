"""Sampling schedulers by name: diffusers' classes and their settings, as text, so that listing them imports nothing."""

from typing import Any, NamedTuple


class Kind(NamedTuple):
    """One scheduler: its class and settings for models over betas, the same for rectified flows (None where the method has
    no form for them), and whether a step draws noise."""

    betas: tuple[str, dict[str, Any]]
    flow: tuple[str, dict[str, Any]] | None
    draws: bool = False


SCHEDULERS: dict[str, Kind] = {
    "ddim": Kind(("DDIMScheduler", {"set_alpha_to_one": False, "clip_sample": False}), None),
    "dpm++": Kind(
        ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
        (
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "dpmsolver++", "use_flow_sigmas": True, "prediction_type": "flow_prediction"},
        ),
    ),
    "euler": Kind(("EulerDiscreteScheduler", {}), ("FlowMatchEulerDiscreteScheduler", {})),
    "euler-a": Kind(("EulerAncestralDiscreteScheduler", {}), None, draws=True),
    "unipc": Kind(
        ("UniPCMultistepScheduler", {}),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
    ),
    "pndm": Kind(("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False}), None),
    "lcm": Kind(("LCMScheduler", {}), ("FlowMatchLCMScheduler", {}), draws=True),
}
