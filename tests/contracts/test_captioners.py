import pytest

from lorakit.registry import CAPTIONERS
from tests.conftest import picture


@pytest.mark.parametrize("name", CAPTIONERS.names())
def test_the_same_picture_has_the_same_caption_twice(name, tmp_path):
    file = tmp_path / "red_apple (2).png"
    picture().save(file)
    file.with_suffix(".txt").write_text(" a red apple\n")
    captions = {CAPTIONERS[name].caption(file) for _ in range(2)}
    assert captions == {"none": {""}, "filename": {"red apple"}, "keep": {"a red apple"}}[name]
