"""Trigger words in metadata as all trainers write it, and prompts that lack them."""

import json

import pytest

from lorakit.formats import triggers
from lorakit.formats.triggers import Triggers, read

KOHYA = {
    "ss_tag_frequency": json.dumps({"10_sks dog": {"sks": 4, "dog": 3}, "2_more": {"sks": 2, "cat": 1}}),
    "ss_dataset_dirs": json.dumps({"10_sks dog": {"n_repeats": 10, "img_count": 4}, "2_more": {"img_count": 2}}),
}


def table(**folders: object) -> dict[str, str]:
    return {"ss_tag_frequency": json.dumps(folders)}


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"modelspec.trigger_phrase": "sks dog"}, ["sks dog"]),  # OneTrainer, SwarmUI and whoever writes modelspec
        ({"modelspec.trigger_phrase": "red; blue,  big\nhat"}, ["red", "blue", "big", "hat"]),
        ({"trained_words": "a sks, sks"}, ["a sks", "sks"]),  # SimpleTuner
        ({"trainedWords": '["ohwx man", "hat, red"]'}, ["ohwx man", "hat, red"]),  # Civitai
        ({"ss_trigger_words": "sks"}, ["sks"]),
        ({"activation text": "<lora:x:0.8> sks  dog"}, ["sks dog"]),  # A1111
        (table(**{"1_ohwx man": {"ohwx man": 1}}), ["ohwx man"]),  # ai-toolkit: no counts of pictures
        (KOHYA, ["sks"]),  # in all six captions
        (KOHYA | {"ss_dataset_dirs": "{}"}, []),  # of how many?
        (KOHYA | {"ss_dataset_dirs": json.dumps({"10_sks dog": {"img_count": 5}, "2_more": {"img_count": 2}})}, []),
        (
            table(d={"a": 1, "b": 1}) | {"ss_dataset_dirs": '{"d": {"img_count": 1}}'},
            [],
        ),  # one picture has all its tags
        (
            KOHYA
            | table(**{"d": {"sks": 3}, "1_dog": {"dog": 9}})
            | {"ss_dataset_dirs": '{"d": {"img_count": 3}}', "ss_reg_dataset_dirs": '{"1_dog": {"img_count": 9}}'},
            ["sks"],
        ),
        (table(data={"a": 3, "b": 1}), []),
        ({"modelspec.trigger_phrase": "None", "trained_words": " , "}, []),
        ({}, []),
    ],
)
def test_the_words_of_files_by_all_trainers(metadata, words):
    assert read(metadata).words == words


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[]",
        "null",
        "3",
        '{"a": 3}',
        '{"a": [1]}',
        '{"a": {"b": "c", "d": true, "e": -1, " ": 3}}',
        "[" * 100_000,
    ],
)
def test_tables_that_are_none_tell_nothing(text):
    metadata = {"ss_tag_frequency": text, "ss_dataset_dirs": text, "trainedWords": "[" * 9}
    assert read(metadata).tags == () and read({"ss_tag_frequency": text, "ss_dataset_dirs": text}).words == []


def test_no_file_can_name_words_without_end():
    assert len(read({"modelspec.trigger_phrase": ",".join(map(str, range(10**6)))}).words) == 32


@pytest.mark.parametrize(
    ("prompt", "lacks"),
    [
        ("a photo of sks dog", False),
        ("the DOG, SKS!", False),  # any order, without case
        ("(sks:1.2) dog", False),
        ("a sks_dog", False),  # tags are written with underscores
        ("a dog", True),
        ("sksdog", True),  # whole words
        ("a photo of a", True),
        ("", True),
    ],
)
def test_a_prompt_needs_the_telling_words_of_a_phrase(prompt, lacks):
    assert bool(read({"modelspec.trigger_phrase": "a photo of sks dog"}).lacking(prompt)) == lacks


def test_learned_tokens_are_needed_each_whatever_their_case_and_by_any_of_their_names():
    found = Triggers(tokens=("<s1>", "Fox"))
    assert found.lacking("<s1> Fox") == found.lacking("<S1> fox") == [] and found.lacking("a fox") == ["'<s1>'"]
    assert found.lacking("a fox by Evalyn", lambda token: {"<s1>": [token, "evalyn"]}.get(token, [token])) == []
    assert found.lacking("<s1>x foxes") == ["'<s1>'", "'Fox'"]


def test_of_others_lists_one_will_do_and_of_ours_all_are_needed():
    phrase = {"modelspec.trigger_phrase": "red hat, blue hat"}
    assert read(phrase).lacking("a blue hat") == [] and read(phrase).lacking("a cat") == ["'red hat' or 'blue hat'"]
    for ours in ("lorakit.merge", "lorakit.config"):
        assert read(phrase | {ours: "{}"}).lacking("a blue hat") == ["'red hat'"]


def test_escaped_brackets_are_brackets():
    assert read({"modelspec.trigger_phrase": "saber (fate)"}).lacking(r"saber \(fate\), sitting") == []


def test_words_of_nothing_but_fillers_are_needed_all_the_same():
    assert read({"modelspec.trigger_phrase": "my style"}).lacking("a cat") and not read(
        {"modelspec.trigger_phrase": "my style"}
    ).lacking("a cat in my style")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.civitai.info", {"trainedWords": ["ohwx man", "red hat"]}, "ohwx man, red hat"),
        ("x.json", {"activation text": "sks dog", "notes": "x"}, "sks dog"),
        ("x.metadata.json", {"civitai": {"trainedWords": ["sks"]}}, "sks"),
        ("x.json", {"rank": 4}, None),
        ("x.json", ["trainedWords"], None),
        ("x.civitai.info", {"trainedWords": None}, None),
        ("y.civitai.info", {"trainedWords": ["another"]}, None),
    ],
)
def test_files_beside_an_adapter_tell_its_words(tmp_path, name, content, words):
    (tmp_path / name).write_text(json.dumps(content))
    found = triggers.beside(tmp_path / "x.safetensors")
    assert found == ({"modelspec.trigger_phrase": words} if words else {})


@pytest.mark.parametrize("data", [b"\xff\xfe{", b"{" * 2_000_000, b"[" * 90_000, b""])
def test_damaged_files_beside_an_adapter_tell_nothing(tmp_path, data):
    (tmp_path / "x.json").write_bytes(data)
    (tmp_path / "x.civitai.info").mkdir()
    assert triggers.beside(tmp_path / "x.safetensors") == {}


def test_the_card_of_a_folder_by_diffusers_tells_the_instance_prompt(tmp_path):
    card = "---\nbase_model: x\ninstance_prompt: 'a photo of sks dog'\ntags:\n- lora\n---\n# instance_prompt: no\n"
    (tmp_path / "README.md").write_text(card)
    for path in (tmp_path, tmp_path / "pytorch_lora_weights.safetensors"):
        assert triggers.beside(path) == {"modelspec.trigger_phrase": "a photo of sks dog"}
    assert triggers.beside(tmp_path / "other.safetensors") == {}
    (tmp_path / "README.md").write_text("instance_prompt: no card")
    assert triggers.beside(tmp_path) == {}


def test_a_renamed_token_is_renamed_in_all_that_is_told():
    before = triggers.written(["<s1>"], "LoRA by lorakit") | {"ss_seed": "<s1>"}
    after = triggers.renamed(before, "<s1>", r"<\1>")
    assert after == triggers.written([r"<\1>"], "LoRA by lorakit") | {"ss_seed": "<s1>"}


def test_without_its_tokens_an_adapter_needs_none():
    both = triggers.written(["<s1>", "sks"]) | KOHYA
    assert read(triggers.without(both, ["<s1>"])).words == ["sks"]
    assert read(triggers.without(triggers.written(["<s1>"]) | table(d={"<s1>": 3}), ["<s1>"])).words == []
