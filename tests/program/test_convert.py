"""convert through the program: what goes in comes out, or is named."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lorakit.delta import relative_error
from lorakit.formats import files
from lorakit.formats.codec import Context
from lorakit.io import safetensors
from lorakit.registry import ADAPTER_FORMATS
from tests.support.adapter_files import attention, random_adapter, small
from tests.support.adapter_kinds import DORA, FLAT, LOHA, PLAIN, stems

WRITTEN = ("kohya", "diffusers", "peft")


def write(path, adapter, name="kohya", **metadata):
    encoded = ADAPTER_FORMATS[name].encode(adapter, Context.of(adapter))
    assert not encoded.losses
    safetensors.write(path, encoded.tensors, encoded.metadata | metadata)


def same(a, b):
    assert a.modules.keys() == b.modules.keys()
    return max(relative_error(a.modules[name], b.modules[name]) for name in a.modules)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_round_of_all_formats_leaves_every_delta(json_of, tmp_path, family):
    start = random_adapter(family, lambda n: small(n) and "conv_in" not in n, ranks=(4, 6, 2), alphas=(4, 3, 1.7))
    write(tmp_path / "a.safetensors", start)
    at = "a.safetensors"
    for i, to in enumerate(("diffusers", "peft", "kohya", "peft", "diffusers", "kohya")):
        out = f"{i}" if to == "peft" else f"{i}.safetensors"
        done = json_of("convert", at, out, "--to", to)
        assert done["error"] < 1e-6 and done["modules"] == len(start.modules)
        assert same(start, files.read(tmp_path / out)) < 1e-6
        at = out


def test_the_same_format_is_the_same_bytes(json_of, tmp_path):
    """Also where it is not the universal one: a mixture of alphas stays until --universal is asked for."""
    save_file(
        stems(PLAIN, FLAT) | stems(PLAIN | {"alpha": np.float32(0.3)}, FLAT.replace("to_q", "to_k")),
        tmp_path / "a.safetensors",
        {"note": "x"},
    )
    done = json_of("convert", "a.safetensors", "b.safetensors", "--to", "kohya")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert done["unchanged"] and done["coverage"]["diffusers"]["right"] == 1
    done = json_of("convert", "a.safetensors", "c.safetensors", "--universal")
    assert done["coverage"]["diffusers"]["right"] == 2 and done["error"] < 1e-6
    alphas = {float(x) for key, x in load_file(tmp_path / "c.safetensors").items() if key.endswith(".alpha")}
    assert len(alphas) == 1
    assert same(files.read(tmp_path / "a.safetensors"), files.read(tmp_path / "c.safetensors")) < 1e-6


def test_hashes_and_metadata_are_of_the_file_written(json_of, tmp_path):
    write(
        tmp_path / "a.safetensors", random_adapter("sd1", attention), ss_output_name="fox", sshs_legacy_hash="12345678"
    )
    json_of("convert", "a.safetensors", "b.safetensors", "--to", "diffusers", "--save-dtype", "float16")
    file = safetensors.open_file(tmp_path / "b.safetensors")
    assert file.metadata["modelspec.hash_sha256"] == "0x" + safetensors.data_hash(tmp_path / "b.safetensors")
    assert file.metadata["sshs_model_hash"] == safetensors.data_hash(tmp_path / "b.safetensors")
    assert file.metadata["ss_output_name"] == "fox"
    assert "lora_adapter_metadata" not in file.metadata and "sshs_legacy_hash" not in file.metadata


@pytest.mark.parametrize(
    ("dtype", "least", "most"), [("float16", 1e-6, 1e-3), ("bfloat16", 1e-5, 1e-2), ("float32", 0, 1e-9)]
)
def test_the_error_of_a_narrower_type_is_stated(json_of, tmp_path, dtype, least, most):
    write(tmp_path / "a.safetensors", random_adapter("sd1", small))
    done = json_of("convert", "a.safetensors", "b.safetensors", "--to", "diffusers", "--save-dtype", dtype)
    assert least <= done["error"] <= most


def test_half_precision_is_balanced_before_it_rounds(json_of, tmp_path):
    """An up of 1e5 would overflow and a down of 1e-6 be subnormal in float16; their product is harmless."""
    parts = {"lora_down.weight": np.full((2, 320), 1.1e-6, "f4"), "lora_up.weight": np.full((320, 2), 1e5, "f4")}
    save_file(stems(parts, FLAT.replace("blocks_1", "blocks_0")), tmp_path / "a.safetensors")
    done = json_of("convert", "a.safetensors", "b.safetensors", "--to", "diffusers", "--save-dtype", "float16")
    assert done["error"] < 1e-3


def test_what_a_format_cannot_hold_is_refused_listed_or_approximated(program, json_of, tmp_path):
    save_file(stems(LOHA, FLAT) | stems(PLAIN, FLAT.replace("to_q", "to_k")), tmp_path / "a.safetensors")
    refused = program("convert", "a.safetensors", "b.safetensors", "--to", "diffusers", status=3).stderr
    assert "attn1.to_q" in refused and "--approximate" in refused and not (tmp_path / "b.safetensors").exists()
    listed = program("convert", "a.safetensors", "b.safetensors", "--to", "diffusers", "--allow-loss").stderr
    assert "left out: unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q" in listed
    assert len(files.read(tmp_path / "b.safetensors").modules) == 1
    done = json_of("convert", "a.safetensors", "c.safetensors", "--to", "diffusers", "--approximate", "exact")
    assert (
        done["error"] < 1e-6
        and same(files.read(tmp_path / "a.safetensors"), files.read(tmp_path / "c.safetensors")) < 1e-6
    )
    done = json_of("convert", "a.safetensors", "d.safetensors", "--to", "diffusers", "--approximate", "1")
    whole = files.read(tmp_path / "a.safetensors").modules
    name = next(n for n in whole if n.endswith("to_q"))
    values = np.linalg.svd(whole[name].delta(), compute_uv=False)
    assert done["approximated"][name] == pytest.approx(
        float(np.sqrt((values[1:] ** 2).sum() / (values**2).sum())), rel=1e-3
    )


def test_kinds_over_the_base_need_it(program, json_of, tmp_path):
    from tests.tiny import make

    make(tmp_path / "model", "sd1")
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file(stems(DORA, stem), tmp_path / "a.safetensors")
    assert "--base" in program("convert", "a.safetensors", "b", "--to", "peft", "--approximate", "8", status=2).stderr
    done = json_of(
        "convert", "a.safetensors", "b.safetensors", "--to", "diffusers", "--approximate", "32", "--base", "model"
    )
    assert done["error"] < 1e-5
    name, weight = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", None
    weight = load_file(tmp_path / "model/unet/diffusion_pytorch_model.safetensors")[
        f"{name.removeprefix('unet.')}.weight"
    ]
    got = files.read(tmp_path / "b.safetensors").modules[name].delta()
    moved = weight + DORA["lora_up.weight"] @ DORA["lora_down.weight"] * (1.0 / 2)
    wanted = DORA["dora_scale"] * moved / np.linalg.norm(moved, axis=1, keepdims=True) - weight
    np.testing.assert_allclose(got, wanted, atol=1e-5)


BAD = {
    "unknown key": ({"lora_unet_nowhere.lora_down.weight": np.ones((2, 640), "f4")}, "lora_unet_nowhere"),
    "stray tensor": ({"something": np.ones(3, "f4")}, "something"),
    "missing up": ({f"{FLAT.replace('to_q', 'to_v')}.lora_down.weight": np.ones((2, 640), "f4")}, "to_v"),
    "other rank": (stems(PLAIN | {"lora_up.weight": np.ones((640, 3), "f4")}, FLAT.replace("to_q", "to_v")), "to_v"),
    "NaN": (stems(PLAIN | {"lora_up.weight": np.full((640, 2), np.nan, "f4")}, FLAT.replace("to_q", "to_v")), "to_v"),
    "two spellings": (
        stems(PLAIN | {"alpha": np.float32(3)}, "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"),
        "second spelling",
    ),
    "zero size": (stems(PLAIN | {"lora_up.weight": np.ones((0, 2), "f4")}, FLAT.replace("to_q", "to_v")), "to_v"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_files_are_refused_with_every_key_named(program, tmp_path, fault):
    more, named = BAD[fault]
    save_file(stems(PLAIN, FLAT) | more, tmp_path / "a.safetensors")
    said = program("convert", "a.safetensors", "b.safetensors", "--to", "diffusers", status=3).stderr
    assert named in said and "a.safetensors" in said and not (tmp_path / "b.safetensors").exists()


def test_a_transposed_module_is_told(program, tmp_path):
    adapter = random_adapter("sd1", lambda n: ".attn2." in n)
    write(tmp_path / "a.safetensors", adapter)
    tensors = load_file(tmp_path / "a.safetensors")
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    down, up = tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"]
    tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"] = up.T.copy(), down.T.copy()
    save_file(tensors, tmp_path / "a.safetensors")
    said = program("convert", "a.safetensors", "b.safetensors", "--to", "diffusers", status=3).stderr
    assert stem in said and "transposed" in said


def test_of_twelve_faults_of_a_kind_the_first_are_named_and_the_others_counted(program, tmp_path):
    wrong = {f"lora_unet_nowhere_{i:02}.lora_down.weight": np.ones((2, 2), "f4") for i in range(12)}
    save_file(stems(PLAIN, FLAT) | wrong, tmp_path / "a.safetensors")
    said = program("convert", "a.safetensors", "b.safetensors", "--to", "diffusers", status=3).stderr
    assert "12 keys are wrong" in said and said.count("lora_unet_nowhere_") == 4 and "and 8 more: the base" in said


def test_a_learned_token_travels(program, json_of, tmp_path):
    save_file({"<fox>": np.random.default_rng(0).standard_normal((2, 768)).astype("f4")}, tmp_path / "t.safetensors")
    json_of("convert", "t.safetensors", "a.safetensors", "--to", "a1111-embedding")
    assert load_file(tmp_path / "a.safetensors")["emb_params"].shape == (2, 768)
    json_of("convert", "a.safetensors", "d.safetensors", "--to", "diffusers-embedding", "--token", "<fox>")
    np.testing.assert_array_equal(
        load_file(tmp_path / "d.safetensors")["<fox>"], load_file(tmp_path / "t.safetensors")["<fox>"]
    )
    done = json_of("convert", "t.safetensors", "k.safetensors", "--to", "kohya")
    assert done["tokens"] == ["<fox>"]
    assert "<fox>" in program("convert", "k.safetensors", "p", "--to", "peft", status=3).stderr


def test_a_token_for_two_text_encoders_is_written_as_diffusers_loads_it(program, json_of, tmp_path):
    draw = np.random.default_rng(0)
    rows = {
        "clip_l": draw.standard_normal((2, 768)).astype("f4"),
        "clip_g": draw.standard_normal((2, 1280)).astype("f4"),
    }
    save_file(rows, tmp_path / "fox.safetensors")
    said = program("convert", "fox.safetensors", "d.safetensors", "--to", "diffusers-embedding").stderr
    assert "['clip_l'], token='fox', text_encoder=pipe.text_encoder" in said
    written = load_file(tmp_path / "d.safetensors")
    assert written.keys() == rows.keys() and all((written[key] == rows[key]).all() for key in rows)
    assert files.read(tmp_path / "d.safetensors").embeddings.keys() == {"fox"}
    said = program("convert", "fox.safetensors", "cat.safetensors", "--to", "comfy-embedding").stderr
    assert "it was fox, and is cat now, as the file is" in said
    assert json_of("inspect", "fox.safetensors")["files"][0]["kind"] == "embedding"
    json_of("convert", "fox.safetensors", "k.safetensors", "--to", "kohya")
    assert json_of("inspect", "k.safetensors")["files"][0]["kind"] == "embedding"


def test_what_is_lost_of_many_modules_is_said_once(program, tmp_path):
    modules = random_adapter("sd1", attention, ranks=(1,))
    tensors = dict(ADAPTER_FORMATS["kohya"].encode(modules, Context.of(modules)).tensors)
    scales = {
        key.replace("lora_down.weight", "dora_scale"): np.ones((1, x.shape[1]), "f4")
        for key, x in tensors.items()
        if key.endswith("attn1_to_q.lora_down.weight")
    }
    save_file(tensors | scales, tmp_path / "a.safetensors")
    what = "diffusers files have DoRA by output only, and for all modules of a part or none"
    said = program("convert", "a.safetensors", "b.safetensors", "--to", "diffusers", status=3).stderr
    assert said.count(what) == 1 and f"{what} ({len(scales)}: unet." in said and "and 14 more)" in said
    said = program("convert", "a.safetensors", "b.safetensors", "--to", "diffusers", "--allow-loss").stderr
    assert said.count("left out: ") == 1 and f"left out: {what} ({len(scales)}: " in said


def test_formats_that_are_only_read_and_unknown_ones(program, tmp_path):
    save_file(stems(PLAIN, FLAT), tmp_path / "a.safetensors")
    assert "did you mean 'diffusers'" in program("convert", "a.safetensors", "b", "--to", "difusers", status=2).stderr
    assert "does not write" in program("convert", "a.safetensors", "b", "--to", "lycoris", status=2).stderr
    program("convert", "a.safetensors", "a.safetensors", status=4)
    program("convert", "nowhere.safetensors", "b", status=3)


def test_dry_run_writes_nothing(program, tmp_path):
    save_file(stems(PLAIN, FLAT), tmp_path / "a.safetensors")
    assert (
        "would be written"
        in program("convert", "a.safetensors", "b.safetensors", "--to", "diffusers", "--dry-run").stderr
    )
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_converting_twice_gives_the_same_bytes(process, tmp_path):
    write(tmp_path / "a.safetensors", random_adapter("sd1", small, ranks=(4, 2)), zebra="1", apple="2")
    for i, out in enumerate(("x.safetensors", "y.safetensors")):
        process("convert", "a.safetensors", out, "--to", "diffusers", env={"PYTHONHASHSEED": str(i + 1)})
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()


def test_json_is_one_object(program, tmp_path):
    save_file(stems(PLAIN, FLAT), tmp_path / "a.safetensors")
    assert json.loads(program("convert", "a.safetensors", "b.safetensors", "--json").stdout)["outputs"] == [
        "b.safetensors"
    ]


def test_modules_that_are_numbers_take_their_names_from_the_model(json_of, program, tmp_path):
    """A cloneofsimo file of a UNet that no table has: its order is known once the model is."""
    from lorakit.jobs.convert import _model_shapes
    from tests.tiny import make

    shapes = _model_shapes(str(make(tmp_path / "model", "sd1")))
    order = [n for n in shapes if ".attn" in n and n.startswith("unet.")]
    blocks = ("unet.down_blocks.0", "unet.up_blocks.1", "unet.mid_block")
    order = [
        n
        for block in blocks
        for n in sorted(order, key=lambda n: (n.split(".attn")[0], "attn2" in n))
        if n.startswith(block)
    ]
    inner = ("to_q", "to_k", "to_v", "to_out.0")
    order.sort(
        key=lambda n: (
            [i for i, b in enumerate(blocks) if n.startswith(b)],
            n.split(".attn")[0],
            "attn2" in n,
            inner.index(n.split(".attn")[1][2:]),
        )
    )
    draw, tensors = np.random.default_rng(0), {}
    for i, name in enumerate(order):
        out, width = shapes[name][:2]
        tensors[f"unet:{i}:up"] = draw.standard_normal((out, 2)).astype("f4")
        tensors[f"unet:{i}:down"] = draw.standard_normal((2, width)).astype("f4")
    save_file(tensors, tmp_path / "a.safetensors", {"unet": '["CrossAttention"]'})
    assert "--model" in program("convert", "a.safetensors", "b.safetensors", status=3).stderr
    json_of("convert", "a.safetensors", "b.safetensors", "--model", "model")
    written = files.read(tmp_path / "b.safetensors").modules
    assert list(written) and set(written) == set(order)
    for i, name in enumerate(order):
        np.testing.assert_allclose(
            written[name].delta(), tensors[f"unet:{i}:up"] @ tensors[f"unet:{i}:down"], rtol=1e-5, atol=1e-5
        )


def test_flattened_names_of_another_model_are_looked_up_in_it(json_of, tmp_path):
    model = tmp_path / "model"
    (model / "unet").mkdir(parents=True)
    (model / "model_index.json").write_text("{}")
    name = "strange_part.layer_0.to_mix"
    save_file({f"{name}.weight": np.zeros((6, 4), "f4")}, model / "unet" / "diffusion_pytorch_model.safetensors")
    parts = {"lora_down.weight": np.ones((2, 4), "f4"), "lora_up.weight": np.ones((6, 2), "f4")}
    save_file(stems(parts, f"lora_unet_{name.replace('.', '_')}"), tmp_path / "a.safetensors")
    json_of("convert", "a.safetensors", "b.safetensors", "--to", "diffusers", "--model", "model")
    assert f"unet.{name}.lora_A.weight" in load_file(tmp_path / "b.safetensors")


def test_the_error_of_a_dora_is_that_of_its_delta_and_lengths(json_of, tmp_path):
    """The kohya file holds the same delta with other factors: at scale 1, for A1111 applies a scale after the lengths."""
    parts = PLAIN | {"alpha": np.float32(1.0), "dora_scale": np.linspace(0.5, 2, 640, dtype="f4")[None]}
    save_file(stems(parts, FLAT), tmp_path / "a.safetensors")
    done = json_of("convert", "a.safetensors", "b.safetensors", "--to", "kohya", "--universal")
    assert done["error"] < 1e-6 and done["coverage"]["a1111"]["right"] == 1
    assert float(load_file(tmp_path / "b.safetensors")[f"{FLAT}.alpha"]) == 2.0


DOTTED = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
ORIGINAL = "input_blocks.4.1.transformer_blocks.0.attn1.to_q"
FACTORS = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
# A module's name and the names of its factors, by format: its own, and others that are read.
COPIED = {"kohya": (FLAT, {}), "comfy": (f"diffusion_model.{ORIGINAL}", {}), "diffusers": (DOTTED, FACTORS)}
REWRITTEN = {
    "kohya, PEFT's factors": ("kohya", FLAT, FACTORS),
    "kohya, sgm names of SD1": ("kohya", f"lora_unet_{ORIGINAL.replace('.', '_')}", {}),
    "kohya, dotted": ("kohya", DOTTED.replace("unet.", "lora_unet."), {}),
    "comfy, PEFT's factors": ("comfy", f"diffusion_model.{ORIGINAL}", FACTORS),
    "comfy, wrapped": ("comfy", f"_orig_mod.diffusion_model.{ORIGINAL}", {}),
    "diffusers, kohya's factors": ("diffusers", DOTTED, {}),
    "diffusers, a named adapter": ("diffusers", DOTTED, {k: v.replace(".", ".dog.") for k, v in FACTORS.items()}),
    "diffusers, compiled": ("diffusers", f"_orig_mod.{DOTTED}", FACTORS),
    "diffusers, no part": ("diffusers", DOTTED.removeprefix("unet."), FACTORS),
}


def spelled(stem, factors) -> dict:
    """Cross-attention with it, which tells the family."""
    plain = {"lora_down.weight": np.ones((2, 640), "f4"), "lora_up.weight": np.ones((640, 2), "f4")}
    cross = plain | {"lora_down.weight": np.ones((2, 768), "f4")}
    both = {stem: plain, stem.replace("attn1", "attn2").replace("to_q", "to_k"): cross}
    return {f"{name}.{factors.get(ending, ending)}": x for name, one in both.items() for ending, x in one.items()}


@pytest.mark.parametrize("to", COPIED)
def test_a_file_in_a_formats_own_spelling_is_copied(json_of, tmp_path, to):
    save_file(spelled(*COPIED[to]), tmp_path / "a.safetensors", {"note": "x"})
    assert json_of("convert", "a.safetensors", "b.safetensors", "--to", to)["unchanged"]
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("case", REWRITTEN)
def test_a_file_in_another_spelling_is_written_anew(json_of, tmp_path, case):
    to, stem, factors = REWRITTEN[case]
    save_file(spelled(stem, factors), tmp_path / "a.safetensors")
    done = json_of("convert", "a.safetensors", "b.safetensors", "--to", to)
    assert done["from"] == to and not done["unchanged"] and done["error"] == 0
    own, names = COPIED[to]
    assert spelled(own, names).keys() <= load_file(tmp_path / "b.safetensors").keys()


def test_a_stale_hash_that_is_copied_is_said(program, tmp_path):
    save_file(
        spelled(FLAT, {}), tmp_path / "a.safetensors", {"sshs_model_hash": "e3b0c442", "modelspec.hash_sha256": "0x0"}
    )
    said = program("convert", "a.safetensors", "b.safetensors").stderr
    assert "modelspec.hash_sha256 and sshs_model_hash in its metadata" in said and "--universal" in said
    program("convert", "a.safetensors", "c.safetensors", "--universal")
    assert "in its metadata" not in program("convert", "c.safetensors", "d.safetensors").stderr


@pytest.mark.parametrize(
    ("meant", "called"), [("a1111", "kohya"), ("ComfyUI", "comfy"), ("embedding", "a1111-embedding")]
)
def test_what_people_call_a_format_is_a_hint(program, tmp_path, meant, called):
    save_file(spelled(FLAT, {}), tmp_path / "a.safetensors")
    assert f"--to {called}" in program("convert", "a.safetensors", "b.safetensors", "--to", meant, status=2).stderr


def test_one_wrong_key_is_one(program, tmp_path):
    save_file(spelled(FLAT, {}) | {"lora_unet_nowhere.diff": np.ones((2, 2), "f4")}, tmp_path / "a.safetensors")
    assert "1 key is wrong: " in program("convert", "a.safetensors", "b.safetensors", status=3).stderr


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sdxl-refiner", "tiny"])
def test_comfys_files_are_read_and_written_for_every_family(json_of, tmp_path, family):
    start = (
        random_adapter(family, ranks=(1, 2), alphas=(4, 3, 1.7)) if family == "tiny" else random_adapter(family, small)
    )
    write(tmp_path / "a.safetensors", start)
    done = json_of("convert", "a.safetensors", "b.safetensors", "--to", "comfy")
    assert done["error"] == 0 and done["modules"] == len(start.modules)
    assert all(key.startswith(("diffusion_model.", "text_encoders.")) for key in load_file(tmp_path / "b.safetensors"))
    back = json_of("convert", "b.safetensors", "c.safetensors", "--to", "kohya")
    assert back["from"] == "comfy" and same(start, files.read(tmp_path / "c.safetensors")) < 1e-6
