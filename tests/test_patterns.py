"""Patterns of files match as `re` matches them, and in bounded time."""

import random
import re
import time

import pytest

from lorakit.errors import InputError, UsageError
from lorakit.patterns import Pattern, Time
from tests.hostile import MODULE, NEVER

NAMES = [
    MODULE,
    "unet.conv_in",
    "unet.mid_block.attentions.0.proj_in",
    "unet.up_blocks.1.resnets.2.conv1",
    "a",
    "",
    "a\n",
    "A.B",
    "text_encoder.text_model.encoder.layers.11.mlp.fc1",
    "text_model.encoder.layers.0.self_attn.q_proj",
]
USUAL = [
    r"attentions\..*\.attn[12]\.to_(q|k|v|out\.0)$",
    r"^unet\.(down|up)_blocks\.[0-2]\.",
    r"attn2\.to_v$",
    r"^(?!.*attn2).*to_q",
    r"\.\d{1,2}\.",
    r"(?i)ATTN",
    "",
    "^$",
    r"\bconv",
    r"^a$",
    r"^unet\.conv_in$",
    r"[^.]+\.[^.]+$",
    r"(?<=attn1\.)to_",
    r"a*?b|c+",
]
PIECES = (
    "a",
    "b",
    r"\.",
    ".",
    r"\w",
    r"\d",
    "[a-c]",
    "[^.]",
    "conv",
    "attn",
    "to_",
    "(a|b)",
    "(?:conv|attn)",
    "^",
    "$",
    r"\b",
    "_",
    "1",
    "(?=t)",
    "(?!a)",
)
REPEATS = ("", "", "", "*", "+", "?", "{2}", "{0,3}", "*?", "+?")


def random_pattern(draw: random.Random) -> str:
    pattern = "".join(draw.choice(PIECES) + draw.choice(REPEATS) for _ in range(draw.randint(1, 6)))
    return f"({pattern}|{draw.choice(PIECES)})+" if draw.random() < 0.3 else pattern


def test_patterns_match_what_re_matches():
    draw, tried = random.Random(0), 0
    for text in [*USUAL, *(random_pattern(draw) for _ in range(3000))]:
        try:
            theirs = re.compile(text)
        except re.error:
            with pytest.raises(ValueError):
                Pattern(text)
            continue
        ours, tried = Pattern(text), tried + 1
        for name in NAMES:
            assert ours.search(name) == bool(theirs.search(name)), (text, name)
            assert ours.match(name) == bool(theirs.match(name)), (text, name)
    assert tried > 1500


def test_a_pattern_that_is_matched_for_ever_is_given_up_and_named():
    for error in (InputError, UsageError):
        begun = time.process_time()
        with pytest.raises(error, match=r"r\.toml: the pattern .* takes too long to match"):
            Pattern(NEVER, "r.toml", error).search(MODULE)
        assert time.process_time() - begun < 10


def test_patterns_of_one_file_share_their_time_and_usual_ones_never_use_it_up():
    shared = Time(0.05)
    usual = Pattern(USUAL[0], time=shared)
    for _ in range(20_000):
        usual.search(MODULE)
    assert shared.left > 0.05
    shared.left = 0.0
    with pytest.raises(InputError):
        usual.search(MODULE)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("(", "missing"),
        ("(" * 2500, "nested"),
        ("a{99999999999}", "repeats"),
        ("(?:a{1000}){1000}", "multiply"),
        ("a" * 5000, "characters"),
        ("(?:a){e<=1}", "braces"),
    ],
)
def test_what_is_no_pattern_or_too_large_is_told(text, says):
    with pytest.raises(ValueError, match=says):
        Pattern(text)
