"""One style for every figure: colours, marks, one colour map for amounts."""

import matplotlib.pyplot as plt
import numpy as np
import torch

COLOURS = ["#0b5394", "#e69138", "#38761d", "#a61c3c", "#674ea7", "#444444"]
MARKS = ["o", "s", "^", "D", "v", "P"]  # so that lines can be told apart in greyscale
STEP_COLOURS = ["#3d85c6", "#f6b26b", "#93c47d"]  # first, second and third step of a block
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
