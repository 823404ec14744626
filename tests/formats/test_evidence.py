"""The family of an adapter is told by all that its file tells."""

from dataclasses import replace

import numpy as np
import pytest

from lorakit.adapter import Adapter
from lorakit.errors import InputError
from lorakit.families import CONV_IN, INPAINTING, table
from lorakit.formats.adapters import checked, decode
from lorakit.formats.bases import check_same, families_of
from lorakit.formats.codec import Context
from lorakit.formats.evidence import family_of
from lorakit.registry import ADAPTER_FORMATS
from tests.support.adapter_files import random_adapter


def text(name: str) -> bool:
    return name.startswith("text_encoder.") and "layers.1.self_attn" in name


def slider(name: str) -> bool:
    return name.startswith("unet.down_blocks.0.") and ".attn1." in name


def read(family: str, names, metadata=None, fmt: str = "kohya") -> Adapter:
    """The adapter in a file as others write it: spelled for its family, with these metadata alone."""
    adapter = random_adapter(family, names, ranks=(1,))
    written = ADAPTER_FORMATS[fmt].encode(adapter, Context.of(adapter, [family]))
    return checked(decode(written.tensors, metadata or {}, "file"), "file")


XL = {"ss_base_model_version": "sdxl_base_v1-0"}
SPEC = "modelspec.architecture"


@pytest.mark.parametrize(
    ("family", "names", "metadata", "families"),
    [
        ("sdxl", text, XL, ["sdxl", "sd1"]),
        ("sdxl", text, {}, ["sdxl", "sd1"]),
        ("sd1", text, {}, ["sd1", "sdxl"]),
        ("sd1", text, XL, ["sdxl", "sd1"]),
        ("sdxl", text, {SPEC: "stable-diffusion-v1/lora"}, ["sd1", "sdxl"]),
        ("sd2", slider, {}, ["sd1", "sd2"]),
        ("sd2", slider, {"ss_v2": "True"}, ["sd2"]),
        ("sd2", slider, {"ss_base_model_version": "sd_v2"}, ["sd2"]),
        ("sd1", slider, {"ss_base_model_version": "sd_v1"}, ["sd1"]),
        ("sd2", slider, {SPEC: "stable-diffusion-v2-768-v/lora"}, ["sd2"]),
        ("sd2", slider, XL, ["sd1", "sd2"]),
        ("sd2", lambda name: slider(name) or name.endswith("down_blocks.0.attentions.0.proj_in"), {}, ["sd2", "sd1"]),
    ],
)
def test_ties_of_the_shapes_are_broken(family, names, metadata, families):
    assert families_of(read(family, names, metadata)) == families


def test_shapes_count_more_than_what_the_metadata_say():
    found = family_of(read("sd1", lambda name: name.startswith("unet.") and ".attn2." in name, XL))
    assert found.families == ("sd1",) and "not SDXL" in found.evidence


@pytest.mark.parametrize(
    ("names", "metadata", "families", "said"),
    [
        (
            slider,
            {"ss_base_model_version": "sd_v2", SPEC: "stable-diffusion-v1/lora"},
            ("sd2",),
            "not SD1, as its modelspec.architecture",
        ),
        (
            slider,
            {"ss_base_model_version": "sdxl_refiner_v1-0", SPEC: "stable-diffusion-v1/lora"},
            ("sd1",),
            "not the SDXL refiner, as its ss_",
        ),
        (
            lambda name: name.endswith("attn2.to_k"),
            {"ss_base_model_version": "flux1"},
            ("sd1",),
            "not Flux.1, as its ss_base_model_version",
        ),
        (
            lambda name: name.endswith("attn2.to_k"),
            {"ss_base_model_version": "sd_v1", "ss_v2": "True"},
            ("sd1",),
            "not SD2, as its ss_v2",
        ),
    ],
)
def test_metadata_that_contradict_one_another_or_the_shapes_are_told(names, metadata, families, said):
    found = family_of(read("sd1", names, metadata))
    assert found.families == families and said in found.evidence


def test_learned_tokens_break_ties_too():
    adapter = read("sdxl", text)
    vectors = {"<s>": {"text_encoder": np.ones((1, 768), "f4"), "text_encoder_2": np.ones((1, 1280), "f4")}}
    found = family_of(replace(adapter, keys={}, embeddings=vectors))
    assert found.families == ("sdxl",) and "its learned tokens are not for SD1" in found.evidence
    first = {"<s>": {"text_encoder": vectors["<s>"]["text_encoder"]}}
    assert families_of(replace(adapter, embeddings=first)) == ["sd1", "sdxl"]
    odd = {"<s>": {"text_encoder": np.ones((1, 1024), "f4")}}
    assert families_of(replace(adapter, embeddings=odd)) == ["sdxl", "sd1"]
    assert families_of(Adapter(modules={}, embeddings=vectors)) == ["sdxl"]


def test_families_are_intersected_and_only_disjoint_ones_are_refused():
    said = {"sd1": "sd_v1", "sd2": "sd_v2"}
    one, two = (read(family, slider, {"ss_base_model_version": version}) for family, version in said.items())
    xl = read("sdxl", lambda name: "mid_block.attentions.0.transformer_blocks.7." in name)
    either, clip = read("sd2", slider), read("sd1", text)
    assert check_same([("a", either), ("b", two)]) == ["sd2"]
    assert check_same([("a", clip), ("b", either), ("c", one)]) == ["sd1"]
    assert check_same([("a", clip), ("b", Adapter(modules={}))]) == ["sd1", "sdxl"]
    with pytest.raises(InputError, match="a is for sd1 or sd2, b for sd1, c for sd2"):
        check_same([("a", either), ("b", one), ("c", two)])
    with pytest.raises(InputError, match="different base models"):
        check_same([("a", two), ("c", xl)])


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("fmt", ["kohya", "diffusers", "comfy", "lorakit"])
def test_an_inpainting_adapter_is_of_its_family_and_is_written_whole(family, fmt):
    shapes = dict(table(family))
    shapes[CONV_IN] = (shapes[CONV_IN][0], INPAINTING, 3, 3)
    names = [CONV_IN, *(name for name in shapes if "down_blocks.1.attentions.0." in name and len(shapes[name]) > 1)]
    adapter = random_adapter(shapes, names, ranks=(2,), alphas=(2.0,))
    found = family_of(adapter)
    assert found.family == family and "9 inputs" in found.evidence
    written = ADAPTER_FORMATS[fmt].encode(adapter, Context.of(adapter))
    again = checked(decode(written.tensors, written.metadata, "file"), "file")
    assert again.modules[CONV_IN].shape == shapes[CONV_IN] and families_of(again) == [family]


def test_a_file_does_not_say_a_family_that_it_may_not_be_of():
    adapter = random_adapter("sd2", slider, ranks=(1,))
    for name in ("kohya", "lorakit", "comfy"):
        assert (
            not {"ss_base_model_version", SPEC}
            & ADAPTER_FORMATS[name].encode(adapter, Context.of(adapter)).metadata.keys()
        )
        sure = ADAPTER_FORMATS[name].encode(adapter, Context.of(adapter, ["sd2"])).metadata
        assert "stable-diffusion-v2" in sure[SPEC]


def test_clips_text_encoders_alone_are_of_an_architecture_that_the_metadata_name():
    found = family_of(read("sd1", text, {"ss_base_model_version": "flux1"}))
    assert (found.family, found.architectures) == (None, ("flux1",))
    assert family_of(read("sd1", text, {"ss_base_model_version": "wan2.1"})).family == "sd1"  # Wan has no CLIP to train
