import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from utils.dataset import VideoFolder
from utils.model import TimeSformer
from utils.motion import _TURN, CLASSES, VELOCITY, augment, make_clip, make_clips, write_dataset
from utils.paths import DATA
from utils.recipe import motion_data
from utils.training import evaluate, fit, load_model, predict
from utils.video import VideoError


def looks(frame):
    """Where the object is, how large it is, and where its edges are: all that its place tells, 9 numbers."""
    frame = frame.astype(int)
    y, x = np.nonzero((np.ptp(frame, axis=-1) > 60) | (frame.max(-1) < 110))  # coloured, or ink
    if len(y) == 0:
        return [0.0] * 9
    return [y.mean(), x.mean(), y.std(), x.std(), len(y), y.min(), y.max(), x.min(), x.max()]


@pytest.mark.parametrize("label", range(6), ids=CLASSES)
def test_the_object_does_what_its_class_says(label):
    moved, grown = [], []
    for seed in range(30):
        seen = np.array([looks(frame) for frame in make_clip(label, np.random.default_rng(seed))])
        moved.append(np.diff(seen[:, :2], axis=0).mean(0))  # pixels from frame to frame
        grown.append(np.log(seen[-2:, 4].mean() / seen[:2, 4].mean()))
    moved, grown = np.median(moved, axis=0), np.median(grown)
    name = CLASSES[label]
    if name in VELOCITY:
        assert np.sign(np.round(moved)).tolist() == list(VELOCITY[name]) and abs(grown) < 0.3
    else:
        assert np.abs(moved).max() < 0.7 and (grown > 0.7 if name == "approach" else grown < -0.7)


def test_nothing_comes_back_on_the_other_side():
    """An object that leaves the picture is gone: it is never at two opposite edges at once."""
    clips, _ = make_clips(300, seed=2)
    seen = np.array([[looks(frame) for frame in clip] for clip in clips])
    height, width = seen[..., 6] - seen[..., 5], seen[..., 8] - seen[..., 7]
    assert height.max() < 63 and width.max() < 63
    jumps = np.abs(np.diff(seen[..., :2], axis=1)).max(-1)
    assert np.quantile(jumps, 0.99) < 8  # pixels from one frame to the next


def test_same_seed_same_clips_and_balanced_classes():
    clips, labels = make_clips(60, seed=3)
    again, _ = make_clips(60, seed=3)
    assert clips.shape == (60, 8, 64, 64, 3) and clips.dtype == np.uint8
    assert np.array_equal(clips, again) and np.bincount(labels).tolist() == [10] * 6
    assert not np.array_equal(clips, make_clips(60, seed=4)[0])
    assert make_clips(6, 0, num_frames=5, size=24)[0].shape == (6, 5, 24, 24, 3)


def told_by(frames, labels):
    """Share of right answers of a forest of decision trees that sees the object's place and size alone."""
    from sklearn.ensemble import RandomForestClassifier

    seen, half = np.array([looks(frame) for frame in frames]), len(frames) * 2 // 3
    forest = RandomForestClassifier(100, min_samples_leaf=10, random_state=0)
    return forest.fit(seen[:half], labels[:half]).score(seen[half:], labels[half:])


@pytest.mark.slow
def test_place_and_size_in_one_frame_tell_nothing_unless_it_is_known_which():
    """The trap of objects that do not wrap: who goes left starts on the right."""
    clips, labels = make_clips(3000, seed=1, size=32)
    rng = np.random.default_rng(0)
    assert (
        told_by(clips[np.arange(3000), rng.integers(8, size=3000)], labels) < 0.21
    )  # chance: 0.167
    assert 0.4 < told_by(clips[:, 0], labels) < 0.55  # what motion.py admits


def turned_by_hand(clips, labels, how):
    turn, swaps = {
        "mirror": (lambda c: c[:, :, :, ::-1], "left right"),
        "upside_down": (lambda c: c[:, :, ::-1], "up down"),
        "reverse": (lambda c: c[:, ::-1], "left right up down approach recede"),
        "transpose": (lambda c: c.swapaxes(2, 3), "left up right down"),
    }[how]
    swaps = swaps.split()
    swap = {a: b for a, b in zip(swaps[::2], swaps[1::2])} | {
        b: a for a, b in zip(swaps[::2], swaps[1::2])
    }
    return turn(clips), np.array([CLASSES.index(swap.get(CLASSES[k], CLASSES[k])) for k in labels])


@pytest.mark.parametrize("how", ["mirror", "upside_down", "reverse", "transpose"])
def test_each_turn_alone_relabels_right(how, monkeypatch):
    """Against swaps written out here, and against the trained model, which knows the classes."""
    clips, labels = make_clips(60, seed=5, size=32)
    monkeypatch.setattr("utils.motion._TURN", {how: _TURN[how]})

    class Always:
        def random(self, n):
            return np.zeros(n)

    turned, relabelled = augment(clips, labels, Always())
    expected, expected_labels = turned_by_hand(clips, labels, how)
    assert np.array_equal(turned, expected) and np.array_equal(relabelled, expected_labels)
    model, _ = load_model(DATA / "motion_divided.safetensors")
    assert evaluate(model, (turned, relabelled)) > 0.9


def test_augment_leaves_its_input_alone_and_mixes():
    clips, labels = make_clips(64, seed=6, size=32)
    before = clips.copy()
    turned, _ = augment(clips, labels, np.random.default_rng(0))
    assert np.array_equal(clips, before)
    kept = (turned == clips).all((1, 2, 3, 4)).mean()
    assert 0 < kept < 0.3  # one clip in sixteen is expected to stay as it is


def test_written_clips_come_back_as_they_were(tmp_path):
    root = write_dataset(tmp_path / "motion", train=24, test=12, seed=7)
    folder = VideoFolder(root / "train", 8, 64, classes=CLASSES)
    clips, labels = folder.load(progress=False)
    made, made_labels = make_clips(24, (7, 0))
    order = np.argsort([int(path.stem) for path in folder.paths])
    assert np.array_equal(labels[order], made_labels)
    # mp4v is not exact; still each file is closest to the clip that it was made from
    distance = np.abs(clips[order, None].astype(int) - made[None]).mean((2, 3, 4, 5))
    assert distance.argmin(1).tolist() == list(range(24)) and distance.diagonal().max() < 6
    assert len(VideoFolder(root / "test", 8, 64, classes=CLASSES)) == 12

    stamp = (root / "made_with.json").stat().st_mtime_ns
    assert write_dataset(root, train=24, test=12, seed=7) == root
    assert (root / "made_with.json").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match="motion: already there"):
        write_dataset(root, train=30, test=12, seed=7)
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".lock"] == ["motion"]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fails(path, frames):
        raise OSError("disk full")

    monkeypatch.setattr("utils.motion.write_video", fails)
    with pytest.raises(OSError):
        write_dataset(tmp_path / "motion", train=12, test=6)
    assert [p for p in tmp_path.iterdir() if p.suffix != ".lock"] == []


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path):
    """A real one, of 300 kB, where this system lets us make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root on Linux can make a small disk")
    try:
        with pytest.raises(VideoError, match=r"\.mp4: the disk is full"):
            write_dataset(disk / "motion", train=300, test=6)
        assert [p for p in disk.iterdir() if p.suffix != ".lock"] == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_two_programs_may_build_the_cache_at_the_same_moment(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from utils.motion import write_dataset, CLASSES\n"
        "from utils.dataset import VideoFolder\n"
        "root = Path(sys.argv[1]); Path(sys.argv[2]).touch()\n"
        "while len(list(root.glob('ready*'))) < 2: time.sleep(0.01)\n"
        "made = write_dataset(root / 'motion', train=60, test=6)\n"
        "VideoFolder(made / 'train', 8, 32, classes=CLASSES).load(root / 'cache', progress=False)\n"
    )
    for attempt in range(2):  # from nothing, and again with all of it there
        both = [subprocess.Popen([sys.executable, "-c", code, tmp_path, tmp_path / f"ready{attempt}{k}"],
                                 stderr=subprocess.PIPE, text=True) for k in range(2)]  # fmt: skip
        errors = [one.communicate()[1] for one in both]
        assert [one.returncode for one in both] == [0, 0], errors
    assert len(list((tmp_path / "motion" / "train").glob("*/*.mp4"))) == 60
    assert not [p for p in tmp_path.iterdir() if "part" in p.name or p.name.startswith(".motion.") and p.is_dir()]  # fmt: skip


# The leak checks: whatever is left when the motion is gone must be worth nothing -----------------


@pytest.fixture(scope="module")
def trained():
    model, _ = load_model(DATA / "motion_divided.safetensors")
    clips, labels = motion_data("test", progress=False)
    assert evaluate(model, (clips, labels)) >= 0.99
    return model, clips, labels


CHANCE = 1 / 6


def test_shuffled_frames_tell_the_axis_but_not_the_direction(trained):
    """The bag of frames shows along which line the object was; which way it went must be a coin."""
    model, clips, labels = trained
    rng = np.random.default_rng(0)
    shuffled = np.stack([clip[rng.permutation(8)] for clip in clips])
    said = predict(model, shuffled).argmax(-1).numpy()
    same_axis = said // 2 == labels // 2
    assert (said == labels).mean() < 0.55
    assert 0.4 < (said == labels)[same_axis].mean() < 0.6


def test_one_frame_repeated_is_worth_nothing(trained):
    model, clips, labels = trained
    rng = np.random.default_rng(0)
    still = np.stack([clip[[rng.integers(8)] * 8] for clip in clips])
    assert evaluate(model, (still, labels)) < 2 * CHANCE


def test_reversed_clips_are_the_opposite_class(trained):
    model, clips, labels = trained
    reversed_clips, opposite = turned_by_hand(clips, labels, "reverse")
    assert evaluate(model, (reversed_clips, labels)) < 0.03
    assert evaluate(model, (reversed_clips, opposite)) > 0.97


@pytest.mark.slow  # test_model.py proves it exactly: space never sees the order of frames
def test_a_model_without_time_stays_at_chance():
    """Space-only sees all eight frames of every clip, but not their order."""
    torch.manual_seed(0)
    train, test = motion_data("train", progress=False), motion_data("test", progress=False)
    model = TimeSformer(
        num_classes=6,
        image_size=32,
        num_frames=8,
        patch_size=8,
        dim=32,
        depth=2,
        heads=4,
        scheme="space",
    )
    fit(model, train, epochs=3, augment=augment, progress=False)
    assert evaluate(model, test) < 1.5 * CHANCE
