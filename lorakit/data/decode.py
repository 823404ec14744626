"""The bytes of a picture file to an upright RGB picture; JPEGs no larger than is needed."""

import functools
import importlib
import io
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from PIL import AvifImagePlugin, Image, ImageOps, UnidentifiedImageError, features

from lorakit.data.colours import WHITE, eight_bits, flat, to_srgb

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", *(("AVIF",) if features.check("avif") else ()))
MOST_PIXELS = 89_478_485  # what Pillow holds for the line between a picture and a bomb
Image.MAX_IMAGE_PIXELS = None  # checked here, as an error and not a warning
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each process has one core

# A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size by leaving out high frequencies of each 8x8 block, which is a
# good low-pass filter but not Lanczos'. So it must stay so many times larger than what is drawn from it: on 41
# photographs these keep 45 dB or more against full decoding (tests/benchmarks/ppim.py).
_SPARE = {2: 1.8, 4: 2.2, 8: 2.2}
HEIC_SUFFIXES = (".heic", ".heif", ".hif")
_KINDS = (
    (b"<!doctype html", "a web page, not a picture (a failed download?)"),
    (b"<html", "a web page, not a picture (a failed download?)"),
    (b"<svg", "SVG is not read; export it as PNG"),
    (b"<?xml", "XML or SVG, not a picture of pixels; export it as PNG"),
    (b"version https://git-lfs", "a Git LFS pointer, not the picture; run git lfs pull"),
    (b"%!ps", "PostScript is not read; export it as PNG"),
    (b"%pdf", "PDF is not read; export it as PNG"),
    (b"8bps", "a Photoshop file; export it as PNG"),
    (b"\xff\x0a", "JPEG XL is not read; convert it to PNG or JPEG"),
)


ScaleOf = Callable[[tuple[int, int]], float]


class BadPicture(Exception):
    """Why a picture cannot be used, in a few words."""


class Unread(BadPicture):
    """A picture of a format that this installation does not read: another day it may."""


@dataclass(frozen=True)
class Decoded:
    """An upright RGB picture, the size it has in full (width, height), its format, and what is worth a remark."""

    image: Image.Image
    size: tuple[int, int]
    format: str
    notes: list[str] = field(default_factory=list)


def reduction(scale: float) -> int:
    """How many times smaller (1, 2, 4, 8) a JPEG may be decoded, of which `scale` pixels make one drawn pixel."""
    return max((k for k, spare in _SPARE.items() if scale / k >= spare), default=1)


@functools.cache
def reads_heic() -> bool:
    """Is a decoder of HEIC installed? It is told to Pillow when the first such file comes."""
    for name in ("pi_heif", "pillow_heif"):
        try:
            heif = importlib.import_module(name)
        except ImportError:
            continue
        heif.register_heif_opener(thumbnails=False, decode_threads=1)
        return True
    return False


def _unread(data: bytes) -> str:
    """The format in words and what to do, where it is one that this installation lacks the decoder of; else ""."""
    if data[4:8] != b"ftyp":
        return ""
    if data[8:11] == b"avi":
        return "" if "AVIF" in FORMATS else "AVIF is not read by this Pillow; install its own wheel, or convert to PNG"
    heic = data[8:10] in (b"he", b"mi", b"ms") and not reads_heic()
    return "HEIC needs a decoder: pip install 'lorakit[heic]', or convert it to PNG or JPEG" if heic else ""


def what_is(data: bytes) -> str:
    """What the bytes seem to be, of things often met that are no pictures or none that are read."""
    start = data[:512].lstrip().lower()
    for mark, kind in _KINDS:
        if start.startswith(mark):
            return kind
    if data[4:8] == b"ftyp":
        brand = data[8:12].decode("latin-1")
        name = "AVIF" if brand.startswith("avi") else "HEIC" if brand[:2] in ("he", "mi", "ms") else ""
        return f"damaged: no whole {name} picture" if name else "a video, not a picture"
    if not data.strip(b"\0"):
        return "nothing but zero bytes"
    return "not a picture that can be read"


def _upright(opened: Image.Image, orientation: int, notes: list[str]) -> Image.Image:
    if orientation in (0, 1):
        return opened
    if not 2 <= orientation <= 8:
        notes.append(f"its orientation tag is {orientation}, which means nothing, and was not applied")
        return opened
    return ImageOps.exif_transpose(opened)


def _orientation(opened: Image.Image) -> int:
    try:
        return int(opened.getexif().get(0x0112, 1))
    except (ValueError, TypeError, SyntaxError, KeyError, OSError, OverflowError):
        return 1


def check_png(data: bytes) -> None:
    """Every chunk against its checksum, which Pillow does not do for the pixels; BadPicture names the chunk."""
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(data):
            return  # cut off: the decoder says so
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise BadPicture(f"damaged: the checksum of its {data[at + 4 : at + 8].decode('latin-1')!r} part is wrong")
        if data[at + 4 : at + 8] == b"IEND":
            return
        at = end + 4


def _check_size(decoded: tuple[int, int], full: tuple[int, int], most_pixels: int) -> None:
    """Before anything of that size is allocated."""
    if decoded[0] * decoded[1] > most_pixels:
        raise BadPicture(
            f"{full[0]}x{full[1]} has more pixels than --max-pixels {most_pixels}; raise it if this is no bomb"
        )


class _Opened(NamedTuple):
    image: Image.Image
    size: tuple[int, int]
    format: str
    profile: bytes | None


def _open(
    opened: Image.Image, scale_of: ScaleOf | None, most_pixels: int, first_frame: bool, notes: list[str]
) -> _Opened:
    kind = "JPEG" if opened.format == "MPO" else str(opened.format)
    if kind != "JPEG":
        _check_size(opened.size, opened.size, most_pixels)
    frames = getattr(opened, "n_frames", 1)
    if frames > 1 and kind in ("GIF", "WEBP", "PNG", "AVIF") and not first_frame:
        raise BadPicture(f"animated, {frames} frames; --first-frame takes the first")
    orientation = _orientation(opened)
    full = opened.size[::-1] if 5 <= orientation <= 8 else opened.size
    if kind == "JPEG" and scale_of is not None and (k := reduction(scale_of(full))) > 1:
        opened.draft(None, (-(-opened.width // k), -(-opened.height // k)))
    _check_size(opened.size, full, most_pixels)
    if frames > 1 and kind in ("TIFF", "HEIF"):
        notes.append(f"the first of {frames} pages" if kind == "TIFF" else f"the main one of {frames} pictures")
    opened.load()
    return _Opened(_upright(opened, orientation, notes), full, kind, opened.info.get("icc_profile"))


@contextmanager
def _faults_of(data: bytes) -> Iterator[None]:
    """Raise as BadPicture, with the reason, whatever a decoder raises over the picture in `data`."""
    try:
        yield
    except BadPicture:
        raise
    except UnidentifiedImageError as error:
        raise BadPicture(what_is(data)) from error
    except MemoryError as error:
        raise BadPicture("needs more memory than one picture may take") from error
    except Exception as error:  # fuzzed files make decoders raise a dozen kinds; each is the file's fault
        raise BadPicture(f"damaged: {str(error) or type(error).__name__}") from error


def as_stored(data: bytes, formats: tuple[str, ...], most_pixels: int = MOST_PIXELS) -> Image.Image:
    """The picture in `data`, loaded whole and otherwise as it is stored. BadPicture as `decode`."""
    with _faults_of(data), Image.open(io.BytesIO(data), formats=formats) as file:
        if file.width * file.height > most_pixels:
            raise BadPicture(f"{file.width}x{file.height} has more than {most_pixels:,} pixels")
        file.load()
        return file


def decode(
    data: bytes,
    *,
    scale_of: ScaleOf | None = None,
    background: tuple[int, int, int] = WHITE,
    most_pixels: int = MOST_PIXELS,
    first_frame: bool = False,
) -> Decoded:
    """The picture in `data`, of an allow-list of formats.

    scale_of   given the full upright size, how many of its pixels make one drawn pixel: leave to decode smaller
    raises     BadPicture, with the reason, for anything that cannot be read whole; Unread for want of a decoder
    """
    if not data:
        raise BadPicture("empty file")
    if lacking := _unread(data):
        raise Unread(lacking)
    notes: list[str] = []
    if data.startswith(b"\x89PNG"):
        check_png(data)
    with _faults_of(data):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            formats = (*FORMATS, "HEIF") if data[4:8] == b"ftyp" and reads_heic() else FORMATS
            with Image.open(io.BytesIO(data), formats=formats) as file:
                opened = _open(file, scale_of, most_pixels, first_frame, notes)
        image = flat(eight_bits(opened.image, notes.append), background, notes.append)
        image = to_srgb(image, opened.profile, notes.append)
        image.info.clear()  # place, camera and owner are nobody's business, and Pillow would write some of it again
        return Decoded(image, opened.size, opened.format, notes)
