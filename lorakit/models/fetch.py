"""Models that help with pictures (captioners, masks, enlargers): a folder, or a hub repository's safetensors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorakit.errors import InputError, UnavailableError
from lorakit.io.files import check_plain, utf8_path

_WANTED = ["*.json", "*.txt", "*.csv", "*.safetensors"]
_REFUSED = ["*.fp16.*", "onnx/*", "openvino/*"]


def folder_of(name: str, option: str) -> Path:
    """The folder of a model by name. UnavailableError, with the command that fetches it, where it is not to be had."""
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"{option} {name} is not a model folder: it has no config.json")
        return check_plain(path, f"model of {option}")
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"{option} {name}: no such model folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        try:
            found = snapshot_download(name, allow_patterns=_WANTED, ignore_patterns=_REFUSED, local_files_only=True)
        except OSError:  # not in the cache
            found = snapshot_download(name, allow_patterns=_WANTED, ignore_patterns=_REFUSED)
    except Exception as error:  # the hub's client raises a dozen kinds, all meaning this
        raise UnavailableError(
            f"{option}: the model '{name}' is not to be had: {type(error).__name__}\n"
            f"fetch it where there is a network: hf download {name}\nor name a folder that holds it: {option} FOLDER"
        ) from error
    folder = Path(found)
    if not any(folder.rglob("*.safetensors")):
        raise UnavailableError(f"{option}: the repository '{name}' has no safetensors weights (pickles are not read)")
    return folder


@contextmanager
def whole(folder: Path, option: str, what: str) -> Iterator[Path]:
    """Gives the path for libraries to read the model from; what they raise over a broken or strange one is one sentence."""
    from lorakit.models.claims import check_folder
    from lorakit.models.load import quiet_libraries

    quiet_libraries()
    check_folder(folder)
    try:
        with utf8_path(folder) as path:
            yield path
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, IndexError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{option} {folder} is no whole {what}: {first}") from error
