"""Video files to frames and back, with OpenCV.

Frames are (t, height, width, 3) uint8 RGB arrays. What a file says about itself (frame count,
rate, duration) is a claim; the frames that decode are the truth, and everything here goes by them.
Importing this module silences OpenCV's own messages in the whole process.
"""

import os
import shutil
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import cv2
import numpy as np

from utils.paths import whole_file

# OpenCV and FFmpeg complain to the terminal about every damaged file; a VideoError says it better.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when the first video is opened
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

VIDEO_SUFFIXES = {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"}  # fmt: skip
SAMPLINGS = ("uniform", "random", "first", "middle")
# Codecs that OpenCV's own wheels can write; browsers play only the "vp09" one (write_video).
CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "FFV1", ".webm": "VP80"}


class VideoError(ValueError):
    """A video cannot be read or written as asked; the message names the file and the reason."""


class VideoWarning(UserWarning):
    """A video was read, but it is not what its header says."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file claims, and the size of its first frame (pixels, rotation applied)."""

    path: Path
    height: int
    width: int
    fps: float  # claimed; 0 when the file gives none
    claimed_frames: int | None  # None when the file gives none, or nonsense
    codec: str
    rotation: int  # degrees that were applied to upright the picture


@contextmanager
def _opened(path):
    path = Path(path)
    try:
        with open(path, "rb") as file:  # says why, where OpenCV only says no
            if not file.read(1):
                raise VideoError(f"{path}: the file is empty")
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror}") from error
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise VideoError(f"{path}: not a video, or damaged so badly that it does not open")
        yield capture
    finally:
        capture.release()


def _claimed_frames(capture):
    claimed = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(claimed) if 0 < claimed < 1e9 else None


def _count_packets(path):
    """How many compressed frames the file holds: a quick guess, since nothing is decoded."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    packets = 0
    while capture.grab():
        packets += 1
    capture.release()
    return packets


def _codec(capture):
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    return "".join(chr(code >> shift & 255) for shift in (0, 8, 16, 24)).strip("\0 ") or "unknown"


def probe(path):
    """Open a video, decode one frame, and return its `VideoInfo`. VideoError when it has none."""
    with _opened(path) as capture:
        frames, _ = _walk(capture, path, {0}, until=0)
        height, width = frames[0].shape[:2]
        return VideoInfo(
            path=Path(path), height=height, width=width, fps=float(capture.get(cv2.CAP_PROP_FPS)),
            claimed_frames=_claimed_frames(capture), codec=_codec(capture),
            rotation=int(capture.get(cv2.CAP_PROP_ORIENTATION_META)),
        )  # fmt: skip


def count_frames(path):
    """How many frames really decode: goes through the whole file, keeps none of it."""
    with _opened(path) as capture:
        return _walk(capture, path, wanted=())[1]


def sample_indices(total, num_frames, sampling="uniform", seed=0):
    """Which `num_frames` of `total` frames to look at, in increasing order: (num_frames,) int64.

    "uniform": the middle of each of `num_frames` equal segments. "random": one random frame of
    each segment, for training. "first": the first ones. "middle": neighbours around the middle.
    ValueError when there are fewer frames than asked for, or for another name.
    """
    if sampling not in SAMPLINGS:
        raise ValueError(f"unknown sampling {sampling!r}; there are {', '.join(SAMPLINGS)}")
    if not 1 <= num_frames <= total:
        raise ValueError(f"cannot choose {num_frames} of {total} frames")
    order = np.arange(num_frames)
    if sampling == "first":
        return order
    if sampling == "middle":
        return order + (total - num_frames) // 2
    if sampling == "random":  # segment i is [i * total // n, (i + 1) * total // n): never empty
        return np.random.default_rng(seed).integers(
            order * total // num_frames, (order + 1) * total // num_frames
        )
    return (2 * order + 1) * total // (2 * num_frames)


def fit_frame(frame, size):
    """Scale a frame until it covers `size`, keeping its proportions, then crop the centre.

    Shapes: (height, width, 3) uint8 -> (*size, 3) uint8. `size` is an int (square) or
    (height, width), in pixels.
    """
    height, width = (size, size) if isinstance(size, Integral) else size
    scale = max(height / frame.shape[0], width / frame.shape[1])
    new_height, new_width = (
        max(height, round(frame.shape[0] * scale)),
        max(width, round(frame.shape[1] * scale)),
    )
    # Averaging over areas when shrinking: anything else lets fine patterns flicker.
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    frame = cv2.resize(frame, (new_width, new_height), interpolation=how)
    top, left = (new_height - height) // 2, (new_width - width) // 2
    return frame[top : top + height, left : left + width]


def _walk(capture, path, wanted=None, until=None, size=None):
    """Decode in order up to frame `until` (None: to the end); returns ({index: frame}, how many decoded).

    `wanted` indices are kept (None: all), still in OpenCV's order of colours, blue first. Seeking is
    not an option: OpenCV lands on wrong frames in files with uneven timestamps. A frame that is not
    wanted is decoded (the next ones need it) but never converted.
    """
    frames, count = {}, 0
    while (until is None or count <= until) and capture.grab():
        if wanted is None or count in wanted:
            found, frame = capture.retrieve()
            if not found:
                raise VideoError(f"{path}: frame {count} is damaged and cannot be decoded")
            frames[count] = frame if size is None else fit_frame(frame, size)
        count += 1
    if not count:
        raise VideoError(f"{path}: opens, but no frame can be decoded (codec {_codec(capture)})")
    return frames, count


def _check_request(num_frames, sampling):
    """ValueError for a number of frames or a sampling that no file could satisfy."""
    if isinstance(sampling, str):
        if sampling not in SAMPLINGS:
            raise ValueError(f"unknown sampling {sampling!r}; there are {', '.join(SAMPLINGS)}")
    elif num_frames not in (None, len(sampling)):
        raise ValueError(f"{num_frames} frames asked for, but {len(sampling)} indices given")
    elif len(sampling) == 0 or min(sampling) < 0:
        raise ValueError(f"frame indices are 0 or more, at least one of them; got {list(sampling)}")
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames is 1 or more, got {num_frames}")


def read_frames(path, num_frames=None, size=None, sampling="uniform", pad=False, seed=0):
    """Read frames of a video: (t, height, width, 3) uint8 RGB, upright.

    `num_frames`: how many (None: all). `size`: pixels, int or (height, width), see `fit_frame`
    (None: as in the file). `sampling`: a name of `sample_indices`, or a list of frame indices,
    counted in frames that decode. `seed` is for "random". A clip shorter than asked for is a
    VideoError; with `pad` its last frame is repeated. VideoError for every file that cannot be
    read; VideoWarning when far fewer frames decode than the file claims.
    """
    path, explicit = Path(path), not isinstance(sampling, str)
    _check_request(num_frames, sampling)

    def choose(total):
        return sample_indices(total, min(num_frames, total), sampling, seed)

    with _opened(path) as capture:
        claimed = _claimed_frames(capture)
        if explicit:
            frames, total = _walk(capture, path, set(sampling), until=max(sampling), size=size)
            indices = list(sampling)
            if max(indices) >= total:
                raise VideoError(f"{path}: has {total} frames, so there is no frame {max(indices)}")
        elif num_frames is None:
            frames, total = _walk(capture, path, size=size)
            indices = range(total)
        elif sampling == "first":  # needs no total: stop as soon as they are there
            frames, total = _walk(capture, path, until=num_frames - 1, size=size)
            indices = range(min(num_frames, total))
        else:
            # Which frames to keep depends on how many there are, which is only known at the end.
            # Bet on the claim, and on one less (the common lie), so that one pass mostly suffices.
            bet = claimed or _count_packets(path)
            bets = [total for total in (bet, bet - 1) if total > 0]
            wanted = {int(index) for bet in bets for index in choose(bet)}
            frames, total = _walk(capture, path, wanted, size=size)
            indices = choose(total)

    if not explicit and num_frames is not None and total < num_frames and not pad:
        raise VideoError(f"{path}: has {total} frame{'s' if total != 1 else ''}, {num_frames} asked for; pad=True repeats the last one")  # fmt: skip
    missing = {int(index) for index in indices} - frames.keys()
    if missing:  # the claim was further off: a second pass, now with the true count
        with _opened(path) as capture:
            frames |= _walk(capture, path, missing, until=max(missing), size=size)[0]
    reached_end = not explicit and (sampling != "first" or num_frames is None)
    if reached_end and claimed and total < 0.95 * claimed - 1:
        warnings.warn(f"{path}: claims {claimed} frames, {total} decode", VideoWarning, stacklevel=2)  # fmt: skip
    chosen = [frames[int(index)] for index in indices]
    if num_frames is not None:
        chosen += [chosen[-1]] * (num_frames - len(chosen))
    clip = np.empty((len(chosen), *chosen[0].shape), np.uint8)
    for place, frame in zip(clip, chosen):
        if frame.shape != place.shape:
            raise VideoError(f"{path}: the frame size changes within the clip; give a size to read it")  # fmt: skip
        cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=place)
    return clip


def write_video(path, frames, fps=8.0, codec=None):
    """Write frames, (t, height, width, 3) uint8 RGB, as a video file.

    The suffix chooses the container and, unless `codec` (four characters) is given, the codec.
    The file is read back before it takes its name. VideoError when the codec does not open or
    a frame was dropped, ValueError for frames of the wrong kind; either leaves no file behind.
    """
    path = Path(path)
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(
            f"{path}: frames are (t, height, width, 3) uint8 with t > 0, got {frames.shape} {frames.dtype}"
        )
    codec = codec or CODECS.get(path.suffix.lower())
    if codec is None:
        raise VideoError(f"{path}: no codec for the suffix {path.suffix!r}; use one of {', '.join(CODECS)}")  # fmt: skip
    if not path.parent.is_dir():
        raise VideoError(f"{path}: there is no folder {path.parent}")
    with whole_file(path, flush=False) as part:
        reason = _write(part, frames, fps, codec)
        if reason and shutil.disk_usage(path.parent).free < 2**20:
            reason = f"the disk is full ({reason})"  # OpenCV writes what fits and says nothing
        if reason:
            raise VideoError(f"{path}: {reason}")


def _write(path, frames, fps, codec):
    """Write the frames and read them back; returns what went wrong, or None."""
    t, height, width, _ = frames.shape
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), fps, (width, height))  # fmt: skip
    if not writer.isOpened():
        return f"OpenCV cannot write {codec} into {path.suffix} here"
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    try:
        with _opened(path) as capture:
            kept, count = _walk(capture, path, wanted={0})
    except VideoError as error:
        return f"what {codec} wrote cannot be read back ({error})"
    if count != t or kept[0].shape != (height, width, 3):
        size = f"{kept[0].shape[0]} x {kept[0].shape[1]}"
        return f"{t} frames of {height} x {width} went in, {count} of {size} came out ({codec})"
    return None
