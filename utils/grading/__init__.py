"""`python -m utils.course grade FOLDER`: a folder of submissions in, points and feedback pages out.

OUT (default: FOLDER-graded, beside it):

NAME/points.csv            a row a student: status, total, points per task, notes
NAME/answers.csv           answers in words; fill in points and comments, and run the command again
NAME/feedback/STUDENT.html what the student gets
overview.csv               a row a student: the total of each exercise, and of all
not_graded.csv             files that could not be graded, why, and what to do
.records/                  what was run already; a submission that did not change is not run again

submissions.py looks at the files, sandbox.py runs them one after another, reports.py writes.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import nbformat

from utils.course import exercises
from utils.grading import handgrading, reports
from utils.grading.reports import Entry, file_name, printable
from utils.grading.sandbox import Grader, Limits, Run
from utils.grading.submissions import Refused, check_file, handed_in, read_exercise
from utils.paths import ROOT, write_text


def grade(folder, out=None, seconds=60, minutes=10, memory=4, assigned=None):
    """Grade every submission in `folder`; seconds a cell, minutes a notebook, memory in GB.

    `assigned`, such as ["02", "03"], are the exercises that count in the overview; None: all that
    somebody has handed in. SystemExit where nothing can be done: no folder, no nbgrader, points filled in that make no sense.
    A file that cannot be graded is reported, and stops nobody.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a name must not stop the run
    if int(seconds) < 1 or min(minutes, memory) <= 0:
        raise SystemExit("the limits should be larger than 0")
    folder, out = _places(folder, out)
    if not (exercises.EXERCISES / "source").is_dir():
        raise SystemExit(
            f"{exercises.EXERCISES}: no solutions here, so nothing to grade with; run it in your private copy"
        )
    if importlib.util.find_spec("nbgrader") is None:
        raise SystemExit('nbgrader is missing: pip install -e ".[instructor]"')
    assigned = exercises.named(assigned)
    limits = Limits(int(seconds), float(minutes), float(memory))
    entries, unknown = _sort(folder)
    filled = {
        name: _filled(out, name, entries) for name in sorted({e.exercise.name for e in entries})
    }
    _run(entries, out, limits, folder, filled)
    for name, (tasks, rows) in filled.items():
        reports.write(
            out / name, [e for e in entries if e.exercise.name == name], tasks, rows, limits
        )
    reports.report(entries, unknown, folder, out, assigned)


def _places(folder, out):
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise SystemExit(f"{folder}: no such folder")
    out = folder.with_name(f"{folder.name}-graded") if out is None else Path(out).resolve()
    if out.is_relative_to(folder) or folder.is_relative_to(out):
        raise SystemExit(
            f"{out}: the results must not be among the submissions; choose another --out"
        )
    if out.is_relative_to(ROOT) and not out.is_relative_to(ROOT / "data" / "cache"):
        raise SystemExit(
            f"{out}: the results must not be in the course's repository; move the submissions out of it, "
            "or choose an --out beside it"
        )
    return folder, out


# Look at the files ---------------------------------------------------------------------------------


def _sort(folder):
    """Entries of the files that belong to an exercise, and (student, file, Refused) of the others."""
    known = [read_exercise(name) for name in exercises.exercises()]
    found, unknown = {}, []
    for student, path in handed_in(folder):
        student = printable(student)
        try:
            submission = check_file(path, known)
            entry = Entry(student, submission.exercise, path, submission, submission.notes)
        except Refused as refused:
            if refused.exercise is None:
                unknown.append((student, path, refused))
                continue
            entry = Entry(student, refused.exercise, path, refused=refused)
        found.setdefault((entry.exercise.name, student), []).append(entry)
    return [_one(same) for _, same in sorted(found.items())], unknown


def _one(entries):
    """One of a student's files for an exercise: the only one, or any of several that are the same."""
    entry, texts = entries[0], {_content(entry) for entry in entries}
    if len(entries) > 1 and (len(texts) > 1 or entry.refused):
        names = ", ".join(sorted(printable(entry.path.name) for entry in entries))
        entry.refused = Refused(
            f"{len(entries)} different files for this exercise: {names}",
            "ask which one counts, and remove the others",
            "Tell your instructor which of them counts.",
        )
    elif len(entries) > 1:
        entry.notes.append(f"the same answers were handed in {len(entries)} times")
    return entry


def _content(entry):
    if entry.submission is None:
        return None
    return json.dumps([(cell.cell_type, cell.source) for cell in entry.submission.notebook.cells])


def _filled(out, name, entries):
    """The hand-graded tasks of an exercise (name -> points), and what was filled in so far."""
    mine = [entry for entry in entries if entry.exercise.name == name]
    tasks = {task.name: task.points for task in mine[0].exercise.tasks if task.by_hand}
    path = out / name / "answers.csv"
    rows = handgrading.read(path, tasks)
    handgrading.check_students(path, rows, [entry.student for entry in mine])
    return tasks, rows


# Run them ------------------------------------------------------------------------------------------


def _run(entries, out, limits, folder, filled):
    """Give each entry its run: from the record if nothing changed, else from nbgrader."""
    waiting = []
    for entry in entries:
        if entry.refused:
            continue
        entry.run = _recorded(out, entry, limits)
        if entry.run is None:
            waiting.append(entry)
    width = max((len(entry.student) for entry in entries), default=0)
    with tempfile.TemporaryDirectory(prefix="gradebooks-") as books:
        # its first process starts while the gradebooks are made
        grader = Grader(limits, [folder, out, books]) if waiting else None
        try:
            made = _gradebooks(sorted({entry.exercise.name for entry in waiting}), Path(books))
            for entry in entries:
                if entry.run is None and not entry.refused:
                    entry.run = _try(grader, entry, made[entry.exercise.name])
                    if entry.run.failure:
                        entry.refused = Refused(
                            entry.run.failure,
                            "look at it by hand, or raise the limits",
                            "Your instructor will look at it by hand.",
                        )
                    else:
                        _record(out, entry, limits)
                _take_over(entry, filled[entry.exercise.name][1])
                print(_line(entry, width), flush=True)
        finally:
            if grader:
                grader.close()


def _try(grader, entry, gradebook):
    try:
        return grader.run(entry.exercise, entry.submission.notebook, gradebook)
    except Exception as error:  # whatever a file can do to the grader, it must not do to the others
        return Run(failure=f"the grader failed: {type(error).__name__}: {error}")


def _take_over(entry, rows):
    """Points and comments that were filled in for an entry's answers in words."""
    for task in entry.exercise.tasks:
        row = rows.get((handgrading.safe(entry.student), task.name))
        if row and task.by_hand:
            entry.comments[task.name] = row["comment"]
            if row["points"] is not None:
                entry.by_hand[task.name] = row["points"]


def _line(entry, width):
    if entry.refused:
        what = f"not graded: {entry.refused.reason}"
    else:
        waits = sum(points is None for points in entry.points.values())
        what = f"{entry.total:g} of {entry.out_of:g}" + f"   {waits} to be graded by hand" * bool(
            waits
        )
    return f"{entry.student:{width}}  {entry.exercise.name:28} {what}"


def _gradebooks(names, folder):
    """A gradebook for each exercise, name -> path, as nbgrader makes it from the source."""
    made = {}
    for name in names:
        with exercises.course_directory([name]) as (nbgrader, course):
            result = nbgrader.generate_assignment(name)
            if not result["success"]:
                raise SystemExit(
                    f"{exercises.source(name)}: nbgrader cannot use it\n{result['log']}"
                )
            made[name] = folder / f"{name}.db"
            shutil.copyfile(course / "gradebook.db", made[name])
    return made


def _key(entry, limits):
    """What a run depends on: the submission, the exercise, the checks, the limits, the versions."""
    digest = hashlib.sha256(repr((limits, platform.python_version())).encode())
    name = entry.exercise.name
    course = [
        exercises.source(name),
        exercises.release(name),
        exercises.EXERCISES / "nbgrader_config.py",
    ]
    code = [path for path in (ROOT / "utils").rglob("*.py") if "tests" not in path.parts]
    for path in [entry.path, *course, *sorted(code)]:
        digest.update(path.read_bytes())
    for package in ("nbgrader", "torch", "numpy"):
        digest.update(importlib.metadata.version(package).encode())
    return digest.hexdigest()


def _record_path(out, entry):
    return out / ".records" / entry.exercise.name / f"{file_name(entry.student)}.json"


def _recorded(out, entry, limits):
    path = _record_path(out, entry)
    if not path.exists():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["key"] != _key(entry, limits):
        return None
    run = Run(**record["run"])
    run.stopped = {int(index): why for index, why in run.stopped.items()}
    run.notebook = nbformat.from_dict(run.notebook)
    return run


def _record(out, entry, limits):
    path = _record_path(out, entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"key": _key(entry, limits), "run": asdict(entry.run)}))
