"""Synthetic motion clips: six classes that no single frame gives away.

One outlined object in two colours on pale paper moves left, right, up or down, or comes nearer or
goes away. Everything else (shape, colours, size, angle, place, paper) is drawn independently of the
class. A frame whose number is not known says nothing: the object's place in it, and its size, follow
the same distributions in every class, because a place that rests, or a size that stays, is that of
some moment of a journey. Who knows that a frame is the *first* can do better than chance: what will
go left starts more often on the right. From place and size alone, a forest of decision trees is right
on half of the first frames, and on one in six of any frames (`utils/tests/test_motion.py`).
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
VELOCITY = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # row, column
GROWTH = {"approach": 1, "recede": -1}
INK = (33, 33, 41)
DRAWN = 128  # pixels: nothing is drawn on less; smaller frames are shrunk from it


def _around(radius, corners=40, start=0.0, end=1.0):
    """Points on a circle, or on the part of it from `start` to `end`; `radius` may depend on the angle."""
    angle = 2 * np.pi * np.linspace(start, end, corners)
    radius = radius(angle) if callable(radius) else radius
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=-1)


def _right_half(corners):
    """The part of a polygon with x >= 0."""
    kept = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0)):
        if a[0] >= 0:
            kept.append(a)
        if a[0] * b[0] < 0:  # the edge crosses the middle
            kept.append(a + (b - a) * a[0] / (a[0] - b[0]))
    return np.array(kept)


# Each shape has radius 1: its outlines, and the outline of its right half, in another colour.
_OUTLINES = {
    "disc": _around(0.9),
    "square": np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.8,
    "triangle": np.array([[0, -0.95], [0.89, 0.6], [-0.89, 0.6]]),
    "cross": np.array([[-1, -3], [1, -3], [1, -1], [3, -1], [3, 1], [1, 1],
                       [1, 3], [-1, 3], [-1, 1], [-3, 1], [-3, -1], [-1, -1]]) * 0.317,
    "bar": np.array([[-0.95, -0.45], [0.95, -0.45], [0.95, 0.45], [-0.95, 0.45]]),
    "diamond": np.array([[0, -1], [1, 0], [0, 1], [-1, 0]]),
    "star": _around(lambda angle: 0.7 + 0.3 * np.cos(5 * angle), 60),
}  # fmt: skip
_SHAPES = {name: ([corners], _right_half(corners)) for name, corners in _OUTLINES.items()}
_HALF_RING = np.concatenate([_around(0.95, 20, 0, 0.5), _around(0.4, 20, 0.5, 0)])
_SHAPES["ring"] = ([_around(0.95), _around(0.4)], _HALF_RING)
SHAPES = tuple(_SHAPES)


def _colour(rng, hue, value):
    """A saturated colour, RGB; `hue` from 0 to 179, `value` the range of its brightness."""
    hsv = np.uint8([[[hue, rng.integers(170, 256), rng.integers(*value)]]])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].tolist()


def _paper(rng, size):
    """Pale, a little tinted, a little uneven: (size, size, 3) uint8."""
    tint = 255 * rng.uniform(0.88, 0.97) + rng.normal(0, 3, 3)
    blobs = cv2.resize(rng.normal(0, 6, (5, 5)), (size, size), interpolation=cv2.INTER_CUBIC)
    return (tint + blobs[..., None]).round().clip(0, 255).astype(np.uint8)


def make_clip(label, rng, num_frames=8, size=64, shape=None, hue=None):
    """One clip of class CLASSES[label]; `shape` (of SHAPES) and `hue` (0 to 179) are drawn if not given.

    Shapes: -> (num_frames, size, size, 3) uint8 RGB. From the first frame to the last the object
    travels 0.3 to 0.45 frame widths, or changes its size by a factor of 2 to 2.8.
    """
    name, moment = CLASSES[label], np.linspace(-0.5, 0.5, num_frames)  # 0 is the middle of the clip
    travel, zoom, radius = rng.uniform(0.3, 0.45), rng.uniform(2, 2.8), rng.uniform(0.17, 0.25)
    middle, turn = rng.uniform(0.2, 0.8, 2), rng.uniform(0, 2 * np.pi)
    # What rests is where it would be at some moment of a journey, and has the size of some moment.
    stopped = rng.choice(moment, 3)
    scale = np.full(num_frames, radius * zoom ** stopped[2])
    centre = np.tile(middle + travel * stopped[:2], (num_frames, 1))  # (num_frames, 2): row, column
    if name in GROWTH:
        scale = radius * zoom ** (GROWTH[name] * moment)
    else:
        axis = np.flatnonzero(VELOCITY[name])[0]
        centre[:, axis] = middle[axis] + travel * VELOCITY[name][axis] * moment

    outlines, half = _SHAPES[rng.choice(SHAPES) if shape is None else shape]
    first = int(rng.integers(0, 180)) if hue is None else hue
    second = first if hue is not None else (first + int(rng.integers(40, 140))) % 180
    one, other = _colour(rng, first, (200, 250)), _colour(rng, second, (150, 225))
    times = -(-DRAWN // size)  # so many times larger it is drawn
    paper, large = _paper(rng, size * times), size * times
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])

    def placed(corners, frame):
        """In sixteenths of a pixel, as OpenCV takes them."""
        points = corners @ rotation.T * scale[frame] + centre[frame, ::-1]
        return ((points * large - 0.5) * 16).round().astype(np.int32)

    clip = np.empty((num_frames, size, size, 3), np.uint8)
    for frame in range(num_frames):
        picture = paper.copy()
        edges = [placed(corners, frame) for corners in outlines]
        cv2.fillPoly(picture, edges, other, cv2.LINE_AA, 4)
        cv2.fillPoly(picture, [placed(half, frame)], one, cv2.LINE_AA, 4)
        line = max(1, round(scale[frame] * large / 9))
        cv2.polylines(picture, edges, True, INK, line, cv2.LINE_AA, 4)
        clip[frame] = picture if times == 1 else cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)  # fmt: skip
    return clip


def make_clips(n, seed, num_frames=8, size=64):
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


def write_dataset(root, train=3000, test=600, seed=0, num_frames=8, size=64):
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
    raise ValueError(f"{root}: already there, and not made with {recipe}; delete it or choose another folder")  # fmt: skip


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
            pool.shutdown(
                cancel_futures=True
            )  # after an error (a full disk, say) the rest is no use


def write_messy_folder(root):
    """Write a folder as people send them: root/left/anna_0.mp4, …; four classes, four people, six takes.

    Containers, widths, rates and lengths differ. One file is stored on its side, one broke off, one is
    empty, one has three frames only, and one is no video.
    """
    rng, kinds = np.random.default_rng(0), (".mp4", ".avi", ".mkv", ".mov")
    for label, name in enumerate(CLASSES[:4]):
        (root / name).mkdir(parents=True, exist_ok=True)
        for hue, person in enumerate(("anna", "ben", "chen", "dora")):
            for take in range(6):
                clip = make_clip(label, rng, num_frames=int(rng.integers(20, 50)), size=96, hue=45 * hue)  # fmt: skip
                side = (rng.choice([96, 120, 160]) - 96) // 2
                clip = np.pad(clip, ((0, 0), (0, 0), (side, side), (0, 0)), mode="edge")
                path = root / name / f"{person}_{take}{kinds[(take + hue) % 4]}"
                write_video(path, clip, fps=float(rng.choice([24, 30, 60])))
    _write_lying(root / "left" / "dora_6.mp4", make_clip(0, rng, 30, 96))
    whole = (root / "up" / "ben_0.avi").read_bytes()
    (root / "up" / "ben_7.avi").write_bytes(whole[: len(whole) // 50])  # the copy broke off
    (root / "down" / "anna_7.mp4").write_bytes(b"")
    write_video(root / "right" / "chen_7.mp4", make_clip(1, rng, 3, 96))
    (root / "down" / "notes.txt").write_text("ask dora to do this again")


def _write_lying(path, clip):
    """As phones do: the picture is stored on its side, and a note in the header says to turn it."""
    write_video(path, np.rot90(clip, axes=(1, 2)).copy(), fps=30)
    data = bytearray(path.read_bytes())
    matrix = (
        data.index(b"tkhd") + 44
    )  # in the track's header: version, times, numbers, then nine numbers
    quarter = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], dtype=">i4")
    data[matrix : matrix + 36] = quarter.tobytes()
    path.write_bytes(data)


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
