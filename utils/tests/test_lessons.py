"""What holds for every lesson, read as a file: code like utils, badge, set-up cell, stored outputs."""

import ast
import base64
import importlib
import inspect
import json
import re

import nbformat
import pytest

from utils import lips, model
from utils.course.exercises import exercises, release
from utils.course.notebooks import FOLDED, NOTEBOOKS, SETUP_CELL, badge, lessons, repository
from utils.model import TimeSformer
from utils.paths import DATA, ROOT
from utils.recipe import LIPS_KEPT, read_lips
from utils.training import load_model, predict
from utils.video import read_frames

LESSONS = [pytest.param(path, id=path.stem) for path in lessons()]
ROOMS = (
    "model",
    "video",
    "training",
    "rollout",
    "motion",
    "lips",
    "experiments.tables",
    "experiments.variants",
)


def read(path):
    return nbformat.read(path, as_version=4)


def tags(cell):
    return cell.metadata.get("tags", [])


def definitions(source):
    """Name -> syntax tree without docstrings, of every class, function and constant at the top level."""
    found = {}
    for node in ast.parse(source).body:
        for inner in ast.walk(node):
            if isinstance(inner, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(inner):
                inner.body = inner.body[1:] or [ast.Pass()]
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = ast.dump(node)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.dump(node)
    return found


def components(path):
    cells = [cell for cell in read(path).cells if "component" in tags(cell)]
    return {name: tree for cell in cells for name, tree in definitions(cell.source).items()}


def in_utils():
    found = {}
    for room in ROOMS:
        found |= definitions(inspect.getsource(importlib.import_module(f"utils.{room}")))
    return found


@pytest.mark.parametrize("path", LESSONS)
def test_component_cells_are_the_code_in_utils(path):
    ours = in_utils()
    for name, tree in components(path).items():
        assert name in ours, f"{name} is tagged as a component but is not in utils"
        assert tree == ours[name], f"{name} differs between {path.name} and utils"


def test_every_part_of_the_network_is_built_in_a_lesson():
    built = {name for path in lessons() for name in components(path)}
    parts = {
        name
        for name, value in vars(model).items()
        if inspect.isclass(value) and value.__module__ == "utils.model"
    }
    assert parts and parts <= built, parts - built


def test_a_changed_component_would_be_noticed():
    source = "class A:\n    'text'\n    def f(self):\n        'more'\n        return 1\n"
    same = "class A:\n    def f(self):\n        return 1  # why\n"
    assert definitions(source) == definitions(same)
    assert definitions(source) != definitions(same.replace("1", "2"))


def built_in():
    """Name of a component -> number of the lesson that builds it."""
    return {name: path.name[:2] for path in lessons() for name in components(path)}


def wrong_numbers(path, homes):
    """Places in a notebook where the number of a lesson is that of another lesson."""
    wrong, own = [], path.name[:2]
    there = {lesson.name[:2] for lesson in lessons()}
    for cell in read(path).cells:
        for line in cell.source.splitlines():
            told = set(re.findall(r"\b\d\d\b", line.partition("#")[2]))
            if line.startswith("from utils.") and told:
                names = re.findall(r"\w+", line.partition(" import ")[2].partition("#")[0])
                needed = {homes[name] for name in names if name in homes}
                if not needed <= told or (all(name in homes for name in names) and told != needed):
                    wrong.append(line)
            for name, number in [
                *re.findall(r"`(\w+)` (?:of|from) lesson (\d\d)", line),
                *(pair[::-1] for pair in re.findall(r"lesson (\d\d)'s `(\w+)`", line)),
            ]:
                if homes.get(name, number) != number:
                    wrong.append(line)
            if not set(re.findall(r"[Ll]esson (\d\d)\b", line)) <= there:
                wrong.append(line)
            first = re.search(r"\*\*Know first:\*\*(.*?) · ", line)
            if first and not all(number < own for number in re.findall(r"\b\d\d\b", first[1])):
                wrong.append(line)
            title = re.match(r"# (\d\d) · ", line)
            if cell.cell_type == "markdown" and title and title[1] != own:
                wrong.append(line)
    return wrong


@pytest.mark.parametrize(
    "path", [*LESSONS, *(pytest.param(release(n), id=f"{n}, exercises") for n in exercises())]
)
def test_lesson_numbers_name_the_right_lesson(path):
    assert not wrong_numbers(path, built_in())


def test_a_wrong_lesson_number_is_found(tmp_path):
    def wrong(cell, name="07_some_lesson.ipynb"):
        book = nbformat.v4.new_notebook(cells=[cell])
        nbformat.write(book, tmp_path / name)
        return wrong_numbers(tmp_path / name, built_in())

    code, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    assert not wrong(code("from utils.model import Attention, PreNorm  # lessons 02 and 04"))
    assert wrong(code("from utils.model import Attention, PreNorm  # lessons 02 and 05"))
    assert wrong(code("from utils.model import Attention, PreNorm  # lesson 02"))
    assert not wrong(text("`PreNorm` of lesson 04, and lesson 02's `attend`"))
    assert wrong(text("`PreNorm` of lesson 02")) and wrong(text("lesson 01's `attend`"))
    assert wrong(text("see lesson 77"))
    assert not wrong(text("**Know first:** lessons 02 and 06 · **You build:** a thing"))
    assert wrong(text("**Know first:** lessons 02 and 08 · **You build:** a thing"))
    assert wrong(text("# 06 · A thing")) and not wrong(text("# 07 · A thing"))


def test_checks_and_syllabus_have_the_numbers_of_their_lessons():
    for file in (ROOT / "utils" / "checks").glob("lesson_*.py"):
        told = re.search(r"lesson (\d\d)", file.read_text(encoding="utf-8"))[1]
        assert file.stem.endswith(told), file.name
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for number, file in re.findall(r"^\| \[(\d\d) [^\]]*\]\(notebooks/(\d\d)", readme, re.M):
        assert number == file


@pytest.mark.parametrize("path", LESSONS)
def test_badge_and_set_up_cell_are_the_same_everywhere(path):
    cells = read(path).cells
    assert badge(path.relative_to(ROOT).as_posix(), repository()) in cells[0].source
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert code[0].source == SETUP_CELL.format(repo=repository())
    assert FOLDED.items() <= code[0].metadata.items()


@pytest.mark.parametrize("path", LESSONS)
def test_shape_of_a_lesson(path):
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for part in (
        "After this lesson you can",
        "## What people get wrong",
        "## Summary",
        "## Exercises",
        "## References",
    ):
        assert part in text, f"no {part!r}"
    lengths = [len([line for line in cell.source.splitlines() if line.strip()]) for cell in code]
    assert max(lengths) <= 40
    assert 60 <= sum(lengths) <= 300 or path.stem.startswith("00")
    assert 550 <= len(text.split()) <= 3000
    assert all(cell.execution_count for cell in code), "stored without outputs"
    outputs = [output for cell in code for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert not re.search(r"/(root|work|tmp|home)/", str(outputs)), "a machine's path in an output"
    assert "placeholder" not in text.lower() and not re.search(r"\bREAD_[A-Z]+\b|\bTODO\b", text)
    assert path.stat().st_size < 1_500_000


@pytest.mark.parametrize("path", LESSONS)
def test_every_picture_is_told_in_words(path):
    for number, cell in enumerate(read(path).cells):
        for output in cell.get("outputs", []):
            assert "image/gif" not in output.get("data", {}), (
                "not shown everywhere; see plots.style.moving"
            )
            if "image/png" in output.get("data", {}):
                alt = output.metadata.get("image/png", {}).get("alt", "")
                assert len(alt.split()) >= 5 and not re.fullmatch(
                    r"\d+ frames side by side", alt
                ), number


@pytest.mark.parametrize(
    "path",
    [path for path in lessons() if path.name[:2] not in ("11", "12", "14")],
    ids=lambda path: path.stem,
)
def test_a_lesson_has_something_that_moves_or_can_be_touched(path):
    outputs = [
        output.get("data", {}) for cell in read(path).cells for output in cell.get("outputs", [])
    ]
    moving = [
        data for data in outputs if b"acTL" in base64.b64decode(data.get("image/png", ""))[:200]
    ]
    assert moving or any(
        "<iframe" in data.get("text/html", "") or "<video" in data.get("text/html", "")
        for data in outputs
    )


def facts(path):
    """Minutes and seconds that a lesson claims in its first cell."""
    return re.search(
        r"\*\*Time:\*\* (\d+) minutes to read, about (\d+) seconds", read(path).cells[0].source
    ).groups()


def test_the_syllabus_is_what_the_lessons_say():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| \[(\d\d) [^\]]*\]\((notebooks/[^)]+)\) \| ([^|]*) \| (\d+) \| (\d+) \| (.*?) \| ([^|]+) \|$",
        readme,
        re.M,
    )
    assert [row[1] for row in rows] == [path.relative_to(ROOT).as_posix() for path in lessons()]
    for (_, place, _, minutes, seconds, its_badge, exercise), path in zip(rows, lessons()):
        assert (minutes, seconds) == facts(path), place
        assert its_badge == badge(place, repository())
        expected = "–"
        if path.stem in exercises():
            student_copy = release(path.stem)
            count = len(
                re.findall(
                    r"^## \d+\. ", "\n".join(c.source for c in read(student_copy).cells), re.M
                )
            )
            expected = f"[{count} tasks]({student_copy.relative_to(ROOT).as_posix()})"
        assert exercise == expected, place


@pytest.mark.parametrize("name", exercises())
def test_lessons_lead_to_their_exercises(name):
    notebook, text = read(release(name)), "\n".join(c.source for c in read(release(name)).cells)
    points, minutes = re.search(
        r"\*\*Points:\*\* (\d+) · \*\*Time:\*\* about (\d+)", notebook.cells[0].source
    ).groups()
    count = len(re.findall(r"^## \d+\. ", text, re.M))
    place = release(name).relative_to(NOTEBOOKS).as_posix()
    lesson = "\n".join(cell.source for cell in read(NOTEBOOKS / f"{name}.ipynb").cells)
    assert (
        f"[the exercise notebook]({place}), {count} tasks, {points} points, about {minutes} minutes"
        in lesson
    )


def test_the_first_screen_of_the_readme_is_true():
    screen = (ROOT / "README.md").read_text(encoding="utf-8").split("## Two commands")[0]
    assert "train it in under a minute on two processor cores" in screen
    seeds = json.loads((DATA / "motion_seeds.json").read_text(encoding="utf-8"))
    assert seeds["machine"]["threads"] == 2 and max(row["seconds"] for row in seeds["rows"]) < 60
    assert "three networks read together" in screen and "the one that you build here" in screen
    readers = [load_model(DATA / f"lips_{number}.safetensors")[0] for number in range(3)]
    assert len(LIPS_KEPT) == 3 and all(type(reader) is TimeSformer for reader in readers)
    assert "None of them saw this sentence in training" in screen
    shown = [
        word for word in lips.words("test") if word.sentence == "bwbh1a"
    ]  # as `overview` draws it
    read = lips.in_slot(read_lips(shown, readers), range(6)) == lips.labels_of(shown)
    assert (
        "(blue: right, grey: wrong)" in screen
        and read.tolist() == [True] * 3 + [False] + [True] * 2
    )
    assert "The model says which way something moves in a video file" in screen
    motion, notes = load_model(DATA / "motion_divided.safetensors")
    for name in notes["classes"]:
        clip = read_frames(DATA / "samples" / f"{name}.mp4", 8, 32)[None]
        assert notes["classes"][predict(motion, clip)[0].argmax()] == name


def test_links_in_the_readme_lead_somewhere():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", readme) + re.findall(
        r'src="([^"]+)"', readme
    ):
        assert (ROOT / target).exists(), target


def test_nothing_else_stands_at_the_top():
    wanted = {
        "README.md",
        "environment.yml",
        "pyproject.toml",
        "LICENSE",
        "notebooks",
        "utils",
        "data",
    }
    import subprocess

    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    assert {name.split("/")[0] for name in tracked if not name.startswith(".")} == wanted
    assert NOTEBOOKS.is_dir()
