"""One adapter format to another, checked by reading what was written. Imports no torch unless a pickle is read."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorakit.adapter import Adapter
from lorakit.arrays import Array, dtype_of, finite, narrowed, raw, same_bytes
from lorakit.delta import Delta
from lorakit.deltas.low_rank import LowRank
from lorakit.errors import InputError, UsageError, some, told_once
from lorakit.families import Shape
from lorakit.formats import clients, files, listed, triggers
from lorakit.formats.adapters import a1111_embedding
from lorakit.formats.bases import families_of
from lorakit.formats.codec import Context, Encoded
from lorakit.formats.common_spelling import in_format
from lorakit.formats.current import is_current
from lorakit.formats.layouts import ckpt
from lorakit.formats.scaling import balanced
from lorakit.io import pickles, safetensors
from lorakit.io.endings import of_format
from lorakit.io.files import check_target, replacing, replacing_folder
from lorakit.io.inputs import check_plain
from lorakit.io.record import RECORD
from lorakit.lowrank.approximate import as_low_rank
from lorakit.lowrank.compare import aligned_error
from lorakit.models.base_weights import check_fits, weights_of
from lorakit.registry import ADAPTER_FORMATS
from lorakit.runtime.signals import telling
from lorakit.runtime.signals import written as told
from lorakit.talk import Note, Talk, Tick

PLAIN = ("diffusers", "peft", "cloneofsimo")


@dataclass(frozen=True, kw_only=True)
class ConversionChanges:
    """What a conversion is asked to change besides the format.

    dtype        "F32", "F16" or "BF16" for all factors, None to keep each one's
    approximate  kinds that are not plain LoRA become it: at this rank, or "exact" for kinds that are low rank
    universal    rewrite a file that is in the target format already
    token        a new name for the one learned token
    """

    dtype: str | None = None
    approximate: int | str | None = None
    universal: bool = False
    token: str | None = None
    allow_loss: bool = False

    def any(self) -> bool:
        return bool(self.dtype or self.approximate or self.universal or self.token)


def run(
    source: Path,
    output: Path,
    to: str,
    *,
    changes: ConversionChanges,
    base: str | None,
    model: str | None,
    force: bool,
    dry_run: bool,
    talk: Talk,
) -> dict[str, Any]:
    """Convert `source` to the format `to` at `output`, and state what was written."""
    codec = ADAPTER_FORMATS[to]
    check_target(output, of_format(to), force=force)
    shapes = _model_shapes(model) if model is not None else None
    adapter = files.read(source, shapes)
    _check_finite(adapter, source)
    for line in adapter.notes[:5]:
        talk.note(f"{source}: {line}")
    same = to == adapter.format and not changes.any() and _is_whole(source, output, to)
    same = same and is_current(adapter, _context(adapter, shapes))
    same = same and in_format(source, adapter, families_of(adapter), to).modules.keys() == adapter.modules.keys()
    wanted, errors, losses = adapter, dict[str, float](), tuple[str, ...]()
    encoded = Encoded()
    if not same:
        if changes.token is not None:
            wanted = _renamed(wanted, changes.token)
        wanted, errors = _plain(source, wanted, changes.approximate, base, to)
        wanted = in_format(source, wanted, families_of(wanted), to)
        encoded = codec.encode(_ready(wanted, changes.dtype), _context(wanted, shapes))
        losses = _accepted(encoded.losses, to, changes.allow_loss, talk.note)
    result: dict[str, Any] = {
        "outputs": [],
        "from": adapter.format,
        "to": to,
        "unchanged": same,
        "losses": list(losses),
        "modules": len(wanted.modules),
        "tokens": sorted(wanted.embeddings),
        "error": None,
        "approximated": errors,
        "coverage": None,
    }
    if dry_run:
        if not same:
            _check_writable(output, encoded, changes.dtype)
        talk.note(f"{_held(len(wanted.modules), len(wanted.embeddings))} would be written to {output}")
        return result
    if same:
        _copy(source, output, talk.note)
        _check_hash(output, source, adapter.metadata, talk.note)
        written = files.read(output, shapes) if adapter.embeddings else adapter
    else:
        _write(output, encoded, changes.dtype, talk.note)
        written = files.read(output, shapes)
    with telling(lambda: told([output])):
        compared = dict.fromkeys(adapter.modules, 0.0) if same else _compare(wanted, written, losses, talk.tick)
    found = clients.coverages(written)
    result |= {
        "outputs": [str(output)],
        "modules": len(compared),
        "tokens": sorted(written.embeddings),
        "error": max([*compared.values(), *errors.values()], default=0.0),
        "coverage": {c.client: {"right": c.right, "of": c.expected, "wrong": c.reasons()} for c in found},
    }
    _say(result, found, talk.note)
    for line in _of_tokens(to, output, wanted, written):
        talk.note(line)
    return result


def _of_tokens(to: str, output: Path, wanted: Adapter, written: Adapter) -> Iterator[str]:
    """What is to be known of a file's learned tokens: that it calls them otherwise, and how diffusers takes two tensors."""
    if len(wanted.embeddings) == 1 and wanted.embeddings.keys() != written.embeddings.keys():
        old, new = next(iter(wanted.embeddings)), next(iter(written.embeddings))
        yield f"{output}: the file does not say what its token is called; it was {old}, and is {new} now, as the file is"
    if to == "diffusers-embedding" and written.format != to:
        yield (
            "diffusers loads each text encoder's vectors by a call of its own: pipe.load_textual_inversion(load_file("
            f"'{output.name}')['clip_l'], token='{next(iter(written.embeddings))}', text_encoder=pipe.text_encoder, "
            "tokenizer=pipe.tokenizer), and ['clip_g'] with text_encoder_2 and tokenizer_2"
        )


def _check_finite(adapter: Adapter, source: Path) -> None:
    wrong = [
        f"{adapter.keys.get(name, name)} ({field})"
        for name, delta in adapter.modules.items()
        for field, x in delta.arrays().items()
        if not finite(x)
    ]
    wrong += [f"the bias of {name}" for name, x in adapter.biases.items() if not finite(x)]
    wrong += [f"token {token}" for token, by in adapter.embeddings.items() for x in by.values() if not finite(x)]
    if wrong:
        raise InputError(f"{source}: NaN or infinity in {some(wrong, 10)}; nothing was written")


def _renamed(adapter: Adapter, token: str) -> Adapter:
    if len(adapter.embeddings) != 1:
        raise UsageError(f"--token {token}: the file has {len(adapter.embeddings)} learned tokens, expected one")
    ((old, vectors),) = adapter.embeddings.items()
    return replace(adapter, embeddings={token: vectors}, metadata=triggers.renamed(adapter.metadata, old, token))


def _plain(
    source: Path, adapter: Adapter, approximate: int | str | None, base: str | None, to: str
) -> tuple[Adapter, dict[str, float]]:
    """Kinds that are not plain LoRA as plain LoRA, if that was asked for: (adapter, relative error by module)."""
    odd = {name: delta for name, delta in adapter.modules.items() if not isinstance(delta, LowRank)}
    if approximate is None:
        return adapter, {}
    without = sorted(name for name, delta in odd.items() if delta.needs_base) if base is None else []
    if without:
        raise UsageError(
            f"--approximate: {odd[without[0]].kind} deltas depend on the base weights ({len(without)} modules, first "
            f"{without[0]}); give the model with --base"
        )
    if base is not None:
        check_fits([(source, adapter)], base, "--base")
    needy = {name: delta.kind for name, delta in odd.items() if delta.needs_base}
    weights = weights_of(base, needy, " and ".join(sorted(set(needy.values())))) if base is not None and needy else {}
    modules, errors = dict[str, Delta](adapter.modules), dict[str, float]()
    for name, delta in odd.items():
        if approximate == "exact" and not delta.exact:
            raise UsageError(f"--approximate exact: {name} is {delta.kind}, which is not low rank; give a rank")
        rank = approximate if isinstance(approximate, int) else None
        if delta.shape is not None and len(delta.shape) == 1:
            continue  # a norm has no low-rank form: the format's losses name it
        modules[name], errors[name] = as_low_rank(delta, rank, weights.get(name))
    return replace(adapter, modules=modules), errors


def _ready(adapter: Adapter, dtype: str | None) -> Adapter:
    """Factors balanced where half precision asks for it: a large up beside a tiny down leaves its range."""
    if dtype != "F16":
        return adapter
    modules = {n: balanced(d) if isinstance(d, LowRank) else d for n, d in adapter.modules.items()}
    return replace(adapter, modules=modules)


def _context(adapter: Adapter, shapes: Mapping[str, Shape] | None) -> Context:
    found = Context.of(adapter)
    return found if shapes is None else Context(found.family, shapes)


def _model_shapes(model: str) -> dict[str, Shape]:
    """Module name to shape of the weight, from the headers of a model's files."""
    from lorakit.models.places import folder_of, weight_files
    from lorakit.targets import PARTS, canonical

    folder = folder_of(model)
    parts = tuple(part for part in PARTS if (folder / part).is_dir())
    return {
        canonical(f"{part}.{key.removesuffix('.weight')}"): tuple(array.shape)
        for part, file in weight_files(folder, parts)
        for key, array in safetensors.open_file(file, "model weights").items()
        if key.endswith(".weight")
    }


def _accepted(losses: tuple[str, ...], to: str, allowed: bool, note: Note) -> tuple[str, ...]:
    lines = told_once(losses)
    if losses and not allowed:
        kinds = "" if to not in PLAIN else " (kinds other than plain LoRA: --approximate RANK)"
        raise InputError(
            f"{to} files cannot hold all of it: {some(lines, 10, '; ')}\n"
            f"leave it out with --allow-loss, or choose another format{kinds}"
        )
    for line in lines:
        note(f"left out: {line}")
    return losses


def _is_whole(source: Path, output: Path, to: str) -> bool:
    """Whether its bytes can be the output: not a pickle, which is not written again, nor become one, and a folder where
    one is wanted."""
    if source.is_dir() or to == "peft":
        return source.is_dir() and to == "peft"
    return not pickles.is_pickle(source) and not listed.is_list(source) and not _is_pickled(output)


def _is_pickled(output: Path) -> bool:
    return output.suffix.lower() == ".pt"


def _copy(source: Path, output: Path, note: Note) -> None:
    """The very bytes, read back beside the source's before they are given their name."""
    if source.is_dir():
        with replacing_folder(output, note) as partial:
            left_out = shutil.ignore_patterns(RECORD)
            shutil.copytree(check_plain(source, "adapter"), partial, dirs_exist_ok=True, ignore=left_out)
            for file in (path for path in source.rglob("*") if path.is_file() and path.name != RECORD):
                _check_same(file, partial / file.relative_to(source))
        return
    with replacing(output) as partial:
        shutil.copyfile(source, partial)
        _check_same(source, partial)


def _check_hash(copy: Path, source: Path, metadata: Mapping[str, str], note: Note) -> None:
    """Note a hash in the metadata that is of other tensors: a copy has it, too."""
    recorded = {key: metadata[key].removeprefix("0x").lower() for key in safetensors.HASHES if key in metadata}
    if not copy.is_file() or not recorded:
        return
    digest = safetensors.data_hash(copy)
    if stale := [key for key, value in recorded.items() if value != digest]:
        note(
            f"{source}: {' and '.join(stale)} in its metadata is not the hash of its tensors, and was copied with the rest; "
            "--universal writes it anew"
        )


def _check_same(source: Path, copy: Path) -> None:
    with source.open("rb", 0) as ours, copy.open("rb", 0) as theirs:
        while piece := ours.read(1 << 20):
            if piece != theirs.read(len(piece)):
                raise InputError(f"{source} changed while it was copied; run it again")


def _typed(tensors: Mapping[str, Array], dtype: str | None) -> dict[str, Array]:
    return {key: x if dtype is None else narrowed(x, dtype) for key, x in tensors.items()}


def _check_writable(output: Path, encoded: Encoded, dtype: str | None) -> None:
    """Raise what `_write` would raise; nothing is written."""
    held = [content for content in encoded.folder.values() if not isinstance(content, str)]
    for tensors, metadata in held if encoded.folder else [(encoded.tensors, encoded.metadata)]:
        safetensors.check(output, _typed(tensors, dtype), metadata)


def _write(output: Path, encoded: Encoded, dtype: str | None, note: Note) -> None:
    if _is_pickled(output):
        ckpt.write_tree(output, a1111_embedding.pickled(_typed(encoded.tensors, dtype), encoded.metadata))
        if lost := sorted(encoded.metadata.keys() - {"name"}):
            note(f"left out: {output.suffix} files have no place for metadata ({some(lost, 5)})")
        return
    if not encoded.folder:
        safetensors.write(output, _typed(encoded.tensors, dtype), encoded.metadata)
        return
    with replacing_folder(output, note) as folder:
        for path, content in encoded.folder.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                file.write_text(content, encoding="utf-8", newline="\n")
            else:
                safetensors.write(file, _typed(content[0], dtype), content[1])


def _compare(wanted: Adapter, written: Adapter, losses: tuple[str, ...], tick: Tick) -> dict[str, float]:
    """Relative error by module and token of what the written file says; a lost module that is no loss is a bug."""
    lost = {line.partition(":")[0] for line in losses}
    pairs = {name: delta for name, delta in wanted.modules.items() if name not in lost}
    missing = sorted(set(pairs) - set(written.modules))
    if missing:
        raise AssertionError(f"{missing[0]} was not read back from the written file")
    errors: dict[str, float] = {}
    for name, delta in pairs.items():  # threads would wait for the interpreter: each step is short
        errors[name] = _error(delta, written.modules[name])
        tick(len(errors), len(pairs))
    extra = sorted(set(written.modules) - set(wanted.modules))
    if any(written.modules[name].norm() for name in extra):
        raise AssertionError(f"{extra[0]} was written and not asked for")
    return errors


def _error(a: Delta, b: Delta) -> float:
    if type(a) is type(b) and all(
        dtype_of(x) == dtype_of(y) and tuple(x.shape)[:2] == tuple(y.shape)[:2] and same_bytes(raw(x), raw(y))
        for x, y in zip(a.arrays().values(), b.arrays().values(), strict=True)
    ):
        ours, theirs = getattr(a, "alpha", None), getattr(b, "alpha", None)
        if ours == theirs:
            return 0.0
    if isinstance(a, LowRank) and isinstance(b, LowRank) and (error := aligned_error(a, b)) is not None:
        return error
    return a.apart(b)


def _held(modules: int, tokens: int) -> str:
    """What a file holds, counted; modules where it holds nothing."""
    counts = ((modules, "module"), (tokens, "token"))
    told = [f"{count} {what}{'s' if count > 1 else ''}" for count, what in counts if count]
    return " and ".join(told) or "0 modules"


def _say(result: dict[str, Any], found: Sequence[clients.Coverage], note: Note) -> None:
    held = _held(max(result["modules"], *(one.expected for one in found), 0), len(result["tokens"]))
    note(f"{held} read back, worst relative error {result['error']:.1e}")
    if result["approximated"]:
        counted = Counter(f"{error:.0e}" for error in result["approximated"].values())
        note(f"approximated: {len(result['approximated'])} modules, errors {dict(counted.most_common(5))}")
    for line in clients.lines(found):
        note(line)
