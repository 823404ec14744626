"""Learned tokens: rows beside a frozen table."""

import pytest
import torch
from torch import nn

from lorakit.errors import InputError, UsageError
from lorakit.models import tokens
from lorakit.models.load import load


@pytest.fixture(scope="module")
def tokenizer():
    return load("tiny", torch.device("cpu"), torch.float32).tokenizer


def test_rows_answer_for_the_new_ids_and_the_table_for_the_others():
    table = nn.Embedding(10, 4)
    rows = tokens.Rows(table, 10, torch.arange(8.0).view(2, 4))
    out = rows(torch.tensor([[3, 10, 11, 9]]))
    assert torch.equal(out[0, 0], table.weight[3]) and torch.equal(out[0, 3], table.weight[9])
    assert torch.equal(out[0, 1:3], torch.arange(8.0).view(2, 4))


def test_only_rows_that_a_prompt_has_get_a_gradient_and_the_table_gets_none():
    table = nn.Embedding(10, 4).requires_grad_(False)
    rows = tokens.Rows(table, 10, torch.ones(3, 4))
    rows.rows.requires_grad_(True)
    rows(torch.tensor([[1, 11]])).sum().backward()
    assert rows.rows.grad.sum(1).tolist() == [0.0, 4.0, 0.0] and table.weight.grad is None


@pytest.mark.parametrize(
    ("prompt", "spelled"),
    [
        ("a <s1> dog", "a <s1> <s1>_1 <s1>_2 dog"),
        ("<s1>, <s2>", "<s1> <s1>_1 <s1>_2, <s2>"),
        ("x<s1>", "x<s1>"),
        ("<s1>_1", "<s1>_1"),
        ("no token", "no token"),
    ],
)
def test_a_token_of_several_vectors_is_written_out(prompt, spelled):
    assert tokens.spelled(prompt, {"<s1>": 3, "<s2>": 1}) == spelled


def test_a_longer_name_is_not_taken_for_a_shorter_one():
    assert tokens.spelled("cat catty", {"cat": 2, "catty": 2}) == "cat cat_1 catty catty_1"


def test_a_token_starts_from_its_words(tokenizer):
    table = nn.Embedding(2048, 4)
    ids = tokenizer("red dog", add_special_tokens=False).input_ids
    assert torch.equal(tokens.start_rows(tokenizer, table, "red dog", len(ids)), table.weight[ids])
    again = tokens.start_rows(tokenizer, table, "red dog", len(ids) + 1)
    assert torch.equal(again[-1], table.weight[ids[0]])
    assert torch.allclose(tokens.start_rows(tokenizer, table, "red dog", 1), table.weight[ids].mean(0, keepdim=True))
    with pytest.raises(UsageError, match="no words"):
        tokens.start_rows(tokenizer, table, " ", 1)


@pytest.mark.parametrize("token", ["of", "two words", ""])
def test_a_word_that_means_something_already_is_refused(tokenizer, token):
    with pytest.raises(UsageError, match="--token"):
        tokens.check_new(tokenizer, token)


def test_vectors_of_another_width_or_part_are_named():
    model = load("tiny", torch.device("cpu"), torch.float32)
    for by_part in ({"text_encoder": torch.ones(1, 7)}, {"text_encoder_2": torch.ones(1, 192)}):
        with pytest.raises(InputError, match="<s1>"):
            tokens.add(model.tokenizers, model.text_encoders, {"<s1>": by_part}, "x.safetensors")


def test_tokens_that_no_caption_has_are_named():
    assert tokens.missing(["a <s1> dog", "<s10>"], ["<s1>", "<s2>"]) == ["<s2>"]
