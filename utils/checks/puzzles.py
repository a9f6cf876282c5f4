"""What the exercises' pictures show, out of sight of those who are to read them."""

import json
import math

import numpy as np
import torch
from torch.nn import functional as F

from utils import lips
from utils.model import AttentionStep, Step
from utils.paths import DATA
from utils.training import load_model, predict

# Lesson 03: four stacks, and what is taken from them. "fall": what the picture shows.
STACKS = {
    "A": dict(fall="double"),
    "B": dict(fall="none", skip=True, norm=True),
    "C": dict(fall="single", fixed=True),
    "D": dict(fall="double", norm=True),
}


def spread_by_layer(stack, seed, depth=12, n=32):
    """The spread of n random tokens after each layer of one of STACKS: depth + 1 numbers."""
    kind, generator = STACKS[stack], torch.Generator().manual_seed(seed)
    x = torch.randn(n, n, generator=generator, dtype=torch.float64)
    left = [1.0]
    for _ in range(depth):
        w_q, w_k, w_v = torch.randn(3, n, n, generator=generator, dtype=torch.float64) / math.sqrt(
            n
        )
        y = F.layer_norm(x, (n,)) if kind.get("norm") else x
        shares = ((2 * y @ w_q) @ (2 * y @ w_k).T / math.sqrt(n)).softmax(-1)
        if kind.get("fixed"):  # the same in every layer, whatever the tokens are
            shares = 0.5 / n + 0.5 * torch.eye(n, dtype=torch.float64)
        x = shares @ (y @ w_v) + (x if kind.get("skip") else 0)
        left.append(max(((x - x.mean(0)).norm() / x.norm()).item(), 1e-15))
    return left


# Lesson 02: what four heads do with the frames of one patch.
HEADS = {
    "A": "looks at the frame before",
    "B": "takes a bit of every frame",
    "C": "early frames look at late ones, late ones at early ones",
    "D": "looks at the first frame, from everywhere",
}


def attention_maps():
    """The four heads' attention over 8 frames: name -> (8, 8), rows sum to 1."""
    frame = torch.arange(8)
    some = torch.rand(8, 8, generator=torch.Generator().manual_seed(5))
    scores = {
        "A": 6.0 * (frame[None] == frame[:, None] - 1),
        "B": -some,
        "C": 6.0 * (frame[None] == 7 - frame[:, None]),
        "D": 6.0 * (frame[None] == 0).expand(8, 8),
    }
    return {name: table.softmax(-1) for name, table in scores.items()}


# Lesson 08: whom the patch at row 3, column 2 of frame 1 can see.
STEPS = {
    "A": ("global", Step("(b i j k) (t h w)", grid="b (t i) (h j) (w k)")),
    "B": ("columns", Step("(b t w) h")),
    "C": ("local", Step("(b i j) (t h w)", grid="b t (i h) (j w)")),
    "D": ("time", Step("(b h w) t")),
}
GRID, PLACE = (4, 6, 6), (1, 3, 2)


def seen_by(letter):
    """Which input patches the output at PLACE depends on, by gradient: (t, h, w) booleans."""
    torch.manual_seed(0)
    step = AttentionStep(8, 2, STEPS[letter][1]).double()
    for parameter in step.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    patches = torch.randn(1, *GRID, 8, dtype=torch.float64).requires_grad_()
    out, _ = step(patches, torch.zeros(1, 8, dtype=torch.float64))
    (out[0][PLACE] @ torch.randn(8, dtype=torch.float64)).backward()
    return patches.grad[0].abs().sum(-1) > 0


# Lesson 11: four ways of training, measured for the lesson.
RUNS = {
    "A": "space only",
    "B": "no time embedding",
    "C": "labels not remapped",
    "D": "the recipe",
}


def training_curves():
    """Accuracy on training batches by epoch: name -> one list a seed."""
    rows = json.loads((DATA / "recipe_variants.json").read_text(encoding="utf-8"))["rows"]
    rows += json.loads((DATA / "motion_seeds.json").read_text(encoding="utf-8"))["rows"]
    return {
        letter: [row["train_accuracy"] for row in rows if row["variant"] == name]
        for letter, name in RUNS.items()
    }


# Lesson 06: what the hidden units of a trained reader of lips say.
def _unit_words():
    return [word for word in lips.words("validation") if word.slot != "adverb"]


@torch.no_grad()
def units():
    """How far each hidden unit of the last MLP goes above its mean, at its highest, in each word.

    -> (words, units), and the words.
    """
    model, _ = load_model(DATA / "lips_tiles.safetensors")
    windows, _ = lips.windows(_unit_words(), model.config["num_frames"], progress=False)
    found = []

    def keep(module, inputs, output):
        if output.ndim == 5:  # patches, not the class token
            found.append(output.flatten(1, 3))

    model.blocks[-1].last = False  # its patches are what we want to see
    hook = model.blocks[-1].feed_forward.fn.net[1].register_forward_hook(keep)
    predict(model, lips.channels(windows), batch_size=50)
    hook.remove()
    said = torch.cat(found)
    return (said - said.mean(dim=0)).amax(dim=1), [word.word for word in _unit_words()]


def unit_windows(rows):
    """The windows of some rows of that table, in grey: (rows, t, height, width, 3) uint8."""
    windows, _ = lips.windows([_unit_words()[row] for row in rows], 8, progress=False)
    return np.repeat(windows[..., None], 3, axis=-1)
