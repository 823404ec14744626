"""Learned tokens: their names and vectors, as all formats of embeddings share them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lorakit.adapter import Adapter
from lorakit.arrays import Array
from lorakit.formats.dotted import part_of_width
from lorakit.formats.factors import other_losses
from lorakit.formats.scaling import reshaped


@dataclass
class Tokens:
    """What a codec has found so far: token to text encoder to vectors [n, width]."""

    found: dict[str, dict[str, Array]] = field(default_factory=dict)
    unknown: dict[str, Array] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, token: str, key: str, array: Array, part: str | None = None) -> None:
        """`part` is the text encoder where the format says it; else the width tells."""
        if array.ndim not in (1, 2) or 0 in array.shape:
            self.faults.append(f"{key}: vectors have one or two dimensions, not {tuple(array.shape)}")
            return
        part = part or part_of_width(int(array.shape[-1]))
        if part in self.found.get(token, {}):
            self.faults.append(f"{key}: a second {token} for {part}")
            return
        self.found.setdefault(token, {})[part] = as_rows(array)

    def adapter(self, metadata: Mapping[str, str], name: str) -> Adapter:
        return Adapter(
            modules={},
            metadata=metadata,
            embeddings=self.found,
            unknown=self.unknown,
            faults=tuple(self.faults),
            notes=tuple(self.notes),
            format=name,
        )


def as_rows(array: Array) -> Array:
    """[width] as [1, width]."""
    return reshaped(array, (1, int(array.shape[0]))) if array.ndim == 1 else array


UNNAMED = "embedding"


def named(metadata: Mapping[str, str], tokens: Tokens) -> str:
    """The token of a file that does not say it beside the vectors: clients take the file's name for it."""
    for key in ("name", "ss_output_name"):
        if metadata.get(key):
            return metadata[key]
    tokens.notes.append(f"the file does not name its token, which is called '{UNNAMED}' here")
    return UNNAMED


def one_token(adapter: Adapter, title: str) -> tuple[str, Mapping[str, Array], list[str]]:
    """(the token to write, its vectors by text encoder, losses): such files hold one token and nothing else."""
    losses = [f"{name}: {title} files hold no {delta.kind} deltas" for name, delta in adapter.modules.items()]
    losses += other_losses(adapter, title, embeddings=False)
    first = next(iter(adapter.embeddings), "")
    losses += [f"{other}: {title} files hold one token, here {first}" for other in adapter.embeddings if other != first]
    return first, adapter.embeddings.get(first, {}), losses
