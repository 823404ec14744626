"""Pictures that move."""

import importlib.util
import io
import sys

import numpy as np
import pytest
from PIL import Image

from lorakit.errors import UsageError
from lorakit.reports import moving

RED, BLUE = np.full((8, 8, 3), (255, 0, 0), np.uint8), np.full((8, 8, 3), (0, 0, 255), np.uint8)
LABELS = ["1", "a longer label of two lines", "3"]


@pytest.mark.parametrize("kind", ["gif", "webp"])
@pytest.mark.parametrize(("back", "frames"), [(True, 4), (False, 3)])
def test_moving_pictures_go_forth_and_back(kind, back, frames):
    data = moving.film([RED, BLUE, RED], LABELS, kind, 100, back)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == frames and image.info.get("loop") == 0
    assert data == moving.film([RED, BLUE, RED], LABELS, kind, 100, back)


@pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="needs lorakit[mp4]")
def test_a_film_shows_each_picture_for_its_time_and_has_the_same_bytes():
    import av

    data = moving.film([RED, BLUE, RED], LABELS, "mp4", 400)
    assert data == moving.film([RED, BLUE, RED], LABELS, "mp4", 400)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert stream.codec.name == "h264" and stream.pix_fmt == "yuv420p"
        assert float(stream.duration * stream.time_base) == pytest.approx(4 * 0.4)
        middles = [frame.to_ndarray(format="rgb24")[-80, 80] for frame in container.decode(stream)]
    assert [abs(middle.astype(int) - RED[0, 0]).max() < 8 for middle in middles] == [True, False, True, False]


def test_a_film_without_its_package_is_an_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    moving.check(["gif", "webp"])
    with pytest.raises(UsageError, match=r"--mp4 needs av: pip install 'lorakit\[mp4\]'"):
        moving.check(["mp4"])
