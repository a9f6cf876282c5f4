"""Results files: filled, resumed, never overwritten, checked."""

import json

import numpy as np
import pytest
import torch

from utils import tables
from utils.grids import BUDGET, CLIPS, GRIDS, SEEDS, SIZES, Run
from utils.variants import frame_differences


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A grid of two lines that trains in a moment, in a folder of its own."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "experiments")
    monkeypatch.setattr(tables, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(tables, "SEEDS", range(2))
    for split, n in (("train", 64), ("test", 36)):
        monkeypatch.setitem(CLIPS, split, n)
    monkeypatch.setitem(SIZES, "num_frames", 2)
    monkeypatch.setitem(SIZES, "image_size", 16)
    monkeypatch.setitem(BUDGET, "epochs", 6)
    grid = [Run("first", "hue", frame_differences), Run("second", "hue", frame_differences, budget=dict(peak_lr=0.0))]  # fmt: skip
    monkeypatch.setitem(GRIDS, "tiny", grid)
    yield tmp_path / "experiments" / "tiny.json"
    torch.set_num_threads(threads)


def test_a_grid_fills_its_file(tiny):
    tables.fill("tiny")
    stored = json.loads(tiny.read_text())
    assert [(row["variant"], row["seed"]) for row in stored["rows"]] == [("first", 0), ("first", 1), ("second", 0), ("second", 1)]  # fmt: skip
    for row in stored["rows"]:
        assert row["seconds"] > 0 and row["parameters"] > 0 and len(row["train_accuracy"]) == 6
        assert {"torch", "cores", "python"} <= stored["machines"][row["machine"]].keys()
    assert stored["settings"]["second / hue"]["budget"]["peak_lr"] == 0
    table = tables.table("tiny")
    assert table["first", "hue"] == [row["accuracy"] for row in stored["rows"][:2]]
    assert "median of" in tables.as_text("tiny")
    assert not list(tiny.parent.parent.rglob("*.run.safetensors"))


def test_a_killed_experiment_goes_on_and_ends_the_same(tiny, monkeypatch):
    tables.fill("tiny")
    whole = [(row["variant"], row["seed"], row["accuracy"]) for row in tables.load("tiny")["rows"]]
    tiny.unlink()
    train, done = tables.train_row, []

    def killed(*which):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(which)
        return train(*which)

    monkeypatch.setattr(tables, "train_row", killed)
    with pytest.raises(KeyboardInterrupt):
        tables.fill("tiny")
    assert len(json.loads(tiny.read_text())["rows"]) == 3
    done.clear()
    tables.fill("tiny")
    assert done == [("tiny", 1, 1)]  # only what was missing
    assert [(row["variant"], row["seed"], row["accuracy"]) for row in tables.load("tiny")["rows"]] == whole  # fmt: skip


def test_several_jobs_give_the_rows_of_one(tiny, monkeypatch):
    """The pool itself, with work that needs no patched grid."""
    monkeypatch.setattr(tables, "train_row", _echo)
    rows = sorted(
        tables._trained([("tiny", n, seed) for n in range(2) for seed in range(2)], jobs=2)
    )
    assert rows == [("tiny", 0, 0), ("tiny", 0, 1), ("tiny", 1, 0), ("tiny", 1, 1)]


def _echo(*which):
    return which


def test_what_was_measured_with_other_settings_is_not_overwritten(tiny, monkeypatch):
    tables.fill("tiny")
    before = tiny.read_text()
    monkeypatch.setitem(BUDGET, "epochs", 7)
    with pytest.raises(ValueError, match="first / hue.*move the file away"):
        tables.fill("tiny")
    assert tiny.read_text() == before
    assert "move the file away" in tables.check("tiny")[0]


def test_the_same_run_is_taken_from_another_grid(tiny, monkeypatch):
    tables.fill("tiny")
    monkeypatch.setitem(GRIDS, "other", [Run("renamed", "hue", frame_differences)])
    monkeypatch.setattr(tables, "train_row", None)  # would fail if it were called
    tables.fill("other")
    rows = tables.load("other")["rows"]
    assert [row["variant"] for row in rows] == ["renamed"] * 2
    assert {row["taken_from"] for row in rows} == {"tiny"}
    assert tables.table("other")["renamed", "hue"] == tables.table("tiny")["first", "hue"]


def test_check_notices_a_wrong_number_and_a_missing_row(tiny):
    tables.fill("tiny")
    assert tables.check("tiny") == []
    stored = tables.load("tiny")
    for row in stored["rows"]:
        row["accuracy"] = 0.99 if row["variant"] == "first" else 0.1
    tables.save(stored)
    assert "differ by more than" in tables.check("tiny")[0]
    stored["rows"].pop()
    tables.save(stored)
    assert "1 of 2 seeds of 'second / hue'" in tables.check("tiny")[0]
    with pytest.raises(ValueError, match="python -m utils.experiments tiny"):
        tables.table("tiny")


def test_unknown_names_are_named(tiny):
    with pytest.raises(ValueError, match="'tinny'.*schemes"):
        tables.load("tinny")


def test_seeds_that_overlap_make_no_difference():
    assert tables.differ([0.1, 0.2], [0.3, 0.4]) and tables.differ([0.3, 0.4], [0.1, 0.2])
    assert not tables.differ([0.1, 0.35], [0.3, 0.4])


def test_separation_tells_apart_from_mixed():
    rng = np.random.default_rng(0)

    class Given(torch.nn.Module):
        def forward_features(self, video):
            return video.mean((1, 3, 4))  # the mean colour

    labels = np.arange(120) % 3
    apart = np.zeros((120, 2, 4, 4, 3), np.uint8)
    apart[np.arange(120), ..., labels] = 200
    apart += rng.integers(0, 20, apart.shape, dtype=np.uint8)
    clear = tables.separation(Given(), (apart, labels))
    mixed = tables.separation(Given(), (apart, rng.permutation(labels)))
    assert clear["probe"] == 1 and clear["silhouette"] > 0.8
    assert mixed["probe"] < 0.6 and mixed["silhouette"] < 0.1


@pytest.mark.parametrize("name", GRIDS)
def test_every_table_of_the_course_is_whole_and_made_with_the_settings_of_the_code(name):
    stored = tables.load(name)
    tables._verify(stored, GRIDS[name])
    assert all(len(values) == len(SEEDS) for values in tables.table(name).values())
    assert all(0 <= row["machine"] < len(stored["machines"]) for row in stored["rows"])


def test_a_line_of_a_table_comes_out_again():
    """`python -m utils.experiments --check` does this for every table; here for the quickest."""
    threads = torch.get_num_threads()
    try:
        assert tables.check("convolution") == []
    finally:
        torch.set_num_threads(threads)
