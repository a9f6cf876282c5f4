"""Spoken words in real video: 867 silent sentences of one man, in data/lips.

Every sentence has six words in a fixed grammar, "bin white by h one again": a word for each slot.
The clips are 75 frames of 64 × 96 pixels round the mouth; words.csv says when which word is spoken.
From the GRID corpus (Cooke, Barker, Cunningham, Shao 2006), CC BY 4.0; see data/lips/README.md.
"""

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm.auto import tqdm

from utils.paths import DATA
from utils.video import VideoError, read_frames

LIPS = DATA / "lips"
WORDS_TABLE, MEAN_MOUTH = "words.csv", "mean_mouth.png"
FRAME_SIZE, FPS = (64, 96), 25  # pixels (height, width); frames a second
SPLITS = ("train", "validation", "test")
GRAMMAR = {
    "command": ("bin", "lay", "place", "set"),
    "colour": ("blue", "green", "red", "white"),
    "preposition": ("at", "by", "in", "with"),
    "letter": tuple("abcdefghijklmnopqrstuvxyz"),  # no w: the only long one
    "digit": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "adverb": ("again", "now", "please", "soon"),
}
SLOTS = tuple(GRAMMAR)
# Letters whose names look alike, as phoneticians group them: by what lips and teeth do in them. The
# tongue is behind the teeth in most, and hardly seen. (After Fisher 1968, "visemes".)
LIP_SHAPES = {
    "lips meet": "bpm",
    "lip on teeth": "fv",
    "lips round": "oquy",
    "lips forward": "ghj",
    "teeth close": "cdlnstxz",
    "mouth open": "aeikr",
}
CLASSES = tuple(word for words in GRAMMAR.values() for word in words)  # all 51, slot by slot
SLOT_OF = np.repeat(np.arange(len(SLOTS)), [len(words) for words in GRAMMAR.values()])  # of a class

# What the model sees: a window of frames in the middle of each word, cropped round the mouth, with
# a margin (frames, pixels) on every side, in which `augment` and `views` move it.
NUM_FRAMES, IMAGE_SIZE, MARGIN = 12, (32, 48), (2, 3)
NOTHING, SPREAD = 115, 29  # `to_video` turns them into 0 and 0.5


class Word(NamedTuple):
    """A spoken word: which sentence it is in, what it is, and when it is spoken, in frames."""

    sentence: str
    slot: str
    word: str
    first: float
    end: float


def words(split=None, slot=None, folder=LIPS):
    """The words of a split (of SPLITS) and a slot (of SLOTS), sentence by sentence; None: all.

    ValueError for another split or slot, VideoError when the folder has no words.csv.
    """
    if split not in (None, *SPLITS):
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    if slot not in (None, *SLOTS):
        raise ValueError(f"unknown slot {slot!r}; there are {', '.join(SLOTS)}")
    path = Path(folder, WORDS_TABLE)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror}; python -m utils.course lips makes such a folder") from error  # fmt: skip
    return [
        Word(row["sentence"], row["slot"], row["word"], float(row["first_frame"]), float(row["end_frame"]))
        for row in rows
        if split in (None, row["split"]) and slot in (None, row["slot"])
    ]  # fmt: skip


def clip_path(sentence, folder=LIPS):
    """The video of a sentence."""
    return Path(folder, "clips", f"{sentence}.mp4")


def labels_of(words):
    """The class of each word, an index into CLASSES: (n,) int64."""
    index = {word: number for number, word in enumerate(CLASSES)}
    return np.array([index[word.word] for word in words], dtype=np.int64)


def crop(frames, size):
    """The middle of each frame: (t, height, width, 3) -> (t, *size, 3)."""
    top, left = ((whole - part) // 2 for whole, part in zip(frames.shape[1:3], size))
    return frames[:, top : top + size[0], left : left + size[1]]


def grey(frames, size=IMAGE_SIZE):
    """A sentence in grey, with the same brightness and contrast as every other.

    Mean and spread are measured in the middle (`size`) of all its frames: lamps and camera changed from
    day to day, and are not what is to be learned. Shapes: (t, height, width, 3) uint8 RGB -> (t, height,
    width) uint8, with mean NOTHING and spread SPREAD.
    """
    light = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    light = light.astype(np.float32)
    middle = crop(light, size)
    light = (light - middle.mean()) * (SPREAD / max(middle.std(), 1))
    return (light + NOTHING).round().clip(0, 255).astype(np.uint8)


def channels(windows):
    """What the model is shown instead of red, green and blue: grey, change, and difference.

    How bright each pixel is; how much it has changed since the frame before, twice as strong; how it
    differs from the window's average picture. No change, no difference: NOTHING. A linear map of a
    patch sees one frame only: the second channel lets it see movement. Shapes: (n, t, height, width)
    uint8 -> (n, t, height, width, 3) uint8.
    """
    light = windows.astype(np.float32)
    change = np.diff(light, axis=1, prepend=light[:, :1])
    difference = light - light.mean(axis=1, keepdims=True)
    shown = np.stack([light, NOTHING + 2 * change, NOTHING + difference], axis=-1)
    return shown.round().clip(0, 255).astype(np.uint8)


def window(word, total, num_frames=NUM_FRAMES):
    """Which frames of a sentence with `total` frames show a word: (num_frames,) int64.

    Always the same number, around the middle of the word, whether it is long or short: frames
    stretched from its first to its last would tell how long it is, and that alone gives away a
    third to a half of the words (`guess_by_length`). Beyond either end of the sentence its outermost
    frame is repeated.
    """
    start = round((word.first + word.end) / 2 - num_frames / 2)
    return np.arange(start, start + num_frames).clip(0, total - 1)


def windows(words, num_frames=NUM_FRAMES, size=IMAGE_SIZE, margin=(0, 0), folder=LIPS, progress=True):  # fmt: skip
    """The window of each word, in `grey`, with its label.

    `margin` is (frames, pixels) more on every side. Shapes: -> windows (n, num_frames + 2 * frames,
    height + 2 * pixels, width + 2 * pixels) uint8, labels (n,) int64. ValueError when the window is
    larger than the clips.
    """
    frames, pixels = margin
    view = size[0] + 2 * pixels, size[1] + 2 * pixels
    if view[0] > FRAME_SIZE[0] or view[1] > FRAME_SIZE[1]:
        raise ValueError(f"the clips have {FRAME_SIZE} pixels, too few for {size} with a margin of {pixels}")  # fmt: skip

    def read(sentence):
        return crop(grey(read_frames(clip_path(sentence, folder)), size), view)

    names = sorted({word.sentence for word in words})
    with ThreadPoolExecutor() as pool:
        how = dict(unit="sentence", disable=not progress, leave=False)
        clips = dict(zip(names, tqdm(pool.map(read, names), "reading lips", len(names), **how)))
    cut = np.empty((len(words), num_frames + 2 * frames, *view), np.uint8)
    for place, word in zip(cut, words):
        clip = clips[word.sentence]
        place[:] = clip[window(word, len(clip), len(place))]
    return cut, labels_of(words)


# While training ------------------------------------------------------------------------------------


def moved(windows, frames, rows, columns, margin=MARGIN):
    """Each window without its margin, `frames`, `rows` and `columns` away from its middle.

    Shapes: (b, t + 2 * margin, height + 2 * margin, width + 2 * margin), three (b,) arrays of whole
    numbers between -margin and margin -> (b, t, height, width).
    """
    t, height, width = np.array(windows.shape[1:]) - 2 * np.array([margin[0], margin[1], margin[1]])
    return np.stack([
        window[f : f + t, r : r + height, c : c + width]
        for window, f, r, c in zip(windows, margin[0] + frames, margin[1] + rows, margin[1] + columns)
    ])  # fmt: skip


def centred(windows, margin=MARGIN):
    """Each window without its margin: a view of the same memory."""
    f, p = margin
    _, t, height, width = windows.shape
    return windows[:, f : t - f, p : height - p, p : width - p]


def respeed(windows, num_frames, speed, late):
    """Look at windows at another speed: frames between frames are mixed from their neighbours.

    `speed` 1.1 shows a tenth more of the word in the same number of frames; `late` moves the middle, in
    frames. Shapes: (b, t, height, width) uint8, two (b,) arrays -> (b, num_frames, height, width)
    float32. Beyond the window its outermost frames are repeated.
    """
    t = windows.shape[1]
    steps = np.arange(num_frames) - (num_frames - 1) / 2
    place = (t - 1) / 2 + late[:, None] + speed[:, None] * steps  # (b, num_frames)
    place = place.clip(0, t - 1)
    before = np.minimum(place.astype(int), t - 2)
    share = (place - before).astype(np.float32)[..., None, None]
    clip = np.arange(len(windows))[:, None]
    return windows[clip, before] * (1 - share) + windows[clip, before + 1] * share


def vary(windows, rng, margin=MARGIN, pace=1.0):
    """Other ways in which the same word might have been filmed, and said.

    Each window is moved within its margin, half of them are mirrored (a mirrored mouth says the same
    word), the mouth is up to 15 % quicker or slower and up to a frame early or late (`pace` times that),
    light and contrast change a little. Shapes: (b, t + 2 * frames, height + 2 * pixels, width +
    2 * pixels) uint8 -> (b, t, height, width) uint8.
    """
    b, (frames, pixels) = len(windows), margin
    none = np.zeros(b, np.int64)
    rows, columns = rng.integers(-pixels, pixels + 1, (2, b))
    windows = moved(windows, none, rows, columns, (0, pixels))
    mirrored = rng.random(b) < 0.5
    windows[mirrored] = windows[mirrored, ..., ::-1]
    speed, late = np.exp(pace * rng.uniform(-0.15, 0.15, b)), pace * rng.uniform(-1, 1, b)
    windows = respeed(windows, windows.shape[1] - 2 * frames, speed, late)
    contrast, light = rng.uniform([[0.8], [-6]], [[1.2], [6]], (2, b)).astype(np.float32)
    contrast, light = contrast[:, None, None, None], light[:, None, None, None]
    windows = NOTHING + light + contrast * (windows - NOTHING)
    return windows.round().clip(0, 255).astype(np.uint8)


def mix(clips, labels, rng, often=0.5):
    """Lay every clip over another one of the batch, as thinly as drawn, and its label with it.

    `often` is the share of the batches that are mixed; the others stay as they are. Shapes: (b, ...)
    uint8, (b,) -> the same, and shares of the classes (b, 51) float32. Source: Zhang et al. 2018,
    "mixup", arXiv 1710.09412.
    """
    shares = np.eye(len(CLASSES), dtype=np.float32)[labels]
    if rng.random() < 1 - often:
        return clips, shares
    share, other = np.float32(rng.beta(0.4, 0.4)), rng.permutation(len(clips))
    clips = share * clips + (1 - share) * clips[other]
    return clips.round().astype(np.uint8), share * shares + (1 - share) * shares[other]


def augment(windows, labels, rng, often=0.5, pace=1.0):
    """`vary` (at that `pace`), `mix` (so `often`) and `channels`, for `fit`.

    Shapes: windows with their MARGIN and (b,) -> (b, t, height, width, 3) uint8 and (b, 51) float32.
    """
    windows, shares = mix(vary(windows, rng, pace=pace), labels, rng, often)
    return channels(windows), shares


def views(windows, margin=MARGIN, aside=1):
    """Eighteen ways to look at each window: slower, as said, quicker; a frame early, in time, a frame
    late; each of these nine from a place of its own, the middle or up to `aside` pixels from it (at most
    the margin; 0: all straight on); and these mirrored. Their predictions, averaged, are better than one.
    Shapes: windows with their margin -> a list of `channels`, each (n, t, height, width, 3).
    """
    none, frames, seen = np.zeros(len(windows)), windows.shape[1] - 2 * margin[0], []
    # every speed at every moment; rows and columns are two Latin squares: nine places
    for i, j in np.ndindex(3, 3):
        place = aside * ((i + j + 2) % 3 - 1), aside * ((i - j + 1) % 3 - 1)
        still = centred(np.roll(windows, place, axis=(2, 3)), (0, margin[1]))
        view = respeed(still, frames, none + (0.88, 1, 1.13)[i], none + j - 1)
        seen += [channels(view.round().astype(np.uint8)[..., ::way]) for way in (1, -1)]
    return seen


# Reading -------------------------------------------------------------------------------------------


def in_slot(probabilities, slots):
    """The most probable class among those of a slot: the grammar says which slot it is.

    Shapes: (n, 51), (n,) numbers of SLOTS -> (n,) int64, classes.
    """
    possible = SLOT_OF[None] == np.asarray(slots)[:, None]
    return np.where(possible, probabilities, -1).argmax(axis=1)


def together(answers):
    """What several models say, as one answer: the geometric mean of their probabilities.

    It leaves little to a word that one of them rules out; 1e-6 more, so that no 0 is final. Shapes:
    (models, n, 51) -> (n, 51) float32, rows sum to 1.
    """
    shares = np.exp(np.log(np.asarray(answers, np.float32) + 1e-6).mean(axis=0))
    return shares / shares.sum(axis=1, keepdims=True)


def accuracies(probabilities, labels):
    """Shares of right answers: among all 51 words ("all"), and with the slot known: of all ("in_slot"),
    and of each slot."""
    probabilities, slots = np.asarray(probabilities), SLOT_OF[labels]
    known = in_slot(probabilities, slots) == labels
    by_slot = {SLOTS[slot]: known[slots == slot].mean().item() for slot in np.unique(slots)}
    right = probabilities.argmax(axis=1) == labels
    return dict(all=right.mean().item(), in_slot=known.mean().item(), **by_slot)


# Cheats: what can be told without seeing a mouth move -----------------------------------------------


def guess_by_length(train, words):
    """A rule that sees no pixel: in each slot, the word of training that was oftenest this long.

    `train` and `words` are lists of `Word`; lengths are the corpus's, in quarters of a frame; a length
    never seen counts as the nearest one that was. Shapes: -> (n,) int64, classes.
    """

    def length_of(word):
        return round(4 * (word.end - word.first))

    counts = {}
    for word, label in zip(train, labels_of(train)):
        lengths = counts.setdefault(word.slot, {}).setdefault(length_of(word), {})
        lengths[label] = lengths.get(label, 0) + 1

    def guess(word):
        lengths, length = counts[word.slot], length_of(word)
        nearest = min(lengths, key=lambda other: (abs(other - length), other))
        return max(lengths[nearest], key=lambda label: (lengths[nearest][label], -label))

    return np.array([guess(word) for word in words])


def one_frame(windows):
    """The middle frame in every place: a photograph. Shapes: (n, t, height, width) -> the same."""
    return np.repeat(windows[:, [windows.shape[1] // 2]], windows.shape[1], axis=1)


def mean_picture(windows):
    """The average of all frames in every place: how the mouth looked, not what it did."""
    mean = windows.mean(axis=1, keepdims=True, dtype=np.float32).round().astype(windows.dtype)
    return np.repeat(mean, windows.shape[1], axis=1)


def shuffled(windows, seed=0):
    """The frames of each window in another order, drawn by `seed`."""
    rng = np.random.default_rng(seed)
    order = rng.permuted(np.tile(np.arange(windows.shape[1]), (len(windows), 1)), axis=1)
    return windows[np.arange(len(windows))[:, None], order]
