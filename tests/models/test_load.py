"""The same model as a folder and as one file; models that are not whole."""

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from lorakit.errors import InputError, UnavailableError
from lorakit.models.conditioning import Conditioning
from lorakit.models.encode import conditioning_of, latent_moments, to_pictures
from lorakit.models.load import load
from lorakit.models.predict import predict
from lorakit.models.sample import Drawing, draw
from tests.tiny import FAMILIES, make, single

CPU = torch.device("cpu")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_file_is_the_model_of_its_folder(tmp_path, family):
    folder = make(tmp_path / "model", family, layers=2, usual=True)
    file = single(folder, tmp_path / "model.safetensors", family)
    whole = load(str(folder), CPU, torch.float32)
    one = load(str(file), CPU, torch.float32, tokenizer=folder)
    assert one.process.prediction == whole.process.prediction and one.parts.keys() == whole.parts.keys()
    told, _ = conditioning_of(whole, ["a cat", "a dog on a sofa"])
    again, _ = conditioning_of(one, ["a cat", "a dog on a sofa"])
    torch.testing.assert_close(told.states, again.states)
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        a, b = (
            predict(c, latents, torch.tensor([10, 900]), t.sized((64, 64))) for c, t in ((whole, told), (one, again))
        )
    torch.testing.assert_close(a, b)
    assert a.std() > 0.01
    factor = whole.vae.config.scaling_factor / one.vae.config.scaling_factor  # SDXL's own, which no tensor tells
    levels = to_pictures(whole, latents * factor).astype(int) - to_pictures(one, latents)
    assert abs(levels).max() <= 1  # the factor's own rounding


def test_other_modules_draw_their_first_weights_after_a_model_is_loaded(tmp_path):
    def drawn() -> torch.Tensor:
        torch.manual_seed(3)
        return torch.nn.Conv2d(2, 2, 3).weight

    before = drawn()
    load(str(make(tmp_path / "model")), CPU, torch.float32)
    assert torch.equal(drawn(), before) and before.std() > 0.01


def test_sdxl_agrees_with_diffusers(tmp_path):
    folder = make(tmp_path / "model", "sdxl")
    components = load(str(folder), CPU, torch.float32)
    pipe = StableDiffusionXLPipeline(
        components.vae,
        components.text_encoder,
        components.text_encoder_2,
        components.tokenizer,
        components.tokenizer_2,
        components.unet,
        None,
        force_zeros_for_empty_prompt=True,
    )
    states, empty, pooled, no_pooled = pipe.encode_prompt("a cat", device=CPU)
    told, _ = conditioning_of(components, ["a cat", ""])
    torch.testing.assert_close(told.states, torch.cat([states, empty]))
    torch.testing.assert_close(told.pooled, torch.cat([pooled, no_pooled]))
    times = pipe._get_add_time_ids((96, 64), (8, 4), (64, 128), torch.float32, 32)
    assert told.sized((128, 64), (64, 96), (4, 8)).time_ids.tolist() == times.tolist() * 2
    latents = torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    told = told.sized((128, 64))
    with torch.no_grad():
        added = {"text_embeds": told.pooled, "time_ids": told.time_ids}
        theirs = components.unet(latents, torch.tensor(400), told.states, added_cond_kwargs=added).sample
        assert torch.equal(predict(components, latents, torch.tensor(400), told), theirs)
    with pytest.raises(ValueError, match="sizes"):
        predict(components, latents, torch.tensor(400), Conditioning(told.states))
    drawn = list(draw(components, [told[0]], told[1], [3], Drawing(size=(128, 64), steps=2, scheduler="euler")))
    assert drawn[0].shape == (64, 128, 3)


def test_an_inpainting_model_takes_the_mask_and_the_masked_picture(tmp_path):
    components = load(str(make(tmp_path / "model", inputs=9)), CPU, torch.float32)
    latents, told = torch.randn(1, 4, 8, 8), conditioning_of(components, ["a cat"])[0]
    mean, _ = latent_moments(components, torch.zeros(1, 3, 32, 32))
    extra = torch.cat([torch.ones(1, 1, 8, 8), mean], 1)
    with torch.no_grad():
        whole = components.unet(torch.cat([latents, extra], 1), 10, told.states).sample
        assert torch.equal(predict(components, latents, torch.tensor(10), told, extra), whole)
    with pytest.raises(ValueError, match="mask"):
        predict(components, latents, torch.tensor(10), told)


def test_a_single_file_without_a_tokenizer_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *names: None)
    file = single(make(tmp_path / "model", layers=2, usual=True), tmp_path / "model.safetensors", "sd1")
    with pytest.raises(UnavailableError, match="hf download stable-diffusion-v1-5"):
        load(str(file), CPU, torch.float32)


def test_a_model_that_is_not_whole_is_named(tmp_path):
    folder = make(tmp_path / "model")
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(InputError, match="has no vae"):
        load(str(folder), CPU, torch.float32)


def test_tensors_that_are_missing_or_of_no_use_are_named(tmp_path):
    file = make(tmp_path / "model") / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "nowhere.weight": torch.zeros(1)}, file)
    said = []
    load(str(tmp_path / "model"), CPU, torch.float32, note=said.append)
    assert len(said) == 2 and "unet.nowhere.weight" in said[1]
    del tensors["conv_in.bias"]
    save_file(tensors, file)
    with pytest.raises(InputError, match=r"it has no unet\.conv_in\.bias"):
        load(str(tmp_path / "model"), CPU, torch.float32)


def test_conditionings_are_cut_and_joined():
    x = Conditioning(torch.arange(6.0).reshape(3, 2, 1), torch.arange(3.0)[:, None])
    assert x[1].states.tolist() == [[[2.0], [3.0]]] and len(x[-1]) == 1 and len(x[:2]) == 2
    assert torch.equal(Conditioning.cat([x[0], x[1:]]).pooled, x.pooled)
    assert x[2].expand(4).states.shape == (4, 2, 1) and x.time_ids is None
    with pytest.raises(ValueError, match="pooled"):
        Conditioning.cat([x, Conditioning(x.states)])
