"""Attention rollout: how much of each patch of each frame reaches the class token.

Source: Abnar and Zuidema 2020, arXiv 2005.00928, section 3, taken through the steps of a scheme.
"""

from contextlib import contextmanager

import torch
from einops import repeat

from utils.model import fold
from utils.training import to_video


def step_weights(step, patches, cls):
    """Who looks at whom in one step, before it runs: (groups, heads, queries, keys).

    The groups are as `fold` makes them; where the class token takes part it is query 0 and key 0.
    """
    tokens = fold(patches, step.spec)
    if step.spec.with_class:
        tokens = torch.cat([repeat(cls, "1 d -> g 1 d", g=len(tokens)), tokens], dim=1)
    return step.attention.fn.weights(step.attention.norm(tokens))


def step_matrix(step, patches, cls):
    """One step's attention as a single matrix over all tokens of a clip, class token first.

    Shapes: patches (1, t, h, w, dim), cls (1, dim) -> (1 + t*h*w, 1 + t*h*w), rows sum to 1. The
    heads are averaged. A token that the step leaves out attends to itself; the class token's copies
    are averaged, as the step averages their updates.
    """
    _, t, h, w, _ = patches.shape
    weights = step_weights(step, patches, cls).mean(1)  # (groups, queries, keys)
    places = torch.arange(1, t * h * w + 1, device=patches.device).view(1, t, h, w, 1)
    places = fold(places, step.spec)[..., 0]
    if step.spec.with_class:
        places = torch.cat([places.new_zeros(len(places), 1), places], dim=1)

    size = 1 + t * h * w
    matrix = patches.new_zeros(size, size)
    matrix.index_put_((places[:, :, None], places[:, None, :]), weights, accumulate=True)
    if not step.spec.with_class:
        matrix[0, 0] = 1
    return matrix / matrix.sum(-1, keepdim=True)  # the class token's row was added once per group


@contextmanager
def watching(model, clip):
    """One clip, (t, height, width, 3) uint8, as the model takes it, while the model is in eval mode.

    ValueError for scheme "space", whose frames do not meet, and for a clip of another size than the model's.
    """
    if model.per_frame:
        raise ValueError(
            "attention rollout needs a class token that sees the whole clip; scheme 'space' has one per frame"
        )
    video = to_video(clip[None]).to(model.head.weight.device)
    if tuple(video.shape[1:]) != model.clip_shape:
        raise ValueError(
            f"the model takes clips of {model.clip_shape}, got {tuple(video.shape[1:])}"
        )
    was_training = model.training
    model.eval()
    try:
        yield video
    finally:
        model.train(was_training)


@torch.no_grad()
def attention_rollout(model, clip):
    """Share of the class token's attention on each patch, through all steps and skip connections.

    Shapes: one clip (t, height, width, 3) uint8 -> (t, h, w), summing to 1. Each skip connection
    counts half, as in the source; feed-forward layers and values are not looked at, so this is a
    map of where information may flow, not of what the model uses. ValueError as in `watching`.
    """
    with watching(model, clip) as video:
        patches, cls = model.embedding(video)
        itself = torch.eye(1 + patches[0, ..., 0].numel(), device=patches.device)
        total = itself
        for block in model.blocks:
            for step in block.steps:
                matrix = (step_matrix(step, patches, cls) + itself) / 2
                total = matrix @ total  # the later step leftmost
                patches, cls = step(patches, cls)
            patches, cls = patches + block.feed_forward(patches), cls + block.feed_forward(cls)
    onto_patches = total[0, 1:].view(patches.shape[1:4])
    return onto_patches / onto_patches.sum()


@torch.no_grad()
def attention_maps(model, clip):
    """Every attention of one clip: for each block, for each of its steps, who looks at whom.

    Shapes: one clip (t, height, width, 3) uint8 -> lists of `step_weights`.
    """
    patches, cls = model.embedding(to_video(clip[None]).to(model.head.weight.device))
    maps = []
    for block in model.blocks:
        maps.append([])
        for step in block.steps:
            maps[-1].append(step_weights(step, patches, cls))
            patches, cls = step(patches, cls)
        patches, cls = patches + block.feed_forward(patches), cls + block.feed_forward(cls)
    return maps
