import numpy as np
import pytest
from PIL import Image

from lorakit.errors import UsageError
from lorakit.masks import MaskSettings
from lorakit.registry import MASKS
from tests.support import small_models


@pytest.fixture(scope="module", autouse=True)
def quick():
    with small_models.one_thread():
        yield


@pytest.fixture(scope="module")
def subject() -> Image.Image:
    picture = Image.fromarray(np.random.default_rng(0).integers(100, 130, (96, 128, 3), dtype=np.uint8))
    picture.paste((220, 40, 40), (48, 24, 88, 72))
    return picture


@pytest.mark.parametrize("name", MASKS.names())
def test_a_mask_has_its_picture_s_size_and_repeats(name, subject):
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "CascadeClassifier"):
        pytest.skip("this OpenCV has no face cascades")
    make = MASKS[name].load(MaskSettings())
    pictures = [subject, subject.resize((40, 60))]
    masks = make(pictures)
    assert [(m.mode, m.size) for m in masks] == [("L", (128, 96)), ("L", (40, 60))]
    assert [m.tobytes() for m in masks] == [m.tobytes() for m in make(pictures)]


def test_grabcut_finds_the_subject(subject):
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "data"):
        pytest.skip("this OpenCV has no face cascades")
    mask = np.asarray(MASKS["subject"].load(MaskSettings())([subject])[0]) > 127
    truth = np.zeros_like(mask)
    truth[24:72, 48:88] = True
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9


def test_clipseg_masks_by_words(subject, tmp_path):
    model = str(small_models.clipseg(tmp_path / "clipseg"))
    how = MaskSettings("a red box", model, "cpu")
    make = MASKS["subject"].load(how)
    (mask,) = make([subject])
    assert mask.size == subject.size and mask.getextrema()[1] == 255
    assert MASKS["subject"].identity(how) != MASKS["subject"].identity(MaskSettings("a cat", model))
    with pytest.raises(UsageError, match="--mask-prompt"):
        MASKS["subject"].load(MaskSettings("", model))


def test_swin2sr_enlarges_until_it_is_large_enough(subject, tmp_path):
    from lorakit.models.upscale import load

    grow = load(str(small_models.swin2sr(tmp_path / "swin")), "cpu", "auto")
    small = subject.resize((10, 14))
    assert grow(small, (30, 42)).size == (30, 42)
    assert grow(small, (30, 42)).tobytes() == grow(small, (30, 42)).tobytes()
