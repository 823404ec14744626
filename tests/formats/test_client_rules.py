"""What we say of diffusers is what diffusers does: predicted coverage beside coverage measured by value."""

import copy

import numpy as np
import pytest
import torch

from lorakit import deltas
from lorakit.formats.adapters import decode
from lorakit.formats.clients import coverage
from lorakit.formats.codec import Context
from lorakit.io import safetensors
from lorakit.registry import ADAPTER_FORMATS
from lorakit.targets import kohya_name_of
from tests.support.pipelines import base_of, effect, pipeline, random_for, wrong


def naive(adapter, family) -> dict:
    """A kohya file as other tools write it: every module's own alpha, no folding."""
    numbered = any(name.startswith("text_encoder_2") for name in adapter.modules)
    names = kohya_name_of(None, numbered)
    return {
        f"{names[m]}.{ending}": x for m, delta in adapter.modules.items() for ending, x in deltas.write(delta).items()
    }


def loha(tensors: dict, stem: str, shape) -> dict:
    out, width = shape[:2]
    made = {f"{stem}.hada_w{i}_{x}": np.ones((out, 2) if x == "a" else (2, width), "f4") for i in (1, 2) for x in "ab"}
    return tensors | made


CASES = {
    "equal alphas": {"ranks": (4,), "alphas": (2.0,)},
    "mixed alphas": {"ranks": (4,), "alphas": (4.0, 4.0, 1.0)},
    "mixed ranks and alphas": {"ranks": (4, 4, 6, 2), "alphas": (4.0, 4.0, 6.0, 2.0)},
    "dora": {"ranks": (4,), "alphas": (4.0,), "dora": True},
}


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("case", CASES)
def test_naive_kohya_files(tmp_path, family, case):
    pipe = pipeline(tmp_path / "model", family)
    base = base_of(pipe)
    adapter = random_for(base, base, **CASES[case])
    file = tmp_path / "a.safetensors"
    safetensors.write(file, naive(adapter, family), {})
    read = decode(dict(safetensors.open_file(file).items()), {}, "a")
    measured = {line.partition(":")[0] for line in wrong(adapter, effect(pipe, file, base), base)}
    assert set(coverage(read, "diffusers").wrong) == measured
    universal = ADAPTER_FORMATS["kohya"].encode(read, Context.of(read))
    again = pipeline(tmp_path / "model", family)
    safetensors.write(tmp_path / "b.safetensors", universal.tensors, universal.metadata)
    left = {line.partition(":")[0] for line in wrong(adapter, effect(again, tmp_path / "b.safetensors", base), base)}
    predicted = coverage(decode(universal.tensors, universal.metadata, "b"), "diffusers")
    assert set(predicted.wrong) == left
    if case != "dora":
        assert {name for name in left if "add_embedding" not in name} == set()


@pytest.mark.parametrize("odd", ["loha", "bundle", "bias"])
def test_files_that_diffusers_refuses_whole(tmp_path, odd):
    pipe = pipeline(tmp_path / "model", "sd1")
    base = base_of(pipe)
    names = [name for name in base if ".attn" in name]
    tensors = naive(random_for(base, names[1:]), "sd1")
    stem = kohya_name_of()[names[0]]
    extra = {
        "loha": lambda: loha({}, stem, base[names[0]].shape),
        "bundle": lambda: {"bundle_emb.fox.string_to_param.*": np.ones((1, 32), "f4")},
        "bias": lambda: {f"{kohya_name_of()[names[1]]}.diff_b": np.ones(base[names[1]].shape[0], "f4")},
    }[odd]()
    file = tmp_path / "a.safetensors"
    safetensors.write(file, tensors | extra, {})
    assert coverage(decode(tensors | extra, {}, "a"), "diffusers").right == 0
    with pytest.raises(ValueError):
        pipe.load_lora_weights(str(file))


@pytest.mark.parametrize("name", ["diffusers", "peft"])
def test_what_we_write_is_covered_whole(tmp_path, name):
    """For both: their own program, all modules."""
    base = base_of(pipeline(tmp_path / "model", "sd2"))
    adapter = random_for(base, base, ranks=(4, 6, 2), alphas=(4.0, 1.5))
    encoded = ADAPTER_FORMATS[name].encode(adapter, Context(shapes={n: tuple(w.shape) for n, w in base.items()}))
    tensors, metadata = dict(encoded.tensors), dict(encoded.metadata)
    for path, content in encoded.folder.items():
        prefix = f"{path.rpartition('/')[0]}/" if "/" in path else ""
        if isinstance(content, str):
            metadata[f"{prefix}adapter_config"] = content
        else:
            tensors |= {f"{prefix}{key}": x for key, x in content[0].items()}
    found = coverage(decode(tensors, metadata, "a"), name)
    assert found.wrong == {} and found.expected == len(base)
    assert all(isinstance(x, torch.Tensor) for x in tensors.values())


@pytest.mark.parametrize("every", [1, 2, 3])
def test_an_alpha_of_0_is_what_diffusers_multiplies_by(tmp_path, every):
    """In every module, in half of them, and in the fewer: attention has the commonest alpha of its part."""
    pipe = pipeline(tmp_path / "model", "sd1")
    base = base_of(pipe)
    adapter = random_for(base, base, ranks=(4,), alphas=(4.0,))
    tensors = naive(adapter, "sd1")
    for key in [key for key in tensors if key.endswith(".alpha")][::every]:
        tensors[key] = np.float32(0)
    file = tmp_path / "a.safetensors"
    safetensors.write(file, tensors, {})
    read = decode(dict(safetensors.open_file(file).items()), {}, "a")
    measured = {line.partition(":")[0] for line in wrong(read, effect(pipe, file, base), base)}
    assert set(coverage(read, "diffusers").wrong) == measured != set()
    for client in ("comfyui", "a1111"):
        assert sum("alpha, which is 0" in why for why in coverage(read, client).wrong.values()) > len(base) // every - 9


def test_a_convolution_whose_up_factor_is_a_matrix_makes_diffusers_refuse_the_file(tmp_path):
    pipe = pipeline(tmp_path / "model", "sd1")
    base = base_of(pipe)
    names = ["unet.mid_block.resnets.0.conv1", "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"]
    tensors = naive(random_for(base, names), "sd1")
    key = f"{kohya_name_of()[names[0]]}.lora_up.weight"
    tensors[key] = tensors[key][:, :, 0, 0].clone()
    safetensors.write(tmp_path / "a.safetensors", tensors, {})
    assert coverage(decode(tensors, {}, "a"), "diffusers").right == 0
    assert list(coverage(decode(tensors, {}, "a"), "sd-scripts").wrong) == names[:1]
    with pytest.raises(RuntimeError):
        pipe.load_lora_weights(str(tmp_path / "a.safetensors"))


def test_of_two_spellings_of_a_module_a_client_needs_to_know_one(tmp_path):
    """Kohya's names beside diffusers': all twice, and each module in one of them."""
    pipe = pipeline(tmp_path / "model", "sd1")
    base = base_of(pipe)
    adapter = random_for(base, [name for name in base if "mid_block" in name and ".attn" in name])
    flat = naive(adapter, "sd1")
    own = ADAPTER_FORMATS["diffusers"].encode(adapter, Context()).tensors
    few = [name for name in adapter.modules if name.endswith("to_q")]
    some_flat = {k: x for k, x in flat.items() if not any(k.startswith(f"{kohya_name_of()[n]}.") for n in few)}
    some_own = {k: x for k, x in own.items() if any(k.startswith(f"{n}.") for n in few)}
    for tensors in ({k: x for k, x in {**flat, **own}.items() if "alpha" not in k}, {**some_flat, **some_own}):
        safetensors.write(tmp_path / "a.safetensors", {k: torch.as_tensor(x).clone() for k, x in tensors.items()}, {})
        read = decode(dict(safetensors.open_file(tmp_path / "a.safetensors").items()), {}, "a")
        got = effect(copy.deepcopy(pipe), tmp_path / "a.safetensors", base)
        measured = {line.partition(":")[0] for line in wrong(adapter, got, base)}
        assert set(coverage(read, "diffusers").wrong) == measured
        assert set(coverage(read, "comfyui").wrong) == (set() if len(tensors) > len(flat) else set(few))
