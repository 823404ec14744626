"""Training runs in this process on a random model, a few steps each: what resumes, what is refused, what comes out."""

import json
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lorakit.adapter import Adapter
from lorakit.config import TrainConfig
from lorakit.deltas.dora import DoRA
from lorakit.deltas.low_rank import LowRank
from lorakit.errors import InputError, LorakitError, NumericError, RefusedError, ResourceError, Stopped, UsageError
from lorakit.formats import files, writing
from lorakit.formats.clients import coverage
from lorakit.formats.layouts import open_model
from lorakit.io import torch_files as io
from lorakit.jobs.train import RunOptions, run
from lorakit.jobs.train import write as _write
from lorakit.models.parts import part_with
from lorakit.registry import TRAINABLE
from lorakit.talk import Talk
from lorakit.training import checkpoints
from tests.conftest import captioned
from tests.tiny import make, single

# Everything that has a state: averages, validation, tokens, two groups of adapters.
MODES = {
    "lora": {"text_encoder": True, "ema": 0.9, "validation_split": 0.3},
    "ti": {"mode": "ti", "token": ["<s1>"], "init_token": ["animal"], "vectors": 2},
    "pivotal": {"mode": "pivotal", "token": ["<s1>"], "ti_steps": 2, "text_encoder": True},
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return captioned(tmp_path / "data", "a photo of a <s1> thing,")


class Words:
    """What a run said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def talk(self, tick: Callable[[int, int], None] = lambda done, total: None) -> Talk:
        return Talk(tick=tick, note=self.lines.append)

    def __contains__(self, text: str) -> bool:
        return any(text in line for line in self.lines)


SMALL: dict[str, str] = {}


@pytest.fixture(scope="module", autouse=True)
def _small(small: Path) -> None:
    """The model that runs train where they say no other."""
    SMALL["model"] = str(small)


def train(data: Path, output: Path, *, talk: Talk | None = None, life: dict | None = None, **config):
    settings = {"steps": 6, "batch_size": 2, "warmup": 0, "size": 32, **SMALL, **config}
    how = {
        "checkpoint_every": 2,
        "keep": 9,
        "validate_every": 2 if settings.get("validation_split") else 0,
        **(life or {}),
    }
    return run(
        data,
        TrainConfig(**settings),
        RunOptions(output=output, run_folder=output.with_suffix(".run"), **how),
        talk or Words().talk(),
    )


def stopping_at(step: int) -> Callable[[int, int], None]:
    """A signal after that step; the next one is finished, and saved."""

    def tick(done: int, total: int) -> None:
        if done == step:
            signal.raise_signal(signal.SIGTERM)

    return tick


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_stopped_run_goes_on_to_the_same_bytes_and_losses(mode, data, tmp_path):
    train(data, tmp_path / "whole.safetensors", **MODES[mode])
    with pytest.raises(Stopped) as stopped:
        train(data, tmp_path / "cut.safetensors", talk=Words().talk(stopping_at(4)), **MODES[mode])
    assert stopped.value.exit_status == 143 and not (tmp_path / "cut.safetensors").exists()
    result = train(data, tmp_path / "cut.safetensors", **MODES[mode])
    assert result["resumed_from"].endswith("step-000005.safetensors")
    assert (tmp_path / "cut.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    logs = [
        [
            (row["step"], row["loss"], row.get("validation_loss"))
            for row in map(json.loads, file.read_text().splitlines())
        ]
        for file in (tmp_path / "whole.run/log.jsonl", tmp_path / "cut.run/log.jsonl")
    ]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_leaving_any_one_state_out_of_a_checkpoint_shows(data, tmp_path):
    """Each kind of state matters: without it the run is refused, and with zeros in its place it ends elsewhere."""
    whole, again = tmp_path / "whole.safetensors", tmp_path / "again.safetensors"
    train(data, whole, **MODES["lora"])
    file = tmp_path / "whole.run/checkpoints/step-000004.safetensors"
    saved, notes = io.read(file)
    kinds = {}
    for key in sorted(saved):
        head, _, name = key.partition("/")
        if saved[key].abs().sum() > 0:
            kinds.setdefault((head, name.rpartition("/")[2] if head == "optimizer" else bool(name)), key)
    assert {kind for kind, _ in kinds} == {"parameter", "optimizer", "ema", "best", "step"}
    assert {name for kind, name in kinds if kind == "optimizer"} == {"", "exp_avg", "exp_avg_sq", "step"}
    for key in kinds.values():
        without = {k: x for k, x in saved.items() if k != key}
        io.save(tmp_path / "without.safetensors", without, notes)
        with pytest.raises(InputError):
            train(data, again, life={"resume": str(tmp_path / "without.safetensors"), "force": True}, **MODES["lora"])
        if key in ("step", "optimizer"):
            continue  # the count of steps, and the list of what the optimizer holds: zeros are refused
        changed = {k: torch.zeros_like(x) if k == key else x for k, x in saved.items()}
        io.save(tmp_path / "changed.safetensors", changed, notes)
        train(data, again, life={"resume": str(tmp_path / "changed.safetensors"), "force": True}, **MODES["lora"])
        same_file = again.read_bytes() == whole.read_bytes()
        ours, theirs = (json.loads(line) for line in _last(tmp_path, ("whole", "again")))
        assert not same_file or ours.get("validation_note") != theirs.get("validation_note"), key


def _last(folder: Path, names: tuple[str, ...]) -> list[str]:
    return [(folder / f"{name}.run/log.jsonl").read_text().splitlines()[-1] for name in names]


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(data, tmp_path):
    train(data, tmp_path / "whole.safetensors")
    with pytest.raises(Stopped):
        train(data, tmp_path / "cut.safetensors", talk=Words().talk(stopping_at(4)))
    newest = tmp_path / "cut.run/checkpoints/step-000005.safetensors"
    damaged = bytearray(newest.read_bytes())
    damaged[-7] ^= 1
    newest.write_bytes(damaged)
    words = Words()
    result = train(data, tmp_path / "cut.safetensors", talk=words.talk())
    assert result["resumed_from"].endswith("step-000004.safetensors") and "damaged" in words
    assert (tmp_path / "cut.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_of_other_data_or_config_is_refused_with_the_differences(data, tmp_path):
    output = tmp_path / "x.safetensors"
    with pytest.raises(Stopped):
        train(data, output, talk=Words().talk(stopping_at(3)))
    with pytest.raises(RefusedError, match=r"--lr is 0\.5, was 0\.0001"):
        train(data, output, lr=0.5)
    caption = (data / "0.txt").read_text()
    (data / "0.txt").write_text("another <s1> caption")
    with pytest.raises(RefusedError, match="captions have changed"):
        train(data, output)
    with pytest.raises(RefusedError, match="captions have changed"):
        train(data, output, life={"resume": str(tmp_path / "x.run")})
    (data / "0.txt").write_text(caption)
    assert train(data, output)["resumed_from"]


@pytest.mark.slow
def test_a_number_that_is_not_finite_leaves_a_bundle_that_replays(data, tmp_path):
    output = tmp_path / "x.safetensors"
    config = {"lr": 1e30, "max_grad_norm": 0, "optimizer": "adamw"}
    with pytest.raises(NumericError, match="--replay") as raised:
        train(data, output, life={"checkpoint_every": 1}, **config)
    (bundle,) = (tmp_path / "x.run").glob("replay-*.json")
    assert str(bundle) in str(raised.value) and ".png" in str(raised.value) and not output.exists()
    words = Words()
    again = train(data, output, talk=words.talk(), life={"replay": bundle}, **config)
    assert again["same"] and "the same loss as then" in words
    assert not output.exists()


@pytest.mark.slow
def test_the_table_of_words_is_never_copied_and_never_changed(data, tmp_path):
    result = train(data, tmp_path / "e.safetensors", **MODES["ti"])
    assert result["trainable_parameters"] == 2 * 32
    adapter = files.read(tmp_path / "e.safetensors")
    (by_part,) = adapter.embeddings.values()
    assert tuple(by_part["text_encoder"].shape) == (2, 32) and not adapter.modules
    _, newest = checkpoints.listed(tmp_path / "e.run/checkpoints")[-1]
    held = [x for x in checkpoints.read(newest).tensors.values() if x.is_floating_point()]
    assert max(x.numel() for x in held) == 2 * 32


@pytest.mark.slow
@pytest.mark.parametrize("joint", ["alternate", "together", "off"])
def test_pivotal_goes_from_the_words_to_the_adapter(joint, data, tmp_path):
    train(data, tmp_path / "p.safetensors", **MODES["pivotal"], joint=joint, life={"checkpoint_every": 1})
    states = [checkpoints.read(f).tensors for _, f in checkpoints.listed(tmp_path / "p.run/checkpoints")]
    rows = [state["parameter/tokens.text_encoder"] for state in states]
    ups = [next(x for k, x in sorted(s.items()) if k.startswith("parameter/unet") and k.endswith("up")) for s in states]
    moved = [not torch.equal(a, b) for a, b in pairwise(rows)]
    adapted = [not torch.equal(a, b) for a, b in pairwise(ups)]
    assert len(states) == 8 and moved[0] and not adapted[0]
    after = {"alternate": [False, True] * 3, "together": [True] * 6, "off": [False] * 6}[joint]
    assert moved[1:] == after
    assert adapted[1:] == {"alternate": [True, False] * 3}.get(joint, [True] * 6)


@pytest.mark.slow
def test_the_text_encoder_rests_after_its_steps(data, tmp_path):
    train(data, tmp_path / "t.safetensors", text_encoder=True, text_steps=3, life={"checkpoint_every": 1})
    states = [checkpoints.read(f).tensors for _, f in checkpoints.listed(tmp_path / "t.run/checkpoints")]
    text = [k for k in states[0] if k.startswith("parameter/text_encoder")]
    assert text and any(not torch.equal(states[0][k], states[2][k]) for k in text)
    assert all(torch.equal(states[2][k], states[5][k]) for k in text)


@pytest.mark.slow
def test_the_best_is_kept_beside_the_last(data, tmp_path):
    result = train(data, tmp_path / "v.safetensors", **MODES["lora"])
    rows = [json.loads(line) for line in (tmp_path / "v.run/log.jsonl").read_text().splitlines()]
    validated = {row["step"]: row["validation_loss"] for row in rows if "validation_loss" in row}
    assert [*validated] == [2, 4, 6] and result["validation_loss"] == validated[6]
    best = files.read(tmp_path / "v.run/best.safetensors")
    assert int(best.metadata["lorakit.step"]) == rows[-1]["best_step"]
    assert str(tmp_path / "v.run/best.safetensors") in result["outputs"]


def test_a_plan_writes_nothing_and_measures(data, tmp_path):
    words = Words()
    done = train(data, tmp_path / "p.safetensors", talk=words.talk(), life={"plan": True}, optimizer="prodigy")
    assert done["seconds_expected"] > 0 and done["pictures"] == {"32x32": 4} and done["steps"] == 6
    assert "plan: --lr 1 (from the optimizer), highest 1 in step 1, last" in words and done["rates"] == {"--lr": 1.0}
    curve = done["curves"]["--lr"]
    assert curve["peak_step"] == 1 and [step for step, _ in curve["points"]] == [1, 2, 3, 4, 5, 6] and " ┤█" in words
    assert "plan: 6 steps, 3.0 epochs" in words and not (tmp_path / "p.safetensors").exists()


def test_latents_of_pictures_that_are_gone_leave_the_cache(data, tmp_path):
    sizes = []
    for turn in range(3):
        for i in range(4):
            Image.new("RGB", (64, 64), (50 * turn, 40 * i, 7)).save(data / f"{i}.png")
        train(data, tmp_path / "x.safetensors", life={"plan": True})
        sizes.append((tmp_path / "x.run/cache/latents.pack").stat().st_size)
    assert sizes[2] == sizes[0]


@pytest.mark.slow
def test_a_single_file_is_trained_with_a_tokenizer_from_elsewhere(data, tmp_path, program):
    base = make(tmp_path / "base", "sd1", layers=2)
    single(base, tmp_path / "one.safetensors", "sd1")
    model = {"model": str(tmp_path / "one.safetensors"), "tokenizer": str(base), "size": 64}
    prior = {"mode": "dreambooth", "class_prompt": "a thing", "prior_count": 1, "prior_dir": str(tmp_path / "class")}
    small = ["--size", 64, "--steps", 1, "--count", 1]
    program("prior-gen", "a thing", "class", "-m", "one.safetensors", "--tokenizer", base, *small)
    assert train(data, tmp_path / "x.safetensors", steps=1, **model, **prior)["steps"] == 1


def test_a_dry_run_writes_nothing(data, tmp_path):
    words = Words()
    train(data, tmp_path / "d.safetensors", talk=words.talk(), life={"dry_run": True})
    assert "4 pictures would be trained on for 6 steps" in words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_a_caption_without_the_token_is_an_error(data, tmp_path):
    with pytest.raises(InputError, match="<other>"):
        train(data, tmp_path / "x.safetensors", mode="ti", token=["<other>"])


@pytest.mark.parametrize("more", [{}, {"variant": "dora"}, {"init": "pissa"}, {"variant": "lokr"}])
def test_a_rate_of_nothing_is_an_adapter_without_effect(more, data, tmp_path):
    with pytest.raises(NumericError, match="no effect, all of its 32 modules"):
        train(data, tmp_path / "x.safetensors", lr=1e-45, steps=1, **more)
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"mode": "ti"}, "needs --token"),
        ({"token": ["<s1>"]}, "--token is for --mode ti"),
        ({"rank": 0, "warmup": -1}, "--rank must be at least 1"),
        ({"target": "("}, "not a regular expression"),
        ({"min_snr": -1.0}, "--min-snr"),
        ({"timestep_range": "x"}, "--timestep-range"),
        ({"debiased": True, "v_like": True}, "--debiased and --v-like"),
    ],
)
def test_a_wrong_config_is_told_at_once(config, says):
    with pytest.raises(UsageError, match=says):
        TrainConfig(**config)


def test_what_reads_back_otherwise_fails_the_run(data, tmp_path, monkeypatch):
    from lorakit.jobs.train import write as _write

    monkeypatch.setattr(_write, "wrong_in", lambda file, adapter, tolerance: ["unet.x is missing"])
    with pytest.raises(LorakitError, match="reads back otherwise"):
        train(data, tmp_path / "x.safetensors", steps=1)


@pytest.mark.slow
def test_previews_are_what_sample_draws_with_the_file(data, small, tmp_path, program):
    output, prompt = tmp_path / "x.safetensors", "a photo of a <s1> thing"
    settings = {**MODES["pivotal"], "steps": 1, "ti_steps": 1, "lr": 0.01}
    train(data, output, life={"preview_prompts": [prompt], "preview_every": 1}, **settings)
    drawn = sorted((tmp_path / "x.run/previews").iterdir())
    program("sample", prompt, "-m", small, "--lora", output, "--seed", 0, "-o", "again.png")
    with Image.open(drawn[0]) as first, Image.open(drawn[1]) as last, Image.open(tmp_path / "again.png") as again:
        assert len(drawn) == 2 and first.tobytes() != last.tobytes() == again.tobytes()


@pytest.mark.slow
def test_a_whole_model_is_a_folder_or_one_file_of_the_same_weights(data, tmp_path):
    """The file's weights are the folder's to a rounding of float32."""
    base = make(tmp_path / "base", "sd1", layers=2)
    config = {
        "mode": "full",
        "text_encoder": True,
        "steps": 1,
        "model": str(base),
        "lr": 1e-3,
        "lr_text": 1e-3,
        "size": 64,
    }
    train(data, tmp_path / "folder", **config)
    train(data, tmp_path / "one.safetensors", **config)
    folder, one = (open_model(str(tmp_path / name)).arrays for name in ("folder", "one.safetensors"))
    before = open_model(str(base)).arrays
    moved = [name for name in before if not np.array_equal(before[name].float(), folder[name].float())]
    assert any(name.startswith("text_encoder.") for name in moved) and any(name.startswith("unet.") for name in moved)
    for name in moved:
        np.testing.assert_allclose(one[name].float(), folder[name].float(), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_whole_model_that_reads_back_otherwise_fails_the_run(data, tmp_path, monkeypatch):
    base = make(tmp_path / "base", "sd1")
    config = {"mode": "full", "steps": 1, "model": str(base), "lr": 1e-6, "size": 64}
    train(
        data, tmp_path / "half", life={"save_dtype": "float16", "dtype": "bfloat16"}, **config
    )  # zeros of float16 are no fault
    (saved,) = (tmp_path / "half.run/checkpoints").iterdir()
    state = io.read(saved)[0]
    # Computed in bfloat16 and kept in float32: bfloat16 would have swallowed a step of 1e-6.
    assert state["parameter/unet.conv_out.weight"].dtype == torch.float32

    def wrong(part, config, tensors):
        return part_with(part, config, {**tensors, "conv_out.bias": tensors["conv_out.bias"] + 1e-3})

    monkeypatch.setattr(_write, "part_with", wrong)
    with pytest.raises(LorakitError, match=r"reads back otherwise.*unet\.conv_out\.bias"):
        train(data, tmp_path / "wrong", **config)


@pytest.mark.slow
def test_an_adapter_is_a_config_that_makes_it_again(data, tmp_path, program):
    (tmp_path / "mine.toml").write_text("[train]\nrank = 3\nsteps = 1\nsize = 32\n")
    options = [data, "--config", "mine.toml", "--batch-size", 2, "--text-encoder", "-o", "first.safetensors"]
    program("train", *options)
    program("train", data, "--config", "first.safetensors", "-o", "again.safetensors")
    assert (tmp_path / "first.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    written = (tmp_path / "again.run/config.toml").read_text()
    assert "rank = 3  # file" in written and "batch-size = 2  # option" in written and "lr = 0.002  # model" in written
    program("train", data, "--config", "again.run/config.toml", "-o", "third.safetensors")
    assert io.read(tmp_path / "third.safetensors")[0].keys() == io.read(tmp_path / "first.safetensors")[0].keys()
    other = ["--format", "diffusers", "--save-dtype", "float16", "-o", "other.safetensors"]
    program("train", data, "--size", 32, "--steps", 1, *other)
    program("train", data, "--config", "other.safetensors", "-o", "same.safetensors")
    assert (tmp_path / "other.safetensors").read_bytes() == (tmp_path / "same.safetensors").read_bytes()
    assert "no config in its metadata" in program("train", data, "--config", _plain(tmp_path), status=2).stderr


def _plain(folder: Path) -> Path:
    io.save(folder / "plain.safetensors", {"x": torch.ones(1)}, {})
    return folder / "plain.safetensors"


@pytest.mark.slow
def test_a_teachers_prior_is_nothing_at_first_and_goes_on_to_the_same_bytes(data, tmp_path):
    prior = tmp_path / "class"
    captioned(prior, "a thing,")
    taught = {"mode": "dreambooth", "class_prompt": "a thing", "prior_dir": str(prior), "prior_count": 4}
    taught |= {"prior_target": "teacher", "text_encoder": True, "lr": 0.05}
    words = Words()
    train(data, tmp_path / "whole.safetensors", talk=words.talk(), **taught)
    assert "(16 new)" in words  # four of each picture
    first, *later = (json.loads(line) for line in (tmp_path / "whole.run/log.jsonl").read_text().splitlines())
    losses = [[e for name, _, e in row["samples"] if name.startswith("prior/")] for row in (first, *later)]
    assert losses[0] and max(losses[0]) < 1e-9 and max(map(max, losses[1:])) > 1e-4
    with pytest.raises(Stopped):
        train(data, tmp_path / "cut.safetensors", talk=words.talk(stopping_at(3)), **taught)
    train(data, tmp_path / "cut.safetensors", talk=words.talk(), **taught)
    assert "(0 new)" in words
    assert (tmp_path / "cut.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


@pytest.mark.slow
def test_tensorboard_gets_the_numbers_of_every_step(data, tmp_path):
    pytest.importorskip("tensorboard")
    train(data, tmp_path / "x.safetensors", steps=2, life={"track": ["tensorboard"]})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "x.run/tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (tmp_path / "x.run/log.jsonl").read_text().splitlines()]
    assert [e.step for e in events.Scalars("loss")] == [1, 2]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([row["loss"] for row in rows])
    assert "lr/unet" in events.Tags()["scalars"]


@pytest.mark.slow
def test_wandb_works_offline(data, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(data, tmp_path / "x.safetensors", steps=2, life={"track": ["wandb"]})
    assert list((tmp_path / "x.run/wandb").glob("offline-run-*/run-*.wandb"))


def test_out_of_memory_tells_what_would_help(data, tmp_path, monkeypatch):
    from lorakit.training.objective import Objective

    def none_left(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Objective, "_descend", none_left)
    with pytest.raises(ResourceError, match="out of memory") as raised:
        train(data, tmp_path / "x.safetensors")
    assert "--gradient-checkpointing" in str(raised.value) and "--batch-size 1 --accumulate 2" in str(raised.value)
    assert raised.value.exit_status == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [{"gradient_checkpointing": True}, {"dropout": 0.3}, {"batch_size": 1, "accumulate": 2}]
)
def test_what_saves_memory_leaves_the_losses_alone(more, data, tmp_path):
    """Checkpointing and smaller batches are the same arithmetic; dropout is drawn by sample, so batches do not matter."""
    base = {"dropout": 0.3} if "dropout" in more else {}
    train(data, tmp_path / "a.safetensors", steps=2, **base)
    train(data, tmp_path / "b.safetensors", steps=2, **{**more, **({"gradient_checkpointing": True} if base else {})})
    rows = [
        [json.loads(line)["loss"] for line in (tmp_path / f"{name}.run/log.jsonl").read_text().splitlines()]
        for name in "ab"
    ]
    assert rows[0] == pytest.approx(rows[1], rel=1e-5)


@pytest.mark.slow
def test_a_mask_of_ones_is_no_mask_and_another_one_counts(data, tmp_path):
    train(data, tmp_path / "none.safetensors", steps=2)
    for i in range(4):
        Image.new("L", (64, 64), 255).save(data / f"{i}.mask.png")
    train(data, tmp_path / "ones.safetensors", steps=2)
    half = Image.new("L", (64, 64), 0)
    half.paste(255, (0, 0, 32, 64))
    half.save(data / "0.mask.png")
    train(data, tmp_path / "half.safetensors", steps=2)
    none, ones, left = ((tmp_path / f"{name}.safetensors") for name in ("none", "ones", "half"))
    assert {k: x.tolist() for k, x in io.read(none)[0].items()} == {k: x.tolist() for k, x in io.read(ones)[0].items()}
    assert {k: x.tolist() for k, x in io.read(left)[0].items()} != {k: x.tolist() for k, x in io.read(ones)[0].items()}


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["kohya", "lorakit"])
def test_one_file_of_every_format_holds_it_all(file_format, data, tmp_path):
    train(data, tmp_path / "x.safetensors", **MODES["pivotal"], steps=1, life={"file_format": file_format})
    adapter = files.read(tmp_path / "x.safetensors")
    assert adapter.format == file_format and set(adapter.embeddings) == {"<s1>"}
    assert {name.partition(".")[0] for name in adapter.modules} == {"unet", "text_encoder"}
    assert adapter.metadata["lorakit.config"] and adapter.metadata["ss_steps"] == "3"


@pytest.mark.slow
@pytest.mark.parametrize("variant", TRAINABLE.names())
def test_every_variant_reads_back_at_any_scale(variant, data, tmp_path):
    file_format = "diffusers" if variant in ("lora", "rslora", "dora") else "kohya"
    train(data, tmp_path / "x.safetensors", variant=variant, alpha=3.0, steps=2, life={"file_format": file_format})
    assert len(files.read(tmp_path / "x.safetensors").modules) == 32


def test_a_dora_that_differs_in_either_half_is_told(tmp_path):
    from lorakit.jobs.train.write import wrong_in

    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    low = LowRank(torch.randn(2, 320), torch.randn(320, 2), 2.0)
    kept = DoRA(low, torch.rand(320, 1) + 1)
    writing.save(tmp_path / "x.safetensors", Adapter(modules={name: kept}), "kohya")
    assert wrong_in(tmp_path / "x.safetensors", Adapter(modules={name: kept}), 1e-5) == []
    for other in (DoRA(replace(low, alpha=2.1), kept.magnitude), DoRA(low, kept.magnitude * 1.1)):
        (line,) = wrong_in(tmp_path / "x.safetensors", Adapter(modules={name: other}), 1e-5)
        assert line.startswith(f"{name} differs by 0.0")


@pytest.mark.slow
@pytest.mark.parametrize(("file_format", "clients"), [("kohya", ("a1111", "comfyui")), ("diffusers", ("diffusers",))])
def test_a_dora_is_one_that_the_programs_of_its_format_apply(file_format, clients, data, tmp_path):
    words = Words()
    train(
        data,
        tmp_path / "x.safetensors",
        talk=words.talk(),
        variant="dora",
        alpha=3.0,
        steps=2,
        life={"file_format": file_format},
    )
    read = files.read(tmp_path / "x.safetensors")
    assert len(read.modules) == 32 and {delta.axis for delta in read.modules.values()} == {int(file_format == "kohya")}
    for client in clients:
        assert not coverage(read, client).wrong
    assert f"{', '.join(clients)}: all 32 modules right" in words
    assert json.loads(read.metadata["lorakit.config"])["dora_axis"] == ("input" if file_format == "kohya" else "output")


def test_a_token_that_did_not_move_is_an_error(data, tmp_path):
    with pytest.raises(NumericError, match="<s1> learned nothing"):
        train(data, tmp_path / "x.safetensors", mode="ti", token=["<s1>"], lr_token=1e-45, steps=1)
    assert not (tmp_path / "x.safetensors").exists()


LONG = "a very long caption about many things " * 12


@pytest.mark.parametrize("more", [{}, {"text_encoder": True}])
def test_captions_that_are_cut_are_named_whatever_is_trained(more, data, tmp_path):
    words = Words()
    (data / "0.txt").write_text(LONG)
    train(data, tmp_path / "x.safetensors", talk=words.talk(), steps=1, **more)
    assert "1 caption is longer than the 32 tokens the model reads, which cuts off the rest: 'a very long" in words


@pytest.mark.parametrize("vectors", [1, 3])
def test_a_token_behind_what_the_model_reads_is_an_error(vectors, data, tmp_path):
    for i in range(4):
        (data / f"{i}.txt").write_text(f"a <s1> thing number {i}")
    (data / "0.txt").write_text(f"{LONG} <s1>")
    with pytest.raises(InputError, match="<s1> stands behind the 32 tokens that the model reads in 1 caption: 'a very"):
        train(data, tmp_path / "x.safetensors", mode="ti", token=["<s1>"], vectors=vectors, steps=1)
    (data / "0.txt").write_text(f"a <s1> {LONG}")
    train(data, tmp_path / "x.safetensors", mode="ti", token=["<s1>"], vectors=vectors, steps=1)


def test_all_class_pictures_that_are_there_are_used_and_the_missing_drawn_elsewhere(data, tmp_path, monkeypatch):
    """Five of the user's own, one of them in a sub-folder and one with a caption of its own; three are missing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own = captioned(tmp_path / "class", "", ((64, 64),) * 4)
    (own / "1_dog").mkdir()
    (own / "3.png").rename(own / "1_dog/far.png")
    for file in own.glob("*.txt"):
        file.unlink()
    (own / "0.txt").write_text("a cat on a roof")
    before = {file: file.read_bytes() for file in own.rglob("*") if file.is_file()}
    words = Words()
    for mode, more in (("dreambooth", {}), ("lora", {})):
        train(
            data,
            tmp_path / f"{mode}.safetensors",
            talk=words.talk(),
            mode=mode,
            class_prompt="an animal",
            prior_count=6,
            prior_dir=str(own),
            steps=6,
            **more,
        )
        rows = [json.loads(line) for line in (tmp_path / f"{mode}.run/log.jsonl").read_text().splitlines()]
        assert {name for row in rows for name, _, _ in row["samples"] if name.startswith("prior/")} == {
            f"prior/{i}" for i in range(6)
        }
    assert "4 of --prior-dir" in words and "and 2 that lorakit draws of --class-prompt 'an animal'" in words
    assert {file: file.read_bytes() for file in own.rglob("*") if file.is_file()} == before
    train(
        data,
        tmp_path / "all",
        talk=words.talk(),
        mode="full",
        prior_count=2,
        prior_dir=str(own),
        class_prompt="x",
        steps=1,
    )
    assert "all are used, though --prior-count is 2" in words


def test_prodigys_estimate_is_in_the_log(data, tmp_path):
    train(data, tmp_path / "x.safetensors", optimizer="prodigy", steps=3, size=64, model="tiny")
    found = [json.loads(line)["d"] for line in (tmp_path / "x.run/log.jsonl").read_text().splitlines()]
    assert found[0] == pytest.approx(1e-6) and found[0] <= found[1] < found[2]


def test_words_are_validated_before_the_adapters_around_them_learn(data, tmp_path):
    how = {"mode": "pivotal", "token": ["<s1>"], "ti_steps": 1, "steps": 1, "validation_split": 0.3}
    train(data, tmp_path / "x.safetensors", life={"validate_every": 1}, **how)
    assert files.read(tmp_path / "x.run/best.safetensors").embeddings


@pytest.mark.slow
def test_a_whole_model_that_goes_on_without_its_cache_is_taught_by_the_untrained_one(data, tmp_path):
    taught = {"mode": "full", "prior_dir": str(captioned(tmp_path / "class", "a thing,")), "prior_count": 4}
    taught |= {"prior_target": "teacher", "steps": 4, "lr": 0.01}
    train(data, tmp_path / "whole", **taught)
    with pytest.raises(Stopped):
        train(data, tmp_path / "cut", talk=Words().talk(stopping_at(2)), **taught)
    (tmp_path / "cut.run/cache/teacher.pack").unlink()
    train(data, tmp_path / "cut", **taught)
    weights = [(tmp_path / name / "unet/diffusion_pytorch_model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_a_dry_run_looks_at_the_lengths_of_captions_too(data, tmp_path):
    (data / "0.txt").write_text(f"{LONG} <s1>")
    with pytest.raises(InputError, match="<s1> stands behind"):
        train(data, tmp_path / "x.safetensors", mode="ti", token=["<s1>"], life={"dry_run": True})


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"mask_weight": 0.2}, "--mask-weight has an effect only where pictures have masks"),
        ({"wildcards": True}, "--wildcards has an effect only where captions have {a|b}"),
        (
            {"tag_dropout": 0.1, "keep_separator": "|||"},
            "--keep-separator has an effect only where captions have '|||'",
        ),
        (
            {"shuffle_tags": True, "caption_separator": ";"},
            "--shuffle-tags has an effect only where captions have several tags",
        ),
        ({"stratify": True, "batch_size": 1}, "--stratify has an effect only where a step shows several pictures"),
    ],
)
def test_an_option_that_finds_nothing_to_do_in_the_set_is_refused_or_noted(more, says, data, tmp_path):
    words = Words()
    name = next(key for key in more if f"--{key.replace('_', '-')} " in says)
    with pytest.raises(UsageError, match=re.escape(says)):
        train(data, tmp_path / "x.safetensors", life={"dry_run": True, "given": {name: "option"}}, **more)
    train(data, tmp_path / "x.safetensors", talk=words.talk(), life={"dry_run": True, "given": {name: "file"}}, **more)
    assert f"settings that this run makes no use of: {says}" in words
