"""Models that help with pictures (captioners, masks, enlargers): a folder, or a hub repository's safetensors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorakit.errors import InputError, UnavailableError
from lorakit.io.inputs import check_plain, utf8_path
from lorakit.models.hub import is_path, snapshot
from lorakit.runtime.extras import faults_of_file

_WANTED = ["*.json", "*.txt", "*.csv", "*.safetensors"]
_REFUSED = ["*.fp16.*", "onnx/*", "openvino/*"]


def folder_of(name: str, option: str) -> Path:
    """The folder of a model by name. UnavailableError, with the command that fetches it, where it is not to be had."""
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"{option} {name} is not a model folder: it has no config.json")
        return check_plain(path, f"model of {option}")
    if path.exists() or is_path(name):
        raise InputError(f"{option} {name}: no such model folder")
    folder = snapshot(name, _WANTED, _REFUSED, f"{option} {name}", cache_first=True)
    if not any(folder.rglob("*.safetensors")):
        raise UnavailableError(
            f"{option}: the hub's snapshot of {name} has no safetensors weights (pickles are not read); it is in {folder}"
        )
    return folder


@contextmanager
def whole(folder: Path, option: str, what: str) -> Iterator[Path]:
    """Gives the path for libraries to read the model from; what they raise over a broken or strange one is one sentence."""
    from lorakit.models.claims import check_folder
    from lorakit.models.parts import quiet_libraries

    quiet_libraries()
    check_folder(folder)
    with faults_of_file(f"{option} {folder} is no whole {what}"), utf8_path(folder) as path:
        yield path
