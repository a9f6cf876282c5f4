"""The lessons as files: which there are, their set-up cell and badges, running them, storing outputs."""

import hashlib
import re
import time
import tomllib
from pathlib import Path

import nbformat

from utils.paths import ROOT, write_text

NOTEBOOKS = ROOT / "notebooks"

# The first code cell of every lesson, to the letter (a test compares them), folded: by its metadata in JupyterLab,
# by `@title` and its metadata in Colab. Its marker is frozen: notebooks that
# people have downloaded find the course by it.
SETUP_CELL = """\
# @title Set-up: find the course, or fetch it once where this notebook came alone (Colab, Kaggle, a download).
import os, subprocess, sys
from pathlib import Path

REPO = "{repo}"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads: its threads sleep while they wait

def is_course(place):
    file = place / "utils" / "model.py"
    return file.is_file() and b"TimeSformer from scratch" in file.read_bytes()

here = Path.cwd()
places = [*(here, *here.parents), here / Path(REPO).name]
course = next(filter(is_course, places), None)
if course is None:
    course = places[-1]
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", REPO, str(course)], check=True)
if str(course) not in sys.path:
    sys.path.insert(0, str(course))"""

FOLDED = {"jupyter": {"source_hidden": True}, "cellView": "form"}


def repository():
    """The repository's address, as pyproject.toml gives it: "https://github.com/OWNER/NAME"."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"][
        "Repository"
    ]


def badge(path, repo):
    """The Colab badge of a notebook, in Markdown; `path` is relative to the repository."""
    slug = repo.removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{slug}/blob/main/{path}"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({link})"


def lessons():
    """The lessons in reading order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def solved_exercises():
    """The exercise notebooks with their solutions; none in a students' copy."""
    return sorted((NOTEBOOKS / "exercises" / "source").glob("*/*.ipynb"))


def choose(names, paths):
    """The notebooks that are meant: a name is the beginning of a file's name, as "02"; no names: all.

    SystemExit for a name that none begins with.
    """
    for name in names:
        if not any(path.stem.startswith(Path(name).stem) for path in paths):
            there = ", ".join(path.stem for path in paths)
            raise SystemExit(f"no notebook is called {name}; there are: {there}")
    beginnings = [Path(name).stem for name in names] or [""]
    return [path for path in paths if any(path.stem.startswith(start) for start in beginnings)]


def execute(names=()):
    """Run lessons and solved exercises in a kernel each, store outputs, print seconds.

    A notebook that fails stays as it was.
    """
    from nbclient import NotebookClient

    chosen = choose(names, lessons() + solved_exercises())
    total = 0.0
    for path in chosen:
        notebook = nbformat.read(path, as_version=4)
        started = time.perf_counter()
        client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": path.parent}},
                                kernel_name="python3", record_timing=False, coalesce_streams=True)  # fmt: skip
        client.execute()
        seconds = time.perf_counter() - started
        total += seconds
        write_text(path, nbformat.writes(tidy(notebook)) + "\n")
        print(f"{path.stem:28} {seconds:6.1f} s", flush=True)
    print(f"{'all together':28} {total:6.1f} s")


def tidy(notebook):
    """Keep what a reader sees, drop what only this run's kernel knows (progress bars, versions)."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [
                o
                for o in cell.outputs
                if "application/vnd.jupyter.widget-view+json" not in o.get("data", {})
            ]
    return notebook


def _with_new_checksums(text):
    """A student copy whose set-up cell has changed, with the checksums that nbgrader would give it."""
    notebook = nbformat.reads(text, as_version=4)
    for cell in notebook.cells:
        marks = cell.metadata.get("nbgrader", {})
        if "checksum" in marks:  # as nbgrader.utils.compute_checksum; a fork needs no nbgrader
            locked = not marks["solution"] and (marks["grade"] or marks["locked"])
            parts = [
                cell.source,
                cell.cell_type,
                marks["grade"],
                marks["solution"],
                locked,
                marks["grade_id"],
            ]
            parts += [float(marks["points"])] if marks["grade"] else []
            marks["checksum"] = hashlib.md5("".join(map(str, parts)).encode()).hexdigest()
    return nbformat.writes(notebook) + "\n"


def set_repo(url):
    """Write a new address to pyproject.toml, README.md and every notebook."""
    new = url.removesuffix("/").removesuffix(".git")
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", new):
        raise SystemExit(f"{url}: not an address like https://github.com/OWNER/NAME")
    old_slug, new_slug = (
        address.removeprefix("https://github.com/") for address in (repository(), new)
    )
    files = [
        ROOT / "README.md",
        *sorted(NOTEBOOKS.rglob("*.ipynb")),
        *sorted(NOTEBOOKS.rglob("*.md")),
        ROOT / "pyproject.toml",
    ]  # the source of truth last
    for path in files:
        text = path.read_text(encoding="utf-8")
        for prefix in ("https://github.com/", "https://colab.research.google.com/github/"):
            text = re.sub(re.escape(prefix + old_slug) + r"(?![\w-])", prefix + new_slug, text)
        if path.suffix == ".ipynb" and '"checksum"' in text:
            text = _with_new_checksums(text)
        write_text(path, text)
    print(f"{len(files)} files now point at {new}")
