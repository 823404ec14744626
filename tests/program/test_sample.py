"""sample through the program, on the built-in model in a few steps."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lorakit.data import pngtext
from lorakit.drawing import composing, session
from tests.support.adapters_of_tiny import lora, pixels
from tests.tiny import make, single

QUICK = ["--steps", 2, "--guidance", 2, "--scheduler", "euler"]
CAT = "a 3d emoji of a cat"


@pytest.fixture
def two(tmp_path):
    return lora(tmp_path / "a.safetensors", 1), lora(tmp_path / "b.safetensors", 2, text=True)


def drawn(program, tmp_path, name, *options, prompt=CAT):
    program("sample", prompt, *QUICK, "-o", f"{name}.png", *options)
    return pixels(tmp_path / f"{name}.png")


def test_a_picture_depends_on_its_seed_and_prompt_alone(program, tmp_path):
    program("sample", CAT, *QUICK, "-n", 3, "-o", "many", "--seed", 4)
    (tmp_path / "p.txt").write_text(
        f"# comment\na dog\n\n{CAT} --seed 5 --steps 2\n" + '{"prompt": "a fox", "size": "64x32"}\n'
    )
    program("sample", "--prompts", "p.txt", *QUICK, "-o", "lines", "--batch-size", 2)
    alone = drawn(program, tmp_path, "one", "--seed", 5, "--batch-size", 1)
    assert (alone == pixels(tmp_path / "many/00001.png")).all() and (
        alone == pixels(tmp_path / "lines/00001.png")
    ).all()
    assert pixels(tmp_path / "lines/00002.png").shape == (32, 64, 3)
    assert not (alone == pixels(tmp_path / "many/00000.png")).all()


def test_weight_zero_is_no_adapter_and_says_what_was_reached(program, tmp_path, two):
    plain = drawn(program, tmp_path, "plain")
    done = program(
        "sample", CAT, *QUICK, "-o", "zero.png", "--lora", "a.safetensors:0", "--lora", "b.safetensors:0", "--json"
    )
    assert (plain == pixels(tmp_path / "zero.png")).all()
    assert [one["applied"] for one in done.json["adapters"]] == [
        {"unet": 56, "text_encoder": 0},
        {"unet": 56, "text_encoder": 16},
    ]
    assert "a.safetensors at 0: 56 in unet" in done.stderr


def test_weights_scale_the_deltas_and_parts_can_be_left_out(program, tmp_path, two):
    program("merge", "a.safetensors", "b.safetensors", "--weights", "0.5,1", "-o", "m.safetensors")
    both = drawn(program, tmp_path, "both", "--lora", "a.safetensors:0.5", "--lora", "b.safetensors")
    merged = drawn(program, tmp_path, "merged", "--lora", "m.safetensors")
    assert abs(both.astype(int) - merged).max() <= 1
    without = drawn(program, tmp_path, "c", "--lora", "b.safetensors", "--part-weights", "b=unet=0,text_encoder=0")
    assert (without == drawn(program, tmp_path, "plain")).all()


def test_a_constant_schedule_is_the_constant_weight_and_others_are_not(program, tmp_path, two):
    constant = drawn(program, tmp_path, "a", "--lora", "a.safetensors:0.5")
    assert (constant == drawn(program, tmp_path, "b", "--lora", "a.safetensors", "--schedule", "a=0.5@0,0.5@1")).all()
    never = drawn(program, tmp_path, "c", "--lora", "a.safetensors", "--schedule", "a=0*t")
    assert (never == drawn(program, tmp_path, "plain")).all()
    assert (never == drawn(program, tmp_path, "e", "--lora", "a.safetensors", "--schedule", "0@0,0@1")).all()
    first = drawn(program, tmp_path, "d", "--lora", "a.safetensors:0.5", "--schedule", "1=1@0,0@0.5:step")
    assert not (first == constant).all() and not (first == never).all()


@pytest.mark.parametrize("way", [["--switch", "every:1"], ["--composite"]])
def test_ways_to_compose_draw_and_with_one_adapter_are_that_adapter(program, tmp_path, two, way):
    one = drawn(program, tmp_path, "one", "--lora", "a.safetensors:0.7")
    assert (one == drawn(program, tmp_path, "way", "--lora", "a.safetensors:0.7", *way)).all()
    both = drawn(program, tmp_path, "both", "--lora", "a.safetensors", "--lora", "b.safetensors")
    assert not (
        both == drawn(program, tmp_path, "other", "--lora", "a.safetensors", "--lora", "b.safetensors", *way)
    ).all()


def test_a_region_bounds_an_adapter(program, tmp_path, two):
    Image.new("L", (64, 64), 255).save(tmp_path / "all.png")
    half = Image.new("L", (64, 64), 0)
    half.paste(255, (0, 0, 32, 64))
    half.save(tmp_path / "half.png")
    everywhere = drawn(program, tmp_path, "a", "--lora", "a.safetensors")
    assert (everywhere == drawn(program, tmp_path, "b", "--lora", "a.safetensors", "--region", "a=all.png")).all()
    plain = drawn(program, tmp_path, "plain").astype(int)
    inside = drawn(program, tmp_path, "c", "--lora", "a.safetensors", "--region", "a=half.png:2")
    left, right = abs(inside[:, :24] - plain[:, :24]).mean(), abs(inside[:, 40:] - plain[:, 40:]).mean()
    assert left > 3 * right
    Image.new("L", (64, 48), 255).save(tmp_path / "odd.png")
    assert (
        "another shape" in program("sample", CAT, "--lora", "a.safetensors", "--region", "a=odd.png", status=3).stderr
    )
    assert (
        "black"
        in program("sample", CAT, "--lora", "a.safetensors", "--region", f"a={_black(tmp_path)}", status=3).stderr
    )


def _black(folder):
    Image.new("L", (64, 64), 0).save(folder / "black.png")
    return "black.png"


def test_a_picture_is_drawn_again_from_its_text(program, tmp_path, two):
    program(
        "sample",
        "a (red:1.2) cat",
        *QUICK,
        "--negative",
        "dog",
        "--seed",
        7,
        "-o",
        "one.png",
        "--lora",
        "a.safetensors:0.8",
        "--lora",
        "b.safetensors",
        "--schedule",
        "a=0@0,1@1",
        "--block-weights",
        "b=mid=0.5,up=0",
        "--clip-skip",
        2,
        "--guidance-schedule",
        "3@0,1@1",
        "--guidance-rescale",
        "0.5",
        "--dtype",
        "bfloat16",
        "--vae-tiling",
        "--size",
        32,
    )
    program("sample", "--from", "one.png", "-o", "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    program("sample", "--from", "one.png", "-o", "other.png", "--seed", 8)
    assert pngtext.read(tmp_path / "other.png")["seed"] == 8
    lora(tmp_path / "a.safetensors", 9)
    assert "run where it was drawn" in program("sample", "--from", "one.png", "-o", "three.png", status=3).stderr
    assert "sha256" in program("sample", "--from", "one.png", "-o", "three.png", status=3).stderr


def test_a_webuis_text_is_read(program, tmp_path):
    text = (
        "a (red:1.2) cat\nNegative prompt: dog\nSteps: 2, Sampler: Euler a, Schedule type: Automatic, CFG scale: 2.5, Seed: 7, "
        "Size: 64x32, Model hash: 0123456789, Clip skip: 2, Hires upscale: 2, Version: v1.10.1"
    )
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", text)
    Image.new("RGB", (64, 32)).save(tmp_path / "webui.png", pnginfo=info)
    done = program("sample", "--from", "webui.png", "-o", "again.png")
    assert "Hires upscale: 2" in done.stderr
    settings = pngtext.read(tmp_path / "again.png")
    expected = {
        "prompt": "a (red:1.2) cat",
        "negative": "dog",
        "steps": 2,
        "scheduler": "euler-a",
        "guidance": 2.5,
        "seed": 7,
    }
    assert expected.items() <= settings.items() and settings["size"] == [64, 32] and settings["clip_skip"] == 2
    # and what we write reads as we mean it
    with Image.open(tmp_path / "again.png") as image:
        back = pngtext.from_parameters(image.info["parameters"])
    assert expected.items() <= back.items() and back["size"] == [64, 32]


def test_image_to_image_and_inpainting_keep_what_they_must(program, tmp_path):
    base = drawn(program, tmp_path, "base")
    near = drawn(program, tmp_path, "near", "--image", "base.png", "--strength", "0.5", prompt="a dog")
    assert (base != near).any()
    half = Image.new("L", (64, 64), 0)
    half.paste(255, (0, 0, 32, 64))
    half.save(tmp_path / "mask.png")
    filled = drawn(program, tmp_path, "filled", "--image", "base.png", "--mask", "mask.png", prompt="a dog")
    assert (filled[:, 32:] == base[:, 32:]).all() and (filled[:, :32] != base[:, :32]).any()
    assert "give --image" in program("sample", "x", "--mask", "mask.png", status=2).stderr
    assert "nowhere.png" in program("sample", "x", "--image", "nowhere.png", status=3).stderr
    Image.new("L", (64, 32)).save(tmp_path / "odd.png")
    assert "another shape" in program("sample", "x", "--image", "base.png", "--mask", "odd.png", status=3).stderr


def test_an_inpainting_model_draws_with_and_without_a_mask(program, tmp_path):
    make(tmp_path / "model", inputs=9)
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "base.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "mask.png")
    program("sample", "x", "-m", "model", *QUICK, "-o", "plain.png")
    program("sample", "x", "-m", "model", *QUICK, "-o", "filled.png", "--image", "base.png", "--mask", "mask.png")
    assert (
        "--mask" in program("sample", "x", "-m", "model", *QUICK, "-o", "n.png", "--image", "base.png", status=2).stderr
    )


def test_a_single_file_draws_what_its_folder_draws(program, tmp_path):
    make(tmp_path / "model", layers=2, usual=True)
    single(tmp_path / "model", tmp_path / "model.safetensors", "sd1")
    size = ["--size", 64]
    program("sample", "a cat", "-m", "model", *QUICK, *size, "-o", "folder.png")
    program("sample", "a cat", "-m", "model.safetensors", "--tokenizer", "model", *QUICK, *size, "-o", "file.png")
    assert (pixels(tmp_path / "folder.png") == pixels(tmp_path / "file.png")).all()


def test_hires_tiling_and_steps(program, tmp_path):
    program("sample", CAT, *QUICK, "-o", "large.png", "--hires", "1.5", "--vae-tiling", "--save-steps")
    assert pixels(tmp_path / "large.png").shape == (96, 96, 3)
    assert (tmp_path / "large.steps.png").is_file()


def test_a_grid_is_its_pictures_under_labels(program, tmp_path, two):
    done = program(
        "sample",
        CAT,
        *QUICK,
        "--lora",
        "a.safetensors",
        "--grid",
        "x:lora.weight=0,1",
        "y:seed=1,2",
        "-o",
        "g",
        "--gif",
        "--webp",
    )
    assert done.stdout.split() == [*(f"g/0000{i}.png" for i in range(4)), "g/grid.png", "g/grid.gif", "g/grid.webp"]
    assert pngtext.read(tmp_path / "g/00001.png")["loras"][0]["weight"] == 1
    assert (pixels(tmp_path / "g/00002.png") == drawn(program, tmp_path, "plain", "--seed", 2)).all()
    sheet = pixels(tmp_path / "g/grid.png")
    cell = np.repeat(np.repeat(pixels(tmp_path / "g/00003.png"), 3, 0), 3, 1)
    assert (sheet[-6 - 192 : -6, -6 - 192 : -6] == cell).all()
    with Image.open(tmp_path / "g/grid.gif") as moving:
        assert moving.n_frames == 6  # four, and back
    program("sample", CAT, *QUICK, "--grid", "x:replace=cat,dog", "-o", "sheet.png")
    assert not (tmp_path / "00000.png").exists() and (tmp_path / "sheet.png").is_file()


def test_a_schedule_is_an_axis_and_the_denoising_a_film_that_names_the_weights(program, tmp_path, two):
    program("sample", CAT, *QUICK, "--lora", "a.safetensors", "--grid", "x:a.schedule=1@0,0@1|0*t", "-o", "g")
    assert (pixels(tmp_path / "g/00001.png") == drawn(program, tmp_path, "plain")).all()
    scheduled = ["--lora", "a.safetensors", "--schedule", "1@0,0@1"]
    assert (pixels(tmp_path / "g/00000.png") == drawn(program, tmp_path, "one", *scheduled)).all()
    done = program("sample", CAT, *QUICK, *scheduled, "--steps", 3, "--save-steps", "--gif", "-o", "film.png")
    assert done.stdout.split() == ["film.png", "film.steps.png", "film.steps.gif"]
    with Image.open(tmp_path / "film.steps.gif") as moving:
        assert moving.n_frames == 3
    composition = composing.read(["a.safetensors"], composing.MemberChanges(schedules=["1@0,0@1"]))
    assert [session._stage(composition, i, 3) for i in range(3)] == ["step 1, a 1", "step 2, a 0.5", "step 3, a 0"]


def test_lines_from_stdin_are_drawn_as_they_come(program, tmp_path, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(f"{CAT} --seed 3\nx --sede 1\n# no\n{CAT} --seed 4\n"))
    done = program("sample", "--prompts", "-", *QUICK, "-o", "out", status=2)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row.get("output") for row in rows] == ["out/00000.png", None, "out/00001.png"]
    assert "did you mean 'seed'" in rows[1]["error"] and rows[1]["line"] == 2 and rows[2]["seed"] == 4
    assert (pixels(tmp_path / "out/00000.png") == drawn(program, tmp_path, "one", "--seed", 3)).all()


def test_a_line_has_weights_and_schedules_of_its_own(program, tmp_path, two):
    (tmp_path / "p.txt").write_text(
        f"{CAT} --weight 0\n{CAT}\n" + f'{{"prompt": "{CAT}", "a.schedule": "0*t", "b.weight": 0.5}}\n'
    )
    loras = ["--lora", "a.safetensors:0.7", "--lora", "b.safetensors"]
    program("sample", "--prompts", "p.txt", *QUICK, *loras, "-o", "out")
    assert (pixels(tmp_path / "out/00000.png") == drawn(program, tmp_path, "plain")).all()
    assert (pixels(tmp_path / "out/00001.png") == drawn(program, tmp_path, "all", *loras)).all()
    assert (pixels(tmp_path / "out/00002.png") == drawn(program, tmp_path, "b", "--lora", "b.safetensors:0.5")).all()
    (tmp_path / "p.txt").write_text(f"{CAT} --c.weight 1\n")
    done = program("sample", "--prompts", "p.txt", *QUICK, *loras, "-o", "no", status=2)
    assert "no adapter 'c'" in done.stderr


def test_learned_tokens_come_with_the_adapter_and_clashes_are_refused(program, tmp_path):
    rows = {"text_encoder": torch.randn(2, 192, generator=torch.Generator().manual_seed(0)) * 0.3}
    lora(tmp_path / "t.safetensors", 1, tokens={"<fox>": rows})
    done = program("sample", "a <fox>", *QUICK, "-o", "a.png", "--lora", "t.safetensors", "--part-weights", "t=unet=0")
    assert "learned tokens: <fox>" in done.stderr
    none = drawn(program, tmp_path, "b", prompt="a <fox>")
    assert not (pixels(tmp_path / "a.png") == none).all()
    assert (drawn(program, tmp_path, "zero", "--lora", "t.safetensors:0", prompt="a <fox>") == none).all()
    lora(tmp_path / "u.safetensors", 2, tokens={"<fox>": {"text_encoder": rows["text_encoder"] + 1}})
    both = ["--lora", "t.safetensors", "--lora", "u.safetensors"]
    assert "both have a learned token <fox>" in program("sample", "a <fox>", *both, "-o", "c.png", status=3).stderr


def test_nan_latents_are_exit_8_with_step_and_number_format(program, tmp_path):
    lora(tmp_path / "huge.safetensors", 1, size=1e30)
    done = program("sample", CAT, *QUICK, "--lora", "huge.safetensors:1e8", "-o", "x.png", status=8)
    assert (
        "at step 1 of 2 (float32); does an adapter have huge weights?" in done.stderr
        and not (tmp_path / "x.png").exists()
    )


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (["--lora", "a.safetensors", "--schedule", "a=1@0.5,0@0.2"], 2, "out of order"),
        (["--lora", "a.safetensors", "--schedule", "c=1@0"], 2, "no adapter 'c'"),
        (["--lora", "a.safetensors", "--block-weights", "a=dwon=1"], 2, "did you mean 'down'"),
        (["--grid", "x:stpes=1,2"], 2, "did you mean 'steps'"),
        (["--grid", "x:lora.weight=1,2"], 2, "give one with --lora"),
        (["--grid", "x:steps=1,b"], 2, "x:steps=b"),
        (["--gif"], 2, "give one of them"),
        (["--schedule", "0@0"], 2, "there is none"),
        (["--composite"], 2, "there is none"),
        (["--guidance-schedule", "1@2"], 2, "from 0 to 1"),
        (["--from", "a.safetensors"], 2, "one of the three"),
        (["--switch", "every:0", "--lora", "a.safetensors"], 2, "every is 0"),
        (["--lora", "a.safetensors", "--switch", "often"], 2, "every:N"),
        (["--clip-skip", "9"], 2, "clip skip"),
        (["another"], 2, "one PROMPT"),
    ],
)
def test_what_is_asked_wrongly_is_one_sentence(program, tmp_path, two, options, status, says):
    done = program("sample", CAT, *QUICK, *options, status=status)
    assert says in done.stderr and done.stdout == ""
    assert not (tmp_path / "samples" / "00000.png").exists()


def test_a_spacing_is_drawn_with_told_and_drawn_again(program, tmp_path):
    quick = [*QUICK, "--steps", 3]  # in two all of them are the ends of the noise
    program("sample", CAT, *quick, "--spacing", "karras", "-o", "karras.png")
    with Image.open(tmp_path / "karras.png") as image:
        assert "Sampler: Euler, Schedule type: Karras, CFG scale" in image.info["parameters"]
    assert pngtext.read(tmp_path / "karras.png")["spacing"] == "karras"
    program("sample", "--from", "karras.png", "-o", "again.png")
    assert (tmp_path / "karras.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    program(
        "sample", "--from", "karras.png", "-o", "other.png", "--scheduler", "ddim"
    )  # the spacing goes with its scheduler
    assert "spacing" not in pngtext.read(tmp_path / "other.png")
    plain = drawn(program, tmp_path, "plain", "--steps", 3)
    assert (plain != pixels(tmp_path / "karras.png")).any() and "spacing" not in pngtext.read(tmp_path / "plain.png")
    (tmp_path / "lines.txt").write_text(
        f"{CAT} --spacing karras\n" + json.dumps({"prompt": CAT, "spacing": "trailing"})
    )
    program("sample", "--prompts", "lines.txt", *quick, "-o", "lines")
    assert (pixels(tmp_path / "lines/00000.png") == pixels(tmp_path / "karras.png")).all()
    assert pngtext.read(tmp_path / "lines/00001.png")["spacing"] == "trailing"
    program("sample", CAT, *QUICK, "-o", "grid.png", "--grid", "x:spacing=leading,karras")
    (tmp_path / "lorakit.toml").write_text('[sample]\nspacing = "karras"\n')
    assert (drawn(program, tmp_path, "config", "--steps", 3) == pixels(tmp_path / "karras.png")).all()


def test_a_picture_of_before_is_drawn_again_as_it_was(program, tmp_path):
    """Its text says no spacing: the model's own was not asked then."""
    make(tmp_path / "model")  # says leading
    (tmp_path / "lorakit.toml").write_text("[sample]\nsteps = 3\nguidance = 2.0\n")
    program("sample", "x", "-m", "model", "--spacing", "linspace", "-o", "was.png")
    settings = {key: value for key, value in pngtext.read(tmp_path / "was.png").items() if key != "spacing"}
    (tmp_path / "old.png").write_bytes(pngtext.encode(pixels(tmp_path / "was.png").astype(np.uint8), settings))
    program("sample", "--from", "old.png", "-m", "model", "-o", "again.png")
    assert (tmp_path / "old.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    program("sample", "x", "-m", "model", "-o", "now.png")
    assert pngtext.read(tmp_path / "now.png")["spacing"] == "leading"
    assert (pixels(tmp_path / "now.png") != pixels(tmp_path / "was.png")).any()


@pytest.mark.parametrize("command", [["sample", "x"], ["prior-gen", "x", "out"]])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--spacing", "karas"], "did you mean 'karras'"),
        (["--spacing", "karras", "--scheduler", "ddim"], "it has leading, trailing, linspace, sgm-uniform"),
        (["--spacing", "trailing", "--scheduler", "lcm"], "it has none, over a rectified flow linspace"),
        (["--spacing", "karras", "--scheduler", "lcm"], "it visits the timesteps that it was made for"),
        (["--vae", "sdlx"], "--vae no model 'sdlx'; did you mean 'sdxl'"),
    ],
)
def test_spacings_and_autoencoders_that_there_are_not_are_refused(program, command, options, says):
    assert says in program(*command, "--dry-run", *options, status=2).stderr


def test_another_autoencoder_is_told_and_not_taken_from_a_picture(program, tmp_path):
    make(tmp_path / "one")
    make(tmp_path / "two", seed=5)
    done = program("sample", "x", "-m", "one", "--vae", "two", *QUICK, "-o", "a.png")
    assert "the autoencoder is that of two/vae" in done.stderr and pngtext.read(tmp_path / "a.png")["vae"] == "two"
    program("sample", "x", "-m", "one", *QUICK, "-o", "b.png")
    assert (pixels(tmp_path / "a.png") != pixels(tmp_path / "b.png")).any()
    assert "say --vae two" in program("sample", "--from", "a.png", "-m", "one", "-o", "c.png", status=2).stderr
    program("sample", "--from", "a.png", "-m", "one", "--vae", "two", "-o", "c.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "c.png").read_bytes()
    (tmp_path / "d.safetensors").write_bytes(b"")
    assert "--learn" in program("compose", "d.safetensors", "--vae", "two", "-o", "r.toml", status=2).stderr


def test_a_strength_below_one_step_says_how_many_are_run(program, tmp_path):
    base = drawn(program, tmp_path, "base")
    for strength, says, size in ((0, "none is run", 12), (0.2, "one is run", 255)):
        done = program(
            "sample", "a dog", *QUICK, "--image", "base.png", "--strength", strength, "-o", f"{strength}.png"
        )
        assert f"--strength {strength:g} of 2 steps is less than one step: {says}" in done.stderr
        assert np.abs(pixels(tmp_path / f"{strength}.png").astype(int) - base).mean() < size


def test_a_mask_that_no_latent_sees_is_told(program, tmp_path):
    drawn(program, tmp_path, "base")
    line = Image.new("L", (64, 64), 0)
    line.paste(255, (1, 0, 2, 64))
    line.save(tmp_path / "line.png")
    done = program("sample", CAT, *QUICK, "--image", "base.png", "--mask", "line.png", "-o", "a.png")
    assert "nothing is drawn anew" in done.stderr
