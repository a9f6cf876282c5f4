"""The grader, on a class of submissions made from a real exercise: the good, the broken and the hostile.

A class is graded once, and the tests look at what came of it. Daily it is four students, and all whose
files are never run; the whole class (`-m slow`) takes about three times as long.
"""

import copy
import csv
import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import nbformat
import pytest
import torch
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from utils import checks, grading
from utils.course import exercises
from utils.course.__main__ import main
from utils.grading import feedback as feedback_page
from utils.grading import guard, handgrading, reports, sandbox
from utils.grading.submissions import Refused, check_file, handed_in, marks, read_exercise
from utils.paths import ROOT

if not (exercises.EXERCISES / "source").is_dir():
    pytest.skip("a students' copy, without solutions", allow_module_level=True)
NAME = "02_attention"
EXERCISE = read_exercise(NAME)
SOURCE = nbformat.read(exercises.source(NAME), as_version=4)
GIVEN = {marks(cell)["grade_id"]: cell.source for cell in SOURCE.cells if marks(cell)}
SOLUTIONS = {
    name: re.sub(r" *### (BEGIN|END) SOLUTION\n?", "", text) for name, text in GIVEN.items()
}
POINTS = {task.name: task.points for task in EXERCISE.tasks}
AUTOMATIC = [task.name for task in EXERCISE.tasks if not task.by_hand]
WORDS = "Shuffled tokens give a shuffled result, because a sum has no order."

slow = pytest.mark.slow

# Answers that are wrong, but run.
WRONG = {
    "02-by-hand": "def by_hand():\n    return [0.0, 0.0, 0.0], [0.0, 0.0]",
    "02-attend": "def attend(q, k, v):\n    return (q @ k.transpose(-2, -1)).softmax(-1) @ v",
    "02-repair": "class Attention(BrokenAttention):\n    pass",
    "02-causal": "def attend_to_the_past(q, k, v):\n    return F.scaled_dot_product_attention(q, k, v)",
    "02-cost": "def cost(dim, heads, n):\n    return dim, n",
    "02-read-maps": "def read_maps():\n    return {}",
    "02-chunks": "def attend_in_chunks(q, k, v, size):\n    return q",
}
# right for the visible check, which has five tokens and then three
NARROW = {
    "02-causal": """\
def attend_to_the_past(q, k, v):
    past = {n: torch.ones(n, n, dtype=torch.bool).tril() for n in (3, 5)}[q.shape[-2]]
    return (q @ k.mT / q.shape[-1]**0.5).masked_fill(~past, -torch.inf).softmax(-1) @ v
"""
}

HOG = """\
def attend(q, k, v):
    kept = []
    while True:
        kept.append(torch.empty(10**7))
"""
STUBBORN = """\
def attend(q, k, v):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
"""
NOISY = """

import sys, warnings
from IPython.display import HTML, Javascript, display
quiet = attend
def attend(q, k, v):
    warnings.warn("deprecated, or so \\udc80")
    print("a progress bar", file=sys.stderr)
    return quiet(q, k, v)
display(HTML("<script>alert('html')</script><img src=x onerror=alert('image')>"))
display(Javascript("alert('javascript')"))
display({"image/svg+xml": "<svg onload=alert('svg')>", "text/plain": "x"}, raw=True)
display(HTML("<a href='javascript:alert(1)'>a</a><img src='https://example.org/who.png'>"))
"""
CHEAT = """

checks.check_attend = lambda *given: None
checks.check_causal.__code__ = (lambda *given: None).__code__
torch.allclose = lambda *given, **named: True
import ast
class Yes(ast.NodeTransformer):
    def visit_Expr(self, node):
        return ast.Pass()
get_ipython().ast_transformers.append(Yes())
class checks:
    check_attend = check_attention = staticmethod(lambda *given: None)
"""
THIEF = """

import ctypes, os, socket, subprocess, numpy
def stolen(how, *given):
    try:
        how(*given)
        return True
    except OSError as error:
        print(type(error).__name__, error)
        return False
loot = [
    stolen(open, {source!r}),
    stolen(os.listdir, {folder!r}),
    stolen(open, {other!r}),
    stolen(open, {answers!r}),
    stolen(numpy.fromfile, {source!r}),
    stolen(open, {outside!r}, "w"),
    stolen(os.mkdir, {outside!r}),
    stolen(subprocess.run, ["id"]),
    stolen(os.kill, os.getppid(), 9),
    stolen(socket.create_connection, ("93.184.216.34", 80)),
    stolen(open, "mine.txt", "w"),
]
print("LOOT", loot)
print("COMPILED", ctypes.CDLL(None).open({source!r}.encode(), 0) < 0)
"""


def filled(answers=SOLUTIONS, words=WORDS):
    """The release with these answers (ids -> sources) in place of its stubs."""
    notebook = copy.deepcopy(EXERCISE.notebook)
    for cell in notebook.cells:
        mark = marks(cell)
        if mark.get("solution") and mark["grade_id"] in answers:
            cell.source = words if mark["grade"] else answers[mark["grade_id"]]
    return notebook


def cell_of(notebook, grade_id):
    (cell,) = (cell for cell in notebook.cells if marks(cell).get("grade_id") == grade_id)
    return cell


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else nbformat.writes(content)
    path.write_text(text, encoding="utf-8")


def with_answer(grade_id, source):
    return filled(SOLUTIONS | {grade_id: source})


def as_colab_saves(notebook):
    """Format 4.0: no cell ids, nothing of Jupyter's in the notebook's metadata, sources as lists."""
    plain = json.loads(nbformat.writes(notebook))
    plain |= {"nbformat_minor": 0, "metadata": {"colab": {"provenance": []}, "accelerator": "GPU"}}
    for number, cell in enumerate(plain["cells"]):
        cell.pop("id")
        cell["metadata"] |= {"id": f"x{number}", "colab": {"base_uri": "https://localhost:8080/"}}
        cell["source"] = cell["source"] if number % 2 else "".join(cell["source"])
    return json.dumps(plain)


def stripped(notebook):
    for cell in notebook.cells:
        cell.metadata = {}
    return notebook


def duplicated(grade_id, source=None):
    notebook = filled()
    twin = copy.deepcopy(cell_of(notebook, grade_id))
    twin["id"] = "twin"
    twin.source = twin.source if source is None else source
    notebook.cells.append(twin)
    return notebook


def deleted(*grade_ids, notebook=None):
    notebook = notebook or filled()
    notebook.cells = [c for c in notebook.cells if marks(c).get("grade_id") not in grade_ids]
    return notebook


def edited():
    """Checks that say yes, points raised, a check that asks to be skipped; the answers are wrong."""
    notebook = filled(SOLUTIONS | WRONG)
    cell_of(notebook, "02-attend-check").source = "assert True"
    cell_of(notebook, "02-repair-check").metadata["tags"] = ["skip-execution"]
    cell_of(notebook, "02-causal-check").metadata["nbgrader"]["points"] = 100
    cell_of(notebook, "02-cost-check").metadata["nbgrader"]["solution"] = True
    return notebook


def another_course():
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("1 + 1") for _ in range(5)]
    )
    for number, cell in enumerate(notebook.cells):
        cell.metadata["nbgrader"] = {"grade_id": f"biology-{number}", "grade": True, "points": 1,
                                     "solution": False, "locked": True, "schema_version": 3}  # fmt: skip
    return notebook


# Two classes, each graded once -----------------------------------------------------------------------

FORMULA = "=HYPERLINK(evil), Ünal"
STUDENTS = {
    "Ada Lövelace_123_assignsubmission_file": filled(),
    "empty": filled({}),
    "wrong": filled(SOLUTIONS | WRONG),
    "half": filled(
        {name: SOLUTIONS[name] for name in ("02-by-hand", "02-attend", "02-repair")} | NARROW
    ),
    "loop": with_answer("02-attend", "def attend(q, k, v):\n    while True:\n        pass"),
    "hog": with_answer("02-attend", HOG),
    "syntax": with_answer("02-attend", "def attend(q, k, v):\n    return q @"),
    "stripped": stripped(filled()),
    "stripped and cut": stripped(deleted("02-attend-check")),
    "twins": duplicated("02-attend"),
    "quarrel": duplicated("02-attend", WRONG["02-attend"]),
    "deleted": deleted("02-setup", "02-attend-check", "02-cost"),
    "edited": edited(),
    "killer": with_answer("02-attend", "def attend(q, k, v):\n    import os\n    os._exit(0)"),
    "leaver": with_answer("02-attend", "def attend(q, k, v):\n    raise SystemExit"),
    "stubborn": with_answer("02-attend", STUBBORN),
    "cheat": filled(SOLUTIONS | WRONG | {"02-read-maps": SOLUTIONS["02-read-maps"]}),
    FORMULA: with_answer("02-attend", SOLUTIONS["02-attend"] + NOISY),
    "another course": another_course(),
    "no notebook": "this is not JSON",
}
# All right, nothing, and the worst; thief and colab are made in `hand_in`.
FEW = (FORMULA, "cheat", "thief")
NEVER_RUN = ("stripped and cut", "quarrel", "another course", "no notebook")
ANSWERS = ROOT / "utils" / "tests" / "answers"
cell_of(STUDENTS["cheat"], "02-by-hand").source += CHEAT
cell_of(STUDENTS[FORMULA], "02-words").source = "=1+1 <script>alert('markdown')</script>"


def rows(path):
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


class Graded(NamedTuple):
    """A class after `course grade`."""

    students: tuple  # those whose submissions were run
    handed: Path
    out: Path
    printed: str


def hand_in(folder, students):
    """Fill the folder of submissions, in the layouts that people have; with spaces in its path."""
    for student, content in STUDENTS.items():
        if student in (*students, *NEVER_RUN):
            write(folder / student / NAME / f"Copy of {NAME}_exercises (3).ipynb", content)
    if "colab" in students:
        write(folder / "colab.ipynb", as_colab_saves(filled()))
    if "twice" in students:
        write(folder / "twice" / "a.ipynb", filled({}))
        write(folder / "twice" / "a (1).ipynb", filled({}))
    write(folder / "two" / "a.ipynb", filled())
    write(folder / "two" / "b.ipynb", filled({}))
    write(folder / "paper" / "report.pdf", "%PDF")
    write(folder / "cheat" / ".ipynb_checkpoints" / "x.ipynb", filled())
    places = {
        "source": str(exercises.source(NAME)),
        "folder": str(folder),
        "other": str(folder / "two" / "a.ipynb"),
        "answers": str(ANSWERS / f"{NAME}.txt"),
        "outside": str(folder.parent / "loot"),
    }
    thief = with_answer("02-by-hand", SOLUTIONS["02-by-hand"] + THIEF.format(**places))
    write(folder / "thief" / "x.ipynb", thief)


def grade(folder, students):
    pytest.importorskip("nbgrader", reason='needs the extra "instructor"')
    hand_in(folder, students)
    limits = ["--seconds", "5", "--memory", "2"]
    run = subprocess.run(
        [sys.executable, "-m", "utils.course", "grade", folder, *limits],
        cwd=ROOT, capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return Graded(students, folder, folder.with_name(f"{folder.name}-graded"), run.stdout)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return grade(tmp_path_factory.mktemp("the few") / "hand ins", FEW)


@pytest.fixture(scope="module")
def everyone(tmp_path_factory):
    return grade(tmp_path_factory.mktemp("the class") / "hand ins", tuple(EXPECTED))


@pytest.fixture(params=["few", pytest.param("everyone", marks=slow)])
def graded(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def table(graded):
    return {row["student"].removeprefix("'"): row for row in rows(graded.out / NAME / "points.csv")}


def got(row):
    return {name: float(row[name]) if row[name] else None for name in POINTS}


def right(*names, words=None):
    """Points of a submission where these tasks are right."""
    return {name: POINTS[name] if name in names else 0 for name in AUTOMATIC} | {"words": words}


RIGHT_BUT_ATTEND = right(*(name for name in AUTOMATIC if name != "attend"))
EXPECTED = {
    "Ada Lövelace_123_assignsubmission_file": right(*AUTOMATIC),
    "empty": right(words=0),
    "wrong": right(),
    "half": right("by-hand", "attend", "repair", words=0),
    "loop": RIGHT_BUT_ATTEND,
    "hog": RIGHT_BUT_ATTEND,
    "syntax": RIGHT_BUT_ATTEND,
    "stripped": right(*AUTOMATIC),
    "twins": right(*AUTOMATIC),
    "deleted": right(*(name for name in AUTOMATIC if name != "cost")),
    "edited": right(),
    "killer": RIGHT_BUT_ATTEND,
    "leaver": RIGHT_BUT_ATTEND,
    "stubborn": RIGHT_BUT_ATTEND,
    "cheat": right("read-maps"),
    FORMULA: right(*AUTOMATIC),
    "colab": right(*AUTOMATIC),
    "twice": right(words=0),
    "thief": right(*AUTOMATIC),
}


def each(expected):
    """Parameters "graded, student, expected": of the few, and of everyone where that class is graded."""
    daily = {student: what for student, what in expected.items() if student in FEW + NEVER_RUN}
    return [
        *(pytest.param("few", student, what) for student, what in daily.items()),
        *(
            pytest.param("everyone", student, what, marks=slow)
            for student, what in expected.items()
        ),
    ]


@pytest.mark.parametrize("graded, student, points", each(EXPECTED), indirect=["graded"])
def test_points_of_each_task(table, student, points):
    assert got(table[student]) == points
    assert float(table[student]["total"]) == sum(p or 0 for p in points.values())
    assert float(table[student]["out_of"]) == sum(POINTS.values())
    waits = points["words"] is None
    assert table[student]["status"] == ("waiting" if waits else "graded")
    assert ("words is still to be graded by hand" in table[student]["notes"]) == waits


@pytest.mark.parametrize(
    "graded, student, note",
    each(
        {
            "Ada Lövelace_123_assignsubmission_file": r"^words is still to be graded by hand$",
            FORMULA: r"^words is still to be graded by hand$",
            "empty": r"^$",
            "half": r"only hidden tests failed in causal$",
            "wrong": r"^((?!hidden).)*$",
            "hog": r"02-attend stopped the grader: it needed more than 2 GB of memory; it was taken out",
            "killer": r"02-attend stopped the grader: it ended the Python that ran it",
            "stubborn": r"02-attend stopped the grader: it took longer than 5 s and could not be interrupted",
            "stripped": r"nbgrader's markers were gone; every given cell is in its place, so they were put back",
            "twins": r"the cell 02-attend was there 2 times; one was kept",
            "deleted": r"02-setup was deleted; it was put back.*02-attend-check was deleted; it was put back.*"
            r"answer cell 02-cost was deleted: only what other cells define was checked",
            "edited": r"^the given cell 02-attend-check is not as in the current exercise, whose cell was run in its place; words",
            "twice": r"^the same answers were handed in 2 times$",
            "cheat": r"(?=.*replaced utils.checks.check_attend; it was put back)(?=.*replaced torch.allclose; )"
            r"(?=.*replaced utils.checks.lesson_02.check_causal; )(?=.*replaced checks; )",
        }
    ),
    indirect=["graded"],
)
def test_notes_say_what_was_done(table, student, note):
    assert re.search(note, table[student]["notes"]), table[student]["notes"]


def test_what_could_not_be_graded_is_listed_with_a_reason(graded, table):
    listed = {row["student"]: row for row in rows(graded.out / "not_graded.csv")}
    reasons = {
        "stripped and cut": "markers are gone, and it is not certain which cells are the answers: "
        "the given cell 02-attend-check was changed or deleted",
        "quarrel": "the cell 02-attend is there 2 times, with different content",
        "two": "2 different files for this exercise: a.ipynb, b.ipynb",
        "another course": "not one of the course's exercises",
        "no notebook": "not a notebook: the file is no JSON",
        "paper": "a .pdf file, not a notebook",
    }
    assert set(listed) == set(reasons)
    for student, reason in reasons.items():
        assert reason in listed[student]["reason"] and listed[student]["what to do"]
        assert listed[student]["reason"] in graded.printed
    assert listed["paper"]["file"] == str(Path("paper", "report.pdf"))
    for student in ("quarrel", "two", "stripped and cut"):
        assert table[student]["status"] == "not graded" and not table[student]["total"]
        assert reasons[student] in table[student]["notes"]
    assert listed["paper"]["what to do"] == "if it was meant as an answer, ask for the .ipynb file"
    refused = {"quarrel", "two", "stripped and cut"}  # it is known which exercise these are
    assert set(table) == {*graded.students, *refused}
    assert f">Why: {listed['stripped and cut']['reason']}.<".replace("'", "&#x27;") in feedback(graded.out, "stripped and cut")  # fmt: skip


def test_one_line_a_student_and_a_short_table(graded):
    automatic = sum(POINTS[name] for name in AUTOMATIC)
    line = rf"^thief +{NAME} +{automatic:g} of {sum(POINTS.values()):g}   1 to be graded by hand$"
    assert re.search(line, graded.printed, re.M), graded.printed
    assert re.search(r"^exercise +graded +waiting +not graded +mean$", graded.printed, re.M)
    assert re.search(rf"^{NAME} +\d+ +\d+ +3 +[\d.]+$", graded.printed, re.M)
    assert str(graded.out) in graded.printed.splitlines()[-1]


# What the curious got --------------------------------------------------------------------------------


def ran(out, student):
    record = json.loads((out / ".records" / NAME / f"{student}.json").read_text(encoding="utf-8"))
    return nbformat.from_dict(record["run"]["notebook"])


def test_the_thief_got_nothing(graded, table):
    cell = cell_of(ran(graded.out, "thief"), "02-by-hand")
    printed = "".join(out.text for out in cell.outputs if out.output_type == "stream")
    assert "the grader does not let an exercise read" in printed
    (stolen,) = re.findall(r"LOOT (.*)", printed)
    assert json.loads(stolen.lower()) == [False] * 10 + [True]
    if guard.landlock_version():
        assert "COMPILED True" in printed
    loot = graded.handed.parent / "loot"
    assert not loot.exists()
    notes = table["thief"]["notes"]
    source, answers = exercises.source(NAME), ANSWERS / f"{NAME}.txt"
    for what in (f"read {source.relative_to(ROOT)}", f"read {answers.relative_to(ROOT)}", f"write {loot}",
                 "start id", "signal another process", "connect to 93.184.216.34"):  # fmt: skip
        assert f"tried to {what}; the grader did not let it" in notes
    assert "mine.txt" not in notes


HARMLESS = """
import ctypes, os, socket, sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from utils.grading import guard
own = Path(sys.argv[2])
(own / "mine").write_text("mine")
other = socket.create_server(("127.0.0.1", 0))
assert guard.landlock([sys.prefix, sys.base_prefix, *guard.SYSTEM], [own])
def refused(how, *given):
    try:
        how(*given)
    except OSError as error:
        return error.errno
print((own / "mine").read_text(encoding="utf-8"), [refused(*line) for line in (
    (open, Path(sys.argv[1], "README.md")),
    (os.listdir, sys.argv[1]),
    (open, own.parent / "x", "w"),
    (os.rename, own / "mine", own.parent / "x"),
    (os.mkdir, own.parent / "x"),
    (os.execv, sys.executable, [sys.executable, "-c", ""]),
    (os.kill, os.getppid(), 0),
    (socket.create_connection, other.getsockname()),
    (os.mkdir, own / "x"),
)])
"""


@pytest.mark.skipif(guard.landlock_version() < 6, reason="needs a Linux with Landlock 6 (6.12)")
def test_landlock_alone_holds_too(tmp_path):
    (tmp_path / "own").mkdir()
    command = [sys.executable, "-c", HARMLESS, str(ROOT), str(tmp_path / "own")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.stdout.strip() == "mine [13, 13, 13, 13, 13, 13, 1, 13, None]", run
    assert not (tmp_path / "x").exists()


def test_the_guard_is_told_what_to_hide(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox.Grader, "_start", lambda self: None)
    grader = sandbox.Grader(sandbox.Limits(), [tmp_path / "hand-ins"])
    (tmp_path / "book").write_text("")
    run = tmp_path / "run"
    sandbox._lay_out(run, EXERCISE, filled(), tmp_path / "book", grader.limits, grader.hidden)
    settings = json.loads((run / "settings.json").read_text(encoding="utf-8"))
    hook = guard.audit_hook(settings["forbidden"], settings["writable"], lambda what: None)
    answers = sorted(ANSWERS.glob("*.txt"))
    assert answers
    for path in (*answers, exercises.EXERCISES / "source" / "x", run / "course" / "gradebook.db",
                 tmp_path / "hand-ins" / "x", ROOT / ".git" / "HEAD"):  # fmt: skip
        with pytest.raises(PermissionError, match="read"):
            hook("open", (str(path), "r", 0))
    hook("open", (str(run / "work" / "utils" / "checks.py"), "r", 0))
    hook("open", (str(run / "work" / "notebooks" / "mine"), "w", 0))


def test_innocent_submissions_are_not_accused(table):
    for student, row in table.items():
        assert ("tried to" in row["notes"]) == (student == "thief"), (student, row["notes"])
        assert ("replaced" in row["notes"]) == (student == "cheat"), (student, row["notes"])


def test_what_a_cell_replaced_is_put_back_and_what_torch_wraps_itself_is_not(monkeypatch):
    log, shell = [], SimpleNamespace(ast_transformers=[], input_transformers_post=[])
    shell.user_ns = {"checks": checks, "check_shape": checks.check_shape}
    before = guard.put_back(shell, log.append)
    before(None)
    original, code = torch.allclose, checks.check_attend.__code__

    def wrapped(*given):
        return given

    wrapped.__module__ = "torch._compile"
    monkeypatch.setattr(torch, "manual_seed", wrapped)
    monkeypatch.setattr(torch, "allclose", lambda *given: True)
    monkeypatch.setattr(checks.check_attend, "__code__", (lambda *given: None).__code__)
    shell.user_ns |= {"checks": None, "check_shape": print, "check_attend": print}
    before(None)
    assert torch.manual_seed is wrapped and torch.allclose is original
    assert checks.check_attend.__code__ is code
    assert shell.user_ns == {
        "checks": checks,
        "check_shape": checks.check_shape,
        "check_attend": print,
    }
    # the function is found under the package's name or under its own module's
    assert {line.replace("checks.components.", "checks.") for line in log} == {
        "replaced torch.allclose", "replaced utils.checks.check_attend", "replaced checks",
        "replaced check_shape"}  # fmt: skip


@slow
def test_the_check_that_was_to_be_skipped_ran(everyone):
    notebook = ran(everyone.out, "edited")
    assert cell_of(notebook, "02-repair-check").outputs[0].output_type == "error"


def test_moodle_takes_the_pages_back_under_its_own_names(tmp_path):
    (tmp_path / "feedback").mkdir()
    for student in ("Ada Lövelace_123_assignsubmission_file_", "bo"):
        (tmp_path / "feedback" / f"{student}.html").write_text(student, encoding="utf-8")
    entries = [reports.Entry(student, EXERCISE, tmp_path) for student in ("Ada Lövelace_123_assignsubmission_file_", "bo")]  # fmt: skip
    reports._for_moodle(tmp_path, entries[1:])
    assert not (tmp_path / "feedback-for-moodle.zip").exists()
    reports._for_moodle(tmp_path, entries)
    with zipfile.ZipFile(tmp_path / "feedback-for-moodle.zip") as pages:
        (page,) = pages.namelist()
        assert pages.read(page).decode() == entries[0].student
    # as Moodle's importziplib.php takes a name apart: who, number, kind, part, file
    assert page.split("_", 4) == ["Ada Lövelace", "123", "assignsubmission", "file", f"{NAME}.html"]


def test_the_overview_counts_what_was_assigned_without_stretch_tasks():
    attention, tokens = read_exercise("02_attention"), read_exercise("01_video_to_tokens")
    stretch = next(task for task in attention.tasks if "Stretch" in task.title)
    run = SimpleNamespace(points={task.graded: task.points for task in attention.tasks})
    first = SimpleNamespace(points={task.graded: 1.0 for task in tokens.tasks})
    entries = [
        reports.Entry("ada", attention, Path("a"), run=run),
        reports.Entry("ada", tokens, Path("a"), run=first),
        reports.Entry("bo", attention, Path("b"), refused=Refused("why", "what to do")),
        reports.Entry("cleo", tokens, Path("c"), run=first),
    ]

    def overview(assigned):
        table = reports._overview(entries, assigned).removeprefix("\ufeff")
        return {row["student"]: row for row in csv.DictReader(io.StringIO(table))}

    rows = overview(["02_attention"])
    assert rows["ada"]["out_of"] == f"{attention.core:g}" == f"{sum(t.points for t in attention.tasks) - stretch.points:g}"  # fmt: skip
    assert rows["ada"]["share"] == f"{1 + stretch.points / attention.core:.0%}"
    assert rows["ada"]["01_video_to_tokens (not assigned)"] == f"{len(tokens.tasks)}"
    assert rows["bo"]["02_attention"] == "not graded" and rows["cleo"]["02_attention"] == ""
    assert rows["bo"]["waiting or not graded"] == "1" and rows["cleo"]["total"] == "0"
    unknown = [("nia", Path("nia/x.ipynb"), Refused("why", "what to do"))]
    table = reports._overview(entries, None, unknown).removeprefix("\ufeff")
    (nia,) = (row for row in csv.DictReader(io.StringIO(table)) if row["student"] == "nia")
    assert nia["waiting or not graded"] == "1" and nia["02_attention"] == ""
    assert overview(None)["ada"]["out_of"] == f"{attention.core + tokens.core:g}"
    assert overview(["02_attention", "03_attention_is_not_enough"])["bo"]["03_attention_is_not_enough"] == ""  # fmt: skip
    assert exercises.named(["02", "01_video_to_tokens"]) == ["02_attention", "01_video_to_tokens"]
    with pytest.raises(SystemExit, match="no exercise is called 02_x; there are: 01_"):
        exercises.named(["02_x"])


def test_moodle_gives_a_person_another_number_in_each_assignment():
    run = SimpleNamespace(points={task.graded: 1.0 for task in EXERCISE.tasks})
    tokens = read_exercise("01_video_to_tokens")
    other = SimpleNamespace(points={task.graded: 1.0 for task in tokens.tasks})
    moodle = "{}_{}_assignsubmission_file".format

    def overview(*handed, unknown=()):
        entries = [reports.Entry(name, of, Path("x"), run=run if of is EXERCISE else other) for name, of in handed]  # fmt: skip
        table = reports._overview(entries, None, unknown).removeprefix("\ufeff")
        return {row["student"]: row for row in csv.DictReader(io.StringIO(table))}

    ada, again = moodle("Ada", 123), moodle("Ada", 456)
    (row,) = overview((ada, EXERCISE), (again, tokens)).values()
    assert row["student"] == "Ada" and row[NAME] and row["01_video_to_tokens"]
    assert row["total"] == f"{len(EXERCISE.tasks) + len(tokens.tasks)}"
    lost = [(again, Path("x"), Refused("why", "what to do"))]
    assert overview((ada, EXERCISE), unknown=lost)["Ada"]["waiting or not graded"] == "1"
    # two people of one name in one class stay two
    assert list(overview((ada, EXERCISE), (again, EXERCISE), ("Çağla", EXERCISE), ("Dora", EXERCISE))) == [ada, again, "Çağla", "Dora"]  # fmt: skip


# The feedback pages ----------------------------------------------------------------------------------


def test_the_headline_counts_the_stretch_task_apart():
    task = next(task for task in EXERCISE.tasks if task.stretch)
    points = {one.graded: 0.0 if one.name == "attend" else one.points for one in EXERCISE.tasks}
    entry = reports.Entry("ada", EXERCISE, Path("x"), run=SimpleNamespace(points=points))
    core = EXERCISE.core
    assert entry.stretch == task.points and entry.out_of == core + task.points
    assert reports.headline(entry) == f"{core - POINTS['attend']:g} of {core:g} points, and on top {task.points:g} of {task.points:g} for the stretch task"  # fmt: skip
    entry.run.points[next(one.graded for one in EXERCISE.tasks if one.by_hand)] = None
    assert " points so far, and on top " in reports.headline(entry)


def feedback(out, student):
    return (out / NAME / "feedback" / f"{student}.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "graded, student, said",
    each(
        {
            "Ada Lövelace_123_assignsubmission_file": ">right<",
            reports.file_name(FORMULA): ">right<",
            "empty": ">not answered yet<",
            "wrong": ">divide the scores by √d before the softmax",
            "half": f">{feedback_page.HIDDEN_ONLY}: ",
            "loop": ">took longer than 5 s<",
            "twins": "✓ passed",
            "hog": "your answer stopped the grader: it needed more than 2 GB of memory",
            "killer": "your answer stopped the grader: it ended the Python that ran it",
            "syntax": "SyntaxError: invalid syntax",
            "leaver": "SystemExit",
            "quarrel": "with different content.</li><li>Delete all of them but the one that counts",
        }
    ),
    indirect=["graded"],
)
def test_pages_say_what_became_of_a_task(graded, student, said):
    assert said in feedback(graded.out, student)


def test_pages_show_the_answers_but_neither_hidden_tests_nor_replacements(graded):
    pages = sorted((graded.out / NAME / "feedback").glob("*.html"))
    assert len(pages) == len(graded.students) + 3
    hidden = re.findall(r"BEGIN HIDDEN TESTS\n(.*?)### END", "\n".join(GIVEN.values()), re.S)
    lines = {line.strip() for part in hidden for line in part.splitlines() if "checks." in line}
    assert lines
    for page in pages:
        text = re.sub(r"<[^>]*>", "", page.read_text(encoding="utf-8"))
        assert "HIDDEN" not in text
        assert not any(line in text.replace("&quot;", '"') for line in lines), page.name
    stopped = {"hog": "kept.append", "killer": "os._exit(0)"}
    for student in stopped.keys() & set(graded.students):
        text = re.sub(r"<[^>]*>", "", feedback(graded.out, student))
        assert stopped[student] in text and "raise RuntimeError" not in text


def test_an_endless_loop_in_a_cell_of_their_own_is_noted():
    notebook = filled()
    slow_one = new_code_cell("while True: pass")
    slow_one.outputs = [new_output("error", ename="CellTimeoutError", evalue="", traceback=[])]
    notebook.cells.append(slow_one)
    run = SimpleNamespace(points={}, notes=[], stopped={}, notebook=notebook)
    entry = reports.Entry("ada", EXERCISE, Path("x"), run=run, refused=None)
    run.points = {task.graded: task.points for task in EXERCISE.tasks}
    limits = SimpleNamespace(seconds=5, minutes=1, memory=2)
    assert reports._notes(entry, limits) == [f"cell {len(notebook.cells)}, their own, took longer than 5 s"]  # fmt: skip


def test_formulas_are_drawn_and_code_stays_code():
    text = "is $\\sqrt d$, `$\\sqrt d$`, cost 3 $ or 4 $, and\n\n$$x_i^2$$\n\n$\\frac$ <b>"
    drawn = feedback_page._clean(feedback_page._drawn(text))
    soup = BeautifulSoup(drawn, "html.parser")
    assert [formula["display"] for formula in soup.find_all("math")] == ["inline", "block"]
    assert soup.find("msqrt").text == "d" and "`$\\sqrt d$`" in drawn and "$\\frac$" in drawn
    assert "3 $ or 4 $" in drawn
    for name in exercises.exercises():
        for cell in nbformat.read(exercises.release(name), as_version=4).cells:
            if cell.cell_type == "markdown":
                left = re.sub(r"`[^`]*`", "", feedback_page._drawn(cell.source))
                assert "\\" not in left and "$" not in left, (name, left)


def test_pages_run_no_script_and_need_no_network(graded):
    page = feedback(graded.out, reports.file_name(FORMULA))
    soup = BeautifulSoup(page, "html.parser")
    for part in ("html", "image", "javascript", "svg", "markdown"):
        assert f"alert('{part}')" in soup.text  # the code is there, to be read
    assert not soup.find(["script", "iframe", "object", "embed", "link", "base", "form", "svg"])
    for tag in soup.find_all(True):
        assert not [name for name in tag.attrs if name.startswith("on") or name == "srcdoc"]
        assert tag.get("src", "data:image/").startswith("data:image/")
        assert tag.get("href", "https:").startswith("https:")
    (policy,) = soup.find_all("meta", attrs={"http-equiv": "Content-Security-Policy"})
    assert (
        policy["content"].startswith("default-src 'none'; ")
        and "script-src" not in policy["content"]
    )


def test_names_are_safe_in_tables_and_file_names(graded):
    text = (graded.out / NAME / "points.csv").read_text(encoding="utf-8-sig")
    assert f'\n"\'{FORMULA}",waiting' in text
    (answer,) = (
        row for row in rows(graded.out / NAME / "answers.csv") if FORMULA in row["student"]
    )
    assert answer["answer"].startswith("'=1+1")
    assert reports.file_name("a/b:c") != reports.file_name("a_b_c") == "a_b_c"


# Again: nothing is run twice, points by hand are taken over -------------------------------------------


def fill_in(path, whose, **values):
    table = rows(path)
    (row,) = (row for row in table if row["student"].removeprefix("'") == whose)
    row |= values
    columns = list(table[0])
    path.write_text(handgrading.table(columns, [list(r.values()) for r in table]), encoding="utf-8")


@pytest.fixture
def again(graded, monkeypatch):
    """Grades the class again, where nothing may be run."""
    monkeypatch.setattr(grading, "Grader", lambda *_: pytest.fail("something was run again"))
    return lambda: grading.grade(graded.handed, seconds=5, memory=2)


@pytest.mark.parametrize(
    "graded, whom, notes",
    [
        ("few", "thief", r"^tried to .*; the grader did not let it$"),
        pytest.param("everyone", "colab", r"^$", marks=slow),
    ],
    indirect=["graded"],
)
def test_points_by_hand_are_merged_and_kept(graded, again, whom, notes, capsys):
    answers = graded.out / NAME / "answers.csv"
    assert {row["student"] for row in rows(answers)} >= {whom, "cheat"}
    assert not {row["student"] for row in rows(answers)} & {"empty", "half", "two"}
    row = next(row for row in rows(answers) if row["student"] == whom)
    assert row["answer"] == WORDS and row["points"] == "" and row["out_of"] == "3"
    fill_in(answers, whom, points="2,5", comment="Which sum? <b>")
    fill_in(answers, FORMULA, points="0", comment="-")
    for _ in range(2):
        again()
        table = {
            row["student"].removeprefix("'"): row for row in rows(graded.out / NAME / "points.csv")
        }
        automatic = sum(POINTS[name] for name in AUTOMATIC)
        assert (table[whom]["words"], table[whom]["status"]) == ("2.5", "graded")
        assert float(table[whom]["total"]) == automatic + 2.5
        assert re.search(notes, table[whom]["notes"])
        assert (table[FORMULA]["words"], table[FORMULA]["status"]) == ("0", "graded")
        assert table["cheat"]["status"] == "waiting"
        kept = {row["student"]: row for row in rows(answers)}
        assert (kept[whom]["points"], kept[whom]["comment"]) == ("2.5", "Which sum? <b>")
    assert "Which sum? &lt;b&gt;" in feedback(graded.out, whom)
    assert f"{automatic + 2.5:g} of" in capsys.readouterr().out


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"points": "4"},
            r"answers.csv, row \d+ \(cheat, words\): points should be a number from 0 to 3",
        ),
        ({"points": "good"}, r"points should be a number from 0 to 3, they are 'good'"),
        ({"task": "attend"}, r"the task is unknown; there are: words"),
        ({"student": "nobody", "points": "1"}, r"nobody has points for words, but no submission"),
        ({"student": "thief"}, r"\(thief, words\): this row is there twice"),
    ],
)
def test_points_by_hand_that_make_no_sense_are_an_error(graded, again, values, message):
    answers = graded.out / NAME / "answers.csv"
    before = answers.read_bytes()
    fill_in(answers, "cheat", **values)
    with pytest.raises(SystemExit, match=message):
        again()
    answers.write_bytes(before)


def test_merging_keeps_points_and_says_when_an_answer_changed():
    tasks = {"words": 3.0}
    old = handgrading.merge({}, [("ada", "words", "yes"), ("=b", "words", "no")], tasks)
    old["ada", "words"]["points"] = old["'=b", "words"]["points"] = 2.0
    same = handgrading.merge(old, [("ada", "words", "yes"), ("=b", "words", "no\n")], tasks)
    assert [row["remark"] for row in same.values()] == ["", ""]
    new = handgrading.merge(old, [("ada", "words", "yes, but")], tasks)
    assert [row["points"] for row in new.values()] == [2.0, 2.0]
    assert new["ada", "words"]["remark"] == handgrading.CHANGED
    assert new["'=b", "words"]["remark"] == handgrading.GONE
    later = handgrading.merge(new, [("ada", "words", "yes, but"), ("=b", "words", "no")], tasks)
    assert [row["remark"] for row in later.values()] == ["", handgrading.CHANGED]


def test_a_table_that_a_spreadsheet_saved_can_be_read(tmp_path):
    path = tmp_path / "answers.csv"
    text = "student;task;answer;points;out_of;comment;remark\r\nMüller;words;a;2,5;3;schön;\r\n;;;;;;\r\n"
    path.write_bytes(text.encode("cp1252"))
    ((key, row),) = handgrading.read(path, {"words": 3.0}).items()
    assert key == ("Müller", "words") and row["points"] == 2.5 and row["comment"] == "schön"
    path.write_text("student,task\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="answers.csv: the column answer is missing"):
        handgrading.read(path, {"words": 3.0})


# Looking at files, without a kernel -------------------------------------------------------------------


def check(tmp_path, content):
    write(tmp_path / "x.ipynb", content)
    return check_file(tmp_path / "x.ipynb", [read_exercise(name) for name in exercises.exercises()])


def test_an_untouched_file_passes_without_notes(tmp_path):
    for content in (filled({}), filled(), as_colab_saves(filled())):
        submission = check(tmp_path, content)
        assert submission.exercise.name == NAME and submission.notes == []
        nbformat.validate(submission.notebook)


def test_own_cells_stay_and_tags_outputs_and_strange_markers_go(tmp_path):
    notebook = filled()
    notebook.cells.insert(
        3, nbformat.v4.new_code_cell("1 + 1", metadata={"tags": ["skip-execution"]})
    )
    notebook.cells[4].metadata["nbgrader"] = "nonsense"
    notebook.cells[-1].metadata["nbgrader"]["grade_id"] = "02-words"
    notebook.cells.append(
        nbformat.v4.new_markdown_cell("x", metadata={"nbgrader": {"grade_id": "02-old"}})
    )
    submission = check(tmp_path, notebook)
    assert len(submission.notebook.cells) == len(notebook.cells)
    assert (
        submission.notebook.cells[3].source == "1 + 1" and not submission.notebook.cells[3].metadata
    )
    assert submission.notes == ["cells that this exercise does not have were left ungraded: 02-old"]


def test_an_emptied_copy_is_no_second_answer(tmp_path):
    stub = cell_of(EXERCISE.notebook, "02-attend").source
    submission = check(tmp_path, duplicated("02-attend", stub))
    assert submission.notes == ["the cell 02-attend was there 2 times; one was kept"]
    assert cell_of(submission.notebook, "02-attend").source == SOLUTIONS["02-attend"]


def test_deleted_cells_come_back_in_their_places(tmp_path):
    gone = ("02-setup", "02-imports", "02-attend-check", "02-words", "02-cost", "02-cost-check")
    submission = check(tmp_path, deleted(*gone))
    ids = [marks(cell).get("grade_id") for cell in submission.notebook.cells]
    assert [one for one in ids if one] == list(EXERCISE.cells)
    assert len(submission.notes) == len(gone)
    assert "the answer cell 02-words was deleted: no answer" in submission.notes


def test_cells_in_another_order_and_of_another_kind_are_noted(tmp_path):
    notebook = filled()
    notebook.cells.insert(0, notebook.cells.pop())
    cell = cell_of(notebook, "02-attend")
    notebook.cells[notebook.cells.index(cell)] = nbformat.v4.new_markdown_cell(
        cell.source, metadata=cell.metadata
    )
    notes = check(tmp_path, notebook).notes
    assert notes == ["the cell 02-attend had been turned into markdown",
                     "the given cells stand in another order than in the exercise"]  # fmt: skip


def test_answers_are_found_between_own_cells_when_the_markers_are_gone(tmp_path):
    notebook = filled()
    for task in EXERCISE.tasks:  # notes and trials of the student's own, before each answer
        place = notebook.cells.index(cell_of(notebook, task.answer))
        notebook.cells[place:place] = [new_code_cell("1 + 1"), new_markdown_cell("to think about")][: 1 if task.by_hand else 2]  # fmt: skip
    found = check(tmp_path, stripped(notebook))
    answers = {marks(cell).get("grade_id"): cell.source for cell in found.notebook.cells}
    for task in EXERCISE.tasks:
        assert answers[task.answer] == cell_of(filled(), task.answer).source
    assert found.notes[0].startswith("nbgrader's markers were gone")
    twice = filled()
    place = twice.cells.index(cell_of(twice, "02-attend"))
    twice.cells.insert(place, copy.deepcopy(twice.cells[place]))  # two that could be the answer
    doubt = "not certain which cells are the answers: 2 cells could be the answer 02-attend"
    with pytest.raises(Refused, match=doubt) as caught:
        check(tmp_path, stripped(twice))
    assert caught.value.exercise.name == NAME  # so its student gets a page that says so


@pytest.mark.parametrize(
    "content, reason",
    [
        ("", r"the file is empty \(0 bytes\)"),
        ("[" * 100_000, "not a notebook: the file is no JSON"),
        ("[]", "not a notebook: it has no cells"),
        ('{"worksheets": []}', "saved in a format of before 2015"),
        ('{"cells": [7]}', "a cell in it is broken"),
        ('{"cells": [{"cell_type": "code", "source": {}}]}', "a cell in it is broken"),
        ('{"cells": []}', "not one of the course's exercises"),
        (another_course(), "not one of the course's exercises"),
        (stripped(deleted("02-attend")), "markers are gone"),
        (deleted(*(task.answer for task in EXERCISE.tasks)), "all answer cells are gone"),
    ],
)
def test_files_that_cannot_be_graded_are_refused_with_a_reason(tmp_path, content, reason):
    with pytest.raises(Refused, match=reason) as caught:
        check(tmp_path, content)
    assert caught.value.advice


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "ada").mkdir()
    (tmp_path / "ada" / "x.ipynb").symlink_to(exercises.source(NAME))
    ((student, path),) = handed_in(tmp_path)
    with pytest.raises(Refused, match="a link to somewhere else"):
        check_file(path, [EXERCISE])


def test_whose_files_they_are(tmp_path):
    for name in ("b/x.ipynb", "b/.ipynb_checkpoints/x.ipynb", "b/deep/er/y.ipynb", "b/07.py", "b/me.png", "c.ipynb",
                 "d/report.pdf", ".DS_Store", "__MACOSX/b/x.ipynb", "e.zip", "g.ipynb.txt", "h/i.ipynb.json"):  # fmt: skip
        write(tmp_path / name, "{}")
    (tmp_path / "f").mkdir()
    found = [
        (student, path.relative_to(tmp_path).as_posix()) for student, path in handed_in(tmp_path)
    ]
    assert found == [("b", "b/07.py"), ("b", "b/deep/er/y.ipynb"), ("b", "b/x.ipynb"), ("c", "c.ipynb"), ("d", "d/report.pdf"),
                     ("e.zip", "e.zip"), ("f", "f"), ("g", "g.ipynb.txt"), ("h", "h/i.ipynb.json")]  # fmt: skip


def test_a_notebook_whose_name_a_browser_made_longer_is_one(tmp_path):
    path = tmp_path / "ada" / "02.ipynb.txt"
    write(path, filled())
    assert check_file(path, [EXERCISE]).exercise is EXERCISE
    write(tmp_path / "ada" / "07.py", "print(1)")
    script = next(found for _, found in handed_in(tmp_path) if found.suffix == ".py")
    with pytest.raises(Refused, match="a .py file, not a notebook"):
        check_file(script, [EXERCISE])


# What cannot work is said at once ---------------------------------------------------------------------


def test_wrong_folders_are_an_error(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="nowhere: no such folder"):
        main(["grade", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="must not be among the submissions"):
        main(["grade", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="must not be in the course's repository"):
        main(["grade", str(tmp_path), "--out", str(ROOT / "notebooks" / "out")])
    with pytest.raises(SystemExit, match="limits should be larger than 0"):
        main(["grade", str(tmp_path), "--seconds", "0"])
    monkeypatch.setattr(grading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r'pip install -e "\.\[instructor\]"'):
        main(["grade", str(tmp_path)])


# Honest students ---------------------------------------------------------------------------------------


def checked(tmp_path, notebook):
    path = tmp_path / "anybody.ipynb"
    nbformat.write(notebook, path)
    return check_file(path, [EXERCISE])


def test_imports_added_to_a_given_cell_are_kept(tmp_path):
    notebook = copy.deepcopy(EXERCISE.notebook)
    cell_of(notebook, "02-imports").source += "\nimport numpy as np\nprint('hello')"
    found = checked(tmp_path, notebook)
    place = next(
        n for n, c in enumerate(found.notebook.cells) if marks(c).get("grade_id") == "02-imports"
    )
    assert found.notebook.cells[place + 1].source == "import numpy as np"
    assert any("then the imports that were added" in note for note in found.notes)
    cell_of(notebook, "02-attend-check").source += "\nimport numpy as np"  # a check is a check
    assert len(checked(tmp_path, notebook).notebook.cells) == len(found.notebook.cells)


def test_words_below_the_given_cell_are_an_answer(tmp_path):
    notebook = copy.deepcopy(EXERCISE.notebook)
    notebook.cells.append(nbformat.v4.new_markdown_cell(WORDS))
    for content in (
        stripped(copy.deepcopy(notebook)),
        notebook,
    ):  # and where a tool has dropped the markers
        found = checked(tmp_path, content)
        assert cell_of(found.notebook, "02-words").source == WORDS
    assert any("stood in a text cell below" in note for note in found.notes)
    cell_of(notebook, "02-words").source = "My answer."
    assert cell_of(checked(tmp_path, notebook).notebook, "02-words").source == "My answer."


def test_a_students_copy_says_that_it_cannot_grade(tmp_path, monkeypatch):
    (tmp_path / "hand-ins").mkdir()
    monkeypatch.setattr(exercises, "EXERCISES", tmp_path)
    with pytest.raises(SystemExit, match="no solutions here"):
        grading.grade(tmp_path / "hand-ins")
