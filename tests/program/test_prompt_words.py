"""Prompts as people paste them, through `sample`, on a small random model in a few steps."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import save_file

from lorakit.adapter import Adapter
from lorakit.composition import Composition, Member
from lorakit.deltas.low_rank import LowRank
from lorakit.drawing import remarks
from lorakit.drawing.ensemble import Ensemble
from lorakit.formats import writing
from lorakit.models import tokens
from tests.support.adapters_of_tiny import pixels

pytestmark = pytest.mark.usefixtures("small_model")
QUICK = ["--steps", 2, "--guidance", 3, "--scheduler", "euler"]
WIDTH = 32  # of the model's text encoder
VECTORS = np.random.default_rng(3).standard_normal((2, WIDTH)).astype("f4")


def lora(file, seed, *, text=False, tokens=None):
    """A random adapter of the model's attention; of its text encoder's where asked for."""
    draw = np.random.default_rng(seed)
    unet = "unet.mid_block.attentions.0.transformer_blocks.0"
    shapes = {f"{unet}.attn1.{name}": 64 for name in ("to_q", "to_k", "to_v", "to_out.0")}
    if text:
        layer = "text_encoder.text_model.encoder.layers"
        shapes |= {f"{layer}.{i}.self_attn.{name}_proj": WIDTH for i in (0, 1) for name in "qkv"}
    modules = {
        name: LowRank(
            draw.standard_normal((2, size)).astype("f4"), draw.standard_normal((size, 2)).astype("f4") / 2, 2.0
        )
        for name, size in shapes.items()
    }
    writing.save(file, Adapter(modules=modules, embeddings=tokens or {}), "kohya")
    return file


@pytest.fixture
def draw(program, tmp_path):
    """Pixels of one picture and what was said."""

    def drawn(prompt, *options, steps=2):
        done = program("sample", prompt, *QUICK[2:], "--steps", steps, "-o", "one.png", "-f", *options)
        return pixels(tmp_path / "one.png"), done.stderr

    return drawn


@pytest.fixture
def drawn(program, tmp_path):
    """Pixels of a picture of each prompt, drawn in one run, and what was said."""

    def all_of(prompts, *options):
        (tmp_path / "prompts.txt").write_text("\n".join(prompts))
        done = program("sample", "--prompts", "prompts.txt", *QUICK, "-o", "drawn", *options)
        found = {prompt: pixels(tmp_path / f"drawn/{i:05d}.png") for i, prompt in enumerate(prompts)}
        shutil.rmtree(tmp_path / "drawn")
        return found, done.stderr

    return all_of


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


def test_an_embedding_is_its_file_and_its_own_name_in_any_case_and_its_weight_is_that_of_brackets(draw, drawn, evalyn):
    without, _ = drawn(["a Evalyn cat", "a Evalyn2 cat"])
    plain = without["a Evalyn cat"]
    words = ("Evalyn", "evalyn", "train-590", "embedding:EVALYN.pt", "(Evalyn:0.5)", "Evalyn2")
    found, said = drawn([f"a {word} cat" for word in words], "--lora", "Evalyn.pt")
    whole, *same, half, longer = found.values()
    assert not (whole == plain).all() and "learned tokens: train-590 or Evalyn" in said
    assert all((one == whole).all() for one in same)
    assert (longer == without["a Evalyn2 cat"]).all()
    assert (draw("a Evalyn cat", "--lora", "Evalyn.pt:0")[0] == plain).all()
    assert (half == draw("a Evalyn cat", "--lora", "Evalyn.pt:0.5")[0]).all() and not (half == whole).all()
    assert "which the prompt lacks" in draw("a Evalyn2 cat", "--lora", "Evalyn.pt")[1]


def test_an_embeddings_weight_is_an_axis_and_changes_over_the_denoising(program, tmp_path, draw, drawn, evalyn):
    prompts = ["a Evalyn cat", "a [Evalyn:(Evalyn:0.5):0.5] cat"]
    whole, falling = drawn(prompts, "--lora", "Evalyn.pt")[0].values()
    program("sample", "a Evalyn cat", *QUICK, "--lora", "Evalyn.pt", "--grid", "x:lora.weight=0,1", "-o", "g")
    assert (pixels(tmp_path / "g/00000.png") == draw("a Evalyn cat")[0]).all()
    assert (pixels(tmp_path / "g/00001.png") == whole).all()
    assert (draw("a Evalyn cat", "--lora", "Evalyn.pt", "--schedule", "1@0,0.5@0.5:step")[0] == falling).all()


def test_words_change_by_step_and_the_first_step_says_the_first(draw, drawn):
    brackets = ["[red|blue]", "[red:blue:0.5]", "[red:blue:1]", "[red:blue:1.0]", "[red:blue:0]"]
    found, said = drawn([f"a {word} cat" for word in ("red", "blue", *brackets)])
    red, blue, turning, half, one, late, early = found.values()
    assert "[red|blue] takes turns, a step each" in said
    assert not (turning == red).all() and not (turning == blue).all()
    assert (turning == half).all() and (turning == one).all()
    assert (late == red).all() and (early == blue).all()
    assert (draw("a [red|blue] cat", steps=1)[0] == draw("a red cat", steps=1)[0]).all()
    plain, said = draw("a [red|blue] cat", "--plain-prompts")
    assert not (plain == turning).all() and "takes turns" not in said


def test_and_adds_what_each_prompt_changes(draw, drawn):
    prompts = ["a cat", "a cat AND a dog:0", "a cat:0.4 AND a cat:0.6", "a cat AND a dog:0.5"]
    found, _ = drawn(prompts, "--guidance", 9)
    cat, nothing, parted, both = (one.astype(int) for one in found.values())
    assert abs(nothing - cat).max() <= 1 and abs(parted - cat).max() <= 1
    assert abs(both - cat).max() > 10
    _, said = draw(prompts[-1])
    assert "AND joins prompts, each guided by itself: 'a cat' and 'a dog' at 0.5" in said


def test_pictures_drawn_together_say_each_its_own(draw, drawn):
    prompts = ["a [red|blue] cat", "a cat AND a dog", "a red cat", "a cat AND a fox", "a [cat|dog|fox]"]
    found, _ = drawn(prompts)
    for prompt in prompts:
        assert (found[prompt] == draw(prompt)[0]).all(), prompt


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


def test_without_a_folder_tags_are_left_out_and_told_once(tmp_path, draw, drawn):
    prompts = ["a cat<lora:style:0.8>", "a cat", "a cat <lora:a:1>", "a dog <lora:b:1>", "a fox <lora:a:1>"]
    found, said = drawn(prompts)
    cat = found["a cat"]
    assert (found[prompts[0]] == cat).all() and "--lora style.safetensors:0.8" in said
    assert said.count("left out of the prompt") == 3
    found, said = draw("a cat embedding:nothing", "--negative", "<lora:style:1>")
    assert (found == cat).all() and "embedding:nothing" in said and "negative prompt: <lora:style:1>" in said
    lora(tmp_path / "style.safetensors", 1)
    found, said = drawn(["a cat <lora:style:0.3>", "a cat"], "--lora", "style.safetensors:0.8")
    tagged, same = found.values()
    assert "given already" in said and (tagged == same).all()


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


def test_a_file_that_has_deltas_too_gives_its_words_whole(tmp_path, small):
    from lorakit.models.load import load

    components = load(str(small), torch.device("cpu"), torch.float32)
    path = lora(tmp_path / "both.safetensors", 1, tokens={"<s1>": {"text_encoder": torch.from_numpy(VECTORS)}})
    members = [Composition((Member(path=path, weight=weight, name="both"),)) for weight in (0.5, 0.0)]
    ensemble = Ensemble(components, members, lambda text: None)
    assert [ensemble.acting_words(one) for one in members] == [(("<s1>", 1.0),), ()]
