"""The spoken words of data/lips for the experiments: as the recipe takes them, or with one change."""

import hashlib
from functools import lru_cache, partial

import cv2
import numpy as np

from utils import lips

# What a line of the grid "lips" may change; the first of each is the recipe's.
DATA = dict(
    slot=None,  # one slot's words only
    view=lips.IMAGE_SIZE,  # pixels that are cut out; scaled to the model's image_size
    varied=True,  # moved, mirrored, quicker or slower, lit otherwise (`vary`)
    mixed=True,  # laid over each other (`mix`)
    channels="grey, change, difference",  # or "grey", or "grey, change"
    normalised=True,  # every sentence with the same brightness and contrast
    apart=False,  # mouths as far from each other as in the corpus, instead of aligned
    stretched=False,  # from a word's first frame to its last, instead of a fixed number around it
    cheat=None,  # "one_frame", "mean_picture" or "shuffled": all the model gets to see
)
APART = (15, 18)  # pixels: the mouths of the corpus lie up to 31 x 36 apart


def fingerprint():
    """Tells one data/lips from another: words, times, split and clips."""
    digest = hashlib.sha256((lips.LIPS / lips.WORDS_TABLE).read_bytes().replace(b"\r\n", b"\n"))
    for path in sorted((lips.LIPS / "clips").glob("*.mp4")):
        digest.update(f"{path.stem} {path.stat().st_size};".encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1)
def _sentences(normalised, view):
    """Every sentence in grey: {name: (t, 64, 96) uint8}."""
    names = sorted({word.sentence for word in lips.words()})
    found = {}
    for name in names:
        frames = lips.read_frames(lips.clip_path(name))
        if normalised:
            found[name] = lips.grey(frames, view)
        else:
            found[name] = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    return found


def _stretched(word, num_frames, margin):
    """From a word's first frame to its last, evenly, and on at the same pace in the margin: this
    tells how long the word is."""
    pace = max(0, word.end - 1 - word.first) / (num_frames - 1)
    return (word.first + pace * np.arange(-margin, num_frames + margin)).round().astype(int)


@lru_cache(maxsize=4)
def _windows(split, num_frames, slot, view, margin, normalised, apart, stretched):
    words = lips.words(split, slot)
    sentences = _sentences(normalised, view)
    frames, pixels = margin
    size = view[0] + 2 * pixels, view[1] + 2 * pixels
    windows = np.empty((len(words), num_frames + 2 * frames, *size), np.uint8)
    for place, word in zip(windows, words):
        clip = sentences[word.sentence]
        if stretched:
            chosen = _stretched(word, num_frames, frames).clip(0, len(clip) - 1)
        else:
            chosen = lips.window(word, len(clip), len(place))
        rows, columns = _far(word.sentence) if apart else (0, 0)
        top, left = (
            (lips.FRAME_SIZE[0] - size[0]) // 2 + rows,
            (lips.FRAME_SIZE[1] - size[1]) // 2 + columns,
        )
        rows = np.arange(top, top + size[0]).clip(0, lips.FRAME_SIZE[0] - 1)
        columns = np.arange(left, left + size[1]).clip(0, lips.FRAME_SIZE[1] - 1)
        place[:] = clip[chosen][:, rows[:, None], columns]
    return windows, lips.labels_of(words)


def _far(sentence):
    """How far a sentence's mouth is moved when mouths lie apart: always the same for one sentence."""
    rng = np.random.default_rng(list(sentence.encode()))
    return [int(rng.integers(-most, most + 1)) for most in APART]


def _shown(windows, size, data, rng):
    """What the network gets: windows without margin -> (n, t, *size, 3)."""
    if data["cheat"] == "shuffled":
        windows = lips.shuffled(windows, rng)
    elif data["cheat"]:
        windows = getattr(lips, data["cheat"])(windows)
    if windows.shape[2:] != tuple(size):
        windows = np.stack([[cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA) for frame in window] for window in windows])  # fmt: skip
    shown = lips.channels(windows)
    for number, name in enumerate(("grey", "change", "difference")):
        if name not in data["channels"]:
            shown[..., number] = lips.NOTHING
    return shown


def _augment(windows, labels, rng, size, data):
    if data["varied"]:
        windows = lips.vary(windows, rng)
    if data["mixed"]:
        windows, labels = lips.mix(windows, labels, rng)
    return _shown(windows, size, data, rng), labels


def spoken(split, num_frames, image_size, **changes):
    """Words for one line of the grid: ((clips, labels), augment).

    Of "train" the windows with their margin, and the function that turns a batch of them into what
    the network takes; of another split what the network takes, and None.
    """
    data = DATA | changes
    margin = lips.MARGIN if split == "train" and data["varied"] else (0, 0)
    how = (data[name] for name in ("slot", "view", "normalised", "apart", "stretched"))
    slot, view, *rest = how
    windows, labels = _windows(split, num_frames, slot, tuple(view), margin, *rest)
    if split == "train":
        return (windows, labels), partial(_augment, size=tuple(image_size), data=data)
    return (_shown(windows, image_size, data, np.random.default_rng(0)), labels), None
