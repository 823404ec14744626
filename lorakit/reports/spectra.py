"""A page on an adapter's modules: heat maps over blocks and layers, singular values, and a table. No network."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorakit.reports.page import Page

_STYLE = """<style>body{max-width:1280px}svg text{font:11px system-ui,sans-serif;fill:currentColor}figure.wide{display:block;
max-width:100%;margin:.4em 0 1.6em;overflow-x:auto}figcaption{opacity:.75}.cards{display:flex;flex-wrap:wrap;gap:.8em;
margin:1em 0}.cards div{border:1px solid #8884;border-radius:.6em;padding:.5em 1em}.cards b{display:block;font-size:1.5em;
font-weight:600}.cards span{opacity:.75;font-size:.85em}.maps{display:flex;flex-wrap:wrap;gap:0 1em}td.n{text-align:right;
font-variant-numeric:tabular-nums;white-space:nowrap}td.m{font-size:.85em}rect.cell{stroke:#8883}rect.cell:hover{stroke:
currentColor}tr:hover td{background:#8881}</style>"""
_COLUMNS = {
    "unet": (
        "conv",
        "conv1",
        "conv2",
        "shortcut",
        "time",
        "proj in",
        "self q",
        "self k",
        "self v",
        "self out",
        "cross q",
        "cross k",
        "cross v",
        "cross out",
        "ff in",
        "ff out",
        "proj out",
    ),
    "text": ("q", "k", "v", "out", "fc1", "fc2", "projection"),
}
_KINDS = (
    ("self-attention", "#2a6fdb"),
    ("cross-attention", "#d9480f"),
    ("feed-forward", "#2b8a3e"),
    ("convolution", "#9c36b5"),
    ("other", "#868e96"),
)
_BLOCK = re.compile(r"unet\.(down_blocks|up_blocks)\.(\d+)\.(\w+)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"unet\.(mid_block)()\.(\w+)\.(\d+)\.(.+)")
_LAYER = re.compile(r"(text_encoder(?:_2)?)\.text_model\.encoder\.layers\.(\d+)\.(.+)")
_OTHER = re.compile(r"(?:transformer|text_encoder_3)\.(.+?)[._](\d+)[._](.+)")
_INNER = re.compile(r"transformer_blocks\.(\d+)\.(.+)")
_NAMES = {
    "attn1.to_q": "self q",
    "attn1.to_k": "self k",
    "attn1.to_v": "self v",
    "attn1.to_out.0": "self out",
    "attn2.to_q": "cross q",
    "attn2.to_k": "cross k",
    "attn2.to_v": "cross v",
    "attn2.to_out.0": "cross out",
    "ff.net.0.proj": "ff in",
    "ff.net.2": "ff out",
    "proj_in": "proj in",
    "proj_out": "proj out",
    "conv1": "conv1",
    "conv2": "conv2",
    "conv_shortcut": "shortcut",
    "time_emb_proj": "time",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.out_proj": "out",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}
_ORDER = {"in": 0, "down": 1, "mid": 2, "up": 3, "out": 4}
_POINTS = 96  # of a curve
_SCALE = 160  # the width of a legend


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """One module: what of it was kept.

    norm    Frobenius norm of its delta
    kept    share of the squared norm in the adapter, 0 to 1
    excess  by how much, relative to the norm, the error may be above the best possible
    values  leading singular values, falling; none where they are not known
    floor   singular values up to this are rounding noise
    """

    name: str
    shape: tuple[int, ...]
    rank: int
    norm: float
    kept: float
    excess: float
    values: Sequence[float]
    floor: float = 0.0


def page(modules: Sequence[Spectrum], title: str = "Modules of an adapter") -> str:
    """The whole page as HTML."""
    out = Page(title)
    out.parts.append(_STYLE)
    out.parts.append(_cards(modules))
    by_part: dict[str, list[Spectrum]] = {}
    for one in sorted(modules, key=lambda one: _natural(one.name)):
        by_part.setdefault(one.name.partition(".")[0], []).append(one)
    for part in sorted(by_part, reverse=True):
        found = by_part[part]
        out.heading(part.replace("_", " "))
        out.parts.append(f'<div class="maps">{_map(found, "norm")}{_map(found, "rank")}</div>')
        out.parts.append(_curves(found))
    out.heading("All modules")
    out.parts.append(_table([one for part in sorted(by_part, reverse=True) for one in by_part[part]]))
    return out.render()


def place(name: str) -> tuple[str, str]:
    """(row, column) of a module in its part's heat map: ("down 1.0", "cross q")."""
    if match := _LAYER.fullmatch(name):
        return f"layer {match[2]}", _NAMES.get(match[3], match[3])
    if match := _OTHER.fullmatch(name):
        return f"{match[1].removesuffix('s')} {match[2]}", match[3].replace("_", ".")
    match = _BLOCK.fullmatch(name) or _MIDDLE.fullmatch(name)
    if match is None:
        path = name.partition(".")[2]
        if path.startswith(("time_embedding", "add_embedding")):
            return f"in {path.partition('.')[2]}", "time"
        return {"conv_in": ("in", "conv"), "conv_out": ("out", "conv")}.get(path, ("other", path.rpartition(".")[2]))
    side, number, kind, index, rest = match.groups()
    row = f"{side.partition('_')[0]} {number}.{index}" if number else f"mid {index}"
    if kind.endswith("samplers"):
        return f"{side.partition('_')[0]} {number} sampler", "conv"
    if inner := _INNER.fullmatch(rest):
        return row if inner[1] == "0" else f"{row} t{inner[1]}", _NAMES.get(inner[2], inner[2])
    return row, _NAMES.get(rest, rest)


def _cards(modules: Sequence[Spectrum]) -> str:
    whole = sum(one.norm**2 for one in modules)
    held = sum(one.kept * one.norm**2 for one in modules if one.rank)
    ranks = [one.rank for one in modules if one.rank]
    cards = [
        ("modules", str(len(ranks))),
        ("ranks", _span(ranks)),
        ("of the squared norm kept", f"{held / whole:.2%}" if whole else "all"),
        ("norm of the change", f"{whole**0.5:.4g}"),
        ("error above the optimum, at most", f"{max((one.excess for one in modules), default=0.0):.2g}"),
    ]
    inner = "".join(
        f"<div><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>" for label, value in cards
    )
    return f'<div class="cards">{inner}</div>'


def _span(ranks: Sequence[int]) -> str:
    if not ranks:
        return "none"
    return f"{min(ranks)} to {max(ranks)}" if min(ranks) < max(ranks) else str(ranks[0])


def _map(modules: Sequence[Spectrum], what: str) -> str:
    """A heat map: blocks in network order down, kinds of layer across."""
    cells = {place(one.name): one for one in modules}
    rows = sorted({row for row, _ in cells}, key=_row_order)
    known = _COLUMNS["text" if modules[0].name.startswith("text") else "unet"]
    used = {column for _, column in cells}
    columns = [c for c in known if c in used] + sorted(used - set(known))
    value: Callable[[Spectrum], float] = (lambda one: one.norm) if what == "norm" else (lambda one: float(one.rank))
    high = max((value(one) for one in modules), default=0.0) or 1.0
    colour = "#2a6fdb" if what == "norm" else "#d9480f"
    left, top, wide, tall = max(100, 16 + 6 * max(map(len, rows), default=0)), 66, 27, 18
    parts = [
        f'<text x="{left + wide * i + 10}" y="{top - 6}" transform="rotate(-50 {left + wide * i + 10} {top - 6})">'
        f"{html.escape(column)}</text>"
        for i, column in enumerate(columns)
    ]
    for j, row in enumerate(rows):
        y = top + tall * j
        parts.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{html.escape(row)}</text>')
        for i, column in enumerate(columns):
            one = cells.get((row, column))
            if one is None:
                continue
            tip = f"{one.name}\nnorm {one.norm:.4g}, rank {one.rank}, kept {one.kept:.2%}"
            strength = 0.06 + 0.94 * value(one) / high
            parts.append(
                f'<rect class="cell" x="{left + wide * i}" y="{y}" width="{wide - 2}" height="{tall - 2}" rx="3" '
                f'fill="{colour}" fill-opacity="{strength:.2f}"><title>{html.escape(tip)}</title></rect>'
            )
    width = left + max(wide * len(columns) + 34, _SCALE + 50)
    height = top + tall * len(rows) + 8
    ticks = "".join(
        f'<rect x="{left + _SCALE // 8 * i}" y="{height + 2}" width="{_SCALE // 8}" height="10" fill="{colour}" '
        f'fill-opacity="{0.06 + 0.94 * i / 7:.2f}"/>'
        for i in range(8)
    )
    scale = (
        f'{ticks}<text x="{left - 8}" y="{height + 11}" text-anchor="end">0</text>'
        f'<text x="{left + _SCALE + 8}" y="{height + 11}">{high:.3g}</text>'
    )
    caption = "Norm of the change, by block and layer" if what == "norm" else "Rank, by block and layer"
    return (
        f'<figure class="wide"><svg viewBox="0 0 {width} {height + 18}" width="{width}" role="img" '
        f'aria-label="{caption}">{"".join(parts)}{scale}</svg><figcaption>{caption}</figcaption></figure>'
    )


def _curves(modules: Sequence[Spectrum]) -> str:
    """Singular values of all modules, by kind of layer; a dot where each was cut."""
    drawn = [one for one in modules if one.values and one.values[0] > 0]
    if not drawn:
        return ""
    high = max(one.values[0] for one in drawn)
    low = max(high * 1e-6, min(min(v for v in one.values if v > 0) for one in drawn))
    longest = max(2, max(len(one.values) for one in drawn))
    width, height, left = 760, 240, 62

    def x(i: int) -> float:
        return left + math.log(i + 1) / math.log(longest) * (width - left - 12)

    def y(value: float) -> float:
        span = math.log(high / low) or 1.0
        return 8 + (math.log(high) - math.log(max(value, low))) / span * (height - 34)

    parts = []
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    for value, label in [(10.0**power, f"1e{power}") for power in powers] if len(powers) > 1 else _ends(low, high):
        at = y(value)
        parts.append(f'<line x1="{left}" x2="{width - 8}" y1="{at:.1f}" y2="{at:.1f}" stroke="#8883"/>')
        parts.append(f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{label}</text>')
    for index in sorted({2**k for k in range(14) if 2**k <= longest} | {longest}):
        if index == longest or index * 1.4 < longest:
            parts.append(f'<text x="{x(index - 1):.1f}" y="{height - 8}" text-anchor="middle">{index}</text>')
    colours = dict(_KINDS)
    for one in drawn:
        colour = colours[_kind(one)]
        points = " ".join(f"{x(i):.1f},{y(one.values[i]):.1f}" for i in _steps(len(one.values)))
        tip = html.escape(f"{one.name}\nrank {one.rank}, kept {one.kept:.2%}")
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-opacity=".35"><title>{tip}</title></polyline>'
        )
        if 0 < one.rank <= len(one.values):
            end = f'cx="{x(one.rank - 1):.1f}" cy="{y(one.values[one.rank - 1]):.1f}"'
            parts.append(f'<circle {end} r="2" fill="{colour}" fill-opacity=".8"><title>{tip}</title></circle>')
    used = [(kind, colour) for kind, colour in _KINDS if any(_kind(one) == kind for one in drawn)]
    key = "".join(
        f'<circle cx="{left + 6 + 120 * i}" cy="{height + 8}" r="4" fill="{colour}"/>'
        f'<text x="{left + 14 + 120 * i}" y="{height + 12}">{kind}</text>'
        for i, (kind, colour) in enumerate(used)
    )
    return (
        f'<figure class="wide"><svg viewBox="0 0 {width} {height + 18}" width="{width}" role="img" aria-label="singular '
        f'values">{"".join(parts)}{key}</svg><figcaption>Singular values of each module, both axes logarithmic; '
        "a dot where the adapter's rank ends</figcaption></figure>"
    )


def _ends(low: float, high: float) -> list[tuple[float, str]]:
    """The ends of an axis that spans too little for powers of ten to tell anything."""
    return [(value, f"{value:.2g}") for value in (low, high)]


def _table(modules: Sequence[Spectrum]) -> str:
    head = "".join(
        f"<th>{name}</th>" for name in ("module", "shape", "rank", "norm", "kept", "above optimum", "values")
    )
    rows = []
    for one in modules:
        cells = (
            f'<td class="m">{html.escape(one.name)}</td>',
            f'<td class="n">{"×".join(map(str, one.shape))}</td>',
            f'<td class="n">{one.rank or "–"}</td>',
            f'<td class="n">{one.norm:.4g}</td>',
            f'<td class="n">{one.kept:.2%}</td>',
            f'<td class="n">{f"{one.excess:.1e}" if one.excess else "0"}</td>',
            f"<td>{_spark(one)}</td>",
        )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div style="overflow-x:auto"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _spark(one: Spectrum) -> str:
    """The values as bars, those that were cut pale, logarithmic over three decades; a line at the noise."""
    if not one.values or one.values[0] <= 0:
        return ""
    shown = _steps(len(one.values), 48)
    wide = 120 / len(shown)

    def tall(value: float) -> float:
        return max(0.5, 24 * (1 + math.log10(max(value / one.values[0], 1e-3)) / 3))

    bars = "".join(
        f'<rect x="{wide * k:.1f}" y="{25 - tall(one.values[i]):.1f}" width="{max(0.6, wide - 0.5):.1f}" '
        f'height="{tall(one.values[i]):.1f}" fill="#2a6fdb" fill-opacity="{1 if i < one.rank else 0.25}"/>'
        for k, i in enumerate(shown)
    )
    line = ""
    if one.floor > 0:
        at = 25 - tall(one.floor)
        line = f'<line x1="0" x2="120" y1="{at:.1f}" y2="{at:.1f}" stroke="#d9480f" stroke-dasharray="3 2"/>'
    return f'<svg viewBox="0 0 120 26" width="120" height="26">{bars}{line}</svg>'


def _steps(count: int, most: int = _POINTS) -> list[int]:
    """Up to `most` of the indices, all at the beginning and ever fewer."""
    if count <= most:
        return list(range(count))
    return sorted({round((count - 1) ** (i / (most - 1))) for i in range(most)} | {0})


def _kind(one: Spectrum) -> str:
    column = place(one.name)[1]
    if len(one.shape) == 4 and one.shape[2] * one.shape[3] > 1:
        return "convolution"
    if column.startswith("cross"):
        return "cross-attention"
    if column.startswith("self") or column in ("q", "k", "v", "out"):
        return "self-attention"
    return "feed-forward" if column.startswith(("ff", "fc")) else "other"


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", name)]


def _row_order(row: str) -> tuple[int, list[tuple[int, str]]]:
    return _ORDER.get(row.partition(" ")[0], 5), _natural(row.replace(" sampler", ".999"))  # the last of its block
