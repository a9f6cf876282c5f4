"""Diagrams of the model, drawn by code."""

import matplotlib.pyplot as plt

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
