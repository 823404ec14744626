"""The adapters of a merge: read, and everything wrong with them told before any work."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lorakit.adapter import Adapter
from lorakit.arrays import Array, finite
from lorakit.composition.module_weights import ModuleWeights, which
from lorakit.errors import InputError, UsageError, faults_together
from lorakit.families import CONV_IN, INPAINTING, is_inpainting
from lorakit.formats import files, triggers
from lorakit.formats.adapters import checked
from lorakit.formats.bases import check_same
from lorakit.formats.codec import flat
from lorakit.formats.common_spelling import alike
from lorakit.formats.first_layer import fitted
from lorakit.formats.weighted import Weighted
from lorakit.lowrank.ranks import RankRule
from lorakit.merging.kernel.operands import as_numpy, is_dense, is_vector
from lorakit.registry import nearest
from lorakit.spellings import part_of
from lorakit.talk import Note


@dataclass(frozen=True)
class MergeInput:
    file: Path
    sha256: str
    adapter: Adapter


@dataclass(frozen=True)
class Sources:
    """The adapters of a merge, named alike; the families that all can be for, the likeliest first; the format to write."""

    all: list[MergeInput]
    families: list[str]
    file_format: str


def read(
    given: Sequence[Weighted],
    rename: Iterable[str],
    allow_unmatched: bool,
    unmatched: list[str],
    file_format: str | None,
    note: Note,
) -> Sources:
    """The adapters, their deltas read when used; what matches nothing goes to `unmatched` where that is allowed.

    InputError for keys that are wrong, empty files, different families and modules that do not fit each other.
    """
    sources = faults_together(
        lambda one: MergeInput(one.file, one.sha256(), one.scaled(_one(one.file, allow_unmatched, unmatched))), given
    )
    sources = _renamed(sources, rename)
    pairs = [(source.file, source.adapter) for source in sources]
    families = check_same(pairs)
    named = alike(pairs, families, file_format, note)
    sources = [replace(source, adapter=adapter) for source, adapter in zip(sources, named.adapters, strict=True)]
    sources = _of_one_first_layer(sources, note)
    _one_shape(sources)
    return Sources(sources, families, named.file_format)


def _one(file: Path, allow_unmatched: bool, unmatched: list[str]) -> Adapter:
    adapter = files.look(file)
    if allow_unmatched:
        unmatched += [f"{file}: {line}" for line in adapter.faults]
        unmatched += [f"{file}: {key}: belongs to nothing" for key in adapter.unknown]
    else:
        checked(adapter, str(file))
    if not adapter.modules and not adapter.embeddings and not adapter.biases:
        raise InputError(f"{file}: there is no adapter in it")
    bad = [f"the bias of {name}" for name, x in adapter.biases.items() if not finite(x)]
    bad += [f"token {token}" for token, by in adapter.embeddings.items() if not all(map(finite, by.values()))]
    if bad:
        raise not_finite(f"{file}: {', '.join(bad[:5])}")
    return adapter


def not_finite(where: str, more: int = 0) -> InputError:
    return InputError(f"NaN or infinity in {where}{f' and {more} more' if more else ''}; nothing was written")


def _of_one_first_layer(sources: list[MergeInput], note: Note) -> list[MergeInput]:
    """Where one of the adapters is for inpainting, the others act on the noisy latents of such a model."""
    shapes = [{CONV_IN: delta.shape} for source in sources if (delta := source.adapter.modules.get(CONV_IN))]
    wide = next((found[CONV_IN] for found in shapes if is_inpainting(found)), None)
    if wide is None:
        return sources
    wanted = {CONV_IN: (wide[0], INPAINTING, 3, 3)}
    return [replace(one, adapter=fitted(one.adapter, wanted, one.file, False, note)) for one in sources]


def _one_shape(sources: Sequence[MergeInput]) -> None:
    first: dict[str, tuple[Path, tuple[int, ...]]] = {}
    wrong = []
    for source in sources:
        for name, delta in source.adapter.modules.items():
            if delta.shape is None:
                continue
            file, shape = first.setdefault(name, (source.file, delta.shape))
            if flat(shape) != flat(delta.shape):
                wrong.append(f"{name} is {list(shape)} in {file} and {list(delta.shape)} in {source.file}")
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise InputError(f"the adapters are for different base models: {'; '.join(wrong[:5])}{more}")


def check_kinds(sources: Sequence[MergeInput], rule: RankRule | None, based: bool, collapsed: bool) -> None:
    """UsageError for deltas that need a base model that is not given, and for dense ones without a rank to cut them to.

    based      whether there is a base model
    collapsed  whether the result goes into it whole, so that nothing need be cut
    """
    for source in sources:
        needy = sorted({delta.kind for delta in source.adapter.modules.values() if delta.needs_base})
        if needy and not based:
            raise UsageError(
                f"{source.file}: what its {', '.join(needy)} modules do depends on the base model's weights; name the "
                "model with --base MODEL, or with --into MODEL to make a stand-alone one"
            )
    if collapsed or (rule is not None and rule.cuts):
        return
    for source in sources:
        dense = sorted({d.kind for d in source.adapter.modules.values() if is_dense(d) and not is_vector(d)})
        if dense:
            raise UsageError(
                f"{source.file}: its {', '.join(dense)} deltas have full rank, which no adapter of low rank holds; say "
                "how many ranks to keep with --rank N or energy:0.99, or collapse them with --into MODEL"
            )


def check_rank(rule: RankRule | None, sources: Sequence[MergeInput], names: Sequence[str]) -> None:
    """A rank that no module can have is a slip of the hand."""
    if rule is None or rule.kind != "fixed" or not names:
        return
    most = 0
    for name in names:
        deltas = [source.adapter.modules[name] for source in sources if name in source.adapter.modules]
        sides = [min(d.shape[0], math.prod(d.shape[1:])) for d in deltas if d.shape is not None]
        if any(map(is_dense, deltas)):
            most = max(most, min(sides)) if sides else int(rule.value)
        else:
            most = max(most, min([*sides, sum(delta.low_rank_size or 0 for delta in deltas)]))
    if rule.value > most:
        raise UsageError(
            f"--rank {rule.value:g}: the adapters' ranks together are {most} at most; --rank full keeps all"
        )


def idle(factors: ModuleWeights, sources: Sequence[MergeInput], allowed: bool) -> list[str]:
    """Blocks and parts that were given a weight and are in no adapter."""
    modules = [{*source.adapter.modules, *source.adapter.biases} for source in sources]
    found = factors.idle(modules)
    if found and not allowed:
        has = ", ".join(sorted({part_of(name) for name in set().union(*modules)}))
        raise InputError(
            f"no module for the weights of {', '.join(found)} (there are modules of {has}); --allow-unmatched goes on without"
        )
    return found


# Learned tokens and biases: small, and never cut


def _renamed(sources: Sequence[MergeInput], texts: Iterable[str]) -> list[MergeInput]:
    """Learned tokens under the names that `--rename-token` gives them."""
    found = list(sources)
    for text in texts:
        who, _, pair = text.rpartition(":")
        old, equals, new = pair.partition("=")
        if not (who and old and equals and new):
            raise UsageError(f"--rename-token {text}: expected FILE:<old>=<new>")
        at = which(who, [source.file for source in sources], f"--rename-token {text}")
        tokens = dict(found[at].adapter.embeddings)
        if old not in tokens:
            has = f"it has {', '.join(tokens)}" if tokens else "it has none"
            raise UsageError(
                f"--rename-token {text}: {found[at].file} has no token '{old}'{nearest(old, tokens)}; {has}"
            )
        if new in tokens:
            raise UsageError(f"--rename-token {text}: {found[at].file} has a token '{new}' already")
        tokens = {new if token == old else token: by for token, by in tokens.items()}
        notes = triggers.renamed(found[at].adapter.metadata, old, new)
        found[at] = replace(found[at], adapter=replace(found[at].adapter, embeddings=tokens, metadata=notes))
    return found


def tokens(sources: Sequence[MergeInput], row: Sequence[float]) -> dict[str, dict[str, Array]]:
    """The learned tokens of all adapters that count; two of one name must be the same."""
    found: dict[str, dict[str, Array]] = {}
    owners: dict[str, Path] = {}
    for source, weight in zip(sources, row, strict=True):
        if weight == 0:
            continue
        for token, by_part in source.adapter.embeddings.items():
            mine = {part: np.atleast_2d(as_numpy(x)) for part, x in by_part.items()}
            if token in found and not _same(found[token], mine):
                raise InputError(
                    f"{owners[token]} and {source.file} both have a learned token {token}, with different vectors; "
                    f"rename one: --rename-token '{source.file.name}:{token}=NEW'"
                )
            found[token], owners[token] = mine, source.file
    return found


def weights_of_words(sources: Sequence[MergeInput], rows: Sequence[Sequence[float]]) -> list[str]:
    """A note for each file that is learned tokens alone, and whose weight is neither 0 nor 1: a weight of words is how
    strongly the prompt says them, so that no vectors can have it."""
    found = []
    for i, source in enumerate(sources):
        odd = sorted({row[i] for row in rows} - {0.0, 1.0})
        if odd and not source.adapter.modules and not source.adapter.biases:
            token = next(iter(source.adapter.embeddings))
            found.append(
                f"{source.file}: its weight {', '.join(f'{weight:g}' for weight in odd)} is not in the result, which has "
                f"its learned tokens whole; prompts have it: ({token}:{odd[0]:g})"
            )
    return found


def biases(sources: Sequence[MergeInput], row: Sequence[float], factors: ModuleWeights) -> dict[str, np.ndarray]:
    """What is added to each bias: the weighted sum, whatever the method."""
    found: dict[str, np.ndarray] = {}
    for i, (source, weight) in enumerate(zip(sources, row, strict=True)):
        for name, bias in source.adapter.biases.items():
            mine = (weight * factors.factor(i, name) * as_numpy(bias).astype("f8")).reshape(-1)
            if name in found and len(found[name]) != len(mine):
                raise InputError(
                    f"the adapters are for different base models: the bias of {name} has {len(found[name])} "
                    f"and in {source.file} {len(mine)} numbers"
                )
            found[name] = found[name] + mine if name in found else mine
    return {name: bias.astype("f4") for name, bias in found.items()}


def _same(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[part], b[part]) for part in a)
