"""extract: two models to an adapter, an adapter to a smaller one."""

import json
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorakit.adapter import Adapter
from lorakit.deltas.low_rank import LowRank
from lorakit.errors import InputError, RefusedError, UsageError
from lorakit.formats import files, writing
from lorakit.jobs import extract
from lorakit.jobs.extract import models as extract_models
from lorakit.jobs.extract.choices import ExtractionChoices
from lorakit.lowrank.ranks import RankRule
from lorakit.models.places import folder_of
from lorakit.talk import Talk
from tests import tiny
from tests.support.matrices import with_values

QUERY = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "unet.down_blocks.0.resnets.0.conv2"
TEXT = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
FILES = {"unet": "unet/diffusion_pytorch_model.safetensors", "text_encoder": "text_encoder/model.safetensors"}


def key_of(tensors, name):
    path = name.partition(".")[2]
    return next(k for k in (f"{path}.weight", f"{path.removeprefix('text_model.')}.weight", path) if k in tensors)


def tune(base: Path, target: Path, changes, dtype=None) -> Path:
    """A copy of the model with deltas added to the weights, in `dtype`."""
    shutil.copytree(base, target, ignore=shutil.ignore_patterns("build"))
    for part, file in FILES.items():
        tensors = load_file(target / file)
        for name, delta in changes.items():
            if name.partition(".")[0] == part:
                key = key_of(tensors, name)
                x = tensors[key]
                tensors[key] = (x.float() + delta.reshape(x.shape)).to(x.dtype)
        if dtype is not None:
            tensors = {k: x.to(dtype) if x.is_floating_point() else x for k, x in tensors.items()}
        save_file(tensors, target / file)
    return target


def low(base: Path, name: str, rank: int, seed: int = 0) -> torch.Tensor:
    tensors = load_file(base / FILES[name.partition(".")[0]])
    shape = tensors[key_of(tensors, name)].shape
    return torch.from_numpy(with_values(shape[0], shape[1:].numel(), torch.linspace(2, 1, rank), seed).reshape(shape))


def take(tuned, base, output, dtype=torch.float32, report=None, file_format="kohya", **choices):
    notes = []
    done = extract.run(
        str(tuned),
        output,
        base=None if base is None else str(base),
        choices=ExtractionChoices(**choices),
        file_format=file_format,
        dtype=dtype,
        report=report,
        force=True,
        dry_run=False,
        talk=Talk(note=notes.append),
    )
    return done, files.read(output), notes


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.make(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def changes(base):
    return {QUERY: low(base, QUERY, 3), CONV: low(base, CONV, 4, 1), TEXT: low(base, TEXT, 2, 2)}


@pytest.fixture(scope="module")
def tuned(base, changes):
    return tune(base, base.parent / "tuned", changes)


def dense(adapter: Adapter, name: str) -> torch.Tensor:
    return torch.as_tensor(adapter.modules[name].delta())


@pytest.mark.parametrize("exact", [False, True])
def test_a_low_rank_change_is_recovered(tuned, base, changes, tmp_path, exact):
    done, adapter, _ = take(tuned, base, tmp_path / "x.safetensors", rule=RankRule("fixed", 6), exact=exact)
    assert set(adapter.modules) == set(changes) and done["layers"] == 3
    for name, delta in changes.items():
        torch.testing.assert_close(dense(adapter, name), delta, rtol=0, atol=3e-6)
    assert done["energy_kept"]["smallest"] > 1 - 1e-9
    assert done["identical"] > 100 and not any(done["skipped"].values())


def test_less_than_the_rank_leaves_the_other_values(tuned, base, tmp_path):
    done, _, _ = take(tuned, base, tmp_path / "x.safetensors", rule=RankRule("fixed", 1))
    assert done["energy_kept"]["by_layer"][QUERY] == pytest.approx(4 / (4 + 2.25 + 1), rel=1e-5)  # values 2, 1.5, 1
    assert done["certificate"]["largest"] < 1e-3 and set(done["ranks"].values()) == {1}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_auto_finds_the_rank_under_the_rounding(base, changes, tmp_path, dtype):
    half = tune(base, tmp_path / "half", {}, dtype)
    tuned = tune(half, tmp_path / "tuned", changes, dtype)
    done, _, _ = take(tuned, half, tmp_path / "x.safetensors", rule=RankRule("auto"))
    assert done["ranks"] == {CONV: 4, QUERY: 3, TEXT: 2}


def test_a_change_of_rounding_alone_is_no_change(base, tmp_path):
    half = tune(base, tmp_path / "half", {}, torch.float16)
    with pytest.raises(InputError, match="rounding noise alone"):
        take(half, base, tmp_path / "x.safetensors", rule=RankRule("auto"))


def test_what_is_the_same_costs_no_arithmetic(tuned, base, tmp_path, monkeypatch):
    asked = []
    solve = extract_models.solve
    monkeypatch.setattr(extract_models, "solve", lambda name, *more: asked.append(name) or solve(name, *more))
    done, adapter, _ = take(tuned, base, tmp_path / "x.safetensors", parts=("unet",))
    assert sorted(asked) == [QUERY, CONV]
    assert not any(name.startswith("text_encoder") for name in adapter.modules)
    assert done["layers"] == 2


def test_a_text_encoder_that_is_the_same_has_no_keys(base, changes, tmp_path):
    tuned = tune(base, tmp_path / "tuned", {QUERY: changes[QUERY]})
    take(tuned, base, tmp_path / "x.safetensors")
    assert not [key for key in load_file(tmp_path / "x.safetensors") if key.startswith("lora_te")]


def test_any_two_layouts(tmp_path):
    base = tiny.make(tmp_path / "base", "sd1", layers=2)
    change = {QUERY: low(base, QUERY, 2), TEXT: low(base, TEXT, 2)}
    tuned = tune(base, tmp_path / "tuned", change)
    singles = [tiny.single(model, tmp_path / f"{model.name}.safetensors", "sd1") for model in (tuned, base)]
    for ours, theirs in ((singles[0], base), (tuned, singles[1]), (singles[0], singles[1]), (tuned, base)):
        _, adapter, notes = take(ours, theirs, tmp_path / "x.safetensors", rule=RankRule("fixed", 4))
        for name, delta in change.items():
            torch.testing.assert_close(dense(adapter, name), delta, rtol=0, atol=3e-6)
        assert set(adapter.modules) == set(change) and notes == []


def test_two_text_encoders_with_joined_weights(tmp_path):
    base = tiny.make(tmp_path / "base", "sdxl", layers=2)
    file = tmp_path / "tuned.safetensors"
    tiny.single(base, file, "sdxl")
    tensors = load_file(file)
    key = "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight"
    delta = torch.from_numpy(with_values(32, 32, [1.0]))
    tensors[key][32:64] += delta
    save_file(tensors, file)
    _, adapter, _ = take(file, base, tmp_path / "x.safetensors", rule=RankRule("fixed", 2))
    name = "text_encoder_2.text_model.encoder.layers.1.self_attn.k_proj"
    assert list(adapter.modules) == [name]
    torch.testing.assert_close(dense(adapter, name), delta, rtol=0, atol=1e-6)


def test_biases_are_named_or_kept(base, changes, tmp_path):
    bias, norm = "unet.conv_in.bias", "unet.down_blocks.0.resnets.0.norm1.weight"
    tuned = tune(base, tmp_path / "tuned", {QUERY: changes[QUERY], bias: torch.full((32,), 0.5), norm: torch.ones(32)})
    done, adapter, notes = take(tuned, base, tmp_path / "x.safetensors")
    assert done["skipped"]["biases"] == [bias] and done["skipped"]["norms"] == [norm] and not adapter.biases
    assert any("--keep-bias" in note for note in notes)
    done, adapter, _ = take(tuned, base, tmp_path / "x.safetensors", keep_bias=True)
    keys = load_file(tmp_path / "x.safetensors")
    torch.testing.assert_close(keys["lora_unet_conv_in.diff_b"], torch.full((32,), 0.5))
    torch.testing.assert_close(keys["lora_unet_down_blocks_0_resnets_0_norm1.w_norm"], torch.ones(32))
    assert done["skipped"]["biases"] == [] and done["kept_biases"] == 1


@pytest.mark.parametrize("rank", [2, 4])
def test_a_kernel_as_up_core_and_down(base, changes, tmp_path, rank):
    inner = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    sides = [torch.linalg.qr(torch.randn(32, 2, generator=torch.Generator().manual_seed(i)))[0] for i in (1, 2)]
    delta = torch.einsum("om,mnyx,in->oiyx", sides[0], inner, sides[1])
    tuned = tune(base, tmp_path / "tuned", {CONV: delta})
    done, adapter, _ = take(tuned, base, tmp_path / "x.safetensors", rule=RankRule("fixed", rank), conv_tucker=True)
    assert adapter.modules[CONV].kind == "tucker"
    torch.testing.assert_close(dense(adapter, CONV), delta, rtol=0, atol=3e-6)
    assert done["certificate"]["by_layer"][CONV] < 1e-3


def test_kernels_may_have_a_rank_of_their_own(tuned, base, tmp_path):
    done, _, _ = take(tuned, base, tmp_path / "x.safetensors", rule=RankRule("fixed", 3), conv_rank=2)
    assert done["ranks"] == {CONV: 2, QUERY: 3, TEXT: 3}


def test_the_energy_rule_takes_the_least_rank(tuned, base, tmp_path):
    done, _, _ = take(tuned, base, tmp_path / "x.safetensors", rule=RankRule("energy", 0.8))
    # shares of the first squares of 2, 5/3, 4/3, 1: 42, 71, 90 %; of 2, 1.5, 1: 55, 86 %; of 2, 1: 80 %
    assert done["ranks"] == {CONV: 3, QUERY: 2, TEXT: 1}


def test_a_budget_is_kept(tuned, base, tmp_path):
    file = tmp_path / "x.safetensors"
    done, _, _ = take(tuned, base, file, rule=RankRule("budget", 7000), dtype=torch.float16)
    assert file.stat().st_size <= 7000 and done["layers"] >= 1
    with pytest.raises(UsageError, match="hold nothing"):
        take(tuned, base, file, rule=RankRule("budget", 100))


def test_a_budget_is_spent_as_well_as_it_can_be(base, tmp_path):
    values = {"q": [5.0, 1.0, 0.5, 0.2], "k": [3.0, 2.9, 2.8, 0.1], "v": [0.4, 0.3, 0.2, 0.1]}
    names = {letter: QUERY.replace("to_q", f"to_{letter}") for letter in values}
    changes = {names[x]: torch.from_numpy(with_values(32, 32, values[x], ord(x))) for x in values}
    tuned = tune(base, tmp_path / "tuned", changes)
    done, _, _ = take(tuned, base, tmp_path / "x.safetensors", rule=RankRule("budget", 6000))
    ranks = {letter: done["ranks"].get(names[letter], 0) for letter in values}
    assert (tmp_path / "x.safetensors").stat().st_size <= 6000 and 3 <= sum(ranks.values()) < 12

    def held(choice):
        return sum(sum(v**2 for v in values[x][:rank]) for x, rank in choice.items())

    # As many modules and triplets, which is as many bytes, in every other way.
    others = (dict(zip(values, one, strict=True)) for one in product(range(5), repeat=3))
    alike = [
        one
        for one in others
        if sum(one.values()) == sum(ranks.values()) and sum(map(bool, one.values())) == sum(map(bool, ranks.values()))
    ]
    assert held(ranks) == pytest.approx(max(map(held, alike)))


def test_a_cap_and_a_share_go_together(tuned, base, tmp_path):
    done, _, _ = take(tuned, base, tmp_path / "x.safetensors", rule=RankRule("energy", 0.8, 2))
    assert done["ranks"] == {CONV: 2, QUERY: 2, TEXT: 1}


def test_only_what_is_asked_for(tuned, base, tmp_path):
    for more, names in (
        ({"target": "attention"}, {QUERY}),
        ({"target": r"resnets.*conv"}, {CONV}),
        ({"parts": ("text_encoder",)}, {TEXT}),
    ):
        _, adapter, _ = take(tuned, base, tmp_path / "x.safetensors", **more)
        assert set(adapter.modules) == names


def test_clamping_says_what_it_costs(tuned, base, tmp_path):
    done, _, notes = take(tuned, base, tmp_path / "x.safetensors", rule=RankRule("fixed", 4), clamp_quantile=0.9)
    assert done["energy_kept"]["smallest"] < 0.999 and any("--clamp-quantile" in note for note in notes)


def test_the_page_stands_alone(tuned, base, tmp_path):
    done, _, _ = take(tuned, base, tmp_path / "x.safetensors", report=tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert done["outputs"][1].endswith("x.html") and QUERY in text and "<svg" in text
    assert "http" not in text and "<script" not in text and "src=" not in text


def test_bad_pairs_are_refused_by_name(tuned, base, changes, tmp_path):
    out = tmp_path / "x.safetensors"
    other = tiny.make(tmp_path / "other", "sdxl")
    with pytest.raises(InputError, match="not of one architecture") as error:
        take(other, base, out)
    assert "other" in str(error.value) and "base" in str(error.value)
    with pytest.raises(InputError, match="same weights"):
        take(base, base, out)
    broken = tune(base, tmp_path / "broken", {QUERY: torch.full_like(changes[QUERY], torch.nan)})
    with pytest.raises(InputError, match=QUERY):
        take(broken, base, out)
    with pytest.raises(UsageError, match="no module has more"):
        take(tuned, base, out, rule=RankRule("fixed", 4000))
    with pytest.raises(InputError, match="--target nothing"):
        take(tuned, base, out, target="nothing")
    text = load_file(base / FILES["text_encoder"])
    wide = tune(base, tmp_path / "wide", {})
    key = key_of(text, TEXT)
    save_file(text | {key: torch.zeros(text[key].shape[0] + 8, text[key].shape[1])}, wide / FILES["text_encoder"])
    with pytest.raises(InputError, match="1 weight differs in shape, text_encoder"):
        take(wide, base, out)
    assert not out.exists()


def test_a_model_of_other_sizes_is_refused(tmp_path, tuned):
    with pytest.raises(InputError, match="not of one architecture"):
        take(tuned, "tiny", tmp_path / "x.safetensors")


# Out of an adapter


@pytest.fixture
def adapter_file(tmp_path):
    draw = torch.Generator().manual_seed(0)
    modules = {
        name: LowRank(torch.randn(4, 64, generator=draw), torch.randn(64, 4, generator=draw), 2.0)
        for name in (QUERY, QUERY.replace("to_q", "to_k"))
    }
    modules["text_encoder.text_model.encoder.layers.0.self_attn.q_proj"] = LowRank(
        torch.randn(4, 192, generator=draw), torch.randn(192, 4, generator=draw), 2.0
    )
    tokens = {"<s1>": {"text_encoder": torch.randn(1, 192, generator=draw)}}
    writing.save(
        tmp_path / "a.safetensors", Adapter(modules=modules, metadata={"lorakit.step": "3"}, embeddings=tokens), "kohya"
    )
    return tmp_path / "a.safetensors"


def test_an_adapter_is_re_ranked_to_the_optimum(adapter_file, tmp_path):
    whole = files.read(adapter_file)
    done, adapter, _ = take(adapter_file, None, tmp_path / "x.safetensors", rule=RankRule("fixed", 2))
    for name in whole.modules:
        delta = dense(whole, name)
        best = torch.linalg.svdvals(delta)[2:].square().sum().sqrt()
        torch.testing.assert_close((dense(adapter, name) - delta).norm(), best, rtol=1e-4, atol=1e-4)
    assert set(done["ranks"].values()) == {2} and done["certificate"]["largest"] == 0
    assert done["tokens"] == ["<s1>"] and "lorakit.step" not in adapter.metadata


@pytest.mark.parametrize(
    ("parts", "heads", "tokens"),
    [(("unet",), {"unet"}, 0), (("text_encoder", "tokens"), {"text_encoder"}, 1), (("tokens",), set(), 1)],
)
def test_parts_are_taken(adapter_file, tmp_path, parts, heads, tokens):
    _, adapter, _ = take(adapter_file, None, tmp_path / "x.safetensors", parts=parts)
    assert {name.partition(".")[0] for name in adapter.modules} == heads and len(adapter.embeddings) == tokens


def test_an_adapter_untouched_is_the_same(adapter_file, tmp_path):
    take(adapter_file, None, tmp_path / "x.safetensors")
    a, b = load_file(adapter_file), load_file(tmp_path / "x.safetensors")
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_gives_its_last_checkpoint(adapter_file, tmp_path):
    folder = tmp_path / "a.run" / "checkpoints"
    folder.mkdir(parents=True)
    shutil.copy(adapter_file, folder / "step-000002.safetensors")
    (folder / "step-000001.safetensors").write_bytes(b"no adapter")
    done, _, _ = take(tmp_path / "a.run", None, tmp_path / "x.safetensors", rule=RankRule("energy", 0.5))
    assert done["layers"] == 3


def test_what_is_no_adapter_is_said_to_be_a_model(base, adapter_file, tmp_path):
    for path in (base, base / FILES["unet"]):
        with pytest.raises(InputError, match="--base"):
            take(path, None, tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match="did you mean 'unet'"):
        take(adapter_file, None, tmp_path / "x.safetensors", parts=("unit",))
    with pytest.raises(InputError, match="has no text_encoder_2"):
        take(adapter_file, None, tmp_path / "x.safetensors", parts=("text_encoder_2",))
    with pytest.raises(UsageError, match="the adapter's own is 4"):
        take(adapter_file, None, tmp_path / "x.safetensors", rule=RankRule("fixed", 5))


def test_an_output_that_exists_stays(adapter_file, tmp_path):
    with pytest.raises(RefusedError):
        extract.run(
            str(adapter_file),
            adapter_file,
            base=None,
            choices=ExtractionChoices(),
            file_format="kohya",
            force=False,
            dry_run=False,
            talk=Talk(note=print),
        )


def test_a_run_that_is_stopped_leaves_the_old_file(tuned, base, tmp_path, monkeypatch):
    out = tmp_path / "x.safetensors"
    out.write_bytes(b"old")
    solve, asked = extract_models.solve, []

    def stopped(name, *more):
        asked.append(name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return solve(name, *more)

    monkeypatch.setattr(extract_models, "solve", stopped)
    with pytest.raises(KeyboardInterrupt):
        take(tuned, base, out)
    assert out.read_bytes() == b"old" and [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


# Through the program


def test_a_full_disk_leaves_the_old_file(tuned, base, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"old")
    command = f"ulimit -f 4; exec {sys.executable} -m lorakit extract {tuned} --base {base} -f -o x.safetensors"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 5 and "Traceback" not in done.stderr
    assert (tmp_path / "x.safetensors").read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_dry_run_writes_nothing(tuned, base, program, tmp_path):
    done = program("extract", tuned, "--base", base, "--dry-run", "-o", "x.safetensors", "--report", "x.html")
    assert "would be written to x.safetensors" in done.stderr and done.stdout == "" and not list(tmp_path.iterdir())


def test_torch_is_not_needed(tuned, base, tmp_path):
    code = (
        "import sys; from lorakit.cli import _run; "
        f"assert _run(['extract', {str(tuned)!r}, '--base', {str(base)!r}, '-o', 'x.safetensors', '--device', 'cpu']) == 0; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["x.safetensors", "False"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_finds_the_same(tuned, base, json_of):
    here = json_of("extract", tuned, "--base", base, "--device", "cpu", "-o", "a.safetensors")
    there = json_of("extract", tuned, "--base", base, "--device", "cuda", "-o", "b.safetensors")
    assert here["ranks"] == there["ranks"]
    assert here["energy_kept"]["mean"] == pytest.approx(there["energy_kept"]["mean"], rel=1e-5)


def test_the_program_on_the_built_in_model(json_of, program, tmp_path):
    model = folder_of("tiny")
    name = QUERY
    tune(model, tmp_path / "tuned", {name: low(model, name, 5), TEXT: low(model, TEXT, 5, 1)})
    done = json_of("extract", "tuned", "--base", "tiny", "--rank", "auto", "--report", "r.html", "-o", "x.safetensors")
    assert done["ranks"] == {TEXT: 5, name: 5} and done["family"] == "tiny"
    metadata = files.read(tmp_path / "x.safetensors").metadata
    assert (
        metadata["ss_base_model_version"] == "lorakit_tiny"
        and metadata["modelspec.architecture"] == "lorakit-tiny/lora"
    )
    assert json.loads(metadata["lorakit.extract"])["rank"] == {"kind": "auto", "value": 0.0}
    first = (tmp_path / "x.safetensors").read_bytes()
    program("extract", "tuned", "--base", "tiny", "--rank", "auto", "-o", "x.safetensors", "-f")
    assert (tmp_path / "x.safetensors").read_bytes() == first
    program("extract", "tuned", "--base", "tiny", "-o", "x.safetensors", status=4)
    assert "--base" in program("extract", "tuned", "-o", "y.safetensors", status=3).stderr


@pytest.mark.parametrize(
    "wrong",
    [
        ["--rank", "0"],
        ["--rank", "energy:2"],
        ["--energy", "0"],
        ["--energy", "0.9", "--budget", "1MB"],
        ["--clamp-quantile", "1.5", "--base", "tiny"],
        ["--keep-bias"],
        ["--exact"],
        ["--target", "("],
        ["--budget", "1MB", "--rank", "4"],
        ["--budget", "x"],
        ["--device", "mps", "--base", "tiny"],
        ["--device", "gpu", "--base", "tiny"],
        ["--device", "cuda:99", "--base", "tiny"],
    ],
)
def test_wrong_options_are_refused(wrong, tmp_path):
    from lorakit.cli import _run

    tuned = "tiny" if "--base" in wrong else str(tmp_path / "a")  # a device is looked for after the models
    assert _run(["extract", tuned, "-o", str(tmp_path / "b.safetensors"), *wrong]) == 2
