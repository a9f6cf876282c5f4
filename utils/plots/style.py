"""One style for every figure: colours, marks, one colour map for amounts; and how figures are shown."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython import get_ipython
from IPython.core.pylabtools import print_figure
from IPython.display import Image
from matplotlib.figure import Figure
from PIL import Image as Picture

COLOURS = ["#0b5394", "#e69138", "#38761d", "#a61c3c", "#674ea7", "#444444"]
MARKS = ["o", "s", "^", "D", "v", "P"]  # so that lines can be told apart in greyscale
# Curves are black and grey: colours are for things, such as time and space.
STROKES = [("#000000", "-"), ("#777777", "-"), ("#000000", "--"), ("#777777", "--"), ("#000000", ":"), ("#777777", ":")]  # fmt: skip
CMAP = "viridis"
plt.rcParams.update({
    "figure.dpi": 100, "figure.constrained_layout.use": True, "font.size": 11, "axes.titlesize": 11,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False, "legend.frameon": False,
    "axes.prop_cycle": plt.cycler(color=COLOURS), "image.cmap": CMAP,
})  # fmt: skip


def as_array(values):
    """A tensor, an array or a list of numbers as a numpy array."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


# One colour per thing, in every figure of the second edition: a letter or a shape says the same in grey.
ASK, TIME, SPACE, CLS, MLP, NORM, SKIP = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#8A8A8A", "#000000"  # fmt: skip


def say(figure, text, drawing=False):
    """Tell in words what a figure shows, for who cannot see it; without this it is told by its labels.

    A `drawing` is kept in 256 colours, also where there are photographs in it.
    """
    figure.alt, figure.drawing = " ".join(text.split()), drawing


def told(figure):
    """A figure in words: what `say` was given, or else its titles, axes and legends."""
    if hasattr(figure, "alt"):
        return figure.alt
    parts = [figure.get_suptitle()]
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        labels = [handle for handle in axes.get_legend_handles_labels()[1] if handle]
        names = [text.get_text() for text in axes.get_yticklabels() + axes.texts]
        parts += [axes.get_title(), ", ".join(labels)]
        parts += [f"{way}: {label}" for way, label in (("across", axes.get_xlabel()), ("up", axes.get_ylabel())) if label]  # fmt: skip
        parts.append(", ".join(name for name in names[:12] if any(map(str.isalpha, name))))
    return " ".join("; ".join(dict.fromkeys(filter(None, parts))).split())


def shown(figure):
    """What a notebook keeps of a figure: a PNG, twice as fine as it is shown, and its size and words.

    Drawings get 256 colours; large photographs, which have no more to show, are a little coarser and get
    as many.
    """
    fine = 2.0
    data = print_figure(figure, "png", dpi=200)
    if data is None:
        return None
    picture = Picture.open(io.BytesIO(data)).convert("RGB")
    if getattr(figure, "drawing", False) or picture.getcolors(6000):
        file = io.BytesIO()
        picture.quantize(256).save(file, "PNG", optimize=True)
        data = file.getvalue()
    else:
        for fine in (1.3, 1.0) if len(data) > 150_000 else ():
            data = print_figure(figure, "png", dpi=round(100 * fine))
            picture = Picture.open(io.BytesIO(data))
            if len(data) < 110_000:
                break
        if len(data) > 60_000:  # 256 colours are enough for a face
            file = io.BytesIO()
            picture.convert("RGB").quantize(256).save(file, "PNG", optimize=True)
            data = min(data, file.getvalue(), key=len)
    width, height = (round(side / fine) for side in picture.size)
    return base64.b64encode(data).decode(), dict(width=width, height=height, alt=told(figure))


def moving(pictures, milliseconds, alt, width=None, still=-1):
    """Pictures as one that moves, and loops: an animated PNG, which moves wherever a PNG is shown.

    Shapes: `pictures` a list of (height, width, 3) uint8; `milliseconds` one number, or one a picture;
    `width` in pixels as shown. Who shows PNGs without moving them shows picture number `still`.
    """
    frames = [Picture.fromarray(picture).quantize(128) for picture in pictures]
    times = [milliseconds] * len(frames) if isinstance(milliseconds, int) else milliseconds
    file = io.BytesIO()
    frames[still].save(file, "PNG", save_all=True, append_images=frames, duration=times, loop=0, default_image=True)  # fmt: skip
    return Image(file.getvalue(), format="png", width=width, alt=" ".join(alt.split()))


def _show_so():
    """Let a notebook show figures by `shown`; the inline backend, once loaded, changes this no more."""
    shell = get_ipython()
    if shell is not None and "image/png" in shell.display_formatter.formatters:
        plt.switch_backend(plt.get_backend())
        shell.display_formatter.formatters["image/png"].for_type(Figure, shown)


_show_so()
