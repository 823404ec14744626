"""The adapters of a composition beside a model: what is encoded, and how often."""

import pytest
import torch
from PIL import Image

from lorakit.composition import Composition, Member, curve
from lorakit.drawing import composing
from lorakit.drawing.ensemble import Ensemble
from lorakit.errors import UsageError
from lorakit.models import sample
from lorakit.models.load import load
from lorakit.models.prompts import PromptReading
from lorakit.models.sample import Drawing, PictureRequest, denoise, steps_done
from tests.support.adapters_of_tiny import lora


@pytest.fixture(scope="module")
def components():
    return load("tiny", torch.device("cpu"), torch.float32)


def test_prompts_are_encoded_once_for_each_set_of_weights_in_the_text_encoder(components, tmp_path):
    seen = []
    hook = components.text_encoder.register_forward_pre_hook(lambda module, args: seen.append(1))
    unet, both = lora(tmp_path / "a.safetensors", 1), lora(tmp_path / "b.safetensors", 2, text=True)
    steps = [(i, i / 3) for i in range(4)]
    for text, expected in (("0@0,1@1", 8), ("1@0,0@0.5:step", 4)):
        composition = Composition(
            (
                Member(path=unet, weight=1.0, name="a", curve=curve.read("t")),
                Member(path=both, weight=1.0, name="b", curve=curve.read(text)),
            )
        )
        ensemble = Ensemble(components, [composition], lambda text: None)
        acting = ensemble.acting(composition, steps, (64, 64))
        for _ in range(2):
            told, negative = ensemble.told(acting, "a cat", "a dog", PromptReading())
        assert len(seen) == expected and len(told) == len(negative) == expected // 2
        ensemble.remove()
        seen.clear()
    hook.remove()


def test_words_follow_the_prompt_where_the_adapter_acts(components, tmp_path):
    member = Member(
        path=lora(tmp_path / "a.safetensors", 1),
        weight=1.0,
        name="a",
        curve=curve.read("0@0,1@0.5:step"),
        prompt="in the snow",
    )
    ensemble = Ensemble(components, [Composition((member,))], lambda text: None)
    acting = ensemble.acting(Composition((member,)), [(0, 0.0), (1, 1.0)], (64, 64))
    assert [step[0].variant[0] for step in acting.steps] == ["", "in the snow"]
    told, _ = ensemble.told(acting, "a cat", "", PromptReading())
    plain = Ensemble(components, [], lambda text: None)
    for words, text in (("", "a cat"), ("in the snow", "a cat, in the snow")):
        wanted, _ = plain.told(None, text, "", PromptReading())
        (one,), (other,) = told[next(v for v in told if v[0] == words)], wanted[None]
        assert torch.equal(one.wordings[0].states, other.wordings[0].states)
    ensemble.remove()


def test_two_recipes_that_take_turns_are_refused(program, tmp_path):
    for name in "ab":
        lora(tmp_path / f"{name}.safetensors", 1)
        program("compose", f"{name}.safetensors", "--switch", "every:1", "-o", f"{name}.toml")
    with pytest.raises(UsageError, match="one recipe"):
        composing.read(["a.toml", "b.toml"])
    found = composing.read(["a.toml", "b.safetensors", "a.safetensors"])
    assert [(m.name, m.free) for m in found.members] == [("a", False), ("b", True), ("a-2", True)]


@pytest.mark.parametrize("way", ["region", "composite"])
def test_forwards_of_a_step_go_through_side_by_side_and_say_what_each_alone_says(
    components, tmp_path, monkeypatch, way
):
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    mask.save(tmp_path / "half.png")
    a, b = lora(tmp_path / "a.safetensors", 1), lora(tmp_path / "b.safetensors", 2, text=True)
    region = tmp_path / "half.png" if way == "region" else None
    one, other = (
        Member(path=a, weight=1.0, name="a", curve=curve.read("t"), region=region),
        Member(path=b, weight=0.7, name="b", prompt="in the snow"),
    )
    composition = Composition((one, other), "sum" if region else "composite")
    how = Drawing(size=(64, 64), steps=2, guidance=2.0, scheduler="euler")
    ensemble = Ensemble(components, [composition], lambda text: None)
    acting = ensemble.acting(composition, steps_done(components, how), how.size)
    told, negative = ensemble.told(acting, "a cat", "", PromptReading())
    asked, rows, found = [PictureRequest(seed=seed, told=told, negative=negative) for seed in (1, 2)], [], []
    hook = components.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    for together in (sample._together, lambda *of: 1):
        monkeypatch.setattr(sample, "_together", together)
        found.append(denoise(components, asked, how, acting))
    hook.remove()
    ensemble.remove()
    count = sum(map(len, acting.steps))
    assert rows == [2 * 2 * len(step) for step in acting.steps] + [4] * count and max(map(len, acting.steps)) == 2
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


def test_forwards_that_are_alike_are_asked_once(components, tmp_path):
    a, b = lora(tmp_path / "a.safetensors", 1), lora(tmp_path / "b.safetensors", 2)
    composition = Composition((Member(path=a, weight=0.0, name="a"), Member(path=b, weight=0.0, name="b")), "composite")
    ensemble = Ensemble(components, [composition], lambda text: None)
    acting = ensemble.acting(composition, [(0, 0.0)], (64, 64))
    assert [one.share for one in acting.steps[0]] == [1.0]
    ensemble.remove()
