"""How a command talks and writes, common to all."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a command talks and writes, common to all."""

    json_output: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    force: bool = False
    dry_run: bool = False
