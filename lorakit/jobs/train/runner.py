"""A run in memory: the model with what is trained in it, its loss, its state, and what is written as it goes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorakit.adapter import Adapter
from lorakit.arrays import Array
from lorakit.config import TrainConfig
from lorakit.data import prompt_tags
from lorakit.effects import refuse_idle
from lorakit.errors import InputError, UsageError
from lorakit.formats import clients
from lorakit.jobs.train import previews, write
from lorakit.jobs.train.data import Data
from lorakit.jobs.train.identity import BASE, ITEMS
from lorakit.jobs.train.monitor import Monitor, final_loss
from lorakit.jobs.train.run_options import RunOptions
from lorakit.models import encode
from lorakit.models.load import Components, is_small
from lorakit.modes import Trained
from lorakit.registry import TRACKERS
from lorakit.runtime.heap import keep_freed_memory
from lorakit.runtime.world import World
from lorakit.talk import Talk
from lorakit.training import checkpoints, loop, optimizers, validation
from lorakit.training.compiled import compile_blocks
from lorakit.training.ema import Ema
from lorakit.training.gradients import Scaler
from lorakit.training.objective import Objective
from lorakit.training.precision import precision
from lorakit.training.shards import Shards
from lorakit.training.state import State
from lorakit.training.texts import Texts

_BEST = "losses"


class Run:
    """Made once everything is known and nothing has been computed; `train` computes."""

    def __init__(
        self,
        components: Components,
        config: TrainConfig,
        life: RunOptions,
        talk: Talk,
        world: World,
        data: Data,
        trained: Trained,
        notes: dict[str, str],
        shards: Shards | None = None,
    ) -> None:
        self.components, self.config, self.life, self.talk, self.world = components, config, life, talk, world
        self.data, self.trained, self.notes, self.shards = data, trained, notes, shards
        self.optimizer = loop.optimizer_of(
            trained.groups,
            lambda inner: optimizers.make(
                config.optimizer,
                inner,
                0.0,
                config.optimizer_args,
                installed=life.sources.get("optimizer") in ("file", "environment"),
            ),
        )
        self.ema = Ema(trained.parameters, config.ema) if config.ema else None
        own = trained.attached.state() if trained.attached is not None else {}
        fixed = {name: x for name, x in own.items() if name not in trained.parameters}
        how = precision(life.dtype, components.device, config.mode == "full")
        self.scaler = Scaler() if how.scaled else None
        self.state = State(trained.parameters, self.optimizer, self.ema, self.scaler, fixed)
        self.texts = Texts(components, trained.text_until, life.cache)
        try:
            self.objective = Objective(
                components,
                data.sources,
                self.texts,
                config,
                world,
                how,
                attached=trained.attached,
                scaler=self.scaler,
                shards=shards,
            )
        except ValueError as error:
            raise UsageError(f"--timestep-range: {error}") from error
        if config.stratify and all(of.batch == 1 or of.teacher is not None for of in data.sources):
            idle = {
                "stratify": "--stratify has an effect only where a step shows several pictures, and here it shows one"
            }
            refuse_idle(idle, life.given, talk.note)
        self.validation_loss: float | None = None
        self._drift: validation.Drift | None = None
        watched = bool(data.measured) and bool(life.validate_every)
        self._started = {n: p.detach().clone() for n, p in trained.parameters.items()} if watched else {}

    def fill(self) -> None:
        """Encode the captions, where they can be known beforehand; what made the caches leaves memory then, unless
        previews need it."""
        still = self.trained.text_until == 0 and self.data.captions is not None
        if still and self.data.captions is not None:
            shown = {caption for of in self.data.measured for caption in validation.captions(of, self._measured)}
            self.texts.fill([*self.data.captions, *shown, *validation.Drift.PROMPTS])
        if self.config.prior_target == "teacher":
            with self.world.main_first(), self.trained.bare():
                made = self.objective.teach(self.notes[BASE], self.life.cache)
            self.talk.note(f"the untrained model has said what class pictures are learnt from ({made} new)")
        if not self.life.preview_prompts:
            self.components.vae.to("meta")  # its config is still asked for
            for encoder in self.components.text_encoders.values() if still else ():
                encoder.to("meta")

    def check_lengths(self) -> None:
        """Say which captions are longer than the model reads. InputError where a token that is to be learned stands behind
        what it reads: the token would never be seen."""
        captions = self.data.captions
        if captions is None:  # too many to be known: each picture's first one
            captions = [of.settled(i, 0) for of in self.data.sources for i in range(len(of.captions))]
        captions = sorted(
            {*captions, *(x for of in self.data.measured for x in validation.captions(of, self._measured))}
        )
        if tagged := prompt_tags.in_captions(captions):
            self.talk.note(tagged)
        if not (long := encode.too_long(self.components, captions)):
            return
        most = self.components.tokenizer.model_max_length
        for token in self.trained.tokens:
            if lost := encode.cut_off(self.components, long, token):
                raise InputError(
                    f"{self.data.folder}: {token} stands behind the {most} tokens that the model reads in "
                    f"{len(lost)} caption{'s' * (len(lost) > 1)}: {lost[0][:60]!r} ...\nmove it to the front, or shorten the captions"
                )
        several = "captions are" if len(long) > 1 else "caption is"
        self.talk.note(
            f"{len(long)} {several} longer than the {most} tokens the model reads, which cuts off the rest: {long[0][:60]!r} ..."
        )

    def steps(self, first: int) -> Iterator[loop.Step]:
        return loop.train(
            self.optimizer,
            self.trained.groups,
            self.objective,
            self.config.total,
            first=first,
            max_norm=self.config.max_grad_norm,
            scaler=self.scaler,
            after=self._after,
            total=None if self.shards is None else self.shards.total,
        )

    def _after(self, step: int, rates: Mapping[str, float]) -> None:
        self.trained.after(step, rates)
        if self.ema is not None:
            self.ema.update()

    def train(self, first: int, rows: list[dict[str, Any]], restore: Callable[[], None]) -> tuple[int, float]:
        """Steps from `first` on; the number of the last, and the seconds spent. `restore` brings the state before them
        back, once the untrained model has been asked what it has to say."""
        life, config = self.life, self.config
        self.fill()
        restore()
        if self.components.device.type == "cpu":
            keep_freed_memory()
        if config.compile:
            self._compile()
        if self.data.measured and life.validate_every:
            with self.untrained():
                self._drift = validation.Drift(self.components, self.texts.now, config.seed)
        trackers = (
            [TRACKERS[name].start(life.run_folder, config.values()) for name in life.track] if self.world.main else []
        )
        watch = Monitor(
            life,
            self.talk,
            self.world,
            self.components.device,
            config.total,
            self.objective.process.steps,
            rows,
            trackers,
        )
        every = [(life.validate_every if self.data.measured else 0, self.validate), (life.preview_every, self.preview)]
        try:
            return watch.run(self.steps(first), self.save, every), watch.spent
        finally:
            for tracker in trackers:
                tracker.close()

    def count(self, names: Iterable[str]) -> int:
        """Numbers in these parameters, of all processes where they are divided."""
        if self.shards is None:
            return sum(self.trained.parameters[name].numel() for name in names)
        return sum(math.prod(self.shards.shapes[name]) for name in names)

    def size_of(self, tensors: Mapping[str, Tensor]) -> int:
        """Bytes of the run's state, of all processes where it is divided."""
        if self.shards is not None:
            return self.shards.sizes(tensors)
        return sum(x.numel() * x.element_size() for x in tensors.values())

    def piece(self, key: str, x: Tensor) -> Tensor:
        """Of a tensor of a checkpoint what this process holds."""
        return x if self.shards is None else self.shards.piece(key, x)

    def _compile(self) -> None:
        if self.shards is not None:
            self.talk.note("--compile: the model is divided among processes; going on without it")
            return
        if is_small(self.components):
            self.talk.note("--compile: the model is too small to gain by it; going on without it")
            return
        active = [p for group in self.trained.groups if group.learns(0) for p in group.parameters.values()]
        compile_blocks(self.components.unet, lambda: float(self.objective(0, active).loss), self.talk.note)

    @contextmanager
    def weights(self) -> Iterator[None]:
        """While it is open the model has the weights that would be written: averaged ones, where there are."""
        with optimizers.averaged(self.optimizer):
            if self.ema is None:
                yield
                return
            with self.ema.used():
                yield

    @contextmanager
    def untrained(self) -> Iterator[None]:
        """While it is open the model is as it was before its first step: a resumed run measures from there too."""
        kept = {name: p.detach().clone() for name, p in self.trained.parameters.items()}
        with torch.no_grad():
            for name, p in self.trained.parameters.items():
                p.copy_(self._started[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in self.trained.parameters.items():
                    p.copy_(kept[name])

    def save(self, step: int) -> None:
        def write(tensors: Mapping[str, Array]) -> None:
            folder = self.life.run_folder / "checkpoints"
            notes = {**self.notes, ITEMS: self.data.items, **self._shape()}
            checkpoints.save(folder, step, tensors, notes, self.life.keep)

        if self.shards is not None:
            self.shards.lend(self.state.tensors(), write)
        elif self.world.main:
            write(self.state.tensors())

    def _shape(self) -> dict[str, str]:
        """What a checkpoint needs besides its tensors to be read as an adapter."""
        found = {"lorakit.variant": self.config.variant, "lorakit.tokens": json.dumps(dict(self.trained.tokens))}
        if self.trained.attached is not None:
            scales = {name: branch.spec.scale for name, branch in self.trained.attached.branches.items()}
            usual = next(iter(scales.values()))
            others = {name: scale for name, scale in scales.items() if scale != usual}
            found |= {"lorakit.scale": repr(usual), "lorakit.scales": json.dumps(others)}
        return found

    def validate(self, step: int) -> dict[str, Any]:
        """The held-out loss; the best so far is written to RUN/best.safetensors."""
        with self.weights():
            now, *classes = (validation.losses(self.objective, of, self._measured) for of in self.data.measured)
            drift = self._drift() if self._drift is not None else 0.0
            verdict = validation.compare(now, self.state.best.get(_BEST))
            self.validation_loss = verdict.mean
            if verdict.better:
                self.state.best = {_BEST: now, "step": torch.tensor(step)}
                self._write_best(step, verdict.mean)
        best = int(self.state.best["step"])
        said = (
            f"{verdict.above:+.5f} ± {verdict.half_width:.5f}"
            if math.isfinite(verdict.half_width)
            else f"{verdict.above:+.5f}, of one picture"
        )
        said = said if math.isfinite(verdict.above) else "the first"
        more = "".join(f", class loss {float(of.mean()):.5f}" for of in classes)
        self.talk.note(f"step {step}: held-out loss {verdict.mean:.5f} ({said}){more}, drift {drift:.4f}")
        waited = (step - best) // max(1, self.life.validate_every)
        stop = bool(self.life.early_stop) and waited >= self.life.early_stop and verdict.surely_worse
        if stop:
            self.talk.note(f"no better held-out loss since step {best}, and surely a worse one now: ending here")
        found = {
            "validation_loss": verdict.mean,
            "validation_note": said,
            "drift": drift,
            "best_step": best,
            "stop": stop,
        }
        return found | ({"class_loss": float(classes[0].mean())} if classes else {})

    @property
    def _measured(self) -> int:
        """Of each set at most so many pictures are measured: all that are held out, and about as many class pictures."""
        return max(4, self.data.held_out)

    def _write_best(self, step: int, loss: float) -> None:
        result = self.adapter()
        if self.world.main and result is not None:
            notes = {**self.notes, "lorakit.step": str(step), "lorakit.validation_loss": f"{loss:.6f}"}
            write.write_adapter(
                self.life.run_folder / "best.safetensors",
                result,
                self.file_format,
                self.life.save_dtype,
                notes,
                self.data.family,
            )

    def adapter(self) -> Adapter | None:
        """The result, where it is one and no whole model."""
        result = None if self.config.mode == "full" else self.trained.result()
        return result if isinstance(result, Adapter) else None

    @property
    def file_format(self) -> str:
        """Of the output: a lone token goes into the embedding format that belongs to the one asked for."""
        if self.config.mode == "ti" and len(self.trained.tokens) == 1:
            return {"kohya": "a1111-embedding", "diffusers": "diffusers-embedding"}.get(
                self.life.file_format, self.life.file_format
            )
        return self.life.file_format

    def check_format(self) -> None:
        """InputError where the file format cannot hold what is trained, which would else be told after the last step."""
        result = self.adapter()
        if result is not None:
            write.check_adapter(
                self.life.output, result, self.file_format, self.life.save_dtype, self.notes, self.data.family
            )

    def preview(self, step: int) -> dict[str, Any]:
        if self.life.preview_prompts and (self.world.main or self.shards is not None):
            with self.weights():
                adapter = self.adapter()
                with self.trained.bare():
                    previews.draw(
                        step, self.components, self.config, self.life, adapter, self.data.family, main=self.world.main
                    )
        return {}

    def finish(self, rows: list[dict[str, Any]]) -> list[Path]:
        """Write the result; the paths written, by the main process."""
        life = self.life
        final = final_loss(rows)
        self.notes |= {"lorakit.final_loss": f"{final:.6f}", "ss_steps": str(rows[-1]["step"]) if rows else "0"}
        with self.weights():
            result = self.trained.result()
            if not self.world.main:
                return []
            if isinstance(result, Adapter):
                trained = self.trained
                write.check_effect(result, trained.idle(), trained.unmoved(), str(life.output), self.talk.note)
                found = write.write_adapter(
                    life.output, result, self.file_format, life.save_dtype, self.notes, self.data.family
                )
                for line in clients.lines(found):
                    self.talk.note(f"{life.output.name}: {line}")
            else:
                words = None if self.config.tokenizer is None else Path(self.config.tokenizer)
                write.write_model(
                    life.output,
                    result,
                    self.components,
                    dtype=life.save_dtype,
                    notes=self.notes,
                    note=self.talk.note,
                    tokenizer=words,
                )
        best = life.run_folder / "best.safetensors"
        return [life.output, best] if self.state.best and best.is_file() else [life.output]
