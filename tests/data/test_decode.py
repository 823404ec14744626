"""Right pixels: every row is a picture whose right colours are known."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from lorakit.data import decode as decoding
from lorakit.data.decode import BadPicture, Unread, decode, reduction
from lorakit.data.images import Crop, cut

PHOTOS = Path(__file__).parents[2].parent / "shared" / "data" / "dreambooth"


def encoded(image: Image.Image, kind: str, **settings) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **settings)
    return data.getvalue()


def colour(data: bytes, at=(2, 2), **settings) -> tuple[int, ...]:
    return decode(data, **settings).image.getpixel(at)


def psnr(a: Image.Image, b: Image.Image) -> float:
    return float(-10 * np.log10(np.square(np.asarray(a, float) - np.asarray(b, float)).mean() / 255**2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_come_out_upright_at_full_and_at_reduced_size(orientation):
    upright = Image.new("RGB", (640, 320), "white")
    upright.paste("red", (0, 0, 320, 160))  # the upper left quarter
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(upright if undo is None else upright.transpose(undo), "JPEG", exif=exif, quality=95)
    for scale in (1, 8):
        found = decode(data, scale_of=lambda size, scale=scale: scale)
        assert found.size == (640, 320) and found.image.width / found.image.height == 2
        small = found.image.resize((64, 32))
        assert small.getpixel((8, 4))[1] < 40 and min(small.getpixel((50, 20))) > 230
        assert found.image.info == {}


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.fromarray(np.full((8, 8), 20000, np.uint16)), "PNG", (78, 78, 78)),
        (Image.fromarray(np.full((8, 8), 0.25, np.float32)), "TIFF", (64, 64, 64)),
        (Image.fromarray(np.full((8, 8), 200.0, np.float32)), "TIFF", (200, 200, 200)),
        (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "PNG", (255, 255, 255)),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "PNG", (127, 127, 127)),
        (Image.new("LA", (8, 8), (0, 0)), "PNG", (255, 255, 255)),
        (Image.new("1", (8, 8), 1), "PNG", (255, 255, 255)),
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF", (255, 0, 0)),
        (Image.new("P", (8, 8), 0), "PNG", (0, 0, 0)),
    ],
)
def test_every_mode_has_its_right_colour(image, kind, expected):
    assert colour(encoded(image, kind)) == pytest.approx(expected, abs=1)


def _quarters(data: bytes) -> list[str]:
    """Where a white picture of 64x32 with a red upper left quarter has it: the corners' colours, row by row."""
    found = decode(data)
    width, height = found.size
    assert found.image.size == found.size and found.image.info == {}
    corners = [(8, 8), (width - 8, 8), (8, height - 8), (width - 8, height - 8)]
    return ["red" if found.image.getpixel(at)[1] < 60 else "white" for at in corners]


@pytest.mark.skipif("AVIF" not in decoding.FORMATS, reason="this Pillow is built without AVIF")
def test_avif_is_read_upright_and_its_animations_are_refused():
    picture = Image.new("RGB", (64, 32), "white")
    picture.paste("red", (0, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture, "AVIF", exif=exif, quality=90)
    assert _quarters(data) == ["white", "red", "white", "white"]  # turned right: what was left is above
    moving = encoded(picture, "AVIF", save_all=True, append_images=[Image.new("RGB", (64, 32), "blue")])
    with pytest.raises(BadPicture, match="animated, 2 frames"):
        decode(moving)
    with pytest.raises(BadPicture, match="damaged"):
        decode(data[:-40])


@pytest.mark.skipif(not decoding.reads_heic(), reason="no decoder of HEIC is installed")
def test_heic_is_read_upright():
    data = (Path(__file__).parent / "turned.heic").read_bytes()
    assert _quarters(data) == ["white", "red", "white", "white"]
    with pytest.raises(BadPicture, match="damaged"):
        decode(data[:-40])
    with pytest.raises(BadPicture, match="max-pixels"):
        decode(data, most_pixels=64 * 32 - 1)


def test_without_its_decoder_heic_says_what_to_install(monkeypatch):
    monkeypatch.setattr(decoding, "reads_heic", lambda: False)
    with pytest.raises(Unread, match=r"pip install 'lorakit\[heic\]'"):
        decode((Path(__file__).parent / "turned.heic").read_bytes())


def test_hidden_colours_stay_hidden_and_the_ground_can_be_chosen():
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 250, 10, 10])
    data = encoded(palette, "PNG", transparency=1)
    assert colour(data) == (255, 255, 255)
    assert colour(data, background=(0, 0, 255)) == (0, 0, 255)


def test_a_wide_gamut_profile_is_applied_and_a_broken_one_said():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    data = encoded(Image.new("RGB", (8, 8), (0, 255, 0)), "PNG", icc_profile=lab.tobytes())
    found = decode(data)  # a profile of another colour space cannot be applied to RGB
    assert found.image.getpixel((0, 0)) == (0, 255, 0) and "profile" in found.notes[0]


def test_a_jpeg_is_decoded_smaller_only_where_enough_is_left():
    assert [reduction(s) for s in (1, 3.5, 3.6, 8.7, 8.8, 17.5, 17.6, 100)] == [1, 1, 2, 2, 4, 4, 8, 8]


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the photographs are not part of the project")
@pytest.mark.parametrize(
    "subject", ["fancy_boot/00.jpg", "fancy_boot/03.jpg", "duck_toy/00.jpg", "rc_car/04.jpg", "cat2/00.jpg"]
)
def test_reduced_decoding_keeps_45_db_against_full_decoding_and_lanczos(subject):
    data = (PHOTOS / subject).read_bytes()
    whole = decode(data)
    for target in (120, 220, 320, 512, 600):
        how = Crop(box=(0, 0, *whole.size), size=(target, target))
        small = decode(data, scale_of=lambda size, target=target: size[0] / target)
        assert small.size == whole.size
        if small.image.size != whole.size:
            assert psnr(cut(whole.image, how), cut(small.image, how, source=small.size)) >= 45
