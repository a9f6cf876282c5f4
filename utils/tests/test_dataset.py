import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from safetensors.numpy import load_file

from utils.dataset import VideoFolder
from utils.motion import write_messy_folder
from utils.video import VideoError, write_video


@pytest.fixture
def root(tmp_path):
    """Two classes, three and two clips; each clip has a grey level of its own."""
    for level, (name, clip) in enumerate(
        [("jump", "a"), ("jump", "b"), ("jump", "c"), ("wave", "a"), ("wave", "b")]
    ):
        folder = tmp_path / "videos" / name
        folder.mkdir(parents=True, exist_ok=True)
        write_video(folder / f"{clip}.mkv", np.full((6, 16, 20, 3), 40 * level + 20, np.uint8))
    (tmp_path / "videos" / "jump" / "notes.txt").write_text("not a video")
    (tmp_path / "videos" / "jump" / ".hidden.part.mkv").write_text("half a video")
    return tmp_path / "videos"


def test_folder_names_are_classes(root):
    folder = VideoFolder(root, num_frames=4, size=8)
    assert (
        folder.classes == ("jump", "wave") and folder.labels == [0, 0, 0, 1, 1] and len(folder) == 5
    )
    assert [path.name for path in folder.paths] == ["a.mkv", "b.mkv", "c.mkv", "a.mkv", "b.mkv"]
    clip, label = folder[3]
    assert clip.shape == (4, 8, 8, 3) and label == 1 and abs(int(clip.mean()) - 140) <= 2
    turned = VideoFolder(root, 4, 8, classes=("wave", "jump"))
    assert turned.labels == [0, 0, 1, 1, 1]


def test_it_feeds_a_torch_loader(root):
    from torch.utils.data import DataLoader

    clips, labels = next(iter(DataLoader(VideoFolder(root, 4, 8), batch_size=5)))
    assert clips.shape == (5, 4, 8, 8, 3) and labels.tolist() == [0, 0, 0, 1, 1]


def test_random_sampling_differs_between_epochs_and_can_be_repeated(tmp_path):
    (tmp_path / "videos" / "count").mkdir(parents=True)
    clip = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((16, 16, 3), np.uint8) * 6
    write_video(tmp_path / "videos" / "count" / "a.mkv", clip)
    write_video(tmp_path / "videos" / "count" / "b.mkv", clip)
    folder = VideoFolder(tmp_path / "videos", 8, 16, sampling="random")
    first, other = folder[0][0], folder[1][0]
    assert np.array_equal(first, folder[0][0]) and not np.array_equal(first, other)
    folder.epoch = 1
    assert not np.array_equal(first, folder[0][0])
    with pytest.raises(ValueError, match="freeze random sampling"):
        folder.load(tmp_path / "cache", progress=False)


def test_numpy_sizes_and_indices_are_welcome(root, tmp_path):
    folder = VideoFolder(root, 3, np.int64(8), sampling=np.arange(3))
    clips, _ = folder.load(tmp_path / "cache", progress=False)
    assert clips.shape == (5, 3, 8, 8, 3)


def test_load_is_every_item_in_order(root):
    folder = VideoFolder(root, 4, 8)
    clips, labels = folder.load(progress=False)
    assert (
        all(np.array_equal(clips[i], folder[i][0]) for i in range(5))
        and labels.tolist() == folder.labels
    )


def test_cache_is_used_checked_and_rebuilt(root, tmp_path, monkeypatch):
    cache = tmp_path / "cache" / "clips.safetensors"
    decoded = []
    decode = VideoFolder._decode
    monkeypatch.setattr(
        VideoFolder, "_decode", lambda self, progress: decoded.append(1) or decode(self, progress)
    )

    def load(**how):
        clips, _ = VideoFolder(root, **dict(num_frames=4, size=8) | how).load(cache, progress=False)
        return clips

    first = load()
    assert np.array_equal(load(), first) and len(decoded) == 1

    load(size=10)  # another size: stale
    assert np.array_equal(load(), first) and len(decoded) == 3

    data = bytearray(cache.read_bytes())
    data[-100] ^= 255  # one byte of a clip
    cache.write_bytes(data)
    assert np.array_equal(load(), first) and len(decoded) == 4

    cache.write_bytes(cache.read_bytes()[:-50])  # cut short
    assert np.array_equal(load(), first) and len(decoded) == 5

    write_video(root / "wave" / "b.mkv", np.full((6, 16, 20, 3), 250, np.uint8))  # a changed video
    assert load()[4].mean() > 240 and len(decoded) == 6

    (root / "wave" / "a.mkv").unlink()  # a removed one
    assert len(load()) == 4 and len(decoded) == 7
    assert os.listdir(cache.parent) == [cache.name]


def test_a_killed_build_leaves_no_cache(root, tmp_path):
    """SIGKILL in the middle of writing: the next run finds nothing half-written and builds anew."""
    cache = tmp_path / "clips.safetensors"
    code = f"""
        import os, signal
        import utils.dataset as dataset
        def killed_half_way(tensors, path, metadata):
            open(path, "wb").write(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        dataset.save_file = killed_half_way
        dataset.VideoFolder({str(root)!r}, 4, 8).load({str(cache)!r}, progress=False)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)])
    assert run.returncode == -signal.SIGKILL and not cache.exists()
    clips, _ = VideoFolder(root, 4, 8).load(cache, progress=False)
    assert np.array_equal(load_file(cache)["clips"], clips)


def test_all_broken_files_are_named_at_once(root, tmp_path):
    (root / "jump" / "b.mkv").write_bytes(b"")
    write_video(root / "wave" / "b.mkv", np.zeros((2, 16, 20, 3), np.uint8))
    with pytest.raises(
        VideoError, match=r"(?s)2 of 5 .*jump/b.mkv: .*empty.*wave/b.mkv: has 2 frames, 4 asked"
    ):
        VideoFolder(root, 4, 8).load(tmp_path / "cache", progress=False)
    assert not (tmp_path / "cache").exists()


def test_places_count_from_the_end_too_and_end_somewhere(root):
    folder = VideoFolder(root, 4, 8, sampling="random")
    assert np.array_equal(folder[-1][0], folder[4][0]) and folder[-1][1] == 1
    with pytest.raises(IndexError):
        folder[5]


def test_clips_of_different_sizes_are_named(root):
    write_video(root / "wave" / "b.mkv", np.zeros((6, 32, 20, 3), np.uint8))
    message = r"wave/b.mkv: 6 frames of 32 x 20, but .*jump/a.mkv: 6 frames of 16 x 20; give num_frames and size"  # fmt: skip
    with pytest.raises(VideoError, match=message):
        VideoFolder(root, None, None).load(progress=False)


def test_wrong_folders_are_named(root, tmp_path):
    with pytest.raises(VideoError, match="nowhere: no such folder"):
        VideoFolder(tmp_path / "nowhere", 4, 8)
    (tmp_path / "bare").mkdir()
    with pytest.raises(VideoError, match="bare: holds no folders"):
        VideoFolder(tmp_path / "bare", 4, 8)
    with pytest.raises(VideoError, match=r"differ in \['run', 'wave'\]"):
        VideoFolder(root, 4, 8, classes=("jump", "run"))
    (root / "run").mkdir()
    with pytest.raises(VideoError, match="run: no video"):
        VideoFolder(root, 4, 8)


def test_unreadable_videos_are_named_and_left_out(root):
    (root / "jump" / "broken.mp4").write_bytes(b"not a video")
    write_video(root / "wave" / "short.mkv", np.zeros((2, 16, 20, 3), np.uint8))
    folder = VideoFolder(root, num_frames=4, size=8)
    with pytest.raises(VideoError, match=r"2 of 7 videos cannot be read \(leave_out_unreadable"):
        folder.load(progress=False)
    reasons = folder.leave_out_unreadable(progress=False)
    assert [path.name for path in reasons] == ["broken.mp4", "short.mkv"]
    assert "has 2 frames, 4 asked for" in reasons[root / "wave" / "short.mkv"]
    clips, labels = folder.load(progress=False)
    assert clips.shape == (5, 4, 8, 8, 3) and labels.tolist() == [0, 0, 0, 1, 1]
    assert folder.leave_out_unreadable(progress=False) == {}


def test_a_class_is_never_left_out_as_a_whole(root):
    for path in (root / "wave").iterdir():
        path.write_bytes(b"not a video")
    folder = VideoFolder(root, num_frames=4, size=8)
    with pytest.raises(VideoError, match=r"wave: no video in it can be read:\n.*a\.mkv"):
        folder.leave_out_unreadable(progress=False)
    assert len(folder) == 5  # as it was


def test_a_messy_folder_is_read_but_for_the_files_that_cannot_be(tmp_path):
    write_messy_folder(tmp_path)
    folder = VideoFolder(tmp_path, num_frames=8, size=32)
    assert len(folder) == 100  # notes.txt is no video
    broken = folder.leave_out_unreadable(progress=False)
    assert {path.name: reason.rsplit(": ", 1)[-1].split(",")[0] for path, reason in broken.items()} == {
        "anna_7.mp4": "the file is empty",
        "chen_7.mp4": "has 3 frames",
        "ben_7.avi": "not a video",
    }  # fmt: skip
    lying, upright = (folder.paths.index(tmp_path / "left" / name) for name in ("dora_6.mp4", "anna_0.mp4"))  # fmt: skip
    centres = [_columns_of_change(folder[index][0]) for index in (lying, upright)]
    assert all(centre[0] > centre[-1] for centre in centres)  # both move left as they are seen


def _columns_of_change(clip):
    """The column in the middle of what changes from each frame to the next."""
    change = np.abs(np.diff(clip.astype(int), axis=0)).sum(axis=(1, 3))  # (t - 1, width)
    return change @ np.arange(change.shape[1]) / change.sum(axis=1)


def test_what_is_passed_over_is_said(root):
    """Nothing is dropped silently; what systems leave in folders is not worth a word."""
    (root / "jump" / "day 2").mkdir()
    (root / "jump" / "Thumbs.db").write_bytes(b"")
    (root / "__MACOSX").mkdir()
    (root / "wave" / "a.mkv").rename(root / "wave" / "a.3GP")
    folder = VideoFolder(root, 4, 8)
    assert folder.classes == ("jump", "wave") and len(folder) == 5
    assert [path.name for path in folder.passed_over] == ["day 2", "notes.txt"]
    told = folder.told_passed_over().replace("\\", "/")
    assert told == "files whose names do not end as a video's: jump/notes.txt; folders inside a class folder: jump/day 2"  # fmt: skip
    (root / "run").mkdir()
    (root / "run" / "monday").mkdir()
    with pytest.raises(VideoError, match="run: no video in this class folder, only folders inside a class folder: run.monday"):  # fmt: skip
        VideoFolder(root, 4, 8)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_to_nothing_is_one_of_the_unreadable(root):
    (root / "jump" / "d.mkv").symlink_to(root / "nowhere.mkv")
    with pytest.raises(VideoError, match="1 of 6 videos cannot be read(?s:.*)d.mkv"):
        VideoFolder(root, 4, 8).load(progress=False)
