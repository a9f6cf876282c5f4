"""The exercises: what students get, that the solutions pass, and that wrong answers do not.

utils/tests/answers/NAME.txt lists wrong and right answers for each task that a computer grades.
An entry is either a whole answer cell, or pairs of lines "- old" and "+ new" that change the solution.
"""

import os
import re
import shutil
import subprocess
import sys
import warnings

import nbformat
import pytest

from utils.course.exercises import (
    EXERCISES,
    STUB,
    exercises,
    grade_id,
    make_release,
    publish_solutions,
    release,
    set_seeds,
    source,
    stub,
    student_copy,
    tasks,
    visible,
)
from utils.course.notebooks import SETUP_CELL, badge, repository
from utils.paths import ROOT

NAMES = exercises()
if not (EXERCISES / "source").is_dir():
    pytest.skip("a students' copy, without solutions", allow_module_level=True)
LESSONS = [path.stem for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))]
ANSWERS = ROOT / "utils" / "tests" / "answers"
each = pytest.mark.parametrize("name", NAMES)


def read(path):
    return nbformat.read(path, as_version=4)


def changed(solution, text):
    """The answer that an entry of the answers file stands for."""
    lines = text.strip("\n").split("\n")
    if not lines[0].startswith("- "):
        return text
    pairs = list(zip(lines[::2], lines[1::2], strict=True))
    for old, new in pairs:
        assert old.startswith("- ") and new.startswith("+ "), (old, new)
        assert old[2:] in solution, f"{old[2:]!r} is not in the solution"
        solution = solution.replace(old[2:], new[2:])
    return solution


def answers(name):
    """(kind, task, what, text) of each entry of an exercise's answers file."""
    text = (ANSWERS / f"{name}.txt").read_text(encoding="utf-8")
    parts = re.split(r"^== (wrong|right) ([\w-]+): (.*)\n", text, flags=re.M)[1:]
    return list(zip(parts[::4], parts[1::4], parts[2::4], parts[3::4]))


def run(code, names):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, "<cell>", "exec"), names)


@pytest.fixture(scope="module")
def namespaces():
    """name -> {task: the names that are defined when its answer is run}, from the solved notebook."""
    import matplotlib

    matplotlib.use("Agg")
    known = {}

    def before(name):
        if name not in known:
            names, found = {"__name__": "__main__"}, {}
            for cell in read(source(name)).cells:
                if cell.cell_type != "code":
                    continue
                if cell.metadata.nbgrader.solution:
                    found[grade_id(cell)] = dict(names)
                run(cell.source, names)
            known[name] = found
        return known[name]

    return before


# What wrong and right answers get ----------------------------------------------------------------

SLOW = {"13-beat-wrong-51 classes", "13-beat-wrong-nothing returned", "13-beat-right-joint attention",
        "05-width-right-searched"}  # fmt: skip


def entries(name):
    for kind, task, what, text in answers(name):
        known = f"{name[:2]}-{task}-{kind}-{what}"
        marks = pytest.mark.slow if known in SLOW else ()
        yield pytest.param(name, kind, task, text, id=known, marks=marks)


ENTRIES = [entry for name in NAMES for entry in entries(name)]


@pytest.mark.parametrize("name, kind, task, text", ENTRIES)
def test_wrong_answers_fail_and_right_ones_pass(namespaces, name, kind, task, text):
    (found,) = (t for t in tasks(read(source(name))) if t.name == f"{name[:2]}-{task}")
    names = dict(namespaces(name)[found.name])
    answer = changed(found.answer, text)
    assert answer != found.answer
    if kind == "right":
        run(answer, names)
        run(found.check, names)
        return
    with pytest.raises(Exception) as caught:
        run(answer, names)
        run(found.check, names)
    assert not isinstance(caught.value, NotImplementedError | NameError | SyntaxError), caught.value


def test_any_number_will_do_as_a_seed(namespaces, tmp_path, monkeypatch):
    """An instructor gives the hidden tests seeds of his own: right answers pass, in no more time."""
    shutil.copytree(EXERCISES / "source", tmp_path / "source")
    monkeypatch.setattr("utils.course.exercises.EXERCISES", tmp_path)
    for first in (0, -3):
        with pytest.raises(SystemExit, match=f"a whole number from 1 on, not {first}"):
            set_seeds(first)
    loops = set_seeds(731)
    found = "\n".join(path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.ipynb"))
    assert (
        loops == found.count("for seed in range(731, 73") and "for seed in range(1, " not in found
    )
    for name in NAMES:
        for task in tasks(read(tmp_path / "source" / name / f"{name}_exercises.ipynb")):
            if task.check and "731" in task.check:
                names = dict(namespaces(name)[task.name])
                run(task.answer, names)
                run(task.check, names)


@each
def test_every_graded_task_has_wrong_and_right_answers(name):
    entries = answers(name)
    for task in tasks(read(source(name))):
        kinds = [kind for kind, its_task, _, _ in entries if f"{name[:2]}-{its_task}" == task.name]
        if task.check is None:
            assert not kinds
        else:
            assert kinds.count("wrong") >= 3 and kinds.count("right") >= 1, task.name
    known = {task.name for task in tasks(read(source(name)))}
    assert {f"{name[:2]}-{task}" for _, task, _, _ in entries} <= known


@pytest.mark.slow
def test_wrong_answers_are_explained_by_the_visible_check(namespaces):
    """What the learner sees says what is wrong. Hidden tests only find what was written for the visible one."""
    told, total, unseen = 0, 0, []
    for name in NAMES:
        found = {task.name: task for task in tasks(read(source(name)))}
        for kind, task, what, text in answers(name):
            if kind == "wrong":
                task = found[f"{name[:2]}-{task}"]
                names = dict(namespaces(name)[task.name])
                total += 1
                try:
                    run(changed(task.answer, text), names)
                    run(visible(task.check), names)
                    unseen += [] if "visible" in what else [f"{task.name}: {what}"]
                except AssertionError as error:
                    told += len(str(error)) > 15
                except Exception:
                    pass
    assert not unseen
    assert told >= 0.9 * total, f"{told} of {total}"


# What students get --------------------------------------------------------------------------------


def test_releases_are_what_nbgrader_makes(tmp_path):
    pytest.importorskip("nbgrader")
    for path in make_release(into=tmp_path):
        committed = release(path.parent.name)
        assert path.read_bytes() == committed.read_bytes(), (
            f"{committed.name} is not what its source gives: python -m utils.course release"
        )
    assert sorted(p.name for p in (EXERCISES / "release").iterdir()) == NAMES


def test_an_unknown_exercise_is_an_error():
    with pytest.raises(SystemExit, match="no exercise is called 99_x; there are: 01_"):
        make_release(["99_x"])


def test_a_students_copy_holds_no_solution(tmp_path):
    copy = student_copy(tmp_path / "class")
    names = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    assert {release(name).relative_to(ROOT).as_posix() for name in NAMES} <= names
    private = (
        "exercises/source",
        "tests/answers",
        "utils/grading",
        "test_grading",
        "test_exercises",
    )
    assert not [name for name in names if any(part in name for part in private)]
    readme = (copy / "README.md").read_text(encoding="utf-8")
    assert "instructor" not in readme and "[grading]" not in readme
    assert "more tests than you see" in (copy / "notebooks" / "exercises" / "README.md").read_text(encoding="utf-8")  # fmt: skip
    for link in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (copy / link).exists(), link
    assert not (copy / ".git").exists()
    for path in (copy / "notebooks" / "exercises").rglob("*.*"):
        text = path.read_text(encoding="utf-8") if path.suffix in (".ipynb", ".md") else ""
        assert "SOLUTION" not in text and "HIDDEN TESTS" not in text and "Mark scheme" not in text
    (tmp_path / "other").mkdir()
    with pytest.raises(SystemExit, match="no students' copy; choose a new folder"):
        student_copy(tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["class", "other"]
    command = [sys.executable, "-m", "utils.course", "release"]
    run = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert run.returncode == 1 and "no solutions here" in run.stderr
    run = subprocess.run([*command[:-1], "grade", copy], cwd=copy, capture_output=True, text=True)
    assert run.returncode == 1 and "run it in your private copy" in run.stderr


@pytest.mark.slow
def test_a_students_copy_passes_its_own_tests(tmp_path):
    """Those that read notebooks, pages and the rooms of utils; the others cannot tell the difference."""
    copy = student_copy(tmp_path / "class")
    files = [f"utils/tests/test_{name}.py" for name in ("course", "house", "lessons", "numbers", "slides")]  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *files]
    run = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]


@pytest.fixture
def copied(tmp_path):
    """A students' copy with a history, a file of the instructor's, and one the course no longer has."""
    copy = student_copy(tmp_path / "class")
    (copy / ".git").mkdir()
    (copy / ".git" / "HEAD").write_text("its own history")
    (copy / "syllabus.pdf").write_text("the instructor's")
    (copy / "utils" / "gone.py").write_text("was in the course once")
    note = copy / ".students-copy"
    note.write_text(note.read_text(encoding="utf-8") + "utils/gone.py\n../outside\n")
    (tmp_path / "outside").touch()
    (copy / "README.md").unlink()
    return copy


def test_a_students_copy_is_brought_up_to_date_in_place(copied):
    student_copy(copied)
    readme = (copied / "README.md").read_text(encoding="utf-8")
    assert "## Syllabus" in readme and "## Sources" in readme
    assert "For maintainers" not in readme and "utils.course grade" not in readme
    assert (copied / ".git" / "HEAD").read_text(encoding="utf-8") == "its own history"
    assert (copied / "syllabus.pdf").is_file() and (copied.parent / "outside").is_file()
    assert not (copied / "utils" / "gone.py").exists()
    assert "gone" not in (copied / ".students-copy").read_text(encoding="utf-8")
    (copied / ".students-copy").unlink()  # as the first edition made them
    student_copy(copied)
    assert (copied / "syllabus.pdf").is_file()


def test_an_update_that_fails_loses_nothing(copied, monkeypatch):
    """A folder that is open on Windows cannot be renamed; a disk may be full: the history stays."""
    moved = []

    def refused_the_second_time(move):
        def call(*names):
            moved.append(names)
            if len(moved) == 2:
                raise PermissionError("in use")
            return move(*names)

        return call

    for name in ("rename", "replace"):
        monkeypatch.setattr(f"os.{name}", refused_the_second_time(getattr(os, name)))
    with pytest.raises(PermissionError):
        student_copy(copied)
    assert (
        len(moved) == 2
        and (copied / ".git" / "HEAD").read_text(encoding="utf-8") == "its own history"
    )
    assert (copied / "syllabus.pdf").is_file() and (copied / "utils" / "model.py").is_file()


@each
def test_student_copies_stop_only_where_something_is_to_be_written(name):
    names, stopped = {"__name__": "__main__"}, set()
    for cell in read(release(name)).cells:
        assert "SOLUTION" not in cell.source and "HIDDEN" not in cell.source
        if cell.cell_type == "code":
            assert not cell.outputs
            try:
                run(cell.source, names)
            except NotImplementedError:
                stopped.add(grade_id(cell))
    graded = {f"{t.name}-check" for t in tasks(read(source(name))) if t.check}
    assert stopped & graded == graded, "these checks pass before anything is written"


@each
def test_filled_from_the_source_they_are_the_source(namespaces, name):
    """Its cells without the hidden tests; `namespaces` has run them, with the hidden tests."""
    namespaces(name)
    solved = {grade_id(cell): cell for cell in read(source(name)).cells if grade_id(cell)}
    for cell in read(release(name)).cells:
        if cell.cell_type == "code":
            whole = solved.pop(grade_id(cell))
            if cell.metadata.nbgrader.solution:
                assert STUB in cell.source and cell.source == stub(whole.source)
            else:
                assert cell.source == visible(whole.source)
    assert not [cell for cell in solved.values() if cell.cell_type == "code"]


# How an exercise looks -----------------------------------------------------------------------------


def test_there_is_an_exercise_for_each_lesson_from_01_to_13():
    assert NAMES == [stem for stem in LESSONS if "01" <= stem[:2] <= "13"]


@each
def test_shape_of_an_exercise(name):
    notebook = read(source(name))
    head = notebook.cells[0].source
    place = release(name).relative_to(ROOT).as_posix()
    assert badge(place, repository()) in head
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].source == SETUP_CELL.format(repo=repository())
    assert all(grade_id(cell) for cell in code), (
        "every code cell is nbgrader's, so it can be restored"
    )
    ids = [grade_id(cell) for cell in notebook.cells if grade_id(cell)]
    assert len(ids) == len(set(ids)) and all(one.startswith(name[:2] + "-") for one in ids)
    found = tasks(notebook)
    assert 4 <= len(found) <= 8
    minutes = 0
    for task in found:
        fact = r"\*(\d+) points? · difficulty ([1-5]) of 5 · (\d+) minutes( · graded by hand)?\*"
        points, _, its_minutes, by_hand = re.search(fact, task.text).groups()
        assert int(points) == task.points and bool(by_hand) == (task.check is None)
        minutes += int(its_minutes)
        if task.check:
            assert "<details><summary>Hint</summary>" in task.text, task.name
            assert "checks." in visible(task.check), f"{task.name} has no visible check"
    total = sum(task.points for task in found)
    about = 5 * round(minutes / 5)
    assert f"**Points:** {total} · **Time:** about {about} minutes" in head
    assert (EXERCISES / "release" / name / f"../../../{name}.ipynb").resolve().is_file()
    text = "\n".join(cell.source for cell in notebook.cells)
    assert "TODO" not in text and not re.search(r"/(root|work|tmp|home)/", text)


# The instructor's page --------------------------------------------------------------------------------


@each
def test_the_instructors_table_and_questions_are_the_notebooks(name):
    page = (EXERCISES / "README.md").read_text(encoding="utf-8")
    notebook = read(source(name))
    points, minutes = re.search(
        r"Points:\*\* (\d+) · \*\*Time:\*\* about (\d+)", notebook.cells[0].source
    ).groups()
    reading = read(ROOT / "notebooks" / f"{name}.ipynb").cells[0].source
    reading = re.search(r"\*\*Time:\*\* (\d+) minutes", reading)[1]
    row = re.search(rf"^\| \[.*release/{name}/.*$", page, re.M)[0]
    found = tasks(notebook)
    stretch = [task.points for task in found if task.title.startswith("Stretch")]
    assert len(stretch) == 1, "one stretch task each"
    core = int(points) - stretch[0]
    assert row.split(" | ")[3:] == [reading, str(len(found)), minutes, f"{points}, {core} |"]
    for task in found:
        if task.check is None:
            question = task.text.split("\n\n", 2)[2]
            assert question in page, f"{task.name}: the question reads differently"
            assert task.answer in page, f"{task.name}: the model answer reads differently"


def test_what_the_instructors_page_names_exists():
    page = (EXERCISES / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http|#)([^)#]+)\)", page):
        assert (EXERCISES / target).exists(), target
    headings = re.findall(r"^## (.*)", page, re.M)
    for anchor in re.findall(r"\]\(#([^)]+)\)", page):
        assert anchor in [
            re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings
        ], anchor
    entries = [kind for name in NAMES for kind, *_ in answers(name)]
    told = re.search(
        r"\((?:softmax over the wrong axis).*?; (\d+) of them in all\).*?\((\d+): loops", page
    ).groups()
    assert tuple(map(int, told)) == (entries.count("wrong"), entries.count("right"))


def test_published_solutions_hold_answers_and_no_hidden_test(tmp_path):
    written = publish_solutions(tmp_path / "out", ["02", "11_training"])
    assert [path.name for path in written] == ["02_attention_solutions.ipynb", "11_training_solutions.ipynb"]  # fmt: skip
    for path, name in zip(written, ("02_attention", "11_training")):
        text = path.read_text(encoding="utf-8")
        head = read(path).cells[0].source
        assert head.startswith(f"# {name[:2]} · Solutions: ") and "Colab" not in head
        assert "One right answer to each task" in head and "hand in" not in head
        assert f"/blob/main/notebooks/{name}.ipynb)" in head and "](../" not in text
        for word in ("HIDDEN TESTS", "BEGIN SOLUTION", "END SOLUTION", "Mark scheme"):
            assert word in source(name).read_text(encoding="utf-8") and word not in text
        for task in tasks(read(source(name))):
            answer = re.sub(r"^[ \t]*### (BEGIN|END) SOLUTION\n?", "", task.answer, flags=re.M)
            assert task.check is None or answer.rstrip("\n") in [
                cell.source for cell in read(path).cells
            ]
