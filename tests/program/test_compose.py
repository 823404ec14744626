"""Recipes: written, read back, refused, baked, plotted, learnt."""

import re
import tomllib

import pytest
import torch
from PIL import Image

from lorakit.adapter import Adapter
from lorakit.deltas.low_rank import LowRank
from lorakit.formats import writing
from lorakit.talk import SILENT
from tests.support import plain
from tests.support.adapters_of_tiny import lora, pixels

QUICK = ["--steps", 2, "--guidance", 2, "--scheduler", "euler", "-o"]


@pytest.fixture
def two(tmp_path):
    return lora(tmp_path / "a.safetensors", 1), lora(tmp_path / "b.safetensors", 2, text=True)


def test_a_recipe_says_all_of_it_and_draws_what_the_options_draw(program, tmp_path, two):
    Image.new("L", (64, 64), 255).save(tmp_path / "m.png")
    options = [
        "--schedule",
        "a=0@0,1@0.4,0.2@1:cosine",
        "--block-weights",
        "b=down=0,mid=0.5,up.1=1",
        "--part-weights",
        "b=text_encoder=0.5",
        "--switch",
        "every:2",
        "--region",
        "a=m.png:3",
    ]
    program(
        "compose",
        "a.safetensors:0.8",
        "b.safetensors:0.5",
        *options,
        "--layer-weights",
        r"a=attn2\.to_v$=0.25",
        "--words",
        "b=in the snow",
        "-o",
        "sub/r.toml",
        "--plot",
        "r.png",
    )
    recipe = tomllib.loads((tmp_path / "sub/r.toml").read_text())
    assert recipe["lorakit"] == 2 and recipe["way"] == "switch" and recipe["every"] == 2
    a, b = recipe["adapter"]
    assert a["path"] == "../a.safetensors" and a["schedule"] == "0@0,1@0.4,0.2@1:cosine" and a["region"] == "../m.png"
    assert a["layers"] == {r"attn2\.to_v$": 0.25} and a["feather"] == 3 and b["prompt"] == "in the snow"
    assert b["blocks"] == {"unet.down_blocks": 0, "unet.mid_block": 0.5, "unet.up_blocks.1": 1}
    assert pixels(tmp_path / "r.png").shape == (420, 900, 3)
    program("compose", "sub/r.toml", "-o", "again.toml")
    assert tomllib.loads((tmp_path / "again.toml").read_text())["adapter"][0]["layers"] == a["layers"]
    program("compose", "a.safetensors:0.8", "b.safetensors:0.5", *options, "-o", "options.toml")
    program("sample", "a cat", "--lora", "a.safetensors:0.8", "--lora", "b.safetensors:0.5", *options, *QUICK, "x.png")
    program("sample", "a cat", "--recipe", "options.toml", *QUICK, "y.png")
    assert (pixels(tmp_path / "x.png") == pixels(tmp_path / "y.png")).all()


def test_a_recipe_beside_an_adapter_and_scaled(program, tmp_path, two):
    program("compose", "a.safetensors:0.5", "-o", "r.toml")
    program("sample", "a cat", "--lora", "r.toml:2", "--lora", "b.safetensors", *QUICK, "x.png")
    program("sample", "a cat", "--lora", "a.safetensors", "--lora", "b.safetensors", *QUICK, "y.png")
    assert (pixels(tmp_path / "x.png") == pixels(tmp_path / "y.png")).all()


def test_version_one_is_read_and_strict(program, tmp_path, two):
    (tmp_path / "r.toml").write_text('lorakit = 1\n[[adapter]]\npath = "a.safetensors"\nweight = 0.5\n')
    program("sample", "a cat", "--recipe", "r.toml", *QUICK, "x.png")
    (tmp_path / "r.toml").write_text('lorakit = 1\n[[adapter]]\npath = "a.safetensors"\nschedule = "1@0"\n')
    assert "unknown: schedule" in program("compose", "r.toml", "-o", "x.toml", status=3).stderr


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("", "\\[\\[adapter\\]\\]"),
        ('wya = "sum"\n[[adapter]]\npath = "a.safetensors"', "did you mean 'way'"),
        ('way = "swich"\n[[adapter]]\npath = "a.safetensors"', "did you mean 'switch'"),
        ('way = "switch"\nevery = 0\n[[adapter]]\npath = "a.safetensors"', "every is 0"),
        ('[[adapter]]\npath = "c.safetensors"', "no such adapter"),
        ('[[adapter]]\npath = "a.safetensors"\nwieght = 1', "did you mean 'weight'"),
        ('[[adapter]]\npath = "a.safetensors"\nweight = "1"', "expected a number"),
        ('[[adapter]]\npath = "a.safetensors"\nweight = nan', "expected a number"),
        ('[[adapter]]\npath = "a.safetensors"\nschedule = "1@0.5,0@0.2"', "out of order"),
        ('[[adapter]]\npath = "a.safetensors"\nblocks = { dwon = 1 }', "did you mean 'down'"),
        ('[[adapter]]\npath = "a.safetensors"\nblocks = { "down.7" = 1 }', "no module for .* block unet.down_blocks.7"),
        ('[[adapter]]\npath = "a.safetensors"\nblocks = "MID"', "did you mean 'MIDD'"),
        ('[[adapter]]\npath = "a.safetensors"\nblocks = [1, 2]', "2 block weights"),
        ('[[adapter]]\npath = "a.safetensors"\nlayers = { "(" = 1 }', "regular expression"),
        ('[[adapter]]\npath = "a.safetensors"\nparts = { vae = 1 }', "no part 'vae'"),
        ('[[adapter]]\npath = "a.safetensors"\nregion = "c.png"', "c.png"),
        ('[[adapter]]\npath = "a.safetensors"\n[[adapter]]\npath = "a.safetensors"', "two adapters are called a"),
        ('[[adapter]]\npath = "a.safetensors"\nlayers = { "nowhere" = 1 }', "no module"),
    ],
)
def test_a_wrong_recipe_is_named(program, tmp_path, two, body, says):
    (tmp_path / "r.toml").write_text(f"lorakit = 2\n{body}\n")
    done = program("compose", "r.toml", "-o", "x.toml", status=3)
    assert re.search(says, done.stderr) and "r" in done.stderr and not (tmp_path / "x.toml").exists()


def test_baking_is_exact_with_blocks_and_refused_where_time_or_place_matter(program, tmp_path, two):
    program(
        "compose",
        "a.safetensors:0.8",
        "b.safetensors:0.5",
        "--block-weights",
        "b=down=0,up=2",
        "--bake",
        "-o",
        "m.safetensors",
    )
    baked = plain.load(tmp_path / "m.safetensors").modules
    a, b = (plain.load(file).modules for file in two)
    for name, delta in baked.items():
        factor = 2 if "up_blocks" in name else 0 if "down_blocks" in name else 1
        wanted = 0.8 * a[name].delta() if name in a else torch.zeros(())
        wanted = wanted + 0.5 * factor * b[name].delta()
        torch.testing.assert_close(delta.delta(), wanted, rtol=1e-4, atol=1e-5)
    program("compose", "a.safetensors", "b.safetensors", "--block-weights", "b=down=0", "-o", "r.toml")
    program("merge", "r.toml", "a.safetensors:0", "-o", "merged.safetensors")
    assert (
        "bake"
        in program("compose", "a.safetensors", "--schedule", "a=t", "--bake", "-o", "x.safetensors", status=2).stderr
    )
    program("compose", "a.safetensors", "--schedule", "a=t", "-o", "t.toml")
    done = program("merge", "t.toml", "b.safetensors", "-o", "x.safetensors", status=3)
    assert "changes over the denoising" in done.stderr


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    """Three pictures; two adapters that point where their losses fall, from one gradient each; and one of noise."""
    from lorakit.drawing import composing, learn
    from lorakit.drawing.ensemble import Ensemble
    from lorakit.drawing.session import load_model

    folder = tmp_path_factory.mktemp("lesson")
    (folder / "data").mkdir()
    threads = torch.get_num_threads()
    components = load_model("tiny", "cpu", "float32", note=lambda text: None)
    for i, file in enumerate(sorted((components.folder / "subjects").glob("*.png"))[:3]):
        picture = Image.open(file).convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        paper.alpha_composite(picture)
        paper.convert("RGB").resize((64, 64)).save(folder / f"data/{i}.png")
        (folder / f"data/{i}.txt").write_text(f"a 3d emoji of a {file.stem.split('-')[0]}")
    how = learn.Learning(draws=3, seed=1)
    lora(folder / "noise.safetensors", 5, size=2.0)
    ensemble = Ensemble(components, [composing.read([str(folder / "noise.safetensors")])], lambda text: None)
    names = list(ensemble.stack.modules)
    ensemble.remove()
    train, _ = learn._sets(components, folder / "data", how, lambda text: None)
    components.unet.requires_grad_(True)
    nothing = Ensemble(components, [], lambda text: None)
    gates = type("Gates", (), {"at": lambda self, band: None})()
    errors = learn._Errors(components, nothing, gates, train)
    errors.sum(0, torch.arange(len(train.times))).backward()
    for number, part in enumerate(("down_blocks", "up_blocks")):
        modules = {}
        for name in names:
            if part in name:
                weight = components.unet.get_submodule(name.removeprefix("unet.")).weight
                u, s, v = torch.linalg.svd(-weight.grad)
                modules[name] = LowRank((s[:4, None] * v[:4]).contiguous(), u[:, :4].contiguous(), 4.0)
        size = sum(float(low.delta().square().sum()) for low in modules.values()) ** 0.5
        modules = {name: LowRank(low.down * 0.5 / size, low.up, 4.0) for name, low in modules.items()}
        writing.save(folder / f"good{number}.safetensors", Adapter(modules=modules), "kohya")
    torch.set_num_threads(threads)
    return folder


def test_learning_turns_noise_off_and_says_what_it_gained(program, tmp_path, lesson):
    done = program(
        "compose",
        lesson / "good0.safetensors",
        lesson / "noise.safetensors",
        "--learn",
        lesson / "data",
        "--learn-draws",
        2,
        "--learn-steps",
        14,
        "--learn-rate",
        "0.2",
        "-o",
        "r.toml",
        "--json",
    )
    good, noise = (one["weight"] for one in done.json["adapters"])
    assert abs(noise) < 0.1 and good > 0.5
    assert done.json["held_out_after"] < done.json["held_out_before"] and done.json["numbers"] == 2
    assert f"{done.json['held_out_after']:.6f} after" in (tmp_path / "r.toml").read_text()
    assert pixels(tmp_path / "r.learn.png").shape == (420, 900, 3)


def test_learnt_weights_beat_every_uniform_one(program, tmp_path, lesson):
    from lorakit.drawing import composing, learn
    from lorakit.drawing.ensemble import Ensemble
    from lorakit.drawing.session import load_model

    files = [str(lesson / f"good{i}.safetensors") for i in (0, 1)]
    components = load_model("tiny", "cpu", "float32", note=lambda text: None)
    how = learn.Learning(per="adapter", steps=10, rate=0.3, draws=2)
    done = learn.learn(components, composing.read(files), lesson / "data", how, SILENT)
    composition = composing.read(files)
    ensemble = Ensemble(components, [composition], lambda text: None)
    gates = learn._WeightFactors(ensemble, composition, "adapter")
    _, held = learn._sets(components, lesson / "data", how, lambda text: None)
    for uniform in (0.0, 0.5, 1.0, 2.0):
        gates.values.data.fill_(uniform)
        assert done.after < float(learn._loss(components, ensemble, gates, held))
    ensemble.remove()


@pytest.mark.parametrize(("per", "key"), [("block", "blocks"), ("layer", "layers"), ("band", "schedule")])
def test_weights_are_learnt_by_block_layer_and_band(program, tmp_path, lesson, per, key):
    program(
        "compose",
        lesson / "good0.safetensors",
        "--learn",
        lesson / "data",
        "--learn-draws",
        1,
        "--learn-steps",
        1,
        "--learn-per",
        per,
        "-o",
        "r.toml",
    )
    entry = tomllib.loads((tmp_path / "r.toml").read_text())["adapter"][0]
    assert key in entry
    program("compose", "r.toml", "-o", "again.toml")
