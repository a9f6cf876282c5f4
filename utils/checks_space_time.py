"""Checks of the exercises of lessons 06 to 09: tokens, schemes, the divided block, the model."""

import torch
from einops import rearrange

from utils.diagnose import check_answers, check_shape, diagnose, random, sizes

# Lesson 06 ------------------------------------------------------------------------------------


def check_tokens_and_pairs(tokens_and_pairs, seed=0):
    """`tokens_and_pairs(frames, height, width, patch)`: patch tokens, and pairs of joint attention."""
    frames, h, w, patch = sizes(4, seed, of=(3, 2, 5, 4))
    height, width = h * patch, w * patch
    tokens, pairs = tokens_and_pairs(frames, height, width, patch)
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
    for bad in ((height + 1, width), (height, width + 1)):
        try:
            tokens_and_pairs(frames, *bad, patch)
        except ValueError:
            continue
        raise AssertionError(
            f"{bad[0]} x {bad[1]} pixels cannot be cut into patches of {patch}: raise a ValueError"
        )


def check_back(back, seed=0):
    """`back(patches, patch)` puts the pixels of (b, t, h, w, c * patch²) back in their places."""
    b, t, h, w = sizes(4, seed, of=(2, 3, 4, 5))
    patch, colours = 2 + seed % 2, 3 if seed == 0 else 1 + seed % 4
    video = torch.arange(b * t * colours * h * w * patch**2, dtype=torch.float64)
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
    for index in (1, t * h + 1, t * h * w - 2):
        found = place(index, t, h, w)
        assert isinstance(found, tuple) and len(found) == 2, f"return two triples, not {found!r}"
        for (pattern, order), triple in zip(orders.items(), found):
            right = tuple(order[index].tolist())
            triple = tuple(int(number) for number in triple)
            told = f'place {index} of "{pattern}" in {t} frames of {h} x {w}'
            assert triple != right[::-1] or triple == right, (
                f"{told}: give frame, row, column, in this order"
            )
            slow = dict(zip("thw", ("frames", "rows", "columns")))[pattern[1]]
            assert triple == right, f"{told} is not {triple}: the {slow} are slowest there"


def check_positions(add_positions, seed=0):
    """`add_positions(patches, cls, space, time)` adds place and moment to the patches, copies cls."""
    b, t, h, w = sizes(4, seed, of=(2, 3, 3, 3) if seed == 1 else (2, 3, 4, 5))
    d = 3
    patches, cls = random(b, t, h, w, d, seed=seed), random(d, seed=seed + 1)
    space, time = random(h, w, d, seed=seed + 2), random(t, d, seed=seed + 3)
    right = patches + space + time[:, None, None]
    try:
        found, copies = add_positions(patches.clone(), cls, space, time)
    except NotImplementedError:  # nothing written yet; a RuntimeError, as it happens
        raise
    except RuntimeError as error:
        raise AssertionError(
            f"the sizes do not fit ({error}): does time lie along the frames, space along rows and columns?"
        ) from error
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
    try:
        to_tubelets(video[:, 1:], span, patch)
    except ValueError:
        return
    raise AssertionError(
        f"{t * span - 1} frames cannot be cut into tubelets of {span}: raise a ValueError"
    )


# Lesson 07 ------------------------------------------------------------------------------------

AXES = ("(b t) (h w)", "b (t h w)", "(b h w) t", "(b t h) w", "(b t w) h", "(b w) (t h)")


def check_groups_and_tokens(groups_and_tokens, seed=0):
    """`groups_and_tokens(pattern, t, h, w)`: how many groups per clip, of how many tokens."""
    t, h, w = sizes(3, seed, of=(3, 4, 5, 7))
    for pattern in AXES:
        groups = rearrange(torch.empty(1, t, h, w), f"b t h w -> {pattern}")
        right = tuple(groups.shape)
        found = tuple(int(number) for number in groups_and_tokens(pattern, t, h, w))
        told = f'"{pattern}" with {t} frames of {h} x {w}: {found[0]} groups of {found[1]} tokens'
        assert found != right[::-1] or found == right, (
            f"{told}: the other way round. The first part is folded into the batch, the second attends"
        )
        assert found[0] * found[1] == t * h * w, (
            f"{told} makes {found[0] * found[1]} patches, there are {t * h * w}"
        )
        assert found == right, f"{told} is not right: the axes after the first part attend"


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
    right = dict(zip(hints, ("A", "C", "D", "B", 36, 18)))
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
        found = fold_windows(patches, size, shift)
        assert found.shape[1] != size * size or t == 1, (
            f"{name}: patches of the same window attend in all frames; yours stay in one frame"
        )
        diagnose(found, right, wrong, name)
        again = unfold_windows(found, size, shift, t, h, w)
        wrong = {"the shift is not undone": rolled}
        diagnose(again, patches, wrong, f"the patches put back (size {size}, shift {shift})")
