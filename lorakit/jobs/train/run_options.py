"""How a training run lives, apart from what it computes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorakit.io.pack import MARK

_MARKS = (  # by name below the run folder: what the file begins with, or has in its first bytes
    (re.compile(r"cache/(latents|texts|teacher)\.pack"), re.compile(re.escape(MARK))),
    (re.compile(r"checkpoints/step-\d+\.safetensors"), re.compile(rb'.{8}\{.*"lorakit\.checkpoint"', re.DOTALL)),
)
_HEAD = 1 << 16  # bytes of a file in which its mark is


def known_by_mark(run_folder: Path, name: str) -> bool:
    """Whether a cache or a checkpoint, by its name below a run folder, is what a run of lorakit wrote, damaged or not."""
    for names, mark in _MARKS:
        if names.fullmatch(name):
            with (run_folder / name).open("rb") as file:
                return mark.match(file.read(_HEAD)) is not None
    return False


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where a run writes, how often, and what it is asked to do beside training.

    sources     option to where its value came from: option, environment, file, default, model
    given       the same of this very command: a value of a recorded run came from a file
    early_stop  validations without a better one after which the run ends; 0 never
    """

    output: Path
    run_folder: Path
    file_format: str = "kohya"
    save_dtype: str = "float32"
    device: str = "auto"
    dtype: str = "auto"
    checkpoint_every: int = 100
    keep: int = 2
    resume: str = "auto"
    force: bool = False
    dry_run: bool = False
    plan: bool = False
    show_targets: bool = False
    replay: Path | None = None
    validate_every: int = 0
    early_stop: int = 0
    preview_prompts: Sequence[str] = ()
    preview_every: int = 0
    track: Sequence[str] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)

    def files(self) -> list[str]:
        """Names below the run folder under which files of this run stand or will stand, as far as they are known."""
        names = ["config.toml", "log.jsonl", "report.html", "best.safetensors"]
        names += [f"cache/{name}.pack" for name in ("latents", "texts", "teacher")]
        for pattern in ("checkpoints/step-*.safetensors", "previews/step-*.png", "replay-*.json"):
            names += [file.relative_to(self.run_folder).as_posix() for file in sorted(self.run_folder.glob(pattern))]
        return names

    def is_known(self, name: str, listed: bool) -> bool:
        """Whether a file of the run folder shows by itself that a run wrote it, damaged or not."""
        return known_by_mark(self.run_folder, name)

    @property
    def looks_only(self) -> bool:
        """Whether the run is asked to end before it trains, and not to try what it would write."""
        return self.plan or self.show_targets or self.replay is not None

    @property
    def cache(self) -> Path | None:
        """Where what encoders make is kept from run to run; a dry run keeps nothing."""
        return None if self.dry_run else self.run_folder / "cache"

    def recorded(self) -> dict[str, Any]:
        """What the output's bytes depend on besides the config, by option."""
        return {
            "format": self.file_format,
            "save_dtype": self.save_dtype,
            "dtype": self.dtype,
            "validate_every": self.validate_every,
            "early_stop": self.early_stop,
        }
