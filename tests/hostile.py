"""Pictures that do harm to programs that trust them: `python -m tests.hostile FOLDER` writes the corpus."""

import io
import os
import random
import socket
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

MODULE = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
# It goes back for ever over a module's name, in `re` and in matchers that guard against repeats inside repeats.
NEVER = r"^(?P<a>.*)(?P<b>.*)(?P<c>.*)(?P<d>.*)(?P<e>.*)(?P<f>.*)(?P=a)(?P=b)(?P=c)(?P=d)(?P=e)(?P=f)\d$"


def picture(size: tuple[int, int] = (96, 80), seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def encoded(kind: str, seed: int = 0, **settings: object) -> bytes:
    data = io.BytesIO()
    picture(seed=seed).save(data, kind, **settings)
    return data.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes, extra: bytes = b"", depth: int = 8, colour: int = 0) -> bytes:
    """A PNG whose header says one thing and whose data may say another."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """`count` zero bytes, compressed without ever being held whole."""
    packer, parts = zlib.compressobj(9), []
    block = bytes(1 << 20)
    for _ in range(count >> 20):
        parts.append(packer.compress(block))
    return b"".join([*parts, packer.compress(bytes(count & 0xFFFFF)), packer.flush()])


def _animation(kind: str) -> bytes:
    data = io.BytesIO()
    picture().save(data, kind, save_all=True, append_images=[picture(seed=1), picture(seed=2)], duration=100)
    return data.getvalue()


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Name: (bytes, a part of the reason that must be given)."""
    whole, jpeg = encoded("PNG"), encoded("JPEG")
    bomb = _chunk(b"zTXt", b"Comment\0\0" + zeros(50_000_000))
    damaged = bytearray(whole)
    damaged[60] ^= 0xFF  # in the compressed data: the checksum no longer fits
    return {
        "empty.png": (b"", "empty"),
        "zeros.jpg": (bytes(4096), "zero bytes"),
        "text.png": (b"this is no picture at all", "not a picture"),
        "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        "drawing.png": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "LFS"),
        "script.png": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/owned) (w) file closefile\n",
            "PostScript",
        ),
        "phone.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        "cut.png": (whole[: len(whole) // 2], "damaged"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "damaged"),
        "checksum.png": (bytes(damaged), "damaged"),
        "bomb.png": (png(60000, 60000, zeros(1 << 22)), "max-pixels"),
        "small-bomb.png": (png(10000, 10000, zeros(1 << 20)), "max-pixels"),
        "huge-header.png": (png(2**31 - 1, 2**31 - 1, zeros(99)), "max-pixels"),
        "no-size.png": (png(0, 0, zeros(9)), ""),
        "lying.png": (png(5000, 5000, zeros(100)), "damaged"),
        "text-bomb.png": (png(64, 64, zeros(65 * 64), bomb), "damaged"),
        "moving.gif": (_animation("GIF"), "animated"),
        "moving.webp": (_animation("WEBP"), "animated"),
        "moving.png": (_animation("PNG"), "animated"),
        "dot.png": (_one_by_one(), "enlarged"),
        "line.png": (png(20000, 1, zlib.compress(bytes(20001))), "enlarged"),
        "from-phone.heic": (b"\0\0\0\x18ftypheic", "HEIC"),
        "layers.psd": (b"8BPS\0\1", "Photoshop"),
    }


def _one_by_one() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (1, 1)).save(data, "PNG")
    return data.getvalue()


def good_files() -> dict[str, bytes]:
    """Strange, and to be taken all the same: each shows another picture."""
    exif = Image.Exif()
    exif[0x0112] = 99
    return {
        "-rf.png": encoded("PNG", 10),
        "a\nb.png": encoded("PNG", 11),
        "\x1b[31mred.png": encoded("PNG", 12),
        "quo\"te's`$(id).jpg": encoded("JPEG", 13),
        "trailing .png": encoded("PNG", 14),
        "twin.PNG": encoded("PNG", 15),
        "TWIN.png": encoded("PNG", 16),
        "caf\u00e9.png": encoded("PNG", 17),
        "cafe\u0301.png": encoded("PNG", 18),
        "[red]markup.webp": encoded("WEBP", 19),
        "really-a-jpeg.png": encoded("JPEG", 21),
        "orientation.jpg": encoded("JPEG", 22, exif=exif),
        "broken-profile.png": encoded("PNG", 23, icc_profile=b"no profile"),
        "x" * 200 + ".png": encoded("PNG", 24),
        "<script>alert(1)<.png": encoded("PNG", 25),
    }


def fuzzed(count: int, seed: int = 0) -> dict[str, bytes]:
    """Real files with a few bytes changed, cut or doubled; some stay readable."""
    draw = random.Random(seed)
    kinds = [encoded(kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")]
    files = {}
    for number in range(count):
        data = bytearray(draw.choice(kinds))
        for _ in range(draw.randint(1, 8)):
            at = draw.randrange(len(data))
            if draw.random() < 0.7:
                data[at] = draw.randrange(256)
            elif draw.random() < 0.5:
                del data[at : at + draw.randint(1, 40)]
            else:
                data[at:at] = data[at : at + draw.randint(1, 40)]
        files[f"fuzz-{number:03d}.png"] = bytes(data)
    return files


def places(folder: Path) -> dict[str, str]:
    """Things that are no files but are named like pictures; a part of the reason that must be given."""
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(os.path.relpath(folder / "socket.png"))
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "nowhere.png").symlink_to("gone.png")
    (folder / "folder.png").mkdir()
    (folder / "again").symlink_to(".")
    (folder / "device.png").symlink_to("/dev/zero")
    return {
        "pipe.png": "pipe",
        "socket.png": "socket",
        "loop.png": "link",
        "nowhere.png": "link",
        "folder.png": "folder",
        "device.png": "device",
    }


def make(folder: Path) -> dict[str, str]:
    """Write the whole corpus; gives the reasons of what cannot be used."""
    folder.mkdir(parents=True)
    (folder / "subject.mask.png").write_bytes(encoded("PNG", 20))  # of no picture: it is named and left out
    for name, data in good_files().items():
        (folder / name).write_bytes(data)
    reasons = {}
    for name, (data, reason) in bad_files().items():
        (folder / name).write_bytes(data)
        reasons[name] = reason
    not_utf8 = os.fsencode(folder) + b"/latin-\xe9.png"
    with open(not_utf8, "wb") as out:
        out.write(encoded("PNG", 26))
    return reasons | places(folder)


if __name__ == "__main__":
    print(*make(Path(sys.argv[1])).items(), sep="\n")
