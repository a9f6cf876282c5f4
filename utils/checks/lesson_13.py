"""Checks of the exercises of lesson 13: leaks, windows, and a model that beats the rule of length."""

import math

import numpy as np
import torch

from utils import lips
from utils.checks.diagnose import check_answers, diagnose, number, unpack
from utils.training import predict


def check_shows_the_length(shows_the_length):
    """`shows_the_length()`: which ways of cutting a word out show how long it is."""
    right = {
        "stretched": True,
        "centred": False,
        "padded": True,
        "blackened": True,
        "first twelve": False,
    }
    hints = {
        "stretched": "twelve frames of a word that has four: how often does each of them come?",
        "centred": "every window has twelve frames of one sentence, one after the other, long word or short",
        "padded": "count the black frames",
        "blackened": "count the black frames: twelve, less the length of the word",
        "first twelve": "twelve frames one after the other, whatever the word: where it ends is not marked",
    }
    check_answers(shows_the_length(), right, hints)


def check_lip_window(window, seed=0):
    """`window(first, end, total, num_frames)`: the frames round a word's middle, none outside."""
    for num_frames in (12, 7) if seed == 0 else ((12, 8, 10, 7, 5)[seed % 5],):
        _check_lip_window(window, 40 + 3 * (seed % 5), num_frames)


def _check_lip_window(window, total, num_frames):
    words = (
        (17.0, 23.25),
        (20.5, 28.0),
        (1.0, 3.5),
        (total - 4.25, total - 0.5),
    )  # no start falls on a half
    for first, end in words:
        start = round((first + end) / 2 - num_frames / 2)
        frames = np.arange(start, start + num_frames)
        late = np.arange(round(first), round(first) + num_frames)
        middle = np.arange(round((first + end) / 2), round((first + end) / 2) + num_frames)
        wrong = {
            "frames beyond an end of the sentence come back at the other end; repeat the outermost frame": frames % total,
            "the window starts at the word; it should lie round the word's middle": late.clip(0, total - 1),
            "the window starts at the word, and comes back at the sentence's other end": late % total,
            "the window starts in the middle of the word; half of it should come before": middle.clip(0, total - 1),
            "the window was pushed into the sentence: keep its place, and repeat the outermost frame":
                np.arange(num_frames) + min(max(start, 0), total - num_frames),
            "round once, when num_frames / 2 has been subtracted":
                (frames - start + round((first + end) / 2) - num_frames // 2).clip(0, total - 1),
            "round to the nearest frame, not down":
                (frames - start + math.floor((first + end) / 2 - num_frames / 2)).clip(0, total - 1),
            "half the window comes before the middle: num_frames / 2, not 6": (frames - start + round((first + end) / 2 - 6)).clip(0, total - 1),
            "the middle is (first + end) / 2, not half the length": (frames - start + round((end - first) / 2 - num_frames / 2)).clip(0, total - 1),
            "round to the nearest frame, do not cut off":
                (frames - start + int((first + end) / 2 - num_frames / 2)).clip(0, total - 1),
            "there is no such frame: repeat the outermost one": frames,
            "the last frame has the number total - 1": frames.clip(0, total),
            "stretched from the first frame to the last, it shows how long the word is":
                np.linspace(first, end, num_frames).round(),
        }  # fmt: skip
        told = f"the window of a word from {first} to {end} in {total} frames"
        found = window(first, end, total, num_frames)
        diagnose(found, frames.clip(0, total - 1), wrong, told)
        assert np.asarray(found).dtype.kind in "iu", (
            f"{told}: the numbers are right, but of the kind {np.asarray(found).dtype}; an index is a whole number"
        )


def check_by_length(by_length, seed=0):
    """`by_length(train, length)`: the commonest word among those of the nearest length."""
    cases = [
        ([(4, "by"), (4, "by"), (4, "at"), (9, "with"), (9, "with"), (9, "with")], 4.25, "by"),
        ([(3, "at"), (5, "in"), (5, "in"), (3, "with"), (8, "by")], 4, "in"),  # both sides count
        ([(5, "at"), (3, "in"), (3, "in"), (5, "with"), (8, "by")], 4, "in"),
        ([(5, "at"), (3, "in"), (3, "in"), (5, "with"), (8, "by")], 7, "by"),
        (
            [(6, word) for word in ("with", "now", "set", "red", "lay", "bin", "soon", "place")],
            6,
            "bin",
        ),
        ([(6, "set"), (6, "lay"), (9, "bin")], 7, "lay"),  # equally common: the alphabet
        ([(2, "at"), (7, "with"), (7, "by"), (7, "by"), (2, "at"), (2, "at")], 30, "by"),
        ([(4, "at"), (4, "by"), (4, "by"), (9, "at"), (9, "at")], 4, "by"),  # counted there only
        ([(4, "at"), (4.25, "by"), (4.25, "by")], 4, "at"),  # near is not nearest
    ]
    rng = np.random.default_rng(seed)
    if seed:
        train = [(int(n) / 4, word) for n, word in zip(rng.integers(8, 40, 60), rng.choice(["bin", "lay", "place", "set"], 60))]  # fmt: skip
        for length in (1.5, 4.5, 6.1, 12.0):
            nearest = min(abs(other - length) for other, _ in train)
            near = sorted(str(word) for other, word in train if abs(other - length) == nearest)
            cases.append((train, length, max(dict.fromkeys(near), key=near.count)))
    for train, length, right in cases:
        given = list(train)
        try:
            found = by_length(given, length)
        except (ValueError, IndexError, KeyError) as error:
            raise AssertionError(
                f"for length {length} yours raises {type(error).__name__}: {error}. Which words of training did it choose from?"
            ) from error
        assert given == train, "the list that came in was changed: work on a new one"
        assert isinstance(found, str), f"return a word, not {found!r}"
        if found == right:
            continue
        words = [word for _, word in train]
        commonest = max(sorted(set(words)), key=words.count)
        nearest = min(train, key=lambda pair: abs(pair[0] - length))
        told = f"for length {length} the rule should say {right!r}, it says {found!r}"
        far = min(abs(other - length) for other, _ in train)
        near = [word for other, word in train if abs(other - length) == far]
        rounded = [word for other, word in train if round(abs(other - length)) == round(far)]
        if near.count(found) == near.count(right):
            told += "; both are equally common: take the first in the alphabet"
        elif found in near and words.count(found) > words.count(right):
            told += "; count how common a word is among those that are as near, and not in all of training"
        elif len(rounded) > len(near) and rounded.count(found) > rounded.count(right):
            told += "; only the nearest count, to the last quarter of a frame: do not round"
        elif found == commonest:
            told += "; that is the commonest of all words, whatever its length"
        elif found == nearest[1]:
            told += "; that is one word of the nearest length: take the commonest of all that are as near, shorter and longer"
        raise AssertionError(told)


def check_reader(model, needed=2 / 3):
    """A model with four classes that is right on two thirds of the colours for validation."""
    assert isinstance(model, torch.nn.Module), (
        f"return the model alone, not a {type(model).__name__}"
    )
    size = getattr(model, "clip_shape", None)
    assert size in (None, (8, 3, 32, 48)), (
        f"the model takes clips of {size}; make it with num_frames=8 and image_size=(32, 48)"
    )
    words = lips.words("validation", "colour")
    windows, labels = lips.windows(words, 8, progress=False)
    shares = predict(model, lips.channels(windows))
    assert shares.shape == (len(words), 4), (
        f"the model should have four classes, it answers with {shares.shape[-1]}"
    )
    right = (shares.argmax(-1).numpy() == labels - lips.CLASSES.index("blue")).mean()
    length = lips.guess_by_length(lips.words("train", "colour"), words) == labels
    assert right >= needed, (
        f"{right:.0%} of the colours are right; the rule of length has {length.mean():.0%}, and {needed:.0%} are "
        "asked for. Your model was shown lips.channels(windows): was it trained on these? For enough epochs?"
    )
    print(f"{right:.0%} of {len(words)} colours right; by length alone {length.mean():.0%}")


def check_read_sentence(read, sure, seed=0):
    """`read(shares)`: the likeliest word of each slot; `sure(shares)`: of the whole sentence."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(len(lips.CLASSES), 0.3), 6)
    possible = lips.SLOT_OF == np.arange(6)[:, None]
    right = [lips.CLASSES[k] for k in np.where(possible, shares, -1).argmax(axis=1)]
    given = shares.copy()
    found = unpack(read(given), *[f"the word of slot {slot}" for slot in lips.SLOTS])
    assert (given == shares).all(), "the shares that came in were changed: work on a copy"
    assert all(isinstance(word, str) for word in found), (
        f"return words, not their numbers: {found!r}"
    )
    found = [str(word) for word in found]
    within = [lips.CLASSES[row[mask].argmax()] for row, mask in zip(shares, possible)]
    assert found != within, (
        "that is the place of a word within its slot, and lips.CLASSES wants its place among all 51"
    )
    freely = [lips.CLASSES[k] for k in shares.argmax(axis=1)]
    assert found != freely, (
        "those are the likeliest of all 51 words: in each window only the words of its slot are possible"
    )
    off = [slot for slot, ours, theirs in zip(lips.SLOTS, right, found) if ours != theirs]
    assert not off, f"the {off[0]} is wrong: the words should be {right}, they are {found}"
    inside = np.where(possible, shares, 0)
    best, whole = inside.max(axis=1), inside.sum(axis=1)
    wrong = {
        "each share counts among the words of its slot: divide by their sum": best.prod(),
        "all six have to be right: multiply": (best / whole).mean(),
        "all six have to be right: multiply, not the smallest": (best / whole).min(),
        "only words of the slot are possible": (shares.max(axis=1) / whole).prod(),
        "add nothing up: multiply the six": (best / whole).sum(),
    }
    told = number(sure(given), "how sure the sentence is")
    assert (given == shares).all(), "the shares that came in were changed: work on a copy"
    diagnose(told, (best / whole).prod(), wrong, "how sure the sentence is", tolerance=1e-7)
