"""Checks of the exercises of lessons 06 to 09: tokens, schemes, the divided block, the model."""

import re

import torch
from einops import rearrange, reduce, repeat
from torch import nn
from torch.nn import functional as F

from utils.diagnose import (
    check_answers,
    check_shape,
    close,
    diagnose,
    numbers,
    random,
    refuses,
    sizes,
    unpack,
    whole,
)

# Lesson 06 ------------------------------------------------------------------------------------


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
    }
    right = frames * h * w
    diagnose(tokens, right, wrong, f"the number of tokens {told}")
    wrong = {
        "query and key are two parts: (a, b) and (b, a) both count, and (a, a) too": right * (right - 1) // 2,
        "joint attention also compares patches of different frames": right**2 // frames,
        "a token is compared with itself too": right * (right - 1),
    }  # fmt: skip
    diagnose(pairs, right**2, wrong, f"the number of pairs {told}")
    for bad in ((height + 1, width), (height, width + 1), (patch // 2, 8 * patch)):
        why = f"{bad[0]} x {bad[1]} pixels cannot be cut into patches of {patch}"
        refuses(lambda bad=bad: tokens_and_pairs(frames, *bad, patch), why)


def check_back(back, seed=0):
    """`back(patches, patch)` puts the pixels of (b, t, h, w, c * patch²) back in their places."""
    b, t, h, w = sizes(4, seed, of=(2, 3, 4, 5))
    patch, colours = 2 + seed % 2, 2 + seed % 3
    video = torch.arange(b * t * colours * h * w * patch**2, dtype=torch.float32)
    video = video.view(b, t, colours, h * patch, w * patch)
    patches = rearrange(video, "b t c (h p) (w q) -> b t h w (c p q)", p=patch, q=patch)
    found = back(patches, patch)
    check_shape(found, video.shape, f"the video from patches of shape {tuple(patches.shape)}")
    wrong = {
        "the pixels of a patch are scattered over the frame: the patch's place is slow, the pixel's fast":
            rearrange(patches, "b t h w (c p q) -> b t c (p h) (q w)", p=patch, q=patch),
        "inside a patch the order is colour, row, column; you read row, column, colour":
            rearrange(patches, "b t h w (p q c) -> b t c (h p) (w q)", p=patch, q=patch),
        "rows and columns inside a patch are swapped":
            rearrange(patches, "b t h w (c q p) -> b t c (h p) (w q)", p=patch, q=patch),
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
    for index in (1, t * h + 1, t * h * w - 2):
        found = unpack(place(index, t, h, w), "the place for (t h w)", "the place for (w h t)")
        for (pattern, places), triple in zip(lists.items(), found):
            triple = tuple(whole(n, "a place") for n in unpack(triple, "frame", "row", "column"))
            right = places[index]
            other = next(places for name, places in lists.items() if name != pattern)[index]
            told = f'place {index} of "{pattern}" in {t} frames of {h} x {w}: {triple}'
            slow = dict(zip("thw", ("frames", "rows", "columns")))[pattern[1]]
            assert triple == right or triple != other, f"{told} is the place in the other layout"
            assert triple == right or triple != right[::-1], (
                f"{told}: give frame, row, column, in this order"
            )
            wrong = [
                name for name, a, b in zip(("frame", "row", "column"), triple, right) if a != b
            ]
            assert triple == right, (
                f"{told}: the {wrong[0] if wrong else ''} is wrong. The {slow} are slowest there"
            )


def check_positions(add_positions, seed=0):
    """`add_positions(patches, cls, space, time)` adds place and moment to the patches, copies cls."""
    b, t, h, w = sizes(4, seed, of=(2, 3, 3, 3) if seed == 1 else (2, 3, 4, 5))
    d = 3
    patches, cls = random(b, t, h, w, d, seed=seed), random(d, seed=seed + 1)
    space, time = random(h, w, d, seed=seed + 2), random(t, d, seed=seed + 3)
    right = patches + space + time[:, None, None]
    try:
        added = add_positions(patches.clone(), cls.clone(), space, time)
    except NotImplementedError:  # nothing written yet; a RuntimeError, as it happens
        raise
    except RuntimeError as error:
        raise AssertionError(
            f"the sizes do not fit ({error}): does time lie along the frames, space along rows and columns?"
        ) from error
    found, copies = unpack(added, "the patches", "the class token")
    wrong = {
        "the time embedding is missing": patches + space,
        "the space embedding is missing": patches + time[:, None, None],
        "the space embedding is added twice": right + space,
        "the time embedding is added twice": right + time[:, None, None],
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
    }
    diagnose(copies, cls.expand(b, d), wrong, "the class token")


def check_tubelets(to_tubelets, from_tubelets, seed=0):
    """`to_tubelets(video, span, patch)` cuts patches that span frames; the other puts them back."""
    b, t, h, w = sizes(4, seed, of=(2, 3, 4, 5))
    span, patch, c = 2 + seed % 2, 2, 3
    video = random(b, t * span, c, h * patch, w * patch, seed=seed)
    pattern = "b (t s) c (h p) (w q) -> b t h w"
    lengths = dict(s=span, p=patch, q=patch)
    right = rearrange(video, f"{pattern} (s c p q)", **lengths)
    found = to_tubelets(video, span, patch)
    wrong = {
        "the frames of a tubelet follow each other; yours are far apart: (t s), not (s t)":
            rearrange(video, "b (s t) c (h p) (w q) -> b t h w (s c p q)", **lengths),
        "inside a tubelet the order is frame, colour, row, column; you put colour first":
            rearrange(video, f"{pattern} (c s p q)", **lengths),
        "inside a tubelet the order is frame, colour, row, column; you put the frame last":
            rearrange(video, f"{pattern} (c p q s)", **lengths),
    }  # fmt: skip
    diagnose(found, right, wrong, "the tubelets")
    diagnose(from_tubelets(right, span, patch), video, {}, "the video put together again",
             "every pixel must return to its place and its frame")  # fmt: skip
    why = f"{t * span - 1} frames cannot be cut into tubelets of {span}"
    refuses(lambda: to_tubelets(video[:, 1:], span, patch), why)


# Lesson 07 ------------------------------------------------------------------------------------

AXES = ("(b t) (h w)", "b (t h w)", "(b h w) t", "(b t h) w", "(b t w) h", "(b w) (t h)")


def check_groups_and_tokens(groups_and_tokens, seed=0):
    """`groups_and_tokens(folded, attending, t, h, w)`: how many groups per clip, of how many tokens."""
    t, h, w = sizes(3, seed, of=(3, 4, 5, 7))
    for pattern in AXES:
        folded, attending = re.match(r"\(?([bthw ]+?)\)? \(?([thw ]+)\)?$", pattern).groups()
        right = tuple(rearrange(torch.empty(1, t, h, w), f"b t h w -> {pattern}").shape)
        found = unpack(groups_and_tokens(folded, attending, t, h, w), "groups", "tokens")
        found = tuple(whole(number, "groups and tokens") for number in found)
        told = f'"({folded}) ({attending})" with {t} frames of {h} x {w}: {found[0]} groups of {found[1]} tokens'
        assert found != right[::-1] or found == right, (
            f"{told}: the other way round. The first part is folded into the batch, the second attends"
        )
        assert found[0] * found[1] == t * h * w, (
            f"{told} makes {found[0] * found[1]} patches, there are {t * h * w}"
        )
        assert found == right, f"{told} is not right: the axes of the second part attend"


def check_patterns(patterns):
    """`patterns()` holds einops patterns for six ways to attend."""
    answers = patterns()
    meets = {
        "time": "t",
        "space": "hw",
        "rows": "w",
        "columns": "h",
        "joint": "thw",
        "slices": "th",
    }
    assert isinstance(answers, dict) and set(answers) == set(meets), (
        f"return a dict with the six names, not {answers!r}"
    )
    lengths = dict(b=2, t=3, h=4, w=5)
    address = torch.cartesian_prod(*(torch.arange(length) for length in lengths.values()))
    address = address.view(*lengths.values(), 4)
    names = dict(b="clips", t="frames", h="rows", w="columns")
    for name, axes in meets.items():
        pattern = answers[name]
        try:
            groups = rearrange(address, f"b t h w d -> {pattern} d")
            assert groups.ndim == 3
        except Exception as error:
            raise AssertionError(
                f'"{name}": {pattern!r} is not a pattern of two parts that uses b, t, h and w once each'
            ) from error
        varies = (groups != groups[:, :1]).any(0).any(0)
        for axis, differs in zip("bthw", varies.tolist()):
            assert differs == (axis in axes), (
                f'"{name}": with {pattern!r} patches of different {names[axis]} '
                f"{'meet; they should not' if differs else 'never meet; they should'}"
            )


def check_time_attention(time_attention, seed=0):
    """`time_attention(patches, attend)` gives `attend` one group for each place, and undoes the fold."""
    b, t, h, w = sizes(4, seed, of=(2, 3, 4, 5))
    patches = random(b, t, h, w, 3, seed=seed)
    seen = []

    def attend(groups):
        seen.append(groups)
        return groups.cumsum(1) + torch.arange(groups.shape[1])[:, None]

    right = patches.cumsum(1) + torch.arange(t).view(t, 1, 1, 1)
    out = time_attention(patches, attend)
    assert seen, "attend was never called"
    if len(seen) == 1:
        check_shape(seen[0], (b * h * w, t, 3), "what attend gets")
        folded = rearrange(patches, "b t h w d -> (b h w) t d")
        wrong = {
            "the groups are cut from the list as it lies, so they hold neighbouring places, not one place over time":
                patches.reshape(b * h * w, t, 3),
        }  # fmt: skip
        same = sorted(map(str, seen[0].tolist())) == sorted(map(str, folded.tolist()))
        if not same:
            diagnose(seen[0], folded, wrong, "what attend gets")
    wrong = {
        "folded right, but put back wrongly: reshape alone does not move the axes back":
            attend(rearrange(patches, "b t h w d -> (b h w) t d")).reshape(b, t, h, w, 3),
    }  # fmt: skip
    diagnose(out, right, wrong, "the result", "each token should return to the place it came from")


def check_scores(scores, frames_until, seed=0):
    """`scores(scheme, t, h, w)`: comparisons per clip and head; the frames until joint has many more."""
    t, h, w = sizes(3, seed, of=(5, 2, 3, 4))
    n = h * w

    def space(t):
        return t * (1 + n) ** 2

    def time(t):
        return n * t**2

    def joint(t):
        return (1 + t * n) ** 2

    told = f"for {t} frames of {h} x {w}"
    wrong = {
        "space": {"the class token is one token more in each frame": t * n**2},
        "joint": {
            "the class token is one token more": (t * n) ** 2,
            "there is one group, the whole clip": t * joint(t),
        },
        "divided": {
            "the space step is missing": time(t),
            "the time step is missing": space(t),
            "the class token takes no part in time steps": n * (1 + t) ** 2 + space(t),
            "the class token takes part in the space step": time(t) + t * n**2,
            "a group of n tokens has n² scores": n * t + t * (1 + n),
        },
        "axial": {
            "the step over columns is missing": time(t) + t * h * (1 + w) ** 2,
            "each row and each column gets a copy of the class token": time(t) + t * h * w**2 + t * w * h**2,
            "the class token takes no part in time steps":
                n * (1 + t) ** 2 + t * h * (1 + w) ** 2 + t * w * (1 + h) ** 2,
        },
    }  # fmt: skip
    right = {
        "space": space(t),
        "joint": joint(t),
        "divided": time(t) + space(t),
        "axial": time(t) + t * h * (1 + w) ** 2 + t * w * (1 + h) ** 2,
    }
    for scheme in right:
        diagnose(
            scores(scheme, t, h, w), right[scheme], wrong[scheme], f'scores("{scheme}") {told}'
        )
    times, h, w = 2 + seed, 4 + seed, 5
    n = h * w  # time, space and joint above go by it
    first = next(t for t in range(1, 1000) if joint(t) >= times * (time(t) + space(t)))
    wrong = {
        f"with {first - 1} frames joint does not compare {times} times as many yet": first - 1,
        "one frame earlier it does already": first + 1,
        "joint compares more, so divided is the one to multiply": 1,
    }
    diagnose(frames_until(times, h, w), first, wrong, f"frames_until({times}, {h}, {w})")


def check_read_reach(read_reach):
    """`read_reach()` names the exercise's panels and how many patches two of them show."""
    hints = {
        "global": "which panel shows every second patch, in every second frame?",
        "local": "which panel shows a quarter of every frame?",
        "time": "which panel shows one patch in every frame?",
        "columns": "which panel shows one column, in one frame only?",
        "local sees": "half of the rows, half of the columns, all four frames",
        "global sees": "half of the frames, half of the rows, half of the columns",
    }
    from utils.puzzles import STEPS, seen_by

    right = {name: letter for letter, (name, _) in STEPS.items()}
    right |= {f"{name} sees": int(seen_by(right[name]).sum()) for name in ("local", "global")}
    check_answers(read_reach(), right, hints)


def check_windows(fold_windows, unfold_windows, seed=0):
    """`fold_windows(patches, size, shift)` gathers windows in all frames; the other puts them back."""
    b, t, i, j = sizes(4, seed, of=(2, 3, 4, 5))
    size = 2 + seed % 2
    h, w = i * size, j * size
    patches = random(b, t, h, w, 3, seed=seed)
    for shift in (0, 1):
        rolled = patches.roll((-shift, -shift), (2, 3))
        pattern = "(b i j) (t x y) d"
        right = rearrange(rolled, f"b t (i x) (j y) d -> {pattern}", x=size, y=size)
        backwards = rearrange(
            patches.roll((shift, shift), (2, 3)), f"b t (i x) (j y) d -> {pattern}", x=size, y=size
        )
        wrong = {
            "a window holds neighbours; yours holds patches that are far apart":
                rearrange(rolled, f"b t (x i) (y j) d -> {pattern}", x=size, y=size),
            "the windows should move down and right: roll the patches up and left, by -shift": backwards,
            "the windows are not shifted": rearrange(patches, f"b t (i x) (j y) d -> {pattern}", x=size, y=size),
            "rows and columns shift, frames stay":
                rearrange(patches.roll((-shift, -shift), (1, 2)), f"b t (i x) (j y) d -> {pattern}", x=size, y=size),
        }  # fmt: skip
        name = f"the windows (size {size}, shift {shift})"
        found = numbers(fold_windows(patches, size, shift), name)
        assert found.ndim == 3, (
            f"{name} should be (groups, tokens, d), they are {tuple(found.shape)}"
        )
        assert found.shape[1] != size * size or t == 1, (
            f"{name}: patches of the same window attend in all frames; yours stay in one frame"
        )
        check_shape(found, right.shape, name)

        def windows(groups):  # which order the groups and the patches of a frame have is free
            frames = groups.double().reshape(len(groups), t, size * size, 3).tolist()
            return sorted([[sorted(frame) for frame in group] for group in frames])

        if windows(found) != windows(right):
            same = {
                message: value
                for message, value in wrong.items()
                if windows(found) == windows(value)
            }
            assert not same, "; or: ".join(same)
            diagnose(
                found,
                right,
                wrong,
                name,
                "a group should hold one window in all frames, frame after frame",
            )
        found = fold_windows(patches, size, shift)
        again = unfold_windows(found, size, shift, t, h, w)
        wrong = {"the shift is not undone": rolled}
        diagnose(again, patches, wrong, f"the patches put back (size {size}, shift {shift})")


# Lesson 08 ------------------------------------------------------------------------------------


def _mixing(seed, d):
    """A stand-in for attention: every token influences every other of its group, unevenly."""
    weight = random(d, d, seed=seed + 50)

    def attention(tokens):
        first = torch.tanh(
            tokens[:, :1] @ weight.T
        )  # the class token is told apart, patches are not
        return torch.tanh(tokens @ weight) + 2 * tokens.mean(1, keepdim=True) + first

    return attention


def check_copies(copies, seed=0):
    """`copies(t, h, w)`: how many copies of the class token each step makes, and what one sees."""
    t, h, w = sizes(3, seed, of=(5, 3, 4, 7))
    right = {
        "space": (t, h * w),
        "joint": (1, t * h * w),
        "rows": (t * h, w),
        "time as in the paper": (h * w, t),
    }
    answers = copies(t, h, w)
    hints = {
        "space": "every frame is a group",
        "joint": "there is one group",
        "rows": "every row of every frame is a group",
        "time as in the paper": "every place is a group of t patches, and has a copy",
    }
    hints = {key: f"{hint} (t = {t}, h = {h}, w = {w})" for key, hint in hints.items()}
    check_answers(answers, right, hints)


def _class_update(patches, cls, attention, pattern, order="(b g)", how="mean", where="cat"):
    """The update of a step with class token, and of its usual mistakes."""
    b, t, h, w, d = patches.shape
    tokens = rearrange(patches, f"b t h w d -> {pattern} d")
    g = len(tokens) // b
    copies = repeat(cls, f"b d -> {order} 1 d", g=g)
    if where == "zero":
        copies = torch.zeros_like(copies)
    parts = [tokens, copies] if where == "end" else [copies, tokens]
    tokens = attention(torch.cat(parts, dim=1))
    if where == "end and back":
        tokens = attention(torch.cat([parts[1], parts[0]], dim=1)).roll(1, 1)
    back = rearrange(tokens[:, 1:], f"{pattern} d -> b t h w d", b=b, t=t, h=h, w=w)
    copies = rearrange(tokens[:, 0], f"{order} d -> b g d", b=b)
    if how == "first":
        return back, copies[:, 0]
    if how == "patches":
        return back, reduce(back, "b t h w d -> b d", "mean")
    return back, reduce(copies, "b g d -> b d", how)


def _check_class_update(update, pattern, seed, wrong_patterns):
    b, t, h, w = sizes(4, seed, of=(2, 3, 4, 5))
    d = 3
    patches, cls = random(b, t, h, w, d, seed=seed), random(b, d, seed=seed + 1)
    attention = _mixing(seed, d)
    right = _class_update(patches, cls, attention, pattern)
    seen = []

    def watched(tokens):
        seen.append(tokens)
        return attention(tokens)

    found = unpack(update(patches.clone(), cls.clone(), watched), "the patches", "the class token")
    n = right[0][0].numel() // d // (len(rearrange(patches, f"b t h w d -> {pattern} d")) // b)
    if len(seen) == 1:
        assert seen[0].shape[1] == 1 + n, (
            f"attention got groups of {seen[0].shape[1]} tokens; a group is 1 class token and {n} patches"
        )
    mistakes = {
        "the class token's copies are in the wrong order: clip slow, group fast, like the patches; now clips are mixed":
            _class_update(patches, cls, attention, pattern, order="(g b)"),
        "the class token does not take part: the patches see nothing of it":
            _class_update(patches, cls, attention, pattern, where="zero"),
        "the copies belong in front of the patches, not behind them":
            _class_update(patches, cls, attention, pattern, where="end and back"),
        "the copies belong in front of the patches": _class_update(patches, cls, attention, pattern, where="end"),
    } | {
        message: _class_update(patches, cls, attention, other) for message, other in wrong_patterns.items()
    }  # fmt: skip
    wrong = {message: value[0] for message, value in mistakes.items()}
    wrong["return what the step adds, without the patches themselves"] = right[0] + patches
    diagnose(found[0], right[0], wrong, "what is added to the patches")
    wrong = {
        "keep all copies, not only the first group's":
            _class_update(patches, cls, attention, pattern, how="first")[1],
        "the copies are averaged, not summed": _class_update(patches, cls, attention, pattern, how="sum")[1],
        "average the copies of the class token, not the patches":
            _class_update(patches, cls, attention, pattern, how="patches")[1],
        "return what the step adds, without the class token itself": right[1] + cls,
    } | {message: value[1] for message, value in mistakes.items()}  # fmt: skip
    diagnose(found[1], right[1], wrong, "what is added to the class token",
             "average each clip's copies, and only those")  # fmt: skip


def check_space_update(update, seed=0):
    """`update(patches, cls, attention)` is what a space step with class token adds."""
    wrong = {
        "those groups hold one place in all frames; space attention stays in the frame": "(b h w) t"
    }
    _check_class_update(update, "(b t) (h w)", seed, wrong)


def check_paper_time_update(update, seed=0):
    """`update(patches, cls, attention)` is what a time step with class token, as in the paper, adds."""
    wrong = {
        "those groups hold the patches of one frame; time attention stays in place": "(b t) (h w)"
    }
    _check_class_update(update, "(b h w) t", seed, wrong)


def check_clips_are_apart(clips_are_apart, broken_update, seed=0):
    """`clips_are_apart(update)` finds updates in which one clip influences another."""

    def good(patches, cls, attention):
        return _class_update(patches, cls, attention, "(b t) (h w)")

    def only_patches_mixed(patches, cls, attention):
        update, copies = good(patches, cls, attention)
        return update + patches.mean(0, keepdim=True), copies

    def only_class_mixed(patches, cls, attention):
        update, copies = good(patches, cls, attention)
        return update, copies + cls.mean(0, keepdim=True)

    def verdict(update):
        found = clips_are_apart(update)
        assert found is not None, "nothing is returned; return True or False"
        return bool(found)

    assert verdict(good), (
        "your test rejects a correct update: does it look at the clip that was left as it was, "
        "and is your attention the same in both runs?"
    )
    assert not verdict(broken_update), (
        "your test accepts broken_update. Change the second clip by random numbers and look at the first; "
        "take several frames, and an attention that mixes the tokens of a group"
    )
    assert not verdict(only_class_mixed), (
        "your test accepts an update that mixes the clips' class tokens: change the second clip's, "
        "and compare the first clip's"
    )
    assert not verdict(only_patches_mixed), (
        "your test accepts an update that mixes the clips' patches: change the second clip's, "
        "and compare the first clip's"
    )
    if seed:
        assert verdict(lambda p, c, a: (0 * p, 0 * c)), "adding nothing mixes nothing"


def check_divided_block(divided_block, seed=0):
    """`divided_block(patches, cls, time, space, mlp)`: time, space, MLP, each with a skip connection."""
    b, t, h, w = sizes(4, seed, of=(2, 3, 4, 5))
    d = 3
    patches, cls = random(b, t, h, w, d, seed=seed), random(b, d, seed=seed + 1)
    maps = random(4, d, d, seed=seed + 2)

    def time(x):
        return torch.tanh(x @ maps[0]) + x.mean(1, keepdim=True)

    def space(x, c):
        middle = x.mean((2, 3), keepdim=True)
        return torch.tanh(x @ maps[1]) + middle + c.view(-1, 1, 1, 1, d), c @ maps[
            2
        ] + middle.flatten(2).mean(1)

    def mlp(x):
        return torch.sin(x @ maps[3])

    def after(x, c):
        dx, dc = space(x, c)
        x, c = x + dx, c + dc
        return x + mlp(x), c + mlp(c)

    def space_first(x, c):
        dx, dc = space(x, c)
        x, c = x + dx, c + dc
        x = x + time(x)
        return x + mlp(x), c + mlp(c)

    x = patches + time(patches)
    dx, dc = space(x, cls)
    sx, sc = space(patches, cls)
    both, both_cls = x + sx, cls + sc
    right = after(x, cls)
    mistakes = {
        "time comes first, then space": space_first(patches, cls),
        "space should see what time has made of the patches, not what came in":
            (both + mlp(both), both_cls + mlp(both_cls)),
        "the skip connection around time is missing": after(time(patches), cls),
        "the skip connections around space are missing": (dx + mlp(dx), dc + mlp(dc)),
        "the skip connection around the MLP is missing": (mlp(x + dx), mlp(cls + dc)),
        "the MLP is missing": (x + dx, cls + dc),
        "the time step is missing": after(patches, cls),
        "the MLP is to be added to what it was given": (x + mlp(x + dx), right[1]),
    }  # fmt: skip
    found = divided_block(patches.clone(), cls.clone(), time, space, mlp)
    found = unpack(found, "the patches", "the class token")
    wrong = {message: value[0] for message, value in mistakes.items()}
    diagnose(found[0], right[0], wrong, "the patches")
    wrong = {message: value[1] for message, value in mistakes.items() if "MLP" not in message}
    wrong["the class token goes through the MLP too"] = cls + dc
    wrong["the class token's skip connection around the MLP is missing"] = mlp(cls + dc)
    wrong["the class token takes part in space: add its update"] = cls + mlp(cls)
    diagnose(found[1], right[1], wrong, "the class token")


def check_asleep(asleep):
    """`asleep()` predicts what a fresh time step does and learns; compared with a measurement."""
    from utils.model import AttentionStep, Step

    torch.manual_seed(0)
    step = AttentionStep(6, 2, Step("(b h w) t", with_class=False, extra=True))
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1)
    patches, target = random(1, 3, 2, 2, 6), random(1, 3, 2, 2, 6, seed=1)
    moved, same = [], []
    for _ in range(2):
        out, _ = step(patches, torch.zeros(1, 6))
        same.append(torch.equal(out, patches))
        optimizer.zero_grad()
        ((out - target) ** 2).sum().backward()
        moved.append(
            [
                bool(layer.weight.grad.abs().max() > 0)
                for layer in (step.project, step.attention.fn.qkv)
            ]
        )
        optimizer.step()
    right = {
        "output": same[0],
        "project learns": moved[0][0],
        "attention learns": moved[0][1],
        "after one step": moved[1][1],
    }
    hints = {
        "output": "zero times anything, plus zero, added to the input",
        "project learns": "the derivative of W·a with respect to W is a, and a is not zero",
        "attention learns": "on its way back, the gradient passes through W, which is zero",
        "after one step": "is W still zero then?",
    }
    check_answers(asleep(), right, hints)


# Lesson 09 ------------------------------------------------------------------------------------


def check_parameters(parameters, seed=0):
    """`parameters(…)` counts a divided TimeSformer with the plain MLP, part by part."""
    from utils.model import TimeSformer, count_parameters

    classes, frames, side, d = sizes(4, seed, of=(11, 5, 3, 7))
    depth, patch = 2 + seed % 2, 4
    with torch.device("meta"):
        model = TimeSformer(
            classes, side * patch, frames, patch, d, depth, heads=1, activation="gelu"
        )
    right = count_parameters(model)
    wrong = {
        "the extra (d, d) layer of the time step is missing": right - depth * (d * d + d),
        "a divided block has two attentions": right - depth * 4 * (d * d + d),
        "the three norms of a block are missing": right - depth * 6 * d,
        "the last norm is missing": right - 2 * d,
        "the head has biases too": right - classes,
        "a vector of d numbers is missing: the class token, or the bias of the patch map": right - d,
        "a time embedding is shared by all places of a frame": right + frames * (side**2 - 1) * d,
        "a linear layer has biases": right - depth * (9 * d),
    }  # fmt: skip
    found = parameters(classes, side * patch, frames, patch, d, depth)
    told = f"parameters({classes}, {side * patch}, {frames}, {patch}, {d}, {depth})"
    found = whole(found, told)
    difference = found - right
    diagnose(found, right, wrong, told,
             f"you are off by {difference:+}; compare part by part with count_parameters")  # fmt: skip


def check_forward(forward, seed=0):
    """`forward(video, embedding, blocks, norm, head)` is the model's forward pass."""
    from utils.model import TimeSformer

    torch.manual_seed(seed)
    model = TimeSformer(5, 8, 3, 4, dim=6, depth=2 + seed % 3, heads=2).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    video = random(2, 3, 3, 8, 8, seed=seed)
    with torch.no_grad():
        patches, cls = model.embedding(video)
        first = model.blocks[0](patches, cls)
        stuck, early = patches, (patches, model.norm(cls))
        for block in model.blocks:
            stuck, _ = block(stuck, cls)
            early = block(*early)
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
            "the norm comes before the head, not after it": F.layer_norm(head(last[1]), (5,)),
        }  # fmt: skip
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
    embedding = random(t, d, seed=seed)
    channels = embedding.T[None]
    found = numbers(stretch_time(embedding.clone(), frames), "the stretched embeddings")
    check_shape(found, (frames, d), f"the embeddings of {t} frames stretched to {frames}")
    wrong = {
        "that repeats frames; take the mode \"linear\"": F.interpolate(channels, frames)[0].T,
        "without align_corners: each frame stands for a stretch of time, not for a point":
            F.interpolate(channels, frames, mode="linear", align_corners=True)[0].T,
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
    video, weight = random(b, t, 3, 4, 4, seed=seed), random(48, d, seed=seed + 1)
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
    from utils.model import TimeSformer

    right = {}
    cases = {
        "divided": ("divided", None),
        "divided, time embeddings zero": ("divided", "time"),
        "joint, time embeddings zero": ("joint", "time"),
        "space": ("space", None),
        "divided, space embeddings zero": ("divided", "space"),
    }
    video = random(1, 4, 3, 8, 8)
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
