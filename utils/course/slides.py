"""Lecture slides from the lessons: reveal.js pages through nbconvert, from stored outputs; nothing is run.

What a cell shows stands in its metadata (JupyterLab: the property inspector, "Advanced tools"):

slideshow.slide_type   as everywhere in Jupyter: "slide" and "subslide" begin a slide, "-" goes on with
                       it, "fragment" appears on the next key, "notes" is for the speaker, "skip" for readers
slide                  a list of Markdown texts, one a slide. A text cell shows them, and its prose becomes
                       the speaker's notes: a text whose heading begins like one of the cell's headings
                       takes the prose from there on. A code cell shows them above its code and output;
                       more than one, and each takes one picture.
slide_code: "hide"     no code, only what came out
slide_output: "hide", "text", "pictures"    nothing of what came out, or only this kind
"""

import hashlib
import re
import tarfile
import urllib.error
import urllib.request
from copy import deepcopy
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter

from utils.course.notebooks import choose, lessons
from utils.paths import cache_folder, whole_file, write_text

TEMPLATE = Path(__file__).with_name("slides.html.j2")
REVEAL, MATHJAX = "reveal.js-5.2.1.tgz", "mathjax-3.2.2.tgz"
SHA512 = {  # of what npm has: `npm view PACKAGE dist.integrity`, in hexadecimal
    REVEAL: "afbfffea620ce69df884588332f61f5e0ca35ea191b5afbfa6c77d62dcadb204"
    "65ae947316fe116c7efa4d7776a83fbb64f6446e904385d46125a1607d0ef335",
    MATHJAX: "06df9249553c7811b6ef30a155ec0e89c62ced7b1db78d2a9b8f94a47c97ee4d"
    "3f3bd36588f73ec7bee4d7f144b0fb2328f64626fb5164cd6f3be81e5b43a11b",
}
INSIDE = {  # name in the template -> package, file
    "reveal_css": (REVEAL, "package/dist/reveal.css"),
    "reveal_js": (REVEAL, "package/dist/reveal.js"),
    "notes_js": (REVEAL, "package/plugin/notes/notes.js"),
    "mathjax_js": (MATHJAX, "package/es5/tex-svg.js"),
}
BADGE = re.compile(r"^\[!\[Open in Colab\].*\n+", re.M)


def address(package):
    """Where npm keeps a package, by the file name that `npm pack` gives it."""
    return f"https://registry.npmjs.org/{package.rpartition('-')[0]}/-/{package}"


def slide_type(cell):
    return cell.metadata.get("slideshow", {}).get("slide_type", "-")


def is_picture(output):
    return any(kind.startswith("image/") or kind == "text/html" for kind in output.get("data", {}))


def parts_of(prose):
    """Cut prose at its headings: [(heading, text with its heading)]; what comes before has the heading ""."""
    parts = re.split(r"^(?=#{1,4} )", BADGE.sub("", prose), flags=re.M)
    found = [(title(part), part) for part in parts if part.strip()]
    return found if found and not found[0][0] else [("", ""), *found]


def title(text):
    return re.match(r"(?:#+ (.*))?", text)[1] or ""


def with_notes(texts, prose):
    """[(text, its prose, whether it repeats a heading of the prose)]; and the prose before the first."""
    parts = parts_of(prose)
    starts, place = [], 0
    for text in texts:
        headings = [heading or None for heading, _ in parts]
        same = [k for k, name in enumerate(headings) if name and title(text).startswith(name)]
        place = same[0] if same else place
        starts.append((place, bool(same)))
    found = []
    for text, (start, same) in zip(texts, starts):
        end = min((other for other, _ in starts if other > start), default=len(parts))
        found.append((text, "".join(part for _, part in parts[start:end]), same))
    return found, "".join(part for _, part in parts[: starts[0][0]])


def code_parts(cell, texts):
    """A code cell, or one for each of several texts: code and text stay first, the last take a picture each."""
    wanted = cell.metadata.get("slide_output", "all")
    outputs = deepcopy(cell.outputs)
    written = [o for o in outputs if not is_picture(o) and wanted in ("all", "text")]
    pictures = [o for o in outputs if is_picture(o) and wanted in ("all", "pictures")]
    count = max(1, len(texts))
    before = max(0, count - len(pictures)) if count > 1 else 0  # texts without a picture
    for k in range(count):
        part = nbformat.v4.new_code_cell(cell.source if k == 0 else "")
        mine = pictures[k - before : k - before + 1] if k >= before else []
        part.outputs = (written if k == 0 else []) + (pictures if count == 1 else mine)
        if k or cell.metadata.get("slide_code") == "hide":
            part.metadata["transient"] = {"remove_source": True}  # what nbconvert looks for
        yield part


def slides(notebook):
    """The lesson as a list of slides: dicts of `cells` and `notes`."""
    found = []

    def add(cell, kind, notes=""):
        if not found or kind in ("slide", "subslide"):
            found.append(dict(cells=[], notes=[]))
        cell.metadata["slideshow"] = {"slide_type": kind}
        found[-1]["cells"].append(cell)
        found[-1]["notes"].append(notes)

    for cell in notebook.cells:
        kind, texts = slide_type(cell), cell.metadata.get("slide", [])
        if kind == "notes" and found:
            found[-1]["notes"].append(cell.source)
        elif kind not in ("notes", "skip") and cell.cell_type == "code":
            for k, part in enumerate(code_parts(cell, texts)):
                if texts:
                    add(nbformat.v4.new_markdown_cell(texts[k]), "subslide" if k else kind)
                add(part, "-" if texts else kind)
        elif kind not in ("notes", "skip"):
            alone = [(cell.source, "", False)], ""  # a text that is short enough as it is
            pairs, before = with_notes(texts, cell.source) if texts else alone
            if found:
                found[-1]["notes"].append(before)
            for k, (text, notes, same) in enumerate(pairs):
                its_kind = kind if k == 0 else "slide" if same else "subslide"
                add(nbformat.v4.new_markdown_cell(BADGE.sub("", text)), its_kind, notes)
    return found


def timing(deck, minutes):
    """Seconds for each slide, for the speaker's clock: the more there is to say, read and think about, the longer."""

    def weight(slide):  # in words
        words = " ".join([*slide["notes"], *(cell.source for cell in slide["cells"])])
        return 20 + len(words.split()) + 40 * words.count("**Predict")

    weights = [weight(slide) for slide in deck]
    return [round(60 * minutes * one / sum(weights)) for one in weights]


def minutes_of(notebook):
    """The reading time at the head of a lesson, in minutes: about what its lecture takes."""
    return int(re.search(r"\*\*Time:\*\* (\d+) minutes to read", notebook.cells[0].source)[1])


def deck(notebook):
    """A notebook that holds the slides and nothing else, notes last on each: what the exporter gets."""
    cells = []
    for slide in slides(notebook):
        cells += slide["cells"]
        if text := "\n\n".join(note.strip() for note in slide["notes"] if note.strip()):
            note = nbformat.v4.new_markdown_cell(text)
            note.metadata["slideshow"] = {"slide_type": "notes"}
            cells.append(note)
    return nbformat.v4.new_notebook(cells=cells, metadata=deepcopy(notebook.metadata))


def packages():
    """The texts that a page without a network needs; the two packages are fetched once, and checked."""
    folder = cache_folder() / "reveal"
    for name, digest in SHA512.items():
        file = folder / name
        if not file.exists():
            print("fetching", address(name), flush=True)
            try:
                with urllib.request.urlopen(address(name), timeout=60) as answer:
                    data = answer.read()
                with whole_file(file) as part:
                    part.write_bytes(data)
            except (urllib.error.URLError, TimeoutError) as error:
                raise SystemExit(f"cannot fetch {address(name)} ({error}); with another machine's "
                                 f"browser download it and put it into {folder}") from None  # fmt: skip
        if hashlib.sha512(file.read_bytes()).hexdigest() != digest:
            raise SystemExit(f"{file} is not the file that npm has: delete it and try again")
    texts = {}
    for key, (name, member) in INSIDE.items():
        with tarfile.open(folder / name) as archive:
            text = archive.extractfile(member).read().decode()
        texts[key] = text.replace("</script", r"<\/script")
    return texts


def make(names=(), out=None, reveal=None, offline=False, minutes=None):
    """Write one page a lesson to the folder `out`. `reveal`: where reveal.js is, an address or a path.
    `minutes`: what the speaker's clock shares out; the lesson's reading time unless given.
    """
    if minutes is not None and minutes < 1:
        raise SystemExit(f"a lecture of {minutes} minutes? --minutes takes a whole number from 1")
    out = Path(out or cache_folder() / "slides")
    inside = packages() if offline else {}
    exporter = SlidesExporter(template_file=str(TEMPLATE), exclude_input_prompt=True,
                              exclude_output_prompt=True, exclude_anchor_links=True)  # fmt: skip
    exporter.reveal_url_prefix = reveal or f"https://unpkg.com/reveal.js@{REVEAL[10:-4]}"
    for path in choose(names, lessons()):
        notebook = nbformat.read(path, as_version=4)
        length, made = minutes or minutes_of(notebook), slides(notebook)
        resources = {
            "metadata": {"name": path.stem},
            "inside": inside,
            "timing": timing(made, length),
        }
        page, _ = exporter.from_notebook_node(deck(notebook), resources)
        file = out / f"{path.stem}.html"
        write_text(file, page)
        print(f"{file}  {len(made)} slides, {length} minutes", flush=True)
