"""Diagrams of the model, drawn by code."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyBboxPatch

from utils.model import SCHEMES, fold, to_patches
from utils.plots.style import ASK, CLS, MLP, NORM, SKIP, SPACE, TIME, as_array, moving, say
from utils.training import to_video


def tint(colour, share=0.16):
    """A colour laid over white: `share` of it."""
    return tuple(1 - share * (1 - part) for part in to_rgb(colour))


def canvas(width, height):
    """Axes of which one unit is an inch, y upwards; nothing drawn yet."""
    figure, axes = plt.subplots(figsize=(width, height))
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")
    return axes


def _box(axes, x, y, text, colour, width=1.1, height=0.5, size=10, letter=None):
    """A rounded box around (x, y), tinted in a colour; `letter` says in its corner what the colour means."""
    axes.add_patch(FancyBboxPatch(
        (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=tint(colour), edgecolor=colour, linewidth=1.6, zorder=3,
    ))  # fmt: skip
    axes.text(x, y, text, ha="center", va="center", fontsize=size, zorder=4)
    if letter:
        axes.text(x - width / 2 + 0.05, y + height / 2 - 0.04, letter, ha="left", va="top", fontsize=7.5, weight="bold", color=colour, zorder=4)  # fmt: skip


def arrow(axes, *points, colour="#333333", width=1.4, head=True, style="-"):
    """A line through points; the last stretch ends in an arrow head."""
    for number, (start, end) in enumerate(zip(points, points[1:])):
        last = head and number == len(points) - 2
        axes.annotate("", end, start, arrowprops=dict(
            arrowstyle="-|>" if last else "-", color=colour, linewidth=width, linestyle=style, shrinkA=0, shrinkB=0,
            mutation_scale=11))  # fmt: skip


def _plus(axes, x, y):
    """Where two roads are added."""
    axes.add_patch(
        plt.Circle((x, y), 0.13, facecolor="white", edgecolor=SKIP, linewidth=1.4, zorder=5)
    )
    axes.text(x, y - 0.01, "+", ha="center", va="center", fontsize=11, zorder=6)


def _shape(axes, x, y, text, **how):
    """The shape of what flows here, in small type."""
    how = dict(ha="center", va="center", fontsize=8.5, color="#555555", family="monospace") | how
    axes.text(x, y, text, **how)


def _norm():
    """D3: where the norm stands, on the main road or on the side road."""
    axes = canvas(9.0, 3.5)
    for left, title, pre in ((0.3, "post-norm: the norm stands on the main road", False), (4.9, "pre-norm: the main road is clear", True)):  # fmt: skip
        y, low = 2.25, 1.35
        axes.text(left, 3.25, title, fontsize=11, weight="bold")
        end = left + 3.75
        plus = left + (2.95 if pre else 2.2)
        arrow(axes, (left + 0.25, y), (end, y), colour=SKIP, width=2.4)
        axes.text(left + 0.1, y, "x", ha="center", va="center", fontsize=12, style="italic")
        if pre:
            arrow(
                axes,
                (left + 0.55, y),
                (left + 0.55, low),
                (plus, low),
                (plus, y - 0.13),
                colour="#333333",
            )
            _box(axes, left + 1.15, low, "norm", NORM, 0.7)
            _box(axes, left + 2.15, low, "layer", MLP, 0.9)
        else:
            arrow(axes, (left + 0.55, y), (left + 0.55, low), (plus, low), (plus, y - 0.13))
            _box(axes, left + 1.35, low, "layer", MLP, 0.9)
            _box(axes, left + 2.95, y, "norm", NORM, 0.7)
        _plus(axes, plus, y)
        arrow(
            axes,
            (end, 0.55),
            (left + 0.25, 0.55),
            colour=ASK,
            width=2.2,
            style="-" if pre else (0, (4, 3)),
        )
        axes.text(left + 2.0, 0.3, "a way back around all norms" if pre else "every norm on the way rescales the gradient",
                  ha="center", va="center", fontsize=9.5, color=ASK)  # fmt: skip


def _mlp():
    """D4: the gated MLP, on each token alone."""
    axes = canvas(9.0, 3.4)
    for y, text in ((2.3, "token"), (0.55, "next token")):
        alone = y > 1
        _box(axes, 0.75, y, f"{text}\n(d)", "#333333", 1.1, 0.55)
        if not alone:
            arrow(axes, (1.3, y), (7.55, y), colour="#999999", style=(0, (3, 3)))
            axes.text(
                4.5, y + 0.16, "the same, by itself", ha="center", fontsize=9, color="#777777"
            )
            _box(axes, 8.1, y, "(d)", "#333333", 1.0, 0.55)
    axes.plot([0.2, 8.8], [1.22, 1.22], color="#333333", linewidth=3)
    axes.text(4.5, 1.04, "a wall: no token sees another", ha="center", va="center", fontsize=9.5)
    arrow(axes, (1.3, 2.3), (1.75, 2.3))
    _box(axes, 2.3, 2.3, "Linear", MLP, 0.95)
    arrow(axes, (2.78, 2.3), (3.15, 2.3), (3.15, 2.8), (3.55, 2.8))
    arrow(axes, (3.15, 2.3), (3.15, 1.75), (3.55, 1.75))
    _shape(axes, 2.3, 1.88, "(2·m·d)")
    _box(axes, 4.15, 2.8, "value", MLP, 1.1)
    _box(axes, 4.15, 1.75, "gate", MLP, 1.1)
    arrow(axes, (4.7, 1.75), (5.05, 1.75))
    _box(axes, 5.45, 1.75, "GELU", MLP, 0.75)
    arrow(axes, (4.7, 2.8), (6.15, 2.8), (6.15, 2.44))
    arrow(axes, (5.83, 1.75), (6.15, 1.75), (6.15, 2.16))
    axes.add_patch(
        plt.Circle((6.15, 2.3), 0.14, facecolor="white", edgecolor=MLP, linewidth=1.6, zorder=5)
    )
    axes.text(6.15, 2.29, "×", ha="center", va="center", fontsize=12, zorder=6)
    arrow(axes, (6.29, 2.3), (6.65, 2.3))
    _shape(axes, 6.52, 2.72, "(m·d)")
    _box(axes, 7.1, 2.3, "Linear", MLP, 0.9)
    arrow(axes, (7.55, 2.3), (7.8, 2.3))
    _box(axes, 8.3, 2.3, "(d)", "#333333", 0.95, 0.55)


def _attention():
    """D2: scaled dot-product attention with its shapes."""
    axes = canvas(9.6, 3.6)
    _box(axes, 0.65, 1.95, "tokens\nX", "#333333", 0.95, 0.7)
    _shape(axes, 0.65, 1.42, "(n, dim)")
    for y, name, colour in ((3.1, "Q", ASK), (1.95, "K", NORM), (0.6, "V", NORM)):
        arrow(axes, (1.13, 1.95), (1.4, 1.95), (1.4, y), (1.65, y))
        _box(axes, 2.0, y, name, colour, 0.65, 0.55, 12)
    _shape(axes, 2.0, 3.48, "(heads, n, d)")
    axes.text(2.42, 3.16, "what I look for", fontsize=8, color=ASK, va="bottom")
    axes.text(2.42, 1.88, "what I am", fontsize=8, color="#555555", va="top")
    axes.text(2.42, 0.67, "what I tell", fontsize=8, color="#555555", va="bottom")
    arrow(axes, (2.33, 3.1), (2.95, 3.1), (2.95, 2.27), (3.3, 2.27), colour=ASK)  # a row of queries
    arrow(
        axes, (2.33, 1.95), (2.75, 1.95), (2.75, 2.95), (3.75, 2.95), (3.75, 2.6)
    )  # columns of keys
    rng = np.random.default_rng(3)
    scores = rng.uniform(0.1, 0.7, (5, 5))
    for x, values, text in ((3.75, scores, "QKᵀ / √d"), (5.85, np.exp(4 * scores) / np.exp(4 * scores).sum(1, keepdims=True), "softmax")):  # fmt: skip
        for row, column in np.ndindex(5, 5):
            colour = ASK if row == 1 else "#777777"
            shade = values[row, column] / values[row].max()
            axes.add_patch(plt.Rectangle((x - 0.4 + 0.16 * column, 2.35 - 0.16 * row), 0.16, 0.16, facecolor=tint(colour, 0.15 + 0.85 * shade), edgecolor="white", linewidth=0.5, zorder=3))  # fmt: skip
        axes.add_patch(
            plt.Rectangle(
                (x - 0.4, 2.19), 0.8, 0.16, fill=False, edgecolor=ASK, linewidth=1.6, zorder=4
            )
        )
        axes.text(x, 1.52, text, ha="center", va="center", fontsize=10)
        _shape(axes, x, 1.25, "(heads, n, n)")
    arrow(axes, (4.25, 2.1), (5.35, 2.1))
    axes.text(4.8, 2.24, "row by row", ha="center", fontsize=8, color="#555555")
    axes.text(
        5.85,
        2.62,
        "one row = one token's glance: sums to 1",
        ha="center",
        va="bottom",
        fontsize=8.5,
        color=ASK,
    )
    arrow(axes, (6.3, 2.1), (7.0, 2.1))
    arrow(axes, (2.33, 0.6), (7.15, 0.6), (7.15, 1.95))
    axes.add_patch(
        plt.Circle(
            (7.15, 2.1), 0.15, facecolor="white", edgecolor="#333333", linewidth=1.4, zorder=5
        )
    )
    axes.text(7.15, 2.09, "×", ha="center", va="center", fontsize=12, zorder=6)
    arrow(axes, (7.3, 2.1), (7.6, 2.1))
    _box(axes, 8.2, 2.1, "heads side\nby side, W", "#333333", 1.15, 0.65, 9)
    arrow(axes, (8.78, 2.1), (9.15, 2.1))
    _shape(axes, 9.25, 1.6, "(n, dim)")
    axes.text(9.35, 2.1, "Y", ha="center", va="center", fontsize=12, style="italic")


def _block():
    """D5: the divided block, with the tensors on their way and the class token's line."""
    axes = canvas(11.0, 5.0)
    road, gold, low = 3.75, 4.45, 1.2
    brown = "#9a6a00"  # gold, dark enough to read
    arrow(axes, (0.95, road), (10.9, road), colour=SKIP, width=2.6)
    arrow(axes, (0.95, gold), (10.9, gold), colour=CLS, width=2.6)
    axes.text(0.85, road, "patches", ha="right", va="center", fontsize=9.5)
    axes.text(0.85, gold, "class\ntoken", ha="right", va="center", fontsize=9.5, color=brown)
    _shape(axes, 0.45, road - 0.25, "(b,t,h,w,d)", fontsize=7)

    for left, right, colour, name in ((1.15, 4.65, TIME, "T   time"), (4.85, 8.45, SPACE, "S   space"), (8.65, 10.65, MLP, "MLP")):  # fmt: skip
        axes.add_patch(FancyBboxPatch((left, 0.2), right - left, 3.2, boxstyle="round,pad=0,rounding_size=0.1",
                                      facecolor=tint(colour, 0.08), edgecolor=tint(colour, 0.5), linewidth=1, zorder=0))  # fmt: skip
        axes.text(left + 0.15, 0.45, name, fontsize=11, weight="bold", color=colour, va="center")

    # time: fold, norm, attend, a linear map that starts at zero, unfold
    arrow(axes, (1.6, road), (1.6, low), (4.2, low), (4.2, road - 0.13))
    _box(axes, 1.65, 2.8, "fold", "#333333", 0.62, 0.36, 9)
    _shape(axes, 1.68, 2.3, "(b h w) t d", ha="left")
    _box(axes, 2.1, low, "norm", NORM, 0.58, 0.42, 9)
    _box(axes, 2.88, low, "attend", TIME, 0.74, 0.42, 9)
    _box(axes, 3.72, low, "linear", "#333333", 0.66, 0.42, 9)
    axes.text(3.72, 0.85, "starts at 0", ha="center", va="center", fontsize=8, color="#555555")
    _box(axes, 4.2, 2.8, "unfold", "#333333", 0.72, 0.36, 9)
    _plus(axes, 4.2, road)
    axes.text(2.9, gold + 0.14, "passes by", ha="center", va="bottom", fontsize=9, color=brown)

    # space: the class token gives each frame a copy, and takes the copies' mean
    arrow(axes, (5.3, road), (5.3, low), (8.0, low), (8.0, road - 0.13))
    arrow(axes, (5.85, gold), (5.85, low + 0.02), colour=CLS)
    arrow(axes, (7.45, low), (7.45, gold - 0.13), colour=CLS)
    _box(axes, 5.3, 2.8, "fold", "#333333", 0.62, 0.36, 9)
    axes.text(5.92, 2.8, "a copy for\neach frame", fontsize=8, color=brown, va="center")
    axes.text(7.38, 2.8, "mean of\nthe copies", fontsize=8, color=brown, va="center", ha="right")
    _shape(axes, 6.65, 2.2, "(b t) (1+h w) d")
    _box(axes, 6.25, low, "norm", NORM, 0.58, 0.42, 9)
    _box(axes, 7.03, low, "attend", SPACE, 0.74, 0.42, 9)
    _box(axes, 8.0, 2.8, "unfold", "#333333", 0.72, 0.36, 9)
    _plus(axes, 8.0, road)
    _plus(axes, 7.45, gold)

    # the MLP: patches and class token, each token alone
    arrow(axes, (8.95, road), (8.95, low), (10.35, low), (10.35, road - 0.13))
    arrow(axes, (8.8, gold), (8.8, 2.1), (10.1, 2.1), (10.1, gold - 0.13), colour=CLS)
    for y in (low, 2.1):
        _box(axes, 9.32, y, "norm", NORM, 0.5, 0.42, 9)
        _box(axes, 9.85 if y > 2 else 9.95, y, "MLP", MLP, 0.46 if y > 2 else 0.56, 0.42, 9)
    _plus(axes, 10.35, road)
    _plus(axes, 10.1, gold)


def _rooms(step, t, h, w):
    """Which patches share a room in a step: (t*h*w, t*h*w) of True and False."""
    folded = fold(torch.arange(t * h * w).view(1, t, h, w, 1), step)[..., 0]
    together = np.zeros((t * h * w, t * h * w), bool)
    for members in folded.numpy():
        together[np.ix_(members, members)] = True
    return together


def _cube(axes, x, y, lit, asked, colour, cell=0.125):
    """The frames of a clip one behind the other, lit patches in a colour, the asking patch blue."""
    t, h, w = lit.shape
    for frame in range(t):
        left, top = x + frame * (w * cell + 0.1), y
        for row, column in np.ndindex(h, w):
            here = (frame, row, column) == asked
            face = ASK if here else tint(colour, 0.75) if lit[frame, row, column] else "white"
            axes.add_patch(plt.Rectangle((left + column * cell, top - (row + 1) * cell), cell, cell, facecolor=face, edgecolor="#bbbbbb", linewidth=0.6))  # fmt: skip
    return t * (w * cell + 0.1) - 0.1


def _schemes():
    """D6: who shares a room with the blue patch, one step at a time, and what it has heard from after all."""
    t, h, w, asked = 4, 4, 4, (1, 1, 2)
    place = np.ravel_multi_index(asked, (t, h, w))
    colours = {"(b h w) t": TIME, "(b t) (h w)": SPACE, "(b t h) w": SPACE, "(b t w) h": SPACE}
    axes = canvas(11.9, 1.28 * len(SCHEMES) + 0.5)
    top = 1.28 * len(SCHEMES) + 0.1
    columns = (1.35, 3.95, 6.55, 9.2)
    for x, text in zip(
        columns, ("first step", "second step", "third step", "heard from after one block")
    ):
        axes.text(x, top + 0.2, text, fontsize=10, weight="bold", va="center")
    for number, (name, steps) in enumerate(SCHEMES.items()):
        y = top - 0.1 - 1.28 * number
        axes.text(1.2, y - 0.27, name, ha="right", va="center", fontsize=10.5, weight="bold")
        heard = np.eye(t * h * w, dtype=bool)
        for x, step in zip(columns, steps):
            together = _rooms(step, t, h, w)
            heard = together @ heard
            lit = together[place].reshape(t, h, w)
            _cube(axes, x, y, lit, asked, colours.get(step.pattern, NORM))
            axes.text(x, y - 0.64, step.pattern, family="monospace", fontsize=8, va="center")
            axes.text(
                x, y - 0.83, f"{lit.sum()} in the room", fontsize=8, va="center", color="#555555"
            )
        reached = heard[place].reshape(t, h, w)
        _cube(axes, columns[3], y, reached, asked, "#777777")
        axes.text(
            columns[3], y - 0.64, f"{reached.sum()} of {t * h * w} patches", fontsize=8, va="center"
        )


def _rollout():
    """D7: rollout multiplies the steps, the last one leftmost; the class token's row is read off."""
    rng = np.random.default_rng(1)
    n, cell = 7, 0.13
    axes = canvas(10.2, 2.5)
    names = ("all together", "space, block 2", "time, block 2", "space, block 1", "time, block 1")
    for number, name in enumerate(names):
        x = 0.35 + 2.0 * number
        weights = rng.dirichlet(np.full(n, 0.6), n)
        if name.startswith("time"):
            weights[0], weights[:, 0] = 0, 0  # the class token has no time step
            weights[0, 0] = 1
        mixed = weights if not number else (weights / weights.sum(1, keepdims=True) + np.eye(n)) / 2
        colour = SKIP if not number else SPACE if name.startswith("space") else TIME
        for row, column in np.ndindex(n, n):
            shade = min(1, mixed[row, column] / 0.6)
            face = tint(CLS if not number and row == 0 else colour, 0.05 + 0.9 * shade)
            if not number and row:
                face = tint("#999999", 0.05 + 0.3 * shade)
            axes.add_patch(plt.Rectangle((x + column * cell, 1.75 - row * cell), cell, cell, facecolor=face, edgecolor="white", linewidth=0.5))  # fmt: skip
        if number:
            axes.plot([x, x + n * cell], [1.88, 1.88 - n * cell], color=SKIP, linewidth=0.8)
            axes.text(x + n * cell / 2, 2.2, "½ A + ½ I", ha="center", fontsize=10)
        else:
            axes.add_patch(
                plt.Rectangle(
                    (x, 1.75), n * cell, cell, fill=False, edgecolor=CLS, linewidth=2, zorder=5
                )
            )
            axes.text(
                x + n * cell / 2,
                2.12,
                "class token's row",
                ha="center",
                fontsize=9,
                color="#9a6a00",
            )
        axes.text(x + n * cell / 2, 0.72, name, ha="center", va="center", fontsize=9.5)
        if number < 4:
            axes.text(
                x + n * cell + 0.55,
                1.42,
                "=" if not number else "×",
                ha="center",
                va="center",
                fontsize=15,
            )
    arrow(axes, (9.3, 0.35), (2.5, 0.35), colour="#777777")
    axes.text(5.9, 0.17, "the first step stands rightmost: it meets the patches first", ha="center", va="center", fontsize=9, color="#555555")  # fmt: skip


_DIAGRAMS = {
    "attention": _attention, "norm": _norm, "mlp": _mlp, "block": _block, "schemes": _schemes, "rollout": _rollout,
}  # fmt: skip


_WORDS = {
    "attention": """From left to right: tokens X of shape (n, dim) go through three learned matrices and become queries,
        keys and values, each (heads, n, d / heads). Queries times keys give scores of shape (n, n), one row of them
        in blue. They are divided by the root of d and go through a softmax, so that each row sums to 1. Times the
        values they give the output of each head; the heads are laid side by side and multiplied by a last matrix.""",
    "norm": """Two roads. Left, post-norm: x goes through a layer, is added to x, and a norm stands on the main road. Right,
        pre-norm: the norm stands on the branch, before the layer, and nothing but a plus stands on the main road. An arrow
        shows the gradient coming down each road.""",
    "mlp": """Each token, alone: d numbers are mapped to twice m times d, which are cut into value and gate. The gate
        goes through GELU and multiplies the value; a second matrix maps the m times d products back to d. A wall
        stands between one token and the next.""",
    "block": """The divided block from left to right. Three branches leave the main road of the patches, and each comes
        back with a plus: T, attention over time, with a norm before it and a linear layer that starts at zero after
        it; S, attention over space, with a norm; and the MLP, with a norm. The class token's golden line goes round
        T, enters S as one copy per frame, is averaged, and goes through the MLP.""",
    "schemes": """One row for each scheme, one strip of frames for each of its steps. Lit are the patches that share a
        room with one patch, in blue. Space: its own frame. Joint: everything. Divided: the same place in all
        frames, then its frame. Local and global: its quarter in all frames, then every second row, column and
        frame. Axial: the same place in all frames, then its row, then its column.""",
    "rollout": """Attention matrices of the steps are multiplied from right to left. To each, half of an identity matrix
        is added for the skip. The class token's row of the product, in gold, is the rollout.""",
}


def diagram(name):
    """A diagram drawn by code: "attention", "norm", "mlp", "block", "schemes" or "rollout".

    ValueError for any other.
    """
    if name not in _DIAGRAMS:
        raise ValueError(f"unknown diagram {name!r}; there are {', '.join(_DIAGRAMS)}")
    _DIAGRAMS[name]()
    say(plt.gcf(), _WORDS[name])


# From a video to tokens, in seven scenes ---------------------------------------------------------------


def _numbers(axes, x, y, values, colour, width=2.3, height=0.2, upright=False):
    """A vector as a strip: the larger a number, the darker its piece."""
    values = as_array(values)
    shades = 0.1 + 0.85 * (values - values.min()) / max(np.ptp(values), 1e-9)
    for number, shade in enumerate(shades):
        if upright:
            corner, size = (x, y + height * number / len(values)), (width, height / len(values))
        else:
            corner, size = (x + width * number / len(values), y), (width / len(values), height)
        axes.add_patch(plt.Rectangle(corner, *size, facecolor=tint(colour, shade), edgecolor="white", linewidth=0.3))  # fmt: skip
    axes.add_patch(
        plt.Rectangle((x, y), width, height, fill=False, edgecolor=colour, linewidth=1.3)
    )


def token_story(clip, embedding, asked):
    """D1: how a patch of a video becomes a token, in seven scenes; the last one stays longest.

    Shapes: clip (t, height, width, 3) uint8; `embedding` is a `VideoEmbedding` for it; `asked` is the
    patch that is followed, (frame, row, column).
    """
    with torch.no_grad():
        side, (t, (height, width)) = embedding.patch_size, (len(clip), clip.shape[1:3])
        raw = to_patches(to_video(clip[None]), side)[0]  # (t, h, w, 3 * side²)
        tokens = embedding.patches(raw)
        total = tokens + embedding.space + embedding.time[:, None, None]
    _, h, w, d = total.shape
    frame, row, column = asked
    scenes = []
    for scene in range(7):
        axes = canvas(10, 4.3)
        cell, gap = 3.2 / h * 0.72, 0 if scene < 2 else 0.07
        for r, c in np.ndindex(h, w):
            x, y = 0.3 + c * (cell + gap), 3.75 - (r + 1) * (cell + gap)
            patch = clip[frame, r * side : (r + 1) * side, c * side : (c + 1) * side]
            axes.imshow(patch, extent=(x, x + cell, y, y + cell), interpolation="nearest", zorder=1)
            followed = scene >= 3 and (r, c) == (row, column)
            if scene == 1 or followed:
                axes.add_patch(plt.Rectangle((x, y), cell, cell, fill=False, edgecolor=ASK if followed else "white", linewidth=3 if followed else 1.2, zorder=3))  # fmt: skip
            if followed:
                arrow(axes, (x + cell, y + cell / 2), (5.0, 3.55), colour=ASK)
        axes.set(xlim=(0, 10), ylim=(0, 4.3))  # imshow has narrowed them
        title = (
            f"one of {t} frames, {width} × {height} pixels"
            if scene < 1
            else f"{h} × {w} patches of {side} × {side} pixels"
        )
        axes.text(0.3, 4.0, title, fontsize=10, va="center")

        x = 5.1
        if scene >= 3:
            _numbers(axes, x, 3.43, raw[asked][:64], "#555555", 3.6, 0.24)
            axes.text(x + 3.7, 3.55, f"{raw.shape[-1]} numbers", fontsize=9, va="center")
            arrow(axes, (x + 1.15, 3.4), (x + 1.15, 3.07))
            axes.text(x + 1.25, 3.23, "× E, the same matrix for every patch", fontsize=9, va="center")  # fmt: skip
        sums = (
            (3, 2.92, "", tokens[asked], ASK, f"{d} numbers"),
            (4, 2.56, "+", embedding.space[row, column], SPACE, f"its place: row {row}, column {column}"),
            (5, 2.2, "+", embedding.time[frame], TIME, f"its moment: frame {frame}"),
            (5, 1.78, "=", total[asked], ASK, "the token"),
        )  # fmt: skip
        for since, y, sign, values, colour, text in sums:
            if scene >= since:
                _numbers(axes, x, y - 0.1, values[:24], colour)
                axes.text(x - 0.15, y, sign, fontsize=13, ha="center", va="center")
                axes.text(x + 2.4, y, text, fontsize=9, va="center", color=colour if sign == "+" else "black", weight="bold" if sign == "=" else "normal")  # fmt: skip
        if scene >= 6:
            axes.text(0.3, 0.95, f"{t * h * w} such tokens, and one that belongs to no patch: the class token", fontsize=10, va="center")  # fmt: skip
            _numbers(axes, 0.3, 0.2, embedding.cls[:8], CLS, 0.3, 0.5, upright=True)
            axes.text(0.45, 0.08, "cls", fontsize=8.5, ha="center", va="center", color="#9a6a00")
            place = np.ravel_multi_index(asked, (t, h, w))
            start = int(np.clip(place - 20, 0, max(0, t * h * w - 40)))
            for k, token in enumerate(total.reshape(-1, d)[start : start + 40]):
                colour = ASK if start + k == place else "#999999"
                _numbers(axes, 0.75 + 0.22 * k, 0.2, token[:8], colour, 0.17, 0.5, upright=True)
            axes.text(9.65, 0.45, "…", fontsize=14, va="center")
        figure = plt.gcf()
        figure.set_dpi(160)
        figure.canvas.draw()
        scenes.append(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
        plt.close(figure)
    alt = f"""A frame of a video is cut into {h} by {w} patches. One patch is followed: its {raw.shape[-1]} numbers
        are multiplied by E, a vector for its place and one for its moment are added, and the sum is its token. In
        the end there are {t * h * w} tokens, and the class token, in gold."""
    return moving(scenes, [1400] * 6 + [5000], alt, width=1000)


def slices(clip, asked, other, patch, pixel_row=None):
    """A clip seen from above: one row of pixels, columns across, time down; and what a token there meets.

    Five panels: the slice; what the blue cell meets in the time step, in the space step, in both; the
    slice of `other`. `clip` and `other` are (t, height, width, 3) uint8; `asked` is (frame, column of
    patches); `patch` is the patch side; `pixel_row` is the row that is cut (default: the middle).
    """
    frame, column = asked
    figure, axes = plt.subplots(1, 5, figsize=(11, 2.9))
    t, w = len(clip), clip.shape[2] // patch
    across, down = np.arange(w)[None], np.arange(t)[:, None]
    lit = {
        "one pixel row,\ntime downwards": None,
        "T: its own past\nand future": (across == column) & (down >= 0),
        "S: its own frame": (down == frame) & (across >= 0),
        "T, then S:\neverything": np.ones((t, w), bool),
        "the mouth": None,
    }
    for ax, (title, cells) in zip(axes, lit.items()):
        source = other if title == "the mouth" else clip
        row = source.shape[1] // 2 if pixel_row is None or source is other else pixel_row
        picture = source[:, row].astype(float)  # (t, width, 3)
        columns = source.shape[2] // patch
        if cells is not None:
            shade = cells.repeat(patch, 1)[..., None]
            picture = np.where(shade, picture, 255 - 0.35 * (255 - picture.mean(-1, keepdims=True)))
        ax.imshow(picture / 255, extent=(0, columns, len(source), 0), aspect="auto", interpolation="nearest")  # fmt: skip
        if cells is not None:
            colour = {"T": TIME, "S": SPACE}.get(title.split(":")[0], "#333333")
            for down_at, across_at in np.argwhere(cells):
                ax.add_patch(plt.Rectangle((across_at, down_at), 1, 1, fill=False, edgecolor=colour, linewidth=0.8))  # fmt: skip
            ax.add_patch(
                plt.Rectangle((column, frame), 1, 1, fill=False, edgecolor=ASK, linewidth=3)
            )
        ax.set(
            xticks=range(columns + 1), yticks=range(len(source) + 1), xticklabels=[], yticklabels=[]
        )
        ax.tick_params(length=0)
        if cells is None:
            ax.grid(color="#888888", linewidth=0.5)
        ax.set_title(title, fontsize=10)
    axes[0].set(xlabel="columns of patches", ylabel="frames")
    say(
        figure,
        """One row of pixels of every frame, one below the other: what moves is a slanted stripe. A cell in blue; lit
        is what it meets: in the time step its column, in the space step its row, in both everything. Last, the same
        slice of the mouth, whose stripes are nearly upright.""",
    )
