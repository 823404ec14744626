"""A plain page: a title, sections of figures and tables; everything from outside is escaped."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from PIL import Image

_STYLE = """:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;
padding:0 1em}figure{display:inline-block;margin:.4em;vertical-align:top;max-width:22em}figcaption{font-size:.85em;
overflow-wrap:anywhere}img{max-width:100%;image-rendering:auto}.bad figcaption{color:#b00020}table{border-collapse:
collapse}td,th{padding:.2em .7em;text-align:left;border-bottom:1px solid #8884;overflow-wrap:anywhere}"""


def inline(image: Image.Image, shortest: int = 0) -> str:
    """A data URI of the picture as PNG, enlarged by whole pixels until its shorter side is `shortest`."""
    factor = max(1, -(-shortest // min(image.size)))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    data = io.BytesIO()
    image.save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


@dataclass
class Page:
    title: str
    parts: list[str] = field(default_factory=list)

    def heading(self, text: str) -> None:
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        self.parts.append(f"<p>{html.escape(text)}</p>")

    def figure(self, source: str, caption: str, bad: bool = False) -> None:
        kind = ' class="bad"' if bad else ""
        self.parts.append(
            f'<figure{kind}><img src="{html.escape(source)}" alt=""><figcaption>{html.escape(caption)}</figcaption></figure>'
        )

    def table(self, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        cells = "".join(f"<th>{html.escape(h)}</th>" for h in head)
        lines = ["<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>" for row in rows]
        self.parts.append(f"<table><tr>{cells}</tr>{''.join(lines)}</table>")

    def curve(self, values: Sequence[float], label: str) -> None:
        """A line over the index, with its running mean; inline SVG."""
        if len(values) < 2:
            return
        high = max(values) or 1.0
        step = max(1, len(values) // 600)
        window = max(1, len(values) // 20)
        mean = [
            sum(values[max(0, i - window) : i + 1]) / len(values[max(0, i - window) : i + 1])
            for i in range(len(values))
        ]

        def line(points: Sequence[float]) -> str:
            return " ".join(
                f"{i / (len(values) - 1) * 800:.1f},{200 - points[i] / high * 195:.1f}"
                for i in range(0, len(points), step)
            )

        self.parts.append(
            f'<figure style="max-width:100%"><svg viewBox="0 0 800 200" width="800" role="img">'
            f'<polyline points="{line(values)}" fill="none" stroke="#8888" stroke-width="1"/>'
            f'<polyline points="{line(mean)}" fill="none" stroke="#2a6fdb" stroke-width="2"/></svg>'
            f"<figcaption>{html.escape(label)}: 0 to {high:.4g} over {len(values)} steps, last mean {mean[-1]:.4g}</figcaption></figure>"
        )

    def render(self) -> str:
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(self.title)}</title>'
            f"<style>{_STYLE}</style><h1>{html.escape(self.title)}</h1>{''.join(self.parts)}</html>\n"
        )
