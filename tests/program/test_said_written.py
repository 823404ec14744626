"""What a model says of its process, through every file that lorakit writes."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lorakit import process_config
from lorakit.adapter import Adapter
from lorakit.config import TrainConfig
from lorakit.errors import InputError, UsageError
from lorakit.formats.layouts import marks
from lorakit.fusing import fuse
from lorakit.jobs import train
from lorakit.models.described import described
from lorakit.process_config import SCHEDULER, Overrides
from lorakit.talk import SILENT, Talk
from tests import tiny
from tests.conftest import captioned
from tests.support.saying import PROCESSES, changed, config, marked, says, single


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def folder(request, tmp_path_factory):
    """Its heads, activations and the scale of its latents are such as no tensor tells."""
    made = tiny.make(tmp_path_factory.mktemp(request.param) / "m", request.param, layers=2)
    return request.param, changed(
        made, "vae", scaling_factor=0.2, latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 1.0, 2.0]
    )


def through(model, place, *names, tokenizer):
    """The model written as files and folders of these names, one from the other."""
    for name in names:
        fuse(Adapter(modules={}), str(model), place / name, tokenizer=tokenizer)
        model = place / name
    return model


def of_file(file):
    """(keys without a dot, metadata) of a safetensors file, by their own library."""
    with safe_open(file, "pt") as opened:
        return {key: opened.get_tensor(key) for key in [*opened.keys()] if "." not in key}, opened.metadata()


@pytest.mark.parametrize("name", PROCESSES)
def test_it_stays_through_every_layout(folder, tmp_path, name):
    family, folder = folder
    if family != "sdxl" and name not in ("v, zero", "flow"):
        pytest.skip("all of them with one family")
    scheduler = {**PROCESSES[name], "invented": [1, 2]}
    says(folder, scheduler)
    before = described(str(folder)).configs
    out = through(folder, tmp_path, "a.safetensors", "b.ckpt", "c", tokenizer=folder / "tokenizer")
    assert config(out) == scheduler
    after = described(str(out)).configs
    for path, untold in marks._UNTOLD.items():
        for key in untold:
            if key != "eos_token_id" and path in before:
                assert (before[path].get(key) or None) == (after[path].get(key) or None), (path, key)
    tensors, metadata = of_file(tmp_path / "a.safetensors")
    kind = {"v, zero": "v", "flow of DPM": "flow"}.get(name, name)
    assert metadata["modelspec.prediction_type"] == kind
    assert sorted(tensors) == {"v": ["v_pred"], "v, zero": ["v_pred", "ztsnr"]}.get(name, [])
    assert all(x.numel() == 0 for x in tensors.values())
    for file in ("a.safetensors", "b.ckpt"):
        assert described(str(tmp_path / file)).configs[SCHEDULER] == scheduler
    held = torch.load(tmp_path / "b.ckpt", weights_only=True)
    assert sorted(held) == ["__metadata__", "state_dict"]
    assert sorted(k for k in held["state_dict"] if "." not in k) == sorted(tensors)


def test_marks_of_others_stay(tmp_path):
    """NoobAI's: the keys alone, no metadata."""
    file = marked(
        single(tmp_path, "sdxl"), v_pred=torch.zeros(0, dtype=torch.float16), ztsnr=torch.zeros(0, dtype=torch.float16)
    )
    through(file, tmp_path, "b.safetensors", "c.ckpt", "d", tokenizer=tmp_path / "made/tokenizer")
    assert process_config.words(config(tmp_path / "d")) == "predicts v_prediction, zero terminal SNR, spacing trailing"
    assert sorted(of_file(tmp_path / "b.safetensors")[0]) == ["v_pred", "ztsnr"]


def test_what_the_user_says_is_written_in_every_layout(tmp_path):
    base = tiny.make(tmp_path / "m", "sdxl", layers=2, usual=True)
    asked = {"wanted": Overrides("v_prediction", True)}
    for names in (["a.safetensors"], ["b.ckpt"], ["c"]):
        notes = []
        fuse(Adapter(modules={}), str(base), tmp_path / names[0], talk=Talk(note=notes.append), **asked)
        assert any("overridden by --prediction-type v_prediction, not epsilon, --zero-snr" in text for text in notes)
        found = described(str(tmp_path / names[0])).configs[SCHEDULER]
        assert process_config.words(found) == "predicts v_prediction, zero terminal SNR, spacing trailing"
    fuse(
        Adapter(modules={}),
        str(tmp_path / "a.safetensors"),
        tmp_path / "d.safetensors",
        wanted=Overrides("flow", shift=3.0),
    )
    tensors, metadata = of_file(tmp_path / "d.safetensors")
    assert not tensors and metadata["modelspec.prediction_type"] == "flow"
    assert (
        process_config.words(described(str(tmp_path / "d.safetensors")).configs[SCHEDULER])
        == "is a rectified flow, shift 3"
    )
    fuse(Adapter(modules={}), str(tmp_path / "a.safetensors"), tmp_path / "e.ckpt", wanted=Overrides("epsilon", False))
    assert (
        process_config.words(described(str(tmp_path / "e.ckpt")).configs[SCHEDULER])
        == "predicts epsilon, spacing trailing"
    )


def test_an_adapter_leaves_what_the_model_says_alone(tmp_path):
    file = marked(single(tmp_path, "sd2"), {"modelspec.architecture": "stable-diffusion-v2-512", "other": "x"})
    told = {
        "modelspec.architecture": "stable-diffusion-v2-768-v/lora",
        "modelspec.prediction_type": "v",
        "ss_seed": "1",
    }
    fuse(Adapter(modules={}, metadata=told), str(file), tmp_path / "a.safetensors")
    metadata = of_file(tmp_path / "a.safetensors")[1]
    assert (
        metadata["modelspec.architecture"] == "stable-diffusion-v2-512"
        and metadata["modelspec.prediction_type"] == "epsilon"
    )
    assert metadata["other"] == "x" and metadata["ss_seed"] == "1"
    fuse(Adapter(modules={}), str(file), tmp_path / "b.safetensors", wanted=Overrides("v_prediction"))
    assert of_file(tmp_path / "b.safetensors")[1]["modelspec.architecture"] == "stable-diffusion-v2-768-v"


def test_a_file_that_does_not_say_it_is_not_given_a_mark_by_a_guess(tmp_path):
    file = single(tmp_path, "sd2")
    fuse(Adapter(modules={}), str(file), tmp_path / "a.safetensors")
    assert of_file(tmp_path / "a.safetensors") == ({}, {"format": "pt"})
    fuse(Adapter(modules={}), str(file), tmp_path / "b.safetensors", wanted=Overrides("epsilon"))
    assert of_file(tmp_path / "b.safetensors")[1]["modelspec.prediction_type"] == "epsilon"
    notes = []
    fuse(
        Adapter(modules={}),
        str(file),
        tmp_path / "c",
        tokenizer=tmp_path / "made/tokenizer",
        talk=Talk(note=notes.append),
    )
    assert any("shown noise at the last timestep" in text for text in notes)
    assert config(tmp_path / "c")["prediction_type"] == "v_prediction"


def test_an_unknown_process_goes_along_and_is_not_written_anew(tmp_path):
    edm = {"_class_name": "EDMEulerScheduler", "sigma_data": 0.5}
    folder = says(tiny.make(tmp_path / "m", "sdxl", layers=2, usual=True), edm)
    fuse(Adapter(modules={}), str(folder), tmp_path / "a")
    assert config(tmp_path / "a") == edm
    for output in ("b.safetensors", "b.ckpt"):
        with pytest.raises(InputError, match="EDMEulerScheduler, of StableDiffusionXLPipeline"):
            fuse(Adapter(modules={}), str(folder), tmp_path / output)
    file = marked(single(tmp_path, "sdxl"), edm_mean=torch.zeros(4), edm_std=torch.ones(4))
    fuse(Adapter(modules={}), str(file), tmp_path / "c.safetensors")
    assert sorted(of_file(tmp_path / "c.safetensors")[0]) == ["edm_mean", "edm_std"]
    with pytest.raises(InputError, match="EDMDPMSolverMultistepScheduler"):
        fuse(Adapter(modules={}), str(file), tmp_path / "d", tokenizer=tmp_path / "made/tokenizer")


def test_a_unet_alone_says_nothing(tmp_path):
    folder = tiny.make(tmp_path / "m", layers=2)
    shutil.copy(folder / "unet/diffusion_pytorch_model.safetensors", tmp_path / "unet.safetensors")
    with pytest.raises(UsageError, match="is a UNet alone"):
        fuse(
            Adapter(modules={}),
            str(tmp_path / "unet.safetensors"),
            tmp_path / "a.safetensors",
            wanted=Overrides("epsilon"),
        )


def test_a_unet_that_the_layout_has_no_place_for_is_refused(tmp_path):
    folder = tiny.make(tmp_path / "m", layers=2)
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    save_file({**load_file(file), "time_embedding.cond_proj.weight": torch.zeros(32, 16)}, file)
    with pytest.raises(InputError, match=r"no place for unet\.time_embedding\.cond_proj\.weight"):
        fuse(Adapter(modules={}), str(folder), tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("source", "target", "name", "options"),
    [
        ("folder", "out", "v, zero", {}),
        ("folder", "out.safetensors", "flow", {}),
        ("folder", "out", "epsilon", {"prediction_type": "v_prediction", "zero_snr": True}),
        ("one.safetensors", "out", "epsilon", {"prediction_type": "flow", "shift": 3.0}),
        ("one.ckpt", "out.safetensors", "v, zero", {}),
    ],
)
def test_a_model_that_is_trained_whole_says_what_it_was_trained_as(tmp_path, source, target, name, options):
    base = says(tiny.make(tmp_path / "folder", layers=2, usual=True), PROCESSES[name])
    if source != "folder":
        fuse(Adapter(modules={}), str(base), tmp_path / source)
    data = captioned(tmp_path / "data", "a thing", [(64, 64)])
    settings = TrainConfig(
        mode="full",
        model=str(tmp_path / source),
        tokenizer=str(base) if source != "folder" else None,
        steps=1,
        batch_size=1,
        lr=1e-4,
        size=64,
        **options,
    )
    train.run(data, settings, train.RunOptions(output=tmp_path / target, run_folder=tmp_path / "run"), SILENT)
    wanted, _ = process_config.overridden(PROCESSES[name], settings.of_model, "")
    assert described(str(tmp_path / target)).configs[SCHEDULER] == wanted
    if target == "out":
        metadata = json.loads((tmp_path / target / "lorakit.json").read_text())
    else:
        metadata = of_file(tmp_path / target)[1]
    assert metadata["modelspec.prediction_type"] == ("flow" if process_config.is_flow(wanted) else "v")
    assert metadata["ss_zero_terminal_snr"] == str(process_config.ends_in_noise(wanted))


@pytest.mark.parametrize("name", ["epsilon", "v", "v, zero", "flow"])
def test_an_adapter_says_what_it_was_trained_for(tmp_path, name):
    base = says(tiny.make(tmp_path / "m", "sd2"), PROCESSES[name])
    data = captioned(tmp_path / "data", "a thing", [(64, 64)])
    settings = TrainConfig(model=str(base), steps=1, batch_size=1, size=64, lr=1e-2)
    train.run(data, settings, train.RunOptions(output=tmp_path / "a.safetensors", run_folder=tmp_path / "run"), SILENT)
    found = of_file(tmp_path / "a.safetensors")[1]
    velocity = name in ("v", "v, zero")
    assert found["ss_v_parameterization"] == str(velocity) and found["ss_zero_terminal_snr"] == str(name == "v, zero")
    assert found["modelspec.prediction_type"] == {"v, zero": "v"}.get(name, name)
    assert found.get("lorakit.shift") == {"flow": "2.5"}.get(name)
    row = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[0])
    assert [type(x) for x in row["samples"][0]] == [str, int, float]
