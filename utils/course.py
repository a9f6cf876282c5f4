"""The maintainer's command line: `python -m utils.course …`

execute [LESSON …]   run lessons (default: all) and store their outputs; prints a table of seconds
set-repo URL         point every badge and set-up cell at another GitHub repository (a fork)
release [EXERCISE …] let nbgrader make the student copies of the exercises (default: all)
benchmark-video [FOLDER]   frames per second of read_frames beside PyAV's, on the same files
"""

import argparse
import os
import re
import sys
import time
import tomllib
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"

# The first code cell of every lesson, to the letter (a test compares them).
SETUP_CELL = """\
# Set-up: find the course, or fetch it once where this notebook came alone (Colab, Kaggle, a download).
import subprocess, sys
from pathlib import Path

REPO = "{repo}"
here = Path.cwd()
places = [*(here, *here.parents), here / Path(REPO).name]
course = next((p for p in places if (p / "utils" / "course.py").is_file()), None)
if course is None:
    course = places[-1]
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", REPO, str(course)], check=True)
if str(course) not in sys.path:
    sys.path.insert(0, str(course))"""


def repository():
    """The repository's address, as pyproject.toml gives it: "https://github.com/OWNER/NAME"."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def badge(path, repo):
    """The Colab badge of a notebook, in Markdown; `path` is relative to the repository."""
    slug = repo.removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{slug}/blob/main/{path}"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({link})"


def lessons():
    """The lessons in reading order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def _replace(path, text):
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def execute(names=()):
    """Run lessons in a kernel each, store outputs, print seconds. A lesson that fails stays as it was."""
    from nbclient import NotebookClient

    chosen = [
        path
        for path in lessons()
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
        _replace(path, nbformat.writes(tidy(notebook)) + "\n")
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
        ROOT / "pyproject.toml",
    ]  # the source of truth last
    for path in files:
        text = path.read_text(encoding="utf-8")
        for prefix in ("https://github.com/", "https://colab.research.google.com/github/"):
            text = re.sub(re.escape(prefix + old_slug) + r"(?![\w-])", prefix + new_slug, text)
        _replace(path, text)
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
    commands.add_parser("benchmark-video").add_argument("folder", nargs="?", type=Path)
    given = parser.parse_args(arguments)
    if given.command == "execute":
        execute(given.lessons)
    elif given.command == "set-repo":
        set_repo(given.url)
    elif given.command == "release":
        from utils.exercises import make_release

        for path in make_release(given.exercises):
            print(path.relative_to(ROOT))
    else:
        from utils.benchmark import benchmark_video

        benchmark_video(given.folder)


if __name__ == "__main__":
    sys.exit(main())
