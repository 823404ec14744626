"""One training run: data in, adapter or model out, a run folder beside it."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit import __version__
from lorakit.adapter import Adapter
from lorakit.config import TrainConfig
from lorakit.data import dataset
from lorakit.errors import InputError, NumericError, Stopped, UsageError
from lorakit.io.files import check_target, replacing_folder, write_text
from lorakit.jobs import adapters, prior_gen, sample
from lorakit.models.load import Components
from lorakit.registry import MODES
from lorakit.reports.page import Page
from lorakit.runtime.device import peak_memory
from lorakit.runtime.locks import held
from lorakit.runtime.signals import deferred
from lorakit.training import checkpoints
from lorakit.training.cache import cache_latents, cache_states
from lorakit.training.loop import Optimizer, Plan, Step, train
from lorakit.training.objective import Source, objective


@dataclass(frozen=True)
class Life:
    """How a run lives, apart from what it computes."""

    output: Path
    run_folder: Path
    file_format: str
    device: str
    dtype: str
    checkpoint_every: int
    keep: int
    resume: str
    force: bool
    dry_run: bool


@dataclass(frozen=True)
class Talk:
    tick: Callable[[int, int], None]
    note: Callable[[str], None]


def _fingerprint(examples: list[dataset.Example]) -> str:
    """Of the pictures' bytes, captions and repeats; independent of where the folder lies."""
    whole = hashlib.sha256()
    for example in examples:
        whole.update(hashlib.sha256(example.file.read_bytes()).digest())
        whole.update(f"{example.file.name}\0{example.caption}\0{example.repeats}\n".encode())
    return whole.hexdigest()


def _prior(components: Components, config: TrainConfig, life: Life, talk: Talk) -> list[dataset.Example]:
    """The class pictures; missing ones are drawn first, with the untouched base model."""
    if not config.class_prompt:
        raise UsageError(f'--mode {config.mode} needs --class-prompt, such as "a photo of a dog"')
    folder = Path(config.prior_dir) if config.prior_dir else life.run_folder / "prior"
    if not folder.is_dir() or len(dataset.find(folder)) < config.prior_count:
        request = sample.Request(
            [config.class_prompt], config.prior_count, config.seed, "", config.model, None, 20, 4.0, "dpm++", 8
        )
        prior_gen.run(request, folder, components, force=False, dry_run=False, tick=talk.tick, note=talk.note)
    return dataset.read(folder, config.class_prompt)[: config.prior_count]


def _notes(config: TrainConfig, data_hash: str) -> dict[str, str]:
    text = json.dumps(dataclasses.asdict(config), sort_keys=True)
    return {
        "lorakit.config": text,
        "lorakit.data": data_hash,
        "lorakit.scale": str((config.alpha or config.rank) / config.rank),
        "lorakit.run": hashlib.sha256(f"{text}\0{data_hash}\0{__version__}".encode()).hexdigest()[:16],
        "ss_base_model_version": {"tiny": "lorakit_tiny", "sd21": "sd_v2"}.get(config.model, "sd_v1"),
        "ss_sd_model_name": config.model,
    }


def _resumed(life: Life, notes: dict[str, str], note: Callable[[str], None]) -> checkpoints.Checkpoint | None:
    """The checkpoint to go on from. `auto` takes the newest whole one of the same run and leaves others alone."""
    if life.resume == "never":
        return None
    if life.resume != "auto":
        path = Path(life.resume)
        files = (
            [file for _, file in checkpoints.listed(path / "checkpoints") or checkpoints.listed(path)]
            if path.is_dir()
            else [path]
        )
        if not files:
            raise InputError(f"--resume {path}: no checkpoint there")
        found = checkpoints.read(files[-1])
        if found.notes.get("lorakit.run") != notes["lorakit.run"]:
            raise InputError(f"--resume {files[-1]} is of another run: its config or data differ")
        return found
    for _, file in reversed(checkpoints.listed(life.run_folder / "checkpoints")):
        try:
            found = checkpoints.read(file)
        except InputError as error:
            note(f"passed by: {error}")
            continue
        if found.notes.get("lorakit.run") == notes["lorakit.run"]:
            return found
        note(f"{file} is of another config or other data: starting anew")
        return None
    return None


def _clean_log(file: Path, step: int) -> list[dict[str, Any]]:
    """The log's whole lines up to `step`; what came after is computed again."""
    rows = []
    if step and file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                break
            if row["step"] <= step:
                rows.append(row)
    write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def _write_report(folder: Path, config: TrainConfig, rows: list[dict[str, Any]]) -> None:
    page = Page("lorakit train")
    page.curve([row["loss"] for row in rows], "loss")
    page.table(("option", "value"), sorted(dataclasses.asdict(config).items()))
    write_text(folder / "report.html", page.render())


def _write_result(result: Any, components: Components, life: Life, notes: dict[str, str]) -> None:
    if isinstance(result, Adapter):
        adapters.save(life.output, result.with_metadata(**notes), life.file_format)
        return
    if not all(tensor.isfinite().all() for tensor in result.values()):
        raise NumericError(f"{life.output}: NaN or infinity in the trained weights; nothing was written")
    with replacing_folder(life.output) as partial:
        shutil.copytree(
            components.folder,
            partial,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("unet", "*.py", "__pycache__", "build"),
        )
        components.unet.save_pretrained(partial / "unet")
        write_text(partial / "lorakit.json", json.dumps(notes, indent=1))


def run(data: Path, config: TrainConfig, life: Life, talk: Talk) -> dict[str, Any]:
    """Train and write. The output is checked before any work; an interrupted run of the same config goes on."""
    check_target(life.output, force=life.force, folder=config.mode == "full")
    check_target(life.run_folder / "log.jsonl", force=True)
    config, mode = config.suited(), MODES[config.mode]
    examples = dataset.read(data, config.instance_prompt, talk.note)
    if life.dry_run:
        talk.note(f"{len(examples)} pictures would be trained on for {config.steps} steps into {life.output}")
        return {"outputs": [], "steps": 0}
    with held(life.run_folder):
        return _held_run(config, mode, examples, life, talk)


def _held_run(
    config: TrainConfig, mode: Any, examples: list[dataset.Example], life: Life, talk: Talk
) -> dict[str, Any]:
    components = sample.load_model(config.model, life.device, life.dtype, talk.note)
    size = config.size or components.size
    if size % components.multiple:
        raise UsageError(f"--size {size}: must be a multiple of {components.multiple} for this model")
    prior = _prior(components, config, life, talk) if mode.NEEDS_PRIOR else []
    notes = _notes(config, _fingerprint(examples + prior))
    quiet: Callable[[int, int], None] = lambda done, total: None  # noqa: E731
    batch = config.batch_size or 1
    sources = [
        Source(
            "data", cache_latents(components, examples, size, config.flip, quiet), batch, 1.0, config.caption_dropout
        )
    ]
    if prior:
        share = max(1, batch // 2)
        sources.append(
            Source("prior", cache_latents(components, prior, size, False, quiet), share, config.prior_weight)
        )
    states = cache_states(components, [e.caption for e in examples + prior], talk.note)
    trained = mode.begin(components, config)
    optimizer = Optimizer(trained.parameters)
    resumed = _resumed(life, notes, talk.note)
    if resumed:
        optimizer.restore(resumed.tensors)
        talk.note(f"going on from {resumed.file} at step {resumed.step}")
    first = resumed.step if resumed else 0
    write_text(life.run_folder / "config.toml", _toml(config))
    rows = _clean_log(life.run_folder / "log.jsonl", first)
    plan = Plan(config.steps or 1, config.lr or 0.0, config.lr_schedule, config.warmup, config.max_grad_norm)
    descend = objective(
        components, sources, states, list(trained.parameters.values()), config.seed, config.min_snr or None
    )
    seconds = _loop(train(optimizer, descend, plan, first), optimizer, plan, life, notes, rows, talk)
    final = sum(row["loss"] for row in rows[-20:]) / max(1, len(rows[-20:]))
    notes |= {"lorakit.final_loss": f"{final:.6f}", "ss_steps": str(plan.steps)}
    notes.pop("lorakit.scale")
    _write_result(trained.result(), components, life, notes)
    _write_report(life.run_folder, config, rows)
    shown = sum(source.batch_size for source in sources) * (plan.steps - first)
    return {
        "outputs": [str(life.output)],
        "steps": plan.steps,
        "final_loss": final,
        "validation_loss": None,
        "trainable_parameters": sum(p.numel() for p in trained.parameters.values()),
        "samples_per_second": shown / seconds if seconds else 0.0,
        "peak_memory_bytes": peak_memory(components.device),
        "resumed_from": str(resumed.file) if resumed else None,
    }


def _loop(steps: Any, optimizer: Optimizer, plan: Plan, life: Life, notes: dict[str, str], rows: list[dict[str, Any]], talk: Talk) -> float:  # fmt: skip
    """Consume the steps: log, checkpoint, stop where asked. Gives the seconds spent in steps."""
    folder, spent = life.run_folder / "checkpoints", 0.0
    with deferred() as asked, (life.run_folder / "log.jsonl").open("a", encoding="utf-8") as log:
        for step in steps:
            _log(log, rows, step)
            spent += step.seconds
            talk.tick(step.number, plan.steps)
            last = step.number == plan.steps
            if step.number % life.checkpoint_every == 0 or asked.number or last:
                checkpoints.save(folder, step.number, optimizer.state(), notes, life.keep)
            if asked.number and not last:
                raise Stopped(
                    asked.number, f"stopped at step {step.number}, which is saved; the same command goes on from there"
                )
    return spent


def _log(log: Any, rows: list[dict[str, Any]], step: Step) -> None:
    row = {"step": step.number, "loss": step.loss, "lr": step.rate, "seconds": round(step.seconds, 4)}
    rows.append(row)
    log.write(json.dumps(row) + "\n")
    log.flush()


def _toml(config: TrainConfig) -> str:
    values = {k.replace("_", "-"): v for k, v in dataclasses.asdict(config).items() if v is not None}
    return "[train]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
