import math
from dataclasses import replace

import pytest
import torch

from lorakit.config import TrainConfig
from lorakit.data.captions import CaptionRules
from lorakit.models.load import load
from lorakit.modes import lora
from lorakit.runtime.world import World
from lorakit.training.objective import Objective
from lorakit.training.placed import Hidden
from lorakit.training.precision import precision
from lorakit.training.samples import TrainingSource
from lorakit.training.texts import Texts
from lorakit.training.validation import STRATA, Drift, captions, compare, losses
from tests.support.cached import cached
from tests.tiny import make


def objective(components, source, **options):
    config = TrainConfig(**{"batch_size": 2, "steps": 200, **options}).suited()
    trained = lora.begin(components, config)
    how = precision("float32", components.device, whole=False)
    return Objective(components, [source], Texts(components), config, World(), how, attached=trained.attached)


def latents(count, side=16):
    return [torch.randn(4, side, side, generator=torch.Generator().manual_seed(i)) for i in range(count)]


@pytest.mark.parametrize("options", [{}, {"loss": "huber"}, {"timestep_range": "600:900"}, {"noise_offset": 2.0}])
def test_the_held_out_loss_is_the_training_loss_of_the_same_pictures(tmp_path, options):
    """Measured on the very pictures that are trained on, at a model that does not learn: two estimates of one mean. The
    errors of 320 samples of training vary by less than the 10 % that are allowed; leaving an option out moves it by more,
    for latents of three times the usual size make the error of v one of the timestep."""
    config = TrainConfig(prediction_type="v_prediction", **options)
    components = load(str(make(tmp_path / "model")), torch.device("cpu"), torch.float32, wanted=config.of_model)
    source = TrainingSource(
        name="data",
        cached=cached([3 * x for x in latents(8, 8)]),
        captions=[(f"picture {i}",) for i in range(8)],
        batch=32,
        rules=CaptionRules(prefix="blue"),
    )
    measured = objective(components, source, batch_size=32, **options)
    held = float(losses(measured, source, 8).mean())
    active = [[*components.unet.parameters()][-1].requires_grad_()]  # the last, whose gradient costs next to nothing
    shown = torch.cat([measured(step, active).errors for step in range(10)])
    assert held == pytest.approx(float(shown.mean()), rel=0.1)


def test_validation_shows_captions_whole():
    rules = CaptionRules(prefix="blue", suffix="end", dropout=1.0, tag_dropout=1.0, warmup_epochs=9)
    source = TrainingSource(
        name="held-out", cached=cached(latents(1)), captions=[("a cat, on grass",)], batch=1, rules=rules
    )
    assert captions(source, 1) == {"blue, a cat, on grass, end"}
    wild = TrainingSource(
        name="held-out",
        cached=cached(latents(1)),
        captions=[("a {red|green} ball",)],
        batch=1,
        rules=CaptionRules(wildcards=True),
    )
    assert captions(wild, 1) == {"a red ball", "a green ball"}
    sentence = TrainingSource(
        name="held-out",
        cached=cached(latents(1)),
        captions=[("",)],
        batch=1,
        rules=CaptionRules(template="object", token="<s1>"),
    )
    assert len(captions(sentence, 1)) > 3 and all("<s1>" in caption for caption in captions(sentence, 1))


def test_an_inpainting_model_is_measured_with_its_masks(tmp_path):
    components = load(str(make(tmp_path / "model", inputs=9)), torch.device("cpu"), torch.float32)
    picture = latents(1)[0]

    def shown(hole):
        hidden = [Hidden(hole, picture * (1 - hole), torch.zeros_like(picture))]
        return TrainingSource(name="held-out", cached=cached([picture], hidden=hidden), captions=[("a",)], batch=1)

    drawn, kept = shown(torch.ones(1, 16, 16)), shown(torch.zeros(1, 16, 16))
    measured = objective(components, drawn)
    found = [losses(measured, source, 1) for source in (drawn, kept)]
    assert found[0].shape == (1, STRATA) and not torch.equal(*found)
    assert Drift(components, Texts(components).now, 0)() == 0


def test_a_mask_counts_in_the_held_out_loss(tmp_path):
    components = load(str(make(tmp_path / "model")), torch.device("cpu"), torch.float32)
    whole = cached(latents(1))
    half = torch.zeros(1, 16, 16)
    half[..., :8] = 2.0
    masked = replace(whole, placed=[replace(whole.placed[0], mask=half)])
    one, other = (TrainingSource(name="held-out", cached=of, captions=[("a",)], batch=1) for of in (whole, masked))
    measured = objective(components, one)
    assert not torch.equal(losses(measured, one, 1), losses(measured, other, 1))


def test_the_first_is_the_best():
    verdict = compare(torch.ones(3, 8), None)
    assert verdict.better and verdict.mean == 1.0


def test_pairs_are_compared_and_not_means():
    """Pictures differ by 10, checkpoints by 0.01: only a paired comparison can tell."""
    best = torch.arange(20.0)[:, None].expand(20, 8)
    now = best + 0.01 + 1e-4 * torch.arange(20.0)[:, None]
    verdict = compare(now, best)
    assert verdict.above == pytest.approx(0.01 + 1e-4 * 9.5, rel=1e-4)
    assert verdict.surely_worse and not verdict.better


def test_the_interval_is_students():
    """Differences 1, 2, 3: mean 2, standard deviation 1, so t(2) = 4.303 times 1 / sqrt(3)."""
    best = torch.zeros(3, 8)
    now = torch.tensor([1.0, 2.0, 3.0])[:, None].expand(3, 8)
    assert compare(now, best).half_width == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    five = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])[:, None].expand(5, 8)
    assert compare(five, torch.zeros(5, 8)).half_width == pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=5e-3)


def test_one_picture_proves_nothing():
    verdict = compare(torch.full((1, 8), 2.0), torch.ones(1, 8))
    assert not verdict.better and not verdict.surely_worse
