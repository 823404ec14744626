"""What text encoders make of captions, kept by caption: a few in memory, all on the disk."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lorakit.io.pack import Pack
from lorakit.models.fingerprint import Counts

_VERSION = "1"


class TextCache:
    """What text encoders that stand still make of captions, by caption.

    encode  captions to the tensors of each, one after another; called with those alone that are not there
    name    of the encoders: `weights_hash` of them, their tokenizers and the layer taken
    most    how many are kept in memory, the latest used; all are on disk where there is a folder
    """

    def __init__(
        self,
        encode: Callable[[Sequence[str]], Sequence[Mapping[str, Tensor]]],
        name: str,
        folder: Path | None = None,
        most: int = 4096,
    ) -> None:
        self._encode, self._name, self._most = encode, name, most
        self._pack = Pack(folder / "texts.pack") if folder is not None else None
        self._memory: OrderedDict[str, Mapping[str, Tensor]] = OrderedDict()
        self.counts = Counts()

    def _key(self, caption: str) -> bytes:
        return hashlib.sha256(json.dumps([self._name, caption, _VERSION]).encode()).digest()

    def __getitem__(self, caption: str) -> Mapping[str, Tensor]:
        return self.of([caption])[0]

    def of(self, captions: Sequence[str]) -> list[Mapping[str, Tensor]]:
        """The tensors of each caption, float32 on the CPU; new ones are encoded."""
        distinct = list(dict.fromkeys(captions))
        found = {caption: tensors for caption in distinct if (tensors := self._known(caption)) is not None}
        new = [caption for caption in distinct if caption not in found]
        if new:
            for caption, tensors in zip(new, self._encode(new), strict=True):
                found[caption] = {name: x.detach().to("cpu", torch.float32) for name, x in tensors.items()}
                if self._pack is not None:
                    self._pack.put(self._key(caption), {name: x.numpy() for name, x in found[caption].items()})
            self.counts.made += len(new)
            if self._pack is not None:
                self._pack.sync()
        for caption in distinct:
            self._memory[caption] = found[caption]
            self._memory.move_to_end(caption)
        while len(self._memory) > self._most:
            self._memory.popitem(last=False)
        return [found[caption] for caption in captions]

    def _known(self, caption: str) -> Mapping[str, Tensor] | None:
        if caption in self._memory or self._pack is None:
            return self._memory.get(caption)
        arrays = self._pack.get(self._key(caption))
        self.counts.found += arrays is not None
        self.counts.damaged = self._pack.damaged
        return None if arrays is None else {name: torch.from_numpy(array) for name, array in arrays.items()}
