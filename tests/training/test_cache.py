import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lorakit.data.dataset import measured, read
from lorakit.data.images import Crop
from lorakit.data.masks import for_latents
from lorakit.errors import InputError
from lorakit.models.encode import latent_moments, to_tensor
from lorakit.models.fingerprint import encoder_hash, weights_hash
from lorakit.models.load import load
from lorakit.training import cache, encoding
from lorakit.training.cache import cache_latents, tidy
from lorakit.training.placed import Placed
from lorakit.training.text_cache import TextCache
from tests.conftest import picture
from tests.tiny import make


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads of short operators wait for one another on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def components(tmp_path_factory):
    return load(str(make(tmp_path_factory.mktemp("tiny") / "model")), torch.device("cpu"), torch.float32)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(6):
        picture((64, 64) if i < 4 else (96, 64), seed=i).save(folder / f"{i}.png")
    return folder


def fill(components, pictures, folder, **more):
    ticks = []
    examples = measured(read(pictures, "a"))
    cached = cache_latents(components, examples, 64, False, lambda *t: ticks.append(t), folder=folder, **more)
    assert ticks[-1][0] == ticks[-1][1] and [t[0] for t in ticks] == list(range(1, len(ticks) + 1))
    return cached


def same(a, b):
    return len(a.placed) == len(b.placed) and all(
        torch.equal(x.mean, y.mean) and torch.equal(x.spread, y.spread) for x, y in zip(a.placed, b.placed, strict=True)
    )


def count(cached):
    return cached.counts.found, cached.counts.made, cached.counts.damaged


def test_cached_and_uncached_are_the_same_bytes(components, pictures, tmp_path):
    plain = fill(components, pictures, None)
    first, again = (fill(components, pictures, tmp_path / "cache") for _ in range(2))
    assert same(plain, first) and same(first, again)
    assert (count(plain), count(first), count(again)) == ((0, 6, 0), (0, 6, 0), (6, 0, 0))
    image = to_tensor(np.asarray(Image.open(pictures / "0.png")))[None]
    mean, spread = latent_moments(components, image)
    torch.testing.assert_close(first.placed[0].mean, mean[0])
    torch.testing.assert_close(first.placed[0].spread, spread[0])


def test_an_edited_picture_is_encoded_again_and_only_that(components, pictures, tmp_path):
    before = fill(components, pictures, tmp_path / "cache")
    picture(seed=77).save(pictures / "2.png")
    after = fill(components, pictures, tmp_path / "cache")
    assert count(after) == (5, 1, 0)
    changed = [i for i in range(6) if not torch.equal(before.placed[i].mean, after.placed[i].mean)]
    assert changed == [2]
    assert same(after, fill(components, pictures, None))


def test_a_tenth_of_the_pictures_edited_is_a_tenth_encoded(components, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(30):
        picture((32, 32), seed=i).save(folder / f"{i:02}.png")
    fill(components, folder, tmp_path / "cache", shapes=[(32, 32)] * 30)
    for i in (4, 17, 29):
        picture((32, 32), seed=100 + i).save(folder / f"{i:02}.png")
    again = fill(components, folder, tmp_path / "cache", shapes=[(32, 32)] * 30)
    assert count(again) == (27, 3, 0)
    assert same(again, fill(components, folder, None, shapes=[(32, 32)] * 30))


def test_a_new_name_or_new_notes_in_the_file_change_nothing(components, pictures, tmp_path):
    fill(components, pictures, tmp_path / "cache")
    (pictures / "3.png").rename(pictures / "9.png")
    Image.open(pictures / "1.png").save(pictures / "1.png", compress_level=0)
    assert count(fill(components, pictures, tmp_path / "cache")) == (6, 0, 0)
    assert count(fill(components, pictures, tmp_path / "cache")) == (6, 0, 0)


def test_another_shape_or_encoder_or_mirror_is_another_entry(components, pictures, tmp_path):
    folder = tmp_path / "cache"
    cached = fill(components, pictures, folder)
    assert count(fill(components, pictures, folder, shapes=[placed.cut.size for placed in cached.placed])) == (6, 0, 0)
    assert count(fill(components, pictures, folder, shapes=[(48, 48)] * 6)) == (0, 6, 0)
    name = encoder_hash(components)
    weight = components.vae.encoder.conv_in.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0, 0, 0] += 1
        assert encoder_hash(components) != name
        assert count(fill(components, pictures, folder))[1] == 6
        weight.copy_(before)
        components.vae.decoder.conv_in.weight[0, 0, 0, 0] += 1
    assert encoder_hash(components) == name  # latents do not depend on the decoder
    flipped = cache_latents(components, measured(read(pictures, "a")), 64, True, lambda *_: None, folder=folder)
    assert len(flipped.mirrored) == 6 and count(flipped) == (6, 6, 0)
    x = to_tensor(np.asarray(Image.open(pictures / "0.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT)))[None]
    torch.testing.assert_close(flipped.mirrored[0].mean, latent_moments(components, x)[0][0])


def test_a_picture_is_decoded_once_for_all_that_is_made_of_it(components, pictures, monkeypatch):
    real, calls = encoding.load, []
    monkeypatch.setattr(encoding, "load", lambda file: calls.append(file.name) or real(file))
    cached = cache_latents(components, measured(read(pictures, "a")), 64, True, lambda *_: None, inpainting=(2, 0))
    assert sorted(calls) == [f"{i}.png" for i in range(6)] and cached.counts.made > 18


def test_two_copies_of_a_picture_are_encoded_once(components, pictures, tmp_path):
    (pictures / "copy.png").write_bytes((pictures / "0.png").read_bytes())
    cached = fill(components, pictures, tmp_path / "cache")
    assert count(cached) == (0, 6, 0) and len(cached.placed) == 7
    assert cached.keys[0] == cached.keys[-1] != cached.keys[1]


@pytest.mark.parametrize("harm", ["flip", "cut", "rubbish"])
def test_a_damaged_entry_is_made_again(components, pictures, tmp_path, harm):
    whole = fill(components, pictures, tmp_path / "cache")
    file = tmp_path / "cache" / "latents.pack"
    data = bytearray(file.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
    file.write_bytes({"flip": data, "cut": data[: len(data) // 2], "rubbish": b"rubbish" * 1000}[harm])
    again = fill(components, pictures, tmp_path / "cache")
    assert same(again, whole) and again.counts.made >= 1
    assert harm == "rubbish" or again.counts.made < 6
    assert count(fill(components, pictures, tmp_path / "cache"))[:2] == (6, 0)


def test_a_crash_loses_what_was_not_written_and_leaves_nothing_bad(components, pictures, tmp_path, monkeypatch):
    real, calls = encoding.latent_moments, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(encoding, "latent_moments", dies)
    monkeypatch.setattr(encoding, "is_small", lambda components: False)
    with pytest.raises(KeyboardInterrupt):
        fill(components, pictures, tmp_path / "cache")
    monkeypatch.undo()
    cached = fill(components, pictures, tmp_path / "cache")
    assert count(cached) == (3, 3, 0) and same(cached, fill(components, pictures, None))


def test_a_large_model_gives_the_same_and_a_large_cache_is_read_from_the_disk(
    components, pictures, tmp_path, monkeypatch
):
    small = fill(components, pictures, tmp_path / "cache")
    monkeypatch.setattr(cache, "_IN_MEMORY", 1000)
    monkeypatch.setattr(encoding, "is_small", lambda components: False)
    large = fill(components, pictures, tmp_path / "other")
    assert same(small, large)
    (tmp_path / "other" / "latents.pack").write_bytes(b"")
    with pytest.raises(InputError, match="changed while"):
        large.placed[0]


def test_a_picture_gives_the_same_however_many_go_through_the_encoder_with_it(components):
    xs = [torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in range(3)]
    together = encoding._moments(components, xs, 4)
    for x, (mean, spread) in zip(xs, together, strict=True):
        ((alone, width),) = encoding._moments(components, [x], 4)
        assert torch.equal(alone, mean) and torch.equal(width, spread)


def test_all_pictures_that_cannot_be_used_are_listed(components, pictures):
    (pictures / "1.png").write_bytes((pictures / "1.png").read_bytes()[:200])
    (pictures / "2.png").write_bytes((pictures / "2.png").read_bytes()[:200])
    Image.new("L", (64, 64)).save(pictures / "0.mask.png")
    with pytest.raises(InputError, match=r"2 pictures cannot be read: 1\.png \(damaged.*2\.png \(damaged"):
        fill(components, pictures, None)
    for i in (1, 2):
        picture(seed=i).save(pictures / f"{i}.png")
    with pytest.raises(InputError, match=r"1 picture cannot be read: 0\.png \(its mask leaves nothing to learn\)"):
        fill(components, pictures, None, mask_weight=0.0)


def test_masks_become_weights_and_a_mask_of_ones_is_none(components, pictures):
    Image.new("L", (64, 64), 255).save(pictures / "0.mask.png")
    half = Image.new("L", (64, 64))
    half.paste(255, (0, 0, 32, 64))
    half.save(pictures / "1.mask.png")
    cached = fill(components, pictures, None, mask_weight=0.25)
    assert [placed.mask is None for placed in cached.placed] == [True, False, True, True, True, True]
    placed = cached.placed[1]
    assert placed.mask.shape == (1, *placed.mean.shape[1:])
    assert sorted(set(placed.mask.flatten().tolist())) == pytest.approx([0.4, 1.6])  # 0.25 and 1, over 0.625


def test_inpainting_keeps_several_masks_of_each_picture(components, pictures, tmp_path):
    cached = fill(components, pictures, tmp_path / "cache", inpainting=(3, 7))
    # All of two pictures hidden is the same grey twice.
    assert sum(count(cached)) == 24 and cached.counts.made > 18 and [len(p.hidden) for p in cached.placed] == [3] * 6
    mask, mean, _ = cached.placed[0].hidden[1]
    assert mask.shape == (1, *mean.shape[1:]) and set(mask.flatten().tolist()) <= {0.0, 1.0}
    view = encoding.EncoderView(pictures / "0.png", cached.keys[0], cached.placed[0].cut, mask=(7, 1))
    assert torch.equal(mask, for_latents(view.hole(), components.vae_factor))
    x = to_tensor(np.asarray(Image.open(pictures / "0.png"))) * (view.hole() < 0.5)
    torch.testing.assert_close(mean, latent_moments(components, x[None])[0][0])
    assert count(fill(components, pictures, tmp_path / "cache", inpainting=(3, 7))) == (24, 0, 0)


def test_tidying_drops_what_belongs_to_no_set(components, pictures, tmp_path):
    folder = tmp_path / "cache"
    old = fill(components, pictures, folder, shapes=[(64, 64)] * 6)
    new = fill(components, pictures, folder, shapes=[(32, 32)] * 6)
    size = (folder / "latents.pack").stat().st_size
    assert not tidy(folder, [old, new])
    assert tidy(folder, [new]) and (folder / "latents.pack").stat().st_size < size / 2
    assert count(fill(components, pictures, folder, shapes=[(32, 32)] * 6)) == (6, 0, 0)


def test_texts_are_encoded_once_by_caption_and_encoder(tmp_path):
    asked = []

    def encode(captions):
        asked.extend(captions)
        return [{"states": torch.full((2, 3), float(len(c))), "pooled": torch.ones(4)} for c in captions]

    texts = TextCache(encode, "clip", tmp_path, most=2)
    assert texts["abc"]["states"][0, 0] == 3
    texts.of(["abc", "d", "d", "efgh"])
    assert asked == ["abc", "d", "efgh"] and len(texts._memory) == 2
    again = TextCache(encode, "clip", tmp_path)
    assert [float(x["states"][0, 0]) for x in again.of(["efgh", "abc"])] == [4, 3]
    assert (again.counts.found, again.counts.made, asked) == (2, 0, ["abc", "d", "efgh"])
    assert again["d"]["pooled"].shape == (4,)
    TextCache(encode, "other clip", tmp_path)["abc"]
    assert asked[3:] == ["abc"]
    assert TextCache(encode, "clip").of(["x", "x"])[1]["states"][0, 0] == 1


def test_the_hash_of_weights_sees_every_bit_and_name():
    one, two = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    two.load_state_dict(one.state_dict())
    assert weights_hash([one], 1) == weights_hash([two], 1) != weights_hash([two], 2)
    with torch.no_grad():
        two.weight.view(torch.int32)[0, 0] ^= 1
    assert weights_hash([one]) != weights_hash([two])
    assert weights_hash([one], only=("bias",)) == weights_hash([two], only=("bias",))
    assert weights_hash([one]) != weights_hash([one.half()])
    assert json.dumps(weights_hash([one]))


def test_digests_that_are_known_are_not_taken_again(components, pictures, tmp_path, monkeypatch):
    plain = fill(components, pictures, tmp_path / "cache")
    monkeypatch.setattr(cache, "sha256_of", lambda file: pytest.fail(f"{file} is read again"))
    again = fill(components, pictures, tmp_path / "cache", digests=plain.keys)
    assert same(plain, again) and again.keys == plain.keys and count(again) == (6, 0, 0)


def test_what_is_bound_to_a_picture_is_mirrored_with_it(components, tmp_path):
    """A picture shown mirrored is the mirrored file: its latents, its mask, and what an inpainting model is given."""
    whole, mask = picture((96, 64), seed=3), Image.new("L", (96, 64))
    mask.paste(255, (0, 0, 30, 64))
    sets = {}
    for name in ("plain", "mirrored"):
        (tmp_path / name).mkdir()
        for file, image in (("a.png", whole), ("a.mask.png", mask)):
            image = image if name == "plain" else image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            image.save(tmp_path / name / file)
        examples = measured(read(tmp_path / name, "a"))
        sets[name] = cache_latents(
            components,
            examples,
            64,
            name == "plain",
            lambda *_: None,
            shapes=[(64, 64)],
            mask_weight=0.25,
            inpainting=(3, 0),
        )
    turned, file, plain = sets["plain"].mirrored[0], sets["mirrored"].placed[0], sets["plain"].placed[0]
    torch.testing.assert_close(turned.mean, file.mean)
    assert torch.equal(turned.mask, file.mask) and torch.equal(turned.mask, plain.mask.flip(2))
    assert not torch.equal(turned.mask, plain.mask)
    pixels = to_tensor(np.asarray(whole.crop((16, 0, 80, 64))))
    for number, hidden in enumerate(turned.hidden):
        hole = encoding.EncoderView(tmp_path / "a.png", sets["plain"].keys[0], plain.cut, mask=(0, number)).hole()
        torch.testing.assert_close(hidden.mean, latent_moments(components, (pixels * (hole < 0.5)).flip(2)[None])[0][0])
        assert torch.equal(hidden.mask, for_latents(hole.flip(2), components.vae_factor))


def test_the_corner_of_a_mirrored_cut_is_counted_from_the_other_side():
    """The box leaves 16 pixels on the left and 17 on the right, and 10 above; all is shown at half its size."""
    how = Crop(box=(16, 10, 80, 74), size=(32, 32))
    x = torch.zeros(4, 4, 4)
    corners = [Placed(mean=x, spread=x, cut=replace(how, mirrored=on)).corner((97, 90)) for on in (False, True)]
    assert corners == [(8, 5), (round(17 / 2), 5)]
