"""Another autoencoder in a model that adapters are collapsed into, from every form to every layout."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lorakit.adapter import Adapter
from lorakit.arrays import floats
from lorakit.deltas.low_rank import LowRank
from lorakit.families import CONV_IN
from lorakit.formats import writing
from lorakit.formats.layouts import open_model
from lorakit.models.described import described
from tests.tiny import make, single


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two models of other numbers, "one" and "two", each as a folder and as a file; the second's autoencoder, which scales
    otherwise, alone; and an adapter."""
    home = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "two")):
        single(make(home / name, seed=seed, layers=2, usual=True), home / f"{name}.safetensors", "sd1")
    config = home / "two/vae/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "scaling_factor": 0.25}))
    inside = load_file(home / "two.safetensors")
    alone = {k.removeprefix("first_stage_model."): x for k, x in inside.items() if k.startswith("first_stage_model.")}
    save_file(alone, home / "vae.safetensors")
    low = LowRank(np.ones((1, 4, 3, 3), "f4"), np.ones((32, 1, 1, 1), "f4"), 1.0)
    writing.save(home / "x.safetensors", Adapter(modules={CONV_IN: low}), "lorakit")
    return home


@pytest.mark.parametrize("output", ["folder", "file.safetensors", "file.ckpt"])
@pytest.mark.parametrize("base", ["one", "one.safetensors"])
@pytest.mark.parametrize("vae", ["two", "two/vae", "vae.safetensors"])
def test_it_is_that_of_the_other_model_and_all_else_is_the_models_own(program, tmp_path, home, vae, base, output):
    tokenizer = ["--tokenizer", home / "one/tokenizer"] if (base, output) == ("one.safetensors", "folder") else []
    said = program(
        "merge", home / "x.safetensors", "--into", home / base, "--vae", home / vae, "-o", output, *tokenizer
    ).stderr
    assert "in the place of the model's own" in said
    found, own, other = (open_model(place).arrays for place in (tmp_path / output, home / "one", home / "two"))
    assert found.keys() == own.keys()
    for name, x in found.items():
        wanted = floats((other if name.startswith("vae.") else own)[name])
        wanted = wanted + 1 if name == f"{CONV_IN}.weight" else wanted
        np.testing.assert_allclose(floats(x), wanted, atol=1e-6, err_msg=name)
    scale = described(str(tmp_path / output)).configs["vae/config.json"]["scaling_factor"]
    assert scale == (0.25 if vae != "vae.safetensors" else 0.18215)


def test_one_that_does_not_fit_or_has_no_place_is_refused_before_any_work(program, tmp_path, home):
    make(tmp_path / "small")
    asked = ["merge", home / "x.safetensors", "--into", home / "one", "-o", "m", "--vae"]
    assert "is not built as the autoencoder of" in program(*asked, tmp_path / "small", status=3).stderr
    assert "--vae nowhere" in program(*asked, "nowhere.safetensors", status=3).stderr
    unet = home / "one/unet/diffusion_pytorch_model.safetensors"
    alone = ["merge", home / "x.safetensors", "--into", unet, "-o", "m.safetensors", "--vae", home / "two"]
    assert "has no autoencoder" in program(*alone, status=2).stderr
    without = program("merge", home / "x.safetensors", home / "x.safetensors", "--vae", home / "two", status=2).stderr
    assert "--vae" in without and "are for --into MODEL" in without
    assert not (tmp_path / "m").exists()
