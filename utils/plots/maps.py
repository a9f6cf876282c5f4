"""Maps and matrices: what attends to what, and where."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from utils.plots.clips import animate
from utils.plots.style import ASK, SPACE, TIME, as_array, say


def spotlight(clip, panels, colour="#222222", numbers=None, percent=True, wash=False):
    """Where a patch looks: the frame in pale grey, what it looks at in full colour, the patch framed blue.

    Shapes: clip (t, height, width, 3) uint8; `panels` maps a name to ((frame, row, column), shares
    (t, h, w)), one row of frames each; None instead of a place frames no patch. A share of a tenth or
    more is framed in `colour` (one for all rows, or a list) and, with `percent`, printed. `numbers` stand
    above the frames (the default counts from 0). With `wash` attention is a gold wash over the pale
    frame, as strong as the root of the share: on white paper only that shows attention to nothing.
    """
    t, (height, width) = len(clip), clip.shape[1:3]
    cell = min(1.6, 9.5 / t)
    figure, axes = plt.subplots(
        len(panels), t, squeeze=False,
        figsize=(cell * t + 1.3, (cell * height / width + 0.05) * len(panels) + 0.5),
    )  # fmt: skip
    pale = 255 - 0.4 * (255 - clip.mean(-1, keepdims=True).repeat(3, -1))
    gold = np.array(to_rgb("#F0A500"))
    colours = [colour] * len(panels) if isinstance(colour, str) else colour
    for line, edge, (name, (asked, shares)) in zip(axes, colours, panels.items()):
        shares = as_array(shares)
        _, h, w = shares.shape
        down, across = height // h, width // w
        light = (shares / shares.max()).clip(0, 1).repeat(down, 1).repeat(across, 2)[..., None]
        if wash:
            light = (light - light.min()) / (1 - light.min() + 1e-9)
            lit = pale * (1 - light**0.5 * (1 - gold))
        else:
            lit = light * clip + (1 - light) * pale
        lit = lit.round().astype(np.uint8)
        for frame, ax in enumerate(line):
            ax.imshow(lit[frame], interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            for row, column in np.argwhere(shares[frame] >= 0.1):
                ax.add_patch(plt.Rectangle((column * across - 0.5, row * down - 0.5), across, down, fill=False, edgecolor=edge, linewidth=1))  # fmt: skip
                if percent:
                    ax.text((column + 0.5) * across, (row + 0.5) * down, f"{100 * shares[frame, row, column]:.0f}",
                            ha="center", va="center", fontsize=7, weight="bold",
                            bbox=dict(boxstyle="round,pad=0.1", facecolor="white", edgecolor="none", alpha=0.7))  # fmt: skip
            if asked is not None and frame == asked[0]:
                corner = asked[2] * across - 0.5, asked[1] * down - 0.5
                ax.add_patch(plt.Rectangle(corner, across, down, fill=False, edgecolor="#0072B2", linewidth=2.5))  # fmt: skip
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for frame, ax in enumerate(axes[0]):
        ax.set_title(f"{frame if numbers is None else numbers[frame]}", fontsize=9)
    most = "; ".join(f"{' '.join(name.split())}: most in frame {np.unravel_index(as_array(shares).argmax(), shares.shape)[0]}, {as_array(shares).max():.0%}" for name, (_, shares) in panels.items())  # fmt: skip
    say(
        figure,
        f"{t} frames, {'the gold lies on' if wash else 'pale grey; lit is'} what is looked at. {most}",
    )


def reach(panels, place):
    """Who sees whom: one row a scheme, one column a frame; the patch that looks in blue, what it sees in
    the colours of time and space where there are two steps, grey where there is one.

    `panels` maps a name to one boolean map (t, h, w) per step; `place` is the patch that looks,
    (frame, row, column).
    """
    t, h, w = next(iter(panels.values()))[0].shape
    most = max(len(maps) for maps in panels.values())
    grey = "#a0a0a0"
    colours = [TIME, SPACE, grey] if most > 1 else [grey]
    cell = min(1.5, 9 / t)
    figure, axes = plt.subplots(
        len(panels),
        t,
        squeeze=False,
        figsize=(cell * t + 1.6, (cell * h / w + 0.05) * len(panels) + 0.7),
    )
    for row, (name, maps) in enumerate(panels.items()):
        for frame, ax in enumerate(axes[row]):
            picture = np.ones((h, w, 3))
            for number, seen in reversed(list(enumerate(maps))):  # the first step on top
                picture[as_array(seen)[frame]] = to_rgb(colours[number])
                if number:  # for those who see no colours
                    for y, x in np.argwhere(as_array(seen)[frame]):
                        if not as_array(maps[0])[frame, y, x]:
                            ax.text(x + 0.5, y + 0.5, f"{number + 1}", ha="center", va="center", fontsize=7)  # fmt: skip
            if frame == place[0]:
                picture[place[1:]] = to_rgb(ASK)
            ax.imshow(picture, extent=(0, w, h, 0))
            ax.set(xticks=range(w + 1), yticks=range(h + 1), xticklabels=[], yticklabels=[])
            ax.grid(color="#d5d5d5", linewidth=0.6)
            ax.tick_params(length=0)
            ax.spines[:].set_color("#bbbbbb")
            if row == 0:
                ax.set_title(f"frame {frame}", fontsize=9)
        axes[row][0].set_ylabel(name, rotation=0, ha="right", va="center")
    steps = [f"{which} step" for which in ("first", "second", "third")[:most]]
    names = ["the patch that looks", *(steps if most > 1 else ["what else it sees"])]
    keys = [Patch(color=colour) for colour in (ASK, *colours[:most])]
    figure.legend(keys, names, loc="outside lower center", ncols=4, fontsize=9)


def tokens(frame, stages, grid, moving=False):
    """Tokens as colours, like colours for like tokens: a frame, then one row per entry of `stages`.

    Shapes: frame (height, width, 3) uint8; `stages` maps a name to tokens (h * w, d) after layer 0,
    1, …; `grid` is (h, w). The three strongest directions of each stage become red, green and blue,
    relative to the size of its tokens and turned to be as like the first stage's as they can be.
    With `moving` one picture that moves instead, the entries side by side, one layer after the other.
    """
    first, rows = None, {}
    for name, row in stages.items():
        rows[name] = []
        for x in map(as_array, row):
            u, size, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
            scores = u[:, :3] * size[:3] / np.linalg.norm(x) * np.sqrt(len(x))
            if first is None:
                first = scores
            turn, _, back = np.linalg.svd(scores.T @ first)  # the best rotation, size untouched
            rows[name].append(np.clip(0.5 + 0.3 * scores @ turn @ back, 0, 1).reshape(*grid, 3))
    if moving:
        strips = np.stack([np.stack(pictures) for pictures in rows.values()])
        alt = f"""The tokens of a frame as colours, layer by layer, once for each of: {", ".join(rows)}."""
        return animate((255 * strips).round().astype(np.uint8), alt, fps=1.2, width=336)
    columns = 1 + max(map(len, rows.values()))
    size = 10, (9 / columns * grid[0] / grid[1] + 0.1) * len(rows) + 0.3
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False)
    for line, (name, pictures) in zip(axes, rows.items()):
        for ax, picture in zip(line, [frame, *pictures]):
            ax.imshow(picture, interpolation="nearest")
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for column, ax in enumerate(axes[0]):
        ax.set_title(f"layer {column - 1}" if column else "the frame", fontsize=9)
    say(figure, f"A frame, and its tokens as colours after each of {columns - 1} layers; one row for each of: {', '.join(rows)}")  # fmt: skip


def matrix(values, rows, columns, title=None, xlabel=None, ylabel=None, digits=2, size=None):
    """A small matrix as a heat map with its numbers written in."""
    values = as_array(values)
    figure, axes = plt.subplots(figsize=size or (0.75 * len(columns) + 2.2, 0.5 * len(rows) + 1.6))
    axes.imshow(values, aspect="auto")
    middle = (values.min() + values.max()) / 2
    for row, column in np.ndindex(*values.shape):
        dark = values[row, column] <= middle
        axes.text(
            column,
            row,
            f"{values[row, column]:.{digits}f}",
            ha="center",
            va="center",
            color="white" if dark else "black",
        )
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    lines = "; ".join(
        f"{name}: {', '.join(f'{v:.{digits}f}' for v in row)}" for name, row in zip(rows, values)
    )
    say(
        figure,
        f"A matrix of numbers, {title or ''}. Columns: {', '.join(map(str, columns))}. {lines}",
    )


def confusion(counts, groups, title=None):
    """Who is taken for whom, ordered by `groups` (name -> members): rows are true, columns said.

    Shapes: counts (n, n) whole numbers, in the order of the groups' members. What is right, on the
    diagonal, is grey, so that the mistakes stand out; frames hold each group together.
    """
    counts = as_array(counts).astype(int)
    names = [name for members in groups.values() for name in members]
    right = np.eye(len(counts), dtype=bool)
    mistakes = np.where(right | (counts == 0), np.nan, counts)
    most = max(1, np.nanmax(mistakes, initial=0))
    figure, axes = plt.subplots(figsize=(7.6, 6.4))
    axes.imshow(mistakes, vmin=0, vmax=most, cmap="viridis_r")
    for row, column in zip(*np.nonzero(counts)):
        dark = not right[row, column] and counts[row, column] > 0.55 * most
        axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=8,
                  color="white" if dark else "#999999" if right[row, column] else "black")  # fmt: skip
    start = 0
    for name, members in groups.items():
        size = len(members)
        axes.add_patch(plt.Rectangle((start - 0.5, start - 0.5), size, size, fill=False, linewidth=1.5))  # fmt: skip
        axes.text(len(names) - 0.2, start + size / 2 - 0.5, name, va="center", fontsize=9)
        start += size
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="said by the model", ylabel="true", title=title)
    worst = sorted(zip(*np.nonzero(~np.isnan(mistakes))), key=lambda place: -mistakes[place])[:5]
    say(figure, f"Which are taken for which, {title or ''}. The most frequent: " + "; ".join(
        f"{names[row]} for {names[column]}, {counts[row, column]} times" for row, column in worst))  # fmt: skip
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def confusions(counts, classes, titles):
    """Who is taken for whom at several moments: a matrix each, side by side.

    Shapes: counts (moments, n, n) whole numbers, rows true, columns said; `titles` one per moment.
    """
    counts = as_array(counts)
    figure, panels = plt.subplots(1, len(counts), figsize=(2.7 * len(counts) + 0.8, 3.3), sharey=True, squeeze=False)  # fmt: skip
    for axes, one, title in zip(panels[0], counts, titles):
        axes.imshow(one / one.sum(1, keepdims=True), vmin=0, vmax=1, cmap="Blues")
        for row, column in zip(*np.nonzero(one)):
            axes.text(column, row, one[row, column], ha="center", va="center", fontsize=8,
                      color="white" if one[row, column] > 0.6 * one[row].sum() else "black")  # fmt: skip
        axes.set_xticks(
            range(len(classes)), classes, rotation=50, ha="right", rotation_mode="anchor"
        )
        axes.set_yticks(range(len(classes)), classes)
        axes.set(xlabel="said by the model", title=title)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    panels[0, 0].set_ylabel("true")
    right = ", ".join(f"{title} {np.trace(one) / one.sum():.0%}" for title, one in zip(titles, counts))  # fmt: skip
    say(figure, f"Who is taken for whom, at {len(counts)} moments. Right answers, on the diagonal: {right}.")  # fmt: skip


def heat(panels, xlabel=None, ylabel=None, columns=4, label=None, size=2.6, ticks=None):
    """Large matrices side by side, without numbers, on one scale: name -> (rows, columns).

    Entries that are not a number stay blank. `ticks` are what rows and columns are called, both alike.
    """
    panels = {name: as_array(values) for name, values in panels.items()}
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    shape = max((p.shape for p in panels.values()), key=lambda shape: shape[0] / shape[1])
    height = max(1.0, size * shape[0] / shape[1] + 0.4)
    figure, axes = plt.subplots(
        rows, columns, figsize=(size * columns + 0.8, height * rows), squeeze=False
    )
    low = min(np.nanmin(p) for p in panels.values())
    high = max(np.nanmax(p) for p in panels.values())
    for ax in axes.flat:
        ax.set_visible(False)
    for place, (ax, (name, values)) in enumerate(zip(axes.flat, panels.items())):
        ax.set_visible(True)
        shown = ax.imshow(values, vmin=low, vmax=high)
        # Names and ticks once, at the left and below: all panels share them.
        left, lowest = place % columns == 0, place + columns >= len(panels)
        ax.set(title=name, xlabel=xlabel if lowest else None, ylabel=ylabel if left else None)
        ax.set_yticks(*(range(len(ticks)), ticks) if ticks is not None and left else ([],))
        ax.set_xticks(*(range(len(ticks)), ticks) if ticks is not None and lowest else ([],))
        ax.tick_params(labelsize=7)
        ax.spines[:].set_visible(False)
    figure.colorbar(shown, ax=axes, shrink=0.8, label=label)
    say(figure, f"Matrices as heat maps, the brighter the larger{f' the {label}' if label else ''}: {', '.join(panels)}")  # fmt: skip
