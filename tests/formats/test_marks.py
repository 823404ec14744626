"""Which codec takes a file, and the codecs that only read."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.deltas.full import Full
from lorakit.deltas.lokr import LoKr
from lorakit.diffusion.noise import normal
from lorakit.formats.adapters import checked, decode, sniff
from lorakit.formats.adapters._marks import MARKS
from lorakit.formats.adapters._modules import Context
from lorakit.models import inject
from lorakit.registry import ADAPTER_FORMATS
from lorakit.training import checkpoints
from lorakit.training.loop import Optimizer
from tests.adapter_files import random_adapter

PATH = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
KEYS = {  # a key or two of every format, and of none
    "kohya": ("lora_unet_conv_in.lora_down.weight", "lora_te1_text_projection.alpha", "oft_unet_conv_in.oft_blocks"),
    "cloneofsimo": ("unet:0:up", "3", "text_encoder/0"),
    "peft": (f"base_model.model.{PATH}.lora_A.weight", f"unet/base_model.model.{PATH}.lora_B.weight"),
    "lycoris": ("lycoris_conv_in.lokr_w1",),
    "diffusers-old": (f"unet.{PATH}.lora.down.weight", "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight"),
    "diffusers": (f"unet.{PATH}.lora_A.weight", "transformer.blocks.0.lora_B.weight", "text_encoder.x.hada_w1_a"),
    "a1111-embedding": ("string_to_param.*", "emb_params"),
    "comfy-embedding": ("clip_l", "clip_g"),
    "diffusers-embedding": ("<s1>", "text_encoders_0"),
    None: ("conv_in.weight", "unet.conv_in.weight", "double_blocks.0.processor.qkv_lora1.down.weight", "x.alpha", "decoder.bias"),
}  # fmt: skip


def takers(keys, metadata) -> list[str]:
    shapes = dict.fromkeys(keys, (4, 768))
    return [name for name in ADAPTER_FORMATS.names() if ADAPTER_FORMATS[name].matches(shapes, metadata)]


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in KEYS.items() for key in keys])
def test_a_mark_tells_the_format(name, key):
    assert takers([key], {}) == [name] * (name is not None)
    assert takers([key], {"lorakit.checkpoint": "1"}) == ["kohya" if name == "kohya" else "lorakit"]


@given(st.sets(st.sampled_from([key for keys in KEYS.values() for key in keys]), min_size=1), st.booleans())
@settings(max_examples=200, deadline=None)
def test_of_any_mixture_one_codec_takes_it(keys, checkpoint):
    found = takers(keys, {"lorakit.checkpoint": "1"} if checkpoint else {})
    assert len(found) <= 1
    assert found or keys & set(KEYS[None])


def test_every_format_has_a_mark():
    assert set(MARKS) == set(ADAPTER_FORMATS.names())


def test_codecs_need_no_torch():
    code = (
        "import sys; from lorakit.registry import ADAPTER_FORMATS\n"
        "[ADAPTER_FORMATS[name] for name in ADAPTER_FORMATS.names()]\n"
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# LyCORIS


def test_lycoris_names_are_looked_up():
    stem = f"lycoris_{PATH.replace('.', '_')}"
    text = "lycoris_text_model_encoder_layers_0_self_attn_q_proj"
    tensors = {
        f"{stem}.lokr_w1": np.full((2, 2), 3.0),
        f"{stem}.lokr_w2": np.full((4, 4), 2.0),
        f"{text}.diff": np.ones((3, 3)),
    }
    adapter = checked(decode(tensors, {}, "file"), "file")
    assert adapter.format == "lycoris"
    assert {name: type(delta) for name, delta in adapter.modules.items()} == {
        f"unet.{PATH}": LoKr, "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": Full,
    }  # fmt: skip
    np.testing.assert_array_equal(adapter.modules[f"unet.{PATH}"].delta(), np.full((8, 8), 6.0))


def test_a_lycoris_key_that_no_module_has_is_a_fault():
    (fault,) = decode(
        {"lycoris_conv_in.diff": np.ones((2, 2)), "lycoris_nowhere.diff": np.ones((2, 2))}, {}, "file"
    ).faults
    assert fault.startswith("lycoris_nowhere.diff: ")
    adapter = decode({"lycoris_conv_in.diff": np.ones((2, 2)), "nowhere": np.ones(1)}, {}, "file")
    assert list(adapter.unknown) == ["nowhere"]


# Our own checkpoints


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in, self.conv_out = torch.nn.Conv2d(4, 8, 3), torch.nn.Conv2d(8, 4, 3)
        self.time_embedding = torch.nn.ModuleDict({"linear_1": torch.nn.Linear(8, 2)})


def test_a_checkpoint_is_the_adapter_that_training_would_write(tmp_path):
    unet = Block()
    parameters = inject.start(
        unet,
        ["conv_in", "conv_out", "time_embedding.linear_1"],
        4,
        6.0,
        lambda shape, name: normal(shape, 0, "factors", name),
    )
    for parameter in parameters.values():
        torch.nn.init.normal_(parameter)
    optimizer = Optimizer(parameters)
    sum(p.square().sum() for p in parameters.values()).backward()
    optimizer.inner.step()
    file = checkpoints.save(tmp_path, 5, optimizer.state(), {"lorakit.scale": str(6.0 / 4)}, keep=1)
    written = inject.collect(parameters, 6.0 / 4)
    saved = checkpoints.read(file)
    assert len(saved.tensors) == 4 * len(parameters)  # with the optimizer's state, which is not of the adapter
    read = checked(decode(saved.tensors, saved.notes, "file"), "file")
    assert read.format == "lorakit" and read.modules.keys() == written.keys() and not read.unknown
    assert read.modules["unet.time_embedding.linear_1"].rank == 2  # not more than the module has, at the same scale
    for name, delta in written.items():
        torch.testing.assert_close(read.modules[name].delta(), delta.delta())


def test_a_checkpoint_of_full_training_has_no_adapter():
    tensors = {
        "parameter/conv_in.weight": np.ones((2, 2)),
        "parameter/conv_in.bias": np.ones(2),
        "step/conv_in.weight": np.ones(()),
    }
    adapter = decode(tensors, {"lorakit.checkpoint": "1", "lorakit.scale": "1.0"}, "file")
    assert "full training" in adapter.faults[0] and not adapter.modules


def test_a_checkpoint_without_its_scale_is_a_fault():
    tensors = {"parameter/unet.conv_in.down": np.ones((2, 4, 3, 3)), "parameter/unet.conv_in.up": np.ones((8, 2, 1, 1))}
    (fault,) = decode(tensors, {"lorakit.checkpoint": "1"}, "file").faults
    assert fault.startswith("parameter/unet.conv_in.down: ") and "NaN" in fault


@pytest.mark.parametrize("name", ["kohya", "diffusers", "peft", "cloneofsimo"])
def test_settings_of_other_files_are_not_copied(name):
    adapter = random_adapter("sd1", [f"unet.{PATH}", "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"])
    written = ADAPTER_FORMATS[name].encode(
        adapter.with_metadata(lora_adapter_metadata="{}", ss_output_name="x"), Context.of(adapter)
    )
    metadata = written.metadata or written.folder["adapter_model.safetensors"][1]
    assert "lora_adapter_metadata" not in metadata and metadata["ss_output_name"] == "x"
    assert sniff(written.tensors, written.metadata) == (name if written.tensors else None)
