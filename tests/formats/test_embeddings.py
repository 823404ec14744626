"""Learned tokens in every file they come in, and that diffusers makes the same of ours."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from lorakit.adapter import Adapter
from lorakit.arrays import Stored, floats
from lorakit.deltas.low_rank import LowRank
from lorakit.formats import files
from lorakit.formats.adapters import a1111_embedding, checked, decode, diffusers_embedding, sniff
from lorakit.formats.codec import Context
from tests.support.pipelines import pipeline, save

PARTS = {768: "text_encoder", 1024: "text_encoder", 1280: "text_encoder_2"}


def vectors(n: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width)).astype("f4")


def held(adapter: Adapter) -> dict[str, dict[str, tuple[int, ...]]]:
    return {token: {part: tuple(x.shape) for part, x in by.items()} for token, by in adapter.embeddings.items()}


@pytest.mark.parametrize(
    ("tensors", "metadata", "name", "expected"),
    [
        (
            {"string_to_param.*": (4, 768)},
            {"name": "cat", "string_to_token.*": "265"},
            "a1111-embedding",
            {"cat": {"text_encoder": (4, 768)}},
        ),
        (
            {"string_to_param._parameters.*": (4, 1024)},
            {"name": "cat"},
            "a1111-embedding",
            {"cat": {"text_encoder": (4, 1024)}},
        ),
        ({"emb_params": (2, 768)}, {"ss_output_name": "dog"}, "a1111-embedding", {"dog": {"text_encoder": (2, 768)}}),
        ({"emb_params": (2, 1280)}, {}, "a1111-embedding", {"embedding": {"text_encoder_2": (2, 1280)}}),
        (
            {"clip_l": (2, 768), "clip_g": (2, 1280)},
            {"name": "x"},
            "comfy-embedding",
            {"x": {"text_encoder": (2, 768), "text_encoder_2": (2, 1280)}},
        ),
        ({"<krk>": (768,)}, {}, "diffusers-embedding", {"<krk>": {"text_encoder": (1, 768)}}),
        ({"<krk>": (3, 32)}, {}, "diffusers-embedding", {"<krk>": {"text_encoder": (3, 32)}}),
        ({"any width": (3, 640)}, {}, "diffusers-embedding", {"any width": {"text_encoder": (3, 640)}}),
        ({"my cat": (2, 1280)}, {}, "diffusers-embedding", {"my cat": {"text_encoder_2": (2, 1280)}}),
        (
            {"<a>": (768,), "b": (1, 768)},
            {},
            "diffusers-embedding",
            {"<a>": {"text_encoder": (1, 768)}, "b": {"text_encoder": (1, 768)}},
        ),
        (
            {"text_encoders_0": (2, 768), "text_encoders_1": (2, 1280)},
            {},
            "diffusers-embedding",
            {f"<s{i}>": {"text_encoder": (1, 768), "text_encoder_2": (1, 1280)} for i in (0, 1)},
        ),
    ],
)
def test_every_kind_of_file_is_read(tensors, metadata, name, expected):
    tensors = {key: np.ones(shape, "f4") for key, shape in tensors.items()}
    adapter = checked(decode(tensors, metadata, "file"), "file")
    assert (adapter.format, held(adapter)) == (name, expected)
    assert any("does not name its token" in note for note in adapter.notes) == ("embedding" in expected)


@pytest.mark.parametrize(
    "shapes",
    [
        {"weight": (768,)},
        {"text_model.final_layer_norm.weight": (768,), "text_model.final_layer_norm.bias": (768,)},
        {"cat": (2, 5)},
        {"cat": (2, 768), "conv": (3, 3, 3, 768)},
        {"cat": ()},
    ],
)
def test_tensors_of_a_token_s_width_are_not_taken_for_one(shapes):
    assert sniff({key: np.ones(shape, "f4") for key, shape in shapes.items()}, {}) is None


def test_rows_of_pivotal_tuning_are_a_token_each():
    rows = vectors(3, 768)
    for x in (
        rows,
        torch.from_numpy(rows),
        Stored("F32", (3, 768), rows.tobytes),
        Stored("F32", (3, 768), lambda: bytearray(rows.tobytes())),
    ):
        adapter = checked(decode({"text_encoders_0": x}, {}, "file"), "file")
        assert list(adapter.embeddings) == ["<s0>", "<s1>", "<s2>"]
        np.testing.assert_array_equal(floats(adapter.embeddings["<s1>"]["text_encoder"]), rows[1:2])


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"emb_params": np.ones((1, 2, 768), "f4")}, "one or two dimensions"),
        ({"clip_l": np.ones((0, 768), "f4")}, "one or two dimensions"),
        ({"string_to_param.*": np.ones(768, "f4"), "emb_params": np.ones(768, "f4")}, "a second embedding"),
    ],
)
def test_vectors_of_another_shape_are_a_fault(tensors, words):
    (fault,) = decode(tensors, {}, "file").faults
    assert words in fault


@pytest.mark.parametrize("key", ["clip_l_out", "clip_g_out", "t5xxl"])
def test_vectors_of_no_text_encoder_of_ours_are_named(key):
    (fault,) = decode({"clip_l": np.ones((1, 768)), key: np.ones((1, 768))}, {}, "file").faults
    assert fault.startswith(f"{key}: ") and "which lorakit does not read" in fault


def test_what_belongs_to_nothing_stays_unknown():
    adapter = decode({"clip_l": np.ones((1, 768)), "clip_x": np.ones((1, 768))}, {"name": "x"}, "file")
    assert list(adapter.unknown) == ["clip_x"]


ONE, TWO = {"text_encoder": vectors(2, 768)}, {"text_encoder": vectors(2, 768), "text_encoder_2": vectors(2, 1280, 1)}


@pytest.mark.parametrize(
    ("by_part", "keys"),
    [(ONE, {"emb_params"}), (TWO, {"clip_l", "clip_g"}), ({"text_encoder_2": TWO["text_encoder_2"]}, {"clip_g"})],
)
def test_a1111_gets_one_key_for_one_text_encoder_and_two_for_two(by_part, keys):
    written = a1111_embedding.encode(Adapter(modules={}, metadata={"a": "b"}, embeddings={"cat": by_part}), Context())
    assert written.tensors.keys() == keys and written.metadata == {"a": "b", "name": "cat"} and written.losses == ()
    read = checked(decode(written.tensors, written.metadata, "file"), "file")
    assert held(read) == {"cat": {part: tuple(x.shape) for part, x in by_part.items()}}


@pytest.mark.parametrize("codec", [a1111_embedding, diffusers_embedding])
def test_all_but_one_token_is_lost_by_name(codec):
    low = LowRank(np.ones((1, 4), "f4"), np.ones((4, 1), "f4"), 1.0)
    adapter = Adapter(
        modules={"unet.conv_in": low},
        biases={"unet.conv_out": np.ones(4)},
        embeddings={"a": ONE, "b": ONE},
        unknown={"x": np.ones(1)},
    )
    written = codec.encode(adapter, Context())
    assert [line.partition(":")[0] for line in written.losses] == ["unet.conv_in", "unet.conv_out", "x", "b"]
    assert len(written.tensors) == 1


@pytest.mark.parametrize("codec", [a1111_embedding, diffusers_embedding])
def test_without_a_token_nothing_is_written(codec):
    assert codec.encode(Adapter(modules={}), Context()).tensors == {}


def test_diffusers_files_for_two_text_encoders_are_as_its_scripts_write_them():
    written = diffusers_embedding.encode(Adapter(modules={}, embeddings={"cat": TWO}), Context())
    assert written.tensors.keys() == {"clip_l", "clip_g"} and written.losses == ()
    read = checked(decode(written.tensors, written.metadata, "file"), "file")
    assert held(read) == {"cat": {"text_encoder": (2, 768), "text_encoder_2": (2, 1280)}}


def test_diffusers_loads_our_tokens_for_two_text_encoders(tmp_path):
    pipe = pipeline(tmp_path / "model", "sdxl")
    pipe.tokenizer_2 = copy.deepcopy(pipe.tokenizer)
    rows = {"text_encoder": vectors(2, 32), "text_encoder_2": vectors(2, 32, 1)}
    written = diffusers_embedding.encode(Adapter(modules={}, embeddings={"<cat>": rows}), Context())
    tensors = load_file(save(tmp_path / "out", written))
    for key, part, tokenizer in (("clip_l", "text_encoder", "tokenizer"), ("clip_g", "text_encoder_2", "tokenizer_2")):
        to = {"text_encoder": getattr(pipe, part), "tokenizer": getattr(pipe, tokenizer)}
        pipe.load_textual_inversion(tensors[key], token="<cat>", **to)
        ids = to["tokenizer"].convert_tokens_to_ids(["<cat>", "<cat>_1"])
        np.testing.assert_array_equal(
            to["text_encoder"].get_input_embeddings().weight.detach()[ids].numpy(), rows[part]
        )


@settings(max_examples=30, deadline=None)
@given(
    token=st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(
        lambda t: (
            t == t.strip()
            and "/" not in t
            and "." not in t
            and not t.isdigit()
            and ":" not in t
            and not t.startswith(("lora_", "lycoris_", "oft_"))
        )
    ),
    width=st.sampled_from([768, 1024, 1280]),
    n=st.integers(1, 4),
    dtype=st.sampled_from(["f4", "f2", "f8"]),
    codec=st.sampled_from([a1111_embedding, diffusers_embedding]),
)
def test_any_token_survives(token, width, n, dtype, codec):
    rows = vectors(n, width).astype(dtype)
    written = codec.encode(Adapter(modules={}, embeddings={token: {PARTS[width]: rows}}), Context())
    read = checked(decode(written.tensors, written.metadata, "file"), "file")
    np.testing.assert_array_equal(read.embeddings[token][PARTS[width]], rows)


@pytest.mark.parametrize("n", [1, 3])
def test_diffusers_loads_our_tokens(tmp_path, n):
    pipe = pipeline(tmp_path / "model", "sd1")
    rows = vectors(n, 32)
    written = diffusers_embedding.encode(Adapter(modules={}, embeddings={"<cat>": {"text_encoder": rows}}), Context())
    pipe.load_textual_inversion(str(save(tmp_path / "out", written)))
    embedded = pipe.text_encoder.get_input_embeddings().weight.detach()
    ids = pipe.tokenizer.convert_tokens_to_ids(["<cat>", *(f"<cat>_{i}" for i in range(1, n))])
    assert pipe.tokenizer.unk_token_id not in ids
    np.testing.assert_array_equal(embedded[ids].numpy(), rows)


def test_we_read_what_a1111_pickles(tmp_path):
    rows = torch.from_numpy(vectors(2, 768))
    tree = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": rows},
        "name": "cat",
        "step": 10,
        "sd_checkpoint": None,
    }
    for i, params in enumerate(({"*": rows}, torch.nn.ParameterDict({"*": torch.nn.Parameter(rows)}))):
        torch.save({**tree, "string_to_param": params}, tmp_path / f"{i}.pt")
        adapter = files.read(tmp_path / f"{i}.pt")
        assert adapter.metadata["step"] == "10"
        np.testing.assert_array_equal(floats(adapter.embeddings["cat"]["text_encoder"]), rows)
