"""The adapters of compositions beside a model: put on once, asked by step which of them act."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorakit.adapter import Adapter
from lorakit.arrays import floats
from lorakit.composition import Composition, Member, passes, uses
from lorakit.composition.wording import Steps, by_step, joined_by_and
from lorakit.data.regions import region_map
from lorakit.drawing import remarks
from lorakit.errors import InputError, LorakitError, faults_together
from lorakit.formats import files
from lorakit.formats.bases import check_fits
from lorakit.formats.first_layer import fitted
from lorakit.formats.triggers import of_adapter
from lorakit.models import tokens
from lorakit.models.conditioning import Conditioning
from lorakit.models.gated import Stack
from lorakit.models.load import Components
from lorakit.models.prompts import PromptReading, encode, length
from lorakit.models.sample import Acting, Forward, Spoken
from lorakit.talk import Note
from lorakit.targets import canonical

_ONE = Steps(1, 1)


# Words of the adapters that act, their weights in the text encoders, and their learned words with the weight of each.
Variant = tuple[str, tuple[float, ...], tuple[tuple[str, float], ...]]


class Ensemble:
    """The adapters of a job's compositions beside the model's modules, and its learned tokens in the text encoders.

    An adapter that several compositions have is put on once.
    """

    def __init__(
        self,
        components: Components,
        compositions: Sequence[Composition],
        note: Note,
        limit: int | None = None,
        cut_inputs: bool = False,
    ) -> None:
        """cut_inputs    an inpainting adapter's first layer is cut for a model that takes noisy latents alone"""
        self.components, self.compositions = components, compositions
        self.stack = Stack(components.parts, limit)
        self._numbers: dict[Hashable, int] = {}
        self.applied: dict[int, dict[str, int]] = {}
        self._encoded: dict[Hashable, Conditioning] = {}
        self._maps: dict[Hashable, Tensor] = {}
        shapes = _shapes(components)
        learnt: dict[str, tuple[Path, Mapping[str, Any]]] = {}
        members = [member for composition in compositions for member in composition.members]
        weights: dict[Hashable, list[float]] = {}
        for member in members:
            weights.setdefault(_key(member), []).append(member.weight)
        paths = list(dict.fromkeys(member.path for member in members))
        read = dict(zip(paths, faults_together(lambda path: _read(path, shapes), paths), strict=True))
        check_fits(list(read.items()), shapes, components.name, "--model")
        read = {path: fitted(one, shapes, path, cut_inputs, note).materialised() for path, one in read.items()}
        self.triggers = {path: of_adapter(adapter) for path, adapter in read.items()}
        for path, adapter in read.items():
            _collect(adapter, path, learnt)
        self._tokens = {path: list(adapter.embeddings) for path, adapter in read.items()}
        self._words_alone = {path for path, adapter in read.items() if not adapter.modules and not adapter.biases}
        self.words, self._taught = tokens.LearnedWords({}), False
        try:
            for member in members:
                if _key(member) not in self._numbers:
                    self._put_on(member, read[member.path], _span(weights[_key(member)]), note)
            self.stack.ready()
            if learnt:
                self._learn(learnt)
        except LorakitError:
            self.remove()  # the model may draw on without them
            raise
        if learnt:
            called = (" or ".join(self.words.names(token)) for token in learnt)
            note(f"learned tokens: {', '.join(called)}")
        self.texts = set().union(*(self.stack.reached(part) for part in components.text_encoders))

    def _learn(self, learnt: Mapping[str, tuple[Path, Mapping[str, Any]]]) -> None:
        """Give the text encoders the learned tokens, under names that no prompt has by chance."""
        components = self.components
        given = {token: _vectors(by) for token, (_, by) in learnt.items()}
        vectors = {token: len(next(iter(by.values()))) for token, by in given.items()}
        first = max(len(tokenizer) for tokenizer in components.tokenizers.values())
        self.words = tokens.LearnedWords(vectors, self._named_by_file(), first)
        source = ", ".join(dict.fromkeys(str(path) for path, _ in learnt.values()))
        tokens.add(components.tokenizers, components.text_encoders, given, source, self.words.hidden)
        self._taught = True

    def _named_by_file(self) -> dict[str, str]:
        """The name of each file that is one embedding to its word: clients know an embedding by its file. Two files of one
        name are known by their words alone."""
        found: dict[str, list[str]] = {}
        for path in self._words_alone:
            if len(self._tokens[path]) == 1:
                found.setdefault(path.stem, []).extend(self._tokens[path])
        return {stem: of[0] for stem, of in found.items() if len(set(of)) == 1}

    def _put_on(self, member: Member, adapter: Adapter, at_weight: str, note: Note) -> None:
        at = self._numbers[_key(member)] = len(self._numbers)
        done = self.stack.add(at, adapter, member.factor, str(member.path))
        idle = member.idle([*adapter.modules, *adapter.biases])
        if idle:
            raise InputError(f"{member.path}: no module for the weights of {', '.join(idle)}")
        reached = ", ".join(f"{count} in {part}" for part, count in done.counts.items() if count)
        kinds = sorted({delta.kind for delta in adapter.modules.values()} - {"lora"})
        odd = f" ({', '.join(kinds)})" if kinds else ""
        note(f"{member.path} at {at_weight}: {reached or 'learned tokens alone'}{odd}")
        if done.unmatched:
            more = ", ..." if len(done.unmatched) > 5 else ""
            note(
                f"{member.path}: {len(done.unmatched)} modules match nothing in the model: "
                f"{', '.join(done.unmatched[:5])}{more}"
            )
        self.applied[at] = dict(done.counts)

    def remove(self) -> None:
        self.stack.remove()
        if self._taught:
            tokens.take_out(self.components.text_encoders)
            self._taught = False

    def has(self, member: Member) -> bool:
        """Whether the member's adapter is put on."""
        return _key(member) in self._numbers

    def counts(self, member: Member) -> dict[str, int]:
        return self.applied[self.number(member)]

    def number(self, member: Member) -> int:
        """The member's place among the weights."""
        return self._numbers[_key(member)]

    def _vector(self, composition: Composition, weights: Sequence[float]) -> tuple[float, ...]:
        """The members' weights at the places of the stack."""
        found = [0.0] * len(self._numbers)
        for member, weight in zip(composition.members, weights, strict=True):
            found[self.number(member)] += weight
        return tuple(found)

    def acting(
        self, composition: Composition, steps: Sequence[tuple[int, float]], size: tuple[int, int]
    ) -> Acting | None:
        """The forwards of a drawing's steps, given with their fractions of the denoising; None without adapters."""
        if not composition.members:
            return None
        planned = [passes(composition, step, fraction) for step, fraction in steps]
        rows = [[(self._vector(composition, one.weights), one) for one in step] for step in planned]
        counted = uses([weights for row in rows for weights, _ in row], self.stack.room)
        made = []
        for row, (_, fraction) in zip(rows, steps, strict=True):
            forwards, learned = [], self.acting_words(composition, fraction)
            for weights, one in row:
                share = self._share(composition, [p.region for _, p in row], one.region, size)
                if isinstance(share, Tensor) and not share.any():
                    continue
                variant = self._variant(composition, one.weights, weights, learned)
                forwards.append(Forward(weights, counted[weights], variant, share * one.share))
            made.append(_once_each(forwards))
        return Acting(self.stack.gates, made, self.stack.rowwise)

    def acting_words(self, composition: Composition, fraction: float = 0.0) -> tuple[tuple[str, float], ...]:
        """The learned words that act at a fraction of the denoising, and their weights, which count as those of brackets.

        The weight of a file that is an embedding and nothing else is its word's; beside deltas, whose weight it is, words
        are whole. A file at weight 0 has no word.
        """
        found: dict[str, float] = {}
        for member in composition.members:
            for token in self._tokens[member.path] if member.weight else ():
                alone = member.path in self._words_alone
                found[token] = found.get(token, 0.0) + member.at(fraction) if alone else 1.0
        return tuple(found.items())

    def reading(self, reading: PromptReading, composition: Composition | None = None) -> PromptReading:
        """The same with the learned words of a composition, the first where none is given."""
        chosen = composition or next(iter(self.compositions), Composition())
        return replace(reading, words=self.words, acting=self.acting_words(chosen))

    def _variant(
        self,
        composition: Composition,
        own: Sequence[float],
        weights: tuple[float, ...],
        learned: tuple[tuple[str, float], ...],
    ) -> Variant:
        """What the prompt's states depend on: words of the adapters that act, the weights in the text encoders, and those
        of learned words."""
        said = [m.prompt for m, weight in zip(composition.members, own, strict=True) if m.prompt and weight]
        words = [remarks.drawn(text, self.words) for text in said]
        texts = tuple(weight if i in self.texts else 0.0 for i, weight in enumerate(weights))
        return ", ".join(words), texts, learned

    def told(
        self, acting: Acting | None, prompt: str, negative: str, reading: PromptReading, steps: Steps = _ONE
    ) -> tuple[Mapping[Variant | None, Sequence[Spoken]], Mapping[Variant | None, Spoken]]:
        """What a prompt, or each that AND joins, and a negative prompt say over the steps, by variant, all of one length;
        each wording is encoded once."""
        forwards: Sequence[Sequence[Any]] = acting.steps if acting else [[Forward()]]
        variants: set[Variant | None] = {one.variant for step in forwards for one in step}
        prompts = [prompt] if reading.plain else [text for text, _ in joined_by_and(prompt)]
        said: dict[Variant | None, list[list[str]]] = {}
        for v in variants:
            texts = [", ".join(part for part in (text, v[0] if v else "") if part) for text in prompts]
            said[v] = [[text] if reading.plain else by_step(text, steps) for text in (*texts, negative)]
        readings = {v: replace(reading, words=self.words, acting=v[2]) if v and v[2] else reading for v in variants}
        count = max(length(self.components, text, readings[v]) for v in variants for texts in said[v] for text in texts)
        told, without = {}, {}
        for v in sorted(variants, key=repr):
            *parts, last = (self._spoken(texts, v[1] if v else (), count, readings[v]) for texts in said[v])
            told[v], without[v] = parts, last
        return told, without

    def _spoken(self, texts: Sequence[str], weights: tuple[float, ...], count: int, reading: PromptReading) -> Spoken:
        """What is said in each step; a wording that comes again is encoded once."""
        wordings = list(dict.fromkeys(texts))
        numbers = {text: i for i, text in enumerate(wordings)}
        encoded = tuple(self._encode(text, weights, count, reading) for text in wordings)
        return Spoken(encoded, tuple(numbers[text] for text in texts))

    def _encode(self, text: str, weights: tuple[float, ...], count: int, reading: PromptReading) -> Conditioning:
        key = (text, weights, count, reading)
        if key not in self._encoded:
            with torch.no_grad(), self.stack.gates.at(weights):
                self._encoded[key] = encode(self.components, text, reading, count)
        return self._encoded[key]

    def _share(
        self, composition: Composition, together: Sequence[int | None], region: int | None, size: tuple[int, int]
    ) -> Tensor | float:
        """How much a forward counts in each place of the latents, [1, 1, h, w]; the rest of the picture is what no
        region covers."""
        regions = [i for i in together if i is not None]
        if not regions:
            return 1.0
        maps = [self._map(composition.members[i], size) for i in regions]
        if region is not None:
            return maps[regions.index(region)]
        return (1 - torch.stack(maps).sum(0)).clamp(min=0)

    def _map(self, member: Member, size: tuple[int, int]) -> Tensor:
        key = (member.region, member.feather, size)
        if key not in self._maps:
            assert member.region is not None
            self._maps[key] = region_map(member.region, member.feather, size, self.components.vae_factor).to(
                self.components.device
            )
        return self._maps[key]


def _once_each(forwards: Sequence[Forward]) -> list[Forward]:
    """What is asked alike is asked once, and counts for all."""
    found: dict[Hashable, Forward] = {}
    for one in forwards:
        key = one.weights, one.variant
        found[key] = replace(one, share=found[key].share + one.share) if key in found else one
    return list(found.values())


def _span(weights: Sequence[float]) -> str:
    least, most = min(weights), max(weights)
    return f"{least:g}" if least == most else f"{least:g} to {most:g}"


def _key(member: Member) -> Hashable:
    """Adapters of one key share their place in the stack: what differs between them is the weight."""
    return (member.path.resolve(), tuple(member.blocks.items()), member.layers, tuple(member.parts.items()))


def _read(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Adapter:
    adapter = files.read(path, shapes)
    if not adapter.modules and not adapter.embeddings and not adapter.biases:
        raise InputError(f"{path}: there is no adapter in it")
    return adapter


def _collect(adapter: Adapter, path: Path, learnt: dict[str, tuple[Path, Mapping[str, Any]]]) -> None:
    """Its learned tokens; two of one name must be the same."""
    for token, by in adapter.embeddings.items():
        if token in learnt:
            other, held = learnt[token]
            mine, theirs = _vectors(by), _vectors(held)
            if mine.keys() != theirs.keys() or not all(torch.equal(mine[part], theirs[part]) for part in mine):
                raise InputError(
                    f"{other} and {path} both have a learned token {token}, with different vectors; rename one: "
                    f"lorakit convert {path} OUT --token NEW"
                )
        learnt[token] = (path, by)


def _vectors(by: Mapping[str, Any]) -> dict[str, Tensor]:
    return {part: torch.as_tensor(floats(x)).float().reshape(-1, x.shape[-1]) for part, x in by.items()}


def _shapes(components: Components) -> dict[str, tuple[int, ...]]:
    """Of the model's modules, by the names that adapters use."""
    return {
        canonical(f"{part}.{path}"): tuple(module.weight.shape)
        for part, root in components.parts.items()
        for path, module in root.named_modules()
        if isinstance(getattr(module, "weight", None), Tensor)
    }
