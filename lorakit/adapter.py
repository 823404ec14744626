"""What every adapter file becomes: deltas by target module, learned tokens, and whatever else it held."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from lorakit.arrays import Array, Stored
from lorakit.delta import Delta


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Deltas and learned tokens by the names of the base model's modules.

    modules     target module ("unet.down_blocks.0...", "text_encoder.text_model...") to its delta; a name that no
                table knows stays as the file spells it
    biases      target module to what is added to its bias [out]
    embeddings  placeholder token to its vectors by text encoder: {"<s1>": {"text_encoder": [n, dim]}}
    unknown     tensors that belong to nothing, by their key, as they are
    metadata    as the file has it
    faults      what is wrong with the file, a line each, the key first; a job that goes on in spite of them lies
    notes       what is odd but has one reading, a line each
    format      the codec that read it
    keys        target module to a key that its file spells it with
    spelled     target module to all keys of it, in the order of the file
    """

    modules: Mapping[str, Delta]
    metadata: Mapping[str, str] = field(default_factory=dict)
    biases: Mapping[str, Array] = field(default_factory=dict)
    embeddings: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    unknown: Mapping[str, Array] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    format: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    spelled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def with_metadata(self, **metadata: str) -> Adapter:
        return replace(self, metadata={**self.metadata, **metadata})

    def mapped(self, change: Callable[[Array], Array]) -> Adapter:
        """The same adapter with every array of it changed."""
        return replace(
            self,
            modules={name: delta.mapped(change) for name, delta in self.modules.items()},
            biases={name: change(x) for name, x in self.biases.items()},
            embeddings={t: {part: change(x) for part, x in by.items()} for t, by in self.embeddings.items()},
            unknown={key: change(x) for key, x in self.unknown.items()},
        )

    def materialised(self) -> Adapter:
        """The same over torch tensors, read from the file."""
        return self.mapped(lambda x: x.tensor() if isinstance(x, Stored) else x)
