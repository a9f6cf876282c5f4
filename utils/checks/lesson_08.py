"""Checks of the exercises of lesson 08: patterns, what they compare, windows."""

import re

import torch
from einops import rearrange

from utils.checks.diagnose import (
    check_answers,
    check_shape,
    diagnose,
    explained,
    noise,
    numbers,
    sizes,
    unpack,
    whole,
)
from utils.checks.puzzles import STEPS, seen_by

AXES = ("(b t) (h w)", "b (t h w)", "(b h w) t", "(b t h) w", "(b t w) h", "(b w) (t h)")


def check_groups_and_tokens(groups_and_tokens, seed=0):
    """`groups_and_tokens(folded, attending, t, h, w)`: how many groups per clip, of how many tokens."""
    t, h, w = sizes(3, seed, of=(3, 4, 5, 7))
    for pattern in AXES:
        folded, attending = re.match(r"\(?([bthw ]+?)\)? \(?([thw ]+)\)?$", pattern).groups()
        right = tuple(rearrange(torch.empty(1, t, h, w), f"b t h w -> {pattern}").shape)
        with explained(
            "the first part names b, too: it counts clips, and of one clip there is 1", KeyError
        ):
            found = groups_and_tokens(folded, attending, t, h, w)
        found = unpack(found, "groups", "tokens")
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
    patches = noise(b, t, h, w, 3, seed=seed)
    seen = []

    def attend(groups):
        seen.append(groups)
        return groups.cumsum(1) + torch.arange(groups.shape[1])[:, None]

    right = patches.cumsum(1) + torch.arange(t).view(t, 1, 1, 1)
    given = patches.clone()
    out = time_attention(given, attend)
    assert torch.equal(given, patches), (
        "the patches that came in were changed: work on a new tensor"
    )
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
        "return what attend gives, without adding the patches": right + patches,
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
        "space": {
            "the class token is one token more in each frame": t * n**2,
            "the class token is one token more: add it before you square": t * (1 + n**2),
        },
        "joint": {
            "the class token is one token more": (t * n) ** 2,
            "there is one group, the whole clip": t * joint(t),
            "the whole clip is one group with one class token, not one for each frame": (t * (1 + n)) ** 2,
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
            "rows get a copy of the class token, too": time(t) + t * h * w**2 + t * w * (1 + h) ** 2,
            "columns get a copy of the class token, too": time(t) + t * h * (1 + w) ** 2 + t * w * h**2,
            "a row holds w patches, a column h": time(t) + t * h * (1 + h) ** 2 + t * w * (1 + w) ** 2,
            "every frame has its rows and columns": time(t) + h * (1 + w) ** 2 + w * (1 + h) ** 2,
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
    times, h, w = 3 + seed % 5, 4 + seed % 5, 4
    n = h * w  # time, space and joint above go by it
    first = next(t for t in range(1, 1000) if joint(t) >= times * (time(t) + space(t)))
    wrong = {
        f"with {first - 1} frames joint does not compare {times} times as many yet": first - 1,
        "one frame earlier it does already": first + 1,
        "joint compares more, so divided is the one to multiply": 1,
        "the class token counts, too": next(t for t in range(1, 1000) if t * n >= times * (t + n)),
    }
    diagnose(frames_until(times, h, w), first, wrong, f"frames_until({times}, {h}, {w})")
    n, h, w, times = 16, 4, 4, 15  # near h · w it takes many frames
    first = next(t for t in range(1, 1000) if joint(t) >= times * (time(t) + space(t)))
    diagnose(frames_until(times, h, w), first, {}, f"frames_until({times}, {h}, {w})")
    n, h, w, times = 4, 2, 2, 1  # and one frame may do
    first = next(t for t in range(1, 1000) if joint(t) >= times * (time(t) + space(t)))
    diagnose(frames_until(times, h, w), first, {}, f"frames_until({times}, {h}, {w})")


def check_read_reach(read_reach):
    """`read_reach()` names the exercise's panels and how many patches two of them show."""
    hints = {
        "global": "which panel shows every second patch, in every second frame?",
        "local": "which panel shows a quarter of every frame?",
        "time": "which panel shows one patch in every frame?",
        "columns": "which panel shows one column, in one frame only?",
        "local sees": "half of the rows, half of the columns, all four frames; the patch itself counts",
        "global sees": "half of the frames, half of the rows, half of the columns; the patch itself counts",
    }
    right = {name: letter for letter, (name, _) in STEPS.items()}
    right |= {f"{name} sees": int(seen_by(right[name]).sum()) for name in ("local", "global")}
    check_answers(read_reach(), right, hints)


def check_windows(fold_windows, unfold_windows, seed=0):
    """`fold_windows(patches, size, shift)` gathers windows in all frames; the other puts them back."""
    b, t, i, j = sizes(4, seed, of=(2, 3, 4, 5))
    size = 3 - seed % 2  # in windows of two, a shift by 1 is the same either way
    h, w = i * size, j * size
    patches = noise(b, t, h, w, 3, seed=seed)
    for shift in (0, 1, 2)[:size]:
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
            "the shift is given: it need not be half of the size": rearrange(
                patches.roll((-(size // 2) * (shift > 0),) * 2, (2, 3)), f"b t (i x) (j y) d -> {pattern}", x=size, y=size),
            "columns shift, too, not only rows":
                rearrange(patches.roll(-shift, 2), f"b t (i x) (j y) d -> {pattern}", x=size, y=size),
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
        assert torch.equal(patches, noise(b, t, h, w, 3, seed=seed)), (
            "the patches that came in were changed: roll makes a new tensor, do not write into the old one"
        )
        again = unfold_windows(found, size, shift, t, h, w)
        wrong = {
            "the shift is not undone": rolled,
            "the shift is made once more, not undone: roll the other way": rolled.roll(
                (-shift, -shift), (2, 3)
            ),
            "rows and columns shift back, frames stay": rolled.roll((shift, shift), (1, 2)),
            "columns shift back, too": rolled.roll(shift, 2),
        }
        diagnose(again, patches, wrong, f"the patches put back (size {size}, shift {shift})")
