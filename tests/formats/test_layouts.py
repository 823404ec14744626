from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorakit.errors import InputError
from lorakit.formats.layouts import FOLDER, SINGLE, open_model
from lorakit.models.places import folder_of
from tests import tiny


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def both(request, tmp_path_factory) -> tuple[str, Path, Path]:
    place = tmp_path_factory.mktemp(request.param)
    folder = tiny.make(place / "model", request.param, layers=2)
    return request.param, folder, tiny.single(folder, place / "model.safetensors", request.param)


def test_both_layouts_are_the_same_model(both):
    _, folder, file = both
    a, b = open_model(folder), open_model(file)
    assert (a.layout, b.layout) == (FOLDER, SINGLE)
    assert set(a.arrays) == set(b.arrays)
    for name, x in a.arrays.items():
        assert x.shape == b.arrays[name].shape, name
        np.testing.assert_array_equal(x.float(), b.arrays[name].float(), err_msg=name)


def test_weights_are_the_matrices_and_others_the_rest(both):
    _, folder, file = both
    for model in (open_model(folder), open_model(file)):
        assert all(x.ndim > 1 for x in model.weights().values())
        assert "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q" in model.weights()
        assert "text_encoder.text_model.encoder.layers.1.self_attn.q_proj" in model.weights()
        assert "text_encoder.text_model.embeddings.token_embedding.weight" in model.others()
        assert "unet.conv_in.bias" in model.others()


def test_what_has_no_name_is_left_over(both):
    family, folder, file = both
    left = {key for _, key in open_model(file).leftovers()}
    assert "model_ema.decay" in left
    assert all("resblocks.2" in key or "text_projection" in key for key in left - {"model_ema.decay"})
    assert (len(left) > 1) == (family == "sd2")
    assert open_model(folder).leftovers() == []


def test_a_ckpt_is_read_like_a_safetensors_file(both, tmp_path):
    _, _, file = both
    torch.save({"state_dict": load_file(file)}, tmp_path / "model.ckpt")
    a, b = open_model(file), open_model(tmp_path / "model.ckpt")
    assert set(a.arrays) == set(b.arrays)
    assert all(np.array_equal(x.float(), b.arrays[name].float()) for name, x in a.arrays.items())


def test_diffusers_converts_the_file_to_the_same_model(both):
    from diffusers.loaders import single_file_utils as theirs

    family, folder, file = both
    config = theirs_config(folder)
    unet = theirs.convert_ldm_unet_checkpoint(load_file(file), config)
    vae = theirs.convert_ldm_vae_checkpoint(load_file(file), {"down_block_types": [0] * 3, "up_block_types": [0] * 3})
    arrays = open_model(file).arrays
    for part, tensors in (("unet", unet), ("vae", vae)):
        assert {f"{part}.{name}" for name in tensors} == {n for n in arrays if n.startswith(f"{part}.")}, family
        for name, x in tensors.items():
            np.testing.assert_array_equal(
                arrays[f"{part}.{name}"].float(), x.numpy().reshape(arrays[f"{part}.{name}"].shape)
            )


def theirs_config(folder: Path) -> dict:
    import json

    return json.loads((folder / "unet/config.json").read_text()) | {"class_embed_type": None}


def test_names_are_found_by_the_given_function():
    model = open_model("tiny", folder_of)
    assert len(model.weights()) == 157


def test_what_is_no_model_is_named(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="no base model"):
        open_model(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="no such"):
        open_model(tmp_path / "nothing")
