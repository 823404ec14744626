"""The adapters of a composition beside a model: what is encoded, and how often."""

import pytest
import torch

from lorakit.composition import Composition, Member, curve
from lorakit.errors import UsageError
from lorakit.jobs import composed
from lorakit.models.load import load
from lorakit.models.prompts import Reading
from tests.adapters_of_tiny import lora


@pytest.fixture(scope="module")
def components():
    return load("tiny", torch.device("cpu"), torch.float32)


def test_prompts_are_encoded_once_for_each_set_of_weights_in_the_text_encoder(components, tmp_path):
    seen = []
    hook = components.text_encoder.register_forward_pre_hook(lambda module, args: seen.append(1))
    unet, both = lora(tmp_path / "a.safetensors", 1), lora(tmp_path / "b.safetensors", 2, text=True)
    steps = [(i, i / 3) for i in range(4)]
    for text, expected in (("0@0,1@1", 8), ("1@0,0@0.5:step", 4)):
        composition = Composition((Member(unet, 1.0, "a", curve.read("t")), Member(both, 1.0, "b", curve.read(text))))
        ensemble = composed.Ensemble(components, [composition], lambda text: None)
        acting = ensemble.acting(composition, steps, (64, 64))
        for _ in range(2):
            told, negative = ensemble.told(acting, "a cat", "a dog", Reading())
        assert len(seen) == expected and len(told) == len(negative) == expected // 2
        ensemble.remove()
        seen.clear()
    hook.remove()


def test_words_follow_the_prompt_where_the_adapter_acts(components, tmp_path):
    member = Member(lora(tmp_path / "a.safetensors", 1), 1.0, "a", curve.read("0@0,1@0.5:step"), prompt="in the snow")
    ensemble = composed.Ensemble(components, [Composition((member,))], lambda text: None)
    acting = ensemble.acting(Composition((member,)), [(0, 0.0), (1, 1.0)], (64, 64))
    assert [step[0].variant[0] for step in acting.steps] == ["", "in the snow"]
    told, _ = ensemble.told(acting, "a cat", "", Reading())
    plain = composed.Ensemble(components, [], lambda text: None)
    for words, text in (("", "a cat"), ("in the snow", "a cat, in the snow")):
        wanted, _ = plain.told(None, text, "", Reading())
        assert torch.equal(told[next(v for v in told if v[0] == words)].states, wanted[None].states)
    ensemble.remove()


def test_two_recipes_that_take_turns_are_refused(program, tmp_path):
    for name in "ab":
        lora(tmp_path / f"{name}.safetensors", 1)
        program("compose", f"{name}.safetensors", "--switch", "every:1", "-o", f"{name}.toml")
    with pytest.raises(UsageError, match="one recipe"):
        composed.read(["a.toml", "b.toml"])
    found = composed.read(["a.toml", "b.safetensors", "a.safetensors"])
    assert [(m.name, m.free) for m in found.members] == [("a", False), ("b", True), ("a-2", True)]
