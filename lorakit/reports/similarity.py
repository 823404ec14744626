"""How alike adapters are, in lines for a terminal and as a page with heat maps. No network."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from lorakit.reports.page import Page

_HALF = 12  # characters from 0 to 1 of a bar
_STYLE = """<style>body{max-width:1100px}table.map td{text-align:right;font-variant-numeric:tabular-nums;padding:.3em .8em}
table.map td:first-child,table.map th:first-child{text-align:left}td.c{border-radius:.3em;min-width:4.5em}.say{font-size:
1.1em}</style>"""


def lines(pairs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One table a pair, one block a line."""
    for pair in pairs:
        yield f"{pair['a']}  and  {pair['b']}"
        yield f"  {verdict(pair)}"
        yield f"  {'':<20} {'cosine':>7}  {'-1' + ' ' * (_HALF - 2) + '0' + ' ' * (_HALF - 1) + '1'}  writes  reads  modules"
        for block in (*pair["blocks"], {"block": "all", **pair}):
            yield (
                f"  {block['block']:<20} {block['cosine']:>+7.3f}  {_bar(block['cosine'])}  {block['overlap_out']:>6.1%} "
                f"{block['overlap_in']:>6.1%}  {block['modules']:>7}"
            )
        yield f"  by chance {'':<10} {'':>7}  {'':<{2 * _HALF + 1}}  {pair['chance_out']:>6.1%} {pair['chance_in']:>6.1%}"
        yield ""


def verdict(pair: Mapping[str, Any]) -> str:
    """What to expect of the two together, in a sentence."""
    cosine = pair["cosine"]
    if cosine > 0.9:
        return "nearly the same change: together they overshoot; lower the weights"
    if cosine > 0.15:
        return "they pull the same way: together the effect is stronger; lower the weights"
    if cosine < -0.15:
        return "they pull against each other: each takes from the other's effect"
    if any(pair[f"overlap_{side}"] > 0.1 + 2 * pair[f"chance_{side}"] for side in ("out", "in")):
        return "they use the same directions for different changes: expect them to mix"
    return "independent: they should go together"


def page(pairs: Sequence[Mapping[str, Any]]) -> str:
    """The whole page as HTML: a map of all pairs where there are several, and each pair's blocks."""
    out = Page("How alike the adapters are")
    out.parts.append(_STYLE)
    out.text(
        "Cosine: 1 is the same change, 0 independent, -1 the opposite. Writes and reads: how far the spaces of outputs and "
        "of inputs coincide, 0 to 100 %; random adapters of these ranks come to what stands under chance."
    )
    names = list(dict.fromkeys(name for pair in pairs for name in (pair["a"], pair["b"])))
    if len(names) > 2:
        out.heading("Cosine of every pair")
        out.parts.append(_matrix(names, pairs))
    for pair in pairs:
        out.heading(f"{PurePath(pair['a']).name} and {PurePath(pair['b']).name}")
        out.parts.append(f'<p class="say">{html.escape(verdict(pair))}</p>')
        out.parts.append(_blocks(pair))
    return out.render()


def _matrix(names: Sequence[str], pairs: Sequence[Mapping[str, Any]]) -> str:
    cosines = {(pair["a"], pair["b"]): pair["cosine"] for pair in pairs}
    head = "".join(f"<th>{html.escape(PurePath(name).name)}</th>" for name in names)
    rows = []
    for a in names:
        cells = "".join(_cell(cosines.get((a, b), cosines.get((b, a), 1.0)), f"{a}\n{b}") for b in names)
        rows.append(f"<tr><td>{html.escape(PurePath(a).name)}</td>{cells}</tr>")
    return f'<div style="overflow-x:auto"><table class="map"><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'


def _blocks(pair: Mapping[str, Any]) -> str:
    rows = []
    for block in (*pair["blocks"], {"block": "all", **pair}):
        tip = f"{block['modules']} modules, norms {block['norms'][0]:.4g} and {block['norms'][1]:.4g}"
        cells = (
            f"<td>{html.escape(block['block'])}</td>",
            _cell(block["cosine"], tip),
            _share(block["overlap_out"]),
            f"<td>{block['chance_out']:.1%}</td>",
            _share(block["overlap_in"]),
            f"<td>{block['chance_in']:.1%}</td>",
            f"<td>{block['modules']}</td>",
        )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    names = ("block", "cosine", "writes", "chance", "reads", "chance", "modules")
    head = "".join(f"<th>{name}</th>" for name in names)
    return f'<table class="map"><tr>{head}</tr>{"".join(rows)}</table>'


def _cell(value: float, tip: str) -> str:
    """Red where they pull against each other, blue where they pull together."""
    colour = "42,111,219" if value >= 0 else "217,72,15"
    style = f"background:rgba({colour},{0.05 + 0.75 * min(1.0, abs(value)):.2f})"
    return f'<td class="c" style="{style}" title="{html.escape(tip)}">{value:+.3f}</td>'


def _share(value: float) -> str:
    return f'<td class="c" style="background:rgba(156,54,181,{0.05 + 0.75 * value:.2f})">{value:.1%}</td>'


def _bar(value: float) -> str:
    """Twelve places to each side of 0."""
    filled = round(_HALF * min(1.0, abs(value)))
    if value < 0:
        return " " * (_HALF - filled) + "█" * filled + "│" + " " * _HALF
    return " " * _HALF + "│" + "█" * filled + " " * (_HALF - filled)
