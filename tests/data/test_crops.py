import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lorakit.data.crops import PictureView
from lorakit.data.decode import Decoded
from lorakit.data.images import centre, cut
from lorakit.data.prepare import PrepareSettings, draw, target, varied
from lorakit.registry import AUGMENTS, CROPS

sides = st.integers(8, 400)


@pytest.mark.parametrize("name", [name for name in CROPS.names() if name != "face"])
@settings(max_examples=25, deadline=None)
@given(sides, sides, st.sampled_from([(32, 32), (48, 32), (32, 64)]))
def test_every_crop_lies_in_the_picture_and_has_the_right_shape(name, width, height, size):
    size = size if name != "bucket" else (size[0], size[0])
    wanted = PrepareSettings(size=size, multiple=16, crop=name)
    noise = np.random.default_rng(width * 512 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    view = PictureView(Image.fromarray(noise), (width, height), target((width, height), wanted), "00")
    placed = CROPS[name].place(view)
    left, top, right, bottom = placed.cut.box
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert placed == CROPS[name].place(view)
    drawn = cut(view.image, placed.cut)
    assert drawn.size == view.target
    if not placed.cut.pad:  # the whole of one side is kept
        assert right - left == width or bottom - top == height


def test_smart_keeps_the_subject_and_says_how_much():
    picture = Image.new("RGB", (400, 200), (90, 140, 90))
    picture.paste((220, 30, 40), (300, 60, 370, 130))
    placed = CROPS["smart"].place(PictureView(picture, picture.size, (64, 64), ""))
    assert placed.cut.box[0] <= 300 and placed.cut.box[2] >= 370
    assert placed.figures["salience_kept"] > 0.9 > 0.5 > placed.figures["salience_of_middle"]


def test_buckets_keep_the_shape():
    for source in ((300, 200), (200, 300), (256, 256)):
        width, height = target(source, PrepareSettings(size=(64, 64), multiple=16, crop="bucket"))
        assert width % 16 == height % 16 == 0
        assert abs(np.log(width / height * source[1] / source[0])) < 0.12


@pytest.mark.parametrize("name", AUGMENTS.names())
def test_an_augmentation_is_told_by_its_parameters(name):
    part = AUGMENTS[name]
    for seed in range(20):
        parameters = part.draw(random.Random(seed))
        assert parameters == part.draw(random.Random(seed))
        assert all(isinstance(value, int | float) for value in parameters.values())
        if hasattr(part, "cut"):
            old = centre((640, 480), (64, 64))
            new = part.cut(old, parameters)
            assert new.size == old.size
            assert new.box[0] >= old.box[0] and new.box[2] <= old.box[2] and new.box[1] >= old.box[1]
        else:
            assert part.pixels(Image.new("RGB", (8, 8), (90, 20, 30)), parameters).size == (8, 8)


def test_a_turned_part_shows_no_corner_that_is_not_of_the_picture():
    white = Decoded(Image.new("RGB", (300, 240), "white"), (300, 240), "PNG")
    wanted = PrepareSettings(size=(32, 32), multiple=8, augments=("flip", "rotate", "zoom"), copies=30)
    for copy in range(30):
        how, done, _ = varied(centre((300, 240), (32, 32)), wanted, "seed", copy)
        assert np.asarray(draw(white, how, done, (255, 255, 255))).min() == 255
    assert varied(centre((300, 240), (32, 32)), wanted, "seed", 0)[1] == []


def test_no_copy_is_enlarged_unasked():
    how, done, notes = varied(
        centre((32, 32), (32, 32)), PrepareSettings(size=(32, 32), multiple=8, augments=("zoom",)), "s", 0
    )
    assert how == centre((32, 32), (32, 32)) and done == [] and "zoom left out" in notes[0]


FACES = Path(__file__).parent / "face.jpg"  # Eileen Collins, NASA, 1998: in the public domain


@pytest.fixture
def cascades():
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "CascadeClassifier"):
        pytest.skip("this OpenCV has no face cascades")


def test_face_keeps_the_face_where_the_middle_does_not(cascades):
    from lorakit.data.faces import find_faces

    picture = Image.new("RGB", (700, 260), (120, 130, 140))
    picture.paste(Image.open(FACES).convert("RGB"), (440, 0))
    (face,) = find_faces(picture)
    placed = CROPS["face"].place(PictureView(picture, picture.size, (64, 64), ""))
    assert placed.why == "face found"
    left, _, right, _ = (share * 700 for share in face.box)
    assert placed.cut.box[0] < left < right < placed.cut.box[2]
    assert abs((placed.cut.box[0] + placed.cut.box[2]) / 2 - (left + right) / 2) < 2


def test_without_a_face_it_is_as_smart_and_says_so(cascades):
    picture = Image.new("RGB", (200, 100), (90, 140, 90))
    picture.paste((220, 30, 40), (150, 30, 185, 65))
    view = PictureView(picture, picture.size, (64, 64), "")
    face, smart = CROPS["face"].place(view), CROPS["smart"].place(view)
    assert face.cut == smart.cut and face.why.startswith("no face found")
