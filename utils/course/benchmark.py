"""Speed, measured and printed, never tested: `python -m utils.course benchmark-video`."""

import time
from pathlib import Path

import cv2
import numpy as np

from utils.paths import ROOT
from utils.video import VIDEO_SUFFIXES, VideoError, count_frames, read_frames, sample_indices

HDR, BT709 = (16, 18), 1  # transfer curves in ITU-T H.273; OpenCV maps the first two to the third


def pyav_frames(path, num_frames):
    """What a careful PyAV user writes: decode with all threads, keep evenly spaced frames as RGB."""
    import av

    wanted = set(sample_indices(count_frames(path), num_frames).tolist())  # not timed: PyAV is told
    reformatter = av.video.reformatter.VideoReformatter()
    started = time.perf_counter()
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        kept = []
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                tone = dict(dst_color_trc=BT709) if frame.color_trc in HDR else {}
                kept.append(reformatter.reformat(frame, format="rgb24", **tone).to_ndarray())
        np.stack(kept)
    return time.perf_counter() - started


def our_frames(path, num_frames):
    """read_frames, which is not told how many frames there are."""
    started = time.perf_counter()
    read_frames(path, num_frames)
    return time.perf_counter() - started


def benchmark_video(folder=None, num_frames=8, repeats=5):
    """Print decoded frames per second for "8 of all", ours beside PyAV's, best of several, in turn."""
    import av

    folder = folder or ROOT.parent / "shared" / "videos" / "real"
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise SystemExit(f"{folder}: no videos here; name a folder with some")
    print(
        f"OpenCV {cv2.__version__}, PyAV {av.__version__}, {num_frames} frames of all, best of {repeats}"
    )
    print(f"{'file':44} {'frames':>6} {'ours/s':>8} {'PyAV/s':>8} {'ratio':>6}")
    for path in files:
        try:
            total = count_frames(path)
            n = min(num_frames, total)
            times = [(our_frames(path, n), pyav_frames(path, n)) for _ in range(repeats)]
        except (VideoError, av.error.FFmpegError, UnicodeDecodeError) as error:
            print(f"{path.name[:44]:44} {type(error).__name__}: not compared")
            continue
        ours, theirs = (total / min(column) for column in zip(*times))
        print(f"{path.name[:44]:44} {total:6} {ours:8.0f} {theirs:8.0f} {ours / theirs:6.2f}")
