import pytest
import torch

from lorakit.models.conditioning import Conditioning
from lorakit.models.load import load
from lorakit.models.sample import denoise
from lorakit.schedulers import SCHEDULERS


@pytest.fixture(scope="module")
def components():
    return load("tiny", torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_draws_the_same_finite_picture_twice(components, name):
    told = Conditioning(torch.randn(1, 32, 192, generator=torch.Generator().manual_seed(0)))
    options = {"size": (64, 64), "steps": 4, "guidance": 2.0, "scheduler": name}
    first, second = (
        denoise(components, told, Conditioning(torch.zeros_like(told.states)), [7], **options) for _ in range(2)
    )
    assert torch.equal(first, second) and first.isfinite().all()
    other = denoise(components, told, Conditioning(torch.zeros_like(told.states)), [8], **options)
    assert not torch.equal(first, other)


def test_guidance_one_equals_no_guidance_in_half_the_work(components):
    told = Conditioning(torch.randn(1, 32, 192, generator=torch.Generator().manual_seed(0)))
    seen = []
    hook = components.unet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    denoise(components, told, told, [0], size=(64, 64), steps=2, guidance=1.0, scheduler="ddim")
    denoise(components, told, told, [0], size=(64, 64), steps=2, guidance=3.0, scheduler="ddim")
    hook.remove()
    assert seen == [1, 1, 2, 2]
