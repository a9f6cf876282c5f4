"""Handed-in files: whose they are, which exercise each is, and what must be repaired before grading.

A file is known by nbgrader's ids in its cells, never by its name: downloads rename files, and Colab
drops a notebook's own metadata. What can be put back without guessing is put back and noted; what
cannot is refused with a reason.
"""

import ast
import json
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

from utils.course import exercises

LARGEST = 100 * 2**20  # bytes; a notebook of this course without its pictures has some 20 thousand
NEW_CELL = {"code": new_code_cell, "markdown": new_markdown_cell, "raw": new_raw_cell}
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
FRESH = "ask for the notebook again, made from a fresh copy of the exercise"


AGAIN = "Copy your answers into a fresh copy of the exercise, and hand in that file."
NOTEBOOK = re.compile(r"\.ipynb(\.txt|\.json)?$", re.I)  # some browsers add an ending of their own
# what may lie beside a notebook without being an answer
BESIDE = {".png", ".jpg", ".jpeg", ".gif", ".mp4", ".avi", ".mkv", ".mov", ".webm", ".csv", ".npy", ".npz", ".pt", ".safetensors", ".pyc"}  # fmt: skip


class Refused(Exception):
    """A file that cannot be graded: why, what the instructor should do, and what the student should."""

    def __init__(self, reason, advice, student="Please ask your instructor."):
        super().__init__(reason)
        self.reason, self.advice, self.student = reason, advice, student
        self.exercise = None  # known as soon as the file's cells are


@dataclass(frozen=True)
class Task:
    """One line of the points table: "attend", its cells, and what it is worth."""

    name: str
    title: str  # as its heading says, "2. Write attend"
    answer: str  # nbgrader's id of the answer cell
    graded: str  # … of the cell that holds the points: the check, or the answer itself
    points: float
    by_hand: bool

    @property
    def stretch(self):
        """Whether it is a bonus."""
        return "Stretch" in self.title


@dataclass(frozen=True)
class Exercise:
    """An exercise as students got it: cells maps nbgrader's ids to the release's cells, in order."""

    name: str
    notebook: nbformat.NotebookNode
    cells: dict
    tasks: tuple

    @property
    def heading(self):
        """What its notebook is called, such as "02 · Exercises: attention"."""
        return self.notebook.cells[0].source.partition("\n")[0].removeprefix("# ")

    @property
    def core(self):
        """Its points without the stretch task."""
        return sum(task.points for task in self.tasks if not task.stretch)


@dataclass
class Submission:
    """A file that can be graded: cleaned of all that is not its text, with notes on what was repaired."""

    exercise: Exercise
    notebook: nbformat.NotebookNode
    notes: list = field(default_factory=list)


def marks(cell):
    """nbgrader's metadata of a cell, {} where there is none or it is no dictionary."""
    found = cell.get("metadata", {}).get("nbgrader")
    return found if isinstance(found, dict) and isinstance(found.get("grade_id"), str) else {}


def read_exercise(name):
    """The exercise called `name` ("02_attention"), from its student copy."""
    notebook = nbformat.read(exercises.release(name), as_version=4)
    cells = {marks(cell)["grade_id"]: cell for cell in notebook.cells if marks(cell)}
    tasks, answer, title = [], None, ""
    for cell in notebook.cells:
        heading = re.match(r"## (\d+\. .*)", cell.source)
        if heading and cell.cell_type == "markdown" and not marks(cell):
            title = heading[1]
        grade_id = marks(cell).get("grade_id")
        if marks(cell).get("solution"):
            answer = grade_id
        if marks(cell).get("grade"):
            by_hand = marks(cell)["solution"]
            short = grade_id.partition("-")[2]
            short = short if by_hand else short.removesuffix("-check")
            points = float(marks(cell)["points"])
            tasks.append(Task(short, title or short, answer, grade_id, points, by_hand))
    return Exercise(name, notebook, cells, tuple(tasks))


# Whose file is it? ---------------------------------------------------------------------------------


def handed_in(folder):
    """(student, file) pairs, sorted: FOLDER/STUDENT/**/*.ipynb and FOLDER/STUDENT.ipynb.

    Other files in a student's folder that may have been meant as answers are there, too, to be refused. A
    folder without a notebook stands with one of the files it has instead, or itself.
    """
    found, without = [], []
    for entry in sorted(Path(folder).iterdir()):
        if entry.name.startswith((".", "__MACOSX")):
            continue
        if entry.is_dir() and not entry.is_symlink():
            files = [
                path for path in sorted(entry.rglob("*")) if path.is_file() and _wanted(path, entry)
            ]
            notebooks = [path for path in files if NOTEBOOK.search(path.name)]
            others = [path for path in files if path not in notebooks and path.suffix.lower() not in BESIDE]  # fmt: skip
            student = unicodedata.normalize("NFC", entry.name)
            found += [(student, path) for path in notebooks + others if notebooks]
            without += [] if notebooks else [(student, files[0] if files else entry)]
        else:
            found.append((unicodedata.normalize("NFC", NOTEBOOK.sub("", entry.name)), entry))
    return sorted(found + without)


def _wanted(path, student):
    parts = path.relative_to(student).parts
    return not any(part.startswith((".", "__MACOSX", "__pycache__")) for part in parts)


# What does it hold? --------------------------------------------------------------------------------


def read_cells(path):
    """A notebook file's cells, as plain dictionaries with type, source, metadata and attachments.

    Refused for what is no notebook. Nothing else of the file is used: outputs are made again, and
    tags can tell the grader to skip a cell.
    """
    if not NOTEBOOK.search(path.name):
        what = "an empty folder" if path.is_dir() else f"a {path.suffix or 'nameless kind of'} file"
        raise Refused(f"{what}, not a notebook", "if it was meant as an answer, ask for the .ipynb file")  # fmt: skip
    if path.is_symlink():
        raise Refused("a link to somewhere else, not a file", "ask for the .ipynb file")
    if path.stat().st_size > LARGEST:
        raise Refused(f"larger than {LARGEST // 2**20} MB", "ask for it with its outputs cleared")
    try:
        notebook = json.loads(path.read_bytes().decode("utf-8-sig"))
        # half a character ("\ud800") is legal in JSON, and can be written nowhere
        notebook = json.loads(json.dumps(notebook, ensure_ascii=False).encode("utf-8", "replace"))
    except OSError as error:
        raise Refused(
            f"it cannot be read: {error.strerror}", "look at the file's rights"
        ) from error
    except (ValueError, RecursionError) as error:
        if not path.stat().st_size:
            raise Refused("the file is empty (0 bytes)", "ask for the file again") from error
        raise Refused("not a notebook: the file is no JSON", "ask for the .ipynb file") from error
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        old = isinstance(notebook, dict) and "worksheets" in notebook
        reason = "saved in a format of before 2015" if old else "not a notebook: it has no cells"
        raise Refused(reason, "ask for the .ipynb file" + " saved by a current Jupyter" * old)
    return [_plain(cell) for cell in notebook["cells"]]


def _plain(cell):
    kind = cell.get("cell_type") if isinstance(cell, dict) else None
    source = cell.get("source", "") if kind in NEW_CELL else None
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    metadata = cell.get("metadata", {}) if isinstance(source, str) else None
    if not isinstance(metadata, dict):
        raise Refused("not a notebook: a cell in it is broken", "ask for the .ipynb file again")
    pictures = cell.get("attachments") if kind == "markdown" else None
    if not isinstance(pictures, dict) or not all(
        isinstance(one, dict) and all(isinstance(data, str) for data in one.values())
        for one in pictures.values()
    ):
        pictures = None
    return {"cell_type": kind, "source": source, "metadata": metadata, "attachments": pictures}


def check_file(path, known):
    """The Submission that a file holds; `known` are the exercises. Refused where it cannot be graded."""
    cells, notes = read_cells(path), []
    ids = [marks(cell).get("grade_id") for cell in cells]
    shared = {one.name: len(set(ids) & set(one.cells)) for one in known}
    exercise = max(known, key=lambda one: shared[one.name], default=None)
    if exercise is None or not shared[exercise.name]:
        exercise, ids = _marked_again(cells, known)
        notes.append(
            "nbgrader's markers were gone; every given cell is in its place, so they were put back"
        )
    cells = [cell | {"id": grade_id} for cell, grade_id in zip(cells, ids)]
    try:
        for mend in (_unknown, _duplicates, _missing, _edited, _words_elsewhere):
            cells = mend(cells, exercise, notes)
    except Refused as refused:
        refused.exercise = exercise
        raise
    return Submission(exercise, _notebook(cells, exercise), notes)


def _same(one, other):
    return one.split() == other.split()


def _marked_again(cells, known):
    """The exercise and ids of a file without markers, if each given cell is there, in the given order."""
    most, nearest = 0, None
    for exercise in known:
        given = exercise.notebook.cells
        same = sum((Counter(tuple(cell["source"].split()) for cell in cells) & Counter(
            tuple(cell.source.split()) for cell in given if cell.source.strip())).values())  # fmt: skip
        try:
            return exercise, _aligned(cells, given)
        except Uncertain as doubt:
            if same >= len(given) / 4 and same > most:
                most, nearest = same, Refused(
                    f"nbgrader's markers are gone, and it is not certain which cells are the answers: {doubt}",
                    FRESH, AGAIN)  # fmt: skip
                nearest.exercise = exercise
    if nearest:
        raise nearest
    raise Refused(
        "not one of the course's exercises: it has none of their cells",
        "ask for the exercise's notebook",
    )


class Uncertain(Exception):
    """It would take a guess to say which cell of a file is which; the text says where."""


def _aligned(cells, given):
    """nbgrader's id of each cell, None for the student's own; Uncertain where that would take a guess.

    Given cells are found by their text, in order. An answer lies between the given cells around it:
    it is the only cell of its kind there, or the only one that defines what the stub defines.
    """
    ids, place, answer = [None] * len(cells), 0, None
    for original in [*given, None]:
        if original is not None and marks(original).get("solution"):
            if answer is not None:
                raise Uncertain("two answers stand side by side")
            answer = original
            continue
        found = len(cells) if original is None else next(
            (n for n in range(place, len(cells)) if cells[n]["cell_type"] == original.cell_type
             and _same(cells[n]["source"], original.source)), None)  # fmt: skip
        if found is None:
            name = marks(original).get("grade_id") or repr(original.source.strip()[:40])
            raise Uncertain(f"the given cell {name} was changed or deleted")
        if answer is not None:
            near = [n for n in range(place, found) if cells[n]["cell_type"] == answer.cell_type]
            if len(near) != 1:
                if answer.cell_type == "markdown":
                    # words may stand below a given cell that was left as it was
                    near = [n for n in near[:1] if _same(cells[n]["source"], answer.source)]
                near = [n for n in near if _defined(answer.source) <= _defined(cells[n]["source"])]
            if len(near) != 1:
                name = marks(answer)["grade_id"]
                raise Uncertain(f"{len(near) or 'no'} cells could be the answer {name}")
            ids[near[0]], answer = marks(answer)["grade_id"], None
        if original is not None:
            ids[found], place = marks(original).get("grade_id"), found + 1
    return ids


def _defined(source):
    """The functions and classes that a cell defines at its left margin."""
    return set(re.findall(r"^(?:def|class)\s+(\w+)", source, re.M))


def _unknown(cells, exercise, notes):
    strange = sorted({cell["id"] for cell in cells if cell["id"]} - set(exercise.cells))
    if strange:
        notes.append(
            f"cells that this exercise does not have were left ungraded: {', '.join(strange)}"
        )
    return [cell | {"id": None} if cell["id"] in strange else cell for cell in cells]


def _duplicates(cells, exercise, notes):
    """Keep one of several cells with one id, where that takes no choice."""
    copies = {}
    for cell in cells:
        copies.setdefault(cell["id"], []).append(cell)
    kept = {}
    for grade_id, same in copies.items():
        if grade_id is None or len(same) == 1:
            continue
        original = exercise.cells[grade_id]
        answers = [c for c in same if not _same(c["source"], original.source)] or same[:1]
        if not marks(original)["solution"]:
            answers = same[:1]
        if not all(cell["source"].strip() == answers[0]["source"].strip() for cell in answers):
            raise Refused(f"the cell {grade_id} is there {len(same)} times, with different content",
                          "ask which one counts; the others must be deleted, not only emptied",
                          "Delete all of them but the one that counts, and hand the file in again.")  # fmt: skip
        kept[grade_id] = answers[0]
        notes.append(f"the cell {grade_id} was there {len(same)} times; one was kept")
    return [cell for cell in cells if cell["id"] not in kept or cell is kept[cell["id"]]]


def _missing(cells, exercise, notes):
    """Put back the cells that were deleted: locked ones as they were, answers as they were given out."""
    present = {cell["id"] for cell in cells}
    if not any(task.answer in present for task in exercise.tasks):
        raise Refused("all answer cells are gone", FRESH, AGAIN)
    cells, before = list(cells), None
    for grade_id, original in exercise.cells.items():
        if grade_id not in present:
            place = next((n for n, cell in enumerate(cells) if cell["id"] == before), -1) + 1
            cells.insert(place, _plain(original) | {"id": grade_id})
            if not marks(original)["solution"]:
                notes.append(f"the cell {grade_id} was deleted; it was put back")
            elif marks(original)["grade"]:
                notes.append(f"the answer cell {grade_id} was deleted: no answer")
            else:
                notes.append(
                    f"the answer cell {grade_id} was deleted: only what other cells define was checked"
                )
        before = grade_id
    return cells


def _added_imports(cell, original):
    """The imports that a learner has added to a given cell: no reason to lose points over."""
    try:
        mine, given = (ast.parse(text).body for text in (cell["source"], original.source))
    except SyntaxError:
        return ""
    known = {ast.dump(node) for node in given}
    nodes = [node for node in mine if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(ast.unparse(node) for node in nodes if ast.dump(node) not in known)


def _words_elsewhere(cells, exercise, notes):
    """An answer in words that was written into a text cell below the given one is an answer, too."""
    cells = [dict(cell) for cell in cells]
    for task in exercise.tasks:
        place = next((n for n, cell in enumerate(cells) if cell["id"] == task.answer), None)
        if not task.by_hand or place is None:
            continue
        if not _same(cells[place]["source"], exercise.cells[task.answer].source):
            continue
        below = []
        for cell in cells[place + 1 :]:
            if cell["id"] is not None or cell["cell_type"] != "markdown":
                break
            below.append(cell["source"])
        given = [original.source for original in exercise.notebook.cells]
        below = [
            text for text in below if text.strip() and not any(_same(text, one) for one in given)
        ]
        if below:
            cells[place]["source"] = "\n\n".join(below)
            notes.append(
                f"the answer to {task.name} stood in a text cell below the given one; it was taken"
            )
    return cells


def _edited(cells, exercise, notes):
    added = []
    for cell in cells:
        original = exercise.cells.get(cell["id"])
        if original is None:
            continue
        if not marks(original)["solution"] and not _same(cell["source"], original.source):
            notes.append(
                f"the given cell {cell['id']} is not as in the current exercise, whose cell was run in its place"
            )
            if not marks(original)["grade"] and (imports := _added_imports(cell, original)):
                own = {"cell_type": "code", "source": imports, "metadata": {}, "attachments": None}
                added.append((cell, own | {"id": None}))
                notes[-1] += ", then the imports that were added"
        if cell["cell_type"] != original.cell_type:
            notes.append(f"the cell {cell['id']} had been turned into {cell['cell_type']}")
    order = [cell["id"] for cell in cells if cell["id"]]
    if order != list(exercise.cells):
        notes.append("the given cells stand in another order than in the exercise")
    cells = list(cells)
    for cell, own in added:
        cells.insert(next(n for n, one in enumerate(cells) if one is cell) + 1, own)
    return cells


def _notebook(cells, exercise):
    """A notebook of these cells that nbgrader accepts: markers, types and points as given out."""
    made = []
    for cell in cells:
        original = exercise.cells.get(cell["id"])
        kind = cell["cell_type"] if original is None else original.cell_type
        new = NEW_CELL[kind](cell["source"])
        if original is not None:
            new.metadata["nbgrader"] = dict(marks(original))
        if kind == "markdown" and cell["attachments"]:
            new["attachments"] = cell["attachments"]
        made.append(new)
    return new_notebook(cells=made, metadata=KERNEL | {"language_info": {"name": "python"}})
