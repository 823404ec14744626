from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.data.captions import TEMPLATES, CaptionRules, caption_at, captions_of
from lorakit.errors import UsageError

TAGS = "one, two, three, four, five, six"


def shown(captions, epochs=1, seed=0, picture="p", **rules):
    return [caption_at(captions, CaptionRules(**rules), seed, epoch, picture) for epoch in range(epochs)]


def test_without_rules_a_caption_stays_as_it_is():
    assert shown([" a cat,dog ,  bird"]) == ["a cat,dog ,  bird"]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.text("ab{}|, x<>.", max_size=30), min_size=1, max_size=3),
    st.booleans(),
    st.integers(0, 3),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 5),
    st.integers(0, 9),
)
def test_it_is_a_function_of_its_arguments_alone(captions, shuffle, keep, dropout, tags, warmup, epoch):
    rules = CaptionRules(shuffle=shuffle, keep_tokens=keep, dropout=dropout, tag_dropout=tags, warmup_epochs=warmup)
    first = caption_at(captions, rules, 1, epoch, "p")
    caption_at(captions, rules, 2, epoch + 1, "q")
    assert caption_at(captions, rules, 1, epoch, "p") == first
    assert not any(c.isspace() and c != " " for c in first)


def test_shuffle_moves_all_but_the_kept_and_loses_none():
    found = shown([TAGS], 40, shuffle=True, keep_tokens=2)
    assert all(sorted(text.split(", ")) == sorted(TAGS.split(", ")) for text in found)
    assert all(text.startswith("one, two, ") for text in found)
    assert {text.split(", ")[2] for text in found} == {"three", "four", "five", "six"}


def test_every_order_is_as_likely():
    counts = Counter(caption_at(["a,b,c"], CaptionRules(shuffle=True), 0, e, "p") for e in range(6000))
    assert len(counts) == 6 and all(abs(n - 1000) < 130 for n in counts.values())  # 4.5 sigma


def test_what_stands_before_the_keep_separator_is_kept_and_the_mark_goes():
    found = shown(["sks dog, sitting ||| grass, sun"], 30, shuffle=True, tag_dropout=0.5, keep_separator="|||")
    assert all(text.startswith("sks dog, sitting") and "|" not in text for text in found)
    assert {"sks dog, sitting", "sks dog, sitting, sun, grass"} <= set(found)
    assert shown(["no mark"], keep_separator="|||") == ["no mark"]


def test_tag_dropout_leaves_out_its_share():
    found = shown([",".join(["x"] * 100)], 50, tag_dropout=0.3)
    assert abs(sum(text.count("x") for text in found) / 5000 - 0.7) < 0.03
    assert shown([TAGS], tag_dropout=1.0, keep_tokens=1) == ["one"]


def test_tags_come_in_over_the_warmup():
    assert shown(["t, 1, 2, 3, 4"], 5, warmup_epochs=3, keep_tokens=1) == [
        "t, 1",
        "t, 1, 2",
        "t, 1, 2, 3",
        "t, 1, 2, 3, 4",
        "t, 1, 2, 3, 4",
    ]


def test_caption_dropout_leaves_out_its_share_whole():
    found = shown(["a"], 4000, dropout=0.25, prefix="p", suffix="s")
    assert set(found) == {"", "p, a, s"}
    assert abs(found.count("") / 4000 - 0.25) < 0.03


def test_a_rule_more_leaves_the_draws_of_the_others_alone():
    plain = shown(["a|b", "c"], 50, dropout=0.3)
    with_tags = shown(["a|b", "c"], 50, dropout=0.3, shuffle=True)
    assert plain == with_tags


def test_wildcards_take_one_of_theirs_and_may_hold_others():
    found = set(shown(["a {red|{dark|light} blue} ball {1}"], 60, wildcards=True))
    assert found == {"a red ball {1}", "a dark blue ball {1}", "a light blue ball {1}"}
    assert shown(["{a|b}"]) == ["{a|b}"]  # not asked for


def test_alternatives_are_all_shown():
    assert set(shown(["a", "b", "c"], 40)) == {"a", "b", "c"}


def test_pictures_seeds_and_repeats_draw_apart():
    texts = {tuple(shown([TAGS], 5, seed, picture, shuffle=True)) for seed in (0, 1) for picture in ("p", "p 1", "q")}
    assert len(texts) == 6


def test_templates_speak_of_the_token():
    assert set(shown(["ignored"], 300, template="object", token="<s1>")) == {
        t.replace("{}", "<s1>") for t in TEMPLATES["object"]
    }
    assert shown(["x"], template="{} in snow", token="<s1>") == ["<s1> in snow"]


def test_words_are_substituted_whole():
    found = shown(["Sks dog, desks, a {token}"], token="<t>", substitute=(("sks", r"<s1>\1"),))
    assert found == [r"<s1>\1 dog, desks, a <t>"]
    assert shown(["a <cat>."], substitute=(("<cat>", "<c1><c2>"),)) == ["a <c1><c2>."]


def test_all_captions_of_a_run_are_known_before_it():
    rules = CaptionRules(shuffle=True, dropout=0.2)
    known = captions_of(["a, b"], rules, 3, 50, "p")
    assert set(known) == {"", "a, b", "b, a"}
    assert {caption_at(["a, b"], rules, 3, e, "p") for e in range(50)} == set(known)
    assert captions_of([TAGS], rules, 0, 1000, "p", most=100) is None
    assert captions_of(["a"], CaptionRules(), 0, 10**9, "p") == ["a"]


def test_all_wrong_rules_are_told_at_once():
    with pytest.raises(UsageError) as told:
        CaptionRules(dropout=2, tag_dropout=-1, keep_tokens=-1, separator=" ", template="objekt")
    lines = str(told.value).splitlines()
    assert len(lines) == 6 and "--caption-dropout must be 0 to 1, got 2" in lines
    with pytest.raises(UsageError, match="twice"):
        CaptionRules(keep_tokens=1, keep_separator="|||")
