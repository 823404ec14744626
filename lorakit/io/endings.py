"""What the name of an output says is in it. A name that says another thing is refused before any work."""

import re
from dataclasses import dataclass
from pathlib import Path

from lorakit.errors import UsageError

# Endings by which programs know files: a folder must not have one of these.
_OF_A_FILE = re.compile(
    r"\.(safetensors|ckpt|pt|pth|bin|pkl|pickle|gguf|onnx|h5|msgpack|np[yz]|zip|tar|t?gz|7z|toml|jsonl?|ya?ml|txt|md|[ct]sv"
    r"|html?|pdf|log|py|png|jpe?g|webp|gif|bmp|tiff?|avif|hei[cf]|jxl|svg|mp4|webm|mov|avi)"
)


@dataclass(frozen=True)
class OutputKind:
    """A kind of output.

    what     what is written, for people: "an adapter"
    endings  of its files, the usual one first; none where it is a folder
    folder   whether it is a folder, or can be one
    """

    what: str
    endings: tuple[str, ...] = ()
    folder: bool = False

    def is_folder(self, target: Path) -> bool:
        """Whether this output is written as a folder: it is one already, or its name does not end as a file's of its kind."""
        return self.folder and (target.is_dir() or target.suffix.lower() not in self.endings)

    def check(self, target: Path) -> None:
        """UsageError, with the right name, where the name of an output ends as no file of this kind does."""
        ending = target.suffix.lower()
        if ending in self.endings or (self.folder and (target.is_dir() or not _OF_A_FILE.fullmatch(ending))):
            return
        stem = target.with_suffix("") if _OF_A_FILE.fullmatch(ending) else target
        names = [f"{stem}{known}" for known in self.endings] + [str(stem)] * self.folder
        raise UsageError(f"{target}: {self.what} is {self._forms()}; name it {' or '.join(names)}")

    def _forms(self) -> str:
        files = f"a {' or '.join(self.endings)} file" if self.endings else ""
        return " or ".join(filter(None, (files, "a folder" if self.folder else "")))


ADAPTER = OutputKind("an adapter", (".safetensors",))
EMBEDDING = OutputKind("an embedding", (".safetensors",))
A1111_EMBEDDING = OutputKind("an embedding for A1111", (".safetensors", ".pt"))
PEFT = OutputKind("a PEFT adapter", folder=True)
MERGED_MODEL = OutputKind("a merged model", (".safetensors", ".ckpt"), folder=True)
TRAINED_MODEL = OutputKind("a trained model", (".safetensors",), folder=True)
RECIPE = OutputKind("a recipe", (".toml",))
PAGE = OutputKind("a report", (".html",))
PICTURE = OutputKind("a picture", (".png",))
FILM = OutputKind("a film", (".gif", ".webp", ".mp4"))
PICTURES = OutputKind("what is drawn", (".png",), folder=True)
FOLDER = OutputKind("what is written", folder=True)

_OF_MODES = {"full": TRAINED_MODEL, "ti": EMBEDDING}
_OF_FORMATS = {
    "peft": PEFT,
    "a1111-embedding": A1111_EMBEDDING,
    "diffusers-embedding": EMBEDDING,
    "comfy-embedding": EMBEDDING,
}


def of_format(name: str) -> OutputKind:
    """What a file of an adapter format is."""
    return _OF_FORMATS.get(name, ADAPTER)


def of_mode(name: str) -> OutputKind:
    """What a training mode makes."""
    return _OF_MODES.get(name, ADAPTER)
