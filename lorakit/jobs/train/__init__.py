"""One training run: data in, adapter, embedding or model out, a run folder beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lorakit import process_config
from lorakit.config import TrainConfig
from lorakit.drawing.session import load_model
from lorakit.errors import InputError, NumericError, shorten
from lorakit.formats import files, triggers
from lorakit.formats.layouts import marks
from lorakit.io.endings import of_mode
from lorakit.io.files import check_place, check_target, growing, grown, write_text
from lorakit.io.record import Record, recorded
from lorakit.jobs.train import divide, identity, planning, replaying, resume
from lorakit.jobs.train.data import read_data
from lorakit.jobs.train.report import write_report
from lorakit.jobs.train.run_options import RunOptions
from lorakit.jobs.train.runner import Run
from lorakit.models.base_weights import check_fits
from lorakit.models.places import base_hash
from lorakit.naming import spelled
from lorakit.registry import ADAPTER_FORMATS, MODES, OPTIMIZERS, TRACKERS, TRAINABLE
from lorakit.runtime import extras
from lorakit.runtime.device import peak_memory, pick_device
from lorakit.runtime.locks import held
from lorakit.runtime.scarce import MEMORY, lacking
from lorakit.runtime.sharding import Sharding
from lorakit.runtime.signals import telling
from lorakit.runtime.world import World, alone_by_mistake, joined, place
from lorakit.talk import SILENT, Talk
from lorakit.training.loop import Diverged

__all__ = ["RunOptions", "run"]


def run(data: Path, config: TrainConfig, life: RunOptions, talk: Talk) -> dict[str, Any] | None:
    """Train and write; what was done, or None in a process beside the main one.

    The output is checked before any work; an interrupted run of the same config goes on.
    """
    check(config, life)
    life = replace(life, sources={**life.sources, **{name: of for name, (_, of) in config.chosen().items()}})
    if config.dora_axis == "auto" and hasattr(TRAINABLE[config.variant], "AXES"):
        config = replace(config, dora_axis=ADAPTER_FORMATS[life.file_format].DORA)
    config, world = config.suited(), place()
    life = replace(life, dtype=world.dtype(life.dtype))
    how = divide.asked(config, world)
    if not world.main:
        talk = SILENT
    if alone_by_mistake():
        talk.note(
            "accelerate has started one process: --cpu starts no others; --multi_gpu does, without a GPU too, or torchrun"
        )
    with joined(_device(life, world)) as world, telling(lambda: _BEFORE):
        if not world.main:
            _inside(data, config, life, talk, world, how)
            return None
        if life.show_targets or life.replay:
            return _inside(data, config, life, talk, world, how)
        with held(life.run_folder, dry_run=life.dry_run), recorded(life.run_folder, life.is_known):
            return _inside(data, config, life, talk, world, how)


_BEFORE = "no step was taken; class pictures and encoded pictures that are finished stay, and the same command goes on"


def check(config: TrainConfig, life: RunOptions) -> None:
    """Names, targets, and whether the adapter that training goes on from is for the model; before any work."""
    MODES.check(config.mode)
    TRAINABLE.check(config.variant)
    if ":" not in config.optimizer:
        OPTIMIZERS.check(config.optimizer)
    for name in life.track:
        TRACKERS.check(name)
        extras.check(*TRACKERS[name].NEEDS)
    if config.init_from is not None:
        file = Path(config.init_from)
        check_fits([(file, files.read(file))], config.model, "--model")
    if life.looks_only:
        return
    check_target(life.output, of_mode(config.mode), force=life.force)
    check_place(life.run_folder)
    Record(life.run_folder, life.is_known).check(life.files())


def _device(life: RunOptions, world: World) -> torch.device:
    return pick_device(world.device(life.device))


def _inside(
    data: Path, config: TrainConfig, life: RunOptions, talk: Talk, world: World, how: Sharding | None
) -> dict[str, Any] | None:
    tokenizer = None if config.tokenizer is None else Path(config.tokenizer)
    # Weights that are trained are kept in float32, or small steps would be lost; autocast computes in the dtype.
    dtype = "float32" if config.mode == "full" else life.dtype
    components = load_model(
        config.model,
        str(_device(life, world)),
        dtype,
        note=talk.note,
        tokenizer=tokenizer,
        wanted=config.of_model,
        vae=config.vae,
    )
    if config.vae is not None and config.mode == "full":
        talk.note(
            "the model that is written has its own autoencoder; that of --vae encodes pictures and draws previews"
        )
    mode = MODES[config.mode]
    if life.show_targets:
        return planning.show_targets(components, config, mode)
    base = base_hash(components.folder)
    read = read_data(
        data, config, life, components=components, prior_of=base if config.has_prior else None, talk=talk, world=world
    )
    process = process_config.words(components.scheduler_config)
    notes = identity.notes_of(
        config, life.sources, read.hash, base=base, family=read.family, process=process, processes=world.size
    )
    notes |= {**marks.of_training(components.scheduler_config, read.family), **read.words}
    if phrase := notes.get(triggers.PHRASE):
        talk.note(f"the file will say that prompts need {shorten(phrase, 200)!r}")
    notes["lorakit.options"] = json.dumps(spelled(life.recorded()), sort_keys=True)
    if config.gradient_checkpointing or (how and how.checkpointing):
        components.unet.enable_gradient_checkpointing()
    trained, shards = mode.begin(components, config), None
    if how is not None:
        trained, shards = divide.divide(trained, components, how, world)
    for line in trained.notes:
        talk.note(line)
    this = Run(components, config, life, talk, world, read, trained, notes, shards)
    if life.replay:
        return replaying.replay(this, life.replay)
    this.check_format()
    this.check_lengths()
    planned = planning.plan(this)
    for line in planned.lines():
        talk.note(line)
    if life.plan:
        return {"outputs": [], **planned.figures()}
    return _train(this, base)


def _train(this: Run, base: str) -> dict[str, Any] | None:
    config, life, talk, world = this.config, this.life, this.talk, this.world
    # What a dry run does not know of the data, it cannot tell from what an earlier run had.
    notes = {**this.notes, identity.ITEMS: this.data.items}
    checkpoint = resume.resumed(life, notes, talk.note, this.piece) if this.data.complete else None

    def restore() -> None:
        if checkpoint:
            this.state.restore(checkpoint.tensors, str(checkpoint.file))
            talk.note(f"going on from {checkpoint.file} at step {checkpoint.step}")

    first = checkpoint.step if checkpoint else 0
    if not world.agree(first):
        raise InputError(f"{life.run_folder}: the processes find different checkpoints there; put it where all see it")
    result = _result(this, base, None if checkpoint is None else str(checkpoint.file))
    if life.dry_run:
        restore()
        pictures = len(this.data.pictures)
        talk.note(f"{pictures} pictures would be trained on for {config.total} steps into {life.output}")
        return result
    if world.main:
        extra = {"data": str(this.data.folder), "output": str(life.output), **life.recorded()}
        write_text(life.run_folder / "config.toml", identity.toml(config, life.sources, extra))
    rows = resume.cleaned_log(life.run_folder / "log.jsonl", first) if world.main else []
    growing(life.run_folder / "log.jsonl")
    try:
        last, seconds = this.train(first, rows, restore)
    except Diverged as error:
        raise NumericError(replaying.bundle(this, error)) from error
    except (MemoryError, RuntimeError) as error:
        if lacking(error) != MEMORY:
            raise
        raise planning.out_of_memory(this, error) from error
    with telling(lambda: f"step {last}, the last, is saved; the same command writes {life.output}"):
        outputs = this.finish(rows)
    if not world.main:
        return None
    grown(life.run_folder / "log.jsonl")
    report = write_report(life.run_folder, config, life.sources, rows, this.data.pictures)
    new = [row for row in rows if row["step"] > first]
    shown, waited = sum(len(row["samples"]) for row in new), sum(row["waited"] for row in new)
    return result | {
        "outputs": [str(path) for path in outputs],
        "steps": last,
        "final_loss": json.loads(this.notes["lorakit.final_loss"]),
        "validation_loss": this.validation_loss,
        "samples_per_second": shown / seconds if seconds else 0.0,
        "input_share": waited / seconds if seconds else 0.0,
        "peak_memory_bytes": peak_memory(this.components.device),
        "report": str(report),
    }


def _result(this: Run, base: str, resumed_from: str | None) -> dict[str, Any]:
    """What is known of a run before its first step; None for what only the steps can tell."""
    return {
        "outputs": [],
        "steps": this.config.total,
        "final_loss": None,
        "validation_loss": None,
        "trainable_parameters": this.count(this.trained.parameters),
        "samples_per_second": None,
        "input_share": None,
        "peak_memory_bytes": None,
        "resumed_from": resumed_from,
        "report": None,
        "base_hash": base,
    }
