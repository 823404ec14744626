"""The words that captions share."""

import pytest

from lorakit.data.trigger_words import contains, shared_phrase, tags_of


def test_tags_are_counted_once_and_without_case_as_kohya_does():
    assert tags_of("Sks,  red Hat ,, sks, sitting") == ["sks", "red hat", "sitting"]
    assert tags_of("a; b;A", ";") == ["a", "b"]


@pytest.mark.parametrize(
    ("captions", "phrase"),
    [
        (["Sks, red hat", "sks, blue hat", "blue hat, SKS"], "Sks"),  # a tag, as the first caption spells it
        (["1girl, sks", "sks, 1girl"], "1girl"),  # of several the one that people wrote first
        (["a photo of sks dog"] * 3, "a photo of sks dog"),
        (["a photo of sks dog on grass", "sks dog, sitting"], "sks"),  # in sentences a word that looks like none
        (["my p3rs0n at sea", "p3rs0n in a hat"], "p3rs0n"),
        (["a <s1> on grass", "the <s1> at sea"], "<s1>"),
        (["a zwx_cat here", "that zwx_cat there"], "zwx_cat"),
        (["a photo of a dog on grass", "a photo of a dog at sea"], ""),  # common words may be anything
        (["in 1950 4k tv", "4k tv of 1950"], ""),
        (["sks", "a dog"], ""),
        (["sksx a", "b sks"], ""),  # whole words
        (["sks, a dog"], ""),  # one caption shares everything
        ([], ""),
    ],
)
def test_what_all_captions_share_is_the_trigger_phrase(captions, phrase):
    assert shared_phrase(captions) == phrase


def test_a_word_is_found_whole_and_without_case():
    assert contains("a photo of  SKS dog", "sks dog") and contains("<s1>, sitting", "<s1>")
    assert not contains("sksdog", "sks") and not contains("sks_1", "sks")
