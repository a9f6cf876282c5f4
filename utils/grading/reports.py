"""What came of a class: the points table, the answers to read, the feedback pages, the report."""

import hashlib
import re
import statistics
import unicodedata
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from utils.grading import feedback, handgrading
from utils.grading.sandbox import Run
from utils.grading.submissions import Exercise, Refused, marks, read_exercise
from utils.paths import whole_file, write_text

MOODLE = re.compile(r"_\d+_assignsubmission_file_?$")


@dataclass
class Entry:
    """One student's submission to one exercise, and what came of it."""

    student: str
    exercise: Exercise
    path: Path
    submission: object = None
    notes: list = field(default_factory=list)
    run: Run | None = None
    by_hand: dict = field(default_factory=dict)  # task -> points, where somebody gave them
    comments: dict = field(default_factory=dict)
    refused: Refused | None = None
    # tasks whose answer in words is another one than the one that got points
    reread: list = field(default_factory=list)

    @property
    def points(self):
        """Points by task; None for one that waits to be graded by hand, {} when nothing was graded."""
        if self.run is None or self.refused:
            return {}
        automatic = {task.name: self.run.points[task.graded] for task in self.exercise.tasks}
        return automatic | self.by_hand

    @property
    def status(self):
        """ "graded", "waiting" for points by hand, or "not graded"."""
        if not self.points:
            return "not graded"
        return "waiting" if self.reread or None in self.points.values() else "graded"

    @property
    def total(self):
        """Points so far."""
        return sum(points or 0 for points in self.points.values())

    @property
    def out_of(self):
        """Points at most."""
        return sum(task.points for task in self.exercise.tasks)

    @property
    def stretch(self):
        """Points so far for the stretch task."""
        return sum(self.points.get(task.name) or 0 for task in self.exercise.tasks if task.stretch)


def printable(name):
    """A file's name as text that every terminal and file can hold."""
    return "".join(c if c.isprintable() else "\ufffd" for c in name)


def file_name(student):
    """A file name for a student on every system; different students get different ones."""
    name = re.sub(r'[<>:"/\\|?*]', "_", student).rstrip(". ")
    return name if name == student else f"{name}-{hashlib.sha256(student.encode()).hexdigest()[:6]}"


def write(place, entries, tasks, rows, limits):
    """points.csv, answers.csv and the feedback pages of one exercise."""
    rows = handgrading.merge(rows, _answers(entries), tasks)
    for entry in entries:
        remarks = {
            task: row["remark"]
            for (student, task), row in rows.items()
            if student == handgrading.safe(entry.student)
        }
        entry.notes += [f"{task}: {remark}" for task, remark in remarks.items() if remark]
        entry.reread = [task for task, remark in remarks.items() if handgrading.CHANGED in remark]
    place.mkdir(parents=True, exist_ok=True)
    if tasks:
        write_text(place / "answers.csv", handgrading.text(rows))
    names = [task.name for task in entries[0].exercise.tasks]
    lines = [
        (entry.student, entry.status, f"{entry.total:g}" if entry.points else "", f"{entry.out_of:g}",
         *(_points(entry.points.get(name)) for name in names), "; ".join(_notes(entry, limits)))
        for entry in entries
    ]  # fmt: skip
    write_text(
        place / "points.csv",
        handgrading.table(("student", "status", "total", "out_of", *names, "notes"), lines),
    )
    pages = place / "feedback"
    pages.mkdir(exist_ok=True)
    written = {f"{file_name(entry.student)}.html" for entry in entries}
    for page in pages.glob("*.html"):
        if page.name not in written:
            page.unlink()  # its submission is gone
    for entry in entries:
        write_text(pages / f"{file_name(entry.student)}.html", _page(entry, limits))
    _for_moodle(place, entries)


def _for_moodle(place, entries):
    """The pages of those whose folders Moodle has named, in a zip that it takes back.

    Moodle finds the person by the number in the name: NAME_NUMBER_assignsubmission_file_FILE.
    """
    theirs = [entry for entry in entries if MOODLE.search(entry.student)]
    if not theirs:
        return
    with whole_file(place / "feedback-for-moodle.zip") as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as pages:  # fmt: skip
        for entry in theirs:
            name = f"{entry.student.rstrip('_')}_{entry.exercise.name}.html"
            pages.write(place / "feedback" / f"{file_name(entry.student)}.html", name)


def _answers(entries):
    """(student, task, answer) of what waits for a person."""
    for entry in entries:
        for task in entry.exercise.tasks if entry.points else ():
            if task.by_hand and entry.run.points[task.graded] is None:
                (cell,) = (
                    c for c in entry.run.notebook.cells if marks(c).get("grade_id") == task.graded
                )
                yield entry.student, task.name, cell.source


def _points(points):
    return "" if points is None else f"{points:g}"


def _notes(entry, limits):
    """Everything about an entry that its points do not say."""
    notes = entry.notes + (entry.run.notes if entry.run else [])
    if entry.refused:
        return [entry.refused.reason, *notes]
    cells = entry.run.notebook.cells
    for index, why in entry.run.stopped.items():
        name = marks(cells[index]).get("grade_id", f"cell {index + 1}")
        notes = [
            *notes,
            f"{name} stopped the grader: {why}; it was taken out, and the rest graded without it",
        ]
    waits = [name for name, points in entry.points.items() if points is None]
    asked = {name for task in entry.exercise.tasks for name in (task.answer, task.graded)}
    for number, cell in enumerate(cells, 1):
        kind, message = feedback.error_of(cell, limits) or (None, None)
        if kind == "limit" and (name := marks(cell).get("grade_id")) not in asked:
            notes = [*notes, f"{name or f'cell {number}, their own,'} {message}"]
    for task in entry.exercise.tasks:
        said = "" if task.by_hand else feedback.what_it_said(task, entry.run, limits)
        if said.startswith("took longer"):
            notes = [*notes, f"{task.name} {said}"]
    hidden = [t.name for t in entry.exercise.tasks if feedback.only_hidden_tests_fail(t, entry.run)]
    if hidden:
        notes = [*notes, f"only hidden tests failed in {', '.join(hidden)}"]
    return notes + [f"{name} is still to be graded by hand" for name in waits]


def headline(entry):
    """An entry's points in words, those for the stretch task apart: "10 of 15 points so far, and on top …"."""
    core = entry.exercise.core
    said = f"{entry.total - entry.stretch:g} of {core:g} points" + " so far" * (
        entry.status == "waiting"
    )
    if entry.out_of > core:
        said += f", and on top {entry.stretch:g} of {entry.out_of - core:g} for the stretch task"
    return said


def _page(entry, limits):
    person = MOODLE.sub("", entry.student)
    if entry.refused:
        notes = [f"Why: {entry.refused.reason}.", entry.refused.student, *entry.notes]
        return feedback.page(person, entry.exercise.heading, "not graded yet", [], notes, None)
    rows = []
    for task in entry.exercise.tasks:
        points = entry.points[task.name]
        said = (
            feedback.what_it_said(task, entry.run, limits)
            if points is not None
            else "waits to be read"
        )
        shown = "…" if points is None else f"{points:g}"
        if task.name in entry.reread:
            said = "the answer has changed and is being read again"
        rows.append(
            (task.title, f"{shown} of {task.points:g}", said, entry.comments.get(task.name, ""))
        )
    given = (person, entry.exercise.heading, headline(entry), rows, _notes(entry, limits))
    try:
        return feedback.page(*given, entry.run)
    except Exception as error:  # an output that cannot be drawn must not cost anybody the page
        entry.notes.append(f"the notebook could not be shown: {type(error).__name__}")
        return feedback.page(*given, None)


def _people(entries, unknown):
    """What students are called in the overview, by the names of their folders.

    Moodle puts a number behind a name, another one in each assignment. It goes, so that all of a person's
    exercises stand in one row, unless two people of one exercise would have the same name.
    """
    short = {student: MOODLE.sub("", student) for student in
             [*(entry.student for entry in entries), *(student for student, *_ in unknown)]}  # fmt: skip
    together = Counter((short[entry.student], entry.exercise.name) for entry in entries)
    shared = {name for (name, _), count in together.items() if count > 1}
    return {student: student if name in shared else name for student, name in short.items()}


def _alphabetical(name):
    """Ç stands at C."""
    return "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c)).casefold()  # fmt: skip


def _overview(entries, assigned, unknown=()):
    """A row a student: the total of each exercise, how many are not complete, and the share of all points.

    `unknown` are the files of which it is not even known which exercise they are: (student, path, refused).

    What counts are the assigned exercises (None: all); the share is of their points without the stretch
    tasks, which can lift it, also above 100 %.
    """
    there = {entry.exercise.name: entry.exercise for entry in entries}
    counting = [read_exercise(name) for name in assigned] if assigned else list(there.values())
    counted = {exercise.name for exercise in counting}
    names = [*sorted(counted), *sorted(set(there) - counted)]
    people = _people(entries, unknown)
    mine = {(people[entry.student], entry.exercise.name): entry for entry in entries}
    out_of = sum(exercise.core for exercise in counting)
    lines = []
    for student in sorted(set(people.values()), key=_alphabetical):
        theirs = [mine.get((student, name)) for name in names]
        count = [entry for entry in theirs if entry and entry.exercise.name in counted]
        total = sum(entry.total for entry in count)
        unfinished = sum(entry.status != "graded" for entry in count)
        unfinished += sum(people[name] == student for name, *_ in unknown)
        shown = [_in_overview(entry) for entry in theirs]
        lines.append(
            (
                student,
                *shown,
                f"{total:g}",
                f"{out_of:g}",
                f"{total / out_of:.0%}" if out_of else "",
                str(unfinished),
            )
        )
    extra = [name if name in counted else f"{name} (not assigned)" for name in names]
    columns = ("student", *extra, "total", "out_of", "share", "waiting or not graded")
    return handgrading.table(columns, lines)


def _in_overview(entry):
    if entry is None:
        return ""  # nothing handed in
    return f"{entry.total:g}" if entry.points else "not graded"


def report(entries, unknown, folder, out, assigned=None):
    """not_graded.csv, a short table, and the list of what was not graded and why."""
    missed = unknown + [(e.student, e.path, e.refused) for e in entries if e.refused]
    lines = [
        (printable(str(path.relative_to(folder))), student, refused.reason, refused.advice)
        for student, path, refused in sorted(missed, key=lambda line: str(line[1]))
    ]
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "overview.csv", _overview(entries, assigned, unknown))
    write_text(
        out / "not_graded.csv",
        handgrading.table(("file", "student", "reason", "what to do"), lines),
    )
    print(f"\n{'exercise':28} {'graded':>7} {'waiting':>8} {'not graded':>11} {'mean':>6}")
    for name in sorted({entry.exercise.name for entry in entries}):
        mine = [entry for entry in entries if entry.exercise.name == name]
        counts = [
            sum(entry.status == status for entry in mine)
            for status in ("graded", "waiting", "not graded")
        ]
        totals = [entry.total for entry in mine if entry.points]
        mean = f"{statistics.mean(totals):.1f}" if totals else ""
        print(f"{name:28} {counts[0]:7} {counts[1]:8} {counts[2]:11} {mean:>6}")
    for file, _, reason, advice in lines:
        print(f"\nnot graded: {file}\n  {reason}\n  {advice}")
    for entry in entries:
        if entry.reread:
            where = out / entry.exercise.name / "answers.csv"
            print(f"\nchanged since you graded it: an answer in words of {entry.student}\n  read it again in {where}, and empty its remark")  # fmt: skip
    print(f"\n{len(entries)} submission{'s' * (len(entries) != 1)}; the results are in {out}")
