"""Variants of the network for the experiments: one thing left out, moved or exchanged at a time.

A function changes a fresh model before it is trained; a class stands in for a part or the whole.
"""

import hashlib
import json

import cv2
import numpy as np
import torch
from einops import rearrange
from torch import nn

from utils import paths
from utils.lips import channels
from utils.model import FeedForward, TimeSformer
from utils.motion import CLASSES, make_clips
from utils.training import fit, load_model, save_model

# Positions ------------------------------------------------------------------------------------


def random_time(model):
    """Plain random time embeddings: every frame's vector as far from its neighbour's as from any."""
    nn.init.normal_(model.embedding.time)


def small_time(model):
    """The usual start of position embeddings: random with a standard deviation of 0.02."""
    nn.init.normal_(model.embedding.time, std=0.02)


def no_time(model):
    """No time embedding: zeros that stay zero."""
    nn.init.zeros_(model.embedding.time).requires_grad_(False)


def no_positions(model):
    """Neither space nor time embedding: only the groups of the scheme tell patches apart."""
    nn.init.zeros_(model.embedding.space).requires_grad_(False)
    no_time(model)


# Order and start of the attention steps -------------------------------------------------------


def space_first(model):
    """The steps of every block in reverse order."""
    for block in model.blocks:
        block.steps = nn.ModuleList(reversed(block.steps))


class ParallelSteps(nn.Module):
    """All attention steps read the same tokens; their updates are added."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def forward(self, patches, cls):
        after = [step(patches, cls) for step in self.steps]
        return (
            patches + sum(new - patches for new, _ in after),
            cls + sum(new - cls for _, new in after),
        )


def parallel(model):
    """Time and space side by side instead of one after the other."""
    for block in model.blocks:
        block.steps = nn.ModuleList([ParallelSteps(block.steps)])


class MeanOfPatches(nn.Module):
    """Stands behind the last block: the mean of all patches takes the class token's place."""

    def forward(self, patches, cls):
        return patches, patches.mean((1, 2, 3))


def read_patches(model):
    """The head reads the mean of the patches, so that no step of the last block is in vain."""
    model.blocks[-1].last = False
    model.blocks.append(MeanOfPatches())


def space_first_read_patches(model):
    """`space_first`, and the head reads the mean of the patches."""
    space_first(model)
    read_patches(model)


def parallel_read_patches(model):
    """`parallel`, and the head reads the mean of the patches."""
    parallel(model)
    read_patches(model)


def awake_time_step(model):
    """The extra linear map of the time step starts like any other one, not at zero."""
    for block in model.blocks:
        for step in block.steps:
            if isinstance(step.project, nn.Linear):
                step.project.reset_parameters()


# Start from elsewhere -------------------------------------------------------------------------


MOTION = dict(clips=3000, epochs=20)


def from_motion(model):
    """Weights from the motion clips instead of random ones; only the head starts anew.

    A model of the same sizes first learns to tell the six motions, seen in the same channels; it is
    kept in the cache, under a name made from all that decides it.
    """
    config = model.config | dict(num_classes=len(CLASSES))
    sample = make_clips(len(CLASSES), seed=6)[0].tobytes()
    name = hashlib.sha256(json.dumps([config, MOTION]).encode() + sample).hexdigest()[:16]
    file = paths.cache_folder() / "experiments" / f"motion-{name}.safetensors"
    if not file.exists():
        clips, labels = make_clips(MOTION["clips"], seed=6, num_frames=config["num_frames"])
        size = tuple(config["image_size"])[::-1]
        grey = np.stack([[cv2.resize(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), size) for f in clip] for clip in clips])  # fmt: skip
        teacher = seeded(transformer, 0, **config)
        # not mirrored: that would change the labels
        history = fit(teacher, (channels(grey), labels), epochs=MOTION["epochs"], batch_size=32, peak_lr=1.5e-3, progress=False)  # fmt: skip
        save_model(teacher, file, train_accuracy=history[-1]["accuracy"])
    weights = load_model(file)[0].state_dict()
    own = model.state_dict()
    model.load_state_dict(weights | {name: own[name] for name in own if name.startswith("head.")})


# Skips, norms, activations --------------------------------------------------------------------


class NoSkip(nn.Module):
    """An attention step or a feed-forward network whose input is taken off again: x + f(x) - x.

    A step that leaves the class token alone keeps doing so: there is nothing it could replace it by.
    """

    def __init__(self, step):
        super().__init__()
        self.inner = step

    def forward(self, patches, cls):
        new_patches, new_cls = self.inner(patches, cls)
        return new_patches - patches, new_cls - cls if self.inner.spec.with_class else cls


def no_attention_skips(model):
    """Attention replaces the tokens instead of adding to them."""
    awake_time_step(model)  # a step that starts at zero would erase everything
    for block in model.blocks:
        block.steps = nn.ModuleList(NoSkip(step) for step in block.steps)


class BareBlock(nn.Module):
    """A block whose feed-forward network replaces the tokens instead of adding to them."""

    def __init__(self, block):
        super().__init__()
        self.steps, self.feed_forward = block.steps, block.feed_forward

    def forward(self, patches, cls):
        for step in self.steps:
            patches, cls = step(patches, cls)
        return self.feed_forward(patches), self.feed_forward(cls)


def no_skips(model):
    """No skip connection anywhere. The time steps start awake, see `no_attention_skips`."""
    no_attention_skips(model)
    model.blocks = nn.ModuleList(BareBlock(block) for block in model.blocks)


def no_mlp(model):
    """Attention and skips alone: the feed-forward networks add nothing."""
    for block in model.blocks:
        for parameter in block.feed_forward.parameters():
            nn.init.zeros_(parameter).requires_grad_(False)


class PostNormStep(nn.Module):
    """Attend, add, then normalise: the order of 2017."""

    def __init__(self, step):
        super().__init__()
        self.norm, self.inner, self.spec = step.attention.norm, step, step.spec
        step.attention.norm = nn.Identity()

    def forward(self, patches, cls):
        patches, cls = self.inner(patches, cls)
        return self.norm(patches), self.norm(cls) if self.spec.with_class else cls


class PostNormBlock(nn.Module):
    """A block with every norm behind its sum."""

    def __init__(self, block):
        super().__init__()
        self.steps = nn.ModuleList(PostNormStep(step) for step in block.steps)
        self.norm, self.feed_forward = block.feed_forward.norm, block.feed_forward.fn

    def forward(self, patches, cls):
        for step in self.steps:
            patches, cls = step(patches, cls)
        return self.norm(patches + self.feed_forward(patches)), self.norm(
            cls + self.feed_forward(cls)
        )


def post_norm(model):
    """Post-norm blocks with the weights and the parameter count of the pre-norm ones."""
    model.blocks = nn.ModuleList(PostNormBlock(block) for block in model.blocks)


def relu(model):
    """ReLU instead of GELU in a model built with activation="gelu"."""
    for block in model.blocks:
        feed_forward = block.feed_forward.fn
        assert isinstance(feed_forward, FeedForward) and isinstance(feed_forward.net[1], nn.GELU)
        feed_forward.net[1] = nn.ReLU()


# Convolutions ---------------------------------------------------------------------------------


class Convolutions3D(nn.Module):
    """A small 3D CNN: kernels that reach one frame and one pixel to each side, four stages.

    Shapes: video (b, t, c, height, width) -> logits (b, num_classes).
    """

    def __init__(self, num_classes, widths=(16, 32, 48, 40)):
        super().__init__()
        layers, before = [], 3
        for number, width in enumerate(widths):
            stride = (1, 2, 2) if number < 3 else 1
            layers += [nn.Conv3d(before, width, 3, stride, 1, bias=False), nn.BatchNorm3d(width), nn.ReLU()]  # fmt: skip
            before = width
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(before, num_classes)

    def forward(self, video):
        maps = self.layers(rearrange(video, "b t c height width -> b c t height width"))
        return self.head(maps.mean((2, 3, 4)))


class FrameDifferences(nn.Module):
    """Neighbouring frames subtracted, all differences stacked as channels, then a 2D CNN.

    Shapes: video (b, t, c, height, width) -> logits (b, num_classes). More frames are more
    channels; the first layer gets narrower, so that the parameters stay about as many.
    """

    def __init__(self, num_classes, num_frames, widths=None):
        super().__init__()
        widths = widths or (32 if num_frames <= 8 else 24, 56, 80, 64)
        layers, before = [], 3 * (num_frames - 1)
        for number, width in enumerate(widths):
            stride = 2 if number < 3 else 1
            layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]  # fmt: skip
            before = width
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(before, num_classes)

    def forward(self, video):
        change = rearrange(video[:, 1:] - video[:, :-1], "b t c height width -> b (t c) height width")  # fmt: skip
        return self.head(self.layers(change).mean((2, 3)))


def transformer(**sizes):
    """The course's model; here so that every network of the grids is named in one place."""
    return TimeSformer(**sizes)


def convolutions_3d(num_classes, **sizes):
    """A 3D CNN; it fits every clip size."""
    return Convolutions3D(num_classes)


def frame_differences(num_classes, num_frames, **sizes):
    """Frame differences and a 2D CNN."""
    return FrameDifferences(num_classes, num_frames)


def lips_convolutions_3d(num_classes, **sizes):
    """A 3D CNN with as many parameters as the model that reads lips (a test compares)."""
    return Convolutions3D(num_classes, LIPS_3D)


def lips_frame_differences(num_classes, num_frames, **sizes):
    """Frame differences and a 2D CNN with as many parameters as the model that reads lips."""
    return FrameDifferences(num_classes, num_frames, LIPS_2D)


LIPS_3D, LIPS_2D = (32, 64, 104, 96), (64, 128, 160, 144)  # widths


def seeded(build, seed, **sizes):
    """A fresh network whose weights follow from `seed` alone."""
    torch.manual_seed(seed)
    return build(**sizes)
