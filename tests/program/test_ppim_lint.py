"""What is said of a finished set, from its rows alone."""

from lorakit.jobs.ppim.lint import lint
from lorakit.jobs.ppim.settings import Settings


def row(name: str, **more) -> dict:
    return {"file_name": name, "text": "a dog", "size": [64, 64], "cut_off": 0.0, "notes": [], **more}


def test_what_is_odd_has_a_line_with_its_pictures():
    settings = Settings(size=(64, 64), multiple=16, token="sks", mask="subject")
    rows = [
        row("a.png", text="sks dog", mask_share=0.5),
        row("b.png", text="", mask_share=0.05),
        row("c.png", cut_off=0.4, mask_share=1.0),
        row("d.png", text="sks cat", notes=["very dark"], mask_share=0.3),
    ]
    found = lint(rows, [], settings)
    assert found.lines == [
        "1 picture: very dark (d.png)",
        "1 of 4 captions are empty: b.png",
        "1 of 4 captions lack the token 'sks': c.png",
        "1 picture cut by more than 35%: c.png; --crop bucket keeps more",
        "1 mask with less than 10% of the picture: b.png; is it the subject? --mask-prompt finds it by its name",
        "1 mask of the whole picture, where no subject was found: c.png",
    ]
    assert found.sizes == {"64x64": 4} and found.cut_off == 0.1


def test_a_set_with_nothing_odd_has_no_lines():
    assert lint([row("a.png", mask_share=0.05)], [], Settings(size=(64, 64), multiple=16, mask="face")).lines == []
