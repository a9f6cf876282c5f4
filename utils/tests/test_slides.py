"""The slides in the lessons' metadata: short, in the lesson's own numbers and code; and the pages made of them."""

import hashlib
import io
import json
import re
import tarfile

import nbformat
import pytest

from utils.course import slides
from utils.course.__main__ import main
from utils.course.notebooks import NOTEBOOKS, lessons, tidy

LESSONS = [pytest.param(path, id=path.stem) for path in lessons()]
TYPES = {"slide", "subslide", "fragment", "notes", "skip", "-"}
FENCE = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def read(path):
    return nbformat.read(path, as_version=4)


def texts(notebook):
    return [(cell, text) for cell in notebook.cells for text in cell.metadata.get("slide", [])]


def written(cell):
    """What a cell prints, with nothing of its pictures."""
    plain = (output.get("data", {}).get("text/plain", "") for output in cell.get("outputs", []))
    return "".join(output.get("text", "") for output in cell.get("outputs", [])) + "".join(plain)


def packed(text):
    return re.sub(r"\s", "", text)


@pytest.mark.parametrize("path", LESSONS)
def test_every_cell_says_what_it_is_on_a_slide(path):
    notebook = read(path)
    for number, cell in enumerate(notebook.cells):
        kind = cell.metadata.get("slideshow", {}).get("slide_type")
        assert kind in TYPES, f"cell {number}: slide_type {kind!r}"
        assert cell.metadata.get("slide_code", "hide") == "hide"
        assert cell.metadata.get("slide_output", "all") in ("all", "hide", "text", "pictures")
        if kind in ("notes", "skip"):
            assert "slide" not in cell.metadata, f"cell {number} is not shown: no slide text"
        elif cell.cell_type == "markdown":
            assert cell.metadata.get("slide"), f"cell {number}: prose is too long for a slide"
        if cell.cell_type == "code" and len(given := cell.metadata.get("slide", [])) > 1:
            pictures = sum(slides.is_picture(output) for output in cell.outputs)
            assert pictures <= len(given), f"cell {number}: {pictures} pictures, {len(given)} texts"
        if "setup" in cell.metadata.get("tags", []):
            assert kind == "skip"


@pytest.mark.parametrize("path", LESSONS)
def test_a_slide_is_short(path):
    notebook = read(path)
    deck = slides.slides(notebook)
    assert 12 <= len(deck) <= 28
    for slide in deck:
        shown = "\n\n".join(c.source for c in slide["cells"] if c.cell_type == "markdown")
        assert re.match(r"#{1,2} \S", shown), f"a slide without a heading: {shown[:60]!r}"
        prose = re.sub(r"\$\$.*?\$\$", "", FENCE.sub("", shown), flags=re.S)
        plain = re.sub(r"^\|.*", "", re.sub(r"\$[^$]*\$|`[^`]*`", "x", prose), flags=re.M)
        words = re.findall(r"\w[\w'’+-]*", plain)
        assert len(words) <= 60, f"{len(words)} words: {shown[:60]!r}"
        assert len(re.findall(r"^(?:- |\d+\. )", prose, re.M)) <= 6, shown[:60]
        assert len(re.findall(r"^\|", prose, re.M)) <= 10, (
            f"a table that is too high: {shown[:60]!r}"
        )
        assert "http" not in shown and "](" not in shown


@pytest.mark.parametrize("path", LESSONS)
def test_code_on_a_slide_fits_and_is_the_lesson_s(path):
    for slide in slides.slides(read(path)):
        lines = []
        for cell in slide["cells"]:
            if cell.cell_type == "markdown":
                lines += [
                    line for block in FENCE.findall(cell.source) for line in block.splitlines()
                ]
            elif cell.source and not cell.metadata.get("transient"):
                lines += cell.source.splitlines()
        assert len(lines) <= 20 and max(map(len, lines), default=0) <= 80, lines[:2]
    code = packed("".join(cell.source for cell in read(path).cells if cell.cell_type == "code"))
    for _, text in texts(read(path)):
        for line in "".join(FENCE.findall(text)).splitlines():
            assert packed(line) in code, f"not a line of the lesson: {line}"


@pytest.mark.parametrize("path", LESSONS)
def test_numbers_on_slides_are_the_lesson_s(path):
    notebook = read(path)
    own = {n for cell in notebook.cells for n in NUMBER.findall(cell.source + "\n" + written(cell))}
    for _, text in texts(notebook):
        strange = set(NUMBER.findall(text)) - own
        assert not strange, f"not in the lesson: {sorted(strange)} in {text[:60]!r}"


@pytest.mark.parametrize("path", LESSONS)
def test_the_whole_prose_reaches_the_speaker(path):
    notebook = read(path)
    notes = packed("".join(note for slide in slides.slides(notebook) for note in slide["notes"]))
    begun = False
    for cell in notebook.cells:
        begun = begun or slides.slide_type(cell) == "slide"
        if cell.cell_type == "markdown" and begun and slides.slide_type(cell) != "skip":
            for paragraph in slides.BADGE.sub("", cell.source).split("\n\n"):
                assert packed(paragraph) in notes, f"in nobody's notes: {paragraph[:80]!r}"


def test_the_instructors_page_says_how_many_slides_there_are():
    if not (NOTEBOOKS / "exercises" / "source").is_dir():
        pytest.skip("a students' copy, without the instructor's page")
    counts = [len(slides.slides(read(path))) for path in lessons()]
    page = (NOTEBOOKS / "exercises" / "README.md").read_text(encoding="utf-8")
    assert f"a lecture of {min(counts)} to {max(counts)} slides" in page


def test_notes_follow_the_headings():
    prose = "Before.\n\n## One\n\nFirst.\n\n## Two\n\nSecond.\n\n### Three\n\nThird."
    found, before = slides.with_notes(["## One: more", "## Another", "## Two"], prose)
    assert before == "Before.\n\n"
    assert [same for *_, same in found] == [True, False, True]
    assert found[0][1] == found[1][1] == "## One\n\nFirst.\n\n"
    assert found[2][1] == "## Two\n\nSecond.\n\n### Three\n\nThird."


def test_execute_keeps_what_slides_need():
    cell = nbformat.v4.new_code_cell("1")
    cell.metadata.update(
        slideshow={"slide_type": "slide"}, slide=["# A"], slide_code="hide", execution={}
    )
    (kept,) = tidy(nbformat.v4.new_notebook(cells=[cell])).cells
    assert set(kept.metadata) == {"slideshow", "slide", "slide_code"}


# The pages -----------------------------------------------------------------------------------------


def sections(page):
    """The slides of a page: the sections inside sections."""
    body = page[page.index("<body>") : page.index("<script>", page.index("<body>"))]
    return re.findall(r"<section[^>]*>\s*(?!<section)(.*?)</section>", body, re.S)


def test_one_page_a_lesson(tmp_path, capsys):
    path = next(path for path in lessons() if path.stem.startswith("02"))
    main(["slides", "02", "--out", str(tmp_path), "--reveal", "reveal.js"])
    (made,) = tmp_path.iterdir()
    assert made.name == "02_attention.html"
    page, deck = made.read_text(encoding="utf-8"), slides.slides(read(path))
    found = sections(page)
    printed = capsys.readouterr().out
    assert len(found) == len(deck) and f"{len(deck)} slides, {slides.minutes_of(read(path))} minutes" in printed  # fmt: skip
    assert (
        'href="reveal.js/dist/reveal.css"' in page
        and 'src="reveal.js/plugin/notes/notes.js"' in page
    )
    for section, slide in zip(found, deck):
        pictures = sum(slides.is_picture(o) for c in slide["cells"] for o in c.get("outputs", []))
        assert section.count("<img") + section.count("<iframe") == pictures
        assert "<img" not in section or re.search(r'<img[^>]* alt="[^"]{20,}"', section)
        assert ('<aside class="notes">' in section) == any(note.strip() for note in slide["notes"])
    assert "colab" not in page.lower() and "SETUP" not in page and "git clone" not in page
    shown = "".join(section.split("<aside")[0] for section in found)
    assert "nn.MultiheadAttention, weights included" in shown  # an output, its long code hidden
    assert "reference.in_proj_weight" not in page


def test_the_speakers_clock_shares_out_the_minutes(tmp_path):
    main(["slides", "05", "--out", str(tmp_path), "--minutes", "40"])
    page = (tmp_path / "05_geglu.html").read_text(encoding="utf-8")
    seconds = json.loads(re.search(r"const timing = (\[.*?\]);", page)[1])
    assert len(seconds) == len(sections(page)) and min(seconds) > 0
    assert abs(sum(seconds) - 40 * 60) <= len(seconds)
    short, long = ({"notes": [], "cells": [nbformat.v4.new_markdown_cell(text)]} for text in ("a", "**Predict.** " + "b " * 200))  # fmt: skip
    assert slides.timing([short, long], 10)[1] > 400
    with pytest.raises(SystemExit, match="from 1"):
        main(["slides", "05", "--out", str(tmp_path), "--minutes", "0"])


def test_offline_pages_need_no_network(tmp_path, monkeypatch):
    """With packages of our own making, whose check sums are right, and with one whose check sum is not."""
    place = tmp_path / "reveal"
    place.mkdir()
    for name in slides.SHA512:
        with tarfile.open(place / name, "w:gz") as archive:
            for package, member in slides.INSIDE.values():
                if package == name:
                    data = f'/* {member} "</script>" */'.encode()
                    entry = tarfile.TarInfo(member)
                    entry.size = len(data)
                    archive.addfile(entry, io.BytesIO(data))
    sums = {name: hashlib.sha512((place / name).read_bytes()).hexdigest() for name in slides.SHA512}
    monkeypatch.setattr(slides, "cache_folder", lambda: tmp_path)
    with pytest.raises(SystemExit, match="is not the file that npm has"):
        slides.make(["05"], tmp_path / "out", offline=True)
    monkeypatch.setattr(slides, "SHA512", sums)
    slides.make(["05"], tmp_path / "out", offline=True)
    page = (tmp_path / "out" / "05_geglu.html").read_text(encoding="utf-8")
    loads = r'<(?:script|link|img|iframe)\b[^>]*(?:src|href)="(?!data:)'  # what a browser fetches by itself
    assert not re.search(loads, page), "something is linked"
    for _, member in slides.INSIDE.values():
        assert f"/* {member}" in page
    assert page.count("</script>") == page.count("<script>")


def test_a_package_that_cannot_be_fetched_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "cache_folder", lambda: tmp_path / "none")
    monkeypatch.setattr(slides, "address", lambda name: f"http://127.0.0.1:9/{name}")
    with pytest.raises(SystemExit, match=r"cannot fetch http://127.*put it into .*none"):
        slides.make(["05"], tmp_path, offline=True)
    assert not list(tmp_path.rglob("*.html")) and not list(tmp_path.rglob("*.part"))


def test_addresses_of_the_packages():
    assert (
        slides.address(slides.REVEAL)
        == "https://registry.npmjs.org/reveal.js/-/reveal.js-5.2.1.tgz"
    )
    assert (
        slides.address(slides.MATHJAX) == "https://registry.npmjs.org/mathjax/-/mathjax-3.2.2.tgz"
    )


def test_an_unknown_lesson_is_an_error(tmp_path):
    with pytest.raises(
        SystemExit, match="no notebook is called 99; there are: 00_start_here, .*14_experiments"
    ):
        main(["slides", "02", "99", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_pages_go_to_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "cache_folder", lambda: tmp_path)
    slides.make(["05"])
    assert [path.name for path in (tmp_path / "slides").iterdir()] == ["05_geglu.html"]
