"""A submission's run: a folder of its own, limits on time and memory, and a second try without a culprit.

The folder of one run, removed afterwards:

course/    nbgrader's: a copy of the gradebook, the submission, what came of it; hidden from the kernel
work/      what the kernel sees of the course: a copy of utils, links into data, and its own folders
run/       how nbgrader and the kernel speak to each other
"""

import copy
import json
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

from utils.course.notebooks import NOTEBOOKS
from utils.grading.processes import Process
from utils.grading.submissions import marks
from utils.paths import ROOT

ROUNDS = 3  # answers that may stop the grader before it gives up on a notebook


@dataclass(frozen=True)
class Limits:
    """Seconds for a cell, minutes for a notebook, GB of memory for its kernel."""

    seconds: int = 60
    minutes: float = 10
    memory: float = 4

    def says(self, why):
        """What a learner is told when a limit strikes."""
        return {
            "memory": f"it needed more than {self.memory:g} GB of memory",
            "time": f"it took longer than {self.seconds} s and could not be interrupted",
            "long": f"the notebook took longer than {self.minutes:g} minutes",
            "died": "it ended the Python that ran it",
        }[why]


@dataclass
class Run:
    """What came of a submission: points by nbgrader's ids (None: by hand), the notebook as it ran.

    failure: why there are no points, or None. stopped: index of a cell -> why its answer was taken out.
    """

    points: dict = field(default_factory=dict)
    notebook: nbformat.NotebookNode | None = None
    notes: list = field(default_factory=list)
    stopped: dict = field(default_factory=dict)
    failure: str | None = None


class Grader:
    """Runs submissions one after another; `hidden` are folders to keep from them. Close it afterwards."""

    def __init__(self, limits, hidden=()):
        self.limits = limits
        # utils/tests/answers: what students should find out themselves
        private = (NOTEBOOKS, ROOT / ".git", ROOT / "utils" / "tests")
        self.hidden = [str(place) for place in (*private, *hidden)]
        self.next = self._start()

    def _start(self):
        return Process(self.limits.memory * 2**30)

    def close(self):
        """End the process that waits for a next submission."""
        self.next.close()

    def run(self, exercise, notebook, gradebook):
        """The Run of a cleaned notebook; an answer that stops the grader is taken out and the rest tried again."""
        stopped, notes = {}, []
        for _ in range(ROUNDS + 1):
            tried = copy.deepcopy(notebook)
            for index, why in stopped.items():
                tried.cells[
                    index
                ].source = f'raise RuntimeError("this answer stopped the grader: {why}")'
            run, struck = self._once(exercise, tried, gradebook)
            notes += run.notes
            if struck is None:
                break
            culprit = _culprit(notebook, struck["cell"], stopped)
            why = self.limits.says(struck["why"])
            run.failure = f"it stopped the grader again and again: {why}"
            if culprit is None:
                run.failure = f"the grader stopped, and no answer could be found that did it: {why}"
                break
            stopped[culprit] = why
        run.notes, run.stopped = list(dict.fromkeys(notes)), stopped
        if run.notebook is not None:
            for index in stopped:
                run.notebook.cells[index].source = notebook.cells[index].source
        return run

    def _once(self, exercise, notebook, gradebook):
        process, self.next = self.next, self._start()
        with process, tempfile.TemporaryDirectory(prefix="grading-") as folder:
            folder = Path(folder).resolve()
            job = _lay_out(folder, exercise, notebook, gradebook, self.limits, self.hidden)
            why, log = process.work(job, self.limits.minutes * 60)
            run = Run(notes=_attempts(folder / "attempts.log"))
            struck = _read(job["stopped"])
            if why:  # we killed it ourselves, and know better
                struck = (struck or _read(job["running"]) or {"cell": None}) | {"why": why}
            result = _read(job["result"])
            if result is not None:
                struck = None
                done = folder / "course" / "autograded" / "student" / exercise.name
                run.points = result["points"]
                run.notebook = nbformat.read(
                    done / f"{exercise.name}_exercises.ipynb", as_version=4
                )
            elif struck is None:
                run.failure = f"nbgrader stopped: {_error(log)}"
            return run, struck


def _error(log):
    """The line of nbgrader's log that says what went wrong; its last one only says that something did."""
    errors = [line for line in log if re.match(r"[\w.]*(Error|Exception|Empty)\b", line)]
    errors = [line for line in errors if "NbGraderException" not in line] or log[-1:]
    return errors[-1][:300] if errors else "without a word"


def _culprit(notebook, index, stopped):
    """Index of the cell to blame when cell `index` stopped, None if there is none left to blame.

    The answer that a check called, else the cell itself if it is the student's, else the last one
    before it (a thread of which may have run on).
    """
    if index is None:
        return None
    kinds = [marks(cell) for cell in notebook.cells[: index + 1]]
    theirs = [
        n
        for n, mark in enumerate(kinds)
        if notebook.cells[n].cell_type == "code" and (not mark or mark["solution"])
    ]
    called = [n for n in theirs if kinds[n]] if kinds[index].get("grade") else []
    suspects = [*called[-1:], *reversed(theirs)]
    return next((n for n in suspects if n not in stopped), None)


def _lay_out(folder, exercise, notebook, gradebook, limits, hidden):
    """Fill the folder of a run; returns the job for utils/grading/autograde.py."""
    course, work, run = (folder / name for name in ("course", "work", "run"))
    name = f"{exercise.name}_exercises.ipynb"
    submitted = course / "submitted" / "student" / exercise.name
    own = [work / place for place in ("notebooks", "home", "temporary", "data/cache")]
    for place in (submitted, run, folder / "jupyter" / "kernels" / "guarded", *own):
        place.mkdir(parents=True)
    nbformat.write(notebook, submitted / name)
    shutil.copyfile(gradebook, course / "gradebook.db")
    shutil.copytree(ROOT / "utils", work / "utils", ignore=shutil.ignore_patterns("tests"))
    for entry in (ROOT / "data").iterdir():
        if entry.name != "cache":
            (work / "data" / entry.name).symlink_to(entry, target_is_directory=entry.is_dir())
    # a folder that holds everything (a whole disk, say) cannot be hidden
    needed = [Path(place).resolve() for place in (folder, sys.prefix, sys.base_prefix)]
    hidden = [place for place in hidden if not any(one.is_relative_to(place) for one in needed)]
    connection = run / "kernel.json"
    transport = "ipc" if sys.platform != "win32" and len(str(connection)) < 80 else "tcp"
    settings = {
        "memory": int(limits.memory * 2**30),
        "course": str(work),
        "readable": [str(work), str(ROOT / "data"), str(folder / "settings.json")],
        "writable": [str(place) for place in (*own, run)],
        "forbidden": [*hidden, str(course)],
        "log": str(folder / "attempts.log"),
        "tcp": transport == "tcp",
    }
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    guard = [
        sys.executable,
        "-P",
        str(work / "utils" / "grading" / "guard.py"),
        str(folder / "settings.json"),
    ]
    kernel = {
        "argv": [*guard, "-f", "{connection_file}"],
        "display_name": "guarded",
        "language": "python",
    }
    spec = folder / "jupyter" / "kernels" / "guarded" / "kernel.json"
    spec.write_text(json.dumps(kernel), encoding="utf-8")
    home, temporary = str(work / "home"), str(work / "temporary")
    return {
        "course": str(course),
        "exercise": exercise.name,
        "folder": str(work / "notebooks"),
        "seconds": limits.seconds,
        "transport": transport,
        "connection": str(connection),
        **{file: str(folder / f"{file}.json") for file in ("running", "stopped", "result")},
        "environment": {
            "JUPYTER_PATH": str(folder / "jupyter"),
            "JUPYTER_RUNTIME_DIR": str(run),
            "JUPYTER_CONFIG_DIR": home,
            **{
                name: home
                for name in ("HOME", "USERPROFILE", "IPYTHONDIR", "MPLCONFIGDIR", "XDG_CACHE_HOME")
            },
            **{name: temporary for name in ("TMPDIR", "TEMP", "TMP")},
        },
    }


def _read(path):
    return json.loads(Path(path).read_text(encoding="utf-8")) if Path(path).exists() else None


def _attempts(log):
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    lines = [
        line.replace(f"{ROOT}{os.sep}", "") for line in lines
    ]  # where the course lies is private
    return [
        f"{line}; it was put back"
        if line.startswith("replaced ")
        else f"tried to {line}; the grader did not let it"
        for line in dict.fromkeys(lines)
    ]
