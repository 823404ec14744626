import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lorakit.data import masks
from lorakit.data.images import BadPicture, Crop, centre


def grey(rows):
    return Image.fromarray(np.array(rows, np.uint8))


def test_a_latent_pixel_counts_its_share_of_the_mask_and_the_mean_is_one():
    mask = grey([[255, 255, 0, 0], [255, 0, 0, 0]])
    weights = masks.loss_weights(mask, Crop(box=(0, 0, 4, 2), size=(4, 2)), (2, 1))
    assert weights.tolist() == [[[2.0, 0.0]]]  # 3/4 and 0, of mean 3/8
    weights = masks.loss_weights(mask, Crop(box=(0, 0, 4, 2), size=(4, 2)), (2, 1), unmasked=0.5)
    assert weights[0, 0].tolist() == pytest.approx([0.875 / 0.6875, 0.5 / 0.6875])


def test_a_mask_of_ones_is_no_mask_and_one_of_zeros_is_refused():
    how = Crop(box=(0, 0, 8, 8), size=(8, 8))
    assert masks.loss_weights(Image.new("L", (8, 8), 255), how, (4, 4)) is None
    assert masks.loss_weights(Image.new("L", (8, 8), 0), how, (4, 4), unmasked=0.1) is None
    assert masks.loss_weights(grey([[0, 255]]), Crop(box=(0, 0, 2, 1), size=(2, 1)), (2, 1), unmasked=1.0) is None
    with pytest.raises(BadPicture, match="nothing to learn"):
        masks.loss_weights(Image.new("L", (8, 8), 0), how, (4, 4))
    with pytest.raises(ValueError, match="0 to 1"):
        masks.loss_weights(Image.new("L", (8, 8), 255), how, (4, 4), unmasked=2)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.floats(0, 0.9), st.booleans())
def test_the_mean_is_one_whatever_the_mask_and_the_cut(seed, unmasked, pad):
    values = np.random.default_rng(seed).integers(0, 256, (40, 56), np.uint8)
    how = Crop(box=(0, 0, 56, 40), size=(64, 64), pad=True) if pad else centre((56, 40), (64, 64))
    weights = masks.loss_weights(Image.fromarray(values), how, (8, 8), unmasked)
    assert weights.shape == (1, 8, 8) and weights.dtype == torch.float32
    assert float(weights.mean()) == pytest.approx(1, abs=1e-5) and float(weights.min()) >= 0


def test_padding_is_not_learnt():
    weights = masks.loss_weights(Image.new("L", (8, 4), 255), Crop(box=(0, 0, 8, 4), size=(8, 8), pad=True), (4, 4))
    assert weights[0].tolist() == [[0.0] * 4, [2.0] * 4, [2.0] * 4, [0.0] * 4]


def test_the_mask_is_cut_like_its_picture():
    mask = grey([[0, 255, 0, 0, 255, 0]])
    weights = masks.loss_weights(mask, Crop(box=(1, 0, 3, 1), size=(2, 1)), (2, 1))
    assert weights.tolist() == [[[2.0, 0.0]]]


def test_a_mask_of_another_shape_is_refused_and_a_smaller_one_of_the_same_grows(tmp_path):
    Image.new("L", (32, 16), 200).save(tmp_path / "a.mask.png")
    assert masks.of_file(tmp_path / "a.mask.png", (64, 32)).size == (64, 32)
    with pytest.raises(BadPicture, match="is 32x16, but the picture 64x64"):
        masks.of_file(tmp_path / "a.mask.png", (64, 64))
    (tmp_path / "b.mask.png").write_text("no picture")
    with pytest.raises(BadPicture, match=r"b\.mask\.png"):
        masks.of_file(tmp_path / "b.mask.png", (64, 64))


def test_alpha_is_a_mask_where_something_is_transparent(tmp_path):
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 255))
    image.save(tmp_path / "whole.png")
    image.putpixel((1, 2), (0, 0, 0, 40))
    image.save(tmp_path / "hole.png")
    image.convert("RGB").save(tmp_path / "plain.png")
    assert masks.of_alpha(tmp_path / "whole.png") is masks.of_alpha(tmp_path / "plain.png") is None
    assert masks.of_alpha(tmp_path / "hole.png").getpixel((1, 2)) == 40


def test_drawn_masks_depend_on_the_generator_alone_and_vary():
    drawn = [masks.draw((64, 48), torch.Generator().manual_seed(i)) for i in range(200)]
    assert all(x.shape == (1, 48, 64) and set(x.unique().tolist()) <= {0.0, 1.0} for x in drawn)
    assert torch.equal(drawn[5], masks.draw((64, 48), torch.Generator().manual_seed(5)))
    whole = sum(bool(x.all()) for x in drawn)
    assert 30 <= whole <= 75 and sum(float(x.mean()) < 0.02 for x in drawn) < 10
    assert 0.2 < float(torch.stack([x.mean() for x in drawn if not x.all()]).mean()) < 0.7


def test_what_is_masked_is_grey_and_the_latent_mask_is_the_nearest_pixel():
    mask = torch.zeros(1, 4, 4)
    mask[0, 0, 0] = mask[0, 3, 3] = 1
    hidden = masks.hidden(torch.ones(3, 4, 4), mask)
    assert hidden[:, 0, 0].tolist() == [0, 0, 0] and float(hidden.sum()) == 3 * 14
    small = torch.nn.functional.interpolate(mask[None], (2, 2))[0]
    assert torch.equal(masks.for_latents(mask, 2), small)
