"""Checks of the exercises of lessons 10 to 12: frames, training, predictions."""

import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from utils.diagnose import (
    check_answers,
    check_shape,
    diagnose,
    number,
    numbers,
    random,
    refuses,
    sizes,
    unpack,
    whole,
)

# Lesson 10 ------------------------------------------------------------------------------------


def _indices(found, n, total, name):
    """`found` as an int64 array, after checking that it can be a choice of n of total frames."""
    assert found is not None, f"{name}: nothing is returned"
    found = np.asarray(found)
    assert found.shape == (n,), f"{name} should be {n} indices, it is {found.shape}"
    assert np.issubdtype(found.dtype, np.integer), (
        f"{name}: an index is a whole number, not {found[0]!r}"
    )
    assert found.max() < total, (
        f"{name}: there is no frame {found.max()} among {total}; the last is {total - 1}"
    )
    assert found.min() >= 0, f"{name}: {found.min()} counts from the end"
    return found.astype(np.int64)


def check_uniform(uniform, seed=0):
    """`uniform(total, n)` is the middle of each of n equal segments; ValueError for impossible ones."""
    for total, n in [(75 + 3 * seed, 8), (9 + seed, 8), (8, 8), (31, 4 + seed), (50, 1)]:
        found = _indices(uniform(total, n), n, total, f"uniform({total}, {n})")
        i = np.arange(n)
        wrong = {
            "that is the start of each segment; take its middle": i * total // n,
            "that is the end of each segment; take its middle": (i + 1) * total // n - 1,
            "from the first to the last frame: the ends get too much weight; take the middle of each segment":
                np.linspace(0, total - 1, n).astype(int),
            "every k-th frame never reaches the end of the clip": i * (total // n),
            "one frame too late": (2 * i + 1) * total // (2 * n) + 1,
            "round down, not to the nearest": np.round((2 * i + 1) * total / (2 * n)).astype(int),
            "the middle of the segments themselves, before they are rounded to whole frames":
                (i * total // n + (i + 1) * total // n - 1) // 2,
        }  # fmt: skip
        diagnose(found, (2 * i + 1) * total // (2 * n), wrong, f"uniform({total}, {n})")
    for total, n in [(7, 8), (5, 0)]:
        refuses(
            lambda total=total, n=n: uniform(total, n), f"nobody can choose {n} of {total} frames"
        )


def check_one_of_each(one_of_each, seed=0):
    """`one_of_each(total, n, seed)` takes a random frame of each segment, reproducibly."""
    total, n = 19 + 5 * seed, 5  # segments of different lengths
    i = np.arange(n)
    low, high = i * total // n, (i + 1) * total // n
    name = f"one_of_each({total}, {n}, seed)"
    draws = np.stack([_indices(one_of_each(total, n, s), n, total, name) for s in range(300)])
    again = np.stack([_indices(one_of_each(total, n, s), n, total, name) for s in range(300)])
    assert (draws == again).all(), "the same seed should give the same frames"
    assert (draws[1:] != draws[0]).any(), "every seed gives the same frames: use the seed"
    outside = (draws < low) | (draws >= high)
    if outside.any():
        place = int(np.argwhere(outside)[0][1])
        raise AssertionError(
            f"segment {place} holds frames {low[place]} to {high[place] - 1}, you took {draws[outside][0]} from it"
        )
    for place in i:
        missing = sorted(set(range(low[place], high[place])) - set(draws[:, place].tolist()))
        assert not missing, (
            f"in 300 draws frame {missing[0]} of segment {place} ({low[place]} to {high[place] - 1}) was never taken"
        )
    shares = [
        np.bincount(draws[:, place] - low[place]).min() / 300 * (high - low)[place] for place in i
    ]
    assert min(shares) > 0.5, (
        "some frames of a segment are taken much less often than others: all should be equally likely"
    )
    offsets = (draws - low) / (high - low)
    assert np.abs(np.corrcoef(offsets.T)[0, 1:]).max() < 0.5, (
        "all segments take the frame at the same place: draw anew for each segment"
    )


def check_read_rgb(read_rgb, seed=0):
    """`read_rgb(path, indices)` gives those frames, RGB uint8; VideoError naming the file otherwise."""
    from utils.video import VideoError, write_video

    rng = np.random.default_rng(seed)
    frames = np.zeros((9, 24, 32, 3), np.uint8)
    frames[..., 0] = 200 - 20 * seed  # red everywhere: blue here means BGR
    frames[:, :12, :, 1] = (np.arange(9) * 25)[:, None, None]  # the upper half tells the frame
    frames[:, :, :16, 0] -= 80  # and the left half is darker
    indices = sorted(rng.choice(8, 3, replace=False).tolist()) if seed else [1, 4, 7]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "colours.mkv")
        write_video(path, frames)
        try:
            found = read_rgb(path, indices)
        except VideoError as error:
            raise AssertionError(
                f"frames {indices} of 9 are all there, but yours raises: {error}"
            ) from error
        assert isinstance(found, np.ndarray), f"return an array, not a {type(found).__name__}"
        assert found.shape == (3, 24, 32, 3), (
            f"the frames have shape {found.shape}, not (3, 24, 32, 3)"
        )
        assert found.dtype == np.uint8, f"the frames are {found.dtype}, not uint8"
        red, green, blue = found[0].reshape(-1, 3).mean(0)
        assert red > blue, "red and blue are swapped: OpenCV reads blue, green, red"
        assert found[:, :, :12, 0].mean() < found[:, :, 20:, 0].mean(), "the frames are mirrored"
        shown = found[:, :10, :, 1].mean((1, 2)) / 25
        below = found[:, 14:, :, 1].mean((1, 2)) / 25
        assert not (below > shown + 0.5).any(), "the frames are upside down"
        assert np.abs(shown - indices).max() < 0.4, (
            f"frames {indices} were asked for, you return {[round(float(s)) for s in shown]}"
        )
        for bad, wanted, why in [
            (path, [2, 9], "has 9 frames, and frame 9 is the tenth"),
            (Path(folder, "missing.mp4"), [0], "does not exist"),
        ]:
            try:
                found = read_rgb(bad, wanted)
            except VideoError as error:
                assert bad.name in str(error), f"the error should name the file: {error}"
            except NotImplementedError:
                raise
            except Exception as error:
                raise AssertionError(
                    f"{bad.name} {why}: raise a VideoError, not a {type(error).__name__}"
                ) from error
            else:
                raise AssertionError(
                    f"{bad.name} {why}: raise a VideoError; you return "
                    + ("nothing" if found is None else f"an array of {len(found)}")
                )


def check_fit(fit, seed=0):
    """`fit(frame, height, width)` scales until the frame is covered, and crops the centre."""
    from utils.video import fit_frame

    rows, columns = ((60, 90), (90, 50), (40, 120), (64, 80), (30, 50))[seed % 5]
    y, x = np.mgrid[0:rows, 0:columns]
    frame = np.stack([255 * y / rows, 255 * x / columns, 90 + 0 * x], -1).round().astype(np.uint8)
    for height, width in [(30, 30), (24, 36), (36, 20), (100, 110)]:
        told = f"a frame of {rows} x {columns} fitted into {height} x {width}"
        found = fit(frame.copy(), height, width)
        assert isinstance(found, np.ndarray), f"{told}: return an array, not {type(found).__name__}"
        assert found.shape != (width, height, 3) or height == width, (
            f"{told} comes out as {found.shape[:2]}: cv2.resize wants (width, height)"
        )
        assert found.shape == (height, width, 3), f"{told} comes out as {found.shape[:2]}"
        assert found.dtype == np.uint8, f"{told} is {found.dtype}, not uint8"
        assert found[..., 2].min() > 60, (
            f"{told}: there are borders; scale until the frame covers all of it"
        )
        right = fit_frame(frame, (height, width)).astype(float)

        def edges(picture):  # where the first and last row and column of the picture come from
            return np.array(
                [
                    picture[0, :, 0].mean(),
                    picture[-1, :, 0].mean(),
                    picture[:, 0, 1].mean(),
                    picture[:, -1, 1].mean(),
                ]
            )

        want, off = edges(right), edges(found) - edges(right)
        spread = np.diff(edges(found))[::2] / np.diff(want)[::2]
        pixel = (
            1.6 * np.abs(np.diff(want)[::2] / (height - 1, width - 1)).max()
        )  # rounding moves it by one
        assert spread.max() < 1.12, (
            f"{told}: it is squeezed. Scale both sides by the same factor, then crop"
        )
        assert spread.min() > 0.88, f"{told}: too much is cut off; scale the frame first"
        assert np.abs(off).max() < max(6, pixel), (
            f"{told}: it should show the centre; cut equally on both ends"
        )
    noise = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert fit(noise, 16, 16).std() < 28, (
        "fine patterns survive when the frame becomes smaller, and will flicker: use cv2.INTER_AREA there"
    )
    step = np.zeros((8, 8, 3), np.uint8)
    step[:, 4:] = 255
    between = fit(step, 32, 32)
    assert ((between > 10) & (between < 245)).any(), (
        "a frame that becomes larger shows steps: use cv2.INTER_LINEAR there"
    )
    for side in range(33, 80):  # a rounded side may be a pixel too short
        for other in (32, 49, 61):
            found = fit(np.zeros((side, other, 3), np.uint8), 32, 32)
            assert found.shape == (32, 32, 3), (
                f"a frame of {side} x {other} fitted into 32 x 32 comes out as {found.shape[:2]}: is a rounded side a pixel too short?"
            )


def check_at_rate(at_rate, seed=0):
    """`at_rate(total, fps, new_fps)`: the frame on the screen at each moment of the new rate."""
    for total, fps, new_fps in [
        (30 + seed, 30, 10),
        (20, 25 + seed, 10),
        (9, 8, 24),
        (7, 30, 12),
        (12, 8, 8),
    ]:
        right = [m * fps // new_fps for m in range(10 * total) if m * fps // new_fps < total]
        told = f"at_rate({total}, {fps}, {new_fps})"
        found = numbers(at_rate(total, fps, new_fps), told)
        assert found.numel() and found.ndim == 1, (
            f"{told} should be a list of indices, it is {tuple(found.shape)}"
        )
        found = [whole(index, told) for index in found]
        assert max(found) < total, f"{told} asks for frame {max(found)}; the last is {total - 1}"
        assert fps <= new_fps or found == right or found != list(range(0, total, fps // new_fps)), (
            f"{told}: every k-th frame keeps the rate only where k is whole: {fps} / {new_fps} is not"
        )
        assert len(found) == len(right), (
            f"{told} has {len(found)} moments; {total} frames at {fps} a second last {total / fps:.2f} s, "
            f"in which {len(right)} moments at {new_fps} a second begin"
        )
        place = next((m for m in range(len(right)) if found[m] != right[m]), None)
        assert place is None, (
            f"{told}: at moment {place}, {place / new_fps:.3f} s, frame {right[place]} is on the screen "
            f"(from {right[place] / fps:.3f} s), you say {found[place]}"
        )


def check_split(split_by_person, seed=0):
    """`split_by_person(names, share, seed)` puts all clips of a person on one side."""
    rng = np.random.default_rng(seed)
    persons = ["anna", "amir", "ann", "bo_li", "bo", "bo_ann", "emil", "fay", "gus", "hana"]
    counts = rng.permutation([1, 1, 2, 2, 3, 3, 4, 6, 8, 10])
    names = [f"{person}_{k}.mp4" for person, count in zip(persons, counts) for k in range(count)]
    splits = set()
    for s in range(8):
        train, test = unpack(split_by_person(list(names), 0.3, s), "training names", "test names")
        assert sorted([*train, *test]) == sorted(names), (
            "every file belongs to exactly one side; some are lost or on both"
        )
        sides = [{name.rsplit("_", 1)[0] for name in side} for side in (train, test)]
        both = sides[0] & sides[1]
        assert not both, f"{sorted(both)[0]} is on both sides: move whole persons"
        smaller = len(test) - min(counts[persons.index(p)] for p in sides[1]) if sides[1] else 0
        largest = max((counts[persons.index(p)] for p in sides[1]), default=0)
        assert len(test) >= 0.3 * len(names), (
            f"the test side holds {len(test)} of {len(names)} files, less than 0.3 of them: count files, not persons"
        )
        assert len(test) - largest < 0.3 * len(names) or smaller < 0.3 * len(names), (
            f"the test side holds {len(test)} of {len(names)} files, more persons than needed; "
            "are training and test side swapped?"
        )
        for turn in range(4):
            again = split_by_person(list(np.random.default_rng(turn).permutation(names)), 0.3, s)
            assert sorted(map(str, again[1])) == sorted(test), (
                "the split depends on the order of the names: sort the persons before you shuffle"
            )
        together = [p for p in ("anna", "amir") if p in sides[1]]
        splits.add((tuple(sorted(test)), len(together)))
    even = [f"p{person}_{k}.mp4" for person in range(10) for k in range(2)]
    assert len(split_by_person(even, 0.3, seed)[1]) == 6, (
        "ten persons with two files each, share 0.3: three persons, 6 of 20 files, are exactly enough"
    )
    assert len(splits) > 1, "every seed gives the same split: use the seed"
    apart = {number for _, number in splits}
    if seed:
        apart |= {
            sum(p in {n.rsplit("_", 1)[0] for n in split_by_person(list(names), 0.3, s)[1]} for p in ("anna", "amir"))
            for s in range(8, 40)
        }  # fmt: skip
        assert 1 in apart, (
            "anna and amir always go together: the person is what stands before the last _"
        )


# Lesson 11 ------------------------------------------------------------------------------------


def check_losses(losses, seed=0):
    """`losses(num_classes, p)`: the cross-entropy of knowing nothing, and of probability p."""
    classes, p = (400, 6, 10, 1000)[seed % 4], (0.99, 0.5, 0.9, 0.25)[seed % 4]
    alike, sure = unpack(losses(classes, p), "the loss of equal classes", "the loss at p")
    wrong = {
        "a loss is not negative: -ln of a probability": -math.log(classes),
        "that is the probability; the loss is -ln of it": 1 / classes,
        "take the natural logarithm, not that of base 2": math.log2(classes),
        "take the natural logarithm, not that of base 10": math.log10(classes),
    }
    diagnose(
        alike, math.log(classes), wrong, f"the loss of {classes} equal classes", tolerance=0.005
    )
    wrong = {
        "a loss is not negative: -ln of a probability": math.log(p),
        "that is the missing probability; the loss is -ln of p": 1 - p,
        "take the natural logarithm, not that of base 2": -math.log2(p),
        "take the natural logarithm, not that of base 10": -math.log10(p),
    }
    diagnose(sure, -math.log(p), wrong, f"the loss at probability {p}", tolerance=0.005)


def check_learning_rate(learning_rate, seed=0):
    """`learning_rate(step, steps, peak, warm_up)` rises linearly, then falls along half a cosine."""
    steps, warm_up, peak = 50 + 30 * seed, 10 - seed, 0.004 * (seed + 1)
    found = [
        number(learning_rate(k, steps, peak, warm_up), f"the rate of step {k}")
        for k in range(steps)
    ]
    step = np.arange(steps)
    progress = (step - warm_up) / (steps - warm_up)
    rise = peak * (step + 1) / warm_up
    up = step < warm_up

    def schedule(fall, rise=rise):
        return np.where(up, rise, peak * fall)

    cosine = 0.5 * (1 + np.cos(np.pi * progress))
    wrong = {
        "the first step has a rate of 0, so it learns nothing: count it as 1": schedule(cosine, peak * step / warm_up),
        "there is no warm-up": peak * cosine,
        "the fall is a straight line; it should be half a cosine": schedule(1 - progress),
        "a whole cosine comes up again: half of one, π · progress": schedule(0.5 * (1 + np.cos(2 * np.pi * progress))),
        "the fall begins at step 0; progress is 0 at the end of the warm-up": schedule(0.5 * (1 + np.cos(np.pi * step / steps))),
        "the rate falls below 0: half of (1 + cos)": schedule(np.cos(np.pi * progress)),
        "after the warm-up the rate stays where it is": schedule(1.0),
        "after the warm-up the rate starts at half the peak": schedule(cosine / 2),
    }  # fmt: skip
    wrong["step warm_up is the first of the fall, not the last of the rise"] = np.where(
        step <= warm_up, rise, peak * cosine
    )
    wrong["the fall would reach 0 at step `steps`, which is one behind the last"] = np.where(
        up, rise, peak * 0.5 * (1 + np.cos(np.pi * (step - warm_up) / (steps - 1 - warm_up)))
    )
    diagnose(
        found,
        schedule(cosine),
        wrong,
        f"the rate of steps 0 to {steps - 1} (warm-up {warm_up})",
        tolerance=1e-8,
    )


def check_mirror(mirror, seed=0):
    """`mirror(clips, labels)` exchanges left and right, in the clips and in the labels."""
    from utils.motion import make_clips

    clips, labels = make_clips(12, seed)
    kept, kept_labels = clips.copy(), labels.copy()
    found, after = unpack(mirror(clips, labels), "the clips", "the labels")
    assert isinstance(found, np.ndarray), f"return an array of clips, not {type(found).__name__}"
    assert (clips == kept).all(), "the clips that came in were changed: work on a copy"
    assert (labels == kept_labels).all(), "the labels that came in were changed: work on a copy"
    wrong = {
        "that is upside down: the width is axis 3": clips[:, :, ::-1],
        "that is backwards in time: the width is axis 3": clips[:, ::-1],
        "you turn the colours round: the width is axis 3": clips[..., ::-1],
        "the clips were not mirrored": clips,
    }
    diagnose(np.ascontiguousarray(found), np.ascontiguousarray(clips[:, :, :, ::-1]),
             {message: np.ascontiguousarray(value) for message, value in wrong.items()}, "the mirrored clips")  # fmt: skip
    only_once = np.where(labels < 2, 0, labels)
    half = np.where(labels == 0, 1, labels)
    wrong = {
        'a mirrored "left" is a "right": turn the labels too': labels,
        'in a mirror "up" stays up and "approach" still approaches': np.array([1, 0, 3, 2, 5, 4])[
            labels
        ],
        "left becomes right, but right has to become left too": half,
        "left became right, and then right became left again: look up all labels at once": only_once,
    }
    diagnose(after, np.where(labels < 2, 1 - labels, labels), wrong, "the labels")


class _Small(nn.Module):
    """A model with dropout, for the checks of training steps."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.linear, self.dropout = nn.Linear(4, 3), nn.Dropout(0.5)
        self.modes = []

    def forward(self, x):
        self.modes.append(self.training)
        return self.linear(self.dropout(x))


def check_train_step(train_step, seed=0):
    """`train_step(model, optimizer, inputs, targets, clip_norm)` is one step of training."""
    inputs, targets = random(6, 4, seed=seed) * 5, torch.arange(6) % 3
    clip = 0.1 if seed % 2 == 0 else 100.0  # 100 is never reached

    def prepared():
        model = _Small(seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.7)  # left over from another step
        torch.manual_seed(seed)
        return model, optimizer

    def variant(forget=True, clip_it=True, values=False, double=False, training=True):
        model, optimizer = prepared()
        model.train(training)
        logits = model(inputs)
        loss = F.cross_entropy(logits.softmax(-1) if double else logits, targets)
        if forget:
            optimizer.zero_grad()
        loss.backward()
        if clip_it and values:
            nn.utils.clip_grad_value_(model.parameters(), clip)
        elif clip_it:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        return model.linear.weight.detach(), loss.item()

    model, optimizer = prepared()
    model.eval()  # as an evaluation leaves it
    start = model.linear.weight.detach().clone()
    loss = train_step(model, optimizer, inputs, targets, clip)
    assert model.modes, "the model was not called"
    assert model.modes[-1], "the model ran in eval mode: put it into training mode first"
    assert not isinstance(loss, torch.Tensor), "return the loss as a number: loss.item()"
    after, right_loss = variant()
    wrong = {"F.cross_entropy takes logits: no softmax before it": variant(double=True)[1]}
    diagnose(loss, right_loss, wrong, "the loss")
    wrong = {
        "the weights did not move: does the optimiser step, with gradients that are there?": start,
        "gradients of an earlier step are added in: forget them before backward": variant(forget=False)[0],
        "the gradients are not limited when they are used: clip after backward, before the step": variant(clip_it=False)[0],
        "old gradients are added in, and nothing is clipped": variant(forget=False, clip_it=False)[0],
        "limit the norm of all gradients together, not each number": variant(values=True)[0],
    }  # fmt: skip
    diagnose(model.linear.weight, after, wrong, "the weights after the step")


def check_accuracy(accuracy, seed=0):
    """`accuracy(model, clips, labels)` is a share, measured in eval mode, leaving no trace."""
    from utils.training import to_video

    rng = np.random.default_rng(seed)
    clips = rng.integers(0, 256, (40, 2, 4, 4, 3), dtype=np.uint8)
    torch.manual_seed(seed)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout, self.head = nn.Dropout(0.9), nn.Linear(96, 4)
            self.tracked = []

        def forward(self, video):
            self.tracked.append(torch.is_grad_enabled())
            return self.head(self.dropout(video.flatten(1)))

    model = Model().eval()
    with torch.no_grad():
        logits = model(to_video(clips))
    labels = logits.argmax(-1).numpy()
    labels[: 10 + seed] = (labels[: 10 + seed] + 1) % 4
    right = 1 - (10 + seed) / 40
    model.tracked.clear()
    for mode in (True, False):
        model.train(mode)
        found = number(accuracy(model, clips, labels), "the accuracy")
        wrong = {
            "a share is between 0 and 1; you return a number of clips": right * 40,
            "a share is between 0 and 1; you return per cent": right * 100,
            "that is the share of mistakes": 1 - right,
            "take the most probable class, not the least": (
                logits.argmin(-1).numpy() == labels
            ).mean(),
        }
        but = "is dropout off while you measure, and is argmax over the classes?"
        diagnose(found, right, wrong, "the accuracy", but)
        assert model.training == mode and model.dropout.training == mode, (
            f"the model came in {'training' if mode else 'eval'} mode and should leave in it, with all its parts: model.train(mode)"
        )
    assert not any(model.tracked), "gradients were kept: measure under torch.no_grad()"


def check_training_curves(read_curves):
    """`read_curves()` names the runs of the exercise's picture."""
    from utils.puzzles import RUNS

    names = {
        "the recipe": ("the recipe", "which line reaches the top, and for every seed?"),
        "frames never meet (space only)": ("space only", "no motion can be seen, so one class of six is a guess"),
        "no time embeddings": ("no time embedding", "the axis of a motion stays visible, its direction does not"),
        "clips turned in four ways, labels not": (
            "labels not remapped", "turned, transposed and reversed: what stays true of the label?"),
    }  # fmt: skip
    letter = {what: name for name, what in RUNS.items()}
    right = {name: letter[what] for name, (what, _) in names.items()} | {"settles at": 0.5}
    hints = {name: hint for name, (_, hint) in names.items()}
    hints["settles at"] = (
        "the pair is known (left or right, up or down, approach or recede), the rest is a coin"
    )
    check_answers(read_curves(), right, hints)


# Lesson 12 ------------------------------------------------------------------------------------


def check_softmax_by_hand(by_hand):
    """`by_hand()`: a probability, three logits, and the probability after adding 100."""
    a, b, c = unpack(by_hand(), "(a)", "(b)", "(c)")
    a, c = number(a, "(a)"), number(c, "(c)")
    right = math.exp(3) / (math.exp(3) + 1)
    assert abs(float(a) - (1 - right)) > 0.01, "(a) that is the other class's probability"
    assert abs(float(a) - 1) > 1e-6, "(a) the other class has a logit of 0, and e⁰ is 1, not 0"
    assert abs(float(a) - right) < 0.006, f"(a) {float(a):.2f} is not right: e³ / (e³ + e⁰)"
    b = numbers(b, "(b)")
    check_shape(b, (3,), "(b)")
    assert b[2] == 0, "(b) the last logit should be 0"
    found = b.softmax(-1)
    told = ", ".join(f"{value:.2f}" for value in found.tolist())
    wanted = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    assert (found - wanted).abs().max() < 0.01, (
        f"(b) your logits give {told}: twice the probability is a logit larger by ln 2"
    )
    assert abs(float(c) - right) < 0.006, (
        "(c) softmax sees differences: the same number added to all logits changes nothing"
    )


def check_softmax(softmax, seed=0):
    """`softmax(logits)` over the last axis, without overflow."""
    n, classes = sizes(2, seed, of=(3, 5, 4, 6))
    logits = random(n, classes, seed=seed) * 3 + random(n, 1, seed=seed + 1) * 5
    exp = logits.exp()
    wrong = {
        "each clip's shares should sum to 1, over its classes; yours sum to 1 over the clips": logits.softmax(0),
        "all numbers together sum to 1; each row should": exp / exp.sum(),
        "the rows do not sum to 1: do the shares of a row share its sum?": logits.sigmoid(),
        "shares of e^logit, not of the logits": logits / logits.sum(-1, keepdim=True),
        "that is the logarithm of the softmax": logits.log_softmax(-1),
    }  # fmt: skip
    shifted = (logits - logits.max(-1, keepdim=True).values).exp()
    wrong["each clip's shares should sum to 1, over its classes"] = shifted / shifted.sum(
        0, keepdim=True
    )
    diagnose(softmax(logits), logits.softmax(-1), wrong, "the shares")
    many = random(2, n, classes, seed=seed)
    diagnose(softmax(many), many.softmax(-1), {}, "the shares for (b, n, classes)")
    diagnose(softmax(many[0, 0]), many[0, 0].softmax(-1), {}, "the shares for one row")
    for large in (torch.tensor([[1000.0, 999.0, 998.0]]), torch.tensor([[0.0, 1.0], [-2000.0, -2001.0]]),
                  torch.tensor([[1000.0, 0.0, -1000.0]])):  # fmt: skip
        found = numbers(softmax(large), "the shares")
        assert found.isfinite().all(), (
            f"for logits like {large[-1].tolist()} the result is not a number: take each row's largest away first"
        )
        diagnose(found, large.softmax(-1), {}, f"the shares for logits like {large[-1].tolist()}")


def check_top(top, seed=0):
    """`top(probabilities, names, k)`: the k most probable as (name, probability); ValueError beyond."""
    names = ["left", "right", "up", "down", "approach", "recede"]
    probabilities, k = random(6, seed=seed).softmax(-1), 2 + seed % 3
    order = probabilities.argsort(descending=True)[:k].tolist()
    found = top(probabilities, names, k)
    assert isinstance(found, list) and all(
        isinstance(pair, tuple | list) and len(pair) == 2 for pair in found
    ), f"return a list of (name, probability), not {found!r}"
    assert all(isinstance(pair[0], str) for pair in found), (
        f"each pair is (name, probability), not {found[0]!r}"
    )
    assert len(found) == k, f"{k} classes were asked for, you return {len(found)}"
    said = [name for name, _ in found]
    worst = [names[i] for i in probabilities.argsort()[:k].tolist()]
    assert said != worst, "those are the least probable"
    assert said != names[:k] or said == [names[i] for i in order], (
        "those are the first names, whatever their probability"
    )
    assert said == [names[i] for i in order], (
        f"the order should be {[names[i] for i in order]}, it is {said}"
    )
    diagnose([float(value) for _, value in found], probabilities[order], {}, "their probabilities")
    assert len(top(probabilities, names, 6)) == 6, "6 of 6 classes are allowed"
    error = refuses(lambda: top(probabilities, names, 7), "7 of 6 classes were asked for")
    assert "7" in str(error) and "6" in str(error), f"the error should name both numbers: {error}"


def check_temperature(with_temperature_two, best_temperature, seed=0):
    """What a temperature of 2 changes, and which of some candidates has the smallest cross-entropy."""
    hints = {
        "accuracy": "does the order of the logits change?",
        "confidence": "do the differences between the logits grow or shrink?",
    }
    check_answers(with_temperature_two(), {"accuracy": "same", "confidence": "down"}, hints)
    generator = torch.Generator().manual_seed(seed)
    logits = random(300, 4, seed=seed) * 2
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    stretched = logits * (3.0, 0.4, 2.0, 5.0, 0.3)[seed % 5]
    candidates = [0.25, 0.3, 0.4, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0]

    def loss(temperature):
        return F.cross_entropy(stretched / temperature, labels).item()

    right = min(candidates, key=loss)
    found = best_temperature(stretched, labels, candidates)
    found = number(found, "the best temperature")
    assert any(abs(found - candidate) < 1e-6 for candidate in candidates), (
        f"one of the candidates, not {found}"
    )
    twice = [F.cross_entropy(stretched.softmax(-1) / t, labels).item() for t in candidates]
    accuracy = [-(((stretched / t).argmax(-1) == labels).float().mean().item()) for t in candidates]
    usual = {
        "F.cross_entropy takes logits: no softmax before it": candidates[int(np.argmin(twice))],
        "accuracy is the same at every temperature; take the cross-entropy": candidates[
            int(np.argmin(accuracy))
        ],
        "divide the logits by the temperature; you multiply": min(
            candidates, key=lambda t: loss(1 / t)
        ),
        "that is the one with the largest loss": max(candidates, key=loss),
    }
    seen = [message for message, value in usual.items() if abs(found - value) < 1e-6]
    assert abs(found - right) < 1e-6, (
        f"temperature {found:g} has a cross-entropy of {loss(found):.3f}, {right} has {loss(right):.3f}"
        + (f": {'; or: '.join(seen)}" if seen else "")
    )


def _calibration_error(probabilities, labels, bins, absolute=True, weighted=True, clamp=True):
    confidence, predicted = probabilities.max(-1)
    correct = (predicted == labels).double()
    place = (confidence * bins).long()
    place = place.clamp(max=bins - 1) if clamp else place
    total, used = 0.0, [k for k in range(bins) if (place == k).any()]
    for k in used:
        inside = place == k
        gap = confidence[inside].mean() - correct[inside].mean()
        gap = gap.abs() if absolute else gap
        total += gap * (inside.double().mean() if weighted else 1 / len(used))
    return abs(float(total))


def _without_sure(probabilities, labels, bins):
    """The error when clips of confidence 1 are in no bin, but count among all clips."""
    unsure = probabilities.max(-1).values < 1
    share = unsure.double().mean().item()
    return share * _calibration_error(probabilities[unsure], labels[unsure], bins)


def check_calibration(calibration_error, seed=0):
    """`calibration_error(probabilities, labels, bins)` is the expected calibration error."""
    generator = torch.Generator().manual_seed(seed)
    probabilities = (random(400, 3, seed=seed) * 3).softmax(-1)
    confidence, predicted = probabilities.max(-1)
    labels = torch.randint(0, 3, (400,), generator=generator)  # mostly wrong: too sure …
    unsure = (confidence > 0.55) & (confidence < 0.65) | (confidence > 0.9)
    labels[unsure] = predicted[unsure]  # … and here always right: not sure enough
    sure = torch.tensor([1.0, 0.0, 0.0]).expand(80, 3)
    probabilities = torch.cat([probabilities, sure])
    labels = torch.cat([labels, torch.arange(80) % 2])  # sure, and wrong every other time
    for bins in (10, 20 + seed):
        right = _calibration_error(probabilities, labels, bins)
        confidence, predicted = probabilities.max(-1)
        overall = abs(float(confidence.mean() - (predicted == labels).double().mean()))
        wrong = {
            "too sure in one bin may not cancel too unsure in another: take each gap's size":
                _calibration_error(probabilities, labels, bins, absolute=False),
            "a bin counts as much as it holds clips; yours all weigh the same":
                _calibration_error(probabilities, labels, bins, weighted=False),
            "a confidence of exactly 1 falls out of the last bin": _without_sure(probabilities, labels, bins),
            "a confidence of exactly 1 belongs to the last bin, not to one of its own":
                _calibration_error(probabilities, labels, bins, clamp=False),
            "gaps cancel, and all bins weigh the same":
                _calibration_error(probabilities, labels, bins, absolute=False, weighted=False),
            "gaps cancel, bins weigh the same, and a confidence of exactly 1 falls out":
                _calibration_error(probabilities, labels, bins, absolute=False, weighted=False, clamp=False),
            "that compares the means over all clips; compare within bins": overall,
            "use the number of bins that is asked for": _calibration_error(probabilities, labels, 10),
        }  # fmt: skip
        found = number(calibration_error(probabilities, labels, bins=bins), "the calibration error")
        assert found == found, (
            "the error is not a number: a bin without clips has no mean, so pass it over"
        )
        diagnose(found, right, wrong, f"the calibration error with {bins} bins")


def check_two_views(two_views, seed=0):
    """`two_views(plain, mirrored)` averages after putting left and right of the second back."""
    plain = (random(4, 6, seed=seed) * 2).softmax(-1)
    mirrored = (random(4, 6, seed=seed + 1) * 2).softmax(-1)
    swap, pairs = [1, 0, 2, 3, 4, 5], [1, 0, 3, 2, 5, 4]
    back = mirrored[:, swap]
    wrong = {
        'the mirrored "left" is a "right": put its columns back first': (plain + mirrored) / 2,
        "in a mirror up stays up, and approach still approaches": (plain + mirrored[:, pairs]) / 2,
        "only the mirrored probabilities need putting back": (plain + mirrored)[:, swap] / 2,
        "an average, not a sum: rows sum to 1": plain + back,
        "an average of the two, not the larger one": torch.maximum(plain, back),
        "exchange columns (classes), not rows (clips)": (plain + mirrored[[1, 0, 2, 3]]) / 2,
    }
    right = (plain + back) / 2
    twice = mirrored.clone()
    twice[:, 0] = mirrored[:, 1]
    wrong["left and right were exchanged one after the other in place: both are right now"] = (
        plain + twice
    ) / 2
    wrong["only the mirrored probabilities need putting back, not the plain ones"] = (
        plain[:, swap] + mirrored
    ) / 2
    diagnose(two_views(plain.clone(), mirrored.clone()), right, wrong, "the averaged probabilities")


def check_rollout(rollout, share_of_patches, seed=0):
    """`rollout(matrices)` multiplies the layers with their skips; the other reads the class token's row."""
    n, layers = sizes(2, seed, of=(4, 3, 5, 6))
    matrices = list((random(layers, n, n, seed=seed) * 2).softmax(-1))
    itself = torch.eye(n)

    def product(parts):
        total = itself
        for part in parts:
            total = part @ total
        return total

    halves = [(matrix + itself) / 2 for matrix in matrices]
    elementwise = itself
    for half in halves:
        elementwise = half * elementwise
    wrong = {
        "the later layer stands on the left": product(halves[::-1]),
        "the skip connection is missing: half of each token stays itself": product(matrices),
        "each layer is the mean of A and I: halve the sum": product([2 * half for half in halves]),
        "the layers are multiplied, not averaged": sum(matrices) / layers,
        "a matrix product, not number by number": elementwise,
        "the last layer alone is not the rollout": halves[-1],
    }
    right = product(halves)
    diagnose(rollout([matrix.clone() for matrix in matrices]), right, wrong, "the rollout")
    wrong = {
        "a row says at whom the class token looks; you take the column": right[1:, 0]
        / right[1:, 0].sum(),
        "make the shares sum to 1": right[0, 1:],
        "without the class token's share of itself": right[0],
    }
    diagnose(
        share_of_patches(right),
        right[0, 1:] / right[0, 1:].sum(),
        wrong,
        "the shares of the patches",
    )
