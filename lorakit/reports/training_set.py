"""The report of `ppim`: every picture with its crop on the original, caption, mask, figures and verdict."""

import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, TextIO
from urllib.parse import quote

from PIL import Image

from lorakit.data.images import BadPicture, stored

_MOST_SHOWN = 1000  # pictures with thumbnails; the page names the rest, so that it opens whatever the folder's size
_VERDICTS = ("taken", "duplicate", "rejected")


class LintSummary(Protocol):
    """What the lint of the set has to say: lines, pictures by size, mean share cut off."""

    @property
    def lines(self) -> list[str]: ...
    @property
    def sizes(self) -> dict[str, int]: ...
    @property
    def cut_off(self) -> float: ...


def _say(text: str) -> str:
    """Text from outside as data: no markup, control characters spelt out."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return html.escape(plain, quote=True)


def _mask_uri(file: Path) -> str:
    """A mask as a small picture that darkens what training leaves out."""
    try:
        mask = stored(file, ("PNG",)).convert("L")
    except BadPicture:
        return ""
    mask.thumbnail((128, 128))
    shade = Image.new("LA", mask.size, 0)
    shade.putalpha(mask.point([255 - value for value in range(256)]))
    data = io.BytesIO()
    shade.save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def _original(record: dict[str, Any]) -> str:
    """The source picture in its own coordinates, with each crop drawn on it."""
    if "thumb" not in record:
        return '<div class="none">no picture</div>'
    thumb, (width, height) = record["thumb"], record["source_size"]
    shapes = []
    for row in record.get("rows", ()):
        left, top, right, bottom = row["crop_box"]
        turn = sum(a.get("angle", 0) for a in row["augmentations"])
        about = f' transform="rotate({turn} {(left + right) / 2} {(top + bottom) / 2})"' if turn else ""
        outside = f"M0 0H{width}V{height}H0ZM{left} {top}V{bottom}H{right}V{top}Z"
        if len(record["rows"]) == 1 and not turn:
            shapes.append(f'<path class="out" d="{outside}"/>')
        shapes.append(f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}"{about}/>')
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="original with crop">'
        f'<image href="{thumb}" width="{width}" height="{height}" preserveAspectRatio="none"/>{"".join(shapes)}</svg>'
    )


def _drawn(data: Path, row: dict[str, Any]) -> str:
    mask = f'<img class="mask" src="{_mask_uri(data / row["mask"])}" alt="">' if "mask" in row else ""
    small = " small" if max(row["size"]) <= 128 else ""
    name, thumb = _say(row["file_name"]), row.get("thumb", "")
    return (
        f'<a class="drawn{small}" href="{_link(row["file_name"])}" title="{name}" tabindex="-1">'
        f'<img src="{thumb}" alt="{name}">{mask}</a>'
    )


def _link(name: str) -> str:
    return _say(quote(f"./{name}"))


def _figures(row: dict[str, Any]) -> str:
    quality = row["quality"]
    parts = [
        f"{row['source_size'][0]}×{row['source_size'][1]} → {row['size'][0]}×{row['size'][1]}",
        f"{row['cut_off']:.0%} cut off",
        f"sharpness {quality['sharpness']:.0f}",
        f"brightness {quality['brightness']:.0f}",
    ]
    parts += ["enlarged"] * bool(row["upscaled"])
    if "mask_share" in row:
        parts.append(f"mask {row['mask_share']:.0%}")
    return " · ".join(parts)


def _card(data: Path, record: dict[str, Any]) -> str:
    rows = record.get("rows", ())
    verdict = "duplicate" if "duplicate_of" in record else "rejected" if "reason" in record else "taken"
    lines = [f'<b class="verdict">{verdict}</b> <span class="name">{_say(record["source"])}</span>']
    reason = record.get("reason") or (
        f"{record['duplicate_how']} {record['duplicate_of']}" if "duplicate_of" in record else ""
    )
    if reason:
        lines.append(f'<p class="reason">{_say(reason)}</p>')
    if rows:
        text = rows[0]["text"]
        hand = " <i>(by hand)</i>" if rows[0].get("by_hand") else ""
        lines.append(f'<p class="caption">{_say(text) or "<i>no caption</i>"}{hand}</p>')
        lines.append(f'<p class="figures">{_say(_figures(rows[0]))}</p>')
        if why := rows[0].get("crop_why"):
            lines.append(f'<p class="figures">{_say(rows[0]["crop"])}: {_say(why)}</p>')
        for row in rows:
            changes = [
                f"{one['name']} ({', '.join(f'{key} {value:g}' for key, value in one.items() if key != 'name')})"
                for one in row["augmentations"]
            ]
            if changes:
                lines.append(f'<p class="figures">{_say(row["file_name"])}: {_say(", ".join(changes))}</p>')
    notes = [*record.get("notes", ()), *record.get("caption_notes", ()), *(n for row in rows for n in row["notes"])]
    lines += [f'<p class="note">{_say(note)}</p>' for note in dict.fromkeys(notes)]
    size = "{}x{}".format(*rows[0]["size"]) if rows else ""
    return (
        f'<figure tabindex="0" data-verdict="{verdict}" data-size="{size}"><div class="pictures">{_original(record)}'
        f"{''.join(_drawn(data, row) for row in rows)}</div><figcaption>{''.join(lines)}</figcaption></figure>\n"
    )


def _histogram(sizes: dict[str, int]) -> str:
    if not sizes:
        return ""
    most, lines = max(sizes.values()), []
    for size, count in sizes.items():
        width, height = map(int, size.split("x"))
        unit = 22 / max(width, height)
        lines.append(
            f'<button class="bar" data-size="{size}" aria-pressed="false"><span class="shape">'
            f'<i style="width:{width * unit:.0f}px;height:{height * unit:.0f}px"></i></span>'
            f'<span class="label">{width}×{height}</span><span class="track"><i style="width:{100 * count / most:.1f}%"></i>'
            f"</span><span>{count}</span></button>"
        )
    return f'<section><h2>Sizes training will see</h2><div class="bars">{"".join(lines)}</div></section>'


def _head(out: TextIO, counts: dict[str, int], found: LintSummary, raw: Path) -> None:
    buttons = "".join(
        f'<button data-verdict="{verdict}" aria-pressed="false">{counts[verdict]} {verdict}</button>'
        for verdict in _VERDICTS
        if counts[verdict]
    )
    out.write(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>ppim: training set</title><style>{_STYLE}</style></head><body><header><h1>Training set</h1>"
        f'<p>{sum(counts.values())} pictures from <span class="name">{_say(raw.name)}</span>; '
        f"{found.cut_off:.0%} of a picture is cut off on average.</p>"
        f'<nav><button data-verdict="" aria-pressed="true">all</button>{buttons}'
        '<input id="find" type="search" placeholder="name or caption  ( / )" aria-label="find">'
        '<button id="masks" aria-pressed="true" hidden>masks</button></nav>'
        '<p class="keys">Keys: arrows or j k move, Enter opens the picture, m shows masks, 0 to 3 filter, / finds.</p></header>'
    )
    out.write(_histogram(found.sizes))
    if found.lines:
        items = "".join(f"<li>{_say(line)}</li>" for line in found.lines)
        out.write(f'<section><h2>Worth a look</h2><ul class="lint">{items}</ul></section>')


def write(file: Path, data: Path, records: Iterable[dict[str, Any]], raw: Path, found: LintSummary) -> None:
    """Write the report of the training set `data` to `file`, a record at a time."""
    cards: list[str] = []
    counts = dict.fromkeys(_VERDICTS, 0)
    more: list[str] = []
    for record in records:
        verdict = "duplicate" if "duplicate_of" in record else "rejected" if "reason" in record else "taken"
        counts[verdict] += 1
        if len(cards) < _MOST_SHOWN:
            cards.append(_card(data, record))
        elif verdict != "taken":
            more.append(f"{record['source']}: {record.get('reason', verdict)}")
    with file.open("w", encoding="utf-8", newline="\n") as out:
        _head(out, counts, found, raw)
        out.write('<main><h2 class="shown" aria-live="polite"></h2>')
        out.writelines(cards)
        out.write("</main>")
        left = sum(counts.values()) - len(cards)
        if left:
            out.write(f"<p>{left} more pictures are not shown here; metadata.jsonl has all that were taken.</p><ul>")
            out.writelines(f"<li>{_say(line)}</li>" for line in more)
            out.write("</ul>")
        out.write(f"<script>{_SCRIPT}</script></body></html>\n")


_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1a1c1f;--soft:#667;--line:#8883;--card:#f6f7f9;--taken:#1f7a45;
--duplicate:#8a6100;--rejected:#b3261e;--accent:#2a6fdb}
@media(prefers-color-scheme:dark){:root{--bg:#15171a;--fg:#e8eaed;--soft:#9aa3ad;--card:#1e2125;--taken:#6fcf97;
--duplicate:#f2c14e;--rejected:#ff8a80;--accent:#7fb0ff}}
*{box-sizing:border-box}body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;padding:0 1.2em 4em;max-width:1500px;
background:var(--bg);color:var(--fg)}
header{position:sticky;top:0;background:var(--bg);padding:.6em 0 .5em;border-bottom:1px solid var(--line);z-index:2}
h1{font-size:1.3em;margin:0}h2{font-size:1em;margin:1.2em 0 .5em}header p{margin:.1em 0;color:var(--soft)}
.keys{font-size:.8em}nav{display:flex;flex-wrap:wrap;gap:.4em;margin:.5em 0}
button,input{font:inherit;color:inherit;background:var(--card);border:1px solid var(--line);border-radius:6px;padding:.25em .7em}
button{cursor:pointer}button[aria-pressed=true]{border-color:var(--accent);box-shadow:inset 0 0 0 1px var(--accent)}
input{min-width:15em}:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
.bars{display:grid;grid-template-columns:repeat(auto-fill,minmax(20em,1fr));gap:.3em}
.bar{display:flex;align-items:center;gap:.6em;text-align:left}.shape{width:24px;display:inline-flex;justify-content:center}
.shape i{display:block;border:1.5px solid var(--soft);border-radius:2px}.label{width:6.5em}.track{flex:1;height:8px}
.track i{display:block;height:100%;background:var(--accent);border-radius:4px;min-width:3px}
.lint{margin:0;padding-left:1.2em;overflow-wrap:anywhere}
main{display:grid;grid-template-columns:repeat(auto-fill,minmax(21em,1fr));gap:.9em;align-items:start}main h2{grid-column:1/-1;margin:.6em 0 0}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.7em;scroll-margin:9em}
figure[hidden]{display:none}.pictures{display:flex;flex-wrap:wrap;gap:.5em;align-items:flex-start}
.pictures>*{flex:1 1 45%;min-width:0;max-width:calc(50% - .25em)}
svg{width:100%;max-height:230px;display:block;border-radius:4px}
rect{fill:none;stroke:#fff;stroke-width:3px;vector-effect:non-scaling-stroke;
filter:drop-shadow(0 0 1px #000)}.out{fill:#0009;fill-rule:evenodd}
.drawn{position:relative;display:block}.drawn img{width:100%;max-height:230px;object-fit:contain;object-position:0 0;display:block;border-radius:4px}
.small img:not(.mask){image-rendering:pixelated}.mask{position:absolute;inset:0;height:100%;opacity:.75}
body.nomasks .mask{display:none}.none{padding:2em 0;text-align:center;color:var(--soft);border:1px dashed var(--line);
border-radius:4px;max-width:100%;flex-basis:100%}
figcaption{margin-top:.5em;overflow-wrap:anywhere}figcaption p{margin:.15em 0}.name{color:var(--soft)}
.figures,.note{font-size:.83em;color:var(--soft)}.note::before{content:"! ";color:var(--duplicate);font-weight:bold}
.caption{font-size:1.02em}[data-verdict=taken] .verdict{color:var(--taken)}
[data-verdict=duplicate] .verdict,[data-verdict=duplicate] .reason{color:var(--duplicate)}
[data-verdict=rejected] .verdict,[data-verdict=rejected] .reason{color:var(--rejected)}
@media print{header{position:static}nav,.keys{display:none}figure{break-inside:avoid}}
"""

_SCRIPT = """
(() => {
  const cards = [...document.querySelectorAll('figure')], find = document.getElementById('find');
  const verdicts = [...document.querySelectorAll('nav [data-verdict]')], sizes = [...document.querySelectorAll('.bar')];
  const masks = document.getElementById('masks'), shown = document.querySelector('.shown');
  let verdict = '', size = '';
  masks.hidden = !document.querySelector('.mask');
  const show = () => {
    const words = find.value.toLowerCase();
    let count = 0;
    for (const card of cards) {
      const fits = (!verdict || card.dataset.verdict === verdict) && (!size || card.dataset.size === size)
        && (!words || card.textContent.toLowerCase().includes(words));
      card.hidden = !fits;
      count += fits;
    }
    for (const b of verdicts) b.setAttribute('aria-pressed', b.dataset.verdict === verdict);
    for (const b of sizes) b.setAttribute('aria-pressed', b.dataset.size === size);
    shown.textContent = count === cards.length ? `${count} pictures` : `${count} of ${cards.length} pictures`;
  };
  for (const b of verdicts) b.onclick = () => { verdict = b.dataset.verdict; show(); };
  for (const b of sizes) b.onclick = () => { size = size === b.dataset.size ? '' : b.dataset.size; show(); };
  const toggle = () => masks.setAttribute('aria-pressed', !document.body.classList.toggle('nomasks'));
  masks.onclick = toggle;
  find.oninput = show;
  const across = () => {
    const visible = cards.filter(c => !c.hidden);
    return visible.filter(c => c.offsetTop === visible[0].offsetTop).length || 1;
  };
  document.addEventListener('keydown', e => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.target === find) { if (e.key === 'Escape') { find.value = ''; find.blur(); show(); } return; }
    const visible = cards.filter(c => !c.hidden), at = visible.indexOf(document.activeElement);
    const step = {ArrowRight: 1, j: 1, ArrowLeft: -1, k: -1, ArrowDown: across(), ArrowUp: -across()}[e.key];
    if (step && visible.length) {
      e.preventDefault();
      visible[at < 0 ? 0 : Math.max(0, Math.min(visible.length - 1, at + step))].focus();
    } else if (e.key === 'Enter' && at >= 0) visible[at].querySelector('a')?.click();
    else if (e.key === 'm') toggle();
    else if (e.key === '/') { e.preventDefault(); find.focus(); }
    else if (verdicts[+e.key] && e.key >= '0') verdicts[+e.key].click();
  });
  show();
})();
"""
