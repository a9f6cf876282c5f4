"""Results files: whole or not there, verified, and compared by a rule that is itself checked."""

import json

import numpy as np
import pytest

from utils.experiments import runs, tables
from utils.experiments.grids import GRIDS, SEEDS, Run


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setitem(GRIDS, "tiny", [Run("a", "hue"), Run("b", "hue")])
    rows = [dict(variant=v, task="hue", seed=s, accuracy=0.5 + 0.1 * s, machine=0) for v in "ab" for s in SEEDS]  # fmt: skip
    stored = dict(experiment="tiny", settings={"a / hue": GRIDS["tiny"][0].setting(), "b / hue": GRIDS["tiny"][1].setting()},
                  machines=[{"cores": 2}], rows=rows)  # fmt: skip
    tables.save(stored)
    return tmp_path / "tiny.json"


def test_what_is_saved_is_loaded(file):
    stored = json.loads(file.read_text(encoding="utf-8"))
    assert stored == tables.load("tiny") and len(stored["rows"]) == 10
    assert file.read_text(encoding="utf-8").count("\n") < 30  # a row a line
    tables.verify(stored)
    assert tables.table("tiny")["b", "hue"] == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert "70.0%  (50.0% to 90.0%)" in tables.as_text("tiny")


def test_unknown_names_and_missing_rows_are_named(file):
    with pytest.raises(ValueError, match="'tinny'.*schemes"):
        tables.load("tinny")
    stored = tables.load("tiny")
    stored["rows"].pop()
    tables.save(stored)
    with pytest.raises(ValueError, match="4 of 5 seeds of 'b / hue'; run python -m utils.experiments tiny"):  # fmt: skip
        tables.table("tiny")


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda s: s["settings"]["b / hue"]["budget"].update(epochs=9), "another budget"),
        (lambda s: s["settings"]["b / hue"]["clips"].update(sample="0"), "another clips"),
        (lambda s: s["settings"]["b / hue"].update(augment=None), "another augment"),
        (lambda s: s["rows"][-1].update(variant="c"), "'c / hue'"),
    ],
)
def test_rows_made_otherwise_are_noticed(file, change, named):
    stored = tables.load("tiny")
    change(stored)
    with pytest.raises(ValueError, match=named):
        tables.verify(stored)


def test_seeds_that_overlap_make_no_difference():
    low, high = [0.60, 0.61, 0.62, 0.63, 0.64], [0.80, 0.81, 0.82, 0.83, 0.84]
    assert tables.differ(low, high) and tables.differ(high, low)
    assert not tables.differ(low, [0.64, 0.9, 0.9, 0.9, 0.9])


def test_a_gap_that_the_test_clips_alone_explain_makes_no_difference():
    first, second = [0.993, 0.994, 0.995, 0.994, 0.996], [0.998, 0.999, 0.999, 1.0, 1.0]
    assert not tables.differ(first, second) and tables.differ(first, second, clips=100_000)
    assert tables.differ(first, second, clips=None)
    assert tables.differ([0.0] * 5, [1.0] * 5)


@pytest.mark.parametrize("name", GRIDS)
def test_every_table_of_the_course_is_whole_and_made_with_the_settings_of_the_code(name):
    stored = tables.load(name)
    tables.verify(stored)
    assert all(len(values) >= 3 for values in tables.table(name).values())
    assert name == "lips" or all(
        len(values) == len(SEEDS) for values in tables.table(name).values()
    )
    assert all(0 <= row["machine"] < len(stored["machines"]) for row in stored["rows"])
    assert all(0 <= row["accuracy"] <= 1 and np.isfinite(row["accuracy"]) for row in stored["rows"])
    for run in GRIDS[name]:
        assert runs.model_file(name, run.variant).exists() == run.features
