"""The maintainer's command line: `python -m utils.course …`

execute [LESSON …]   run lessons and solved exercises (default: all), store their outputs, print seconds
set-repo URL         point every badge and set-up cell at another GitHub repository (a fork)
release [EXERCISE …] let nbgrader make the student copies of the exercises (default: all)
student-copy FOLDER  the course without solutions, hidden tests and model answers, to publish for a class
grade FOLDER         grade a folder of submissions: points, feedback pages, what could not be graded
benchmark-video [FOLDER]   frames per second of read_frames beside PyAV's, on the same files
slides [LESSON …] [--out FOLDER] [--offline] [--reveal PREFIX]   lecture slides from stored outputs (slides.py)
"""

import argparse
import hashlib
import re
import sys
import time
import tomllib
from pathlib import Path

import nbformat

from utils.paths import ROOT, write_text

NOTEBOOKS = ROOT / "notebooks"

# The first code cell of every lesson, to the letter (a test compares them).
SETUP_CELL = """\
# Set-up: find the course, or fetch it once where this notebook came alone (Colab, Kaggle, a download).
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


def execute(names=()):
    """Run lessons and solved exercises in a kernel each, store outputs, print seconds.

    A notebook that fails stays as it was.
    """
    from nbclient import NotebookClient

    solved = sorted((NOTEBOOKS / "exercises" / "source").glob("*/*.ipynb"))
    chosen = [
        path
        for path in lessons() + solved
        if not names or any(path.stem.startswith(Path(n).stem) for n in names)
    ]
    if not chosen:
        raise SystemExit(
            f"no lesson is called {', '.join(names)}; there are: {', '.join(p.stem for p in lessons())}"
        )
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


def main(arguments=None):
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.course",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("execute").add_argument("lessons", nargs="*")
    commands.add_parser("set-repo").add_argument("url")
    commands.add_parser("release").add_argument("exercises", nargs="*")
    commands.add_parser("student-copy").add_argument("folder", type=Path)
    grading = commands.add_parser("grade")
    grading.add_argument("folder", type=Path, help="FOLDER/STUDENT/….ipynb or FOLDER/STUDENT.ipynb")
    grading.add_argument("--out", type=Path, help="where the results go (default: FOLDER-graded)")
    grading.add_argument("--seconds", type=int, default=60, help="limit for one cell")
    grading.add_argument("--minutes", type=float, default=10, help="limit for one notebook")
    grading.add_argument("--memory", type=float, default=4, help="limit for one notebook, in GB")
    commands.add_parser("benchmark-video").add_argument("folder", nargs="?", type=Path)
    slides = commands.add_parser("slides")
    slides.add_argument("lessons", nargs="*")
    slides.add_argument("--out", type=Path, help="where the pages go; default: data/cache/slides")
    slides.add_argument("--offline", action="store_true",
                        help="put reveal.js and MathJax into the pages (fetched once, 8 MB)")  # fmt: skip
    slides.add_argument("--reveal", metavar="PREFIX", help="address or path of another reveal.js")
    given = parser.parse_args(arguments)
    if given.command == "execute":
        execute(given.lessons)
    elif given.command == "set-repo":
        set_repo(given.url)
    elif given.command == "slides":
        from utils.slides import make

        make(given.lessons, given.out, given.reveal, given.offline)
    elif given.command == "release":
        from utils.exercises import make_release

        for path in make_release(given.exercises):
            print(path.relative_to(ROOT))
    elif given.command == "student-copy":
        from utils.exercises import student_copy

        print(f"{student_copy(given.folder)}: the course without its solutions")
    elif given.command == "grade":
        from utils.grading import grade

        grade(given.folder, given.out, given.seconds, given.minutes, given.memory)
    else:
        from utils.benchmark import benchmark_video

        benchmark_video(given.folder)


if __name__ == "__main__":
    sys.exit(main())
