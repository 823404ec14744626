import hashlib
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from lorakit.data.dataset import Example
from lorakit.data.lint import Print, alike, lint, print_of
from tests.conftest import picture

SHARED = Path(__file__).parents[3] / "shared" / "data" / "dreambooth"


def _opened(file):
    image = Image.open(file)
    image.draft("RGB", (256, 256))
    return image


def example(file, caption="a sks dog", mask=None):
    return Example(file=file, captions=(caption,), mask=mask)


def test_everything_is_told_at_once_errors_first(tmp_path):
    for i in range(4):
        picture((128, 96), seed=i).save(tmp_path / f"{i}.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "0.png").read_bytes())
    picture((128, 96), seed=1).save(tmp_path / "again.jpg", quality=60)
    picture((20, 20), seed=9).save(tmp_path / "tiny.png")
    Image.new("RGB", (128, 128), "red").save(tmp_path / "red.png")
    (tmp_path / "text.png").write_text("no picture")
    Image.new("L", (10, 30)).save(tmp_path / "2.mask.png")
    found = lint(
        [
            example(tmp_path / "0.png"),
            example(tmp_path / "1.png", "a dog"),
            example(tmp_path / "2.png", mask=tmp_path / "2.mask.png"),
            example(tmp_path / "3.png", " "),
            example(tmp_path / "again.jpg"),
            example(tmp_path / "copy.png"),
            example(tmp_path / "red.png"),
            example(tmp_path / "text.png"),
            example(tmp_path / "tiny.png"),
        ],
        96,
        tokens=("sks", "<new>"),
    )
    lines = [str(finding) for finding in found.findings]
    assert lines == [
        "2 pictures not usable: 2.png (2.mask.png is 10x30, but the picture 128x96), text.png (not a picture that can be read)",
        "1 picture with an empty caption: 3.png",
        "no caption has <new>: 0.png, 1.png, 2.png, 3.png, again.jpg and 4 more",
        "2 captions without sks: 1.png, 3.png",
        "1 group of the same picture, which counts as often as it is there: 0.png = copy.png",
        "1 group of pictures that look the same: 1.png = again.jpg",
        "1 picture of fewer pixels than 96x96: tiny.png (20x20)",
        "1 picture of one colour: red.png",
    ]
    assert len(found.errors) == 3
    assert found.alike == ((0, 5), (1, 4)) and found.prints[7] is None


def test_a_picture_that_is_not_as_ppim_wrote_it_is_named(tmp_path):
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for file in files:
        picture().save(file)
    digest = hashlib.sha256(files[0].read_bytes()).hexdigest()
    picture(seed=1).save(files[1])
    found = lint([Example(file=file, captions=("x",), written=digest) for file in files], 64)
    assert [str(finding) for finding in found.findings if "ppim" in finding.text] == [
        "1 picture changed since ppim wrote it, which ppim leaves as it is: b.png"
    ]


def test_a_jpeg_is_looked_at_reduced_upright_and_to_its_end(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture((640, 480)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    picture((640, 480)).rotate(-90, expand=True).save(tmp_path / "b.png")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    found = lint([example(tmp_path / name) for name in ("a.jpg", "b.png", "cut.jpg")], 64)
    assert [one and one.size for one in found.prints] == [(480, 640), (480, 640), None]
    assert found.alike == ((0, 1),) and "cut.jpg (damaged" in str(found.errors[0])


def test_a_good_set_has_no_findings(tmp_path):
    for i in range(3):
        picture((128, 128), seed=i).save(tmp_path / f"{i}.png")
    assert lint([example(tmp_path / f"{i}.png") for i in range(3)], 64, tokens=("sks",)).findings == ()


def test_plain_pictures_have_equal_hashes_without_being_alike():
    black, white = (print_of(Image.new("RGB", (64, 64), c), c) for c in ("black", "white"))
    assert black.bits == white.bits and alike([black, white]) == []


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the photographs beside the checkout")
def test_photographs_of_one_subject_are_not_alike_but_their_copies_are():
    files = sorted(SHARED.glob("*/*.jpg"))
    images = [_opened(file).convert("RGB").resize((128, 128)) for file in files]
    prints = [print_of(image, str(i)) for i, image in enumerate(images)]
    assert alike(prints) == []
    for change in (
        lambda x: x.resize((100, 80)),
        lambda x: ImageEnhance.Brightness(x).enhance(1.03),
        lambda x: x.crop((1, 1, 127, 127)),
    ):
        changed = [print_of(change(image), "") for image in images]
        found = sum(bool(alike([a, b])) for a, b in zip(prints, changed, strict=True))
        assert found >= len(images) - 1


def test_5000_pictures_are_compared_in_little_time():
    draw = np.random.default_rng(0)
    bits = draw.integers(0, 2**63, 5000, dtype=np.uint64)
    small = draw.integers(0, 256, (5000, 8, 8, 3), dtype=np.uint8)
    prints = [Print("", (1, 1), int(b), s) for b, s in zip(bits, small, strict=True)]
    prints[4000] = prints[7]
    started = time.thread_time()
    assert alike(prints) == [(7, 4000)]
    assert time.thread_time() - started < 3  # on a loaded machine; 0.3 by itself
