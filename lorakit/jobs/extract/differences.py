"""Two models of one architecture, parameter by parameter; nothing is read before it is asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import prod

from lorakit.arrays import Stored
from lorakit.errors import InputError, UsageError, faults_together, some
from lorakit.families import CONV_IN, as_linear, guess
from lorakit.formats import files, triggers
from lorakit.formats.layouts import FOLDER, Model, open_model
from lorakit.models.places import folder_of
from lorakit.patterns import Pattern
from lorakit.targets import PARTS

_TARGETS = {
    "attention": r"attentions\..*\.attn[12]\.to_(q|k|v|out\.0)$|self_attn\.",
    "attention+ff": r"attentions\..*\.(attn[12]\.|ff\.)|self_attn\.|\.mlp\.",
    "all": "",
}


@dataclass(frozen=True)
class Pair:
    """One parameter of both models."""

    name: str
    tuned: Stored
    base: Stored

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def room(self) -> int:
        """Bytes that working on it takes, about."""
        side = min(self.shape[0], prod(self.shape[1:])) if len(self.shape) > 1 else 0
        return 5 * prod(self.shape) + 24 * side * side


@dataclass(frozen=True, kw_only=True)
class Differences:
    """What to compare in two models of one architecture.

    weights   linear layers and convolutions that are asked for, by module, in the base model's order
    others    biases, norms and embeddings, by parameter
    lone      parameters and parts that one of them alone has, a line each
    family    of the base model, None where no table has it
    words     metadata of the tuned model about its trigger words
    """

    weights: list[Pair]
    others: list[Pair]
    lone: list[str]
    family: str | None
    words: dict[str, str]


def compare(tuned: str, base: str, target: str, parts: Collection[str]) -> Differences:
    """The parameters that both have; InputError where the models are of different architectures.

    target  "attention", "attention+ff", "all", or a regular expression of module names
    parts   of the model, all where it is empty
    """
    ours, theirs = faults_together(lambda name: open_model(name, folder_of), (tuned, base))
    families = [guess({name: x.shape for name, x in model.weights().items()}).family for model in (ours, theirs)]
    if families[0] != families[1] and None not in families:
        raise InputError(f"{tuned} is {families[0]} and {base} is {families[1]}: give two models of one architecture")
    wanted = [part for part in PARTS if part in _parts(ours) & _parts(theirs) and part in (parts or PARTS)]
    lone = [
        f"{part} is in {tuned if part in _parts(ours) else base} only"
        for part in sorted(_parts(ours) ^ _parts(theirs))
        if part in (parts or PARTS)
    ]
    if not wanted:
        asked = f" of {', '.join(parts)}" if parts else ""
        raise InputError(f"{tuned} and {base} have no part in common{asked}")
    within = tuple(wanted)
    weights = _paired(ours.weights(within), theirs.weights(within), tuned, base, lone, target)
    if not weights:
        raise InputError(f"--target {target}: no linear layer or convolution of {base} matches")
    others = _paired(ours.others(within), theirs.others(within), tuned, base, lone, None)
    said = files.notes_of_model(ours.path) if ours.layout == FOLDER else ours.metadata
    words = {key: said[key] for key in triggers.CARRIED if key in said}
    return Differences(weights=weights, others=others, lone=lone, family=families[1] or families[0], words=words)


def chosen(target: str, names: Iterable[str]) -> list[str]:
    """The modules that `--target` names."""
    pattern = Pattern(_TARGETS.get(target, target), f"--target {target[:80]}", UsageError)
    return [name for name in names if pattern.search(name)]


def _parts(model: Model) -> set[str]:
    return {name.partition(".")[0] for name in model.arrays} & set(PARTS)


def _paired(
    ours: dict[str, Stored], theirs: dict[str, Stored], tuned: str, base: str, lone: list[str], target: str | None
) -> list[Pair]:
    """The parameters both have, shapes compared; of weights, which are told by `target`, both must have the same."""
    names = list(theirs) if target is None else chosen(target, theirs)
    only = sorted((set(ours) if target is None else set(chosen(target, ours))) ^ set(names))
    lines = [f"{name} is in {tuned if name in ours else base} only" for name in only]
    if target is not None and lines:
        raise InputError(f"{tuned} and {base} are not of one architecture: {some(lines, 5, '; ')}")
    lone += lines
    pairs = [Pair(name, ours[name], theirs[name]) for name in names if name in ours]
    odd = [pair for pair in pairs if as_linear(pair.tuned.shape) != as_linear(pair.base.shape)]
    if odd and target is not None:
        first = odd[0]
        count = f"{len(odd)} weights differ in shape, first" if len(odd) > 1 else "1 weight differs in shape,"
        raise InputError(
            f"{tuned} and {base} are not of one architecture: {count} {first.name}: {_x(first.tuned.shape)} and "
            f"{_x(first.base.shape)}{_of_inpainting(odd)}"
        )
    lone += [f"{pair.name} is {_x(pair.tuned.shape)} in {tuned} and {_x(pair.shape)} in {base}" for pair in odd]
    return [pair for pair in pairs if pair not in odd]


def _of_inpainting(odd: Sequence[Pair]) -> str:
    """What to do where one of the models is for inpainting and the other is not, and nothing else differs."""
    if [pair.name for pair in odd] != [CONV_IN]:
        return ""
    return (
        "; one of them is for inpainting: give a base that is as well, or leave the layer out with --target attention"
    )


def _x(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
