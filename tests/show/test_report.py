"""The report is one file that shows what it was given, whatever that says."""

import re
from html.parser import HTMLParser

from matplotlib.figure import Figure

from gaze_lens.show import Plot
from gaze_lens.show.report import Report


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.images, self.texts, self.links = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            self.images.append(attrs)
        if tag not in ("img", "meta"):
            self.open.append(tag)
        self.links += [value for name, value in attrs.items() if name in ("src", "href") and value]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def parsed(report):
    tags = Tags()
    tags.feed(report.to_html())
    assert not tags.open
    return tags


def test_what_a_model_says_is_never_html():
    evil = '<script>alert(1)</script> & "quotes"'
    report = Report(evil, evil).section(evil, evil).table((evil,), [(evil,)], [True]).facts([(evil, evil)]).code(evil)
    tags = parsed(report)
    assert "<script" not in report.to_html()
    assert sum(evil in text for text in tags.texts) == 10


def test_it_loads_nothing_from_anywhere():
    figure = Figure()
    figure.add_subplot().plot([1, 2])
    report = Report("title", "lead").figure(Plot(figure, {}, "words"), "what it shows")
    tags = parsed(report)
    assert all(link.startswith("data:image/png;base64,") for link in tags.links)
    assert not re.search(r"https?://", report.to_html())
    assert "content=\"default-src 'none'; img-src data:;" in report.to_html()
    assert tags.images[0]["alt"] == "what it shows"


def test_save_makes_folders_and_writes_utf8(tmp_path):
    Report("Blickköpfe", "…").save(tmp_path / "a" / "report.html")
    assert "Blickköpfe" in (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["report.html"]
