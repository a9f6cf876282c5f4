"""The map that grows: from a video to a word, on the running clip; every lesson opens with it."""

from functools import lru_cache

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyBboxPatch

from utils import lips
from utils.plots.diagrams import arrow, canvas, tint
from utils.plots.style import ASK, CLS, MLP, NORM, SPACE, TIME, say

PARTS = (
    "frames",
    "patches",
    "tokens",
    "attention",
    "norm",
    "geglu",
    "mlp",
    "block",
    "head",
    "answer",
)


@lru_cache(maxsize=1)
def _mouth():
    """The running clip, frames 23 to 30: 64 × 96 pixels."""
    return lips.read_frames(lips.clip_path("bwbh1a"))[23:31]


def journey(today=(), built=(), learning=False):
    """From a video to a word: the map of the model, on the running clip.

    `built` are the PARTS of earlier lessons, in colour; `today` are this lesson's, in a thick frame; the
    others are dotted. With `learning`, the gradient runs back. ValueError for an unknown part.
    """
    today, built = set(today), set(built)
    if unknown := (today | built) - set(PARTS):
        raise ValueError(f"unknown parts {sorted(unknown)}; there are {', '.join(PARTS)}")
    axes = canvas(11.6, 2.1)
    clip, known = _mouth(), today | built

    def frame(part, x, y, width, height, colour):
        """A part's frame: thick today, plain when built, dotted before; returns whether it is known."""
        here = part in known
        axes.add_patch(FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.06", zorder=2,
            facecolor=tint(colour, 0.16) if here else "white", edgecolor=colour if here else "#aaaaaa",
            linewidth=3.2 if part in today else 1.3, linestyle="-" if here else (0, (1.5, 1.5)),
        ))  # fmt: skip
        return here

    def picture(image, x, y, width, height, here, zorder=3):
        shown = image if here else 255 - 0.25 * (255 - image.mean(-1, keepdims=True).repeat(3, -1))
        axes.imshow(shown.astype(np.uint8), extent=(x, x + width, y, y + height), zorder=zorder, interpolation="bicubic")  # fmt: skip

    def label(part, x, text, y=0.16):
        axes.text(x, y, text, ha="center", va="center", fontsize=9, color="black" if part in known else "#999999",
                  weight="bold" if part in today else "normal")  # fmt: skip

    here = frame("frames", 0.1, 0.4, 1.3, 1.3, "#555555")
    for number, one in enumerate(clip[[0, 2, 4]]):
        picture(one, 0.18 + 0.13 * number, 1.0 - 0.24 * number, 0.87, 0.58, here, 3 + number)
    label("frames", 0.75, "a file: frames")

    here = frame("patches", 1.7, 0.4, 1.3, 1.3, "#555555")
    for row, column in np.ndindex(4, 6):
        patch = clip[3, 16 + 8 * row : 24 + 8 * row, 24 + 8 * column : 32 + 8 * column]
        picture(patch, 1.78 + 0.192 * column, 1.36 - 0.225 * row, 0.165, 0.19, here)
    label("patches", 2.35, "patches")

    here = frame("tokens", 3.3, 0.4, 1.1, 1.3, ASK)
    shades = np.random.default_rng(0).uniform(0.1, 0.9, (7, 8))
    for number, row in enumerate(shades):
        colour = CLS if number == 0 else ASK
        for k, shade in enumerate(row):
            axes.add_patch(plt.Rectangle((3.38 + 0.137 * number, 0.5 + 0.137 * k), 0.11, 0.13, zorder=3,
                                         facecolor=tint(colour if here else "#999999", shade if here else 0.3 * shade)))  # fmt: skip
    label("tokens", 3.85, "tokens, place, moment")

    frame("block", 4.75, 0.4, 3.95, 1.3, "#333333")
    label("block", 6.7, "the block, again and again")
    axes.text(8.64, 0.425, "n: norm   T: time   S: space", ha="right", fontsize=6, color="#777777", zorder=4)  # fmt: skip
    gold, main = (
        CLS if known & {"tokens", "block"} else "#bbbbbb",
        "#333333" if known else "#bbbbbb",
    )
    for y, colour, width in (
        (1.53, gold, 1.8),
        (1.33, main, 1.4),
    ):  # the class token's road, the patches' road
        axes.plot([4.4, 8.98], [y, y], color=colour, linewidth=width, zorder=2.5)
    for start, end in (
        (4.9, 5.83),
        (6.1, 7.03),
        (7.3, 8.53),
    ):  # a branch leaves the road, and comes back
        for x in ([start - 0.06] * 2 + [start], [end] + [end + 0.07] * 2):
            y = [1.33, 0.83, 0.83] if x[0] < start else [0.83, 0.83, 1.33]
            axes.plot(
                x, y, color=main if "block" in known else "#bbbbbb", linewidth=1.1, zorder=2.5
            )
    for part, x, width, colour, text in (
        ("norm", 4.9, 0.3, NORM, "n"), ("attention", 5.28, 0.55, TIME, "T"), ("norm", 6.1, 0.3, NORM, "n"), ("attention", 6.48, 0.55, SPACE, "S"),
        ("norm", 7.3, 0.3, NORM, "n"), ("mlp", 7.68, 0.85, MLP, "MLP"),
    ):  # fmt: skip
        here = frame(part, x, 0.52, width, 0.62, colour)
        axes.text(x + width / 2, 0.96 if part == "mlp" else 0.83, text, ha="center", va="center", fontsize=10 if part != "norm" else 8,
                  color=colour if here else "#999999", weight="bold", zorder=4)  # fmt: skip
    here = frame("geglu", 7.76, 0.58, 0.69, 0.2, MLP)
    axes.text(
        8.1,
        0.68,
        "GEGLU",
        ha="center",
        va="center",
        fontsize=7,
        color=MLP if here else "#999999",
        zorder=4,
    )

    frame("head", 9.0, 0.75, 0.95, 0.95, CLS)
    axes.text(9.47, 1.22, "class token\n→ head", ha="center", va="center", fontsize=9, color="black" if "head" in known else "#999999", zorder=4)  # fmt: skip
    label("head", 9.47, "head")

    here = frame("answer", 10.25, 0.4, 1.3, 1.3, "#555555")
    for number, (word, share) in enumerate(
        (("white", 0.9), ("red", 0.3), ("green", 0.14), ("blue", 0.08))
    ):
        y = 1.4 - 0.29 * number
        axes.text(
            10.72,
            y + 0.08,
            word,
            ha="right",
            va="center",
            fontsize=8,
            color="black" if here else "#999999",
            zorder=4,
        )
        axes.add_patch(plt.Rectangle((10.77, y), 0.7 * share, 0.16, facecolor=(ASK if number == 0 else "#999999") if here else "#dddddd", zorder=3))  # fmt: skip
    label("answer", 10.9, "a word")
    for start, end in ((1.42, 1.68), (3.02, 3.28), (9.97, 10.23)):
        arrow(axes, (start, 1.05), (end, 1.05), colour="#777777")
    if learning:
        arrow(axes, (10.9, 1.74), (10.9, 1.92), (3.85, 1.92), (3.85, 1.74), colour="#B00020")
        axes.text(7.4, 1.98, "the gradient: who was to blame, and how much?", ha="center", va="bottom", fontsize=8.5, color="#B00020")  # fmt: skip
    axes.set(xlim=(0, 11.6), ylim=(0, 2.2 if learning else 2.1))
    parts = {"built": sorted(built, key=PARTS.index), "today": sorted(today, key=PARTS.index)}
    say(plt.gcf(), "The map of the model: frames, patches, tokens, the block with T, S and the MLP, head, word. "
        + " ".join(f"{when}: {', '.join(names)}." for when, names in parts.items() if names)
        + (" The gradient runs back from the word to the tokens." if learning else ""), drawing=True)  # fmt: skip
