"""The sizes, the clips and the recipes that several lessons train with; lesson 11 spells them out."""

import time
from functools import partial

import torch

from utils import lips
from utils.dataset import VideoFolder
from utils.model import TimeSformer
from utils.motion import CLASSES, augment, write_dataset
from utils.muon import Muon
from utils.paths import DATA, cache_folder
from utils.training import fit, load_model, predict_views

# Motion clips: six classes, half a minute.
MODEL = dict(num_classes=6, image_size=32, num_frames=8, patch_size=8, dim=48, depth=2, heads=4)
RECIPE = dict(epochs=6, batch_size=32, peak_lr=4e-3, weight_decay=0.05)

# Reading lips: 51 words, twelve minutes on one core; LIPS_SHORT, a minute, is enough to see it learn.
LIPS_MODEL = dict(num_classes=51, image_size=(32, 48), num_frames=12, patch_size=16, dim=96, depth=3,
                  heads=4, mult=2, dropout=0.0)  # fmt: skip
LIPS_RECIPE = dict(epochs=24, batch_size=32, peak_lr=3e-3, weight_decay=0.05, muon=True)
LIPS_SHORT = LIPS_RECIPE | dict(epochs=3, peak_lr=7e-3, mixed=0.0)
# For lessons 02, 06, 07 and 09: it reads a little worse, but 8 x 4 x 6 patches are worth looking at.
LIPS_TILES = dict(num_classes=51, image_size=(32, 48), num_frames=8, patch_size=8, dim=48, depth=4,
                  heads=4, dropout=0.0)  # fmt: skip
LIPS_TILES_RECIPE = dict(epochs=30, batch_size=32, peak_lr=2e-3, weight_decay=0.05, pace=0.4)
# Three of unlike make are kept in data/, and their answers combined: sizes, recipe and seed of each.
LIPS_KEPT = (
    (LIPS_MODEL, LIPS_RECIPE | dict(epochs=70), 0),
    (LIPS_MODEL | dict(dim=80), LIPS_RECIPE | dict(epochs=45, mixed=0.8, pace=0.4), 0),
    (LIPS_TILES, LIPS_RECIPE | dict(epochs=60, pace=0.4), 1),
)


def motion_data(split="train", progress=True, size=MODEL["image_size"]):
    """The motion clips, read from .mp4 files in the cache, which are written there if need be.

    Shapes: -> clips (n, 8, size, size, 3) uint8, labels (n,) int64; n is 3000 ("train") or 600 ("test").
    The files have 64 x 64 pixels: that size is for the eye, the smaller default for the model.
    """
    root = write_dataset(cache_folder() / "motion")
    folder = VideoFolder(root / split, MODEL["num_frames"], size, classes=CLASSES)
    return folder.load(cache_folder() / f"motion_{split}_{size}.safetensors", progress)


def train_motion(seed, checkpoint=None, progress=True, prepare=None, augment=augment, scheme="divided", **how):  # fmt: skip
    """Train the course's model with one seed; returns (model, history, seconds in `fit`).

    `prepare(model)` may change the model before training starts; `how` goes to `fit`, beside the RECIPE.
    """
    torch.manual_seed(seed)
    model = TimeSformer(**MODEL, scheme=scheme)
    if prepare is not None:
        prepare(model)
    data = motion_data(progress=progress)
    started = time.perf_counter()
    history = fit(model, data, **RECIPE, **how, augment=augment, seed=seed, checkpoint=checkpoint, progress=progress)  # fmt: skip
    return model, history, time.perf_counter() - started


def for_fit(recipe):
    """A recipe for lips as arguments of `fit`.

    Beside those it may hold "muon", whether `utils.muon.Muon` takes AdamW's place, "mixed", how often
    `lips.mix` mixes a batch, and "pace", how much `lips.vary` varies the pace.
    """
    how = dict(recipe)
    how["augment"] = partial(lips.augment, often=how.pop("mixed", 0.5), pace=how.pop("pace", 1.0))
    how["optimizer"] = Muon if how.pop("muon", False) else None
    return how


def train_lips(seed, words, recipe=LIPS_RECIPE, checkpoint=None, progress=True, folder=lips.LIPS, sizes=None):  # fmt: skip
    """Train a model on `words` (of `lips.words`) to read lips, with one seed.

    `recipe` is what `for_fit` takes; `folder` is where the words' clips are, another speaker's perhaps;
    `sizes` are LIPS_MODEL unless given; `checkpoint`, `progress` as in `fit`. Returns (model in eval mode,
    history, seconds in `fit`).
    """
    sizes = sizes or LIPS_MODEL
    data = lips.windows(words, sizes["num_frames"], margin=lips.MARGIN, folder=folder, progress=progress)  # fmt: skip
    torch.manual_seed(seed)
    model = TimeSformer(**sizes)
    started = time.perf_counter()
    history = fit(model, data, **for_fit(recipe), seed=seed, checkpoint=checkpoint, progress=progress)  # fmt: skip
    return model.eval(), history, time.perf_counter() - started


def read_lips(words, models=None, folder=lips.LIPS, aside=1):
    """What `models` say of spoken words: probabilities of all 51 classes, (n, 51) float32.

    Each averages its answers to all `lips.views` (`aside`: there); `lips.together` combines the models.
    `models` None: those in data/.
    """
    models = models or [load_model(DATA / f"lips_{n}.safetensors")[0] for n in range(len(LIPS_KEPT))]  # fmt: skip
    views, answers = {}, []
    for model in models:
        frames = model.config["num_frames"]
        if frames not in views:
            views[frames] = lips.views(lips.windows(words, frames, margin=lips.MARGIN, folder=folder, progress=False)[0], aside=aside)  # fmt: skip
        answers.append(predict_views(model, views[frames]).numpy())
    return lips.together(answers)
