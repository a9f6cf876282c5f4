"""Synthetic motion clips: six classes that no single frame gives away.

One two-tone object on a dark, textured background moves left, right, up or down, or comes
nearer or goes away. Everything else (shape, colours, size, angle, start, texture) is drawn
independently of the class, and the object's size in one frame follows the same distribution in
every class. What leaves the frame on one side comes back on the other, so positions tell nothing.
"""

import hashlib
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock

from utils.paths import write_text
from utils.video import write_video

CLASSES = ("left", "right", "up", "down", "approach", "recede")
SHAPES = ("disc", "square", "triangle", "cross", "ring", "bar", "diamond", "star")
VELOCITY = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # row, column
GROWTH = {"approach": 1, "recede": -1}


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


def make_clip(label, rng, num_frames=8, size=32, shape=None, hue=None):
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


def make_clips(n, seed, num_frames=8, size=32):
    """n clips, the six classes in turn, in random order.

    Shapes: -> clips (n, num_frames, size, size, 3) uint8 RGB, labels (n,) int64.
    The same seed gives the same clips.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % len(CLASSES))
    return np.stack([make_clip(label, rng, num_frames, size) for label in labels]), labels


def make_counter(num_frames=75, height=120, width=160):
    """A clip that shows its frame numbers, and an orange disc on its way: for trying out readers.

    Shapes: -> (num_frames, height, width, 3) uint8 RGB.
    """
    clip = np.full((num_frames, height, width, 3), (30, 40, 60), np.uint8)
    for number, frame in enumerate(clip):
        centre = (round(width * (0.12 + 0.76 * number / max(1, num_frames - 1))), height // 3)
        cv2.circle(frame, centre, height // 7, (255, 140, 0), -1, cv2.LINE_AA)
        place = (width // 3, height - height // 10)
        cv2.putText(frame, f"{number:02}", place, cv2.FONT_HERSHEY_SIMPLEX, height / 70, (255,) * 3, 2, cv2.LINE_AA)  # fmt: skip
    return clip


def write_dataset(root, train=3000, test=600, seed=0, num_frames=8, size=32):
    """Write the motion clips as .mp4 files: root/train/left/0000.mp4, … and root/test/….

    Train and test come from different seeds. Safe to repeat, also by two programs at the same
    moment: a folder that is already there and was made with the same numbers is kept, one made with
    others is a ValueError. The folder appears only when it is complete. Returns root.
    """
    root = Path(root)
    sample = hashlib.sha256(
        make_clips(len(CLASSES), seed)[0]
    ).hexdigest()  # tells old code from new
    recipe = dict(train=train, test=test, seed=seed, num_frames=num_frames, size=size, sample=sample)  # fmt: skip
    if _made_with(root, recipe):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_name(f".{root.name}.lock")):  # a second program waits for the first
        if _made_with(root, recipe):
            return root
        with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as part:
            whole = Path(part, root.name)
            for split, (name, n) in enumerate([("train", train), ("test", test)]):
                _write_clips(whole / name, *make_clips(n, (seed, split), num_frames, size))
            write_text(whole / NOTE, json.dumps(recipe))
            os.rename(whole, root)
    return root


NOTE = "made_with.json"


def _made_with(root, recipe):
    """Whether root is there, made with this recipe. ValueError when it was made with another one."""
    if not root.exists():
        return False
    note = root / NOTE
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")) == recipe:
        return True
    raise ValueError(
        f"{root}: already there, and not made with {recipe}; delete it or choose another folder"
    )


def _write_clips(folder, clips, labels):
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    paths = [folder / CLASSES[label] / f"{number:04}.mp4" for number, label in enumerate(labels)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        written = [pool.submit(write_video, *one) for one in zip(paths, clips)]
        try:
            for one in written:
                one.result()
        finally:
            pool.shutdown(cancel_futures=True)  # after an error, the rest is no use


# What each way of turning a clip does to its class: the label after it, for each label before it.
_RELABEL = {
    how: np.array([CLASSES.index(swap.get(name, name)) for name in CLASSES])
    for how, swap in {
        "mirror": {"left": "right", "right": "left"},
        "upside_down": {"up": "down", "down": "up"},
        "transpose": {"left": "up", "up": "left", "right": "down", "down": "right"},
        "reverse": {"left": "right", "right": "left", "up": "down", "down": "up",
                    "approach": "recede", "recede": "approach"},
    }.items()
}  # fmt: skip
_TURN = {
    "mirror": lambda clips: clips[:, :, :, ::-1],
    "upside_down": lambda clips: clips[:, :, ::-1],
    "transpose": lambda clips: clips.swapaxes(2, 3),
    "reverse": lambda clips: clips[:, ::-1],
}


def augment(clips, labels, rng):
    """Turn each clip at random, and its label with it: a mirrored "left" is a "right".

    Shapes: (b, t, size, size, 3) uint8 and (b,) -> the same. Each of four turns (mirror, upside
    down, transpose, reverse in time) happens to each clip with probability one half.
    """
    clips, labels = clips.copy(), labels.copy()
    for how, turn in _TURN.items():
        chosen = rng.random(len(clips)) < 0.5
        clips[chosen] = turn(clips[chosen])
        labels[chosen] = _RELABEL[how][labels[chosen]]
    return clips, labels
