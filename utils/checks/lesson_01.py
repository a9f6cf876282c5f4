"""Checks of the exercises of lesson 01: patches, positions and tubelets."""

import torch
from einops import EinopsError, rearrange

from utils.checks.diagnose import (
    check_shape,
    diagnose,
    explained,
    noise,
    refuses,
    sizes,
    unpack,
    untouched,
    whole,
)

_EINOPS = (
    "there are {} colours and patches of {}; the last axis holds {}: give einops all but the number of colours, from "
    "the arguments, and it finds that"
)


def check_tokens_and_pairs(tokens_and_pairs, seed=0):
    """`tokens_and_pairs(frames, height, width, patch)`: patch tokens, and pairs of joint attention."""
    frames, h, w, patch = sizes(4, seed, of=(3, 2, 5, 4))
    patch += patch % 2
    height, width = h * patch, w * patch
    tokens, pairs = unpack(
        tokens_and_pairs(frames, height, width, patch), "the tokens", "the pairs"
    )
    told = f"for {frames} frames of {height} x {width} and patches of {patch}"
    wrong = {
        "those are the tokens of one frame": h * w,
        "height and width are different": frames * h * h,
        "those are pixels, not patches": frames * height * width,
        "the class token is not counted here": frames * h * w + 1,
        "first the tokens, then the pairs": (frames * h * w) ** 2,
    }
    right = frames * h * w
    diagnose(tokens, right, wrong, f"the number of tokens {told}")
    wrong = {
        "(a, b) and (b, a) both count, and (a, a) too": right * (right - 1) // 2,
        "patches of different frames are compared, too": right**2 // frames,
        "a token is compared with itself too": right * (right - 1),
        "(a, b) and (b, a) both count": right * (right + 1) // 2,
        "the class token is not counted here": (right + 1) ** 2,
    }  # fmt: skip
    diagnose(pairs, right**2, wrong, f"the number of pairs {told}")
    for bad in ((height + 1, width), (height, width + 1), (patch // 2, 8 * patch)):
        why = f"{bad[0]} x {bad[1]} pixels cannot be cut into patches of {patch}"
        refuses(lambda bad=bad: tokens_and_pairs(frames, *bad, patch), why)


def check_back(back, seed=0):
    """`back(patches, patch)` puts the pixels of (b, t, h, w, c * patch²) back in their places."""
    for its_seed in (seed, seed + 1):  # two numbers of colours
        _check_back(back, its_seed)


def _check_back(back, seed):
    b, t, h, w = sizes(4, seed, of=(2, 3, 4, 5))
    patch, colours = 3 - seed % 2, 2 + seed % 3
    video = torch.arange(b * t * colours * h * w * patch**2, dtype=torch.float32)
    video = video.view(b, t, colours, h * patch, w * patch)
    patches = rearrange(video, "b t c (h p) (w q) -> b t h w (c p q)", p=patch, q=patch)
    with explained(_EINOPS.format(colours, patch, "c, ph and pw"), EinopsError):
        found = back(patches, patch)
    check_shape(found, video.shape, f"the video from patches of shape {tuple(patches.shape)}")
    wrong = {
        "the pixels of a patch are scattered over the frame: the patch's place is slow, the pixel's fast":
            rearrange(patches, "b t h w (c p q) -> b t c (p h) (q w)", p=patch, q=patch),
        "inside a patch the order is colour, row, column; you read row, column, colour":
            rearrange(patches, "b t h w (p q c) -> b t c (h p) (w q)", p=patch, q=patch),
        "rows and columns inside a patch are swapped":
            rearrange(patches, "b t h w (c q p) -> b t c (h p) (w q)", p=patch, q=patch),
        "rows and columns of a frame: (h ph), the patch's place first; in yours the width is right, the height not":
            rearrange(patches, "b t h w (c p q) -> b t c (p h) (w q)", p=patch, q=patch),
        "rows and columns of a frame: (w pw), the patch's place first; in yours the height is right, the width not":
            rearrange(patches, "b t h w (c p q) -> b t c (h p) (q w)", p=patch, q=patch),
        "a view or reshape alone does not move pixels: patches are not rows of the picture":
            patches.reshape(video.shape),
    }  # fmt: skip
    diagnose(found, video, wrong, "the video", "every pixel must return to its place")


def check_place(place, seed=0):
    """`place(index, t, h, w)`: frame, row, column for the orders (t h w) and (w h t)."""
    t, h, w = sizes(3, seed, of=(3, 4, 5, 2))
    grid = torch.cartesian_prod(torch.arange(t), torch.arange(h), torch.arange(w)).view(t, h, w, 3)
    orders = {
        "(t h w)": rearrange(grid, "t h w d -> (t h w) d"),
        "(w h t)": rearrange(grid, "t h w d -> (w h t) d"),
    }
    lists = {name: [tuple(place) for place in order.tolist()] for name, order in orders.items()}
    given = [unpack(place(index, t, h, w), "the place for (t h w)", "the place for (w h t)") for index in range(t * h * w)]  # fmt: skip
    for (pattern, places), triples in zip(lists.items(), zip(*given)):
        triples = [tuple(whole(n, "a place") for n in unpack(triple, "frame", "row", "column")) for triple in triples]  # fmt: skip
        if triples == places:
            continue
        index = next(k for k, (a, b) in enumerate(zip(triples, places)) if a != b)
        told = f'place {index} of "{pattern}" in {t} frames of {h} x {w}: {triples[index]}'
        other = next(places for name, places in lists.items() if name != pattern)
        assert triples != other, f"{told} is the place in the other layout"
        turned = [triple[::-1] for triple in places]
        assert triples != turned, f"{told}: give frame, row, column, in this order"
        assert triples[1:] != places[:-1] and triples[:-1] != places[1:], (
            f"{told} is one place off: places count from 0, and the class token is not in this list"
        )
        one_more = [tuple(n + 1 for n in triple) for triple in places]
        assert triples != one_more, f"{told}: frames, rows and columns count from 0, too"
        names = ("frame", "row", "column")
        wrong = next(name for name, a, b in zip(names, triples[index], places[index]) if a != b)
        slow = dict(zip("thw", ("frames", "rows", "columns")))[pattern[1]]
        raise AssertionError(f"{told}: the {wrong} is wrong. The {slow} are slowest there")


def check_positions(add_positions, seed=0):
    """`add_positions(patches, cls, space, time)` adds place and moment to the patches, copies cls."""
    for its_seed in (seed, seed + 1):  # two sizes: none is to be taken for granted
        _check_positions(add_positions, its_seed)


def _check_positions(add_positions, seed):
    b, t, h, w = sizes(4, seed, of=(2, 3, 3, 3) if seed == 1 else (3, 2, 4, 5))
    d = 6 + seed % 2
    patches, cls = noise(b, t, h, w, d, seed=seed), noise(d, seed=seed + 1)
    space, time = noise(h, w, d, seed=seed + 2), noise(t, d, seed=seed + 3)
    right = patches + space + time[:, None, None]
    hint = "does time lie along the frames, space along rows and columns?"
    with explained(hint, RuntimeError):
        added = untouched(add_positions, patches, cls, space, time)
    found, copies = unpack(added, "the patches", "the class token")
    wrong = {
        "the time embedding is missing": patches + space,
        "the space embedding is missing": patches + time[:, None, None],
        "a reshape does not turn rows into columns; space is (h, w, d) already": right
        - space
        + space.reshape(w, h, d).transpose(0, 1),
        "the embeddings are added, not multiplied": patches * space * time[:, None, None],
        "the space embedding is added twice": right + space,
        "the time embedding is added twice": right + time[:, None, None],
        "every frame has a moment of its own, not the mean of all": patches + space + time.mean(0),
        "the moments run backwards": patches + space + time.flip(0)[:, None, None],
    }
    if t == w:
        wrong["time lies along the columns"] = patches + space + time
    if t == h:
        wrong["time lies along the rows"] = patches + space + time[:, None]
    if h == w:
        wrong["rows and columns of space are swapped"] = right - space + space.transpose(0, 1)
    diagnose(found, right, wrong, "the patches")
    wrong = {
        "the class token has no moment: leave time out of it": (cls + time[0]).expand(b, d),
        "the class token stands for the whole clip: one copy a clip, (b, d)": cls,
        "the class token has no place: leave space out of it": (cls + space[0, 0]).expand(b, d),
        "the class token has no moment, not even the mean of all": (cls + time.mean(0)).expand(
            b, d
        ),
    }
    diagnose(copies, cls.expand(b, d), wrong, "the class token")
    learned = [one.clone().requires_grad_() for one in (cls, space, time)]
    found, copies = add_positions(patches, *learned)
    assert found.requires_grad and copies.requires_grad, (
        "no gradient passes, so class token and embeddings could not be learned: no detach, no no_grad, no tolist"
    )


def check_tubelets(to_tubelets, from_tubelets, seed=0):
    """`to_tubelets(video, span, patch)` cuts patches that span frames; the other puts them back."""
    for its_seed in (seed, seed + 1):  # two sizes, and numbers of colours
        _check_tubelets(to_tubelets, from_tubelets, its_seed)


def _check_tubelets(to_tubelets, from_tubelets, seed):
    b, t, h, w = sizes(4, seed, of=(2, 3, 4, 5))
    span, patch, c = 2 + seed % 2, 3 - seed % 2, 2 + seed % 3
    video = noise(b, t * span, c, h * patch, w * patch, seed=seed)
    pattern = "b (t s) c (h p) (w q) -> b t h w"
    lengths = dict(s=span, p=patch, q=patch)
    right = rearrange(video, f"{pattern} (s c p q)", **lengths)
    with explained(_EINOPS.format(c, patch, "s, c, ph and pw"), EinopsError):
        found, again = to_tubelets(video, span, patch), from_tubelets(right, span, patch)
    wrong = {
        "the frames of a tubelet follow each other; yours are far apart: (t s), not (s t)":
            rearrange(video, "b (s t) c (h p) (w q) -> b t h w (s c p q)", **lengths),
        "inside a tubelet the order is frame, colour, row, column; you put colour first":
            rearrange(video, f"{pattern} (c s p q)", **lengths),
        "inside a tubelet the order is frame, colour, row, column; you put the frame last":
            rearrange(video, f"{pattern} (c p q s)", **lengths),
        "rows and columns inside a patch are swapped": rearrange(video, f"{pattern} (s c q p)", **lengths),
        "the pixels of a patch come from all over the frame: (h ph) (w pw)":
            rearrange(video, "b (t s) c (p h) (q w) -> b t h w (s c p q)", **lengths),
        "a view or reshape alone does not move pixels": video.reshape(right.shape),
    }  # fmt: skip
    diagnose(found, right, wrong, "the tubelets")
    back = "b t h w (s c p q) ->"
    wrong = {
        "the frames of a tubelet follow each other: (t s), not (s t)":
            rearrange(right, f"{back} b (s t) c (h p) (w q)", **lengths),
        "inside a tubelet the order is frame, colour, row, column; you read colour first":
            rearrange(right, "b t h w (c s p q) -> b (t s) c (h p) (w q)", **lengths),
        "the pixels of a patch are scattered over the frame: (h ph) (w pw)":
            rearrange(right, f"{back} b (t s) c (p h) (q w)", **lengths),
        "a view or reshape alone does not move pixels": right.reshape(video.shape),
    }  # fmt: skip
    diagnose(again, video, wrong, "the video put together again",
             "every pixel must return to its place and its frame")  # fmt: skip
    why = f"{t * span - 1} frames cannot be cut into tubelets of {span}"
    refuses(lambda: to_tubelets(video[:, 1:], span, patch), why)
