"""What the experiments measure: each grid is a list of `Run`s, and each run is trained with five seeds.

Three questions are asked about the same clips. "motion": which way does the object go (no single
frame tells)? "hue": what colour is it, and "shape": what shape has it (every frame tells)? A fourth,
"flash", has clips of its own: two colours flash far apart in time; which was first? The fifth,
"wrapped", is the first one on harder clips, where the place of the object tells nothing (wrapping.py).
The sixth, "lips", is real video: which of 51 words does the mouth in data/lips say? The networks that
are compared with each other have five seeds there, the other lines three.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import permutations

import cv2
import numpy as np

from utils.experiments import variants
from utils.experiments.spoken import DATA, fingerprint, spoken
from utils.experiments.variants import (
    convolutions_3d,
    frame_differences,
    lips_convolutions_3d,
    lips_frame_differences,
    transformer,
)
from utils.experiments.wrapping import make_wrapping_clip
from utils.motion import CLASSES, augment, make_clip
from utils.recipe import LIPS_MODEL

SIZES = dict(num_classes=6, image_size=32, num_frames=8, patch_size=8, dim=48, depth=2, heads=4,
             scheme="divided", activation="geglu", mult=4)  # fmt: skip
# So short that the motion clips are half learned: where all are right, nobody can be better.
BUDGET = dict(epochs=1, batch_size=16, peak_lr=2.5e-3, weight_decay=0.05, warm_up=0.05)
LONG = dict(epochs=3)  # where it matters what is never learned, or is learned slowly
SLOW = ("shape", "flash", "wrapped")  # questions that always get the long budget
CLIPS = dict(train=3200, test=1000)  # an epoch is 200 steps
LIPS_BUDGET = dict(epochs=8, batch_size=32, peak_lr=1.5e-3, weight_decay=0.05)  # with AdamW
SEEDS = range(5)
HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")  # 30 steps of OpenCV's circle apart
SHAPES = ("disc", "square", "triangle", "cross", "ring", "star")
FLASHES = ("red", "green", "blue")  # its six classes are the ordered pairs of these
TASKS = {"motion": CLASSES, "hue": HUES, "shape": SHAPES}


@dataclass(frozen=True)
class Run:
    """One line of a table: a network, a question and a budget. `variant` and `task` name it."""

    variant: str
    task: str = "motion"
    build: Callable = transformer  # called with the sizes
    change: Callable | None = (
        None  # from utils.experiments.variants: what is done to the fresh model
    )
    sizes: dict = field(
        default_factory=dict
    )  # what differs from SIZES, or for lips from LIPS_MODEL
    # what differs from BUDGET, or from LIPS_BUDGET; "muon": `utils.muon.Muon` in AdamW's place
    budget: dict = field(default_factory=dict)
    data: dict = field(default_factory=dict)  # what differs from spoken.DATA; for lips only
    features: bool = False  # also measure how well the classes lie apart in feature space
    few: bool = False  # three seeds are enough

    @property
    def seeds(self):
        return range(3) if self.few else SEEDS

    def all_sizes(self):
        """What the network is built with."""
        return (LIPS_MODEL if self.task == "lips" else SIZES) | self.sizes

    def all_budget(self):
        """What `fit` is called with, beside clips, augmentation and seed."""
        if self.task == "lips":
            return LIPS_BUDGET | self.budget
        return BUDGET | (LONG if self.task in SLOW else {}) | self.budget

    def clips(self, split):
        """((clips, labels), augment): what `fit` trains on ("train"), or what is measured ("test")."""
        sizes = self.all_sizes()
        if self.task == "lips":  # the test sentences are for the final weights
            split = "validation" if split == "test" else split
            return spoken(split, sizes["num_frames"], sizes["image_size"], **self.data)
        return task_clips(self.task, split, sizes["num_frames"], sizes["image_size"]), AUGMENT[
            self.task
        ]

    def setting(self):
        """What decides the result, except the seed and the code of networks and `fit`; plain JSON."""
        sizes, clips = self.all_sizes(), dict(CLIPS)
        if self.task == "lips":
            clips, augmentation = dict(DATA | self.data, sample=fingerprint()), "vary, mix"
        else:
            clips["sample"] = _sample(self.task, CLIPS["train"], sizes["num_frames"], sizes["image_size"])  # fmt: skip
            augmentation = AUGMENT[self.task] and AUGMENT[self.task].__name__
        setting = dict(
            build=self.build.__name__,
            change=self.change and self.change.__name__,
            sizes=sizes,
            budget=self.all_budget(),
            clips=clips,
            augment=augmentation,
            features=self.features,
        )
        return json.loads(json.dumps(setting))  # as it comes back from a file: lists, no tuples


MAKE, QUESTION = {"wrapped": make_wrapping_clip}, {"wrapped": "motion"}
SPLITS = {"train": 5, "test": 4}  # the first number of each clip's seed


def _motion_clips(numbers, n, split, num_frames, size, make=make_clip):
    """Some of n clips of the first three tasks, and all labels. Every clip has its own seed."""
    first = SPLITS[split]
    rng = np.random.default_rng((first, n))
    labels = {task: rng.permutation(np.arange(n) % 6) for task in TASKS}
    clips = []
    for number in numbers:
        own = np.random.default_rng((first, number))
        motion, hue, shape = (labels[task][number] for task in TASKS)
        hue = (30 * hue + own.integers(-9, 10)) % 180
        clips.append(make(motion, own, num_frames, size, SHAPES[shape], hue))
    return np.stack(clips), labels


def _flash_clips(n, split, num_frames, size):
    """A red, a green or a blue disc flashes up, and 5/8 of the clip later another one."""
    rng = np.random.default_rng((SPLITS[split], n))
    pairs, colours = list(permutations(range(3), 2)), np.array([HUES.index(c) for c in FLASHES])
    labels = rng.permutation(np.arange(n) % len(pairs))
    clips = rng.normal(50, 10, (n, num_frames, size, size, 3)).clip(0, 255).astype(np.uint8)
    gap = num_frames * 5 // 8
    for clip, label in zip(clips, labels):
        first = rng.integers(0, num_frames - gap)
        for frame, hue in zip((first, first + gap), colours[list(pairs[label])]):
            centre = rng.integers(size // 4, size - size // 4, 2).tolist()
            colour = cv2.cvtColor(np.uint8([[[30 * hue, 200, 230]]]), cv2.COLOR_HSV2RGB)[0, 0]
            cv2.circle(clip[frame], centre, size // 6, colour.tolist(), -1)
    return clips, labels


@lru_cache(maxsize=2)
def _all_clips(kind, n, split, num_frames, size):
    if kind == "flash":
        return _flash_clips(n, split, num_frames, size)
    return _motion_clips(range(n), n, split, num_frames, size, MAKE.get(kind, make_clip))


@lru_cache
def _sample(task, n, num_frames, size):
    """A fingerprint of the code that makes a task's clips: another one where a clip is another."""
    if task == "flash":
        clips, labels = _flash_clips(6, "train", num_frames, size)
    else:
        clips, labels = _motion_clips(range(3), n, "train", num_frames, size, MAKE.get(task, make_clip))  # fmt: skip
        labels = labels[QUESTION.get(task, task)]
    return hashlib.sha256(clips.tobytes() + labels.tobytes()).hexdigest()[:16]


def task_clips(task, split="train", num_frames=8, size=32):
    """The clips with the labels of one question: "motion", "hue", "shape", "flash" or "wrapped".

    Shapes: -> clips (n, num_frames, size, size, 3) uint8, labels (n,) int64. `split` is "train" or
    "test". In the first three tasks shapes, colours and paths are the same at every size and number of
    frames; but what rests does so at one of the moments that there are, elsewhere if they are others.
    ValueError for another task or split.
    """
    if task not in AUGMENT:
        raise ValueError(f"unknown task {task!r}; there are {', '.join(AUGMENT)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    kind = task if task in ("flash", "wrapped") else "motion"
    clips, labels = _all_clips(kind, CLIPS[split], split, num_frames, size)
    return clips, labels if task == "flash" else labels[QUESTION.get(task, task)]


def turn_only(clips, labels, rng):
    """The augmentation of clips whose label does not change when they are turned."""
    return augment(clips, labels, rng)[0], labels


AUGMENT = {"motion": augment, "hue": turn_only, "shape": turn_only, "flash": None, "wrapped": augment}  # fmt: skip


def _scheme(name, **more):
    return Run(name, sizes=dict(scheme=name), **more)


def _schemes(tasks, **mults):
    """Schemes × questions; `mults` widens or narrows a scheme's MLP."""
    return [
        Run(scheme, task, sizes=dict(scheme=scheme, mult=mult))
        for task in tasks
        for scheme, mult in mults.items()
    ]


_DEEP = dict(depth=12, patch_size=16)
_GELU = dict(
    activation="gelu", mult=6
)  # mult 6 without a gate has the parameters of mult 4 with one


def _wide(patch):
    """A wider piece of the face, and how finely it is seen; always 2 x 3 patches."""
    size = 2 * patch, 3 * patch
    return dict(data=dict(view=(48, 72)), sizes=dict(image_size=size, patch_size=patch))


_COMPARED = ("the recipe", "space", "joint", "axial", "3D CNN", "frame differences + 2D CNN")  # fmt: skip

GRIDS = {
    "skips": [
        Run(variant, task, change=change, budget=LONG)
        for task in ("motion", "hue")
        for variant, change in {
            "whole model": None,
            "no skips": variants.no_skips,
            "no attention skips": variants.no_attention_skips,
            "no MLP": variants.no_mlp,
        }.items()
    ],
    "schemes": _schemes(
        ("motion", "hue"), **{"space": 4, "joint": 4, "divided": 4, "local+global": 4, "axial": 4}
    ),
    "schemes-long": [
        _scheme(scheme, budget=LONG, features=True)
        for scheme in ("space", "joint", "divided", "local+global", "axial")
    ],
    "schemes-wrapped": _schemes(
        ("wrapped",), **{"space": 4, "joint": 4, "divided": 4, "local+global": 4, "axial": 4}
    ),
    "schemes-wrapped-long": [
        _scheme(scheme, task="wrapped", budget=dict(epochs=6), features=True)
        for scheme in ("space", "joint", "divided", "local+global", "axial")
    ],
    "schemes-parameters": _schemes(
        ("motion",), **{"space": 6, "joint": 6, "divided": 4, "local+global": 4, "axial": 2}
    ),
    "positions": [
        Run(variant, task, change=change, budget=LONG)
        for task in ("motion", "shape")
        for variant, change in {
            "none": variants.no_positions,
            "space": variants.no_time,
            "space-time": None,
        }.items()
    ],
    "frames": [
        Run(f"{frames} frames", task, sizes=dict(num_frames=frames))
        for task in ("motion", "shape", "hue")
        for frames in (2, 4, 8, 16)
    ],
    "resolution": [
        Run(f"{size} pixels", task, sizes=dict(image_size=size))
        for task in ("motion", "shape", "hue")
        for size in (16, 24, 32, 48)
    ],
    "order": [
        Run("time, then space"),
        Run("space, then time", change=variants.space_first),
        Run("in parallel", change=variants.parallel),
        Run("time, then space; patches read", change=variants.read_patches),
        Run("space, then time; patches read", change=variants.space_first_read_patches),
        Run("in parallel; patches read", change=variants.parallel_read_patches),
    ],
    "recipe": [
        Run("as it is"),
        Run("time step not started at zero", change=variants.awake_time_step),
        Run("random time embedding", change=variants.random_time),
        Run("small time embedding", change=variants.small_time),
        Run("GELU, equal parameters", sizes=_GELU),
        Run("ReLU, equal parameters", sizes=_GELU, change=variants.relu),
    ],
    "norm": [
        Run(
            f"{name}, learning rate {lr:g}",
            "wrapped",
            sizes=_DEEP,
            change=change,
            budget=dict(peak_lr=lr),
        )  # fmt: skip
        for lr in (2.5e-3, 5e-4)
        for name, change in {"pre-norm": None, "post-norm": variants.post_norm}.items()
    ],
    "convolution": [
        Run(variant, task, build, sizes=dict(num_frames=16) if task == "flash" else {})
        for task in ("motion", "shape", "flash")
        for variant, build in {
            "divided attention": transformer,
            "3D CNN": convolutions_3d,
            "frame differences + 2D CNN": frame_differences,
        }.items()
    ],
    # One change to the recipe for lips at a time.
    "lips": [
        Run(variant, "lips", few=variant not in _COMPARED, **how)
        for variant, how in {
            "the recipe": {},
            # cheats: what can be told without seeing the mouth move
            "one frame": dict(data=dict(cheat="one_frame")),
            "mean picture": dict(data=dict(cheat="mean_picture")),
            "frames shuffled": dict(data=dict(cheat="shuffled")),
            "stretched windows": dict(data=dict(stretched=True)),
            # preparation
            "grey only": dict(data=dict(channels="grey")),
            "grey and change": dict(data=dict(channels="grey, change")),
            "mouths not aligned": dict(data=dict(apart=True)),
            "not normalised": dict(data=dict(normalised=False)),
            "not varied": dict(data=dict(varied=False)),
            "not mixed": dict(data=dict(mixed=False)),
            "colour alone": dict(data=dict(slot="colour"), budget=dict(epochs=72)),
            "start from motion": dict(change=variants.from_motion),
            # the paper's claims: frames and resolution
            "2 frames": dict(sizes=dict(num_frames=2)),
            "4 frames": dict(sizes=dict(num_frames=4)),
            "8 frames": dict(sizes=dict(num_frames=8)),
            "wide view, 24 x 16 pixels": _wide(8),
            "wide view, 48 x 32 pixels": _wide(16),
            "wide view, 72 x 48 pixels": _wide(24),
            # the optimiser; each at both rates
            "AdamW at twice the rate": dict(budget=dict(peak_lr=3e-3)),
            "Muon": dict(budget=dict(muon=True)),
            "Muon at twice the rate": dict(budget=dict(muon=True, peak_lr=3e-3)),
            # schemes and size (local+global cannot halve three columns of patches)
            "space": dict(sizes=dict(scheme="space")),
            "joint": dict(sizes=dict(scheme="joint")),
            "axial": dict(sizes=dict(scheme="axial")),
            "dim 48": dict(sizes=dict(dim=48)),
            "depth 2": dict(sizes=dict(depth=2)),
            # without attention, parameters and epochs alike
            "3D CNN": dict(build=lips_convolutions_3d),
            "frame differences + 2D CNN": dict(build=lips_frame_differences),
        }.items()
    ],
}
