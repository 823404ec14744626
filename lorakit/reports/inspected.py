"""An inspected file in lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lorakit.errors import shorten

_BAR, _WIDTH = "█", 32
_LONGEST = 200  # letters of a text from the file


def lines(found: Mapping[str, Any], *, verbose: bool) -> Iterator[str]:
    """What `jobs.inspect` found, one fact a line; text from the file as it is (the caller escapes it)."""
    yield f"{found['file']}  ({_bytes(found['bytes'])}, {_many(found['tensors'], 'tensor')})"
    yield _row("what", f"{found['kind']}, {found['format']}, {found['family'] or 'family unknown'}")
    if found["evidence"]:
        yield _row("because", found["evidence"])
    if found["kind"] == "base model":
        yield _row("parts", ", ".join(found["parts"]))
        yield _row("prediction", f"{found['process'] or 'not said'}{', inpainting' if found['inpainting'] else ''}")
        yield _row("dtypes", _counts(found["dtypes"]))
    else:
        yield from _adapter(found)
    yield from _use(found)
    if found["hash_sha256"]:
        said = {None: "", True: "  (as the metadata says)", False: "  (NOT what the metadata says)"}
        yield _row("sha256", found["hash_sha256"] + said[found["hash_matches"]])
    for kind in ("notes", "faults"):
        for line in found[kind][: None if verbose else 10]:
            yield _row(kind.removesuffix("s"), line)
        if len(found[kind]) > 10 and not verbose:
            yield _row("", f"and {len(found[kind]) - 10} more (--verbose shows all)")
    if verbose:
        for key, value in sorted(found["metadata"].items()):
            yield _row("metadata", f"{key} = {_short(value)}")
        for one in found.get("modules", ()):
            yield _row(
                "module",
                f"{one['name']}  {one['kind']} rank {one['rank']} scale {one['scale']} norm {_number(one['norm'])}",
            )
    yield ""


def _adapter(found: Mapping[str, Any]) -> Iterator[str]:
    if found["modules"]:
        yield _row("modules", f"{len(found['modules'])}: {_counts(found['components'])}")
        yield _row("kinds", _counts(found["kinds"]))
        yield _row("ranks", _counts(found["ranks"]))
        yield _row("alphas", f"{_counts(found['alphas'])}  (scale {_counts(found['scales'])})")
        yield _row("dtypes", f"{_counts(found['dtypes'])}, {found['parameters']:,} parameters")
    for token, by_part in found["tokens"].items():
        for part, one in by_part.items():
            yield _row("token", f"{token} in {part}: {one['vectors']} x {one['width']}, norms {_list(one['norms'])}")
    if found["trainer"]:
        yield _row("trainer", found["trainer"])
    for key, value in found["base"].items():
        yield _row("base", f"{value}  ({key})")
    yield from _norms(found)
    for key, what in _ODD.items():
        if found[key]:
            yield _row(key, f"{_many(len(found[key]), *what)}: {_some(found[key])}")
    if found["modules"] and not found["clients"]:
        of = "files with faults" if found["faults"] else "adapters of this kind of model"
        yield _row("clients", f"not known for {of}")
    yield from _clients(found["clients"])


def _use(found: Mapping[str, Any]) -> Iterator[str]:
    """What the file says of its use."""
    for name, key in (("title", "title"), ("usage", "usage_hint")):
        if found[key]:
            yield _row(name, _short(found[key]))
    if found["trigger_words"]:
        yield _row("triggers", ", ".join(map(_short, found["trigger_words"])))
    if found["tags"]:
        yield _row("tags", ", ".join(f"{_short(tag)} x{count}" for tag, count in found["tags"].items()))


_ODD = {
    "dead": ("module", " without effect"),
    "nonfinite": ("place", " with NaN or infinity"),
    "biases": ("module", " with a bias"),
    "unknown": ("key", " belonging to nothing"),
}


def _norms(found: Mapping[str, Any]) -> Iterator[str]:
    if not found["blocks"]:
        return
    yield _row("norms", f"{found['norm']:.4g} in all; by block:")
    top = max(block["norm"] for block in found["blocks"]) or 1
    wide = max(18, *(len(block["block"]) for block in found["blocks"]))
    for block in found["blocks"]:
        bar = _BAR * round(_WIDTH * block["norm"] / top)
        yield f"    {block['block']:<{wide}} {block['norm']:>9.4g}  {bar:<{_WIDTH}}  {_many(block['modules'], 'module')}"


def _clients(clients: Mapping[str, Any]) -> Iterator[str]:
    for client, one in clients.items():
        if not one["of"]:  # learned tokens alone, which no rule is about
            continue
        if not one["right"] and len(one["wrong"]) == 1:
            yield _row(client, f"none of {_many(one['of'], 'module')}: {next(iter(one['wrong']))}")
            continue
        yield _row(client, f"{one['right']} of {_many(one['of'], 'module')} right")
        for reason, modules in one["wrong"].items():
            yield _row("", f"{len(modules)}: {reason}")


def _row(name: str, text: str) -> str:
    return f"  {name:<11} {text}"


def _counts(counts: Mapping[str, int]) -> str:
    shown = [f"{value} x{n}" if len(counts) > 1 else str(value) for value, n in list(counts.items())[:6]]
    return ", ".join(shown) + (f" and {len(counts) - 6} others" if len(counts) > 6 else "") or "none"


def _short(text: str) -> str:
    return shorten(text, _LONGEST)


def _many(count: int, what: str, more: str = "") -> str:
    return f"{count} {what}{'' if count == 1 else 's'}{more}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def _list(norms: Sequence[float | None]) -> str:
    return f"[{', '.join('NaN' if norm is None else str(norm) for norm in norms)}]"


def _bytes(count: int) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count} B"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.3g} GB"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
