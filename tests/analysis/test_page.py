import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from common.analysis import Page, image_grid

VOID = {"meta", "img", "!doctype"}


class Balance(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.text, self.outside = [], "", []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        links = [value or "" for name, value in attrs if name in ("src", "href")]
        self.outside += [link for link in links if not link.startswith("data:")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def page():
    images = np.eye(4, dtype=np.uint8)[None]
    return (
        Page("A <title>")
        .lead("95 % & more")
        .section("First")
        .paragraph("a < b")
        .figure(image_grid(images, ["one"], columns=1), "eye", 'the "eye"')
        .table(("name", "value"), [("x", 1), ("<y>", 2.5)])
        .facts({"seed": 0})
        .details("settings", "{\n  'a': '5 %'}")
    )


def test_page_is_well_formed_and_self_contained(page):
    parser = Balance()
    parser.feed(page.html())
    assert parser.open == []
    assert parser.outside == []
    for text in ("A <title>", "95\N{NO-BREAK SPACE}% & more", "a < b", "<y>", "'5 %'"):
        assert text in parser.text
    assert "http" not in page.html()


def test_pictures_are_embedded_and_lie_beside(page, tmp_path):
    path = page.write(tmp_path / "report" / "report.html")
    html = path.read_text(encoding="utf-8")
    (embedded,) = re.findall(r"data:image/png;base64,([^\"]+)", html)
    assert base64.b64decode(embedded) == (tmp_path / "report" / "eye.png").read_bytes()
    assert 'alt="the &quot;eye&quot;"' in html
    assert sorted(file.name for file in path.parent.iterdir()) == ["eye.png", "report.html"]


def test_writing_again_replaces(page, tmp_path):
    page.write(tmp_path / "report.html")
    page.section("Last").write(tmp_path / "report.html")
    assert "<h2>Last</h2>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_two_figures_of_one_name(page):
    with pytest.raises(ValueError, match="two figures named 'eye'"):
        page.figure(image_grid(np.zeros((1, 2, 2)), [""], columns=1), "eye", "")
