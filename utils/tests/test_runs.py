"""Filling results files: what is trained on what, resumed, never overwritten, checked."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from utils import paths
from utils.experiments import __main__ as command_line
from utils.experiments import grids, runs, tables
from utils.experiments.grids import BUDGET, CLIPS, GRIDS, SIZES, Run
from utils.experiments.variants import frame_differences, no_time
from utils.paths import ROOT
from utils.training import load_model


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A grid of two lines that trains in a moment, in a folder of its own."""
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "experiments")
    monkeypatch.setattr(paths, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(grids, "SEEDS", range(2))
    for split, n in (("train", 64), ("test", 36)):
        monkeypatch.setitem(CLIPS, split, n)
    monkeypatch.setitem(SIZES, "num_frames", 2)
    monkeypatch.setitem(SIZES, "image_size", 16)
    monkeypatch.setitem(BUDGET, "epochs", 6)
    grid = [Run("first", "hue", frame_differences), Run("second", "hue", frame_differences, budget=dict(peak_lr=0.0))]  # fmt: skip
    monkeypatch.setitem(GRIDS, "tiny", grid)
    return tmp_path / "experiments" / "tiny.json"


def results(name="tiny"):
    return [(*tables.row_key(row), row["accuracy"]) for row in tables.load(name)["rows"]]


def test_a_grid_fills_its_file(tiny):
    threads = torch.get_num_threads()
    runs.fill("tiny")
    stored = json.loads(tiny.read_text(encoding="utf-8"))
    assert [key[:3] for key in results()] == [(v, "hue", s) for v in ("first", "second") for s in (0, 1)]  # fmt: skip
    for row in stored["rows"]:
        assert row["seconds"] > 0 and row["parameters"] > 0 and len(row["train_accuracy"]) == 6
        on = stored["machines"][row["machine"]]
        assert {"torch", "cores", "python"} <= on.keys() and on["threads"] == 1
    assert stored["settings"]["second / hue"]["budget"]["peak_lr"] == 0
    assert torch.get_num_threads() == threads
    assert not list((tiny.parent.parent / "cache").rglob("*.*"))  # nothing left behind


def test_trained_on_one_split_with_the_line_s_change_and_seed_and_tested_on_the_other(tiny, monkeypatch):  # fmt: skip
    seen = {}

    def fit(model, data, seed, **_):
        seen.update(train=data, model=model, seed=seed)
        return [dict(accuracy=0.5)]

    def evaluate(model, data):
        seen["test"] = data
        return 0.5

    monkeypatch.setattr(runs, "fit", fit)
    monkeypatch.setattr(runs, "evaluate", evaluate)
    GRIDS["tiny"].append(Run("no time", "hue", change=no_time))
    row, _, model = runs.train_row("tiny", 2, seed=1)
    assert len(seen["train"][0]) == 64 and len(seen["test"][0]) == 36 and seen["seed"] == 1
    known = {clip.tobytes() for clip in seen["train"][0]}
    assert not known & {clip.tobytes() for clip in seen["test"][0]}
    assert not model.embedding.time.requires_grad and model is seen["model"]
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert row["parameters"] == learned < sum(p.numel() for p in model.parameters())
    first = runs.train_row("tiny", 2, seed=0)[2].head.weight
    assert not torch.equal(first, model.head.weight)


def test_a_killed_experiment_goes_on_and_ends_the_same(tiny, monkeypatch):
    runs.fill("tiny")
    whole = results()
    tiny.unlink()
    train, done = runs.train_row, []

    def killed(name, index, seed, checkpoint):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append((index, seed))
        return train(name, index, seed, checkpoint)

    monkeypatch.setattr(runs, "train_row", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.fill("tiny")
    assert results() == whole[:3]
    done.clear()
    runs.fill("tiny")
    assert done == [(1, 1)] and results() == whole  # only what was missing


def test_a_row_is_never_there_without_its_model(tiny, monkeypatch):
    """Killed at any moment while a run is put into its file: the next call mends it."""
    monkeypatch.setitem(
        GRIDS, "tiny", [Run("first", "hue", features=True, sizes=dict(patch_size=8))]
    )
    real = os.replace
    for moment in ("tiny-first.safetensors", "tiny.json"):

        def killed(source, target, moment=moment):
            if Path(target).name == moment:
                raise KeyboardInterrupt
            real(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                runs.fill("tiny")
        rows = [key for *key, _ in results() if key[2] == 0]
        assert not rows or runs.model_file("tiny", "first").exists()
    runs.fill("tiny")
    assert len(results()) == 2 and load_model(runs.model_file("tiny", "first"))
    assert not list((tiny.parent.parent / "cache").rglob("*.*"))


def test_the_course_s_own_model_is_kept_before_its_row(tmp_path, monkeypatch):
    from utils.experiments import __main__ as command

    model = torch.nn.Linear(1, 1)
    monkeypatch.setattr(command, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(command, "motion_data", lambda split: None)
    monkeypatch.setattr(command, "evaluate", lambda *_: 0.5)
    monkeypatch.setattr(command, "train_motion", lambda seed, checkpoint: (checkpoint.touch(), (model, [], 1.0))[1])  # fmt: skip

    def pulled(*_, **__):
        raise OSError("the plug")

    monkeypatch.setattr(command, "save_model", pulled)
    with pytest.raises(OSError, match="plug"):
        command._measure(tmp_path / "table.json", "the recipe", 0, dict(rows=[]), keep=tmp_path / "model")  # fmt: skip
    assert not (tmp_path / "table.json").exists()


def test_seconds_of_a_resumed_run_are_not_claimed(tiny):
    checkpoint = runs._place(GRIDS["tiny"][0], 0)
    row, _, _ = runs.train_row("tiny", 0, 0, checkpoint)
    again, _, _ = runs.train_row("tiny", 0, 0, checkpoint)  # finds a finished run
    assert row["seconds"] > 0 and again["seconds"] is None
    assert again["accuracy"] == row["accuracy"]


def test_a_checkpoint_belongs_to_what_it_was_trained_with(tiny):
    place = runs._place(GRIDS["tiny"][0], 0)
    others = [Run("first", "hue", frame_differences, change=no_time), Run("first", "shape", frame_differences),
              Run("first", "hue", frame_differences, budget=dict(peak_lr=1.0))]  # fmt: skip
    assert place not in {runs._place(other, 0) for other in others} | {runs._place(GRIDS["tiny"][0], 1)}  # fmt: skip
    assert place == runs._place(Run("renamed", "hue", frame_differences), 0)


@pytest.mark.slow
def test_several_jobs_give_the_rows_of_one(tiny, monkeypatch):
    """The pool itself, with work that needs no patched grid."""
    monkeypatch.setattr(runs, "_train_for_file", _echo)
    rows = sorted(runs._trained([("tiny", n, seed) for n in range(2) for seed in range(2)], jobs=2))
    assert rows == [("tiny", 0, 0), ("tiny", 0, 1), ("tiny", 1, 0), ("tiny", 1, 1)]


def _echo(*which):
    return which


@pytest.mark.slow
def test_one_failing_run_does_not_take_the_others_with_it(tiny, monkeypatch):
    monkeypatch.setattr(runs, "_train_for_file", _fail_on_one)
    rows, trained = [], runs._trained([("tiny", n, seed) for n in range(2) for seed in range(2)], jobs=2)  # fmt: skip
    with pytest.raises(RuntimeError, match="second / hue, seed 0: the loss is nan"):
        for row in trained:
            rows.append(row)
    assert len(rows) == 3


def _fail_on_one(name, index, seed):
    if (index, seed) == (1, 0):
        raise FloatingPointError("the loss is nan")
    return name, index, seed


def test_what_was_measured_with_other_settings_is_not_overwritten(tiny, monkeypatch):
    runs.fill("tiny")
    before = tiny.read_text(encoding="utf-8")
    monkeypatch.setitem(BUDGET, "epochs", 7)
    with pytest.raises(ValueError, match="first / hue.*another budget.*move the file away"):
        runs.fill("tiny")
    assert tiny.read_text(encoding="utf-8") == before
    assert "move the file away" in runs.check("tiny")[0]


def test_the_same_run_is_taken_from_another_grid_only_if_it_was_measured_the_same_way(tiny, monkeypatch):  # fmt: skip
    runs.fill("tiny")
    monkeypatch.setitem(GRIDS, "other", [Run("renamed", "hue", frame_differences)])
    train = runs.train_row
    monkeypatch.setattr(runs, "train_row", None)  # would fail if it were called
    runs.fill("other")
    rows = tables.load("other")["rows"]
    assert [row["variant"] for row in rows] == ["renamed"] * 2
    assert {row["taken_from"] for row in rows} == {"tiny"}
    assert tables.table("other")["renamed", "hue"] == tables.table("tiny")["first", "hue"]

    # Settings change, one file is moved away, the other stays: nothing of it may be taken over.
    monkeypatch.setitem(BUDGET, "epochs", 1)
    monkeypatch.setattr(runs, "train_row", train)
    (tiny.parent / "other.json").unlink()
    runs.fill("other")
    assert all("taken_from" not in row and len(row["train_accuracy"]) == 1 for row in tables.load("other")["rows"])  # fmt: skip


def test_two_processes_lose_no_rows(tiny):
    """Each row is added to the file as it is then, not as it was when the process began."""
    row, on, _ = runs.train_row("tiny", 0, 0)
    other, _, _ = runs.train_row("tiny", 1, 1)
    runs._add("tiny", row, on)
    runs._add("tiny", other, on)
    runs._add("tiny", row | dict(accuracy=0.0), on)  # there already: kept
    assert results() == [("first", "hue", 0, row["accuracy"]), ("second", "hue", 1, other["accuracy"])]  # fmt: skip


def test_check_notices_a_wrong_number_and_trusts_no_checkpoint(tiny):
    runs.fill("tiny")
    assert runs.check("tiny") == []
    before = {path: path.read_bytes() for path in tiny.parent.parent.rglob("*.*")}
    runs.train_row("tiny", 0, 0, runs._place(GRIDS["tiny"][0], 0))  # a finished run lies about
    stored = tables.load("tiny")
    for row in stored["rows"]:
        row["accuracy"] = 0.99 if row["variant"] == "first" else 0.1
    tables.save(stored)
    assert "differ by more than" in runs.check("tiny")[0]
    tiny.write_bytes(before[tiny])
    stored = tables.load("tiny")
    for row in stored["rows"]:
        row["parameters"] += 1
    tables.save(stored)
    assert "parameters, stored" in runs.check("tiny")[-1]
    stored["rows"].pop()
    tables.save(stored)
    assert "1 of 2 seeds of 'second / hue'" in runs.check("tiny")[0]


def test_the_first_seed_s_model_is_kept_with_its_features(tiny, monkeypatch):
    monkeypatch.setitem(GRIDS, "tiny", [Run("kept", "hue", features=True)])
    runs.fill("tiny")
    rows = tables.load("tiny")["rows"]
    assert all(0 <= row["probe"] <= 1 and -1 <= row["silhouette"] <= 1 for row in rows)
    file = runs.model_file("tiny", "kept")
    model, notes = load_model(file)
    assert notes["accuracy"] == rows[0]["accuracy"] and model.config["num_frames"] == 2
    before = file.stat().st_mtime_ns
    assert runs.check("tiny") == [] and file.stat().st_mtime_ns == before


class MeanColour(torch.nn.Module):
    def forward_features(self, video):
        return video.mean((1, 3, 4))


def test_separation_tells_apart_from_mixed():
    rng, labels = np.random.default_rng(0), np.arange(120) % 3
    apart = np.zeros((120, 2, 4, 4, 3), np.uint8)
    apart[np.arange(120), ..., labels] = 200
    apart += rng.integers(0, 20, apart.shape, dtype=np.uint8)
    clear = runs.separation(MeanColour(), (apart, labels))
    mixed = runs.separation(MeanColour(), (apart, rng.permutation(labels)))
    assert clear["probe"] == 1 and clear["silhouette"] > 0.8
    assert mixed["probe"] < 0.6 and mixed["silhouette"] < 0.1


def test_the_probe_is_tested_on_clips_it_has_not_seen():
    """Random features, as many as clips: learned by heart on one half, chance on the other."""

    class Random(torch.nn.Module):
        def forward_features(self, video):
            return torch.randn(len(video), 60, generator=torch.Generator().manual_seed(0))

    rng = np.random.default_rng(0)
    data = np.zeros((100, 1, 2, 2, 3), np.uint8), rng.integers(0, 4, 100)
    assert runs.separation(Random(), data)["probe"] < 0.6


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    """Without this they would go on training, for nobody."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\nfrom concurrent.futures import ProcessPoolExecutor\nimport multiprocessing\n"
        "from utils.experiments.runs import _end_with_parent\n\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), _end_with_parent)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True,
                              env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(600):  # up to a minute on a slow day
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        if "State:\tZ" in open(f"/proc/{worker}/status").read():  # ended, not yet collected
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "which experiment"),
        (["--jobs", "0", "skips"], "at least 1, not 0"),
        (["samples", "--check"], "not for samples"),
        (["nonsense"], "nonsense"),
    ],
)
def test_the_command_line_says_what_is_wrong(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["utils.experiments", *arguments])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.slow  # lesson 14 trains this very line and seed
def test_a_line_of_a_table_comes_out_again():
    """`python -m utils.experiments --check` does this for every table; here for a quick line."""
    (run,) = (r for r in GRIDS["convolution"] if (r.variant, r.task) == ("frame differences + 2D CNN", "shape"))  # fmt: skip
    row, _, _ = runs.train_row("convolution", GRIDS["convolution"].index(run), 0)
    stored = tables.table("convolution")[run.variant, run.task]
    assert abs(row["accuracy"] - stored[0]) <= max(0.03, np.ptp(stored))
