import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorakit.adapter import Adapter
from lorakit.arrays import Stored, cast, raw
from lorakit.deltas.full import Full
from lorakit.deltas.low_rank import LowRank
from lorakit.errors import InputError, NumericError, RefusedError, UnavailableError
from lorakit.formats.layouts import open_model
from lorakit.fusing import fuse
from lorakit.fusing import weights as job
from lorakit.io.record import RECORD
from lorakit.talk import Talk
from tests import tiny

TOKENS = "text_model.embeddings.token_embedding.weight"


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def both(request, tmp_path_factory) -> tuple[str, Path, Path]:
    place = tmp_path_factory.mktemp(request.param)
    folder = tiny.make(place / "model", request.param, layers=2)
    return request.param, folder, tiny.single(folder, place / "model.safetensors", request.param)


def adapter_for(folder: Path, scale: float = 0.1) -> Adapter:
    """A delta for every weight of the UNet and the text encoders; convolutions' are dense."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    modules = {
        name: LowRank(normal(3, x.shape[1]), normal(x.shape[0], 3), 1.5) if x.ndim == 2 else Full(normal(*x.shape))
        for name, x in open_model(folder).weights().items()
    }
    return Adapter(modules=modules, biases={"unet.conv_in": normal(32)})


def sums(folder: Path, adapter: Adapter) -> dict[str, np.ndarray]:
    expected = {name: x.float().astype(np.float64) for name, x in open_model(folder).arrays.items()}
    for name, delta in adapter.modules.items():
        if isinstance(delta, LowRank):
            dense = delta.up.astype(np.float64) @ delta.down.astype(np.float64) * (delta.alpha / 3)
        else:
            dense = delta.diff
        expected[f"{name}.weight"] = expected[f"{name}.weight"] + dense
    for name, x in adapter.biases.items():
        expected[f"{name}.bias"] = expected[f"{name}.bias"] + x
    return expected


def tokenizer(folder: Path) -> Path:
    return folder / "tokenizer"


@pytest.mark.parametrize("source", ["folder", "file"])
@pytest.mark.parametrize("target", ["folder", "out.safetensors", "out.ckpt"])
def test_every_pair_of_layouts_holds_the_sum(both, tmp_path, source, target):
    _, folder, file = both
    adapter = adapter_for(folder)
    model = folder if source == "folder" else file
    result = fuse(adapter, str(model), tmp_path / target, tokenizer=tokenizer(folder))
    assert result["outputs"] == [str(tmp_path / target)]
    assert result["unmatched"] == []
    got, expected = open_model(tmp_path / target).arrays, sums(folder, adapter)
    assert set(expected) == set(got)
    for name, x in expected.items():
        np.testing.assert_allclose(got[name].float(), x, atol=1e-6, rtol=1e-5, err_msg=name)


def test_the_file_is_the_converted_folder_bit_for_bit(both, tmp_path):
    _, folder, file = both
    adapter = adapter_for(folder)
    options = {"dtype": "float16", "stochastic_rounding": True, "seed": 3}
    fuse(adapter, str(folder), tmp_path / "a.safetensors", **options)
    fuse(adapter, str(file), tmp_path / "b.safetensors", **options)
    a, b = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    extra = {key for key in b if key not in a}
    assert all("model_ema" in key or "text_projection" in key for key in extra)
    assert all(torch.equal(x, b[key]) for key, x in a.items() if "resblocks.2." not in key and key != "v_pred")


def test_open_clip_rows_and_the_transposed_projection_by_hand(both, tmp_path):
    family, _, file = both
    if family != "sdxl":
        pytest.skip("SDXL's second text encoder")
    k, projection = np.random.rand(32, 32).astype("f4"), np.random.rand(32, 32).astype("f4")
    layer = "text_encoder_2.text_model.encoder.layers.1.self_attn.k_proj"
    fuse(
        Adapter(modules={layer: Full(k), "text_encoder_2.text_projection": Full(projection)}),
        str(file),
        tmp_path / "o.safetensors",
    )
    a, b = load_file(file), load_file(tmp_path / "o.safetensors")
    key = "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight"
    np.testing.assert_allclose((b[key] - a[key])[32:64], k, atol=1e-6)
    assert torch.equal(b[key][:32], a[key][:32])
    assert torch.equal(b[key][64:], a[key][64:])
    key = "conditioner.embedders.1.model.text_projection"
    np.testing.assert_allclose(b[key] - a[key], projection.T, atol=1e-6)


def test_untouched_tensors_and_files_are_the_same_bytes(both, tmp_path):
    _, folder, file = both
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    shape = open_model(folder).arrays[f"{name}.weight"].shape
    adapter = Adapter(modules={name: Full(np.ones(shape, np.float32))})
    fuse(adapter, str(file), tmp_path / "out.safetensors")
    before, after = load_file(file), load_file(tmp_path / "out.safetensors")
    assert set(before) == set(after)
    assert [key for key in before if not torch.equal(before[key], after[key])] == [
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
    ]
    fuse(adapter, str(folder), tmp_path / "out")
    same = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    written = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert same | {Path(RECORD)} == written
    changed = [str(path) for path in same if (folder / path).read_bytes() != (tmp_path / "out" / path).read_bytes()]
    assert changed == ["unet/diffusion_pytorch_model.safetensors"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_retained_share_is_what_is_measured(both, tmp_path, dtype):
    family, folder, file = both
    half = tmp_path / "half.safetensors"
    save_file({key: x.to(getattr(torch, dtype)) for key, x in load_file(file).items()}, half)
    adapter = replace(adapter_for(folder, 1e-3), biases={})
    result = fuse(adapter, str(half), tmp_path / "out.safetensors")
    before, after = open_model(half).arrays, open_model(tmp_path / "out.safetensors").arrays
    over = under = 0.0
    for name, delta in adapter.modules.items():
        dense = np.asarray(delta.delta(), np.float64)
        moved = after[f"{name}.weight"].float().astype(np.float64) - before[f"{name}.weight"].float()
        over, under = over + (moved * dense).sum(), under + (dense**2).sum()
    assert result["retained"] == pytest.approx(over / under, rel=1e-4)
    assert len(result["retained_worst"]) == 10
    assert min(result["retained_worst"].values()) <= result["retained"]
    assert family


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@pytest.mark.parametrize("value", [0.02501, -3.3e-5, 1.00001, 2e-7, 0.25])
def test_stochastic_rounding_has_no_bias(dtype, value):
    n, rng = 200_000, np.random.default_rng(0)
    values = np.full(n, value, np.float32)
    got = Stored(dtype, (n,), lambda: job._rounded(values, dtype, rng)).float().astype(np.float64)
    assert len(set(got)) <= 2
    step = np.ptp(got) or 1e-12
    assert abs(got.mean() - float(values[0])) <= 3 * step / 2 / n**0.5 + 1e-15
    nearest = Stored(dtype, (n,), lambda: raw(cast(values, dtype))).float()
    assert abs(got - value).max() < 2 * max(step, abs(nearest[0] - value)) + 1e-12


def test_values_that_a_type_has_stay_under_stochastic_rounding():
    exact = np.arange(-2048, 2048, dtype=np.float32) / 1024
    for dtype in ("F16", "BF16"):
        held = Stored(dtype, exact.shape, lambda dtype=dtype: raw(cast(exact, dtype))).float()
        again = Stored(
            dtype, exact.shape, lambda held=held, dtype=dtype: job._rounded(held, dtype, np.random.default_rng(1))
        )
        np.testing.assert_array_equal(again.float(), held)


def test_a_seed_decides_the_rounding(both, tmp_path):
    _, folder, _ = both
    adapter = adapter_for(folder)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fuse(adapter, str(folder), tmp_path / f"{name}.ckpt", dtype="bfloat16", stochastic_rounding=True, seed=seed)
    a, b, c = ((tmp_path / f"{name}.ckpt").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_what_does_not_fit_is_named_and_nothing_is_written(both, tmp_path):
    _, folder, file = both
    stray = Adapter(modules={f"unet.stray_{i}": Full(np.ones((2, 2), np.float32)) for i in range(12)})
    with pytest.raises(InputError, match=r"stray_0, .* and 2 more"):
        fuse(stray, str(file), tmp_path / "out.safetensors")
    assert len(fuse(stray, str(file), tmp_path / "a.safetensors", allow_unmatched=True)["unmatched"]) == 12
    with pytest.raises(InputError, match=r"conv_in is \[3, 3\]"):
        fuse(
            Adapter(modules={"unet.conv_in": Full(np.ones((3, 3), np.float32))}),
            str(file),
            tmp_path / "out.safetensors",
        )
    shape = open_model(folder).arrays["unet.conv_in.weight"].shape
    for target in ("out.safetensors", "out.ckpt", "out"):
        for value, dtype in ((np.nan, None), (1e5, "float16")):
            adapter = Adapter(modules={"unet.conv_in": Full(np.full(shape, value, np.float32))})
            with pytest.raises(NumericError):
                fuse(adapter, str(folder), tmp_path / target, dtype=dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    with pytest.raises(RefusedError):
        fuse(Adapter(modules={}), str(file), tmp_path / "a.safetensors")


@pytest.mark.parametrize("target", ["out.safetensors", "out.ckpt", "out"])
def test_an_end_in_the_middle_leaves_no_file(both, tmp_path, target):
    _, folder, _ = both

    def tick(done: int, of: int) -> None:
        if done > of // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fuse(adapter_for(folder), str(folder), tmp_path / target, talk=Talk(tick=tick))
    assert list(tmp_path.iterdir()) == []


def test_a_ckpt_is_plain_tensors(both, tmp_path):
    _, _, file = both
    fuse(Adapter(modules={}), str(file), tmp_path / "out.ckpt")
    expected = load_file(file)
    for mmap in (False, True):
        got = torch.load(tmp_path / "out.ckpt", weights_only=True, mmap=mmap)["state_dict"]
        assert set(got) == set(expected)
        assert all(torch.equal(got[key], x) for key, x in expected.items())


def learned(folder: Path) -> Adapter:
    parts = [part for part in ("text_encoder", "text_encoder_2") if (folder / part).is_dir()]
    vectors = {part: np.arange(64, dtype=np.float32).reshape(2, 32) / (100 + i) for i, part in enumerate(parts)}
    return Adapter(modules={}, embeddings={"<s1>": vectors})


@pytest.mark.parametrize("source", ["folder", "file"])
def test_a_learned_token_is_reached_by_the_tokenizer(both, tmp_path, source):
    from transformers import CLIPTextModel, CLIPTokenizer

    _, folder, file = both
    adapter = learned(folder)
    fuse(
        adapter,
        str(folder if source == "folder" else file),
        tmp_path / "out",
        tokenizer=tokenizer(folder) if source == "file" else None,
    )
    found = CLIPTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    assert found.convert_tokens_to_ids(["<s1>", "<s1>_1"]) == [2048, 2049]
    assert found("a <s1> dog").input_ids[2:-2].count(2048) == 1
    plain = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    assert found("a dog, here").input_ids == plain("a dog, here").input_ids
    encoder = CLIPTextModel.from_pretrained(tmp_path / "out" / "text_encoder")
    table = encoder.get_input_embeddings().weight.detach().numpy()
    assert table.shape == (2050, 32)
    np.testing.assert_array_equal(table[2048:], adapter.embeddings["<s1>"]["text_encoder"])


def test_a_learned_token_goes_beside_a_single_file(both, tmp_path):
    from lorakit.formats import files

    _, folder, file = both
    notes: list[str] = []
    result = fuse(learned(folder), str(file), tmp_path / "out.safetensors", talk=Talk(note=notes.append))
    assert result["outputs"] == [str(tmp_path / "out.safetensors"), str(tmp_path / "out.s1.safetensors")]
    assert any("out.s1.safetensors" in note for note in notes)
    held = files.read(tmp_path / "out.s1.safetensors")
    assert list(held.embeddings) == ["<s1>"]
    assert all(x.shape == (2, 32) for x in held.embeddings["<s1>"].values())


def test_a_folder_without_a_tokenizer_is_refused(both, tmp_path, monkeypatch):
    _, _, file = both
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)
    with pytest.raises(UnavailableError, match="tokenizer"):
        fuse(Adapter(modules={}), str(file), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", ["folder", "file"])
def test_diffusers_loads_the_folder_and_draws(both, tmp_path, source):
    from diffusers import DiffusionPipeline

    family, folder, file = both
    out = tmp_path / "out"
    model = folder if source == "folder" else file
    fuse(adapter_for(folder, 0.01), str(model), out, tokenizer=tokenizer(folder) if source == "file" else None)
    index = json.loads((out / "model_index.json").read_text())
    assert index["_class_name"] == ("StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline")
    if source == "folder":
        from diffusers import UNet2DConditionModel

        UNet2DConditionModel.from_pretrained(out / "unet")
        return
    pipeline = DiffusionPipeline.from_pretrained(out)
    pipeline.set_progress_bar_config(disable=True)
    size = {"height": 64, "width": 64}
    picture = pipeline("a dog", num_inference_steps=2, output_type="np", **size).images
    assert np.isfinite(picture).all()


def test_memory_does_not_grow_with_the_model(tmp_path):
    """A child that fuses 400 MB; the largest tensor is 33 MB."""
    code = """
    import resource, sys
    from pathlib import Path
    import numpy as np
    from lorakit.adapter import Adapter
    from lorakit.deltas.low_rank import LowRank
    from lorakit.fusing import fuse
    from lorakit.talk import Talk
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tensors = {f"unet.mid_block.x.{i}": LowRank(np.ones((4, 4096), "f4"), np.ones((4096, 4), "f4"), 1.0) for i in range(12)}
    fuse(Adapter(modules=tensors), sys.argv[1], Path(sys.argv[2]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, "torch" in sys.modules)
    """
    tensors = {f"mid_block.x.{i}.weight": torch.zeros(4096, 4096, dtype=torch.float16) for i in range(12)}
    tensors |= {"conv_in.weight": torch.zeros(4, 4, 3, 3), "conv_norm_out.weight": torch.zeros(4)}
    save_file(tensors, tmp_path / "unet.safetensors")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(code),
            str(tmp_path / "unet.safetensors"),
            str(tmp_path / "out.safetensors"),
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    grown, torch_there = done.stdout.split()
    assert torch_there == "False"
    assert int(grown) * 1024 < 5 * 33 * 2**20  # the tensor as read and as written, and some rows in float32


@pytest.mark.posix
@pytest.mark.parametrize("target", ["out.safetensors", "out.ckpt", "out"])
def test_a_killed_run_leaves_no_output(both, tmp_path, target):
    _, folder, _ = both
    code = """
    import os, signal, sys
    from pathlib import Path
    from lorakit.adapter import Adapter
    from lorakit.fusing import fuse
    from lorakit.talk import Talk
    def tick(done, of):
        if done > of // 2:
            os.kill(os.getpid(), signal.SIGKILL)
    fuse(Adapter(modules={}), sys.argv[1], Path(sys.argv[2]), dtype="float16", talk=Talk(tick=tick))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(folder), str(tmp_path / target)], check=False
    )
    assert done.returncode == -9
    assert not (tmp_path / target).exists()
    fuse(Adapter(modules={}), str(folder), tmp_path / target)  # and the next run clears away what was left beside it
    assert [path.name for path in tmp_path.iterdir()] == [target]


def test_what_is_no_part_of_the_model_is_not_copied(both, tmp_path):
    _, folder, _ = both
    strays = [folder / "whole.safetensors", folder / "x.py"]
    (folder / "code").mkdir()
    for stray in strays:
        stray.write_bytes(b"x")
    try:
        fuse(Adapter(modules={}), str(folder), tmp_path / "out")
    finally:
        (folder / "code").rmdir()
        for stray in strays:
            stray.unlink()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {RECORD, *(path.name for path in folder.iterdir())}


def test_merge_into_collapses_the_sum(json_of, tmp_path):
    """Through the program: two adapters into a folder, and into float32 weights nothing is lost."""
    from lorakit.formats import writing

    model = tiny.make(tmp_path / "model", "sd1")
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    draw = torch.Generator().manual_seed(0)
    made = []
    for file in ("a.safetensors", "b.safetensors"):
        low = LowRank(torch.randn(2, 32, generator=draw), torch.randn(32, 2, generator=draw), 2.0)
        writing.save(tmp_path / file, Adapter(modules={name: low}), "kohya")
        made.append(low.delta())
    done = json_of("merge", "a.safetensors", "b.safetensors:-0.5", "--into", "model", "-o", "out")
    key = f"{name.removeprefix('unet.')}.weight"
    before, after = (
        load_file(folder / "unet" / "diffusion_pytorch_model.safetensors") for folder in (model, tmp_path / "out")
    )
    torch.testing.assert_close(after[key] - before[key], made[0] - 0.5 * made[1], rtol=1e-5, atol=1e-5)
    assert all(torch.equal(before[k], after[k]) for k in before if k != key)
    assert done["retained"] == pytest.approx(1, abs=1e-5) and done["outputs"] == ["out"]
