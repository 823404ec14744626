"""Which codec takes a file, and the codecs that only read."""

import json
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
from lorakit.formats.codec import Context
from lorakit.registry import ADAPTER_FORMATS, TRAINABLE
from lorakit.training import checkpoints, optimizers, variants
from lorakit.training.state import State
from tests.support.adapter_files import random_adapter

PATH = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
KEYS = {  # a key or two of every format, and of none
    "kohya": ("lora_unet_conv_in.lora_down.weight", "lora_te1_text_projection.alpha", "oft_unet_conv_in.oft_blocks"),
    "cloneofsimo": ("unet:0:up", "3", "text_encoder/0"),
    "peft": (f"base_model.model.{PATH}.lora_A.weight", f"unet/base_model.model.{PATH}.lora_B.weight"),
    "xlabs": (
        "double_blocks.0.processor.qkv_lora1.down.weight",
        "diffusion_model.single_blocks.0.processor.proj_lora.up.weight",
    ),
    "lycoris": ("lycoris_conv_in.lokr_w1",),
    "comfy": ("diffusion_model.out.2.lora_up.weight", "text_encoders.clip_g.transformer.text_projection.diff"),
    "omi": ("unet.input_blocks.0.0.lora_up.weight", "clip_l.text_model.encoder.layers.0.mlp.fc1.lora_down.weight"),
    "diffusers-old": (
        f"unet.{PATH}.lora.down.weight",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight",
    ),
    "diffusers": (
        f"unet.{PATH}.lora_A.weight",
        "transformer.blocks.0.lora_B.weight",
        "text_encoder.x.hada_w1_a",
        "blocks.0.attn.q.lora_up.weight",
    ),
    "a1111-embedding": ("string_to_param.*", "emb_params"),
    "comfy-embedding": ("clip_l", "clip_g"),
    "diffusers-embedding": ("<s1>", "text_encoders_0"),
    None: (
        "conv_in.weight",
        "unet.conv_in.weight",
        "double_blocks.0.processor.ip_adapter.weight",
        "x.alpha",
        "decoder.bias",
        "diffusion_model.out.2.weight",
    ),
}


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
        f"unet.{PATH}": LoKr,
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": Full,
    }
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


@pytest.mark.parametrize(("variant", "init"), [*((name, "gaussian") for name in TRAINABLE.names()), ("lora", "pissa")])
def test_a_checkpoint_is_the_adapter_that_training_would_write(variant, init, tmp_path):
    root = {"unet": Block()}
    targets = variants.targets(root, "conv_|linear_1", [variants.parse("conv_out=2:7")], 4, 6.0)
    attached = variants.attach(targets, TRAINABLE[variant], lambda shape, name: normal(shape, 0, name), init=init)
    for parameter in attached.parameters.values():
        torch.nn.init.normal_(parameter)
    optimizer = optimizers.make("adamw", [optimizers.OptimizerGroup(attached.parameters)], 0.1)
    sum(p.square().sum() for p in attached.parameters.values()).backward()
    optimizer.step()
    fixed = {name: x for name, x in attached.state().items() if name not in attached.parameters}
    scales = {name: branch.spec.scale for name, branch in attached.branches.items()}
    notes = {"lorakit.variant": variant, "lorakit.scale": "1.5", "lorakit.scales": json.dumps(scales)}
    state = State(attached.parameters, optimizer, fixed=fixed).tensors()
    saved = checkpoints.read(checkpoints.save(tmp_path, 5, state, notes, keep=1))
    read, written = checked(decode(saved.tensors, saved.notes, "file"), "file"), attached.deltas()
    assert read.format == "lorakit" and read.modules.keys() == written.keys() and not read.unknown
    for name, delta in written.items():
        base = root["unet"].get_submodule(name.removeprefix("unet.")).weight.detach()
        wanted, got = (torch.as_tensor(x.delta(base)).reshape(base.shape) for x in (delta, read.modules[name]))
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_learned_tokens_of_a_checkpoint_are_read():
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    notes = {"lorakit.checkpoint": "1", "lorakit.tokens": '{"<a>": 2, "<b>": 1}'}
    adapter = decode({"parameter/tokens.text_encoder": rows, "optimizer": np.zeros(3, np.uint8)}, notes, "file")
    assert {token: by["text_encoder"].tolist() for token, by in adapter.embeddings.items()} == {
        "<a>": rows[:2].tolist(),
        "<b>": rows[2:].tolist(),
    }


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
