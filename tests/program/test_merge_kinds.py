"""merge of deltas that are not low rank, or depend on the base model's weights, on the built-in model."""

import os
import subprocess
import sys

import numpy as np
import pytest

from lorakit.errors import InputError, StorageError, UsageError
from lorakit.formats import files
from lorakit.formats.layouts import open_model
from lorakit.io import safetensors
from lorakit.jobs import merge
from lorakit.lowrank.ranks import RankRule
from lorakit.models.places import folder_of
from lorakit.talk import SILENT, Talk
from lorakit.targets import kohya_name_of

BLOCK = "unet.down_blocks.0.attentions.0.transformer_blocks.0"
QUERY, KEY, VALUE, OUT = (f"{BLOCK}.attn1.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0"))
CONV, NORM = "unet.down_blocks.0.resnets.0.conv1", "unet.conv_norm_out"
_DRAW = np.random.default_rng(3)


def draw(*shape, size=0.1):
    return (size * _DRAW.standard_normal(shape)).astype("f4")


LORA = {"lora_down.weight": draw(3, 64), "lora_up.weight": draw(64, 3), "alpha": np.float32(2)}
KINDS = {
    "dora": (QUERY, {**LORA, "dora_scale": abs(draw(64, 1)) + np.float32(0.5)}),
    "glora": (
        KEY,
        {
            "a1.weight": draw(64, 2),
            "a2.weight": draw(2, 64),
            "b1.weight": draw(64, 2),
            "b2.weight": draw(2, 64),
            "alpha": np.float32(3),
        },
    ),
    "oft": (VALUE, {"oft_blocks": draw(16, 4, 4), "alpha": np.float32(0)}),
    "ia3": (OUT, {"weight": draw(64), "on_input": np.array(1)}),
    "full": (CONV, {"diff": draw(64, 64, 3, 3)}),
}
EVERYWHERE = (QUERY, KEY, VALUE, OUT, CONV)


def write(file, modules):
    names = kohya_name_of("tiny")
    tensors = {f"{names[n]}.{end}": np.asarray(x) for n, parts in modules.items() for end, x in parts.items()}
    safetensors.write(file, tensors, {})
    return str(file)


def plain(rank=3):
    """A LoRA for each of the modules."""
    shapes = {name: (64, 64, 3, 3) if name == CONV else (64, 64) for name in EVERYWHERE}
    return {
        name: {
            "lora_down.weight": draw(rank, *s[1:]),
            "lora_up.weight": draw(s[0], rank, *[1] * (len(s) - 2)),
            "alpha": np.float32(1),
        }
        for name, s in shapes.items()
    }


def run(arguments, output, *, rank=None, into=None, method="linear", **choices):
    said: list[str] = []
    done = merge.run(
        arguments,
        output,
        alpha=None,
        weights=None,
        method=method,
        rank=rank,
        file_format="kohya",
        dtype="float32",
        force=False,
        dry_run=False,
        talk=Talk(note=said.append),
        choices=merge.MergeChoices(**choices),
        into=merge.Into(model=into) if into else None,
    )
    return done | {"said": said}


@pytest.fixture(scope="module")
def base():
    return open_model("tiny", folder_of).arrays


def dense(file, name, base):
    delta = files.read(file).modules[name].delta(base[f"{name}.weight"].float())
    return np.asarray(delta, "f8").reshape(len(delta), -1)


def found(file, name):
    delta = np.asarray(files.read(file).modules[name].delta(), "f8")
    return delta.reshape(len(delta), -1)


@pytest.fixture
def two(tmp_path):
    return tmp_path / "kinds.safetensors", tmp_path / "plain.safetensors", tmp_path / "merged.safetensors"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [4, 60])
def test_kinds_are_merged_by_their_delta_against_the_base_model(two, base, kind, rank):
    odd, other, output = two
    name, parts = KINDS[kind]
    rank = min(rank, 6) if kind == "glora" else rank  # it has 4 and the other 3
    write(odd, {name: parts})
    write(other, plain())
    done = run([f"{odd}:0.7", f"{other}:-0.4"], output, rank=RankRule("fixed", rank), base="tiny")
    wanted = 0.7 * dense(odd, name, base) - 0.4 * dense(other, name, base)
    values = np.linalg.svd(wanted, compute_uv=False)
    error = np.linalg.norm(found(output, name) - wanted) / np.linalg.norm(wanted)
    best = np.linalg.norm(values[rank:]) / np.linalg.norm(values)
    assert error <= 1.0001 * best + 3e-6
    assert done["errors"][name] == pytest.approx(error, abs=2e-5) and done["ranks"][name] <= rank


def test_glora_is_low_rank_with_its_base_and_merged_exactly(two, base):
    odd, other, output = two
    write(odd, {KEY: KINDS["glora"][1]})
    write(other, plain())
    done = run([f"{odd}:1.5", str(other)], output, base="tiny")
    wanted = 1.5 * dense(odd, KEY, base) + dense(other, KEY, base)
    assert np.linalg.norm(found(output, KEY) - wanted) < 2e-6 * np.linalg.norm(wanted)
    assert done["ranks"][KEY] == 2 * 2 + 3 and done["error"] == 0


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_a_model_takes_every_kind_whole(two, tmp_path, base, method):
    odd, other, _ = two
    write(odd, dict(KINDS.values()))
    write(other, plain())
    out = tmp_path / "model"
    more = {"settings": {"density": 1.0}} if method == "ties" else {}
    done = run([f"{odd}:0.7", f"{other}:-0.4"], out, into="tiny", method=method, **more)
    got = open_model(out).arrays
    for name in EVERYWHERE:
        terms = 0.7 * dense(odd, name, base), -0.4 * dense(other, name, base)
        wanted = terms[0] + terms[1]
        if method == "ties":  # the mean of those that have the sign of the sum
            agree = [np.sign(term) == np.sign(wanted) for term in terms]
            wanted = sum(t * a for t, a in zip(terms, agree, strict=True)) / np.maximum(1, agree[0] * 1 + agree[1] * 1)
        change = got[f"{name}.weight"].float().astype("f8") - base[f"{name}.weight"].float()
        step = 2.0**-10 if base[f"{name}.weight"].dtype == "F16" else 2.0**-22
        assert abs(change.reshape(64, -1) - wanted).max() < step * abs(got[f"{name}.weight"].float()).max() + 1e-6
    assert done["layers"] == 5 and done["into"] == "tiny"


def test_norms_and_biases_are_summed_by_their_weights(two, base):
    odd, other, output = two
    vector, bias, diff_b = draw(64), draw(64), draw(64)
    write(odd, {NORM: {"w_norm": vector, "b_norm": bias}, QUERY: {**LORA, "diff_b": diff_b}})
    write(other, {NORM: {"w_norm": bias}, QUERY: LORA})
    for method in ("linear", "magnitude"):
        done = run(
            [f"{odd}:2", f"{other}:-1"],
            output.with_name(f"{method}.safetensors"),
            rank=RankRule("fixed", 3),
            method=method,
        )
        adapter = files.read(output.with_name(f"{method}.safetensors"))
        np.testing.assert_allclose(adapter.modules[NORM].delta(), 2 * vector - bias, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(adapter.biases[NORM].float(), 2 * bias, rtol=1e-6)
        np.testing.assert_allclose(adapter.biases[QUERY].float(), 2 * diff_b, rtol=1e-6)
        assert NORM not in done["ranks"] and done["layers"] == 2
        assert any("norms and biases" in line for line in done["said"]) == (method == "magnitude")


def test_what_the_kinds_need_is_asked_for(two):
    odd, other, output = two
    write(other, plain())
    for kind, (name, parts) in KINDS.items():
        write(odd, {name: parts})
        if kind != "full":
            with pytest.raises(UsageError, match=f"{kind}.*--base MODEL"):
                run([str(odd), str(other)], output, rank=RankRule("fixed", 4))
        if kind != "glora":
            for rank in (None, RankRule("full")):
                with pytest.raises(UsageError, match="full rank"):
                    run([str(odd), str(other)], output, rank=rank, base="tiny")
    write(odd, {f"{BLOCK}.ff.net.0.proj": KINDS["oft"][1]})
    with pytest.raises(InputError, match=r"oft_blocks turn 64 outputs"):
        run([str(odd), str(other)], output, rank=RankRule("fixed", 4), base="tiny")
    assert not output.exists()


def test_nan_in_many_modules_is_told_at_once(two):
    odd, other, output = two
    broken = plain()
    for name in (QUERY, CONV):
        broken[name]["lora_up.weight"].reshape(-1)[5] = np.inf
    # Our own writer refuses it, as it should.
    with pytest.raises(Exception, match="NaN or infinity"):
        write(odd, broken)
    from safetensors.numpy import save_file

    names = kohya_name_of("tiny")
    save_file({f"{names[n]}.{end}": np.asarray(x) for n, parts in broken.items() for end, x in parts.items()}, odd)
    write(other, plain())
    with pytest.raises(InputError) as error:
        run([str(other), str(odd)], output)
    assert QUERY in str(error.value) and CONV in str(error.value)
    assert str(odd) in str(error.value) and not output.exists()


@pytest.mark.posix
def test_a_full_disk_leaves_the_old_output(two, monkeypatch):
    odd, other, output = two
    write(odd, plain())
    write(other, plain())
    output.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    for call in ("pwrite", "write"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(StorageError, match="No space left"):
                merge.run(
                    [str(odd), str(other)],
                    output,
                    alpha=0.5,
                    weights=None,
                    method="linear",
                    rank=None,
                    file_format="kohya",
                    dtype="float32",
                    force=True,
                    dry_run=False,
                    talk=SILENT,
                )
        assert output.read_bytes() == b"old" and len(list(output.parent.iterdir())) == 3


@pytest.mark.parametrize("into", [None, "tiny"])
def test_the_report_names_every_module(two, tmp_path, into):
    odd, other, output = two
    write(odd, plain())
    write(other, plain())
    page = tmp_path / "page.html"
    output = output if into is None else tmp_path / "model"
    done = run([str(odd), str(other)], output, into=into, rank=None if into else RankRule("fixed", 2), report=page)
    text = page.read_text(encoding="utf-8")
    assert str(page) in done["outputs"] and all(name in text for name in EVERYWHERE)
    if into is None:
        assert sum("rank    2" in line for line in done["said"]) == 5
        assert "polyline" in text or "<path" in text


@pytest.mark.posix
def test_a_killed_merge_leaves_the_old_output_and_nothing_beside_it(two):
    odd, other, output = two
    write(odd, plain())
    write(other, plain())
    output.write_bytes(b"old")
    code = f"""
import os, signal
from pathlib import Path
from lorakit.jobs import merge
from lorakit.talk import Talk
def tick(done, of):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
merge.run([{str(odd)!r}, {str(other)!r}], Path({str(output)!r}), alpha=0.5, weights=None, method="linear", rank=None,
    file_format="kohya", dtype="float32", force=True, dry_run=False, talk=Talk(note=print, tick=tick))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert output.read_bytes() == b"old" and len(list(output.parent.iterdir())) == 3
