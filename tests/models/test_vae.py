"""Another autoencoder than the model's own, and one that overflows; what SDXL's texts are where its folder lacks something."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorakit.errors import InputError, UsageError
from lorakit.models.encode import conditioning_of, latent_moments, to_pictures
from lorakit.models.load import load
from lorakit.models.vae import check_vae
from tests.conftest import captioned
from tests.tiny import make, single

CPU = torch.device("cpu")


def beside(said):
    """A note that gathers all but what the model says of its process."""
    return lambda text: None if "(scheduler/scheduler_config.json" in text else said.append(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models "one" and "two" of other numbers, and the second's autoencoder in every form that there is."""
    home = tmp_path_factory.mktemp("models")
    make(home / "one", layers=2, usual=True)
    single(make(home / "two", seed=5, layers=2, usual=True), home / "whole.safetensors", "sd1")
    inside = {k: x for k, x in load_file(home / "whole.safetensors").items() if k.startswith("first_stage_model.")}
    save_file({k.removeprefix("first_stage_model."): x for k, x in inside.items()}, home / "alone.safetensors")
    torch.save({"state_dict": load_file(home / "alone.safetensors")}, home / "alone.ckpt")
    return home


@pytest.mark.parametrize(
    "form",
    [
        "two",
        "two/vae",
        "two/vae/diffusion_pytorch_model.safetensors",
        "whole.safetensors",
        "alone.safetensors",
        "alone.ckpt",
    ],
)
def test_every_form_of_an_autoencoder_is_read(folder, form):
    said = []
    found = load(str(folder / "one"), CPU, torch.float32, vae=str(folder / form), note=beside(said))
    expected = load_file(folder / "two/vae/diffusion_pytorch_model.safetensors")
    state = found.vae.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(x, expected[name]) for name, x in state.items())
    assert found.other_vae and len(said) == 1 and "in the place of the model's own" in said[0]


def test_an_autoencoder_for_other_latents_is_refused_and_another_scale_is_said(folder, tmp_path):
    shutil.copytree(folder / "two/vae", tmp_path / "vae")
    config = json.loads((tmp_path / "vae/config.json").read_text())
    (tmp_path / "vae/config.json").write_text(json.dumps({**config, "scaling_factor": 0.13025}))
    said = []
    load(str(folder / "one"), CPU, torch.float32, vae=str(tmp_path / "vae"), note=beside(said))
    assert "scales latents by 0.13025, the model's own by 0.18215" in said[1]
    (tmp_path / "vae/config.json").write_text(json.dumps({**config, "latent_channels": 16}))
    with pytest.raises(InputError, match="other channels of latents than the model: 16, not 4"):
        load(str(folder / "one"), CPU, torch.float32, vae=str(tmp_path / "vae"))


def test_what_is_no_autoencoder_is_refused_by_the_options_name(folder):
    for name, kind, says in (
        ("nowhere.safetensors", InputError, "--vae nowhere.safetensors"),
        ("./nowhere", InputError, "--vae ./nowhere"),
        ("sdlx", UsageError, "did you mean"),
        (str(folder / "two/tokenizer"), InputError, "neither config.json nor vae/config.json"),
    ):
        with pytest.raises(kind, match=says):
            check_vae(name)
    save_file({"a.weight": torch.zeros(2)}, folder / "else.safetensors")
    with pytest.raises(InputError, match=r"else.safetensors: no autoencoder in it"):
        load(str(folder / "one"), CPU, torch.float32, vae=str(folder / "else.safetensors"))


def test_an_autoencoder_that_overflows_works_in_float32_and_that_is_said_once(folder):
    said = []
    model = replace(load(str(folder / "one"), CPU, torch.float32), note=beside(said))
    vae, inner = model.vae, model.vae.decode

    class Half:
        dtype, config = torch.float16, vae.config

        def to(self, dtype):
            self.dtype = dtype

        def decode(self, z):
            found = inner(z.float()).sample
            return SimpleNamespace(sample=found if self.dtype == torch.float32 else found * float("nan"))

        def encode(self, x):
            found = vae.encode(x.float()).latent_dist
            spoilt = SimpleNamespace(mean=found.mean * float("nan"), std=found.std)
            return SimpleNamespace(latent_dist=found if self.dtype == torch.float32 else spoilt)

    expected = to_pictures(model, torch.ones(2, 4, 8, 8))
    for use in (
        lambda m: to_pictures(m, torch.ones(2, 4, 8, 8)),
        lambda m: latent_moments(m, torch.zeros(1, 3, 32, 32)),
    ):
        half = replace(model, vae=Half(), _said=set())
        use(half), use(half)
        assert len(said) == 1 and "overflowed in float16 and works in float32" in said.pop()
    assert (to_pictures(replace(model, vae=Half()), torch.ones(2, 4, 8, 8)) == expected).all()


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    return make(tmp_path_factory.mktemp("xl") / "model", "sdxl")


@pytest.mark.parametrize(("said", "zero"), [(True, True), (False, False), (None, True)])
def test_sdxls_empty_prompt_is_what_its_index_says_and_that_is_noted(xl, said, zero):
    index = json.loads((xl / "model_index.json").read_text())
    index.pop("force_zeros_for_empty_prompt")
    (xl / "model_index.json").write_text(
        json.dumps(index | ({} if said is None else {"force_zeros_for_empty_prompt": said}))
    )
    notes = []
    found = load(str(xl), CPU, torch.float32, note=beside(notes))
    empty, _ = conditioning_of(found, [""])
    assert bool((empty.states == 0).all()) == bool((empty.pooled == 0).all()) == zero
    assert notes == [
        "an empty prompt is "
        + ("zeros" if zero else "encoded as any other")
        + (", as model_index.json says" if said is not None else "")
    ]


def test_a_missing_second_tokenizer_is_said_and_pads_as_sdxls_does(xl, tmp_path):
    shutil.copytree(xl, tmp_path / "model")
    shutil.rmtree(tmp_path / "model/tokenizer_2")
    notes = []
    found = load(str(tmp_path / "model"), CPU, torch.float32, note=beside(notes))
    assert "has no tokenizer_2: tokenizer is taken for it, padded with '!'" in notes[0]
    assert (found.tokenizer.pad_token_id, found.tokenizer_2.pad_token_id) == (2047, 0)
    assert found.tokenizer_2("a", padding="max_length", return_tensors="pt").input_ids[0, -1] == 0
    again = load(str(xl), CPU, torch.float32, tokenizer=tmp_path / "model", note=beside(notes))  # as for a single file
    assert again.tokenizer_2.pad_token_id == 0 and "has no tokenizer_2" in notes[2]


def test_training_encodes_with_another_autoencoder(program, folder, tmp_path):
    captioned(tmp_path / "data", "a cat", [(32, 32)])
    losses = {}
    for name, options in (("own", []), ("other", ["--vae", folder / "two"])):
        program(
            "train",
            "data",
            "-m",
            folder / "one",
            "--size",
            32,
            "--steps",
            1,
            "--batch-size",
            1,
            "-o",
            f"{name}.safetensors",
            *options,
        )
        losses[name] = json.loads((tmp_path / f"{name}.run/log.jsonl").read_text())["loss"]
    assert losses["own"] != losses["other"]
    done = program(
        "train", "data", "--config", "other.safetensors", "-m", folder / "one", "-o", "b.safetensors", status=2
    )
    assert "its run had --vae" in done.stderr
    assert "--vae no model 'sdlx'" in program("train", "data", "--vae", "sdlx", status=2).stderr
