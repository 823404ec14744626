"""Which program made an adapter."""

import pytest

from lorakit.adapter import Adapter
from lorakit.formats import trainers

QKV = "lora_unet_double_blocks_0_img_attn_qkv"


@pytest.mark.parametrize(
    ("metadata", "key", "program"),
    [
        ({"ss_network_module": "networks.lora_flux"}, "", "sd-scripts"),
        ({"ss_network_module": "lycoris.kohya"}, "", "LyCORIS in sd-scripts"),
        ({"ss_network_module": "networks.lora_wan"}, "", "musubi-tuner"),
        ({"software": '{"name": "ai-toolkit"}'}, "", "ai-toolkit"),
        ({"ot_branch": "master", "ss_base_model_version": "sdxl_"}, "", "OneTrainer"),
        ({"lorakit.version": "0.1.0", "ss_network_module": "x"}, "", "lorakit"),
        ({"lora_adapter_metadata": "{}"}, "", "diffusers"),
        ({}, "double_blocks.0.processor.qkv_lora1.down.weight", "XLabs"),
        ({}, "lora_transformer_transformer_blocks_0_attn_to_q.alpha", "OneTrainer"),
        ({}, "base_model.model.blocks.0.q.lora_A.weight", "PEFT"),
        ({"software": "other"}, f"{QKV}.alpha", None),
    ],
)
def test_a_program_is_told_by_what_only_it_writes(metadata, key, program):
    assert trainers.of(Adapter(modules={}, metadata=metadata, keys={"x": key})) == program
