"""Fine-tuning from a checkpoint in the published layout: what is stored is whole, and the file is as good as it says."""

import json

import numpy as np
import pytest
import torch

from utils.experiments import fine_tuning, scaling
from utils.experiments.fine_tuning import ARMS, CHECKPOINT, COLOURS, FEW, MANY, OTHERS, RESULTS
from utils.published import load_published
from utils.training import evaluate


@pytest.mark.slow  # lesson 15 reads 300 words with it every day
def test_the_checkpoint_is_as_good_as_it_says():
    model, classes = load_published(CHECKPOINT)
    assert classes == OTHERS and len(OTHERS) == 47 and not set(OTHERS) & set(COLOURS)
    words = fine_tuning.seen(fine_tuning.spoken("validation", OTHERS))
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert evaluate(model, words) == pytest.approx(stored["checkpoint"], abs=0.01)


def test_the_results_hold_three_seeds_of_every_row():
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert (stored["many"], stored["few"]) == (MANY, FEW) and list(stored["arms"]) == list(ARMS)
    rows = {(row["arm"], row["clips"], row["seed"]): row for row in stored["rows"]}
    assert len(rows) == len(stored["rows"]) == len(ARMS) * 2 * 3
    for (arm, clips, seed), row in rows.items():
        assert clips in (60, 617) and seed in range(3) and 0 <= row["test"] <= 1
        assert row["learned"] == 196 if "head alone" in arm else row["learned"] > 70_000


def test_few_clips_are_as_many_of_each_class():
    labels = np.arange(200) % 4
    windows, chosen = fine_tuning.few((labels[:, None], labels), seed=1)
    assert np.bincount(chosen).tolist() == [15] * 4 and (windows[:, 0] == chosen).all()


def test_a_head_alone_learns_and_nothing_else(monkeypatch):
    """One short run of an arm; the body's weights are the checkpoint's afterwards."""
    rng = np.random.default_rng(0)
    windows = rng.integers(0, 256, (24, 12, 54, 54), dtype=np.uint8)
    data = windows, np.arange(24) % 4
    kept = fine_tuning.seen(data)
    monkeypatch.setattr(fine_tuning, "learn_others", lambda: CHECKPOINT)
    monkeypatch.setattr(fine_tuning, "FEW", dict(epochs=2, batch_size=8))
    monkeypatch.setattr(fine_tuning, "PATIENCE", {24: 5})
    made = []
    start_from = fine_tuning.start_from
    monkeypatch.setattr(fine_tuning, "start_from", lambda *where: made.append(start_from(*where)) or made[-1])  # fmt: skip
    row = fine_tuning.learn_colours("the checkpoint, the head alone", 0, data, kept, kept)
    assert row["learned"] == 196 and row["clips"] == 24
    before, _ = load_published(CHECKPOINT)
    for name, weight in before.state_dict().items():
        assert name.startswith("head.") or torch.equal(weight, made[0].state_dict()[name])


def test_scaling_times_every_way_on_a_processor():
    sizes = dict(num_classes=3, image_size=16, num_frames=2, patch_size=8, dim=16, depth=1, heads=2)
    for way in scaling.WAYS:
        if "compiled" in way:
            continue  # needs a compiler, and a minute
        row = scaling.step_time(sizes, way, clips=2, device="cpu", repeats=1)
        assert row["ms"] > 0 and row["first_s"] >= 0 and row["mb"] is None
