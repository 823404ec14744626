"""Latents as the denoiser knows them, against what diffusers' pipelines of SDXL do."""

import numpy as np
import pytest
import torch

from lorakit.models import latents
from lorakit.models.encode import latent_moments, to_pictures
from lorakit.models.fingerprint import encoder_hash
from lorakit.models.load import load
from tests.support.saying import changed
from tests.tiny import make

CPU = torch.device("cpu")
BY_CHANNEL = {"scaling_factor": 0.5, "latents_mean": [-1.6, 0.9, 0.1, 2.0], "latents_std": [8.4, 5.9, 0.7, 1.0]}


def test_latents_by_hand():
    x, spread = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1), torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    by_channel = {"scaling_factor": 0.5, "latents_mean": [1.0, -2.0], "latents_std": [2.0, 4.0]}
    mean, wide = latents.moments(by_channel, x, spread)
    assert mean.flatten().tolist() == [0.0, 0.5] and wide.flatten().tolist() == [0.75, 0.5]
    assert latents.decodable(by_channel, mean).flatten().tolist() == [1.0, 2.0]
    shifted = {"scaling_factor": 2.0, "shift_factor": 0.5}
    mean, wide = latents.moments(shifted, x, spread)
    assert mean.flatten().tolist() == [1.0, 3.0] and wide.flatten().tolist() == [6.0, 8.0]
    assert latents.decodable(shifted, mean).flatten().tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "config", [{"scaling_factor": 0.13025}, BY_CHANNEL, {"scaling_factor": 0.36, "shift_factor": 0.12}]
)
def test_pictures_go_through_one_scale_both_ways(tmp_path, config):
    model = load(str(changed(make(tmp_path / "m", "sdxl"), "vae", **config)), CPU, torch.float32)
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        raw = model.vae.encode(pictures).latent_dist
        mean, spread = latent_moments(model, pictures)
        middle = torch.tensor(config.get("latents_mean", [config.get("shift_factor", 0.0)] * 4)).view(1, 4, 1, 1)
        std = torch.tensor(config.get("latents_std", [1.0] * 4)).view(1, 4, 1, 1)
        torch.testing.assert_close(mean, (raw.mean - middle) * config["scaling_factor"] / std)
        torch.testing.assert_close(spread, raw.std * config["scaling_factor"] / std)
        theirs = model.vae.decode(mean * std / config["scaling_factor"] + middle).sample
    shown = ((theirs.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    assert abs(to_pictures(model, mean).astype(int) - np.asarray(shown, int)).max() <= 1


def test_latents_of_another_scale_are_others_in_the_cache(tmp_path):
    folder = make(tmp_path / "m")
    hashes = {
        encoder_hash(load(str(changed(folder, "vae", **config)), CPU, torch.float32))
        for config in (
            {},
            {"scaling_factor": 0.2},
            {"shift_factor": 0.1},
            {"latents_mean": [0.0, 0, 0, 1]},
            {"latents_std": [1.0, 1, 1, 2]},
        )
    }
    assert len(hashes) == 5
