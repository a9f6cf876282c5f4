"""What a start from learned weights is worth: the colours on the lips, with many clips and with few.

The checkpoint in the published layout is small and our own: it has learned the other 47 words. Writes
data/experiments/fine-tuning.json, and the checkpoint to data/published.
"""

import json
from time import process_time

import numpy as np
import torch
from torch import nn

from utils import lips, paths
from utils.experiments.runs import in_parallel, one_thread
from utils.experiments.tables import machine
from utils.model import TimeSformer, count_parameters, resize_model
from utils.paths import DATA, write_text
from utils.published import load_published, save_published
from utils.training import BestEpoch, evaluate, fit, load_model

SIZES = dict(num_frames=8, image_size=48)
SMALL = dict(patch_size=8, dim=48, depth=2, heads=4)
BEFORE = dict(epochs=30, batch_size=32, peak_lr=2e-3, weight_decay=0.05)
COLOURS = lips.GRAMMAR["colour"]
OTHERS = tuple(word for slot, words in lips.GRAMMAR.items() if slot != "colour" for word in words)
MANY = dict(epochs=15, batch_size=32)
FEW = dict(epochs=100, batch_size=16)
PER_COLOUR, PATIENCE, SEEDS = 15, {617: 5, 60: 25}, range(3)
# name -> (where the weights come from, whether only the head learns, the highest learning rate)
ARMS = {
    "from scratch": ("scratch", False, 2e-3),
    "from scratch, a plain MLP": ("scratch, gelu", False, 2e-3),  # the checkpoint's network
    "our motion model, the head alone": ("motion", True, 5e-3),
    "our motion model, everything": ("motion", False, 1e-3),
    "the checkpoint, the head alone": ("published", True, 5e-3),
    "the checkpoint, everything": ("published", False, 1e-3),
}
RESULTS, CHECKPOINT = DATA / "experiments" / "fine-tuning.json", DATA / "published"


def spoken(split, classes, margin=lips.MARGIN):
    """The windows of those words, with their margin, and labels that index `classes`."""
    words = [word for word in lips.words(split) if word.word in classes]
    windows, _ = lips.windows(words, SIZES["num_frames"], (SIZES["image_size"],) * 2, margin, progress=False)  # fmt: skip
    return windows, np.array([classes.index(word.word) for word in words])


def seen(data):
    """Windows as the model takes them: without their margin, in `lips.channels`."""
    windows, labels = data
    return lips.channels(lips.centred(windows)), labels


def varied(windows, labels, rng):
    """For `fit`: the same words, filmed a little differently."""
    return lips.channels(lips.vary(windows, rng)), labels


def learn_others():
    """A model of the published kind that has learned all words but the colours; kept in the cache.

    One for all seeds, as a published one is: the seeds are of what comes after.
    """
    folder = paths.cache_folder() / "experiments" / "published"
    if not (folder / "config.json").exists():
        with one_thread():
            torch.manual_seed(0)
            model = TimeSformer(num_classes=len(OTHERS), **SIZES, **SMALL, activation="gelu")
            run = folder.with_suffix(".run.safetensors")
            fit(model, spoken("train", OTHERS), **BEFORE, augment=varied, checkpoint=run)
            save_published(model, folder, OTHERS)
    return folder


def start_from(where, seed):
    """A model for the colours: with random weights, ours of lesson 11, or the checkpoint."""
    torch.manual_seed(seed)
    if where.startswith("scratch"):
        activation = "gelu" if "gelu" in where else "geglu"
        return TimeSformer(num_classes=len(COLOURS), **SIZES, **SMALL, activation=activation)
    if where == "motion":
        model = resize_model(load_model(DATA / "motion_divided.safetensors")[0], **SIZES)
    else:
        model, _ = load_published(learn_others())
    model.head = nn.Linear(model.config["dim"], len(COLOURS))
    model.config["num_classes"] = len(COLOURS)
    return model


def few(data, seed):
    """PER_COLOUR clips of each colour."""
    windows, labels = data
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = np.concatenate([order[labels[order] == k][:PER_COLOUR] for k in range(len(COLOURS))])
    return windows[chosen], labels[chosen]


def learn_colours(arm, seed, data, held, test):
    """Fine-tune, stop by the validation clips, measure on the test clips: one row."""
    where, head_alone, rate = ARMS[arm]
    model = start_from(where, seed)
    if head_alone:
        model.requires_grad_(False)
        model.head.requires_grad_(True)
    how = MANY if len(data[0]) > 100 else FEW
    best, started = BestEpoch(model), process_time()
    fit(model, data, held, **how, peak_lr=rate, augment=varied, seed=seed, log=best,
        patience=PATIENCE[len(data[0])], progress=False)  # fmt: skip
    seconds = process_time() - started
    model.load_state_dict(best.weights)
    return dict(arm=arm, clips=len(data[0]), seed=seed, learned=count_parameters(model), epoch=best.epoch,
                seconds=round(seconds, 1), validation=round(best.accuracy, 4), test=round(evaluate(model, test), 4))  # fmt: skip


def measure(seed):
    """One seed of every row."""
    with one_thread():
        data, held, test = (spoken(split, COLOURS) for split in ("train", "validation", "test"))
        held, test = seen(held), seen(test)
        rows = [learn_colours(arm, seed, clips, held, test)
                for clips in (few(data, seed), data) for arm in ARMS]  # fmt: skip
        return seed, rows, machine()


def fine_tuning(jobs=1):
    """Three seeds of every row: data/experiments/fine-tuning.json. Every seed is saved at once."""
    setting = json.loads(json.dumps(dict(sizes=SIZES | SMALL, before=BEFORE, many=MANY, few=FEW,
                                         patience=PATIENCE, arms=ARMS)))  # fmt: skip
    stored = dict(setting, machines=[], rows=[])
    if RESULTS.exists():
        stored = json.loads(RESULTS.read_text(encoding="utf-8"))
        if {name: stored[name] for name in setting} != setting:
            raise ValueError(f"{RESULTS.name}: made with other settings; move it away to measure again")  # fmt: skip
    model, classes = load_published(learn_others())
    others = evaluate(model, seen(spoken("validation", OTHERS)))
    print(f"the checkpoint: right on {others:.1%} of {len(OTHERS)} other words", flush=True)
    stored["checkpoint"] = round(others, 4)
    save_published(model, CHECKPOINT, classes)
    have = {row["seed"] for row in stored["rows"]}
    missing = [(seed,) for seed in SEEDS if seed not in have]
    for _, rows, on in in_parallel(measure, missing, [f"seed {seed}" for (seed,) in missing], jobs):
        if on not in stored["machines"]:
            stored["machines"].append(on)
        stored["rows"] += [row | dict(machine=stored["machines"].index(on)) for row in rows]
        write_text(RESULTS, json.dumps(stored, indent=1) + "\n")
    for arm in ARMS:
        for clips in PATIENCE:
            found = [
                row["test"] for row in stored["rows"] if (row["arm"], row["clips"]) == (arm, clips)
            ]
            print(f"{arm:36}{clips:5} clips  " + "  ".join(f"{value:.1%}" for value in found))
