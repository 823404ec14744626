"""inspect --similarity through the program."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from lorakit.reports.similarity import verdict
from tests.support.adapter_kinds import FLAT, LOHA, stems

OTHER = FLAT.replace("down_blocks_1", "up_blocks_2")


def lora(*terms, size=640):
    """value * e_i e_j' for each (value, i, j)."""
    up, down = np.zeros((size, len(terms)), "f4"), np.zeros((len(terms), size), "f4")
    for k, (value, i, j) in enumerate(terms):
        up[i, k], down[k, j] = value, 1
    return {"lora_down.weight": down, "lora_up.weight": up, "alpha": np.float32(len(terms))}


@pytest.fixture
def files(tmp_path):
    save_file(stems(lora((3, 0, 0)), FLAT) | stems(lora((1, 0, 0)), OTHER), tmp_path / "a.safetensors")
    save_file(stems(lora((4, 0, 0), (3, 1, 1)), FLAT) | stems(lora((-2, 0, 5)), OTHER), tmp_path / "b.safetensors")
    return "a.safetensors", "b.safetensors"


def test_the_figures_by_block_and_in_all(json_of, files):
    pair = json_of("inspect", *files, "--similarity")["similarity"][0]
    blocks = {block["block"]: block for block in pair["blocks"]}
    assert list(blocks) == ["unet down.1", "unet up.2"]
    assert blocks["unet down.1"]["cosine"] == pytest.approx(12 / 15)
    assert blocks["unet up.2"]["cosine"] == 0 and blocks["unet up.2"]["overlap_out"] == pytest.approx(1)
    assert blocks["unet up.2"]["overlap_in"] == 0
    # <a, b> = 12, ||a||² = 9 + 1, ||b||² = 25 + 4
    assert pair["cosine"] == pytest.approx(12 / (10 * 29) ** 0.5)
    # the first counts 3 * 5, the second 1 * 2
    assert pair["overlap_in"] == pytest.approx(15 / 17) and pair["overlap_out"] == pytest.approx(1)
    assert pair["chance_out"] == pytest.approx((2 / 640 + 1 / 640) / 2)


def test_the_table_and_the_page(program, files, tmp_path):
    done = program("inspect", *files, files[0], "--similarity", "--report", "s.html")
    assert "unet down.1" in done.stdout and "+0.800" in done.stdout and done.stdout.endswith("s.html\n")
    page = (tmp_path / "s.html").read_text()
    assert "+0.800" in page and "http" not in page and "<script" not in page
    program("inspect", *files, "--similarity", "--report", "s.html", status=4)


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        ((0.95, 1, 1), "nearly the same"),
        ((0.3, 0.5, 0.5), "pull the same way"),
        ((-0.3, 0.5, 0.5), "against"),
        ((0.0, 0.6, 0.0), "same directions"),
        ((0.0, 0.05, 0.05), "independent"),
    ],
)
def test_the_sentence_follows_the_figures(figures, says):
    cosine, out, into = figures
    pair = {"cosine": cosine, "overlap_out": out, "overlap_in": into, "chance_out": 0.02, "chance_in": 0.02}
    assert says in verdict(pair)


def test_wrong_use_is_one_sentence(program, files, tmp_path):
    assert "two adapters" in program("inspect", files[0], "--similarity", status=2).stderr
    assert "--similarity" in program("inspect", *files, "--report", "x.html", status=2).stderr
    save_file(stems(lora((1, 0, 0), size=320), FLAT), tmp_path / "small.safetensors")
    assert "differ in shape" in program("inspect", files[0], "small.safetensors", "--similarity", status=3).stderr
    save_file(stems(lora((1, 0, 0)), FLAT.replace("to_q", "to_k")), tmp_path / "else.safetensors")
    assert "no module in common" in program("inspect", files[0], "else.safetensors", "--similarity", status=3).stderr
    broken = stems(lora((np.nan, 0, 0)), FLAT)
    save_file(broken, tmp_path / "nan.safetensors")
    assert "NaN" in program("inspect", files[0], "nan.safetensors", "--similarity", status=8).stderr


def test_products_of_factors_are_compared_too(json_of, files, tmp_path):
    save_file(stems(LOHA, FLAT), tmp_path / "loha.safetensors")
    pair = json_of("inspect", "loha.safetensors", "loha.safetensors", "--similarity")["similarity"][0]
    assert pair["cosine"] == pytest.approx(1, abs=1e-5)
