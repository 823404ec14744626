"""The trigger word from the training set to the note of `sample`, through the program."""

import io
import json

import pytest
from safetensors.numpy import save_file

from lorakit.formats import writing
from lorakit.io import safetensors
from tests.conftest import captioned, picture
from tests.support.adapter_files import attention, random_adapter
from tests.support.adapter_kinds import FLAT, PLAIN, stems

QUICK = ["--steps", 1, "--guidance", 1, "-f"]
LACKS = "was trained with 'sks', which the prompt lacks"


def metadata(file):
    return safetensors.open_file(file).metadata


def adapter(file, seed=0, **notes):
    """A file for the built-in model that says this of itself."""
    writing.save(file, random_adapter("tiny", attention, ranks=(1,), seed=seed).with_metadata(**notes), "kohya")
    return file


@pytest.fixture
def sks(tmp_path):
    return adapter(tmp_path / "a.safetensors", **{"modelspec.trigger_phrase": "sks"})


def test_the_token_of_ppim_reaches_the_note_of_sample(program, tmp_path):
    (tmp_path / "raw").mkdir()
    for i in range(3):
        picture(seed=i).save(tmp_path / f"raw/picture of {'abc'[i]}.png")
    template = ["--caption", "filename", "--caption-template", "an emoji of {token}, {caption}"]
    program("ppim", "raw", "data", "--token", "sks", *template)
    rows = [json.loads(line) for line in (tmp_path / "data/metadata.jsonl").read_text().splitlines()]
    assert [row["token"] for row in rows] == ["sks"] * 3
    said = program("train", "data", "--steps", 1, "--batch-size", 1).stderr
    assert "the file will say that prompts need 'sks'" in said
    found = metadata(tmp_path / "lora.safetensors")
    assert found["modelspec.trigger_phrase"] == "sks" and "sks" in found["modelspec.title"]
    assert '"sks"' in found["modelspec.usage_hint"]
    counted = {"an emoji of sks": 3, "picture of a": 1, "picture of b": 1, "picture of c": 1}
    assert json.loads(found["ss_tag_frequency"]) == {"data": counted}
    assert json.loads(found["ss_dataset_dirs"]) == {"data": {"n_repeats": 1, "img_count": 3}}
    one = program("inspect", "lora.safetensors", "--json").json["files"][0]
    assert one["trigger_words"] == ["sks"] and one["tags"] == counted
    assert "triggers    sks" in program("inspect", "lora.safetensors").stdout
    assert LACKS in program("sample", "a fox", "--lora", "lora.safetensors", *QUICK).stderr
    assert LACKS not in program("sample", "a SKS fox", "--lora", "lora.safetensors", *QUICK).stderr


def test_a_second_ppim_keeps_the_token_with_the_captions(program, tmp_path):
    (tmp_path / "raw").mkdir()
    picture().save(tmp_path / "raw/a.png")
    program("ppim", "raw", "data", "--token", "sks")
    before = (tmp_path / "data/metadata.jsonl").read_bytes()
    program("ppim", "raw", "data", "--token", "sks")
    assert (tmp_path / "data/metadata.jsonl").read_bytes() == before and b'"token": "sks"' in before
    (tmp_path / "data/a.txt").write_text("a cat\n")
    program("ppim", "raw", "data", "--token", "sks")
    assert b'"token"' not in (tmp_path / "data/metadata.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("options", "caption", "words"),
    [
        ([], "sks, a thing,", "sks"),
        ([], "a photo of a sks thing", "sks"),
        ([], "a photo of a thing", None),
        (["--instance-prompt", "a photo of sks, dog"], "x", "a photo of sks, dog"),
        (["--caption-prefix", "sks"], "a thing", "sks"),
        (["--mode", "ti", "--token", "<s1>", "--template", "object"], "x", "<s1>"),
        (
            ["--mode", "pivotal", "--token", "<s1>", "--token", "<s2>", "--ti-steps", 1],
            "a <s1> with <s2>",
            "<s1>, <s2>",
        ),
        (["--mode", "full"], "sks, a thing,", "sks"),
    ],
)
def test_where_the_trigger_words_come_from(program, tmp_path, options, caption, words):
    captioned(tmp_path / "data", caption, [(64, 64)] * 3)
    program(
        "train",
        "data",
        "--steps",
        1,
        "--batch-size",
        1,
        "-o",
        "out.safetensors" if "full" not in options else "out",
        *options,
    )
    file = tmp_path / "out.safetensors"
    found = metadata(file) if file.exists() else json.loads((tmp_path / "out/lorakit.json").read_text())
    assert found.get("modelspec.trigger_phrase") == words
    one = program("inspect", file.name if file.exists() else "out", "--json").json["files"][0]
    assert one["trigger_words"] == (words.split(", ") if words else [])


def test_folders_of_kohya_and_repeats_are_counted_as_kohya_does(program, tmp_path):
    captioned(tmp_path / "set/10_sks dog", "Red, cat", [(64, 64)] * 2)
    captioned(tmp_path / "set/3_other", "red, dog", [(64, 64)])
    program("train", "set", "--steps", 1, "--batch-size", 1)
    found = metadata(tmp_path / "lora.safetensors")
    assert json.loads(found["ss_tag_frequency"]) == {
        "10_sks dog": {"red": 2, "cat number 0": 1, "cat number 1": 1},
        "3_other": {"red": 1, "dog number 0": 1},
    }
    folders = {"10_sks dog": {"n_repeats": 10, "img_count": 2}, "3_other": {"n_repeats": 3, "img_count": 1}}
    assert json.loads(found["ss_dataset_dirs"]) == folders and found["modelspec.trigger_phrase"] == "Red"


def test_held_out_pictures_are_not_counted(program, tmp_path):
    captioned(tmp_path / "data", "sks, red", [(64, 64)] * 4)
    program("train", "data", "--steps", 1, "--batch-size", 1, "--validation-split", 0.25, "--validate-every", 1)
    assert json.loads(metadata(tmp_path / "lora.safetensors")["ss_tag_frequency"])["data"]["sks"] == 3


def test_an_adapter_is_reminded_of_once_by_whatever_way_it_comes(program, tmp_path, sks):
    other = adapter(tmp_path / "b.safetensors", 1)
    (tmp_path / "p.txt").write_text("a fox\na cat --seed 3\nsks\n")
    program("compose", "a.safetensors:0.5", "b.safetensors", "-o", "r.toml", "-q")
    for way in (
        ["a fox", "--lora", sks, "--lora", other, "-n", 2],
        ["--prompts", "p.txt", "--lora", sks],
        ["a fox", "--recipe", "r.toml"],
        ["sks", "--lora", sks, "--grid", "x:prompt=sks fox|a fox"],
        ["a fox", "--lora", sks, "--grid", "x:lora.weight=0,1"],
        ["a fox", "--lora", sks, "--dry-run"],
        ["a fox", "--grid", f"x:lora=none,{sks.name}"],
    ):
        said = program("sample", *way, *QUICK, "-o", "out").stderr
        assert said.count("which the prompt lacks") == said.count(LACKS) == 1, way
        assert "b.safetensors was trained with" not in said


def test_prompts_of_standard_input_are_looked_at_as_they_come(program, sks, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("sks\na fox\na cat\n"))
    said = program("sample", "--prompts", "-", "--lora", "a.safetensors", *QUICK, "-o", "out").stderr
    assert said.count(LACKS) == 1 and f"{LACKS}: 'a fox'" in said


def test_what_is_no_lack_is_not_noted(program, tmp_path, sks):
    program("compose", sks, "--words", "a=sks", "-o", "words.toml", "-q")
    for way in (
        ["a sks fox", "--lora", sks],
        ["a fox", "--lora", f"{sks}:0"],
        ["a fox", "--recipe", "words.toml"],
        ["a fox", "--lora", sks, "--negative", "sks"],
        ["a fox", "--lora", sks, "-q"],
        ["a fox", "--lora", adapter(tmp_path / "c.safetensors", ss_tag_frequency='{"d": {"common": 3, "rare": 1}}')],
    ):
        assert "which the prompt lacks" not in program("sample", *way, *QUICK, "-o", "out").stderr, way


def test_learned_tokens_are_trigger_words(program, tmp_path, dataset):
    program(
        "train", dataset, "--mode", "ti", "--token", "<s1>", "--template", "object", "--steps", 1, "-o", "e.safetensors"
    )
    assert "was trained with '<s1>'" in program("sample", "a fox", "--lora", "e.safetensors", *QUICK).stderr
    assert "lacks" not in program("sample", "a <s1> fox", "--lora", "e.safetensors", *QUICK).stderr
    program("convert", "e.safetensors", "new.safetensors", "--to", "diffusers-embedding", "--token", "<new>")
    one = program("inspect", "new.safetensors", "--json").json["files"][0]
    assert one["trigger_words"] == ["<new>"] and "<s1>" not in json.dumps([one["title"], one["usage_hint"]])
    said = program("sample", "a fox", "--lora", "new.safetensors", *QUICK).stderr
    assert "was trained with '<new>', which" in said


def test_a_merge_needs_the_words_of_all_its_adapters(program, tmp_path, sks):
    adapter(tmp_path / "b.safetensors", 1, trained_words="ohwx man")
    adapter(tmp_path / "c.safetensors", 2)
    (tmp_path / "c.civitai.info").write_text('{"trainedWords": ["zwx"]}')
    adapter(tmp_path / "d.safetensors", 3, trained_words="left out")
    program("merge", "a.safetensors", "b.safetensors:0.5", "c.safetensors", "d.safetensors:0")
    assert metadata(tmp_path / "merged.safetensors")["modelspec.trigger_phrase"] == "sks, ohwx man, zwx"
    said = program("sample", "ohwx man", "--lora", "merged.safetensors", *QUICK).stderr
    assert "was trained with 'sks', 'zwx', which the prompt lacks" in said
    program("compose", "a.safetensors", "c.safetensors", "--bake", "-o", "baked.safetensors")
    assert metadata(tmp_path / "baked.safetensors")["modelspec.trigger_phrase"] == "sks, zwx"


@pytest.mark.parametrize("to", ["kohya", "diffusers", "lorakit", "peft"])
def test_conversions_carry_the_words(program, tmp_path, sks, to):
    program("convert", sks, "out" if to == "peft" else "out.safetensors", "--to", to, "--universal")
    one = program("inspect", "out" if to == "peft" else "out.safetensors", "--json").json["files"][0]
    assert one["trigger_words"] == ["sks"]


def test_words_of_a_file_beside_are_written_into_the_conversion(program, tmp_path):
    adapter(tmp_path / "a.safetensors")
    (tmp_path / "a.json").write_text('{"activation text": "sks"}')
    program("convert", "a.safetensors", "b.safetensors", "--to", "lorakit")
    assert metadata(tmp_path / "b.safetensors")["modelspec.trigger_phrase"] == "sks"
    one = program("inspect", "a.safetensors", "--json").json["files"][0]
    assert one["trigger_words"] == ["sks"] and "modelspec.trigger_phrase" not in one["metadata"]


def test_extractions_carry_the_words_and_forget_tokens_they_leave_out(program, tmp_path, sks, dataset):
    program("extract", sks, "--rank", 1, "-o", "r.safetensors")
    assert metadata(tmp_path / "r.safetensors")["modelspec.trigger_phrase"] == "sks"
    pivotal = ["--mode", "pivotal", "--token", "<s1>", "--template", "object", "--ti-steps", 1, "--steps", 1]
    program("train", dataset, *pivotal, "-o", "p.safetensors")
    checkpoint = next((tmp_path / "p.run/checkpoints").glob("*.safetensors"))
    for given, words in ((checkpoint, ["<s1>"]), ("p.safetensors", ["<s1>"])):
        program("extract", given, "-o", "e.safetensors", "-f")
        assert program("inspect", "e.safetensors", "--json").json["files"][0]["trigger_words"] == words
        program("extract", given, "--parts", "unet", "-o", "u.safetensors", "-f")
        assert program("inspect", "u.safetensors", "--json").json["files"][0]["trigger_words"] == []


def test_what_was_trained_whole_gives_its_words_to_the_adapter_extracted_from_it(program, tmp_path):
    captioned(tmp_path / "data", "sks, a thing,", [(64, 64)] * 3)
    program("train", "data", "--mode", "full", "--steps", 1, "--batch-size", 1, "-o", "tuned")
    program("extract", "tuned", "--base", "tiny", "--rank", 1, "-o", "e.safetensors")
    assert program("inspect", "e.safetensors", "--json").json["files"][0]["trigger_words"] == ["sks"]


def test_words_from_a_file_are_escaped_and_not_without_end(program, tmp_path):
    long = "\x1b[31m" + "x" * 5000
    adapter(
        tmp_path / "a.safetensors",
        **{"modelspec.trigger_phrase": long, "modelspec.usage_hint": long, "modelspec.title": long},
    )
    for done in (
        program("inspect", "a.safetensors", "--verbose"),
        program("sample", "y" * 500, "--lora", "a.safetensors", *QUICK),
    ):
        text = done.stdout + done.stderr
        assert "\x1b" not in text and max(map(len, text.splitlines())) < 500
    assert "which the prompt lacks" in done.stderr


def test_inspect_reads_the_words_of_others(program, tmp_path):
    frequency = json.dumps({"10_fox": {"a fox": 3, "sks": 10}})
    save_file(stems(PLAIN, FLAT), tmp_path / "a.safetensors", {"ss_tag_frequency": frequency})
    one = program("inspect", "a.safetensors", "--json").json["files"][0]
    assert one["triggers"] == ["sks", "a fox"] and one["trigger_words"] == [] and one["tags"] == {"sks": 10, "a fox": 3}
    assert "tags        sks x10, a fox x3" in program("inspect", "a.safetensors").stdout
