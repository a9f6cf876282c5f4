"""From synthetic clips to real hands: how far does a model come that has never seen a real one?

The real clips (a pointing hand, filmed from its owner's head, four directions) are footage that does
not belong to the course; they lie in ../shared/videos/gestures, and only the results are kept here.
The synthetic clips have what makes the real ones hard: small, dark or bright arms on patterned
backgrounds, a shaking camera, changing light, uneven speed.
"""

import hashlib
import json

import cv2
import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

from utils.experiments.runs import in_parallel, one_thread
from utils.experiments.tables import machine
from utils.lips import NOTHING, SPREAD, channels
from utils.model import TimeSformer
from utils.motion import make_clip
from utils.paths import DATA, ROOT, write_text
from utils.training import evaluate, fit, predict
from utils.video import read_frames

GESTURES = ROOT.parent / "shared" / "videos" / "gestures"
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


def real_hands(num_frames=8, size=32):
    """The real clips: (56, num_frames, size, size, 3) uint8, labels (56,), scenes (56,).

    Clips with the same number from 8 on show the same scene; earlier ones are counted as scenes of
    their own.
    """
    files = sorted(GESTURES.glob("*/*.mp4"))
    numbers = [int(path.stem.rsplit("_", 1)[1]) for path in files]
    scenes = [number if number >= 8 else 100 + place for place, number in enumerate(numbers)]
    clips = np.stack([read_frames(path, num_frames, size) for path in files])
    return clips, np.array([CLASSES.index(path.parent.name) for path in files]), np.array(scenes)


# The measurement ------------------------------------------------------------------------------------

MODEL = dict(num_classes=4, image_size=32, num_frames=8, patch_size=8, dim=48, depth=2, heads=4)
RECIPE = dict(epochs=8, batch_size=32, peak_lr=2e-3, weight_decay=0.05)
TUNED = dict(epochs=20, batch_size=8, peak_lr=5e-4, weight_decay=0.05)
FOLDS, SEEDS, CLIPS = 4, range(5), 3000
RESULTS = DATA / "experiments" / "hands.json"


def shown(clips, only_grey=False):
    """What the model gets: `lips.channels` of each clip in grey, with the same mean and contrast.

    Shapes: (n, t, height, width, 3) uint8 -> the same.
    """
    grey = np.stack([[cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in clip] for clip in clips])
    grey = grey.astype(np.float32) - grey.mean((1, 2, 3), keepdims=True)
    grey = NOTHING + grey * SPREAD / np.maximum(grey.std((1, 2, 3), keepdims=True), 1)
    seen = channels(grey.round().clip(0, 255).astype(np.uint8))
    if only_grey:
        seen[..., 1:] = NOTHING
    return seen


def mirror(clips, labels, rng):
    """Mirror half of the clips: left becomes right."""
    clips, labels = clips.copy(), labels.copy()
    chosen = rng.random(len(clips)) < 0.5
    clips[chosen] = clips[chosen, :, :, ::-1]
    labels[chosen] = np.array([1, 0, 2, 3])[labels[chosen]]
    return clips, labels


def course_clips(n, seed):
    """The course's motion clips of the four directions."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % len(CLASSES))
    return np.stack([make_clip(label, rng) for label in labels]), labels


def _trained(data, seed):
    torch.manual_seed(seed)
    model = TimeSformer(**MODEL)
    fit(model, data, **RECIPE, augment=mirror, seed=seed, progress=False)
    return model


def _on_other_scenes(real, labels, scenes, seed, start=None):
    """Trained on three quarters of the scenes, tested on the rest, four times: share of right answers."""
    right = np.zeros(len(labels), bool)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(real, labels, scenes):
        torch.manual_seed(seed)
        model = TimeSformer(**MODEL)
        if start is not None:
            model.load_state_dict(start.state_dict())
        fit(model, (real[train], labels[train]), **TUNED, augment=mirror, seed=seed, progress=False)
        right[test] = predict(model, real[test]).argmax(-1).numpy() == labels[test]
    return right.mean().item()


def measure(seed):
    """One seed of every line: {line: share of the 56 real clips that are right}."""
    with one_thread():
        real, labels, scenes = real_hands()
        seen, grey = shown(real), shown(real, only_grey=True)
        motion, four = course_clips(CLIPS, (6, seed))
        hands, same = make_hands(CLIPS, (7, seed))
        model = _trained((shown(hands), same), seed)
        lines = {
            "motion clips, colours as filmed": evaluate(_trained((motion, four), seed), (real, labels)),
            "motion clips, grey and change": evaluate(_trained((shown(motion), four), seed), (seen, labels)),
            "synthetic arms, grey only": evaluate(_trained((shown(hands, True), same), seed), (grey, labels)),
            "synthetic arms, grey and change": evaluate(model, (seen, labels)),
            "the same, then fine-tuned on other scenes": _on_other_scenes(seen, labels, scenes, seed, model),
            "real clips of other scenes alone": _on_other_scenes(seen, labels, scenes, seed),
        }  # fmt: skip
        return seed, {line: round(share, 4) for line, share in lines.items()}, machine()


def hands(jobs=1):
    """Five seeds of every line: data/experiments/hands.json. Every seed is saved at once.

    SystemExit without the real clips; ValueError if the file was made with other settings.
    """
    if not GESTURES.is_dir():
        raise SystemExit(f"{GESTURES}: the real clips are not here; without them nothing can be measured")  # fmt: skip
    sample, _ = make_hands(4, 0)
    setting = dict(model=MODEL, recipe=RECIPE, fine_tuning=TUNED, folds=FOLDS, synthetic_clips=CLIPS,
                   sample=hashlib.sha256(sample.tobytes()).hexdigest()[:16])  # fmt: skip
    stored = dict(setting, machines=[], rows=[])
    if RESULTS.exists():
        stored = json.loads(RESULTS.read_text(encoding="utf-8"))
        if {name: stored[name] for name in setting} != setting:
            raise ValueError(f"{RESULTS.name}: made with other settings; move it away to measure again")  # fmt: skip
    have = {row["seed"] for row in stored["rows"]}
    missing = [(seed,) for seed in SEEDS if seed not in have]
    for seed, lines, on in in_parallel(
        measure, missing, [f"seed {seed}" for (seed,) in missing], jobs
    ):
        if on not in stored["machines"]:
            stored["machines"].append(on)
        stored["rows"].append(dict(seed=seed, machine=stored["machines"].index(on), accuracy=lines))
        stored["rows"].sort(key=lambda row: row["seed"])
        write_text(RESULTS, json.dumps(stored, indent=1) + "\n")
        print(f"seed {seed}: {lines}", flush=True)
