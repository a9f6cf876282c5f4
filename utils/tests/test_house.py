"""Imports go one way, as the design has it, and a notebook opens the front room only."""

import ast
import graphlib
import re

import nbformat
import pytest

from utils.course.notebooks import NOTEBOOKS, lessons
from utils.paths import ROOT

# room -> the rooms that it may import; a room is a module or a package directly below utils
ROOMS = {
    "paths": set(),
    "model": set(),
    "video": {"paths"},
    "motion": {"video", "paths"},
    "lips": {"video", "paths"},
    "dataset": {"video", "paths"},
    "training": {"model", "paths"},
    "rollout": {"model", "training"},
    "published": {"model"},
    "muon": set(),
}
for room in ("recipe", "plots", "checks"):
    ROOMS[room] = {"paths", "model", "video", "motion", "lips", "dataset", "training", "rollout", "published", "muon"}  # fmt: skip
ROOMS["options"] = {"paths", "model"}
ROOMS["train"] = {"paths", "model", "video", "dataset", "training", "published", "options"}
ROOMS["predict"] = {"training", "video"}
FRONT_ROOM = set(ROOMS)
ROOMS["experiments"] = FRONT_ROOM
ROOMS["course"] = FRONT_ROOM | {"experiments"}
ROOMS["grading"] = {"paths", "checks", "course"}

UTILS = ROOT / "utils"
FILES = [path for path in sorted(UTILS.rglob("*.py")) if "tests" not in path.parts]


def module(path):
    """utils/checks/__init__.py -> "utils.checks"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source):
    """The modules of ours that a text imports, anywhere in it: "utils.model", …"""
    found, known = set(), {module(path) for path in FILES}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "write imports from the root: from utils.… import …"
            for alias in node.names:  # a module, or something that a module defines
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
    return {name for name in found & known if name != "utils"}


def room(name):
    return name.split(".")[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(UTILS).as_posix())
def test_a_room_imports_only_what_it_may(path):
    name = module(path)
    if name == "utils":
        assert not imports(path.read_text(encoding="utf-8"))
        return
    allowed = ROOMS[room(name)] | {room(name)}
    if name == "utils.course.__main__":
        allowed.add("grading")  # the command line starts it, and nothing imports the command line
    rooms = {room(other) for other in imports(path.read_text(encoding="utf-8"))}
    assert rooms <= allowed, f"{name} must not import {sorted(rooms - allowed)}"


def test_there_is_no_circle():
    graph = {module(path): imports(path.read_text(encoding="utf-8")) for path in FILES}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names a circle
    assert order.index("utils.model") < order.index("utils.rollout")


def test_nobody_imports_a_command_line():
    for path in FILES:
        found = imports(path.read_text(encoding="utf-8"))
        assert not any(name.endswith("__main__") for name in found), path


def test_only_the_course_and_the_grading_read_notebooks():
    for path in FILES:
        if room(f"{module(path)}.") not in ("course", "grading"):
            text = path.read_text(encoding="utf-8")
            assert "nbformat" not in text and ".ipynb" not in text, path


def test_notebooks_open_the_front_room_only():
    paths = lessons() + sorted((NOTEBOOKS / "exercises").glob("*/*/*.ipynb"))
    for path in paths:
        measured = path.stem.endswith(("_experiments", "_reading_lips"))  # they show its tables
        allowed = FRONT_ROOM | ({"experiments"} if measured else set())
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                code = re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.M)
                rooms = {room(name) for name in imports(code)}
                assert rooms <= allowed, f"{path.name} imports {sorted(rooms - allowed)}"


def test_the_front_room_stays_small():
    """A learner should find his way in it; plots and checks are packages of their own, and what only
    lessons 13, 15 and 16 open counts by itself."""
    wing = {"published", "train", "options", "predict", "muon"}
    files = [UTILS / f"{name}.py" for name in FRONT_ROOM - {"plots", "checks"}]
    lines = {path.stem: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert sum(count for name, count in lines.items() if name not in wing) < 2250, lines
    assert all(lines[name] < 480 for name in wing), lines
