"""From synthetic clips to real hands: how far does a model come that has never seen a real one?

The real clips (a pointing hand, filmed from its owner's head, four directions) are footage that does
not belong to the course; they lie in ../shared/videos/gestures, and only the results are kept here.
The synthetic clips are those of utils/experiments/arms.py.
"""

import hashlib
import json

import cv2
import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

from utils.experiments.arms import CLASSES, make_hands
from utils.experiments.runs import in_parallel, one_thread
from utils.experiments.tables import machine
from utils.lips import NOTHING, SPREAD, channels
from utils.model import TimeSformer
from utils.motion import make_clip
from utils.paths import DATA, ROOT, write_text
from utils.training import evaluate, fit, predict
from utils.video import read_frames

GESTURES = ROOT.parent / "shared" / "videos" / "gestures"


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
    return np.stack([make_clip(label, rng, size=MODEL["image_size"]) for label in labels]), labels


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
    samples = [make(4, 0)[0].tobytes() for make in (make_hands, course_clips)]
    setting = dict(model=MODEL, recipe=RECIPE, fine_tuning=TUNED, folds=FOLDS, synthetic_clips=CLIPS,
                   samples=[hashlib.sha256(sample).hexdigest()[:16] for sample in samples])  # fmt: skip
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
