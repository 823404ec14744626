import pytest


@pytest.mark.slow
def test_the_tour_ends_in_a_page(lorakit, tmp_path):
    done = lorakit("demo", "out", "--steps", "10")
    page = (tmp_path / "out" / "index.html").read_text()
    assert done.stdout.strip() == "out/index.html"
    assert page.count("<img") >= 20 and "both adapters" in page
    lorakit("demo", "out", status=4)
