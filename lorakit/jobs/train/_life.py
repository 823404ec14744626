"""How a training run lives, apart from what it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Life:
    """Where a run writes, how often, and what it is asked to do beside training.

    sources     option to where its value came from: option, environment, file, default, model
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
            "format": self.file_format, "save_dtype": self.save_dtype, "dtype": self.dtype,
            "validate_every": self.validate_every, "early_stop": self.early_stop,
        }  # fmt: skip


@dataclass(frozen=True)
class Talk:
    """What a run says while it works.

    show    figures that stand beside the progress from then on, the most wanted first
    """

    tick: Callable[[int, int], None]
    note: Callable[[str], None]
    show: Callable[[Mapping[str, str]], None] = lambda figures: None

    @classmethod
    def silent(cls) -> Talk:
        return cls(lambda done, total: None, lambda text: None)
