"""Weights over the denoising, by hand-worked numbers."""

import pytest

from lorakit.composition import curve, lbw, uses
from lorakit.composition.expression import parse


@pytest.mark.parametrize(
    ("text", "at", "value"),
    [
        ("0@0,1@0.4,0.2@1", 0.0, 0.0),
        ("0@0,1@0.4,0.2@1", 0.2, 0.5),
        ("0@0,1@0.4,0.2@1", 0.7, 0.6),
        ("0@0,1@0.4,0.2@1", 1.0, 0.2),
        ("1@0.5", 0.1, 1.0),
        ("0@0.2,1@0.6:step", 0.59, 0.0),
        ("0@0.2,1@0.6:step", 0.6, 1.0),
        ("0@0,1@1:cosine", 0.25, 0.1464466),
        ("0@0,1@1:cosine", 0.5, 0.5),
        ("-1@0, 2@1 : linear", 0.5, 0.5),
        ("0.5+0.5*cos(pi*t)", 0.0, 1.0),
        ("0.5+0.5*cos(pi*t)", 0.5, 0.5),
        ("max(0, 1 - 2*t)^2", 0.25, 0.25),
        ("0.7", 0.3, 0.7),
        ("-t", 0.5, -0.5),
    ],
)
def test_a_curve_has_the_value_written(text, at, value):
    assert curve.read(text).at(at) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1@0.5,0@0.2", "out of order"),
        ("1@0.5,0@0.5", "out of order"),
        ("1@2", "from 0 to 1"),
        ("x@0", "WEIGHT@FRACTION"),
        ("0@0,1@1:cosin", "did you mean 'cosine'"),
        ("1/t", "no value at t = 0"),
        ("__import__('os')", "no function"),
        ("t.real", "not understood"),
        ("sni(t)", "did you mean 'sin'"),
        ("x+1", "there are t and pi"),
        ("(t", "neither"),
        ("10^10^10", "no value"),
        ("[t for t in (1,)]", "not understood"),
        ("nan@0", "a number"),
        ("t" * 300, "characters"),
    ],
)
def test_what_is_no_curve_says_why(text, says):
    with pytest.raises(ValueError, match=says):
        curve.read(text)


def test_an_expression_of_complex_value_is_refused():
    with pytest.raises(ValueError, match="no"):
        parse("(0-t)^0.5")(0.5)


def test_block_weight_lists_name_the_original_blocks():
    numbers = lbw.blocks("1," + ",".join(str(i) for i in range(16)))
    assert numbers["text_encoder"] == 1 and numbers["unet.mid_block"] == 6
    assert numbers["unet.down_blocks.0.attentions.0"] == 0  # IN01
    assert numbers["unet.down_blocks.2.attentions.1"] == 5  # IN08
    assert numbers["unet.up_blocks.1.attentions.0"] == 7  # OUT03
    assert numbers["unet.up_blocks.3.attentions.2"] == 15  # OUT11
    assert lbw.blocks("MIDD") == lbw.blocks("1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0")
    assert lbw.blocks(",".join("1" * 12))["unet.up_blocks.1.attentions.2"] == 1  # SDXL's OUT05
    with pytest.raises(ValueError, match="3 block weights"):
        lbw.blocks("1,1,1")
    with pytest.raises(ValueError, match="did you mean 'MIDD'"):
        lbw.blocks("MID")


def test_uses_count_what_is_composed_anew():
    a, b, c = (1.0,), (2.0,), (3.0,)
    assert uses([a, a, a, b, b], 1) == {a: 3, b: 2}
    assert uses([a, b, a, b], 1) == {a: 1, b: 1}
    assert uses([a, b, a, b], 2) == {a: 2, b: 2}
    assert uses([a, b, c, a], 2) == {a: 1, b: 1, c: 1}
