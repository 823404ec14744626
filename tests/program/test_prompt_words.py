"""Prompts as people paste them, through `sample`, on the built-in model in a few steps."""

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import save_file

from lorakit.composition import Composition, Member
from lorakit.drawing import remarks
from lorakit.drawing.ensemble import Ensemble
from lorakit.models import tokens
from tests.support.adapters_of_tiny import lora, pixels

QUICK = ["--steps", 2, "--guidance", 3, "--scheduler", "euler"]
VECTORS = np.random.default_rng(3).standard_normal((2, 192)).astype("f4") * 0.3


@pytest.fixture
def draw(program, tmp_path):
    """Pixels of one picture and what was said."""

    def drawn(prompt, *options, steps=2):
        done = program("sample", prompt, *QUICK[2:], "--steps", steps, "-o", "one.png", "-f", *options)
        return pixels(tmp_path / "one.png"), done.stderr

    return drawn


@pytest.fixture
def evalyn(tmp_path):
    """A1111's file, with another name in it than its own."""
    word = {"*": torch.nn.Parameter(torch.from_numpy(VECTORS))}
    torch.save({"string_to_token": {"*": 265}, "string_to_param": word, "name": "train-590"}, tmp_path / "Evalyn.pt")


@pytest.fixture
def library(tmp_path):
    (tmp_path / "lib/sub").mkdir(parents=True)
    lora(tmp_path / "lib/style.safetensors", 1)
    lora(tmp_path / "lib/sub/ink.safetensors", 2, text=True)
    save_file({"emb_params": VECTORS}, tmp_path / "lib/Easy.safetensors")
    Image.new("RGB", (8, 8)).save(tmp_path / "lib/style.png")


def test_an_embedding_is_its_file_and_its_own_name_in_any_case_and_its_weight_is_that_of_brackets(draw, evalyn):
    plain, _ = draw("a Evalyn cat")
    whole, said = draw("a Evalyn cat", "--lora", "Evalyn.pt")
    assert not (whole == plain).all() and "learned tokens: train-590 or Evalyn" in said
    for word in ("evalyn", "train-590", "embedding:EVALYN.pt"):
        assert (draw(f"a {word} cat", "--lora", "Evalyn.pt")[0] == whole).all(), word
    assert (draw("a Evalyn cat", "--lora", "Evalyn.pt:0")[0] == plain).all()
    half, _ = draw("a Evalyn cat", "--lora", "Evalyn.pt:0.5")
    assert (half == draw("a (Evalyn:0.5) cat", "--lora", "Evalyn.pt")[0]).all() and not (half == whole).all()
    longer, said = draw("a Evalyn2 cat", "--lora", "Evalyn.pt")
    assert (longer == draw("a Evalyn2 cat")[0]).all() and "which the prompt lacks" in said


def test_an_embeddings_weight_is_an_axis_and_changes_over_the_denoising(program, tmp_path, draw, evalyn):
    program("sample", "a Evalyn cat", *QUICK, "--lora", "Evalyn.pt", "--grid", "x:lora.weight=0,1", "-o", "g")
    assert (pixels(tmp_path / "g/00000.png") == draw("a Evalyn cat")[0]).all()
    whole, _ = draw("a Evalyn cat", "--lora", "Evalyn.pt")
    assert (pixels(tmp_path / "g/00001.png") == whole).all()
    one = draw("a Evalyn cat", "--lora", "Evalyn.pt", "--schedule", "1@0,0.5@0.5:step")[0]
    assert (one == draw("a [Evalyn:(Evalyn:0.5):0.5] cat", "--lora", "Evalyn.pt")[0]).all()


def test_words_change_by_step_and_the_first_step_says_the_first(draw):
    red, blue = draw("a red cat")[0], draw("a blue cat")[0]
    turning, said = draw("a [red|blue] cat")
    assert "[red|blue] takes turns, a step each" in said
    assert not (turning == red).all() and not (turning == blue).all()
    assert (turning == draw("a [red:blue:0.5] cat")[0]).all() and (turning == draw("a [red:blue:1] cat")[0]).all()
    assert (draw("a [red:blue:1.0] cat")[0] == red).all() and (draw("a [red:blue:0] cat")[0] == blue).all()
    assert (draw("a [red|blue] cat", steps=1)[0] == draw("a red cat", steps=1)[0]).all()
    plain, said = draw("a [red|blue] cat", "--plain-prompts")
    assert not (plain == turning).all() and "takes turns" not in said


def test_and_adds_what_each_prompt_changes(draw):
    cat = draw("a cat")[0].astype(int)
    for same in ("a cat AND a dog:0", "a cat:0.4 AND a cat:0.6"):
        assert abs(draw(same)[0] - cat).max() <= 1, same
    both, said = draw("a cat AND a dog:0.5")
    assert abs(both - cat).max() > 10 and "AND joins prompts, each guided by itself: 'a cat' and 'a dog' at 0.5" in said


def test_pictures_drawn_together_say_each_its_own(program, tmp_path, draw):
    prompts = ["a [red|blue] cat", "a cat AND a dog", "a red cat", "a cat AND a fox", "a [cat|dog|fox]"]
    (tmp_path / "p.txt").write_text("\n".join(prompts))
    program("sample", "--prompts", "p.txt", *QUICK, "-o", "all")
    for i, prompt in enumerate(prompts):
        assert (pixels(tmp_path / f"all/{i:05d}.png") == draw(prompt)[0]).all(), prompt


def test_adapters_that_a_prompt_names_are_found_in_a_folder(program, tmp_path, draw, library):
    tagged, said = draw("a embedding:easy cat <lora:style:0.8> <lyco:sub/ink:0.5:1>", "--lora-dir", "lib")
    assert "lib/style.safetensors at 0.8" in said and "left out" not in said
    named = ["lib/style.safetensors:0.8", "lib/sub/ink.safetensors", "lib/Easy.safetensors"]
    given = [word for name in named for word in ("--lora", name)]
    same, _ = draw("a Easy cat", *given, "--part-weights", "ink=text_encoder=0.5")
    assert (tagged == same).all()
    draw("a embedding:easy cat <lora:style:0.8>", "--lora-dir", "lib")
    (tmp_path / "one.png").rename(tmp_path / "kept.png")
    program("sample", "--from", "kept.png", "-o", "again.png")
    assert (pixels(tmp_path / "again.png") == pixels(tmp_path / "kept.png")).all()


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("<lora:stile:1>", "<lora:stile:1>: no adapter called stile in lib; did you mean 'style'?"),
        ("embedding:nothing", "embedding:nothing: no adapter called nothing in lib"),
        ("<lora:twice:1>", "twice.pt, twice.safetensors in lib are all called twice; say which"),
    ],
)
def test_names_that_the_folder_has_not_or_twice_are_told(program, tmp_path, library, prompt, says):
    for ending in ("safetensors", "pt"):
        (tmp_path / f"lib/twice.{ending}").touch()
    assert says in program("sample", prompt, "--lora-dir", "lib", "-o", "x.png", status=3).stderr


def test_a_weight_that_is_no_number_and_a_folder_that_nothing_names_are_told(program, library, draw):
    assert "is no number" in program("sample", "<lora:style:x>", "--lora-dir", "lib", "-o", "x.png", status=2).stderr
    assert "no prompt names an adapter" in draw("a cat", "--lora-dir", "lib")[1]


def test_without_a_folder_tags_are_left_out_and_told_once(program, tmp_path, draw):
    cat, _ = draw("a cat")
    found, said = draw("a cat<lora:style:0.8>")
    assert (found == cat).all() and "--lora style.safetensors:0.8" in said
    found, said = draw("a cat embedding:nothing", "--negative", "<lora:style:1>")
    assert (found == cat).all() and "embedding:nothing" in said and "negative prompt: <lora:style:1>" in said
    (tmp_path / "p.txt").write_text("a cat <lora:a:1>\na dog <lora:b:1>\na fox <lora:a:1>")
    said = program("sample", "--prompts", "p.txt", *QUICK, "-o", "s").stderr
    assert said.count("left out of the prompt") == 2
    lora(tmp_path / "style.safetensors", 1)
    found, said = draw("a cat <lora:style:0.3>", "--lora", "style.safetensors:0.8")
    assert "given already" in said and (found == draw("a cat", "--lora", "style.safetensors:0.8")[0]).all()


def test_lines_as_they_come_bring_adapters_of_their_own(program, tmp_path, monkeypatch, draw, library):
    import io

    lines = ["a Easy cat <lora:style:1>", "a embedding:Easy cat", "a cat <lora:nothing:1>", "a cat"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    done = program("sample", "--prompts", "-", *QUICK, "-o", "s", "--lora-dir", "lib", status=3)
    assert "no adapter called nothing" in done.stdout
    wanted = [draw(lines[0], "--lora-dir", "lib")[0], draw(lines[1], "--lora-dir", "lib")[0], draw("a cat")[0]]
    for i, picture in enumerate(wanted):
        assert (pixels(tmp_path / f"s/{i:05d}.png") == picture).all(), lines[i]


def test_a_webuis_picture_is_drawn_with_the_adapters_of_a_folder(program, tmp_path, draw, library):
    info = PngInfo()
    info.add_text("parameters", "a cat <lora:style:0.8>\nSteps: 2, Sampler: Euler, CFG scale: 3, Seed: 0, Size: 64x64")
    Image.new("RGB", (8, 8)).save(tmp_path / "theirs.png", pnginfo=info)
    assert "--lora-dir" in program("sample", "--from", "theirs.png", "-o", "o.png", status=3).stderr
    program("sample", "--from", "theirs.png", "--lora-dir", "lib", "-o", "o.png")
    assert (pixels(tmp_path / "o.png") == draw("a cat", "--lora", "lib/style.safetensors:0.8")[0]).all()


def test_words_are_found_by_themselves_in_any_case_and_by_other_names():
    words = tokens.LearnedWords({"<s1>": 2, "Fox Hat": 1}, {"file": "<s1>"})
    one, two = words.hidden["<s1>"]
    assert words.split("a<S1>, foxhat", ["<s1>", "Fox Hat"]) == [
        ("a", None),
        (f"{one} {two}", "<s1>"),
        (", foxhat", None),
    ]
    assert words.split("fox  HAT FILE files", ["Fox Hat"]) == [
        (words.hidden["Fox Hat"][0], "Fox Hat"),
        (" FILE files", None),
    ]
    assert words.split("<s1>_1", ["<s1>"]) == [(two, "<s1>")]
    assert words.find("FILE") == "<s1>" and words.find("fil") is None and words.names("<s1>") == ["<s1>", "file"]
    assert words.shown(f"x {two}") == "x <s1>_1"
    assert remarks.drawn("embedding:file", tokens.LearnedWords({"a(b)": 1}, {"file": "a(b)"})) == r"a\(b\)"


def test_a_file_that_has_deltas_too_gives_its_words_whole(tmp_path):
    from lorakit.models.load import load

    components = load("tiny", torch.device("cpu"), torch.float32)
    path = lora(tmp_path / "both.safetensors", 1, tokens={"<s1>": {"text_encoder": torch.from_numpy(VECTORS)}})
    members = [Composition((Member(path=path, weight=weight, name="both"),)) for weight in (0.5, 0.0)]
    ensemble = Ensemble(components, members, lambda text: None)
    assert [ensemble.acting_words(one) for one in members] == [(("<s1>", 1.0),), ()]
