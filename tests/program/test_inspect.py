"""inspect through the program."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lorakit.formats.codec import Context
from lorakit.io import safetensors
from lorakit.models.places import folder_of
from lorakit.registry import ADAPTER_FORMATS
from tests.support.adapter_files import attention, random_adapter
from tests.support.adapter_kinds import FLAT, LOHA, PLAIN, stems


@pytest.fixture
def one(json_of):
    def run(*arguments):
        return json_of("inspect", *arguments)["files"][0]

    return run


def write(path, adapter, **metadata):
    encoded = ADAPTER_FORMATS["kohya"].encode(adapter, Context.of(adapter))
    safetensors.write(path, encoded.tensors, encoded.metadata | metadata)


@pytest.mark.parametrize(("family", "inputs"), [("sd1", 768), ("sd2", 1024), ("sdxl", 2048), ("sdxl-refiner", 1280)])
def test_the_family_is_told_with_the_evidence(one, tmp_path, family, inputs):
    write(tmp_path / "a.safetensors", random_adapter(family, attention, ranks=(2,)))
    found = one("a.safetensors")
    assert (found["kind"], found["format"], found["family"]) == ("adapter", "kohya", family)
    assert f"{inputs} inputs" in found["evidence"]
    assert found["hash_matches"] is True and found["faults"] == []


def test_norms_are_those_of_the_deltas_by_block(one, tmp_path):
    parts = {
        "lora_down.weight": np.eye(2, 640, dtype="f4") * 3,
        "lora_up.weight": np.eye(640, 2, dtype="f4"),
        "alpha": np.float32(1),
    }
    flat = FLAT.replace("down_blocks_1", "up_blocks_2")
    save_file(
        stems(parts, FLAT) | stems(PLAIN | {"lora_up.weight": np.zeros((640, 2), "f4")}, flat),
        tmp_path / "a.safetensors",
    )
    found = one("a.safetensors")
    norms = {block["block"]: block["norm"] for block in found["blocks"]}
    assert norms == {"unet down.1": pytest.approx(0.5 * 3 * 2**0.5), "unet up.2": 0}  # scale 1/2, two values of 3
    assert found["dead"] == ["unet.up_blocks.2.attentions.0.transformer_blocks.0.attn1.to_q"]
    assert found["ranks"] == {"2": 2} and found["alphas"] == {"1": 1, "2": 1} and found["scales"] == {"0.5": 1, "1": 1}


def test_nan_is_counted_and_json_stays_json(program, tmp_path):
    save_file(stems(PLAIN | {"lora_up.weight": np.full((640, 2), np.nan, "f2")}, FLAT), tmp_path / "a.safetensors")
    text = program("inspect", "a.safetensors", "--json").stdout
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the JSON"))["files"][0]
    assert len(found["nonfinite"]) == 1


def test_faults_are_shown_and_not_fatal(one, program, tmp_path):
    save_file(
        stems(PLAIN, FLAT) | {"lora_unet_nowhere.lora_up.weight": np.ones((2, 2), "f4"), "x": np.ones(1, "f4")},
        tmp_path / "a.safetensors",
    )
    found = one("a.safetensors")
    assert any("lora_unet_nowhere" in fault for fault in found["faults"]) and found["unknown"] == ["x"]
    assert "lora_unet_nowhere" in program("inspect", "a.safetensors").stdout


def test_a_flipped_bit_is_found_on_demand(program, one, tmp_path):
    write(tmp_path / "a.safetensors", random_adapter("sd1", attention, ranks=(2,)))
    program("inspect", "a.safetensors", "--verify")
    data = bytearray((tmp_path / "a.safetensors").read_bytes())
    data[-1000] ^= 1
    (tmp_path / "a.safetensors").write_bytes(data)
    assert one("a.safetensors")["hash_matches"] is False
    assert "NOT what the metadata says" in program("inspect", "a.safetensors").stdout
    assert "a.safetensors" in program("inspect", "a.safetensors", "--verify", status=3).stderr


def test_tokens_and_triggers(one, tmp_path):
    frequency = json.dumps({"10_fox": {"a fox": 3, "sks": 10}})
    tensors = stems(PLAIN, FLAT) | {"bundle_emb.fox.string_to_param.*": np.full((2, 768), 0.5, "f4")}
    save_file(tensors, tmp_path / "a.safetensors", {"ss_tag_frequency": frequency, "ss_sd_model_name": "v1-5.ckpt"})
    found = one("a.safetensors")
    assert found["tokens"] == {
        "fox": {"text_encoder": {"vectors": 2, "width": 768, "norms": [pytest.approx(0.5 * 768**0.5, abs=1e-3)] * 2}}
    }
    assert found["triggers"] == ["sks", "a fox"] and found["base"] == {"ss_sd_model_name": "v1-5.ckpt"}
    assert found["clients"]["diffusers"]["right"] == 0 and found["clients"]["comfyui"]["right"] == 1


def test_of_learned_tokens_alone_no_client_is_told(program, tmp_path):
    save_file({"emb_params": np.ones((2, 192), "f4")}, tmp_path / "a.safetensors")
    said = program("inspect", "a.safetensors").stdout
    assert "embedding, a1111-embedding" in said and "modules right" not in said


def test_every_kind_has_its_name(one, tmp_path):
    save_file(stems(LOHA, FLAT), tmp_path / "a.safetensors")
    assert one("a.safetensors")["kinds"] == {"loha": 1}


def test_base_models(one, tmp_path):
    found = one(folder_of("tiny"))
    assert (found["kind"], found["family"], found["format"]) == ("base model", "tiny", "diffusers folder")
    assert found["prediction_type"] in ("v_prediction", "epsilon")
    single = {
        "model.diffusion_model.input_blocks.0.0.weight": np.zeros((320, 4, 3, 3), "f2"),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": np.zeros((320, 1024), "f2"),
        "cond_stage_model.model.positional_embedding": np.zeros((77, 1024), "f2"),
        "v_pred": np.zeros(1, "f2"),
    }
    save_file(single, tmp_path / "sd2.safetensors")
    found = one("sd2.safetensors")
    assert (found["family"], found["format"], found["prediction_type"]) == ("sd2", "single file", "v_prediction")
    assert found["parts"] == ["UNet", "OpenCLIP-H text encoder"] and found["dtypes"] == {"F16": 4}


def test_text_of_a_file_cannot_write_to_the_terminal(program, tmp_path):
    save_file(stems(PLAIN, FLAT), tmp_path / "a.safetensors", {"modelspec.trigger_phrase": "\x1b[31mred\x07 [bold]x"})
    shown = program("inspect", "a.safetensors").stdout
    assert "\x1b" not in shown and "[bold]x" in shown


def test_several_files_and_a_missing_one(program, tmp_path):
    save_file(stems(PLAIN, FLAT), tmp_path / "a.safetensors")
    assert program("inspect", "a.safetensors", "a.safetensors").stdout.count("a.safetensors  (") == 2
    assert "b.safetensors" in program("inspect", "a.safetensors", "b.safetensors", status=3).stderr


def test_plain_tensors_are_read_without_torch(tmp_path):
    save_file(stems(PLAIN, FLAT), tmp_path / "a.safetensors")
    code = (
        "import sys; from lorakit.cli import _run\n"
        "assert _run(['inspect', 'a.safetensors']) == 0 and _run(['convert', 'a.safetensors', 'b', '--to', 'peft']) == 0\n"
        "sys.exit('torch' in sys.modules or 'safetensors' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.posix
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak of memory")
def test_a_checkpoint_of_seven_gigabytes_is_told_by_its_header(tmp_path):
    """A sparse file: were its data read, it would take seconds and the memory to hold them."""
    keys = {
        "model.diffusion_model.input_blocks.0.0.weight": [320, 4, 3, 3],
        "conditioner.embedders.1.model.x": [1280, 2_700_000],
    }
    keys["model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"] = [640, 2048]
    header, at = {}, 0
    for key, shape in keys.items():
        size = 2 * int(np.prod(shape))
        header[key], at = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}, at + size
    text = json.dumps(header).encode()
    with (tmp_path / "big.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    assert at > 6.9e9
    code = (
        "from lorakit.cli import _run; assert _run(['inspect', 'big.safetensors', '--json']) == 0\n"
        "import sys; print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)["files"][0]
    assert (found["kind"], found["family"], found["hash_sha256"]) == ("base model", "sdxl", None)
    assert int(done.stderr.split()[-1]) < 200_000  # kB, at its highest


def test_nan_in_a_token_or_a_bias_is_told_and_json_has_none(program, tmp_path):
    bad = np.full((2, 768), np.nan, "f4")
    save_file({"emb_params": bad}, tmp_path / "a.safetensors")
    save_file({"lora_unet_conv_in.diff_b": np.array([np.inf] * 320, "f4")}, tmp_path / "b.safetensors")
    done = program("inspect", "a.safetensors", "b.safetensors", "--json")
    assert "NaN" not in done.stdout and "Infinity" not in done.stdout
    token, bias = (one["nonfinite"] for one in done.json["files"])
    assert token == ["token a"] and bias == ["the bias of unet.conv_in"]
    assert "1 place with NaN or infinity: token a" in program("inspect", "a.safetensors").stdout


def test_a_file_with_a_fault_is_not_vouched_for(program, tmp_path):
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    good = {f"{key}.lora_down.weight": np.ones((2, 768), "f4"), f"{key}.lora_up.weight": np.ones((1280, 2), "f4")}
    for stray in ("lora_unet_nowhere.lora_down.weight", "conv_in.weight"):
        save_file({**good, stray: np.ones((2, 4, 3, 3), "f4")}, tmp_path / "a.safetensors")
        found = program("inspect", "a.safetensors", "--json").json["files"][0]
        assert (found["kind"], found["family"], found["clients"], len(found["faults"])) == ("adapter", "sd1", {}, 1)
        assert "not known for files with faults" in program("inspect", "a.safetensors").stdout


@pytest.mark.parametrize(("count", "said"), [(1, "1 tensor)"), (2, "2 tensors)")])
def test_one_is_one(program, tmp_path, count, said):
    save_file({f"<{i}>": np.ones(768, "f4") for i in range(count)}, tmp_path / "a.safetensors")
    assert said in program("inspect", "a.safetensors").stdout
