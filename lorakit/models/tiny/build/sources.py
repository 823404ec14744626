"""The packages the pictures come from: name, version, digest, licence. Fetched from the npm registry over https."""

import hashlib
import io
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Package:
    """One npm package; `style` is the word captions use for its pictures, None for data that is not pictures."""

    name: str
    version: str
    sha256: str
    licence: str
    author: str
    style: str | None = None

    @property
    def url(self) -> str:
        return f"https://registry.npmjs.org/{self.name}/-/{self.name.rpartition('/')[2]}-{self.version}.tgz"


PACKAGES = (
    Package(
        name="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        licence="MIT",
        author="Microsoft, fluentui-emoji",
        style="flat",
    ),
    Package(
        name="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        licence="MIT",
        author="Microsoft, fluentui-emoji (packed by LobeHub)",
        style="3d",
    ),
    Package(
        name="@iconify-json/noto",
        version="1.2.9",
        sha256="3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        licence="Apache-2.0",
        author="Google, noto-emoji",
        style="noto",
    ),
    Package(
        name="@iconify-json/twemoji",
        version="1.2.5",
        sha256="19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        licence="CC-BY-4.0",
        author="Twitter and jdecked, twemoji",
        style="twemoji",
    ),
    Package(
        name="@iconify-json/openmoji",
        version="1.2.29",
        sha256="03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
        licence="CC-BY-SA-4.0",
        author="OpenMoji",
        style="openmoji",
    ),
    Package(
        name="@iconify-json/fluent-emoji-high-contrast",
        version="1.2.6",
        sha256="0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
        licence="MIT",
        author="Microsoft, fluentui-emoji",
        style="contrast",
    ),
    Package(
        name="emojibase-data",
        version="17.0.0",
        sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        licence="MIT",
        author="Miles Johnson; labels from Unicode CLDR",
    ),
)
BY_STYLE = {package.style: package for package in PACKAGES if package.style}
NAMES = next(package for package in PACKAGES if package.style is None)

TRAIN_STYLES = ("flat", "3d", "noto", "twemoji")
HELD_OUT_STYLES = ("openmoji", "contrast")  # drawn for tests, never trained on


def fetch(package: Package, folder: Path) -> Path:
    """Download and unpack `package` under `folder` unless it is there; gives the folder of its files.

    Raises ValueError where the bytes are not those that were pinned.
    """
    home = folder / f"{package.name.replace('/', '-').lstrip('@')}-{package.version}"
    if (home / "package" / "package.json").is_file():
        return home / "package"
    archive = home.with_suffix(home.suffix + ".tgz")
    if not archive.is_file():
        with urllib.request.urlopen(package.url, timeout=180) as answer:
            data = answer.read()
        archive.parent.mkdir(parents=True, exist_ok=True)
        archive.write_bytes(data)
    data = archive.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != package.sha256:
        raise ValueError(f"{archive} has sha256 {digest}, expected {package.sha256}; delete it and try again")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(home, filter="data")
    return home / "package"
