"""Prompts that change by step, as AUTOMATIC1111's webui reads them; most expectations are its own documented ones."""

import itertools

import pytest

from lorakit.composition.wording import Steps, by_step, changing, joined_by_and, parse, told, unread
from lorakit.errors import UsageError

TEN = Steps(10, 10)


def runs(prompt: str, steps: Steps = TEN) -> list[tuple[int, str]]:
    """(the last step that says it, what it says), in order."""
    texts = by_step(prompt, steps)
    said = texts * steps.done if len(texts) == 1 else texts
    found, last = [], 0
    for text, group in itertools.groupby(said):
        last += len(list(group))
        found.append((last, text))
    return found


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("test", [(10, "test")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3]", [(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [unbalanced", [(10, "a [unbalanced")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [b::0.6] c", [(6, "a b c"), (10, "a  c")]),
        ("a [b:c:0] d", [(10, "a c d")]),
        ("a [b:c:1.0] d", [(10, "a b d")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("[fe|]male", [(i, "female" if i % 2 else "male") for i in range(1, 11)]),
        ("[a|(b:1.1)|c:d]", [(10, "[a|(b:1.1)|c:d]")]),
        (r"[a\|b|c\:d]", [(i, "a|b" if i % 2 else "c:d") for i in range(1, 11)]),
    ],
)
def test_brackets_change_at_their_step(prompt, expected):
    assert runs(prompt) == expected


def test_three_take_turns_and_one_that_comes_again_is_said_again():
    assert by_step("[a||b]", Steps(5, 5)) == ["a", "", "b", "a", ""]


def test_the_second_pass_counts_on_behind_the_first():
    second = Steps(10, 10, second=True)
    assert runs("a [b:.5] c", second) == [(10, "a b c")]
    assert runs("a [b:1.5] c", second) == [(5, "a  c"), (10, "a b c")]
    assert runs("a [b:13] c", second) == [(3, "a  c"), (10, "a b c")]


def test_of_an_image_to_image_the_steps_that_are_done_count():
    assert runs("[a:b:0.2]", Steps(5, 10)) == [(2, "a"), (5, "b")]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("ratio 16:9", [("ratio 16:9", 1.0)]),
        ("a cat :1.2 AND a dog:.5 AND x", [("a cat", 1.2), ("a dog", 0.5), ("x", 1.0)]),
        ("ANDROID AND SAND:-1", [("ANDROID", 1.0), ("SAND", -1.0)]),
    ],
)
def test_and_joins_prompts_with_their_weights(prompt, expected):
    assert joined_by_and(prompt) == expected


def test_brackets_that_look_like_it_and_have_no_number_are_found():
    assert unread("[a:b] [c|d:e] [x] [y:1] (a:[b:c]) [e|f]") == ["[a:b]", "[c|d:e]", "[b:c]"]


def test_what_they_do_is_told_in_steps():
    assert told(changing("[red:blue:0.5] [a|b] [x::3]"), Steps(30, 30)) == [
        "[red:blue:0.5] is 'red' for 15 of 30 steps, then 'blue'",
        "[a|b] takes turns, a step each",
        "[x::3] is 'x' for 3 of 30 steps, then nothing",
    ]


def test_prompts_made_to_hurt_are_read_in_a_moment_or_refused():
    for prompt in ("[" * 5000 + "a:1" + "]" * 5000, "[:" * 3000 + "]" * 3000, "[|" * 5000, ":" * 10000, "\\" * 9999):
        parse(prompt)
        unread(prompt)
    with pytest.raises(UsageError, match="32 deep"):
        parse("[a:" * 40 + "x" + ":1]" * 40)
