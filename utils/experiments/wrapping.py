"""Motion clips whose objects leave on one side and come back on the other: a harder question.

The course's first edition trained on them. One two-tone object on a dark, textured, noisy ground does
what the six classes of utils/motion.py say. Where it is tells nothing here, not even together with the
number of the frame: each path starts anywhere. So a network cannot add up place and time; it has to
compare frames.
"""

import cv2
import numpy as np

from utils.motion import CLASSES, GROWTH, SHAPES, VELOCITY


def _covers(shape, x, y):
    """Which of the points (x, y) a shape of radius 1 covers."""
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    match shape:
        case "disc":
            return radius < 0.9
        case "square":
            return np.maximum(abs(x), abs(y)) < 0.8
        case "triangle":
            return (y > -0.6) & (y < 0.95 - 1.75 * abs(x))
        case "cross":
            return (np.minimum(abs(x), abs(y)) < 0.33) & (np.maximum(abs(x), abs(y)) < 0.95)
        case "ring":
            return (radius < 0.95) & (radius > 0.45)
        case "bar":
            return (abs(x) < 0.95) & (abs(y) < 0.45)
        case "diamond":
            return abs(x) + abs(y) < 1
        case "star":
            return radius < 0.7 + 0.3 * np.cos(5 * angle)


def _bright_colour(rng, hue):
    hue = rng.integers(0, 180) if hue is None else hue
    hsv = np.uint8([[[hue, rng.integers(60, 256), rng.integers(200, 256)]]])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0] / 255


def _dark_texture(rng, size):
    blobs = cv2.resize(rng.uniform(0.05, 0.35, (5, 5, 3)), (size, size), interpolation=cv2.INTER_CUBIC)  # fmt: skip
    return blobs + rng.normal(0, 0.02, (size, size, 1))


def make_wrapping_clip(label, rng, num_frames=8, size=32, shape=None, hue=None):
    """One clip of class CLASSES[label]; `shape` (of SHAPES) and `hue` (0 to 179) are drawn if not given.

    Shapes: -> (num_frames, size, size, 3) uint8 RGB. From the first frame to the last
    the object travels 0.42 to 0.77 frame widths, or changes its size by a factor of 2 to 2.8.
    """
    name = CLASSES[label]
    moment = np.linspace(-0.5, 0.5, num_frames)  # 0 is the middle of the clip
    travel, zoom, radius = rng.uniform(0.42, 0.77), rng.uniform(2, 2.8), rng.uniform(0.2, 0.29)
    # A clip that does not zoom has the size of some moment of one that does: one frame's size
    # then says nothing about its class.
    frozen, start, turn = rng.choice(moment), rng.uniform(0, 1, 2), rng.uniform(0, 2 * np.pi)
    scale = radius * zoom ** (GROWTH[name] * moment if name in GROWTH else np.full(num_frames, frozen))  # fmt: skip
    centre = start + travel * moment[:, None] * np.array(VELOCITY.get(name, (0, 0)))

    # Twice the resolution, averaged at the end, gives soft edges.
    grid = (np.arange(2 * size) + 0.5) / (2 * size)
    rows = (grid - centre[:, :1] + 0.5) % 1 - 0.5  # (frames, 2 * size), wrapped around the border
    columns = (grid - centre[:, 1:] + 0.5) % 1 - 0.5
    y, x = rows[:, :, None] / scale[:, None, None], columns[:, None, :] / scale[:, None, None]
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    covered = _covers(rng.choice(SHAPES) if shape is None else shape, x, y)
    first, second = x > 0, x <= 0
    alpha = [
        (covered & half).reshape(num_frames, size, 2, size, 2).mean((2, 4))[..., None]
        for half in (first, second)
    ]

    clip = _dark_texture(rng, size) * (1 - alpha[0] - alpha[1])
    clip = clip + alpha[0] * _bright_colour(rng, hue) + alpha[1] * _bright_colour(rng, hue)
    clip = clip + rng.normal(0, 0.04, clip.shape)
    return (clip.clip(0, 1) * 255).round().astype(np.uint8)
