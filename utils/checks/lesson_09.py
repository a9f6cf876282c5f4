"""Checks of the exercises of lesson 09: the whole model."""

import re
from itertools import permutations

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from utils.checks.diagnose import (
    check_answers,
    check_shape,
    close,
    diagnose,
    explained,
    noise,
    numbers,
    sizes,
    unpack,
    whole,
)
from utils.model import TimeSformer, count_parameters


def check_parameters(parameters, seed=0):
    """`parameters(…)` counts a divided TimeSformer with the plain MLP, part by part."""
    classes, frames, side, d = sizes(4, seed, of=(11, 5, 4, 6))
    depth, patch = 3 + seed % 2, 4  # with two blocks, two d of this would look like two d of that
    with torch.device("meta"):
        model = TimeSformer(
            classes, side * patch, frames, patch, d, depth, heads=1, activation="gelu"
        )
    right = count_parameters(model)
    wrong = {
        "the extra (d, d) layer of the time step is missing": right - depth * (d * d + d),
        "a divided block has two attentions": right - depth * 4 * (d * d + d),
        "the three norms of a block are missing": right - depth * 6 * d,
        "a block has three norms, one in front of each attention and one in front of the MLP": right - depth * 2 * d,
        "the last norm is missing": right - 2 * d,
        "the norms of a block have a weight and a bias each": right - depth * 3 * d,
        "the head has biases too": right - classes,
        "a vector of d numbers is missing: the class token, or the bias of the patch map": right - d,
        "the bias of the d → 3d layers is missing": right - depth * 6 * d,
        "the bias of the attentions' d → d layers is missing": right - depth * 2 * d,
        "places are rows times columns: the square of image_size / patch_size": right - (side**2 - side) * d,
        "the space embeddings are missing": right - side**2 * d,
        "the time embeddings are missing": right - frames * d,
        "the class token has no place: the space embeddings are one for each place": right + d,
        "GELU, not GEGLU: the MLP's first layer makes 4 · d numbers": right + depth * (4 * d * d + 4 * d),
        "there are `depth` blocks": right - (depth - 1) * count_parameters(model.blocks[0]),
        "a pixel has three colours": right - 2 * patch**2 * d,
        "a time embedding is shared by all places of a frame": right + frames * (side**2 - 1) * d,
        "the extra layer's bias is missing": right - depth * d,
        "the attentions' biases are missing": right - depth * 8 * d,
        "the MLP's biases are missing": right - depth * 5 * d,
        "the biases of the attentions and of the extra layer are missing": right - depth * 9 * d,
        "a linear layer has biases, in the blocks and around them": right - depth * 14 * d - d - classes,
        "a linear layer has biases": right - depth * 14 * d,
        "a norm has a weight and a bias": right - (3 * depth + 1) * d,
    }  # fmt: skip
    found = parameters(classes, side * patch, frames, patch, d, depth)
    told = f"parameters({classes}, {side * patch}, {frames}, {patch}, {d}, {depth})"
    found = whole(found, told)
    difference = found - right
    diagnose(found, right, wrong, told,
             f"you are off by {difference:+}; compare part by part with count_parameters")  # fmt: skip


def check_forward(forward, seed=0):
    """`forward(video, embedding, blocks, norm, head)` is the model's forward pass."""
    torch.manual_seed(seed)
    model = TimeSformer(5, 8, 3, 4, dim=6, depth=2 + seed % 3, heads=2).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    video = noise(2, 3, 3, 8, 8, seed=seed)
    with torch.no_grad():
        patches, cls = model.embedding(video)
        first = model.blocks[0](patches, cls)
        stuck, early = patches, (patches, model.norm(cls))
        for block in model.blocks:
            stuck, _ = block(stuck, cls)
            early = block(*early)
        often, patches_often = cls, patches
        for block in model.blocks:
            patches_often, often = block(patches_often, often)
            often = model.norm(often)
        last = (patches, cls)
        for block in model.blocks:
            last = block(*last)
        head, norm = model.head, model.norm
        wrong = {
            "the norm before the head is missing": head(last[1]),
            "the head reads the class token, not the mean of the patches": head(norm(last[0].mean((1, 2, 3)))),
            "return logits; the softmax comes later, where it is needed": model(video).softmax(-1),
            "only the first block was used: is the return inside the loop?": head(norm(first[1])),
            "the class token is not carried from block to block": head(norm(cls)),
            "normalise the class token after the last block, not before the first": head(early[1]),
            "normalise the class token once, after the last block: is the norm inside the loop?": head(often),
            "normalise once: the norm stands inside the loop, too": head(norm(often)),
            "the norm comes before the head, not after it": F.layer_norm(head(last[1]), (5,)),
        }  # fmt: skip
        hint = "embedding and blocks return patches first, then the class token; the norm stands before the head"
        with explained(hint, RuntimeError, ValueError):
            found = forward(video, model.embedding, model.blocks, norm, head)
        diagnose(found, model(video), wrong, "the logits")


def check_block_cost(block_cost, seed=0):
    """`block_cost(t, h, w, d)`: multiply-adds of a divided block in linear layers, and in pairs."""
    t, h, w, d = sizes(4, seed, of=(5, 2, 3, 7))
    linear, pairs = unpack(block_cost(t, h, w, d), "linear", "pairs")
    tokens, time, space = t * h * w, h * w * t**2, t * (h * w) ** 2
    told = f"for {t} frames of {h} x {w} and d = {d}"
    wrong = {
        "the extra layer is missing": 16 * tokens * d**2,
        "a divided block has two attentions": 13 * tokens * d**2,
        "the MLP has two layers, of 4 d² each": 13 * tokens * d**2,
        "that is one token's share": 17 * d**2,
        "biases are not counted": 17 * tokens * d**2 + 17 * tokens * d,
        "a multiply-add counts once": 34 * tokens * d**2,
        "only patches are counted, no class token": 17 * (tokens + 1) * d**2,
        "an attention has four layers' worth: queries, keys, values, output": 15 * tokens * d**2,
        "first linear, then pairs": 2 * d * (time + space),
    }
    diagnose(linear, 17 * tokens * d**2, wrong, f"linear {told}")
    wrong = {
        "mixing the values costs as much as the scores": d * (time + space),
        "that is joint attention; divided compares within places and within frames": 2
        * d
        * tokens**2,
        "the time step is missing": 2 * d * space,
        "the space step is missing": 2 * d * time,
        "each comparison takes d multiplications": 2 * (time + space),
    }
    diagnose(pairs, 2 * d * (time + space), wrong, f"pairs {told}")


def check_stretch_time(stretch_time, seed=0):
    """`stretch_time(embedding, frames)` interpolates (t, d) linearly along time."""
    t, d, frames = sizes(3, seed, of=(4, 3, 9, 6))
    embedding = noise(t, d, seed=seed)
    channels = embedding.T[None]
    found = numbers(stretch_time(embedding.clone(), frames), "the stretched embeddings")
    check_shape(found, (frames, d), f"the embeddings of {t} frames stretched to {frames}")
    wrong = {
        "that repeats frames; take the mode \"linear\"": F.interpolate(channels, frames)[0].T,
        "without align_corners: each frame stands for a stretch of time, not for a point":
            F.interpolate(channels, frames, mode="linear", align_corners=True)[0].T,
        "reshape does not turn the axes round: rearrange or transpose": F.interpolate(embedding.reshape(1, d, t), frames, mode="linear").reshape(frames, d),
        "the clip starts again after its end; stretch it instead": embedding[torch.arange(frames) % t],
        "the last frame is repeated; stretch the clip instead": embedding[torch.arange(frames).clamp(max=t - 1)],
    }  # fmt: skip
    if frames > t:
        wrong["frames without an embedding; stretch the clip instead"] = F.pad(
            embedding, (0, 0, 0, frames - t)
        )
    right = F.interpolate(channels, frames, mode="linear")[0].T
    diagnose(found, right, wrong, "the stretched embeddings")
    diagnose(
        stretch_time(embedding, t), embedding, {}, "the embeddings stretched to their own length"
    )


def check_space_forward(space_forward, seed=0):
    """`space_forward(video, features, head)` averages the frames' features, then applies the head."""
    b, t, classes, d = sizes(4, seed, of=(2, 3, 5, 4))
    video, weight = noise(b, t, 3, 4, 4, seed=seed), noise(48, d, seed=seed + 1)
    torch.manual_seed(seed)
    head = nn.Linear(d, classes)

    def features(frames):
        assert frames.ndim == 5 and frames.shape[1] == 1, (
            f"features takes (n, 1, c, height, width), it got {tuple(frames.shape)}"
        )
        return torch.tanh(frames.flatten(1) @ weight)

    with torch.no_grad():
        each = features(video.flatten(0, 1)[:, None]).view(b, t, d)
        mixed = features(rearrange(video, "b t c y x -> (t b) 1 c y x")).view(b, t, d)
        wrong = {
            "the frames of different clips are averaged: fold as (b t), in the order in which you unfold":
                head(mixed.mean(1)),
            "clips are mixed, and probabilities are averaged; average features, and of one clip":
                head(mixed).softmax(-1).mean(1),
            "average the features, not the probabilities": head(each).softmax(-1).mean(1),
            "return logits, without a softmax": head(each.mean(1)).softmax(-1),
            "the features are averaged, not summed": head(each.sum(1)),
            "all frames count, not only the first": head(each[:, 0]),
            "the mean over frames, not the largest": head(each.amax(1)),
        }  # fmt: skip
        diagnose(space_forward(video, features, head), head(each.mean(1)), wrong, "the logits")


def check_tells_a_shuffle(tells_a_shuffle):
    """`tells_a_shuffle()` predicts which models notice another order of frames; tried out here."""
    right = {}
    cases = {
        "divided": ("divided", None),
        "divided, time embeddings zero": ("divided", "time"),
        "joint, time embeddings zero": ("joint", "time"),
        "space": ("space", None),
        "divided, space embeddings zero": ("divided", "space"),
    }
    video = noise(1, 4, 3, 8, 8)
    for name, (scheme, zero) in cases.items():
        torch.manual_seed(0)
        model = TimeSformer(3, 8, 4, 4, dim=8, depth=2, heads=2, scheme=scheme).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.5)
            if zero:
                getattr(model.embedding, zero).zero_()
            right[name] = not close(model(video), model(video[:, [2, 0, 3, 1]]))
    hints = {
        "divided": "its tokens know their time",
        "divided, time embeddings zero": "time attention sees the set of frames at a place; a set has no order",
        "joint, time embeddings zero": "attention sees a set of tokens, however large it is",
        "space": "the frames are averaged at the end, and a mean has no order",
        "divided, space embeddings zero": "what tells a token when it is is still there",
    }
    check_answers(tells_a_shuffle(), right, hints)


def check_fuse(fuse, seed=0):
    """`fuse(weights)` joins query, key and value layers into qkv, under any prefix."""
    dim = 4 + 2 * (seed % 3)
    weights = {}
    for i, prefix in enumerate(("", "blocks.0.attention.", f"blocks.{seed + 1}.time.")):
        for j, layer in enumerate(("query", "key", "value", "out")):
            weights[f"{prefix}{layer}.weight"] = noise(dim, dim, seed=10 * i + j)
            weights[f"{prefix}{layer}.bias"] = noise(dim, seed=10 * i + j + 5)
    for j, layer in enumerate(("query", "key", "value")):  # a prefix that holds a layer's name
        weights[f"query_path.0.{layer}.weight"] = noise(dim, dim, seed=60 + j)
        weights[f"query_path.0.{layer}.bias"] = noise(dim, seed=70 + j)
    weights["old_key.weight"] = noise(dim, dim, seed=97)
    weights["query_norm.weight"] = noise(dim, seed=99)
    weights["value.scale.weight"] = noise(dim, seed=98)
    weights["cls_token"] = noise(dim, seed=96)  # a name without a point
    given = dict(weights)
    hint = (
        "the layer is the last part but one of a name; a part before it may hold the same word, as in "
        "query_path.0.query.weight, and a name may have one part only, as cls_token"
    )
    with explained(hint, KeyError, IndexError):
        found = fuse(weights)
    assert isinstance(found, dict), f"return a dict, not {type(found).__name__}"
    assert list(weights) == list(given), "the dict that came in was changed: build a new one"
    right = {}
    for name, tensor in given.items():
        start, layer, last = re.fullmatch(
            r"((?:.*\.)?)([^.]+)\.(weight|bias)|cls_token", name
        ).groups()
        if layer == "query":
            right[f"{start}qkv.{last}"] = torch.cat(
                [given[f"{start}{p}.{last}"] for p in ("query", "key", "value")]
            )
        elif layer not in ("key", "value"):
            right[name] = tensor
    missing, extra = sorted(set(right) - set(found)), sorted(set(found) - set(right))
    assert not missing, f"{missing[0]} is missing; there is {', '.join(sorted(found)[:4])}, …"
    assert not extra, (
        f"{extra[0]} should not be there: its numbers are in qkv, or it is no such name"
    )
    for name, tensor in right.items():
        start, _, last = name.rpartition("qkv.")
        wrong = {}
        if "qkv" in name and last == "weight":
            parts = {p: given[f"{start}{p}.{last}"] for p in ("query", "key", "value")}
            wrong = {
                f"queries on top, then keys, then values; yours has {', '.join(order)}": torch.cat(
                    [parts[part] for part in order]
                )
                for order in permutations(parts)
                if order != tuple(parts)
            } | {
                "put them below each other, along axis 0": torch.cat(list(parts.values()), -1),
            }
        diagnose(found[name], tensor, wrong, name)
