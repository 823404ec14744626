"""Whatever a file holds, each command ends soon, in little memory, with one clear sentence."""

import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lorakit.io import safetensors
from tests.conftest import captioned
from tests.hostile import MODULE, NEVER, png, zeros
from tests.support import confined

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and limits a process's memory")

DEEP = 60_000
Make = Callable[[Path], list[str]]
CASES: dict[str, tuple[Make, tuple[int, ...], str]] = {}


def case(says: str, status: int = 3) -> Callable[[Make], Make]:
    """Note a function that writes a hostile file and gives the command line; the error must name `says`."""

    def add(make: Make) -> Make:
        CASES[make.__name__] = (make, (status,), says)
        return make

    return add


def adapter(file: Path) -> Path:
    tensors = {f"{MODULE}.lora_down.weight": np.ones((2, 64), "f4"), f"{MODULE}.lora_up.weight": np.ones((64, 2), "f4")}
    safetensors.write(file, tensors, {"lorakit.format": "1"})
    return file


def recipe(folder: Path, text: str) -> list[str]:
    adapter(folder / "a.safetensors")
    (folder / "r.toml").write_text(text)
    return ["merge", "r.toml", "-o", "m.safetensors"]


def entry(path: str, more: str = "") -> str:
    return f'lorakit = 2\n[[adapter]]\npath = "{path}"\n{more}\n'


# Recipes


@case("/dev/zero")
def a_recipe_of_a_device(folder):
    return recipe(folder, entry("/dev/zero", 'sha256 = "00"'))


@case("pipe")
def a_recipe_of_a_pipe(folder):
    os.mkfifo(folder / "pipe")
    return recipe(folder, entry("pipe", 'sha256 = "00"'))


@case("no adapter in it")
def a_recipe_of_the_root_folder(folder):
    return recipe(folder, entry("/", 'sha256 = "00"'))


@case("huge")
def a_recipe_of_a_file_without_end(folder):
    with (folder / "huge").open("wb") as file:
        file.truncate(1 << 42)
    return recipe(folder, entry("huge", 'sha256 = "00"'))


@case("another machine")
def a_recipe_of_another_machine(folder):
    return recipe(folder, entry("\\\\\\\\there\\\\share\\\\a.safetensors"))


@case("is a recipe")
def a_recipe_of_itself(folder):
    return recipe(folder, entry("r.toml"))


@case("pipe")
def a_region_that_is_a_pipe(folder):
    os.mkfifo(folder / "mask.png")
    return recipe(folder, entry("a.safetensors", 'region = "mask.png"'))


@case("feather")
def a_region_that_is_blurred_without_end(folder):
    Image.new("L", (64, 64), 255).save(folder / "mask.png")
    return recipe(folder, entry("a.safetensors", 'region = "mask.png"\nfeather = 1e300'))


@case("r.toml")
def a_recipe_that_is_a_pipe(folder):
    os.mkfifo(folder / "r.toml")
    return ["merge", "r.toml", "-o", "m.safetensors"]


@case("r.toml")
def a_recipe_that_is_a_device(folder):
    (folder / "r.toml").symlink_to("/dev/zero")
    return ["merge", "r.toml", "-o", "m.safetensors"]


@case("bytes")
def a_recipe_of_hundreds_of_megabytes(folder):
    command = recipe(folder, "")
    with (folder / "r.toml").open("wb") as file:
        file.truncate(300_000_000)
    return command


@case("adapters")
def a_recipe_of_very_many_adapters(folder):
    return recipe(folder, "lorakit = 2\n" + "[[adapter]]\n" * 80_000)


@case("nested")
def a_recipe_nested_deep(folder):
    return recipe(folder, "lorakit = 2\na = " + "[" * DEEP)


@case("parts")
def a_recipe_with_a_key_of_very_many_parts(folder):
    return recipe(folder, "a." * 400_000 + "a = 1")


@case("digits")
def a_recipe_with_a_number_without_end(folder):
    return recipe(folder, entry("a.safetensors", "weight = 0x1" + "0" * 800_000))


@case("too long to match")
def a_recipes_layers_that_are_matched_for_ever(folder):
    return recipe(folder, entry("a.safetensors", f"layers = {{ '{NEVER}' = 0.5 }}"))


@case("regular expression")
def a_recipes_layers_of_a_pattern_that_is_nested_deep(folder):
    return recipe(folder, entry("a.safetensors", f"layers = {{ '{'(' * 1900}{')' * 1900}' = 0.5 }}"))


@case("regular expression")
def a_recipes_layers_of_a_pattern_that_unfolds(folder):
    return recipe(folder, entry("a.safetensors", "layers = { '(?:(?:(?:a{1000}){1000}){1000}){1000}' = 0.5 }"))


# Adapters


def peft(folder: Path, config: str) -> list[str]:
    place = folder / "peft"
    place.mkdir()
    name = f"base_model.model.{MODULE.removeprefix('unet.')}"
    tensors = {f"{name}.lora_A.weight": np.ones((2, 64), "f4"), f"{name}.lora_B.weight": np.ones((64, 2), "f4")}
    safetensors.write(place / "adapter_model.safetensors", tensors, {})
    (place / "adapter_config.json").write_text(config)
    adapter(folder / "a.safetensors")
    return ["merge", "peft", "a.safetensors", "-o", "m.safetensors"]


@case("too long to match")
def pefts_pattern_that_is_matched_for_ever(folder):
    return peft(folder, json.dumps({"r": 2, "lora_alpha": 2, "rank_pattern": {NEVER: 4}}))


@case("nested")
def pefts_settings_nested_deep(folder):
    return peft(folder, '{"r":' * DEEP)


@case("bytes")
def pefts_settings_of_hundreds_of_megabytes(folder):
    command = peft(folder, "")
    with (folder / "peft/adapter_config.json").open("wb") as file:
        file.truncate(300_000_000)
    return command


@case("nested more than 64 deep", 2)
def a_recorded_config_nested_deep(folder):
    safetensors.write(folder / "a.safetensors", {"x": np.ones(1, "f4")}, {"lorakit.config": "[" * DEEP})
    return ["train", "--config", "a.safetensors"]


@case("a.toml", 2)
def a_configuration_nested_deep(folder):
    (folder / "a.toml").write_text("[train]\nrank = " + "{a=" * DEEP)
    return ["train", "--config", "a.toml"]


@case("a.toml", 2)
def a_configuration_that_is_a_device(folder):
    (folder / "a.toml").symlink_to("/dev/zero")
    return ["train", "--config", "a.toml"]


# Texts in pictures


BASE = {
    "prompt": "a cat",
    "negative": "",
    "seed": 0,
    "steps": 1,
    "guidance": 7.5,
    "scheduler": "ddim",
    "size": [64, 64],
    "model": "tiny",
    "loras": [],
    "version": "0.1.0",
}


def told(folder: Path, **texts: str) -> list[str]:
    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, text)
    Image.new("RGB", (64, 64)).save(folder / "p.png", pnginfo=info)
    return ["sample", "--from", "p.png", "-o", "o.png"]


ODD = {
    "steps": "many",
    "size": "x",
    "scheduler": "nope",
    "negative": 5,
    "prompt": 5,
    "model": 5,
    "recipe": 5,
    "acting": "xx",
    "guidance_schedule": 5,
    "seed": -1,
    "guidance": float("nan"),
    "strength": float("inf"),
    "hires": 1e9,
    "clip_skip": 10**9,
    "plain": "yes",
    "image": 5,
    "mask": "//there/share/m.png",
    "dtype": "int8",
    "count": 2_000_000_000,
    "rescale": True,
}
for _key, _value in ODD.items():

    def _odd(folder: Path, key: str = _key, value: object = _value) -> list[str]:
        return told(folder, lorakit=json.dumps({**BASE, key: value}))

    _odd.__name__ = f"a_picture_whose_{_key}_is_{_value!r}"
    case(_key)(_odd)


@case("steps")
def a_picture_of_steps_without_end(folder):
    return told(folder, lorakit=json.dumps({**BASE, "steps": 10**9}))


@case("size")
def a_picture_of_a_size_without_end(folder):
    return told(folder, lorakit=json.dumps({**BASE, "size": [10**9, 64]}))


@case("no prompt")
def a_picture_without_a_prompt(folder):
    return told(folder, lorakit=json.dumps({key: value for key, value in BASE.items() if key != "prompt"}))


@case("prompt")
def a_picture_with_a_prompt_of_a_million_letters(folder):
    return told(folder, parameters="A" * 900_000 + "\nSteps: 1")


@case("characters")
def a_picture_with_a_text_of_megabytes(folder):
    return told(folder, parameters=" " * 3_000_000 + "x\nSteps: 1")


@case("nested")
def a_picture_whose_settings_are_nested_deep(folder):
    return told(folder, lorakit="[" * DEEP)


@case("--model", 2)
def a_picture_of_another_model(folder):
    return told(folder, lorakit=json.dumps({**BASE, "model": "somebody/evil"}))


@case("/dev/zero")
def a_picture_with_a_recipe_of_a_device(folder):
    return told(folder, lorakit=json.dumps({**BASE, "recipe": entry("/dev/zero", 'sha256 = "00"')}))


@case("pixels")
def a_picture_of_very_many_pixels(folder):
    (folder / "p.png").write_bytes(png(60000, 60000, zeros(1 << 22)))
    return ["sample", "--from", "p.png", "-o", "o.png"]


@case("pixels")
def a_picture_to_start_from_of_very_many_pixels(folder):
    (folder / "p.png").write_bytes(png(60000, 60000, zeros(1 << 22)))
    return ["sample", "a cat", "--image", "p.png", "-o", "o.png"]


@case("pixels")
def a_mask_of_very_many_pixels(folder):
    Image.new("RGB", (64, 64)).save(folder / "i.png")
    (folder / "p.png").write_bytes(png(60000, 60000, zeros(1 << 22)))
    return ["sample", "a cat", "--image", "i.png", "--mask", "p.png", "-o", "o.png"]


# Lines of prompts


def lines(folder: Path, text: str) -> list[str]:
    (folder / "prompts.txt").write_text(text)
    return ["sample", "--prompts", "prompts.txt", "-o", "out"]


@case("count", 2)
def a_line_of_two_billion_pictures(folder):
    return lines(folder, "a cat --count 2000000000\n")


@case("pictures", 2)
def lines_of_very_many_pictures_together(folder):
    return lines(folder, "a cat --count 60000\n" * 2)


@case("steps", 2)
def a_line_of_a_billion_steps(folder):
    return lines(folder, "a cat --steps 1000000000\n")


@case("size", 2)
def a_line_of_a_size_without_end(folder):
    return lines(folder, "a cat --size 1000000000x64\n")


@case("prompt", 2)
def a_line_of_a_million_letters(folder):
    return lines(folder, "a" * 1_000_000)


@case("nested", 2)
def a_line_nested_deep(folder):
    return lines(folder, '{"a":' * DEEP)


@case("prompts.txt")
def prompts_that_are_a_device(folder):
    (folder / "prompts.txt").symlink_to("/dev/zero")
    return ["sample", "--prompts", "prompts.txt", "-o", "out"]


@case("values", 2)
def an_axis_of_a_billion_values(folder):
    return ["sample", "a cat", "--grid", "x:seed=1:2:1000000000"]


@case("--guidance", 2)
def an_option_that_is_no_number(folder):
    return ["sample", "a cat", "--guidance", "nan"]


@case("--count", 2)
def very_many_class_pictures(folder):
    return ["prior-gen", "a cat", "out", "--count", "2000000000"]


# Training sets


def table(folder: Path, text: str) -> list[str]:
    data = captioned(folder / "data", "a cat", ((64, 64),))
    (data / "metadata.jsonl").write_text(text)
    return ["train", "data", "--steps", "1", "-o", "a.safetensors"]


@case("metadata.jsonl:1")
def a_row_that_is_repeated_without_end(folder):
    return table(folder, json.dumps({"file_name": "0.png", "text": "x", "repeats": 10**15}))


@case("metadata.jsonl:1")
def a_row_nested_deep(folder):
    return table(folder, "[" * DEEP)


@case("line 1")
def a_row_of_megabytes(folder):
    return table(folder, "x" * 3_000_000)


@case("20240315_holiday")
def a_folder_named_by_its_date(folder):
    captioned(folder / "data" / "20240315_holiday", "a cat", ((64, 64),))
    return ["train", "data", "--repeats", "kohya", "--steps", "1", "-o", "a.safetensors"]


@case("150_holiday")
def a_folder_that_drowns_the_others(folder):
    captioned(folder / "data" / "150_holiday", "a cat", ((64, 64),))
    captioned(folder / "data" / "others", "a dog", ((64, 64),))
    return ["train", "data", "--steps", "1", "-o", "a.safetensors"]


@case("64 KB")
def a_caption_of_a_gigabyte(folder):
    data = captioned(folder / "data", "a cat", ((64, 64),))
    with (data / "0.txt").open("wb") as file:
        file.truncate(1 << 30)
    return ["train", "data", "--steps", "1", "-o", "a.safetensors"]


@case("caption file is")
def a_caption_that_is_a_pipe(folder):
    data = captioned(folder / "data", "a cat", ((64, 64),))
    (data / "0.txt").unlink()
    os.mkfifo(data / "0.txt")
    return ["train", "data", "--steps", "1", "-o", "a.safetensors"]


@case("0.mask.png")
def a_mask_beside_a_picture_of_very_many_pixels(folder):
    data = captioned(folder / "data", "a cat", ((64, 64),))
    (data / "0.mask.png").write_bytes(png(60000, 60000, zeros(1 << 22)))
    return ["train", "data", "--steps", "1", "-o", "a.safetensors", "--mask-weight", "0"]


# Models


def model(folder: Path, part: str, **changes: object) -> list[str]:
    """The built-in model with another config of a part."""
    import shutil

    from lorakit.models.places import folder_of

    shutil.copytree(folder_of("tiny"), folder / "model", ignore=shutil.ignore_patterns("build", "*.py", "subjects"))
    file = folder / "model" / part
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return ["sample", "a cat", "-m", "model", "--steps", "1", "-o", "o.png"]


CLAIMS = [
    ("text_encoder/config.json", "num_hidden_layers", 10**7),
    ("text_encoder/config.json", "vocab_size", 10**12),
    ("text_encoder/config.json", "max_position_embeddings", 10**9),
    ("text_encoder/config.json", "hidden_size", 10**9),
    ("text_encoder/config.json", "intermediate_size", "many"),
    ("unet/config.json", "block_out_channels", [10**9]),
    ("unet/config.json", "block_out_channels", [64] * 10**5),
    ("unet/config.json", "layers_per_block", 10**7),
    ("unet/config.json", "layers_per_block", 200),
    ("unet/config.json", "sample_size", 10**9),
    ("unet/config.json", "sample_size", "x"),
    ("unet/config.json", "transformer_layers_per_block", 10**6),
    ("unet/config.json", "cross_attention_dim", 10**12),
    ("vae/config.json", "layers_per_block", 10**7),
    ("vae/config.json", "latent_channels", 10**9),
    ("vae/config.json", "block_out_channels", 5),
    ("scheduler/scheduler_config.json", "num_train_timesteps", 10**9),
    ("scheduler/scheduler_config.json", "beta_start", "x"),
    ("scheduler/scheduler_config.json", "beta_schedule", ["x"]),
    ("scheduler/scheduler_config.json", "steps_offset", 10**9),
]
for _i, (_part, _key, _value) in enumerate(CLAIMS):

    def _claim(folder: Path, part: str = _part, key: str = _key, value: object = _value) -> list[str]:
        return model(folder, part, **{key: value})

    _claim.__name__ = f"a_model_whose_{_key}_is_{str(_value)[:20]}_{_i}"
    case("model")(_claim)


@case("nested")
def a_model_whose_config_is_nested_deep(folder):
    command = model(folder, "unet/config.json")
    (folder / "model/unet/config.json").write_text('{"a":' * DEEP)
    return command


@case("tokenizer")
def a_model_whose_tokenizer_is_nested_deep(folder):
    command = model(folder, "unet/config.json")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json"):
        (folder / "model/tokenizer" / name).write_text('{"a":' * DEEP)
    return command


def _header(file: Path, names: list[str]) -> None:
    head = {name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i, name in enumerate(names)}
    text = json.dumps(head).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4 * len(names)))


@case("m.safetensors")
def a_checkpoint_that_counts_to_a_billion(folder):
    names = [
        "model.diffusion_model.input_blocks.0.0.weight",
        "cond_stage_model.model.transformer.resblocks.999999999.ln_1.weight",
        "first_stage_model.decoder.up.999999999.block.0.conv1.weight",
        "model.diffusion_model.input_blocks.999999999.0.weight",
    ]
    _header(folder / "m.safetensors", names)
    return ["sample", "a cat", "-m", "m.safetensors", "-o", "o.png"]


@case("no adapter format")
def names_of_very_many_parts(folder):
    _header(folder / "a.safetensors", [f"{i}{'.a' * 1900}" for i in range(2000)])
    return ["merge", "a.safetensors", "a.safetensors", "-o", "m.safetensors"]


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_ends_in_one_sentence_soon_and_in_little_memory(tmp_path, name):
    make, statuses, says = CASES[name]
    done = confined.run(tmp_path, make(tmp_path))
    told = [line for line in done.stderr.splitlines() if not line.startswith("using the built-in model")]
    assert done.status in statuses, done.stderr[-2000:]
    errors = "\n".join(told[next(i for i, line in enumerate(told) if line.startswith("lorakit: ")) :])
    assert says in errors and len(errors.splitlines()) <= 4 and "a bug" not in errors
