"""Synthetic clips of a pointing arm: left, right, up or down.

They have what makes real films of a pointing hand hard: small, dark or bright arms on patterned
backgrounds, a shaking camera, changing light, uneven speed. How far a model comes with them on real
hands, utils/experiments/hands.py measures.
"""

import cv2
import numpy as np

CLASSES = ("left", "right", "up", "down")
DIRECTION = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # row, column


def _background(rng, size):
    """A wall, a curtain, a carpet: blobs, stripes and small patterns in random colours."""
    y, x = np.mgrid[:size, :size] / size
    picture = rng.uniform(20, 200) * np.ones((size, size, 3))
    for cells in rng.choice([3, 6, 12, 24], rng.integers(1, 4), replace=False):
        blobs = rng.normal(0, rng.uniform(5, 45), (cells, cells, 3 if rng.random() < 0.5 else 1))
        blobs = cv2.resize(blobs, (size, size), interpolation=cv2.INTER_CUBIC)
        picture += blobs.reshape(size, size, -1)
    for _ in range(rng.integers(0, 4)):
        turn, waves = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)]), rng.uniform(1, 12)
        wave = np.sin(2 * np.pi * waves * (x * np.cos(turn) + y * np.sin(turn)) + rng.uniform(0, 6))
        if rng.random() < 0.5:
            wave = np.sign(wave - rng.uniform(-0.8, 0.8))
        picture += rng.uniform(5, 50) * wave[..., None] * rng.uniform(0.5, 1, 3)
    return picture


def _pace(rng, num_frames):
    """How far along the way at each frame, 0 to 1: it waits, hurries, slows down."""
    wait, rest = rng.uniform(0, 0.25, 2)
    moment = np.clip((np.linspace(0, 1, num_frames) - wait) / (1 - wait - rest), 0, 1)
    smooth = moment**2 * (3 - 2 * moment)
    share = rng.uniform(0, 1)
    return (share * smooth + (1 - share) * moment) ** rng.uniform(0.7, 1.4)


def make_hand(label, rng, num_frames=8, size=32, scale=4):
    """One synthetic clip: an arm from below whose finger goes left, right, up or down.

    Shapes: -> (num_frames, size, size, 3) uint8 RGB.
    """
    large = size * scale
    room = int(large * 1.3)
    background = _background(rng, room)
    direction = np.array(DIRECTION[CLASSES[label]])
    travel = rng.uniform(0.3, 0.75)
    middle = rng.uniform([0.3, 0.35], [0.65, 0.65])
    way = (_pace(rng, num_frames) - 0.5)[:, None] * travel * direction
    aside = np.cumsum(rng.normal(0, 0.012, (num_frames, 2)), axis=0)
    slant = (
        rng.uniform(-0.12, 0.12) * (np.linspace(-0.5, 0.5, num_frames)[:, None]) * direction[::-1]
    )
    tips = middle + way + aside + slant
    shake = np.cumsum(rng.normal(0, rng.choice([0.0, 0.006, 0.015]), (num_frames, 2)), axis=0)
    shake = (shake - shake.mean(0)).clip(-0.12, 0.12)
    finger, hand, arm = rng.uniform([0.02, 0.05, 0.05], [0.05, 0.1, 0.12]) * rng.uniform(0.7, 1.3)
    lean, follows = rng.uniform(-0.2, 0.6), rng.uniform(0.3, 1)
    colour = rng.uniform(10, 235) * rng.uniform([0.9, 0.6, 0.5], [1.1, 0.9, 0.85])
    if abs(colour.mean() - background.mean()) < 25:  # nobody could see it
        colour += rng.choice([-60, 60])
    light = 1 + np.cumsum(rng.normal(0, 0.015, num_frames))
    shade = rng.uniform(0.6, 1)
    clip = np.empty((num_frames, size, size, 3), np.uint8)
    for frame, (tip, far) in enumerate(zip(tips, shake)):
        top, left = ((0.15 + far) * large).astype(int)
        picture = background[top : top + large, left : left + large].copy()
        tip = tip - far * rng.uniform(0, 0.3)
        knuckle = tip + [0.14, 0.03 + 0.1 * lean]
        elbow = np.array([1.35, follows * (tip[1] + lean) + (1 - follows) * (middle[1] + lean)])
        points = [tuple(int(v * large * 8) for v in place[::-1]) for place in (tip, knuckle, elbow)]
        thick = [max(1, int(2 * width * large)) for width in (finger, hand, arm)]
        dark = tuple(float(v) for v in colour * shade)
        for start, end, width, paint in (
            (1, 2, thick[2], dark),
            (1, 1, thick[1], tuple(map(float, colour))),
            (0, 1, thick[0], tuple(map(float, colour))),
        ):
            cv2.line(picture, points[start], points[end], paint, width, cv2.LINE_AA, 3)
        small = cv2.resize(picture * light[frame], (size, size), interpolation=cv2.INTER_AREA)
        clip[frame] = (small + rng.normal(0, rng.uniform(0, 4), small.shape)).clip(0, 255)
    return clip


def make_hands(n, seed, num_frames=8, size=32):
    """n synthetic clips in random order: (n, num_frames, size, size, 3) uint8, labels (n,) int64."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % len(CLASSES))
    return np.stack([make_hand(label, rng, num_frames, size) for label in labels]), labels
