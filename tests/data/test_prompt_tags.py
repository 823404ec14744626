"""Tags of other programs in prompts."""

import pytest

from lorakit.data import prompt_tags
from lorakit.data.prompt_tags import PromptTag


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("<lora:style:0.8>", PromptTag(spelled="<lora:style:0.8>", name="style", weight=0.8, text=0.8)),
        ("<lyco:a b>", PromptTag(spelled="<lyco:a b>", name="a b")),
        (
            "<lora:x:0.5:0.2>",
            PromptTag(spelled="<lora:x:0.5:0.2>", name="x", weight=0.2, text=0.5),
        ),  # the text encoder's comes first
        (
            "<lora:x:te=.5:unet=-1:dyn=8>",
            PromptTag(
                spelled="<lora:x:te=.5:unet=-1:dyn=8>", name="x", weight=-1.0, text=0.5, blocks="", unread=("dyn=8",)
            ),
        ),
        (
            "<LORA:x:1:lbw=MIDD>",
            PromptTag(spelled="<LORA:x:1:lbw=MIDD>", name="x", weight=1.0, text=1.0, blocks="MIDD"),
        ),
    ],
)
def test_a_tag_for_an_adapter_is_read_as_the_webui_does(tag, expected):
    assert prompt_tags.adapters(f"a cat {tag}, red") == [expected]
    assert prompt_tags.without_adapters(f"a cat {tag}, red") == "a cat , red"


def test_a_weight_that_is_no_number_is_told():
    with pytest.raises(ValueError, match="'half' is no number"):
        prompt_tags.adapters("<lora:x:half>")
    with pytest.raises(ValueError, match="<lora: :1>: it names no adapter"):
        prompt_tags.adapters("a <lora: :1>")


def test_embeddings_are_named_as_comfyui_and_swarmui_name_them():
    prompt = "(embedding:Easy.pt:1.2), Embedding:sub/foo. <embed:q> noembedding:x"
    assert [tag.name for tag in prompt_tags.embeddings(prompt)] == ["Easy.pt", "sub/foo", "q"]
    found = prompt_tags.with_embeddings(prompt, lambda tag: None if tag.name == "q" else "W")
    assert found == "(W:1.2), W <embed:q> noembedding:x"
    assert [tag.name for tag in prompt_tags.embeddings("a <embedding:q> cat")] == ["q"]
    assert prompt_tags.with_embeddings("a <embedding:q> cat", lambda tag: "W") == "a W cat"


def test_words_of_a_learned_token_and_html_are_no_tags():
    for prompt in ("a <s1> cat", "<b>bold</b>", "a < b : c > d", "3:4"):
        assert prompt_tags.adapters(prompt) == prompt_tags.embeddings(prompt) == prompt_tags.foreign(prompt) == []


def test_what_means_something_to_others_alone_is_found():
    found = [one for one, _ in prompt_tags.foreign("{a|b} __hair/colour__ <hypernet:x:1> __init__(x) _a_")]
    assert found == ["{a|b}", "__hair/colour__", "__init__", "<hypernet:x:1>"]


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a &lt;lora:x:1&gt; cat", "&lt;lora:x:1&gt;"),
        ("a cat <lora:x:0.8", "<lora:x:0.8"),
        ("a cat, lora:x:0.8", "lora:x:0.8"),
        ("a (cat)1.3 dog", ")1.3"),
        ("(cat)++, dog", ")++"),
        ('("a", "b").blend(1, 0.5)', '").blend(1, 0.5)'),
    ],
)
def test_halves_of_tags_and_weights_of_other_programs_are_found(prompt, found):
    assert [one for one, _ in prompt_tags.foreign(prompt)] == [found]


def test_brackets_and_colons_of_ours_are_none():
    for prompt in (
        "(cat:1.3), dog",
        "((cat)), dog",
        "[a:b:0.5]",
        "a <lora:x:1> cat",
        "flora:fauna:3",
        "a cat (1.5 m)",
        "f(x), 2)",
        "a (red) cat (blue).",
        "(a)- b",
    ):
        assert prompt_tags.foreign(prompt) == [], prompt


def test_captions_with_tags_are_one_note():
    assert prompt_tags.in_captions(["a cat"]) == ""
    assert prompt_tags.in_captions(["a <lora:x:1>", "b <lyco:y>", "c"]).startswith("2 captions have tags")
