"""Prompts as the webuis write them."""

import pytest
import torch

from lorakit.errors import UsageError
from lorakit.models import tokens
from lorakit.models.encode import conditioning_of
from lorakit.models.load import load
from lorakit.models.prompts import PromptReading, encode, length, lost, parse
from tests.tiny import make


@pytest.fixture(scope="module")
def components():
    return load("tiny", torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a cat", [("a cat", 1)]),
        ("a (red:1.5) cat", [("a ", 1), ("red", 1.5), (" cat", 1)]),
        ("((a)) b", [("a", 1.21), (" b", 1)]),
        ("[a] (b)", [("a", 1 / 1.1), (" ", 1), ("b", 1.1)]),
        ("(a (b:2):0.5)", [("a ", 0.5), ("b", 1.0)]),
        (r"\(a\) \[b\] \\", [("(a) [b] \\", 1)]),
        ("a :) b", [("a :) b", 1)]),
        ("(a", [("(a", 1)]),
        ("a) b:2)", [("a) b:2)", 1)]),
        ("(a:b)", [("a:b", 1.1)]),
    ],
)
def test_brackets_weigh(prompt, pieces):
    got = parse(prompt)
    assert [text for text, _ in got] == [text for text, _ in pieces]
    assert [weight for _, weight in got] == pytest.approx([weight for _, weight in pieces])


def test_a_plain_prompt_is_what_the_tokenizer_makes_of_it(components):
    for text in ("a 3d emoji of a cat", ""):
        told, _ = conditioning_of(components, [text])
        assert torch.equal(encode(components, text, PromptReading()).states, told.states)
        assert torch.equal(encode(components, f"({text}:1.0)" if text else "", PromptReading()).states, told.states)
    bracket, _ = conditioning_of(components, ["a (red) cat"])
    assert torch.equal(encode(components, "a (red) cat", PromptReading(plain=True)).states, bracket.states)


def test_a_weight_moves_a_words_state_away_from_the_empty_prompts(components):
    empty, one = (encode(components, text, PromptReading()).states for text in ("", "a red cat"))
    two = encode(components, "a (red:2) cat", PromptReading()).states
    torch.testing.assert_close(two[0, 2] - empty[0, 2], 2 * (one[0, 2] - empty[0, 2]))
    assert torch.equal(two[0, 1], one[0, 1]) and torch.equal(two[0, 4:], one[0, 4:])


def test_a_long_prompt_is_read_to_its_end_or_cut_with_what_is_left_out(components):
    room = components.tokenizer.model_max_length
    words = ["cat"] * (room - 2) + ["red", "fox"]
    long = encode(components, " ".join(words), PromptReading()).states
    assert long.shape[1] == 2 * room and length(components, " ".join(words), PromptReading()) == 2
    assert torch.equal(long[:, room:], encode(components, "red fox", PromptReading()).states)
    short = encode(components, " ".join(words), PromptReading(cut=True)).states
    assert torch.equal(short, long[:, :room])
    assert lost(components, " ".join(words), PromptReading(cut=True)).split() == ["red", "fox"]
    assert encode(components, "a BREAK b", PromptReading()).states.shape[1] == 2 * room


def test_clip_skip_takes_an_earlier_layer(components):
    ids = components.tokenizer("a cat", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        hidden = components.text_encoder(ids, output_hidden_states=True).hidden_states
        wanted = components.text_encoder.final_layer_norm(hidden[-2])
    assert torch.equal(encode(components, "a cat", PromptReading(clip_skip=2)).states, wanted)
    with pytest.raises(UsageError, match="clip skip"):
        encode(components, "a cat", PromptReading(clip_skip=9))


def test_a_learned_token_of_several_vectors_stands_in_a_prompt(tmp_path):
    for family in ("sd1", "sdxl"):
        components = load(str(make(tmp_path / family, family)), torch.device("cpu"), torch.float32)
        before = encode(components, "a cat", PromptReading())
        rows = {
            part: torch.randn(2, 32, generator=torch.Generator().manual_seed(1)) for part in components.text_encoders
        }
        tokens.add(components.tokenizers, components.text_encoders, {"<dog>": rows}, "file")
        components.vectors["<dog>"] = 2
        ids = components.tokenizer("a <dog> <dog>_1 cat").input_ids
        assert len(ids) == 6
        told = encode(components, "a (<dog>:1.0) cat", PromptReading())
        theirs, _ = conditioning_of(components, ["a <dog> cat"])
        assert torch.equal(told.states, theirs.states)
        if family == "sdxl":
            assert torch.equal(told.pooled, theirs.pooled)
        again = encode(components, "a cat", PromptReading())
        assert torch.equal(again.states, before.states)  # and nothing else changes
