"""merge through the program."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from lorakit.adapter import Adapter
from lorakit.deltas.low_rank import LowRank
from lorakit.formats import files, weighted, writing
from lorakit.io import safetensors
from lorakit.registry import MERGE_METHODS
from tests.support import plain

DOWN = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
DOWN1 = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k"
MID = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_v"
TEXT = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
SIZES = {DOWN: 64, DOWN1: 128, MID: 192, TEXT: 192}


def make(file, seed, rank=4, names=tuple(SIZES), metadata=None, tokens=None, alpha=2.0):
    draw = torch.Generator().manual_seed(seed)
    modules = {
        name: LowRank(
            torch.randn(rank, SIZES[name], generator=draw), torch.randn(SIZES[name], rank, generator=draw), alpha
        )
        for name in names
    }
    embeddings = {token: {"text_encoder": vector} for token, vector in (tokens or {}).items()}
    writing.save(file, Adapter(modules=modules, metadata=metadata or {}, embeddings=embeddings), "kohya")
    return {name: low.delta() for name, low in modules.items()}


@pytest.fixture
def two(tmp_path):
    return make(tmp_path / "a.safetensors", 1), make(tmp_path / "b.safetensors", 2, rank=3)


def read(tmp_path, name="merged.safetensors"):
    return {name: low.delta() for name, low in plain.load(tmp_path / name).modules.items()}


def close(found, wanted):
    assert float((found - wanted).norm() / wanted.norm()) < 2e-6


def test_ranks_by_energy_and_by_a_cap(json_of, two, tmp_path):
    done = json_of("merge", "a.safetensors", "b.safetensors", "--rank", "energy:0.9")
    for name, rank in done["ranks"].items():
        values = torch.linalg.svdvals((two[0][name] + two[1][name]).double()).square()
        share = values.cumsum(0) / values.sum()
        assert float(share[rank - 1]) >= 0.9 > float(share[rank - 2])
        assert done["energy"][name] == pytest.approx(float(share[rank - 1]), abs=1e-5)
    worst = 1 - min(done["energy"].values())
    assert done["error"] == pytest.approx(worst**0.5)
    assert set(json_of("merge", "a.safetensors", "b.safetensors", "--max-rank", "2", "-f")["ranks"].values()) == {2}
    assert set(json_of("merge", "a.safetensors", "a.safetensors", "--rank", "auto", "-f")["ranks"].values()) == {4}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_budget_is_the_size_of_the_file(json_of, two, tmp_path, dtype):
    done = json_of("merge", "a.safetensors", "b.safetensors", "--budget", "16kB", "--save-dtype", dtype)
    size = (tmp_path / "merged.safetensors").stat().st_size
    assert 10_000 < size <= 16_000 and len(set(done["ranks"].values())) > 1
    assert 0 < done["error"] <= 1


def test_part_and_block_weights(json_of, two, tmp_path):
    json_of(
        "merge",
        "a.safetensors",
        "b.safetensors",
        "--part-weights",
        "text_encoder=0.5",
        "--block-weights",
        "down=0.5,down.1=0",
        "--block-weights",
        "b:mid=-1",
    )
    (a, b), found = two, read(tmp_path)
    close(found[DOWN], 0.5 * a[DOWN] + b[DOWN])
    close(found[DOWN1], b[DOWN1])
    close(found[MID], a[MID] - b[MID])
    close(found[TEXT], 0.5 * a[TEXT] + 0.5 * b[TEXT])


def test_the_i_th_block_weights_are_of_the_i_th_adapter(json_of, two, tmp_path):
    json_of("merge", "a.safetensors", "b.safetensors", "--block-weights", "mid=0", "--block-weights", "mid=2")
    close(read(tmp_path)[MID], 2 * two[1][MID])


def test_a_weight_for_a_block_that_no_adapter_has(json_of, program, two, tmp_path):
    command = ("merge", "a.safetensors", "b.safetensors", "--block-weights", "1:up.1=0.5")
    assert "block unet.up_blocks.1 of adapter 1" in program(*command, status=3).stderr
    assert not (tmp_path / "merged.safetensors").exists()
    assert json_of(*command, "--allow-unmatched")["unmatched"] == ["block unet.up_blocks.1 of adapter 1"]


def test_a_sweep_is_a_numbered_series(json_of, two, tmp_path):
    done = json_of("merge", "a.safetensors", "b.safetensors", "--sweep", "0:1:5", "-o", "s.safetensors")
    assert done["outputs"] == [f"s-00{i}.safetensors" for i in range(5)]
    assert [one["weights"] for one in done["series"]] == [[x, 1 - x] for x in (0, 0.25, 0.5, 0.75, 1)]
    for i, alpha in enumerate((0, 0.25, 0.5, 0.75, 1)):
        close(read(tmp_path, f"s-00{i}.safetensors")[MID], alpha * two[0][MID] + (1 - alpha) * two[1][MID])


def test_weights_1_and_0_give_the_first(json_of, two, tmp_path):
    done = json_of("merge", "a.safetensors", "b.safetensors", "--alpha", "1")
    assert set(done["ranks"].values()) == {4}
    for name, delta in read(tmp_path).items():
        close(delta, two[0][name])


def test_an_adapter_less_itself_is_empty_and_says_so(program, two, tmp_path):
    done = program("merge", "a.safetensors:0.7", "a.safetensors:-0.7")
    assert "empty" in done.stderr
    assert not safetensors.open_file(tmp_path / "merged.safetensors").keys()


def test_the_order_does_not_matter(json_of, two, tmp_path):
    for method in ("linear", "dare"):
        json_of("merge", "a.safetensors", "b.safetensors:0.5", "--method", method, "--rank", "full", "-f")
        there = read(tmp_path)
        json_of("merge", "b.safetensors:0.5", "a.safetensors", "--method", method, "--rank", "full", "-f")
        for name, delta in read(tmp_path).items():
            assert float((delta - there[name]).norm() / delta.norm()) < 2e-6


@pytest.mark.parametrize("method", MERGE_METHODS.names())
def test_every_method_through_the_program_gives_the_same_bytes_again(json_of, two, tmp_path, method):
    command = ("merge", "a.safetensors", "b.safetensors", "--method", method, "-f")
    done = json_of(*command)
    first = (tmp_path / "merged.safetensors").read_bytes()
    json_of(*command)
    assert (tmp_path / "merged.safetensors").read_bytes() == first
    assert done["layers"] == 4 and 0 <= done["error"] < 1


def test_a_setting_that_the_method_has_not_is_refused(program, two):
    pair = ("merge", "a.safetensors", "b.safetensors")
    assert "--density means nothing to --method linear" in program(*pair, "--density", "0.5", status=2).stderr
    assert "--seed" in program(*pair, "--method", "dare", "--spread", "0.5", status=2).stderr
    assert "density" in program(*pair, "--method", "ties", "--density", "2", status=2).stderr
    assert "negative" in program(*pair, "--method", "slerp", "--weights", "1,-1", status=2).stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rank", "all"), "--rank"),
        (("--rank", "8"), "together are 7 at most"),
        (("--rank", "4", "--budget", "1MB"), "--budget"),
        (("--budget", "lots"), "--budget"),
        (("--budget", "1kB"), "hold nothing"),
        (("--alpha", "nan"), "--alpha"),
        (("--weights", "1,inf"), "finite"),
        (("--weights", "1"), "1 weights for 2"),
        (("--alpha", "1", "--weights", "1,1"), "choose one"),
        (("--sweep", "0:1"), "--sweep"),
        (("--part-weights", "vae=1"), "no part 'vae'"),
        (("--block-weights", "dwn.1=1"), "did you mean 'down'"),
        (("--block-weights", "c:mid=1"), "no adapter 'c'"),
        (("--block-weights", "mid=x"), "not a number"),
        (("--block-weights", "mid=1", "--block-weights", "mid=1", "--block-weights", "mid=1"), "3 times"),
        (("--rename-token", "a:<s1>=<s2>"), "no token"),
        (("--method", "tie"), "did you mean 'ties'"),
    ],
)
def test_a_wrong_option_is_one_clear_error(program, two, tmp_path, options, said):
    done = program("merge", "a.safetensors", "b.safetensors", *options, status=2)
    assert said in done.stderr and not (tmp_path / "merged.safetensors").exists()


def token(*values):
    return torch.tensor([[*values] + [0.0] * (192 - len(values))])


def test_learned_tokens_go_along(json_of, tmp_path):
    make(tmp_path / "a.safetensors", 1, tokens={"<s1>": token(1.0), "<x>": token(5.0)})
    make(tmp_path / "b.safetensors", 2, tokens={"<s2>": token(2.0), "<x>": token(5.0)})  # the same <x>
    json_of("merge", "a.safetensors:0.5", "b.safetensors")
    found = plain.load(tmp_path / "merged.safetensors").embeddings
    assert {name: float(by["text_encoder"][0, 0]) for name, by in found.items()} == {"<s1>": 1, "<s2>": 2, "<x>": 5}


def test_a_weight_of_words_alone_is_said_not_to_be_in_the_result(program, tmp_path):
    make(tmp_path / "a.safetensors", 1)
    save_file({"emb_params": np.ones((2, 192), "f4")}, tmp_path / "fox.safetensors")
    for weights, said in (("1,0.5", "weight 0.5 is not in the result"), ("1,1", ""), ("1,0", "")):
        done = program("merge", "a.safetensors", "fox.safetensors", "--weights", weights, "-f")
        assert ("fox.safetensors: its weight" in done.stderr) == bool(said) and said in done.stderr
        assert bool(files.read(tmp_path / "merged.safetensors").embeddings) == (weights != "1,0")
    assert "prompts have it: (fox:0.5)" in program("merge", "a.safetensors", "fox.safetensors:0.5", "-f").stderr


def test_tokens_of_one_name_clash_unless_renamed(json_of, program, tmp_path):
    make(tmp_path / "a.safetensors", 1, tokens={"<s1>": token(1.0)})
    make(tmp_path / "b.safetensors", 2, tokens={"<s1>": token(2.0)})
    assert "--rename-token" in program("merge", "a.safetensors", "b.safetensors", status=3).stderr
    json_of("merge", "a.safetensors", "b.safetensors", "--rename-token", "b:<s1>=<s2>")
    found = plain.load(tmp_path / "merged.safetensors").embeddings
    assert {name: float(by["text_encoder"][0, 0]) for name, by in found.items()} == {"<s1>": 1, "<s2>": 2}


def test_metadata_keeps_what_agrees_and_says_where_it_is_from(json_of, tmp_path):
    alike = {"ss_base_model_version": "lorakit_tiny", "modelspec.prediction_type": "epsilon"}
    tags = [{"data": {"cat": 2, "dog": 1}}, {"data": {"cat": 3}, "more": {"fox": 1}}]
    for name, seed, table in (("a", 1, tags[0]), ("b", 2, tags[1])):
        own = {"ss_tag_frequency": json.dumps(table), "ss_lr": str(seed), "modelspec.trigger_phrase": f"{name} x"}
        make(tmp_path / f"{name}.safetensors", seed, metadata=alike | own)
    json_of("merge", "a.safetensors:0.5", "b.safetensors")
    file = safetensors.open_file(tmp_path / "merged.safetensors")
    found = file.metadata
    assert alike.items() <= found.items() and "ss_lr" not in found
    assert json.loads(found["ss_tag_frequency"]) == {"data": {"cat": 5, "dog": 1}, "more": {"fox": 1}}
    assert found["modelspec.trigger_phrase"] == "a x, b x"
    assert found["modelspec.merged_from"] == "a.safetensors, b.safetensors"
    recipe = json.loads(found["lorakit.merge"])
    assert recipe["method"] == "linear" and [one["weight"] for one in recipe["sources"]] == [0.5, 1.0]
    assert recipe["sources"][0]["sha256"] == weighted.Weighted(tmp_path / "a.safetensors", 1).sha256()
    assert found["sshs_model_hash"] == file.data_hash()


def rows(draw, *shape):
    return draw.standard_normal(shape).astype("f4")


def test_kinds_that_are_low_rank_are_merged_with_each_other(json_of, two, tmp_path):
    draw = np.random.default_rng(0)
    w = {"w1_a": rows(draw, 64, 2), "w1_b": rows(draw, 2, 64), "w2_a": rows(draw, 64, 2), "w2_b": rows(draw, 2, 64)}
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    loha = {f"{stem}.hada_{key}": x for key, x in w.items()} | {f"{stem}.alpha": np.float32(2)}
    safetensors.write(tmp_path / "h.safetensors", loha, {})
    json_of("merge", "a.safetensors", "h.safetensors:-0.5")
    hada = torch.from_numpy((w["w1_a"] @ w["w1_b"]) * (w["w2_a"] @ w["w2_b"]))
    close(read(tmp_path)[DOWN], two[0][DOWN] - 0.5 * hada)


def test_adapters_of_different_families_are_refused(program, two, tmp_path):
    sd1 = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    writing.save(
        tmp_path / "sd.safetensors",
        Adapter(modules={sd1: LowRank(torch.ones(1, 768), torch.ones(320, 1), 1.0)}),
        "kohya",
    )
    said = program("merge", "a.safetensors", "sd.safetensors", status=3).stderr
    assert "tiny" in said and "sd1" in said and "a.safetensors" in said and "sd.safetensors" in said


def test_a_key_that_matches_nothing(json_of, program, two, tmp_path):
    file = safetensors.open_file(tmp_path / "a.safetensors")
    odd = {**file, "lora_unet_no_such_module.lora_down.weight": np.ones((1, 4), "f4")}
    safetensors.write(tmp_path / "odd.safetensors", odd, file.metadata)
    assert "no_such_module" in program("merge", "odd.safetensors", "b.safetensors", status=3).stderr
    done = json_of("merge", "odd.safetensors", "b.safetensors", "--allow-unmatched")
    assert len(done["unmatched"]) == 1 and "no_such_module" in done["unmatched"][0] and done["layers"] == 4


def test_nan_in_an_adapter_is_named_and_nothing_is_written(program, two, tmp_path):
    make(tmp_path / "n.safetensors", 3)
    file = safetensors.open_file(tmp_path / "n.safetensors")
    whole = bytearray((tmp_path / "n.safetensors").read_bytes())
    whole[file.header.data_start : file.header.data_start + 4] = np.float32("nan").tobytes()
    key = min(file.header.entries, key=lambda key: file.header.entries[key][2])
    (tmp_path / "n.safetensors").write_bytes(whole)
    said = program("merge", "a.safetensors", "n.safetensors", status=3).stderr
    assert "NaN" in said and "n.safetensors" in said and key
    assert not (tmp_path / "merged.safetensors").exists()


def test_a_recipe_may_be_merged_alone_and_a_dry_run_writes_nothing(json_of, program, two, tmp_path):
    program("compose", "a.safetensors:0.5", "b.safetensors", "-o", "r.toml")
    assert json_of("merge", "r.toml:2", "--dry-run")["outputs"] == []
    assert not (tmp_path / "merged.safetensors").exists()
    json_of("merge", "r.toml:2")
    close(read(tmp_path)[MID], two[0][MID] + 2 * two[1][MID])


def test_of_two_merges_into_one_new_file_one_is_refused_and_none_is_lost(two, tmp_path):
    command = [sys.executable, "-m", "lorakit", "merge", "a.safetensors", "b.safetensors", "--alpha"]
    runs = [
        subprocess.Popen([*command, alpha], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for alpha in ("0.25", "0.75")
    ]
    said = [run.communicate() for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 4]
    alpha = (0.25, 0.75)[runs[1].returncode == 0]
    for name, delta in read(tmp_path).items():
        close(delta, alpha * two[0][name] + (1 - alpha) * two[1][name])
    assert b"merged.safetensors" in said[runs[1].returncode != 0][1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors", "merged.safetensors"]
