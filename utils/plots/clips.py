"""Clips: contact sheets, animations, a spoken sentence, and which frames are taken."""

import cv2
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image as Picture

from utils.plots.style import ASK, COLOURS, as_array, moving, say


def frames(clips, titles=None, columns=None, numbers=None, cell=1.6, alt=None):
    """Contact sheet: one row per clip, one column per frame; clips (n, t, height, width, 3) uint8.

    A single clip (t, height, width, 3) works too. `titles` stand left of the rows, `numbers`
    above the columns (the default counts from 0); `cell` is the width of a frame in inches; `alt` says in
    words what is to be seen.
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
    of_each = ", of each of: " + "; ".join(titles) if titles else ""
    say(figure, alt or f"{t} frames side by side{of_each}")


def animate(clips, alt, fps=6, width=96, columns=6, still=-1):
    """Small clips side by side as one picture that moves; (n, t, height, width, 3) uint8.

    `alt` says in words what is to be seen; `width` is that of one clip, in pixels; who does not move pictures
    shows frame number `still`.
    """
    scale = max(1, round(width / clips.shape[3]))
    large = np.asarray(clips).repeat(scale, axis=2).repeat(scale, axis=3)
    large = np.pad(large, ((0, 0), (0, 0), (3, 3), (3, 3), (0, 0)), constant_values=255)
    rows = [
        np.concatenate(list(large[start : start + columns]), axis=2)
        for start in range(0, len(large), columns)
    ]
    return moving(list(np.concatenate(rows, axis=1)), round(1000 / fps), alt, still=still)


def cut(frame, size, patch):
    """What is cut out of a frame, and into which patches: frame (height, width, 3), `size` and `patch` in pixels."""
    top, left = ((whole - part) // 2 for whole, part in zip(frame.shape, size))
    figure, (whole, part) = plt.subplots(1, 2, figsize=(8, 2.6))
    whole.imshow(frame, interpolation="bicubic")
    whole.add_patch(plt.Rectangle((left - 0.5, top - 0.5), size[1], size[0], fill=False, edgecolor=ASK, linewidth=2.5))  # fmt: skip
    whole.set_title(f"a frame, {frame.shape[1]} × {frame.shape[0]} pixels")
    part.imshow(frame[top : top + size[0], left : left + size[1]], interpolation="bicubic")
    part.set_title(
        f"{size[1]} × {size[0]} pixels in {size[0] // patch} × {size[1] // patch} patches"
    )
    for place in range(patch, size[1], patch):
        part.axvline(place - 0.5, color="white", linewidth=2)
    for place in range(patch, size[0], patch):
        part.axhline(place - 0.5, color="white", linewidth=2)
    for axes in (whole, part):
        axes.axis("off")
    say(
        figure,
        f"{whole.get_title()}, with a frame round its middle; beside it that middle, {part.get_title()}",
    )


def spoken(frames, words, answers=None):
    """A sentence as it is spoken: each word's middle frame, above the time that the word takes.

    `frames` (t, height, width, 3) uint8; `words` a list of `lips.Word`. `answers`, for each word a list
    of (word, probability), the best first, stand below: green where the first is right, else red.
    """
    lines = 0 if answers is None else max(map(len, answers))
    figure = plt.figure(figsize=(10, 2.6 + 0.25 * lines))
    grid = figure.add_gridspec(2, len(words), height_ratios=(1.6, 0.7 + 0.3 * lines))
    for column, word in enumerate(words):
        picture = figure.add_subplot(grid[0, column])
        middle = min(int((word.first + word.end) / 2), len(frames) - 1)
        picture.imshow(frames[middle], interpolation="bicubic")
        picture.set_title(f"frame {middle}", fontsize=9)
        picture.axis("off")
    time = figure.add_subplot(grid[1, :])
    for number, word in enumerate(words):
        time.barh(0, word.end - word.first, left=word.first, height=0.9, color=COLOURS[number % 6], alpha=0.35, edgecolor="white")  # fmt: skip
        middle = (word.first + word.end) / 2
        time.text(middle, 0, word.word, ha="center", va="center", fontsize=11)
        for line, (answer, share) in enumerate(answers[number] if lines else []):
            first, right = line == 0, answer == word.word
            mark = ("✓ " if right else "✗ ") if first else ""
            time.text(middle, 0.75 + 0.62 * line, f"{mark}{answer} {share:.0%}", ha="center", va="top",
                      fontsize=9.5 if first else 8, weight="bold" if first else "normal",
                      color=("#1b6e3c" if right else "#a61c3c") if first else "#666666")  # fmt: skip
    pause = 2
    time.set(xlim=(words[0].first - pause, words[-1].end + pause), ylim=(0.6 + 0.72 * lines, -0.6))
    time.set(yticks=[0, 0.95] if lines else [], xlabel="frame (25 a second)")
    if lines:
        time.set_yticklabels(["said", "read"])
        time.tick_params(axis="y", length=0)
    time.spines["left"].set_visible(False)
    best = ", ".join(f"{answer[0][0]} {answer[0][1]:.0%}" for answer in answers or [])
    say(
        figure,
        f"A mouth says: {' '.join(word.word for word in words)}. "
        + (f"Read: {best}." if best else ""),
    )


def subtitles(frames, words, answers, width=240, every=3):
    """A sentence as it is spoken, as one picture that moves: each word is written when it is over.

    `frames` (t, height, width, 3) uint8; `words` a list of `lips.Word`, `answers` what was read, one
    string each, blue where it is right and grey where it is not. Every `every`-th frame is shown.
    """
    scale, slot = width / frames.shape[2], width // len(words)
    pictures = []
    last = min(len(frames) - 1, round(words[-1].end) + 4)
    for number in range(max(0, int(words[0].first) - 4), last + 1, every):
        face = cv2.resize(frames[number], None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        line = np.full((34, face.shape[1], 3), 255, np.uint8)
        for place, (word, answer) in enumerate(zip(words, answers)):
            left = place * slot
            cv2.rectangle(line, (left + 2, 3), (left + slot - 3, 30), (200, 200, 200), 1)
            if number >= min(word.end, last):
                colour = (0, 114, 178) if answer == word.word else (140, 140, 140)
                (long, _), _ = cv2.getTextSize(answer, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)
                cv2.putText(line, answer, (left + (slot - long) // 2, 21), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)  # fmt: skip
        pictures.append(np.concatenate([face, line]))
    times = [40 * every] * (len(pictures) - 1) + [2500]
    alt = f"A mouth speaks, without sound. Six slots below it fill, word by word: {' '.join(answers)}."
    return moving(pictures, times, alt, width=width)


def timeline(total, choices, words=()):
    """Which frames each way of sampling takes: `choices` maps a name to frame indices.

    `words` (of `lips.words`) are drawn above, each from its first frame to its end. Names that differ only
    behind a comma ("random, seed 1") are one way, in one colour. A frame stands at its middle.
    """
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(choices) + (1.4 if words else 0.9)))
    for word in words:
        axes.barh(-1, word.end - word.first, left=word.first, height=0.6, color="#eeeeee", edgecolor="#333333")  # fmt: skip
        axes.text((word.first + word.end) / 2, -1, word.word, ha="center", va="center", fontsize=9)
        axes.axvspan(word.first, word.end, color="#f4f4f4", zorder=-2)
        axes.vlines((word.first, word.end), -1, len(choices) - 0.5, color="#bbbbbb", linewidth=0.8, zorder=-1)  # fmt: skip
    ways = list(dict.fromkeys(name.split(",")[0] for name in choices))
    for row, (name, indices) in enumerate(choices.items()):
        axes.hlines(row, 0, total, color="#cccccc", linewidth=6, zorder=0)
        axes.scatter(
            np.asarray(indices) + 0.5,
            [row] * len(indices),
            color=COLOURS[ways.index(name.split(",")[0]) % 6],
            marker="|",
            s=250,
            linewidth=3,
        )
    axes.set_yticks(range(len(choices)), choices)
    axes.set(xlabel="frame", ylim=(len(choices) - 0.5, -1.5 if words else -0.5))
    axes.spines["left"].set_visible(False)
    spoken = "".join(f"{word.word} is said from frame {word.first:.0f} to {word.end:.0f}; " for word in words)  # fmt: skip
    say(figure, f"{spoken}of {total} frames: " + "; ".join(f"{name} takes {', '.join(map(str, taken))}" for name, taken in choices.items()))  # fmt: skip


def overview(path, clips, maps, values, classes):
    """The README's picture, a GIF: six clips, where the model looked, and what it said.

    Shapes: clips (n, t, height, width, 3) uint8, maps (n, t, h, w), values (n, num_classes).
    """
    clips, maps, values = (as_array(array) for array in (clips, maps, values))
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
            light = (
                maps[column, frame] / maps[column].max()
            ) ** 0.5  # a spotlight: the rest lies in the dark
            light = np.kron(light, np.ones([side // part for side, part in zip(clips.shape[2:4], light.shape)]))  # fmt: skip
            lit = clips[column, frame] * (0.2 + 0.8 * light[..., None])
            axes[1, column].imshow(lit.round().astype(np.uint8), extent=(0, 1, 1, 0))
        figure.canvas.draw()
        picture = Picture.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
        pictures.append(picture.quantize(128))
    pictures[0].save(path, "GIF", save_all=True, append_images=pictures[1:], duration=200, loop=0)
    plt.close(figure)
