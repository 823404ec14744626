"""A composition of adapters, written as a recipe that `sample`, `merge` and `compose` read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorakit.adapter import Adapter
from lorakit.composition import Composition, Member, effective
from lorakit.drawing import composing
from lorakit.errors import InputError, UsageError, faults_together
from lorakit.formats import files, recipes
from lorakit.formats.bases import check_same
from lorakit.io.endings import ADAPTER, PICTURE, RECIPE
from lorakit.io.files import check_targets, write_bytes, write_text
from lorakit.process_config import NOTHING, Overrides
from lorakit.runtime.signals import telling
from lorakit.runtime.signals import written as told
from lorakit.talk import SILENT, Note, Talk


@dataclass(frozen=True, kw_only=True)
class ComposeOptions:
    """bake       write one adapter, not a recipe, in this file format
    plot          a picture of the weights over so many steps
    learn         pictures that the weights are to fit; with the model and how it is done
    of_model      what is said of the model in place of what it says itself
    """

    bake: bool = False
    file_format: str | None = None
    plot: Path | None = None
    steps: int = 30
    learn: Path | None = None
    how: Any = None
    model: str = "tiny"
    device: str = "auto"
    dtype: str = "auto"
    of_model: Overrides = NOTHING
    vae: str | None = None


def run(
    arguments: Sequence[str],
    output: Path,
    *,
    force: bool,
    dry_run: bool,
    talk: Talk = SILENT,
    changes: composing.MemberChanges | None = None,
    wanted: ComposeOptions | None = None,
) -> dict[str, Any]:
    """Every adapter is read, so that a recipe never names a broken one."""
    wanted = wanted or ComposeOptions()
    curve_file = output.with_suffix(".learn.png") if wanted.learn else None
    kind = ADAPTER if wanted.bake else RECIPE
    check_targets([(output, kind), (wanted.plot, PICTURE), (curve_file, PICTURE)], force=force)
    composition = composing.read(arguments, changes)
    _check(composition, talk.note)
    if wanted.bake and not composition.constant:
        raise UsageError(f"--bake: it cannot be one adapter: {'; '.join(composition.why_not_constant())}")
    result: dict[str, Any] = {"outputs": []}
    notes: dict[str, str] = {}
    written: list[Path] = []
    if wanted.learn is not None:
        composition, notes = _learnt(composition, wanted, result, dry_run, talk)
        if not dry_run:
            written.append(_plot_learning(result, curve_file))
    result["adapters"] = [{"name": m.name, "path": str(m.path), "weight": m.weight} for m in composition.members]
    if wanted.bake:
        result |= _baked(composition, output, wanted, force, dry_run, talk.note)
    recipe = "" if wanted.bake else recipes.write(composition, output.parent, notes)
    if dry_run:
        talk.note(f"{len(composition.members)} adapters would be composed in {output}")
        return result
    with telling(lambda: told(written)):
        if not wanted.bake:
            write_text(output, recipe)
    if wanted.plot is not None:
        written.append(_plotted(composition, wanted.plot, wanted.steps))
    return {**result, "outputs": [str(output), *map(str, written)]}


def _check(composition: Composition, note: Note) -> None:
    def checked(member: Member) -> tuple[Path, Adapter]:
        adapter = files.read(member.path)
        note(f"{member.path} at {member.weight:g}: {len(adapter.modules)} modules")
        if not adapter.modules and not adapter.embeddings and not adapter.biases:
            raise InputError(f"{member.path}: there is no adapter in it")
        idle = member.idle([*adapter.modules, *adapter.biases])
        if idle:
            raise InputError(f"{member.path}: no module for the weights of {', '.join(idle)}")
        return member.path, adapter

    check_same(faults_together(checked, composition.members))


def _plotted(composition: Composition, file: Path, steps: int) -> Path:
    from lorakit.reports.curves import plot

    ways = {"switch": "taking turns", "composite": "a forward each, averaged"}
    title = f"weights by step{f' ({ways[composition.way]})' if composition.way in ways else ''}"
    _put(file, plot(effective(composition, steps), title, "steps", stairs=True, ticks=("1", str(steps))))
    return file


def _put(file: Path, image: Any) -> None:
    from lorakit.data.pngtext import drafted

    data = io.BytesIO()
    image.save(data, "PNG", pnginfo=drafted())
    write_bytes(file, data.getvalue())


def _baked(
    composition: Composition, output: Path, wanted: ComposeOptions, force: bool, dry_run: bool, note: Note
) -> dict[str, Any]:
    """One adapter, exactly: the sum of the deltas at their weights."""
    from lorakit.formats import weighted
    from lorakit.jobs import merge

    for member in composition.members:
        if member.prompt:
            note(f"an adapter has no place for {member.name}'s words: {member.prompt!r}")
    given = [weighted.Weighted(member.path, member.weight, member) for member in composition.members]
    done = merge.run(
        given,
        output,
        alpha=None,
        weights=None,
        method="linear",
        rank=None,
        file_format=wanted.file_format,
        dtype="float32",
        force=force,
        dry_run=dry_run,
        talk=Talk(note=note),
    )
    return {key: done[key] for key in ("layers", "ranks", "error")}


def _learnt(
    composition: Composition, wanted: ComposeOptions, result: dict[str, Any], dry_run: bool, talk: Talk
) -> tuple[Composition, dict[str, str]]:
    from lorakit.drawing.learn import learn
    from lorakit.drawing.session import load_model

    assert wanted.learn is not None
    components = load_model(
        wanted.model,
        wanted.device,
        wanted.dtype,
        note=talk.note,
        tokenizer=None,
        wanted=wanted.of_model,
        vae=wanted.vae,
    )
    done = learn(components, composition, wanted.learn, replace(wanted.how, steps=0) if dry_run else wanted.how, talk)
    if dry_run:
        result |= {"held_out_before": done.before, "held_out_after": None, "numbers": done.numbers}
        result |= {"losses": None, "held_out": None}
        return composition, {}
    talk.note(
        f"loss on held-out pictures {done.before:.5f} before, {done.after:.5f} after; {done.numbers} numbers learnt"
    )
    result |= {"held_out_before": done.before, "held_out_after": done.after, "numbers": done.numbers}
    result |= {"losses": done.losses, "held_out": done.held_out}
    return done.composition, {
        "learnt per": wanted.how.per,
        "loss on held-out pictures": f"{done.before:.6f} before, {done.after:.6f} after",
    }


def _plot_learning(result: dict[str, Any], file: Path | None) -> Path:
    from lorakit.reports.curves import plot

    assert file is not None
    steps = len(result["losses"])
    held = [next(loss for at, loss in reversed(result["held_out"]) if at <= i) for i in range(1, steps + 1)]
    curves = {"pictures": result["losses"], "held out": held}
    _put(file, plot(curves, "denoising loss while weights are learnt", "steps", ticks=("1", str(steps))))
    return file
