import pytest
import torch

from lorakit.adapter import Adapter
from lorakit.deltas.low_rank import LowRank
from lorakit.errors import InputError
from lorakit.formats.adapters import decode
from lorakit.registry import ADAPTER_FORMATS
from lorakit.targets import kohya_name_of, kohya_names

ATTENTION = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
CONV = "unet.up_blocks.1.resnets.0.conv1"
TEXT = "text_encoder.text_model.encoder.layers.1.self_attn.q_proj"


def adapter() -> Adapter:
    return Adapter(
        {
            ATTENTION: LowRank(torch.randn(4, 6), torch.randn(5, 4), 2.0),
            CONV: LowRank(torch.randn(2, 3, 3, 3), torch.randn(5, 2, 1, 1), 2.0),
            TEXT: LowRank(torch.randn(3, 6), torch.randn(6, 3), 3.0),
        }
    )


@pytest.mark.parametrize("name", ADAPTER_FORMATS.names())
def test_what_is_written_reads_back_to_the_same_deltas(name):
    before = adapter()
    tensors = ADAPTER_FORMATS[name].encode(before)
    after = decode(tensors, {}, "file")
    assert after.modules.keys() == before.modules.keys()
    for module, low in before.modules.items():
        torch.testing.assert_close(after.modules[module].delta(), low.delta(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ADAPTER_FORMATS.names())
def test_one_format_alone_takes_a_file(name):
    keys = ADAPTER_FORMATS[name].encode(adapter()).keys()
    assert [other for other in ADAPTER_FORMATS.names() if ADAPTER_FORMATS[other].matches(keys)] == [name]


@pytest.mark.parametrize("name", ADAPTER_FORMATS.names())
def test_a_stray_key_is_named(name):
    tensors = ADAPTER_FORMATS[name].encode(adapter()) | {"lora_unet_nowhere.lora_down.weight": torch.ones(1, 1)}
    with pytest.raises(InputError, match="lora_unet_nowhere"):
        decode(tensors, {}, "file")


def test_flattened_names_are_never_ambiguous():
    assert len(set(kohya_names())) == len(kohya_names())
    assert all(kohya_names()[theirs] == ours for ours, theirs in kohya_name_of().items())


def test_a_missing_alpha_means_the_rank():
    tensors = ADAPTER_FORMATS["kohya"].encode(adapter())
    stem = kohya_name_of()[ATTENTION]
    del tensors[f"{stem}.alpha"]
    assert decode(tensors, {}, "file").modules[ATTENTION].scale == 1
