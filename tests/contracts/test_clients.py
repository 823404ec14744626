"""What is known of clients, as data: name rules found by running or reading them."""

import numpy as np
import pytest

from lorakit.deltas import read
from lorakit.formats.adapters import decode
from lorakit.formats.clients import coverage
from lorakit.formats.codec import Context
from lorakit.registry import ADAPTER_FORMATS, CLIENTS
from tests.support.adapter_files import attention, random_adapter, small

KOHYA = ("a1111", "comfyui", "diffusers", "sd-scripts")
N = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
FLAT = N.replace(".", "_")


def file_of(adapter, name):
    encoded = ADAPTER_FORMATS[name].encode(adapter, Context.of(adapter))
    return decode(encoded.tensors, encoded.metadata, "file")


@pytest.mark.parametrize("client", KOHYA)
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_universal_file_is_right_everywhere(client, family):
    """Mixed ranks and scales, attention and feed-forward of every part: what each client wraps it applies exactly."""
    adapter = file_of(random_adapter(family, small, ranks=(4, 6, 2), alphas=(4, 3, 1.5)), "kohya")
    found = coverage(adapter, client)
    outside = {name for name in adapter.modules if name.startswith(("unet.conv_in", "unet.time_embedding"))}
    assert set(found.wrong) == (outside if client == "sd-scripts" else set())


def one(parts, stem=f"lora_unet_{FLAT}"):
    return decode({f"{stem}.{ending}": np.asarray(x, "f4") for ending, x in parts.items()}, {}, "file")


PLAIN = {"lora_down.weight": np.ones((2, 640)), "lora_up.weight": np.ones((640, 2)), "alpha": 2.0}
ROWS, COLUMNS = {"dora_scale": np.ones((640, 1))}, {"dora_scale": np.ones((1, 640))}
LOHA = {f"hada_w{i}_{x}": np.ones((640, 2) if x == "a" else (2, 640)) for i in (1, 2) for x in "ab"}
IA3 = {"weight": np.ones((640, 1)), "on_input": 0}
# kohya file of one module -> how many of one each client applies rightly
RULES = {
    "lora": (PLAIN, {"a1111": 1, "comfyui": 1, "diffusers": 1, "sd-scripts": 1}),
    "loha": (LOHA, {"a1111": 1, "comfyui": 1, "diffusers": 0, "sd-scripts": 0}),
    "ia3": (IA3, {"a1111": 1, "comfyui": 0, "diffusers": 0, "sd-scripts": 0}),
    "dora by row": (PLAIN | ROWS, {"a1111": 0, "comfyui": 0, "diffusers": 0, "sd-scripts": 0}),
    "dora by column": (PLAIN | COLUMNS, {"a1111": 1, "comfyui": 1, "diffusers": 0, "sd-scripts": 0}),
    "dora by column at another scale": (
        PLAIN | COLUMNS | {"alpha": 1.0},
        {"a1111": 0, "comfyui": 1, "diffusers": 0, "sd-scripts": 0},
    ),
    "bias": (PLAIN | {"diff_b": np.ones(640)}, {"a1111": 1, "comfyui": 1, "diffusers": 0, "sd-scripts": 0}),
}


@pytest.mark.parametrize("kind", RULES)
def test_kinds_by_client(kind):
    parts, expected = RULES[kind]
    assert {client: coverage(one(parts), client).right for client in KOHYA} == expected


def test_comfyui_drops_the_attention_of_diffusers_files():
    adapter = file_of(random_adapter("sd1", small), "diffusers")
    wrong = coverage(adapter, "comfyui").wrong
    assert set(wrong) == {name for name in adapter.modules if attention(name)} and "attention" in next(
        iter(wrong.values())
    )
    assert coverage(adapter, "diffusers").wrong == {}
    assert coverage(adapter, "a1111").right == coverage(adapter, "sd-scripts").right == 0


def test_diffusers_takes_the_commonest_alpha():
    names = [f"lora_unet_{FLAT.replace('to_q', to)}" for to in ("to_q", "to_k", "to_v")]
    tensors = {f"{n}.{k}": np.asarray(x, "f4") for n in names for k, x in PLAIN.items()}
    tensors[f"{names[1]}.alpha"] = np.array(1.0, "f4")
    found = coverage(decode(tensors, {}, "file"), "diffusers")
    assert list(found.wrong) == [f"unet.{N.replace('to_q', 'to_k')}"]


def test_diffusers_drops_sgm_names_outside_sdxl():
    stem = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    cross = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    wide = {"lora_down.weight": np.ones((2, 768)), "lora_up.weight": np.ones((640, 2))}
    tensors = {f"{s}.{k}": np.asarray(x, "f4") for s, parts in ((stem, PLAIN), (cross, wide)) for k, x in parts.items()}
    adapter = decode(tensors, {}, "file")
    assert coverage(adapter, "diffusers").right == 0 and coverage(adapter, "comfyui").right == 2
    tensors[f"{cross}.lora_down.weight"] = np.ones((2, 2048), "f4")
    assert coverage(decode(tensors, {}, "file"), "diffusers").right == 2


def test_metadata_that_rescales_is_read_by_diffusers_alone():
    key = f"unet.{N.replace('.attn1.to_q', '.ff.net.2')}"
    tensors = {f"{key}.lora_A.weight": np.ones((2, 2560), "f4"), f"{key}.lora_B.weight": np.ones((640, 2), "f4")}
    adapter = decode(tensors, {"lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": 4}'}, "file")
    assert coverage(adapter, "diffusers").right == 1 and coverage(adapter, "comfyui").right == 0


def test_a_kind_is_named_as_its_delta_names_itself():
    kinds = {kind for client in CLIENTS.names() for kind in CLIENTS[client].KINDS} - {"bias"}
    known = {read({k: np.asarray(x, "f4") for k, x in p.items()}).kind for p in (PLAIN, LOHA, IA3, PLAIN | ROWS)}
    assert known - {"lora"} <= kinds | {"dora"}
