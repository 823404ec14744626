"""What a drawn picture says of its sampling, in the webuis' words and in ours, and what is read of theirs."""

import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lorakit.data import pngtext
from lorakit.schedulers import SCHEDULERS, SPACINGS, USUAL

SETTINGS = {
    "prompt": "a cat",
    "negative": "",
    "steps": 20,
    "scheduler": "dpm++",
    "guidance": 7.5,
    "seed": 1,
    "size": [64, 64],
    "model": "tiny",
    "version": "0.1.0",
    "loras": [],
}
PAIRS = [(name, spacing) for name, kind in SCHEDULERS.items() for spacing in ("", *kind.betas.spacings)]


@pytest.mark.parametrize(("scheduler", "spacing"), PAIRS)
def test_scheduler_and_spacing_come_back_from_both_texts(tmp_path, scheduler, spacing):
    settings = SETTINGS | {"scheduler": scheduler} | ({"spacing": spacing} if spacing else {})
    (tmp_path / "a.png").write_bytes(pngtext.encode(np.zeros((8, 8, 3), np.uint8), settings))
    found = pngtext.told(tmp_path / "a.png").settings
    assert (found["scheduler"], found["spacing"]) == (scheduler, spacing or USUAL)
    theirs = pngtext.from_parameters(pngtext.parameters(settings))
    assert (theirs["scheduler"], theirs.get("spacing", "")) == (scheduler, spacing) and not theirs["unread"]


def test_the_names_are_the_webuis(tmp_path):
    line = pngtext.parameters(SETTINGS | {"spacing": "karras"}).splitlines()[-1]
    assert line.startswith("Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5")
    assert "Schedule type" not in pngtext.parameters(SETTINGS)
    assert all("Schedule type: " in pngtext.parameters(SETTINGS | {"spacing": one}) for one in SPACINGS)


@pytest.mark.parametrize(
    ("text", "scheduler", "spacing", "unread"),
    [
        ("Sampler: DPM++ 2M Karras", "dpm++", "karras", []),
        ("Sampler: DPM++ 2M, Schedule type: Karras", "dpm++", "karras", []),
        ("Sampler: DPM++ 2M SDE Karras", "dpm++-sde", "karras", []),
        ("Sampler: DPM++ 2M SDE Exponential", "dpm++-sde", "exponential", []),
        ("Sampler: DPM++ SDE Karras", "dpm++-sde", "karras", []),
        ("Sampler: DPM++ 2M SDE, Schedule type: Automatic", "dpm++-sde", "exponential", []),
        ("Sampler: DPM++ 2M, Schedule type: Automatic", "dpm++", "karras", []),
        ("Sampler: Euler a, Schedule type: Automatic", "euler-a", None, []),
        ("Sampler: Euler, Schedule type: SGM Uniform", "euler", "sgm-uniform", []),
        ("Sampler: Euler, Schedule type: Normal", "euler", "linspace", []),
        ("Sampler: DPM++ 2M", "dpm++", None, []),
        ("Sampler: DDIM", "ddim", None, []),
        ("Sampler: TCD", "tcd", None, []),
        ("Sampler: Euler a, Schedule type: Karras", "euler-a", None, ["Schedule type: Karras (not with euler-a)"]),
        (
            "Sampler: Euler, Schedule type: Align Your Steps",
            "euler",
            None,
            ["Schedule type: Align Your Steps (not with euler)"],
        ),
        ("Sampler: DPM fast Karras", None, None, ["Sampler: DPM fast Karras"]),
        ("Sampler: Heun, Schedule type: Karras", None, None, ["Sampler: Heun", "Schedule type: Karras"]),
        ("Seed: 3", None, None, []),
    ],
)
def test_samplers_of_old_and_new_webuis_are_read(text, scheduler, spacing, unread):
    found = pngtext.from_parameters(f"a cat\nSteps: 20, {text}, CFG scale: 7")
    assert (found.get("scheduler"), found.get("spacing"), found["unread"]) == (scheduler, spacing, unread)


def test_what_is_no_spacing_in_our_text_is_an_error(tmp_path):
    info = PngInfo()
    info.add_itxt("lorakit", json.dumps(SETTINGS | {"spacing": "kerras"}))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(Exception, match="spacing is 'kerras': there are leading"):
        pngtext.told(tmp_path / "a.png")
