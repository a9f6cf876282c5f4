"""Every figure of the course: one style, one colour map for amounts, one colour per class.

Each function draws one figure; in a notebook it appears below the cell.
"""

import base64
import io
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import HTML, Image
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator
from PIL import Image as Picture

from utils.video import write_video

COLOURS = ["#0b5394", "#e69138", "#38761d", "#a61c3c", "#674ea7", "#444444"]
MARKS = ["o", "s", "^", "D", "v", "P"]  # so that lines can be told apart in greyscale
STEP_COLOURS = ["#3d85c6", "#f6b26b", "#93c47d"]  # first, second and third step of a block
CMAP = "viridis"
plt.rcParams.update({
    "figure.dpi": 100, "figure.constrained_layout.use": True, "font.size": 11, "axes.titlesize": 11,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False, "legend.frameon": False,
    "axes.prop_cycle": plt.cycler(color=COLOURS), "image.cmap": CMAP,
})  # fmt: skip


def _array(values):
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


# The map of the model -------------------------------------------------------------------------

_BOXES = {  # part: (text, left, bottom, width, height)
    "frames": ("video file\n→ frames", 0.0, 0.5, 1.5, 1.0),
    "tokens": ("patches +\npositions\n→ tokens", 1.8, 0.5, 1.5, 1.0),
    "block": ("", 3.6, 0.0, 8.1, 2.0),
    "prenorm": ("PreNorm", 3.8, 0.25, 0.42, 1.2),
    "attention": ("attention\nover time", 4.32, 0.35, 1.6, 1.0),
    "prenorm2": ("PreNorm", 6.3, 0.25, 0.42, 1.2),
    "attention2": ("attention\nover space", 6.82, 0.35, 1.6, 1.0),
    "prenorm3": ("PreNorm", 8.8, 0.25, 0.42, 1.2),
    "feedforward": ("FeedForward", 9.32, 0.35, 2.15, 1.0),
    "geglu": ("GEGLU", 9.72, 0.41, 1.35, 0.4),
    "head": ("class token\n→ head", 12.0, 0.5, 1.5, 1.0),
    "predictions": ("softmax →\npredictions", 13.8, 0.5, 1.5, 1.0),
}
_TWINS = {"prenorm": {"prenorm2", "prenorm3"}, "attention": {"attention2"}}
_ARROWS = ((1.5, 1.8, 1.0), (3.3, 3.6, 1.0), (5.92, 6.3, 0.85), (8.42, 8.8, 0.85), (11.7, 12.0, 1.0), (13.5, 13.8, 1.0))  # fmt: skip


def model_map(*lit):
    """The map of the model that opens every lesson, with the parts named in `lit` coloured.

    Parts: frames, tokens, block, prenorm, attention, feedforward, geglu, head, predictions.
    """
    if unknown := set(lit) - _BOXES.keys():
        raise ValueError(f"unknown parts {sorted(unknown)}; there are {', '.join(_BOXES)}")
    lit = set(lit).union(*(_TWINS.get(part, ()) for part in lit))
    figure, axes = plt.subplots(figsize=(10, 1.65))
    for part, (text, left, bottom, width, height) in _BOXES.items():
        on = part in lit
        colour = ("#fff2e0" if part == "block" else "#f6b26b") if on else "white"
        box = plt.Rectangle((left, bottom), width, height, linewidth=1.2, edgecolor="#333333", facecolor=colour)  # fmt: skip
        axes.add_patch(box)
        middle = 1.08 if part == "feedforward" else bottom + height / 2
        axes.text(left + width / 2, middle, text, ha="center", va="center", fontsize=9,
                  weight="bold" if on else "normal", rotation=90 if text == "PreNorm" else 0)  # fmt: skip
    axes.text(7.65, 1.72, "block × depth, each part with a skip connection", ha="center",
              va="center", fontsize=9, weight="bold" if "block" in lit else "normal")  # fmt: skip
    for start, end, height in _ARROWS:
        arrow = dict(arrowstyle="->", color="#333333")
        axes.annotate("", (end, height), (start, height), arrowprops=arrow)
    axes.set(xlim=(-0.1, 15.4), ylim=(-0.1, 2.1))
    axes.axis("off")


# Videos ---------------------------------------------------------------------------------------


def frames(clips, titles=None, columns=None, numbers=None, cell=1.6):
    """Contact sheet: one row per clip, one column per frame; clips (n, t, height, width, 3) uint8.

    A single clip (t, height, width, 3) works too. `titles` stand left of the rows, `numbers`
    above the columns (the default counts from 0); `cell` is the width of a frame in inches.
    """
    clips = [clips] if np.ndim(clips[0]) == 3 else list(clips)
    t = columns or max(len(clip) for clip in clips)
    height, width = clips[0].shape[1:3]
    cell = min(cell, 10 / t, 1.0 if len(clips) > 2 else 10)
    figure, axes = plt.subplots(
        len(clips),
        t,
        squeeze=False,
        figsize=(cell * t + 0.9, cell * len(clips) * height / width + 0.4),
    )
    for row, clip in enumerate(clips):
        for column, ax in enumerate(axes[row]):
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if column < len(clip):
                ax.imshow(clip[column], interpolation="nearest" if width < 100 else None)
            if row == 0:
                ax.set_title(f"{column if numbers is None else numbers[column]}", fontsize=9)
        if titles is not None:
            axes[row][0].set_ylabel(titles[row], rotation=0, ha="right", va="center")


def play(clip, fps=8, width=320):
    """A player for one clip, (t, height, width, 3) uint8, embedded as VP9 (browsers play it)."""
    scale = max(1, round(64 / clip.shape[2]))  # small clips blur in the codec; enlarge them first
    large = np.asarray(clip).repeat(scale, axis=1).repeat(scale, axis=2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        write_video(path, large, fps, codec="vp09")
        data = base64.b64encode(path.read_bytes()).decode()
    return HTML(
        f'<video controls autoplay loop muted width="{width}" src="data:video/mp4;base64,{data}"></video>'
    )


def animate(clips, fps=6, width=96, columns=6):
    """Small clips side by side as one GIF, which also moves on GitHub; (n, t, height, width, 3) uint8."""
    scale = max(1, round(width / clips.shape[3]))
    large = np.asarray(clips).repeat(scale, axis=2).repeat(scale, axis=3)
    large = np.pad(large, ((0, 0), (0, 0), (3, 3), (3, 3), (0, 0)), constant_values=255)
    rows = [
        np.concatenate(list(large[start : start + columns]), axis=2)
        for start in range(0, len(large), columns)
    ]
    pictures = [Picture.fromarray(picture).quantize(64) for picture in np.concatenate(rows, axis=1)]
    file = io.BytesIO()
    pictures[0].save(
        file, "GIF", save_all=True, append_images=pictures[1:], duration=1000 / fps, loop=0
    )
    return Image(file.getvalue(), format="gif")


def overlay(clip, maps, title=None, numbers=None):
    """Where a map is high, on the frames: clip (t, height, width, 3) uint8, maps (t, h, w).

    Upper row: the frames. Lower row: the frames, lit by the map (one scale for the whole clip).
    """
    maps = _array(maps)
    t = len(clip)
    figure, axes = plt.subplots(
        2, t, figsize=(min(1.6, 10 / t) * t + 1.1, 2 * min(1.6, 10 / t) + 0.7), squeeze=False
    )
    for column in range(t):
        for ax in axes[:, column]:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            ax.imshow(clip[column].mean(-1), cmap="gray", vmin=0, vmax=255, extent=(0, 1, 1, 0))
        axes[0, column].imshow(clip[column], extent=(0, 1, 1, 0))
        axes[0, column].set_title(f"{column if numbers is None else numbers[column]}", fontsize=9)
        shown = axes[1, column].imshow(
            maps[column], vmin=0, vmax=maps.max(), alpha=0.65, extent=(0, 1, 1, 0)
        )
    figure.colorbar(shown, ax=axes, shrink=0.6, label="share")
    if title:
        figure.suptitle(title)


def reach(panels, place):
    """Who sees whom: one row a scheme, one column a frame, one colour a step.

    `panels` maps a name to one boolean map (t, h, w) per step; `place` is the patch that looks,
    (frame, row, column).
    """
    t, h, w = next(iter(panels.values()))[0].shape
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
                picture[_array(seen)[frame]] = to_rgb(STEP_COLOURS[number])
                if number:  # for those who see no colours
                    for y, x in np.argwhere(_array(seen)[frame]):
                        if not _array(maps[0])[frame, y, x]:
                            ax.text(x + 0.5, y + 0.5, f"{number + 1}", ha="center", va="center", fontsize=7)  # fmt: skip
            if frame == place[0]:
                picture[place[1:]] = to_rgb("#7b0d1e")
            ax.imshow(picture, extent=(0, w, h, 0))
            ax.set(xticks=range(w + 1), yticks=range(h + 1), xticklabels=[], yticklabels=[])
            ax.grid(color="#bbbbbb", linewidth=0.6)
            ax.tick_params(length=0)
            ax.spines[:].set_color("#bbbbbb")
            if row == 0:
                ax.set_title(f"frame {frame}", fontsize=9)
        axes[row][0].set_ylabel(name, rotation=0, ha="right", va="center")
    most = max(len(maps) for maps in panels.values())
    names = ["the patch that looks"] + [f"{which} step" for which in ("first", "second", "third")[:most]]  # fmt: skip
    keys = [Patch(color=colour) for colour in ("#7b0d1e", *STEP_COLOURS[:most])]
    figure.legend(keys, names, loc="outside lower center", ncols=4, fontsize=9)


def tokens(frame, stages, grid):
    """Tokens as colours, like colours for like tokens: a frame, then one row per entry of `stages`.

    Shapes: frame (height, width, 3) uint8; `stages` maps a name to tokens (h * w, d) after layer 0,
    1, …; `grid` is (h, w). The three strongest directions of each stage become red, green and blue,
    relative to the size of its tokens and turned to be as like the first stage's as they can be.
    """
    first, rows = None, {}
    for name, row in stages.items():
        rows[name] = []
        for x in map(_array, row):
            u, size, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
            scores = u[:, :3] * size[:3] / np.linalg.norm(x) * np.sqrt(len(x))
            if first is None:
                first = scores
            turn, _, back = np.linalg.svd(scores.T @ first)  # the best rotation, size untouched
            rows[name].append(np.clip(0.5 + 0.3 * scores @ turn @ back, 0, 1).reshape(*grid, 3))
    columns = 1 + max(map(len, rows.values()))
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(10, 1.45 * len(rows) + 0.2), squeeze=False
    )
    for line, (name, pictures) in zip(axes, rows.items()):
        for ax, picture in zip(line, [frame, *pictures]):
            ax.imshow(picture, interpolation="nearest")
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for column, ax in enumerate(axes[0]):
        ax.set_title(f"layer {column - 1}" if column else "the frame", fontsize=9)


def timeline(total, choices):
    """Which frames each way of sampling takes: `choices` maps a name to frame indices."""
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(choices) + 0.9))
    for row, indices in enumerate(choices.values()):
        axes.hlines(row, 0, total - 1, color="#cccccc", linewidth=6, zorder=0)
        axes.scatter(
            indices, [row] * len(indices), color=COLOURS[row % 6], marker="|", s=250, linewidth=3
        )
    axes.set_yticks(range(len(choices)), choices)
    axes.set(xlabel="frame", ylim=(len(choices) - 0.5, -0.5))
    axes.spines["left"].set_visible(False)


# Numbers --------------------------------------------------------------------------------------


def lines(x, ys, xlabel, ylabel, title=None, log=False, marks=True, size=(7, 3.2)):
    """One line per entry of `ys` (name -> values, or name -> several runs, all drawn).

    `log=True` makes the y axis logarithmic, `log="both"` also x, with a tick at each x.
    """
    figure, axes = plt.subplots(figsize=size)
    for (name, y), colour, mark in zip(ys.items(), COLOURS, MARKS):
        y = np.atleast_2d(_array(y))
        for run, values in enumerate(y):
            axes.plot(_array(x), values, color=colour, marker=mark if marks else None, markersize=4,
                      alpha=1 if len(y) == 1 else 0.75, label=name if run == 0 else None)  # fmt: skip
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, yscale="log" if log else "linear")
    if log == "both":
        axes.set_xscale("log")
        axes.set_xticks(_array(x), [str(value) for value in x])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    if len(ys) > 4:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    elif len(ys) > 1:
        axes.legend()


def bars(names, values, ylabel, title=None, size=(7, 3)):
    """One bar per name, its value written on it."""
    figure, axes = plt.subplots(figsize=size)
    drawn = axes.bar(names, _array(values), color=COLOURS[0], width=0.6)
    labels = [f"{v:,.0f}" if abs(v) >= 100 else f"{v:.2f}" for v in _array(values)]
    axes.bar_label(drawn, labels=labels, padding=2)
    axes.margins(y=0.12)
    axes.set(ylabel=ylabel, title=title)


def seeds(table, xlabel="accuracy on 1,000 new clips", chance=None, note=None):
    """Every seed of every line of a table as a dot, its median as a tick; one panel a task.

    `table` maps (variant, task) to one number per seed; `note`, from (variant, task) to a text that
    is written at the right of the line, such as the paper's figure.
    """
    tasks = list(dict.fromkeys(task for _, task in table))
    variants = list(dict.fromkeys(variant for variant, _ in table))
    figure, panels = plt.subplots(
        1, len(tasks), figsize=(9.5, 0.42 * len(variants) + 1.1), sharey=True, squeeze=False
    )
    share = xlabel.startswith("accuracy")
    for axes, task in zip(panels[0], tasks):
        for row, variant in enumerate(variants):
            values = table.get((variant, task))
            if values is None:
                continue
            spread = np.linspace(-0.22, 0.22, len(values))
            axes.plot(
                [np.median(values)] * 2, [row - 0.38, row + 0.38], color="black", linewidth=1.5
            )
            axes.scatter(values, row + spread, color=COLOURS[row % 6], s=28, alpha=0.8, zorder=3)
            if note:
                axes.text(1.02, row, note.get((variant, task), ""), va="center", fontsize=9,
                          transform=axes.get_yaxis_transform())  # fmt: skip
        if chance is not None:
            axes.axvline(chance, color="#999999", linestyle="--", linewidth=1, zorder=0)
            axes.text(chance + 0.01, -0.6, "chance", fontsize=8, color="#666666")
        axes.set(title=task, xlabel=xlabel)
        if share:
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
            axes.set_xlim(0, 1.03)
        axes.set_yticks(range(len(variants)), variants)
        axes.set_ylim(len(variants) - 0.5, -0.75)
        axes.grid(axis="x", color="#eeeeee")
        axes.set_axisbelow(True)


def clouds(panels, labels, classes, columns):
    """Points in two dimensions, one panel per entry (name -> (n, 2)), one colour and mark a class."""
    labels = _array(labels)
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.2 * columns, 3.0 * rows + 0.5), squeeze=False
    )
    for ax, (name, points) in zip(axes.flat, panels.items()):
        for k, class_name in enumerate(classes):
            chosen = _array(points)[labels == k]
            ax.scatter(*chosen.T, s=12, alpha=0.7, color=COLOURS[k], marker=MARKS[k], linewidths=0, label=class_name)  # fmt: skip
        ax.set(title=name, xticks=[], yticks=[])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, markerscale=2)  # fmt: skip


def matrix(values, rows, columns, title=None, xlabel=None, ylabel=None, digits=2, size=None):
    """A small matrix as a heat map with its numbers written in."""
    values = _array(values)
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


def heat(panels, xlabel=None, ylabel=None, columns=4, label=None, size=2.6, count=False):
    """Large matrices side by side, without numbers, on one scale: name -> (rows, columns).

    Entries that are not a number stay blank. With `count`, rows and columns are numbered from 0.
    """
    panels = {name: _array(values) for name, values in panels.items()}
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
    for ax, (name, values) in zip(axes.flat, panels.items()):
        ax.set_visible(True)
        shown = ax.imshow(values, vmin=low, vmax=high)
        down, across = (range(n) for n in values.shape) if count else ([], [])
        ax.set(title=name, xlabel=xlabel, ylabel=ylabel, xticks=across, yticks=down)
        ax.spines[:].set_visible(False)
    figure.colorbar(shown, ax=axes, shrink=0.8, label=label)


def probabilities(clips, values, classes, truth=None):
    """The middle frame of each clip over its class probabilities; values (n, num_classes)."""
    values = _array(values)
    figure, axes = plt.subplots(2, len(clips), figsize=(1.75 * len(clips) + 0.8, 3.6), squeeze=False, sharey="row",
                                gridspec_kw=dict(height_ratios=(1, 1)))  # fmt: skip
    for column, (clip, row) in enumerate(zip(clips, values)):
        picture, chart = axes[0, column], axes[1, column]
        picture.imshow(clip[len(clip) // 2])
        picture.axis("off")
        if truth is not None:
            picture.set_title(classes[truth[column]])
        chart.barh(
            range(len(classes)),
            row,
            color=[COLOURS[0] if p == row.max() else "#b7b7b7" for p in row],
        )
        chart.set_yticks(range(len(classes)), classes)
        chart.set(xlim=(0, 1), xticks=[0, 1], xlabel="probability")
        chart.invert_yaxis() if column == 0 else None


def reliability(confidence, correct, bins=10):
    """Calibration: accuracy against mean confidence in bins of confidence, and the bins' sizes.

    Bins of fewer than ten clips are counted below, but have no point.
    """
    confidence, correct = _array(confidence), _array(correct).astype(float)
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.digitize(confidence, edges) - 1, 0, bins - 1)
    figure, (axes, counts) = plt.subplots(
        2, 1, figsize=(4.5, 4.2), sharex=True, gridspec_kw=dict(height_ratios=(3, 1))
    )
    used = [k for k in range(bins) if (place == k).sum() >= 10]  # fewer say nothing
    axes.plot([0, 1], [0, 1], color="#999999", linestyle="--", label="perfect")
    axes.plot(
        [confidence[place == k].mean() for k in used],
        [correct[place == k].mean() for k in used],
        "o-",
        label="model",
    )
    axes.set(ylabel="accuracy", ylim=(0, 1.02))
    axes.legend()
    counts.bar(
        edges[:-1] + 0.5 / bins,
        np.bincount(place, minlength=bins),
        width=0.8 / bins,
        color="#b7b7b7",
    )
    counts.set(xlabel="confidence (highest probability)", ylabel="clips", xlim=(0, 1), yscale="log")


def overview(path, clips, maps, values, classes):
    """The README's picture, a GIF: six clips, where the model looked, and what it said.

    Shapes: clips (n, t, height, width, 3) uint8, maps (n, t, h, w), values (n, num_classes).
    """
    clips, maps, values = (_array(array) for array in (clips, maps, values))
    figure, axes = plt.subplots(3, len(clips), figsize=(8, 4.3), sharey="row")
    for ax in axes[:2].flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for column, row in enumerate(values):
        chart = axes[2, column]
        chart.barh(range(len(classes)), row, color=COLOURS[0])
        chart.set_yticks(range(len(classes)), classes)
        chart.set(xlim=(0, 1), xticks=[0, 1])
    axes[2, 0].invert_yaxis()
    for row, text in enumerate(("8 frames\nof a file", "where the\nmodel looks", "what it\nsays")):
        axes[row, 0].set_ylabel(
            text, rotation=0, ha="right", va="center", labelpad=38 if row < 2 else 4
        )
    pictures = []
    for frame in range(clips.shape[1]):
        for column in range(len(clips)):
            for ax in axes[:2, column]:
                for old in list(ax.images):
                    old.remove()
            axes[0, column].imshow(clips[column, frame], extent=(0, 1, 1, 0))
            axes[1, column].imshow(clips[column, frame].mean(-1), cmap="gray", extent=(0, 1, 1, 0))
            axes[1, column].imshow(
                maps[column, frame],
                alpha=0.65,
                vmin=0,
                vmax=maps[column].max(),
                extent=(0, 1, 1, 0),
            )
        figure.canvas.draw()
        picture = Picture.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
        pictures.append(picture.quantize(128))
    pictures[0].save(path, "GIF", save_all=True, append_images=pictures[1:], duration=200, loop=0)
    plt.close(figure)
