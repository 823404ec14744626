"""The page of a run: curves, previews by step, the pictures that stay hard, and the config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorakit.config import TrainConfig
from lorakit.io.files import write_text
from lorakit.reports.page import Page, inline

_HARD = 10


def write_report(
    run_folder: Path,
    config: TrainConfig,
    sources: Mapping[str, str],
    rows: Sequence[dict[str, Any]],
    pictures: Mapping[str, Path],
) -> Path:
    """`pictures`: sample name in the log to its file."""
    page = Page("lorakit train")
    losses = [row["loss"] for row in rows]
    if rows:
        page.text(
            f"{config.mode}, {rows[-1]['step']} steps, last mean loss {_mean(losses[-20:]):.4f}, "
            f"{_mean([row['seconds'] for row in rows[-50:]]):.3f} s a step"
        )
    page.curve(losses, "loss by step")
    validated = [row for row in rows if "validation_loss" in row]
    page.curve([row["validation_loss"] for row in validated], "loss on the held-out pictures, by validation")
    if validated:
        page.table(
            ("step", "held-out loss", "against the best before", "drift elsewhere"),
            [
                (r["step"], f"{r['validation_loss']:.5f}", r.get("validation_note", ""), f"{r.get('drift', 0):.4f}")
                for r in validated
            ],
        )
    for i, name in enumerate(("least noise", "less noise", "more noise", "most noise")):
        page.curve([v for row in rows if (v := row["loss_by_time"][i]) is not None], f"loss at the {name}")
    page.curve([row["grad_norm"] for row in rows], "norm of the gradient")
    _previews(page, run_folder)
    _hard(page, rows, pictures)
    page.heading("Config")
    page.table(
        ("option", "value", "from"),
        [(name, value, sources.get(name, "default")) for name, value in sorted(config.values().items())],
    )
    file = run_folder / "report.html"
    write_text(file, page.render())
    return file


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def _previews(page: Page, run_folder: Path) -> None:
    from lorakit.data.images import as_written

    files = sorted((run_folder / "previews").glob("*.png"))
    if files:
        page.heading("Previews")
    for file in files:
        page.figure(inline(as_written(file), 160), file.stem)


def hardest(rows: Sequence[dict[str, Any]], most: int = _HARD) -> list[tuple[str, float]]:
    """Sample names by how much their losses lie above what is usual at their timesteps, the hardest first: a wrong
    caption or a stray picture is likely among them. Losses of the second half of the run count."""
    late = [sample for row in rows[len(rows) // 2 :] for sample in row["samples"]]
    by_time: dict[int, list[float]] = {}
    for _, t, loss in late:
        by_time.setdefault(t // 50, []).append(loss)
    usual = {t: _mean(values) for t, values in by_time.items()}
    ratios: dict[str, list[float]] = {}
    for name, t, loss in late:
        if usual[t // 50] > 0:
            ratios.setdefault(name, []).append(loss / usual[t // 50])
    scored = sorted(((name, _mean(values)) for name, values in ratios.items()), key=lambda x: (-x[1], x[0]))
    return scored[:most]


def _hard(page: Page, rows: Sequence[dict[str, Any]], pictures: Mapping[str, Path]) -> None:
    from lorakit.data.images import as_written

    found = [(name, ratio) for name, ratio in hardest(rows) if name in pictures]
    if len(found) < 2:
        return
    page.heading("Pictures that stay hardest")
    page.text("Loss over what is usual at the same noise. Look for wrong captions and strays among the first.")
    for name, ratio in found:
        small = as_written(pictures[name])
        small.thumbnail((160, 160))
        page.figure(inline(small), f"{pictures[name].name}: {ratio:.2f} times")
