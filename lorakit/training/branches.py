"""What the modes that train adapters share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lorakit.adapter import Adapter
from lorakit.config import TARGETS, TrainConfig
from lorakit.diffusion.noise import normal
from lorakit.errors import InputError, UsageError
from lorakit.formats import files
from lorakit.models.load import Components
from lorakit.registry import TRAINABLE
from lorakit.training import variants
from lorakit.training.loop import ParameterGroup
from lorakit.training.rates import rate


def curve(config: TrainConfig, peak: float, first: int, last: int) -> Callable[[int], float]:
    """The learning rate by step of a phase from `first` to before `last`."""

    def at(step: int) -> float:
        return rate(
            step - first,
            last - first,
            peak,
            config.lr_schedule,
            config.warmup,
            cycles=config.cycles,
            power=config.power,
            floor=config.floor,
        )

    return at


@dataclass(frozen=True)
class Adapters:
    """Branches in a model and how they learn.

    text_until  the step before which those of text encoders learn; 0 where there are none
    """

    attached: variants.Attached
    groups: list[ParameterGroup]
    text_until: int
    notes: tuple[str, ...] = ()

    def adapter(self) -> Adapter:
        return Adapter(modules=self.attached.deltas())


def axis_of(config: TrainConfig) -> int:
    """The dimension of the weights that the config's variant learns lengths along, 0 for variants that learn none."""
    axes: dict[str, int] = getattr(TRAINABLE[config.variant], "AXES", {})
    return axes.get(config.dora_axis, 0)


def targets_of(components: Components, config: TrainConfig) -> list[variants.Target]:
    """The modules that the config trains, with their ranks; UsageError for patterns that match nothing."""
    parts = components.parts if config.text_encoder else {"unet": components.unet}
    rules = [variants.parse(text) for text in config.block_rank]
    if not config.text_encoder and config.target not in TARGETS and config.target.startswith("text_encoder"):
        raise UsageError(f"--target {config.target} names the text encoder; train it with --text-encoder")
    return variants.targets(parts, config.target, rules, config.rank, config.alpha)


def attach(components: Components, config: TrainConfig, first: int, learns: Callable[[int], bool]) -> Adapters:
    """Branches of the UNet, and of the text encoders where asked, that learn from step `first` on at the steps that
    `learns` says; the text encoders' rest after `--text-steps`."""

    def draw(shape: tuple[int, ...], name: str) -> Tensor:
        return normal(shape, config.seed, "factors", name)

    try:
        attached = variants.attach(
            targets_of(components, config),
            TRAINABLE[config.variant],
            draw,
            init=config.init,
            plus=config.lora_plus,
            dropout=config.dropout,
            axis=axis_of(config),
        )
    except ValueError as error:
        raise UsageError(f"--variant {config.variant} --init {config.init}: {error}") from error
    notes = _loaded(attached, config.init_from) if config.init_from else ()
    last = config.total if config.text_steps is None else min(config.total, first + config.text_steps)

    def group(
        name: str, mine: Callable[[str], bool], peak: float, end: int, when: Callable[[int], bool]
    ) -> ParameterGroup:
        parameters = {key: p for key, p in attached.parameters.items() if mine(key)}
        factors = {key: attached.rates[key] for key in parameters}
        return ParameterGroup(
            name=name, parameters=parameters, rate=curve(config, peak, first, end), learns=when, factors=factors
        )

    unet: Callable[[str], bool] = lambda key: key.startswith("unet.")  # noqa: E731
    groups = [
        group("unet", unet, config.lr or 0.0, config.total, learns),
        group("text", lambda k: not unet(k), config.lr_text or 0.0, last, lambda step: step < last and learns(step)),
    ]
    groups = [one for one in groups if one.parameters]
    text = any(one.name == "text" for one in groups)
    return Adapters(attached, groups, last if text else 0, notes)


def _loaded(attached: variants.Attached, file: str) -> tuple[str, ...]:
    """Go on from an adapter file; what of it was cut or is not trained."""
    adapter = files.read(Path(file)).materialised()
    beside = [f"{len(adapter.biases)} biases"] * bool(adapter.biases)
    beside += [f"learned tokens {', '.join(adapter.embeddings)}"] * bool(adapter.embeddings)
    if not adapter.modules:
        raise InputError(
            f"--init-from {file} holds {' and '.join(beside) or 'nothing'} alone, and training goes on from low-rank deltas; "
            f"to train on top of it, merge it first: lorakit merge {file} --into MODEL"
        )
    done = attached.load(adapter.modules)
    lines = [f"goes on from {len(done.errors)} modules of {file}"]
    lines += [f"left out of {file}, for training does not go on from them: {' and '.join(beside)}"] * bool(beside)
    cut = {name: error for name, error in done.errors.items() if error > 1e-6}
    if cut:
        worst = max(cut, key=lambda name: cut[name])
        lines.append(f"{len(cut)} of them are of a higher rank and were cut; the worst, {worst}, by {cut[worst]:.2%}")
    if done.unmatched:
        lines.append(
            f"{len(done.unmatched)} modules of {file} are not trained here and are left out: {done.unmatched[0]} ..."
        )
    if done.untouched:
        lines.append(f"{len(done.untouched)} trained modules are not in {file} and start anew")
    return tuple(lines)
