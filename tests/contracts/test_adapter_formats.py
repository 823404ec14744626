"""What every adapter format promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.adapter import Adapter
from lorakit.cli import convert
from lorakit.delta import relative_error
from lorakit.errors import InputError
from lorakit.formats.adapters import checked, decode, sniff
from lorakit.formats.codec import Context, Encoded
from lorakit.registry import ADAPTER_FORMATS
from tests.support.adapter_files import random_adapter

WRITABLE = [name for name in ADAPTER_FORMATS.names() if hasattr(ADAPTER_FORMATS[name], "encode")]


def test_the_program_offers_what_can_be_written():
    assert sorted(convert.WRITTEN) == WRITABLE


EMBEDDINGS = [name for name in WRITABLE if "embedding" in name]
DELTAS = [name for name in WRITABLE if name not in EMBEDDINGS]
# Attention of a text encoder and of the UNet: what every format of deltas has a place for.
NAMES = [
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
    "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
    "text_encoder.text_model.encoder.layers.1.self_attn.q_proj",
]


def contents(encoded: Encoded) -> tuple[dict, dict]:
    """As `formats.files` would read it."""
    tensors, metadata = dict(encoded.tensors), dict(encoded.metadata)
    for path, content in encoded.folder.items():
        prefix = f"{path.rpartition('/')[0]}/" if "/" in path else ""
        if isinstance(content, str):
            metadata[f"{prefix}adapter_config"] = content
        else:
            tensors |= {f"{prefix}{key}": x for key, x in content[0].items()}
    return tensors, metadata


def written(adapter: Adapter, name: str) -> tuple[dict, dict]:
    encoded = ADAPTER_FORMATS[name].encode(adapter, Context.of(adapter))
    assert encoded.losses == ()
    return contents(encoded)


def example(name: str) -> Adapter:
    if name in EMBEDDINGS:
        return Adapter(
            modules={}, embeddings={"<s1>": {"text_encoder": np.arange(2 * 768, dtype="f4").reshape(2, 768)}}
        )
    return random_adapter("sd1", NAMES, ranks=(4, 3), alphas=(2.0, 3.0))


@settings(max_examples=25, deadline=None)
@given(
    ranks=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    seed=st.integers(0, 9),
    alphas=st.lists(st.floats(0.01, 64, allow_nan=False), min_size=1, max_size=3),
    dtype=st.sampled_from(["f4", "f2"]),
)
@pytest.mark.parametrize("name", DELTAS)
def test_what_is_written_reads_back_to_the_same_deltas(name, ranks, alphas, seed, dtype):
    before = random_adapter("sd1", NAMES, ranks=tuple(ranks), alphas=tuple(alphas), seed=seed, dtype=dtype)
    after = checked(decode(*written(before, name), "file"), "file")
    assert {n for n, d in after.modules.items() if d.norm()} == set(NAMES)
    for module, delta in before.modules.items():
        assert relative_error(delta, after.modules[module]) < 1e-6


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_a_token_reads_back(name):
    after = checked(decode(*written(example(name), name), "file"), "file")
    (vectors,) = [by["text_encoder"] for by in after.embeddings.values()]
    np.testing.assert_array_equal(np.asarray(vectors), example(name).embeddings["<s1>"]["text_encoder"])


@pytest.mark.parametrize("name", WRITABLE)
def test_one_format_alone_takes_a_file(name):
    tensors, metadata = written(example(name), name)
    shapes = {key: tuple(x.shape) for key, x in tensors.items()}
    assert sniff(tensors, metadata) == name
    assert [other for other in ADAPTER_FORMATS.names() if ADAPTER_FORMATS[other].matches(shapes, metadata)] == [name]


@pytest.mark.parametrize("name", DELTAS)
def test_a_stray_key_is_named(name):
    tensors, metadata = written(example(name), name)
    with pytest.raises(InputError, match="nowhere"):
        checked(decode(tensors | {"nowhere.at.all": np.ones((1, 1), "f4")}, metadata, "file"), "file")


@pytest.mark.parametrize("name", DELTAS)
def test_a_half_module_is_named(name):
    tensors, metadata = written(example(name), name)
    first = next(key for key in tensors if any(up in key for up in ("lora_up", "lora_B", ":up")))
    with pytest.raises(InputError):
        checked(decode({key: x for key, x in tensors.items() if key != first}, metadata, "file"), "file")


@pytest.mark.parametrize("name", WRITABLE)
def test_writing_leaves_the_adapter_as_it_was(name):
    adapter = example(name)
    arrays = {n: {k: np.array(x) for k, x in d.arrays().items()} for n, d in adapter.modules.items()}
    written(adapter, name)
    for n, d in adapter.modules.items():
        for field, x in d.arrays().items():
            np.testing.assert_array_equal(x, arrays[n][field])


@pytest.mark.parametrize("spelling", ["text_model_encoder", "encoder"])
@pytest.mark.parametrize("alpha", [None, np.float32(2), np.array([2.0], "f2"), np.int64(2)])
def test_alphas_of_every_shape_and_both_spellings_of_text_model(spelling, alpha):
    stem = f"lora_te_{spelling}_layers_0_mlp_fc1"
    tensors = {f"{stem}.lora_down.weight": np.ones((4, 768), "f4"), f"{stem}.lora_up.weight": np.ones((3072, 4), "f4")}
    if alpha is not None:
        tensors[f"{stem}.alpha"] = np.asarray(alpha)
    delta = checked(decode(tensors, {}, "file"), "file").modules["text_encoder.text_model.encoder.layers.0.mlp.fc1"]
    assert delta.scale == (1 if alpha is None else 0.5)


def test_alpha_zero_is_read_as_the_rank_and_said():
    stem = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    tensors = {
        f"{stem}.lora_down.weight": np.ones((4, 768), "f4"),
        f"{stem}.lora_up.weight": np.ones((3072, 4), "f4"),
        f"{stem}.alpha": np.float32(0),
    }
    adapter = checked(decode(tensors, {}, "file"), "file")
    assert next(iter(adapter.modules.values())).scale == 1 and "alpha 0" in adapter.notes[0]


def test_an_architecture_without_tables_keeps_its_names():
    tensors = {
        f"lora_unet_double_blocks_0_img_attn_qkv.lora_{way}.weight": np.ones(shape, "f4")
        for way, shape in (("down", (2, 8)), ("up", (9, 2)))
    }
    adapter = checked(decode(tensors, {}, "file"), "file")
    assert list(adapter.modules) == ["lora_unet_double_blocks_0_img_attn_qkv"] and adapter.notes
    assert ADAPTER_FORMATS["kohya"].encode(adapter, Context.of(adapter)).tensors.keys() >= tensors.keys()
