"""The measurements behind the course's claims: `python -m utils.experiments NAME`.

    motion-seeds   train the course's model on the motion clips with five seeds, read from .mp4
                   files; writes data/motion_seeds.json, and the first seed's model to
                   data/motion_divided.safetensors

An experiment that was killed goes on where it stopped.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import cv2
import torch

from utils.dataset import VideoFolder
from utils.model import TimeSformer
from utils.motion import CLASSES, augment, write_dataset
from utils.training import evaluate, fit, save_model

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
CACHE = DATA / "cache"

# The course's model and recipe; lesson 11 spells them out.
MODEL = dict(num_classes=6, image_size=32, num_frames=8, patch_size=8, dim=48, depth=2, heads=4)
RECIPE = dict(epochs=8, batch_size=32, peak_lr=4e-3, weight_decay=0.05)


def motion_data(split="train", progress=True):
    """The motion clips, read from the .mp4 files under data/cache/motion, written there if need be.

    Shapes: -> clips (n, 8, 32, 32, 3) uint8, labels (n,) int64; n is 3000 ("train") or 600 ("test").
    """
    root = write_dataset(CACHE / "motion")
    folder = VideoFolder(root / split, MODEL["num_frames"], MODEL["image_size"], classes=CLASSES)
    return folder.load(CACHE / f"motion_{split}.safetensors", progress)


def train_motion(seed, checkpoint=None, progress=True):
    """Train the course's model with one seed; returns (model, history, seconds in `fit`)."""
    torch.manual_seed(seed)
    model = TimeSformer(**MODEL)
    data = motion_data(progress=progress)
    started = time.perf_counter()
    history = fit(
        model, data, **RECIPE, augment=augment, seed=seed, checkpoint=checkpoint, progress=progress
    )
    return model, history, time.perf_counter() - started


def machine():
    """What a measurement was made on: enough to judge its seconds, nothing private."""
    return dict(
        processor=platform.machine(), cores=os.cpu_count(), threads=torch.get_num_threads(), system=platform.system(),
        python=platform.python_version(), torch=torch.__version__, opencv=cv2.__version__,
    )  # fmt: skip


def motion_seeds(seeds=range(5)):
    """Five seeds of the course's recipe. One line of the results file per seed."""
    results = DATA / "motion_seeds.json"
    setting = dict(model=MODEL, recipe=RECIPE, machine=machine())
    stored = json.loads(results.read_text()) if results.exists() else {}
    rows = stored["rows"] if {name: stored.get(name) for name in setting} == setting else []
    test = motion_data("test")
    for seed in seeds:
        if any(row["seed"] == seed for row in rows):
            continue
        run = CACHE / f"motion_seed_{seed}.run.safetensors"
        resumed = run.exists()  # then the seconds below are not those of a whole run
        model, history, seconds = train_motion(seed, checkpoint=run)
        row = dict(seed=seed, test_accuracy=round(evaluate(model, test), 4),
                   seconds=None if resumed else round(seconds, 1),
                   train_accuracy=[round(epoch["accuracy"], 4) for epoch in history])  # fmt: skip
        if seed == 0:
            save_model(model, DATA / "motion_divided.safetensors", classes=CLASSES, **row)
        rows.append(row)
        results.write_text(json.dumps(dict(**setting, rows=rows), indent=1) + "\n")
        run.unlink()
        print(
            f"seed {seed}: {row['test_accuracy']:.1%} of {len(test[1])} held-out clips, {row['seconds']} s",
            flush=True,
        )


EXPERIMENTS = {"motion-seeds": motion_seeds}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=EXPERIMENTS)
    EXPERIMENTS[parser.parse_args().name]()
