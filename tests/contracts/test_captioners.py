import pytest

from lorakit.captioners import BadCaption, CaptionerSettings, Shown
from lorakit.captioners.tagger import VocabularyTag, chosen
from lorakit.errors import InputError, UnavailableError
from lorakit.registry import CAPTIONERS
from tests.conftest import picture
from tests.support import small_models


@pytest.fixture(scope="module", autouse=True)
def quick():
    with small_models.one_thread():
        yield


@pytest.fixture(scope="module")
def how(tmp_path_factory):
    """For each captioner that asks a model: a random one of the right classes."""
    home = tmp_path_factory.mktemp("models")
    phrases = home / "phrases.txt"
    phrases.write_text("# colour\nred\nblue\n\n# things 2\na cat\na dog\na house\n")
    return {
        "blip": CaptionerSettings(model=str(small_models.blip(home / "blip")), device="cpu"),
        "clip": CaptionerSettings(model=str(small_models.clip(home / "clip")), vocabulary=str(phrases), device="cpu"),
        "tagger": CaptionerSettings(model=str(small_models.tagger(home / "tagger")), threshold=0.0, device="cpu"),
    }


@pytest.fixture
def shown(tmp_path):
    files = []
    for number in range(3):
        file = tmp_path / f"red_apple ({number}).png"
        picture(seed=number).save(file)
        file.with_suffix(".txt").write_text(" a red apple\n")
        files.append(Shown(file, file))
    return files


@pytest.mark.parametrize("name", CAPTIONERS.names())
def test_captions_repeat_and_there_is_one_a_picture(name, how, shown):
    captions = CAPTIONERS[name].load(how.get(name, CaptionerSettings()))
    said = captions(shown)
    assert len(said) == 3 and [text.text for text in said] == [text.text for text in captions(shown)]
    known = {"none": {""}, "filename": {"red apple"}, "keep": {"a red apple"}}
    assert name not in known or {text.text for text in said} == known[name]
    assert all(text.text == " ".join(text.text.split()) for text in said)


@pytest.mark.parametrize("name", [n for n in CAPTIONERS.names() if not getattr(CAPTIONERS[n], "LIGHT", False)])
def test_a_model_says_the_same_whatever_shares_its_batch(name, how, shown):
    captions = CAPTIONERS[name].load(how[name])
    assert [captions([one])[0].text for one in shown] == [text.text for text in captions(shown)]
    assert CAPTIONERS[name].identity(how[name])


def test_blip_2_captions_by_the_same_way(shown, tmp_path):
    captions = CAPTIONERS["blip"].load(
        CaptionerSettings(model=str(small_models.blip2(tmp_path / "blip2")), device="cpu")
    )
    said = [text.text for text in captions(shown)]
    assert said == [text.text for text in captions(shown)] and all(said)
    assert said == [captions([one])[0].text for one in shown]


@pytest.mark.parametrize("name", ["blip", "clip", "tagger"])
def test_a_model_that_is_not_there_is_named_with_what_fetches_it(name, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnavailableError, match="hf download nobody/nothing"):
        CAPTIONERS[name].load(CaptionerSettings(model="nobody/nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no config\.json"):
        CAPTIONERS[name].load(CaptionerSettings(model=str(tmp_path / "empty")))


def test_clip_takes_as_many_phrases_of_each_group_as_its_heading_says(how, shown):
    words = CAPTIONERS["clip"].load(how["clip"])(shown)[0].text.split(", ")
    assert len(words) == 3 and words[0] in ("red", "blue") and {"a cat", "a dog", "a house"} > set(words[1:])


def test_tags_are_chosen_by_threshold_and_ratings_are_none():
    tags = [
        VocabularyTag("general", 9),
        VocabularyTag("long hair", 0),
        VocabularyTag("some one", 4),
        VocabularyTag("sky", 0),
        VocabularyTag("hat", 0),
    ]
    assert chosen(tags, [0.99, 0.5, 0.9, 0.7, 0.2], 0.35) == "some one, sky, long hair"
    assert chosen(tags, [0.99, 0.5, 0.8, 0.7, 0.2], 0.6) == "sky"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\xef\xbb\xbfa dog\r\n", "a dog"),
        ("a dög".encode("utf-16"), "a dög"),
        (b"one,\ntwo  x\n\nthree\none,", "one,\ntwo x\nthree"),
        (b"a\x1b[31m \xe2\x80\xaedog\x00", "a [31m dog"),
        (b"", ""),
    ],
)
def test_sidecars_are_read_strictly(data, expected, tmp_path):
    (tmp_path / "x.txt").write_bytes(data)
    file = tmp_path / "x.png"
    assert CAPTIONERS["keep"].load(CaptionerSettings())([Shown(file, file)])[0].text == expected


def test_a_picture_without_a_sidecar_is_noted(tmp_path):
    assert CAPTIONERS["keep"].load(CaptionerSettings())([Shown(tmp_path / "x.png", tmp_path / "x.png")])[0].notes == [
        "no caption beside it"
    ]


def test_a_sidecar_in_another_coding_too_long_or_in_two_minds_is_refused(tmp_path):
    file = tmp_path / "x.png"
    keep = CAPTIONERS["keep"].load(CaptionerSettings())
    (tmp_path / "x.txt").write_bytes("ein Bär".encode("cp1252"))
    with pytest.raises(BadCaption, match=r"not utf-8 \(byte 5\).*--caption-encoding cp1252"):
        keep([Shown(file, file)])
    assert CAPTIONERS["keep"].load(CaptionerSettings(encoding="cp1252"))([Shown(file, file)])[0].text == "ein Bär"
    (tmp_path / "x.txt").write_text("a dog")
    (tmp_path / "x.caption").write_text("a cat")
    with pytest.raises(BadCaption, match="differ"):
        keep([Shown(file, file)])
    (tmp_path / "x.caption").unlink()
    (tmp_path / "x.txt").write_text("long " * 20000)
    with pytest.raises(BadCaption, match="100000 bytes"):
        keep([Shown(file, file)])


def test_the_built_in_blip_names_subjects_of_its_domain(tmp_path):
    from PIL import Image

    from lorakit.models.places import folder_of

    files = []
    for file in sorted((folder_of("tiny") / "subjects").glob("*.png")):
        with Image.open(file) as opened:
            subject = opened.convert("RGBA").resize((60, 60))
        square = Image.new("RGBA", (64, 64), "white")
        square.alpha_composite(subject, (2, 2))
        square.convert("RGB").save(tmp_path / file.name)
        files.append(Shown(file, tmp_path / file.name))
    said = CAPTIONERS["blip"].load(CaptionerSettings(device="cpu"))(files)
    right = [one.source.stem.partition("-")[0] in text.text for one, text in zip(files, said, strict=True)]
    assert all(right), [text.text for text in said]
