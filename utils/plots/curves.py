"""Numbers: curves, bars, dots, point clouds, probabilities."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, MultipleLocator

from utils.plots.style import ASK, COLOURS, MARKS, STROKES, as_array, say


def lines(x, ys, xlabel, ylabel, title=None, log=False, marks=True, size=(7, 3.2), places=None):
    """One line per entry of `ys` (name -> values, or name -> several runs, all drawn), named where it ends.

    `log=True` makes the y axis logarithmic, `log="both"` also x, with a tick at each x. `places` maps a
    name to the x at which it is written, beside a thin upright line.
    """
    figure, axes = plt.subplots(figsize=size)
    ends = []
    for (name, y), (colour, style), mark in zip(ys.items(), STROKES, MARKS):
        y = np.atleast_2d(as_array(y))
        look = dict(color=colour, linestyle=style, marker=mark if marks else None, markersize=4)
        axes.plot(as_array(x), y.T, **look)
        last = y[:, -1]
        ends.append((np.log10(last).mean() if log else last.mean(), name, look))
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, yscale="log" if log else "linear")
    if log == "both":
        axes.set_xscale("log")
        axes.set_xticks(as_array(x), [str(value) for value in x])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    elif np.issubdtype(as_array(x).dtype, np.integer):
        axes.locator_params("x", integer=True)  # there is no layer 2.5
    for name, place in (places or {}).items():
        axes.axvline(place, color="#bbbbbb", linewidth=1, zorder=0)
        axes.text(
            place, 1, f" {name}", transform=axes.get_xaxis_transform(), va="top", weight="bold"
        )
    if len(ys) > 1:
        _name_at_the_end(axes, ends, log)
    marked = "".join(f" {name} stands at {place:g}." for name, place in (places or {}).items())
    say(figure, f"Curves of {', '.join(ys)}. Across: {xlabel}. Up: {ylabel}. {title or ''}{marked}")


def _name_at_the_end(axes, ends, log):
    """Write each line's name where it ends, behind a piece of it; names that would touch are pulled apart."""
    low, high = (np.log10(limit) if log else limit for limit in axes.get_ylim())
    step = 0.18 / (axes.figure.get_figheight() - 1)  # a name takes about 0.18 inches
    places = []
    for value, _, _ in sorted(ends, key=lambda end: end[0]):
        place = (value - low) / (high - low)
        places.append(max(place, places[-1] + step) if places else place)
    over = max(0, places[-1] - 1)
    for place, (_, name, look) in zip(places, sorted(ends, key=lambda end: end[0])):
        place -= over
        axes.plot(
            [1.015, 1.035, 1.055],
            [place] * 3,
            transform=axes.transAxes,
            clip_on=False,
            markevery=[1],
            **look,
        )
        axes.text(
            1.065,
            place,
            name,
            transform=axes.transAxes,
            va="center",
            fontsize=9.5,
            color=look["color"],
        )


def bars(names, values, ylabel, title=None, size=(7, 3)):
    """One bar per name, its value written on it."""
    figure, axes = plt.subplots(figsize=size)
    drawn = axes.bar(names, as_array(values), color=COLOURS[0], width=0.6)
    labels = [f"{v:,.0f}" if abs(v) >= 100 else f"{v:.2f}" for v in as_array(values)]
    axes.bar_label(drawn, labels=labels, padding=2)
    axes.margins(y=0.12)
    axes.set(ylabel=ylabel, title=title)
    told = ", ".join(f"{name} {label}" for name, label in zip(names, labels))
    say(figure, f"Bars, {title or ''} up: {ylabel}. {told}")


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
            axes.scatter(values, row + spread, color=COLOURS[0], s=28, alpha=0.8, zorder=3)
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
    scale = (lambda value: f"{value:.0%}") if share else (lambda value: f"{value:.2f}")
    say(figure, f"{xlabel}, one dot a seed. Lowest and highest: " + "; ".join(
        f"{variant}, {task}: {scale(min(v))} to {scale(max(v))}" for (variant, task), v in table.items()))  # fmt: skip


def clouds(panels, labels, classes, columns):
    """Points in two dimensions, one panel per entry (name -> (n, 2)), one colour and mark a class."""
    labels = as_array(labels)
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.2 * columns, 3.0 * rows + 0.5), squeeze=False
    )
    for ax, (name, points) in zip(axes.flat, panels.items()):
        for k, class_name in enumerate(classes):
            chosen = as_array(points)[labels == k]
            ax.scatter(*chosen.T, s=12, alpha=0.7, color=COLOURS[k], marker=MARKS[k], linewidths=0, label=class_name)  # fmt: skip
        ax.set(title=name, xticks=[], yticks=[])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, markerscale=2)  # fmt: skip
    say(figure, f"Clouds of points, one colour and mark for each of {', '.join(classes)}; panels: {', '.join(panels)}")  # fmt: skip


def reliability(confidence, correct, bins=10, title=None):
    """Calibration: accuracy against mean confidence in bins of confidence, and the bins' sizes.

    Bins of fewer than ten clips are counted below, but have no point.
    """
    confidence, correct = as_array(confidence), as_array(correct).astype(float)
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
    axes.set(ylabel="accuracy", ylim=(0, 1.02), title=title)
    axes.legend()
    counts.bar(
        edges[:-1] + 0.5 / bins,
        np.bincount(place, minlength=bins),
        width=0.8 / bins,
        color="#b7b7b7",
    )
    counts.set(xlabel="confidence (highest probability)", ylabel="clips", xlim=(0, 1), yscale="log")
    say(figure, f"Accuracy against confidence, {title or ''} bin by bin: " + ", ".join(
        f"{confidence[place == k].mean():.2f} sure, {correct[place == k].mean():.2f} right" for k in used))  # fmt: skip


def claims(rows, columns=("the paper", "our rule says"), span=(0, 1)):
    """One page of claims: what is said to be better (blue discs) and worse (grey triangles), every seed.

    `rows` are tuples (claim, the paper's gap, values of the better one, of the worse one, verdict); a
    row with None for the values is a heading. Values are shares from 0 to 1; the axis shows `span` of them.
    The paper's column stays away where no row has a gap of it.
    """
    figure, axes = plt.subplots(figsize=(11, 0.36 * len(rows) + 0.9))
    side = axes.get_yaxis_transform()
    marks = (-0.15, ASK, "o", "said to be better"), (0.15, "#777777", "^", "the other")
    for row, (claim, paper, better, worse, verdict) in enumerate(rows):
        heading = better is None
        axes.text(-0.11, row, claim, transform=side, ha="right", va="center", fontsize=10, weight="bold" if heading else "normal")  # fmt: skip
        if heading:
            continue
        axes.text(-0.055, row, paper, transform=side, ha="center", va="center", fontsize=9)
        axes.text(1.02, row, verdict, transform=side, va="center", fontsize=9)
        for values, (up, colour, mark, _) in zip((better, worse), marks):
            axes.scatter(values, [row + up] * len(values), color=colour, marker=mark, s=24, alpha=0.75, zorder=3)  # fmt: skip
            axes.plot([np.median(values)] * 2, [row + up - 0.14, row + up + 0.14], color="black", linewidth=1.3)  # fmt: skip
        axes.axhline(row + 0.5, color="#eeeeee", linewidth=0.8, zorder=0)
    shown = columns if any(paper for _, paper, *_ in rows) else ("", columns[1])
    for x, text in zip((-0.055, 1.02), shown):
        axes.text(x, -0.75, text, transform=side, ha="center" if x < 0 else "left", fontsize=9, style="italic")  # fmt: skip
    low, high = span
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(low - 0.02 * (high - low), high + 0.03 * (high - low)), yticks=[])  # fmt: skip
    axes.xaxis.set_major_locator(MultipleLocator(0.25 if span == (0, 1) else 0.1))
    axes.xaxis.set_major_formatter(
        lambda share, _: f"{share:.0%}".replace("%", " %") if share > 0.001 else "0"
    )
    axes.spines["left"].set_visible(False)
    key = [axes.scatter([], [], color=colour, marker=mark, s=24, label=name) for _, colour, mark, name in marks]  # fmt: skip
    axes.legend(
        handles=key,
        ncols=2,
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        fontsize=9,
        handletextpad=0.2,
    )
    axes.set_xlabel("accuracy, one mark a seed; the black tick is the median")
    say(figure, "Claims, and what our seeds say: " + "; ".join(
        f"{claim}: {verdict}" for claim, _, better, _, verdict in rows if better is not None))  # fmt: skip
