import os
import subprocess
import sys
import tempfile
import warnings
from fractions import Fraction

import cv2
import numpy as np
import pytest

from utils.paths import ROOT
from utils.tests.conftest import shared_videos
from utils.video import (
    VideoError,
    VideoWarning,
    count_frames,
    fit_frame,
    probe,
    read_frames,
    sample_indices,
    write_video,
)  # fmt: skip

HLG, PQ, BT709 = 18, 16, 1  # transfer curves, as numbered in ITU-T H.273


def clip_of(t, height=24, width=32):
    """Frames that can be told apart after a lossy codec: frame i is brighter than frame i - 1."""
    levels = np.linspace(20, 235, t).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (t, height, width, 3)).copy()


class Wrapped:
    """Stands before an OpenCV object (its own classes do not survive being subclassed)."""

    def __init__(self, real):
        self.real = real

    def __getattr__(self, name):
        return getattr(self.real, name)


def pyav_frames(path, indices, size):
    """The same frames by PyAV: upright, scaled to the header's size, tone-mapped like OpenCV's."""
    av = pytest.importorskip("av")
    frames, count = {}, 0
    reformatter = av.video.reformatter.VideoReformatter()
    with av.open(str(path)) as container:
        try:
            for frame in container.decode(video=0):
                if count in indices:
                    hdr = dict(dst_color_trc=BT709) if frame.color_trc in (HLG, PQ) else {}
                    picture = reformatter.reformat(frame, format="rgb24", **hdr).to_ndarray()
                    picture = np.rot90(picture, frame.rotation // 90 % 4)
                    if picture.shape[:2] != size:
                        picture = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_CUBIC)
                    frames[count] = picture
                count += 1
        except (av.error.InvalidDataError, av.error.ArgumentError):
            pass  # damaged from here on; both readers stop
    return frames, count


def assert_same_pictures(ours, theirs):
    difference = np.abs(ours.astype(int) - theirs.astype(int)).mean()
    assert difference < 3, f"mean difference {difference:.1f} of 255"


@pytest.mark.parametrize("path", shared_videos("real"))
def test_real_files_give_exactly_the_frames_pyav_decodes(path):
    total = count_frames(path)
    n = min(8, total)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing to warn about in a good file
        ours = read_frames(path, n)
    info = probe(path)
    assert ours.shape == (n, info.height, info.width, 3)
    if "hmdb51" in path.name:
        pytest.skip(
            "PyAV cannot open this file (its tags are not UTF-8); OpenCV reads its 83 frames"
        )
    indices = sample_indices(total, n)
    theirs, count = pyav_frames(path, set(indices.tolist()), ours.shape[1:3])
    assert total == count
    for frame, index in zip(ours, indices):
        assert_same_pictures(frame, theirs[index])


@pytest.mark.parametrize("path", shared_videos("hard"))
def test_hard_files_give_exact_frames_or_one_error(path):
    """In a process of its own, so that a crash or a hang is a failure and not the end of pytest."""
    code = (
        "import sys, warnings, numpy as np\n"
        "from utils.video import *\n"
        "warnings.simplefilter('ignore')\n"
        "try:\n"
        "    total = count_frames(sys.argv[1])\n"
        "    np.save(sys.argv[2], read_frames(sys.argv[1], min(8, total)))\n"
        "    print('frames', total)\n"
        "except VideoError as error:\n"
        "    print('error', error)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "frames.npy")
        run = subprocess.run(
            [sys.executable, "-c", code, str(path), out], capture_output=True, text=True, timeout=60
        )
        assert run.returncode == 0, run.stderr
        kind, text = run.stdout.strip().split(" ", 1)
        if kind == "error":
            assert str(path) in text and len(text) > len(str(path)) + 10
            return
        ours, total = np.load(out), int(text)
    indices = sample_indices(total, len(ours))
    theirs, count = pyav_frames(path, set(indices.tolist()), ours.shape[1:3])
    assert total == count
    for frame, index in zip(ours, indices):
        assert_same_pictures(frame, theirs[index])


@pytest.mark.parametrize("path", shared_videos("hard"))
def test_a_file_that_breaks_off_says_so(path):
    """Where far fewer frames decode than the header promises, a warning names both numbers."""
    try:
        claimed = probe(path).claimed_frames
        total = count_frames(path)
    except VideoError:
        pytest.skip("cannot be read at all, which is an error and tested above")
    if not claimed or total >= 0.95 * claimed - 1:
        pytest.skip("holds what it promises")
    with pytest.warns(VideoWarning, match=f"claims {claimed} frames, {total} decode"):
        read_frames(path, min(2, total))


# Written here, so these run everywhere ---------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".webm", ".mov"])
def test_what_is_written_is_read(tmp_path, suffix):
    clip = clip_of(9)
    write_video(tmp_path / f"clip{suffix}", clip, fps=12)
    back = read_frames(tmp_path / f"clip{suffix}")
    assert back.shape == clip.shape and back.dtype == np.uint8
    assert np.abs(back.astype(int) - clip).max() <= 6
    assert os.listdir(tmp_path) == [f"clip{suffix}"]
    info = probe(tmp_path / f"clip{suffix}")
    assert (info.height, info.width, round(info.fps)) == (24, 32, 12)


def test_lossless_codec_keeps_colours_apart(tmp_path):
    clip = np.zeros((3, 16, 16, 3), np.uint8)
    clip[..., 0] = 200  # red: BGR for RGB would come back blue
    write_video(tmp_path / "red.mkv", clip)
    np.testing.assert_allclose(read_frames(tmp_path / "red.mkv")[1, 8, 8], (200, 0, 0), atol=2)


def test_samplings_choose_what_they_say():
    assert sample_indices(16, 4).tolist() == [2, 6, 10, 14]
    assert sample_indices(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert sample_indices(16, 4, "first").tolist() == [0, 1, 2, 3]
    assert sample_indices(16, 4, "middle").tolist() == [6, 7, 8, 9]
    random = np.array([sample_indices(16, 4, "random", seed) for seed in range(200)])
    assert (random // 4 == [0, 1, 2, 3]).all() and len({tuple(row) for row in random}) > 100
    for total in range(1, 60):
        for n in range(1, total + 1):
            for sampling in ("uniform", "random", "first", "middle"):
                chosen = sample_indices(total, n, sampling)
                assert chosen.min() >= 0 and chosen.max() < total and (np.diff(chosen) > 0).all()
    with pytest.raises(ValueError, match="9 of 8"):
        sample_indices(8, 9)
    with pytest.raises(ValueError, match="'uniformly'"):
        sample_indices(8, 2, "uniformly")


@pytest.mark.parametrize("sampling", ["uniform", "random", "first", "middle", [0, 3, 3, 11]])
def test_the_frames_asked_for_are_the_frames_returned(tmp_path, sampling):
    clip = clip_of(20)
    write_video(tmp_path / "clip.mkv", clip)
    got = read_frames(tmp_path / "clip.mkv", 4, sampling=sampling, seed=3)
    wanted = sample_indices(20, 4, sampling, 3) if isinstance(sampling, str) else sampling
    assert np.abs(got.astype(int) - clip[wanted]).max() <= 2


@pytest.mark.parametrize("claim", [None, 1, 7, 12, 13, 19, 21, 22, 40, 100000])
def test_a_lying_frame_count_changes_nothing(tmp_path, monkeypatch, claim):
    clip = clip_of(20)
    write_video(tmp_path / "clip.mkv", clip)
    monkeypatch.setattr("utils.video._claimed_frames", lambda capture: claim)
    monkeypatch.setattr("utils.video._count_packets", lambda path: claim or 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)
        got = read_frames(tmp_path / "clip.mkv", 6)
    assert np.abs(got.astype(int) - clip[sample_indices(20, 6)]).max() <= 2


def test_short_clips_are_errors_unless_padded(tmp_path):
    write_video(tmp_path / "short.mkv", clip_of(3))
    for sampling in ("uniform", "first"):
        with pytest.raises(VideoError, match=r"short.mkv: has 3 frames, 5 asked for; pad=True"):
            read_frames(tmp_path / "short.mkv", 5, sampling=sampling)
        padded = read_frames(tmp_path / "short.mkv", 5, sampling=sampling, pad=True)
        assert np.array_equal(padded, read_frames(tmp_path / "short.mkv")[[0, 1, 2, 2, 2]])
    with pytest.raises(VideoError, match="has 3 frames, so there is no frame 3"):
        read_frames(tmp_path / "short.mkv", sampling=[0, 3])


def test_size_scales_and_crops_the_centre(tmp_path):
    frame = np.zeros((20, 40, 3), np.uint8)
    frame[:, 10:30] = 255  # the middle square
    assert fit_frame(frame, 20).shape == (20, 20, 3) and fit_frame(frame, 20).min() == 255
    assert fit_frame(frame, (7, 5)).shape == (7, 5, 3)
    write_video(tmp_path / "clip.mkv", np.stack([frame] * 3))
    assert read_frames(tmp_path / "clip.mkv", 2, size=10).shape == (2, 10, 10, 3)
    assert read_frames(tmp_path / "clip.mkv", 2, size=(6, 14)).shape == (2, 6, 14, 3)


def bad_files(folder):
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is not a video\n" * 50)
    (folder / "folder.mp4").mkdir()
    write_video(folder / "cut.mp4", clip_of(20))
    whole = (folder / "cut.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # the index stands at the end
    return {"missing.mp4": "No such file", "empty.mp4": "empty", "text.mp4": "not a video",
            "folder.mp4": "directory", "cut.mp4": "does not open"}  # fmt: skip


def test_files_that_are_no_videos(tmp_path):
    for name, reason in bad_files(tmp_path).items():
        for action in (read_frames, probe, count_frames):
            with pytest.raises(VideoError, match=f"{name}: .*{reason}"):
                action(tmp_path / name)


def test_audio_without_video(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate, frame.time_base = 16000, Fraction(1, 16000)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    with pytest.raises(VideoError, match="song.mp4"):
        read_frames(path)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX users")
def test_permission_denied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("open")
    write_video(folder / "private.mkv", clip_of(3))
    (folder / "private.mkv").chmod(0)
    root = os.geteuid() == 0
    if root:  # root may read everything, so be somebody else for a moment
        os.seteuid(65534)
    try:
        with pytest.raises(VideoError, match="private.mkv: Permission denied"):
            read_frames(folder / "private.mkv")
    finally:
        if root:
            os.seteuid(0)


def test_bad_arguments_name_the_value(tmp_path):
    write_video(tmp_path / "clip.mkv", clip_of(4))
    for arguments, words in [
        (dict(num_frames=0), "got 0"),
        (dict(num_frames=2, sampling="even"), "'even'"),
        (dict(num_frames=3, sampling=[1]), "3 frames asked for, but 1"),
        (dict(sampling=[-1, 0]), r"\[-1, 0\]"),
    ]:
        with pytest.raises(ValueError, match=words):
            read_frames(tmp_path / "clip.mkv", **arguments)


def test_early_frames_of_a_long_file_do_not_cost_its_length(tmp_path, monkeypatch):
    write_video(tmp_path / "long.mkv", clip_of(300))
    grabs = []

    class Counting(Wrapped):
        def grab(self):
            grabs.append(1)
            return self.real.grab()

    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda *args: Counting(real(*args)))
    read_frames(tmp_path / "long.mkv", 4, sampling="first")
    assert len(grabs) == 4
    read_frames(tmp_path / "long.mkv", sampling=[2, 5])
    assert len(grabs) == 4 + 6


GROWN = """
import re, sys
from utils.video import read_frames

def peak():  # in MB, of this process since it was started
    if sys.platform == "win32":
        import psutil
        return psutil.Process().memory_info().peak_wset / 2**20
    if sys.platform == "darwin":
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    # on Linux ru_maxrss starts at the peak of the process that started this one
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) / 2**10

before = peak()
clip = read_frames(sys.argv[1], 8)
sizes = clip.shape
if sys.argv[2] == "leak":
    leak = clip.repeat(50, axis=0)
print(*sizes, peak() - before)
"""


def test_memory_does_not_grow_with_the_length(tmp_path):
    """8 frames of 2,000 large ones: all of them would be 1.8 GB. A peak belongs to a whole process,
    so it is measured in one of its own; that 370 MB too many would be seen is tried out as well."""
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8), (640, 480))
    path = str(tmp_path / "long.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"mp4v"), 25, (640, 480))
    for _ in range(2000):
        writer.write(picture)
    writer.release()
    for leak, too_much in (("no", False), ("leak", True)):
        command = [sys.executable, "-c", GROWN, path, leak]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        *shape, grown = run.stdout.split()
        assert shape == ["8", "480", "640", "3"] and (float(grown) > 300) is too_much, grown


def test_writing_is_honest(tmp_path, monkeypatch):
    with pytest.raises(VideoError, match="clip.mp4: OpenCV cannot write"):
        write_video(tmp_path / "clip.mp4", clip_of(3), codec="????")
    with pytest.raises(VideoError, match="clip.gif: no codec"):
        write_video(tmp_path / "clip.gif", clip_of(3))
    with pytest.raises(VideoError, match="there is no folder .*nowhere"):
        write_video(tmp_path / "nowhere" / "clip.mp4", clip_of(3))
    for bad in (clip_of(3).astype(np.float32), clip_of(3)[0], clip_of(3)[:0], clip_of(3)[..., :1]):
        with pytest.raises(ValueError, match="clip.mp4: frames are"):
            write_video(tmp_path / "clip.mp4", bad)

    class Dropping(Wrapped):  # what OpenCV does with a frame it cannot use
        written = 0

        def write(self, frame):
            self.written += 1
            if self.written != 2:
                self.real.write(frame)

    real = cv2.VideoWriter
    monkeypatch.setattr(cv2, "VideoWriter", lambda *args: Dropping(real(*args)))
    with pytest.raises(VideoError, match="5 frames of 24 x 32 went in, 4 of"):
        write_video(tmp_path / "clip.mp4", clip_of(5))
    assert os.listdir(tmp_path) == []


def test_a_failed_write_keeps_the_old_file(tmp_path):
    write_video(tmp_path / "clip.mp4", clip_of(5))
    before = (tmp_path / "clip.mp4").read_bytes()
    with pytest.raises(VideoError):
        write_video(tmp_path / "clip.mp4", clip_of(3), codec="????")
    assert (tmp_path / "clip.mp4").read_bytes() == before
