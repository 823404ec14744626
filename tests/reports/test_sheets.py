"""Sheets, curves and pictures in a terminal."""

import numpy as np
from PIL import ImageFont

from lorakit.reports import sheets
from lorakit.reports.curves import plot
from lorakit.reports.terminal import half_blocks

RED, BLUE = np.full((8, 8, 3), (255, 0, 0), np.uint8), np.full((8, 8, 3), (0, 0, 255), np.uint8)


def test_a_table_holds_its_pictures_in_order_enlarged_by_whole_pixels():
    sheet = np.asarray(sheets.table([[RED, BLUE], [BLUE, RED]], ["a", "b"], ["x", "y"], "a title"))
    side = 8 * 20
    right, bottom = sheet.shape[1] - 6, sheet.shape[0] - 6
    assert (sheet[bottom - side : bottom, right - side : right] == (255, 0, 0)).all()
    assert (sheet[bottom - side : bottom, right - 2 * side - 6 : right - side - 6] == (0, 0, 255)).all()


def test_long_labels_are_wrapped_and_control_characters_are_none():
    font = ImageFont.load_default(14)
    lines = sheets.wrapped("a very long label of many words \x1b[31m and averyveryverylongwordwithoutspaces", 90, font)
    assert len(lines) > 3 and all(font.getlength(line) <= 90 for line in lines) and "\x1b" not in "".join(lines)
    assert sheets.wrapped("", 90, font) == []


def test_a_plot_shows_each_curve_in_its_colour():
    picture = np.asarray(plot({"a": [0, 1, 0.5], "b": [0.2, 0.2, -0.2]}, "title", "steps", stairs=True))
    for colour in ((42, 111, 219), (222, 99, 38)):
        assert (abs(picture.astype(int) - colour).sum(2) < 60).sum() > 500
    assert np.asarray(plot({"flat": [0.0, 0.0]}, "t", "x")).shape == picture.shape


def test_a_picture_in_a_terminal_is_two_pixels_a_character():
    text = half_blocks(np.concatenate([RED, BLUE]), 8, 20)
    assert text.count("▀") == 8 * 8 and "\x1b[38;2;255;0;0m" in text and text.endswith("\x1b[0m")
    assert half_blocks(RED, 4, 1).count("\n") == 0
