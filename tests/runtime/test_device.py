"""What a device is good for, and what is said of it."""

import torch

from lorakit.drawing import session
from lorakit.runtime import device


def test_what_bfloat16_would_save_is_said_where_it_saves_and_nobody_chose(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(session, "gain_of_bfloat16", lambda: 5.94)
    session.load_model("tiny", "cpu", "auto", note=said.append)
    assert sum("5.9 times as fast in bfloat16: --dtype bfloat16" in note for note in said) == 1
    for dtype, gain in (("float32", 5.94), ("auto", 1.0)):
        said.clear()
        monkeypatch.setattr(session, "gain_of_bfloat16", lambda gain=gain: gain)
        session.load_model("tiny", "cpu", dtype, note=said.append)
        assert not any("bfloat16" in note for note in said)


def test_a_gain_is_measured_where_there_are_units_for_it(monkeypatch):
    device.gain_of_bfloat16.cache_clear()
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert device.gain_of_bfloat16() == 1
    device.gain_of_bfloat16.cache_clear()
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert device.gain_of_bfloat16() > 0
    device.gain_of_bfloat16.cache_clear()
