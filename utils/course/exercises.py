"""The exercises: where they are, what nbgrader makes of them, and their tasks one by one.

notebooks/exercises/source/NAME/NAME_exercises.ipynb holds the solutions and the hidden tests;
release/NAME/NAME_exercises.ipynb, without both, is what students get. nbgrader (the extra
`instructor`) turns one into the other.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat

from utils.course.notebooks import NOTEBOOKS
from utils.paths import ROOT, whole_file, write_text

EXERCISES = NOTEBOOKS / "exercises"
STUB = 'raise NotImplementedError("write your answer here")'  # as in nbgrader_config.py
REGION = re.compile(r"^([ \t]*)### BEGIN SOLUTION\n.*?\n[ \t]*### END SOLUTION", re.M | re.S)
MARKING = re.compile(r"^[ \t]*### (BEGIN|END) SOLUTION\n?|^\*Mark scheme: .*?\*$", re.M | re.S)
HIDDEN = re.compile(r"^### BEGIN HIDDEN TESTS\n.*?\n### END HIDDEN TESTS\n?", re.M | re.S)


@dataclass(frozen=True)
class Task:
    """One task of an exercise: its text, its answer as solved in the source, and its check."""

    name: str  # such as "02-attend", nbgrader's id of the answer cell
    title: str
    points: int
    text: str
    answer: str
    check: str | None  # None: graded by hand


def exercises():
    """The names of all exercises, such as "02_attention", in reading order."""
    return sorted(path.parent.name for path in (EXERCISES / "release").glob("*/*_exercises.ipynb"))


def named(given):
    """The names of exercises that are given as "02", "02_attention" or "02_attention_exercises"; None stays.

    SystemExit for one that there is not.
    """
    if given is None:
        return None
    found = {name[:2]: name for name in exercises()}
    for one in given:
        name = found.get(one[:2])
        if name is None or one not in (name[:2], name, f"{name}_exercises"):
            raise SystemExit(f"no exercise is called {one}; there are: {', '.join(exercises())}")
    return [found[one[:2]] for one in given]


def source(name):
    """The solved notebook of an exercise."""
    return EXERCISES / "source" / name / f"{name}_exercises.ipynb"


def release(name):
    """The student copy of an exercise."""
    return EXERCISES / "release" / name / f"{name}_exercises.ipynb"


def grade_id(cell):
    """nbgrader's id of a cell, or None."""
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def tasks(notebook):
    """The tasks of a solved exercise, in order."""
    found, text = [], ""
    cells = {grade_id(cell): cell for cell in notebook.cells}
    for cell in notebook.cells:
        marks = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "markdown" and not marks:
            text = cell.source
        elif marks.get("solution"):
            check = cells.get(f"{marks['grade_id']}-check")
            points = (check or cell).metadata["nbgrader"]["points"]
            title = re.match(r"## \d+\. (.*)", text)[1]
            found.append(
                Task(marks["grade_id"], title, points, text, cell.source, check and check.source)
            )
    return found


@contextmanager
def course_directory(names):
    """A temporary nbgrader course that holds the sources of `names`; yields its API and folder."""
    try:
        from nbgrader.apps import NbGraderAPI
    except ImportError as error:
        raise SystemExit('nbgrader is missing: pip install -e ".[instructor]"') from error
    from traitlets.config import PyFileConfigLoader

    path = os.environ["PATH"]
    # nbgrader runs `alembic` by name, which is found only when the environment is active
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), path])
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                shutil.copytree(source(name).parent, Path(folder, "source", name))
            config = PyFileConfigLoader(str(EXERCISES / "nbgrader_config.py")).load_config()
            config.CourseDirectory.root = folder
            config.CourseDirectory.db_url = f"sqlite:///{folder}/gradebook.db"
            config.Application.log_level = "ERROR"
            yield NbGraderAPI(config=config), Path(folder)
    finally:
        os.environ["PATH"] = path


def make_release(names=(), into=None):
    """Let nbgrader make the student copies of exercises (default: all) in `into` (default: release/).

    SystemExit for an unknown name, or when nbgrader refuses a notebook; nothing is written then.
    """
    solved = sorted(path.parent.name for path in (EXERCISES / "source").glob("*/*_exercises.ipynb"))
    if not solved:
        raise SystemExit(f"{EXERCISES / 'source'}: no solutions here; is this the students' copy?")
    unknown = sorted(set(names) - set(solved))
    if unknown:
        raise SystemExit(
            f"no exercise is called {', '.join(unknown)}; there are: {', '.join(solved)}"
        )
    names = list(names) or solved
    into = EXERCISES / "release" if into is None else Path(into)
    with course_directory(names) as (nbgrader, folder):
        for name in names:
            result = nbgrader.generate_assignment(name)
            if not result["success"]:
                raise SystemExit(f"{source(name)}: nbgrader cannot release it\n{result['log']}")
        for name in names:
            for path in (folder / "release" / name).glob("*.ipynb"):
                target = into / name / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                notebook = nbformat.read(path, as_version=4)
                write_text(target, nbformat.writes(notebook) + "\n")
    return [into / name / f"{name}_exercises.ipynb" for name in names]


SEEDS = re.compile(r"(?<=^for seed in range\()(\d+), (\d+)(?=\):$)", re.M)


def set_seeds(first):
    """Let the hidden tests of all exercises begin with the seed `first`; returns how many loops that are.

    Seeds make random numbers, and choose among a few sizes, so any whole number from 1 on will do (0 is
    the visible check's). SystemExit for another one; nothing is written then.
    """
    if first < 1:
        raise SystemExit(
            f"seeds: choose a whole number from 1 on, not {first} (0 is the visible check's)"
        )

    def moved(loop):
        return f"{first}, {first + int(loop[2]) - int(loop[1])}"

    loops = 0
    for path in sorted((EXERCISES / "source").glob("*/*_exercises.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.source = HIDDEN.sub(lambda part: SEEDS.sub(moved, part[0]), cell.source)
                loops += sum(len(SEEDS.findall(part[0])) for part in HIDDEN.finditer(cell.source))
        write_text(path, nbformat.writes(notebook) + "\n")
    if not loops:
        raise SystemExit(f"{EXERCISES / 'source'}: no solutions here; is this the students' copy?")
    return loops


# What a students' copy of the course does not have: solutions, hidden tests, model answers, and the grader
# with its tests, in which answers and tricks stand.
PRIVATE = ("notebooks/exercises/source/", "notebooks/exercises/README.md", "utils/tests/answers/", "utils/grading/",
           "utils/tests/test_exercises.py", "utils/tests/test_grading.py", "utils/tests/test_guard.py")  # fmt: skip
PAGE = "notebooks/exercises/README.md"
# of README.md: what is there for instructors and maintainers only
MAINTAINERS = re.compile(
    r"^## For maintainers\n.*?(?=^## )|; for instructors \[[^]]*\]\([^)]*\)|, \[grading\]\(utils/grading\)",
    re.M | re.S,
)
NOTE = ".students-copy"  # in a students' copy: the names of the course's own files, a line each
FOR_STUDENTS = """\
# Exercises

One notebook a lesson, in [release](release), each with a Colab badge. Write where it says
`raise NotImplementedError`, run the cell, then run the check right below it: it tells you what
is wrong. When you are done, choose *Restart kernel and run all cells*, download the notebook
(in Colab: *File → Download → Download .ipynb*) and hand in that file. Leave the given cells as they are.

Your notebook will be run again from top to bottom, with more tests than you see: a cell has a minute, a notebook
ten minutes and 4 GB, and neither the network nor other files can be reached. (Your instructor may have set other
limits.) What the checks compare with can be read in `utils/checks`: keep it for after your own attempt.
"""


def student_copy(folder):
    """Copy the course without its solutions to `folder`, to be published as a repository of its own.

    The files that git tracks are copied, as they are now; the history, which holds the solutions, is
    not. An earlier students' copy is brought up to date in place: the course's files are written
    again, those that the course no longer has are removed, and nothing else is touched, neither the
    copy's own history nor files that an instructor has added. SystemExit when the folder holds
    something else, or this is not a git checkout; nothing is written then.
    """
    folder = Path(folder).resolve()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    names = [name for name in listed.stdout.decode("utf-8").split("\0") if name]
    files = [n for n in names if (ROOT / n).is_file() and not n.startswith(PRIVATE)]
    if not files:
        said = listed.stderr.decode("utf-8", "replace").strip()
        raise SystemExit(
            f"{ROOT}: git lists no files here; clone the course with git first. {said}".strip()
        )
    if folder.exists():
        _bring_up_to_date(folder, files)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as part:
        whole = Path(part, folder.name)
        _write_copy(whole, files)
        os.rename(whole, folder)
    return folder


def _bring_up_to_date(folder, files):
    """Write the course's files into an earlier students' copy, and remove what it no longer has."""
    note, page = folder / NOTE, folder / PAGE
    if note.is_file():
        before = note.read_text(encoding="utf-8").splitlines()
    elif page.is_file() and page.read_text(encoding="utf-8").startswith(
        "# Exercises\n\nOne notebook a lesson"
    ):
        before = []  # made before copies had a note: nothing in it is removed
    else:
        raise SystemExit(f"{folder}: already there, and no students' copy; choose a new folder")
    _write_copy(folder, files, known=before)
    for name in set(before) - {*files, PAGE}:
        place = (folder / name).resolve()
        if place.is_relative_to(folder):  # a note that somebody edited must not reach outside
            place.unlink(missing_ok=True)
    write_text(note, "\n".join(sorted({*files, PAGE})) + "\n")


def _write_copy(folder, files, known=()):
    # the note first: an update that is cut short still knows which files are the course's
    write_text(folder / NOTE, "\n".join(sorted({*known, *files, PAGE})) + "\n")
    for name in files:
        with whole_file(folder / name, flush=False) as part:
            shutil.copy2(ROOT / name, part)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    write_text(folder / "README.md", MAINTAINERS.sub("", readme))
    write_text(folder / PAGE, FOR_STUDENTS)


def stub(answer):
    """An answer cell as students get it."""
    return REGION.sub(lambda match: match[1] + STUB, answer)


def publish_solutions(folder, names=None):
    """Write solved exercises to `folder`, to be given to a class: answers, model answers and visible checks,
    without hidden tests, mark schemes and nbgrader's lines. Returns the files.

    Their headings say so, the badge (of the exercise, which is empty) goes, and the lesson's link leads to it on
    the web, so that they can lie anywhere."""
    folder, written = Path(folder), []
    for name in named(names) or exercises():
        notebook = nbformat.read(source(name), as_version=4)
        head = notebook.cells[0]
        badge = BADGE.search(head.source)
        for cell in notebook.cells:
            cell.source = MARKING.sub("", visible(cell.source)).rstrip("\n")
            if badge:
                web = f"https://github.com/{badge['repository']}/blob/main/notebooks/"
                cell.source = cell.source.replace("](../../../", f"]({web}")
        head.source = BADGE.sub("", head.source).replace("Exercises:", "Solutions:", 1)
        told = (
            "One right answer to each task, with the check that passes it; others are right, too."
        )
        head.source = re.sub(r"^Write where it says .*", told, head.source, flags=re.M)
        path = folder / f"{name}_solutions.ipynb"
        write_text(path, nbformat.writes(notebook) + "\n")
        written.append(path)
    return written


BADGE = re.compile(r"^\[!\[Open in Colab\]\([^)]*\)\]\([^)]*/github/(?P<repository>[^/]+/[^/]+)/[^)]*\)\n\n", re.M)  # fmt: skip


def visible(check):
    """A check cell as students get it."""
    return HIDDEN.sub("", check).rstrip("\n")
