"""The experiments' networks: every one trains, and differs from the course's model where it says."""

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from utils import paths
from utils.experiments import variants
from utils.experiments.grids import (
    AUGMENT,
    CLIPS,
    GRIDS,
    HUES,
    SHAPES,
    SIZES,
    TASKS,
    task_clips,
    turn_only,
)
from utils.experiments.variants import NoSkip, seeded, transformer
from utils.experiments.wrapping import make_wrapping_clip
from utils.model import AttentionStep, TimeSformer, as_pair, count_parameters
from utils.motion import CLASSES, VELOCITY
from utils.recipe import LIPS_MODEL
from utils.training import load_model

RUNS = [
    pytest.param(run, id=f"{name}-{run.variant}-{run.task}")
    for name, grid in GRIDS.items()
    for run in grid
]


def network(run, seed=0):
    model = seeded(run.build, seed, **run.all_sizes())
    if run.change not in (
        None,
        variants.from_motion,
    ):  # which trains for minutes; it has its own test
        run.change(model)
    return model


@pytest.mark.parametrize("run", RUNS)
def test_every_parameter_of_every_network_gets_a_gradient(run):
    model = network(run)
    for step in model.modules():
        if isinstance(step, AttentionStep) and isinstance(step.project, torch.nn.Linear):
            torch.nn.init.normal_(step.project.weight)  # what starts at zero wakes up soon enough
    sizes = run.all_sizes()
    video = torch.randn(3, sizes["num_frames"], 3, *as_pair(sizes["image_size"]))
    logits = model(video)
    assert logits.shape == (3, sizes["num_classes"]) and logits.isfinite().all()
    F.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    idle = {
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    }
    if run.change in (variants.space_first, variants.parallel):
        # Their last time step comes too late for the class token: lesson 14 says so.
        assert idle and all(name.startswith("blocks.1.") for name in idle)
    else:
        assert not idle


def test_a_seed_decides_the_weights():
    run = GRIDS["schemes"][2]
    first, same, other = network(run, 1), network(run, 1), network(run, 2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters()))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters()))


def small(**more):
    torch.manual_seed(0)
    model = TimeSformer(**SIZES | dict(dim=12, heads=3, num_frames=4) | more).eval()
    variants.awake_time_step(model)
    return model


def tokens():
    return torch.randn(2, 4, 4, 4, 12), torch.randn(2, 12)


def test_without_skips_nothing_goes_around():
    whole, bare = small(), small()
    variants.no_skips(bare)
    for (name, a), b in zip(whole.blocks[0].named_parameters(), bare.blocks[0].parameters()):
        torch.testing.assert_close(a, b, msg=name) if "project" not in name else b.data.copy_(a)
    patches, cls = tokens()
    got_patches, got_cls = bare.blocks[0](patches, cls)
    for step in whole.blocks[0].steps:
        new_patches, new_cls = step(patches, cls)
        patches, cls = new_patches - patches, new_cls - cls if step.spec.with_class else cls
    feed_forward = whole.blocks[0].feed_forward
    torch.testing.assert_close(got_patches, feed_forward(patches), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got_cls, feed_forward(cls), rtol=1e-4, atol=1e-5)


def test_a_time_step_without_skip_keeps_the_class_token():
    step = NoSkip(small().blocks[0].steps[0])
    patches, cls = tokens()
    assert torch.equal(step(patches, cls)[1], cls)


def test_positions_are_what_the_line_says():
    for change, space, spread in ((variants.no_positions, False, 0.0), (variants.no_time, True, 0.0),
                                  (variants.small_time, True, 0.02), (variants.random_time, True, 1.0)):  # fmt: skip
        model = TimeSformer(**SIZES)
        smooth = model.embedding.time.clone()
        change(model)
        time = model.embedding.time
        assert bool(model.embedding.space.any()) == space and not torch.equal(time, smooth)
        assert abs(time.std().item() - spread) < 0.1 * spread + 1e-9
        assert time.requires_grad == bool(spread)
        near, far = ((time[n:] - time[:-n]).norm(dim=1).mean() for n in (1, 4))
        assert near >= 0.8 * far  # nothing smooth about it


def test_an_awake_time_step_adds_something():
    fresh, awake = TimeSformer(**SIZES), TimeSformer(**SIZES)
    variants.awake_time_step(awake)
    for model, adds in ((fresh, False), (awake, True)):
        patches, cls = torch.randn(1, 8, 4, 4, 48), torch.randn(1, 48)
        step = model.blocks[0].steps[0]
        assert (not torch.equal(step(patches, cls)[0], patches)) == adds


def test_relu_is_a_relu():
    model = TimeSformer(**SIZES | dict(activation="gelu", mult=6))
    variants.relu(model)
    x = torch.randn(5, 48)
    first, second = model.blocks[1].feed_forward.fn.net[0], model.blocks[1].feed_forward.fn.net[3]
    torch.testing.assert_close(model.blocks[1].feed_forward.fn(x), second(first(x).clamp(min=0)))


def test_differences_of_a_still_clip_are_nothing():
    model = variants.FrameDifferences(6, 4).eval()
    still = torch.randn(2, 1, 3, 16, 16).expand(-1, 4, -1, -1, -1)
    torch.testing.assert_close(model(still), model(torch.zeros_like(still)))
    assert not torch.allclose(model(torch.randn(2, 4, 3, 16, 16)), model(still))


def test_patches_read():
    model = TimeSformer(**SIZES)
    variants.read_patches(model)
    patches, cls = torch.randn(2, 3, 4, 4, 48), torch.randn(2, 48)
    kept, read = model.blocks[-1](patches, cls)
    assert kept is patches
    torch.testing.assert_close(read, patches.flatten(1, 3).mean(1))


def test_no_mlp_adds_nothing():
    model = small()
    variants.no_mlp(model)
    patches, cls = tokens()
    assert not model.blocks[0].feed_forward(patches).any()
    assert count_parameters(model) < 0.6 * count_parameters(small())


def test_post_norm_normalises_every_sum_and_keeps_the_parameters():
    model = small()
    before = count_parameters(model)
    variants.post_norm(model)
    patches, cls = model.blocks[0](*(10 * part for part in tokens()))
    assert count_parameters(model) == before
    for part in (patches, cls):
        torch.testing.assert_close(part.mean(-1), torch.zeros(part.shape[:-1]), rtol=0, atol=1e-5)
        torch.testing.assert_close(
            part.std(-1, unbiased=False), torch.ones(part.shape[:-1]), rtol=1e-3, atol=1e-3
        )


def test_order_of_steps():
    patches, cls = tokens()
    whole, turned, beside = small(), small(), small()
    time, space = whole.blocks[0].steps
    variants.space_first(turned)
    assert [step.spec for step in turned.blocks[0].steps] == [space.spec, time.spec]
    variants.parallel(beside)
    got, got_cls = beside.blocks[0].steps[0](patches, cls)
    same_weights = beside.blocks[0].steps[0].steps
    expected = sum((step(patches, cls)[0] for step in same_weights), start=-patches)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(got_cls, same_weights[1](patches, cls)[1])


def test_budgets_that_are_called_equal_are():
    sizes = {run.variant: count_parameters(network(run)) for run in GRIDS["schemes-parameters"]}
    assert all(abs(size / sizes["divided"] - 1) < 0.041 for size in sizes.values())
    for name, allowed in (("convolution", 1.02), ("recipe", 1.005), ("order", 1.0)):
        sizes = [count_parameters(network(run)) for run in GRIDS[name]]
        assert max(sizes) <= allowed * min(sizes), name


def test_relu_needs_a_plain_mlp():
    with pytest.raises(AssertionError):
        variants.relu(small())


def test_clips_of_the_tasks(monkeypatch):
    monkeypatch.setitem(CLIPS, "train", 60)
    monkeypatch.setitem(CLIPS, "test", 60)
    clips, motion = task_clips("motion", "train", 4, 16)
    same, hue = task_clips("hue", "train", 4, 16)
    _, shape = task_clips("shape", "train", 4, 16)
    assert clips is same and clips.shape == (60, 4, 16, 16, 3)
    assert TASKS == {"motion": CLASSES, "hue": HUES, "shape": SHAPES}
    for labels in (motion, hue, shape):
        assert labels.tolist() != sorted(labels.tolist())
        assert torch.bincount(torch.as_tensor(labels)).tolist() == [10] * 6
    large, again = task_clips("motion", "train", 8, 48)
    assert (again == motion).all() and large.shape == (60, 8, 48, 48, 3)
    turned, labels = turn_only(clips, hue, np.random.default_rng(0))
    assert (labels == hue).all() and not (turned == clips).all()
    with pytest.raises(ValueError, match="'size'.*hue"):
        task_clips("size")
    with pytest.raises(ValueError, match="'valid'.*train"):
        task_clips("hue", "valid")


@pytest.mark.parametrize("task", ["motion", "flash"])
def test_train_and_test_clips_have_nothing_in_common(task, monkeypatch):
    monkeypatch.setitem(CLIPS, "train", 60)
    monkeypatch.setitem(CLIPS, "test", 60)
    train, test = (task_clips(task, split, 4, 16)[0] for split in ("train", "test"))
    paths = [{(clip > 128).tobytes() for clip in clips} for clips in (train, test)]
    assert len(paths[0]) > 50 and not paths[0] & paths[1]


def test_the_flashes_come_in_the_order_of_their_label(monkeypatch):
    monkeypatch.setitem(CLIPS, "test", 60)
    clips, labels = task_clips("flash", "test", 16, 32)
    pairs = ["rg", "rb", "gr", "gb", "br", "bg"]
    for clip, label in zip(clips, labels):
        bright = [frame for frame in range(16) if clip[frame].max() > 180]
        assert len(bright) == 2 and bright[1] - bright[0] == 10
        seen = "".join(
            "rgb"[clip[frame][clip[frame].max(-1) > 180].mean(0).argmax()] for frame in bright
        )
        assert seen == pairs[label]
    assert AUGMENT["flash"] is None  # a reversed clip would have another label


def test_the_hue_of_the_object_is_its_label(monkeypatch):
    monkeypatch.setitem(CLIPS, "test", 66)
    clips, hue = task_clips("hue", "test", 3, 32)
    right = 0
    for clip, label in zip(clips, hue):
        hsv = cv2.cvtColor(clip[1], cv2.COLOR_RGB2HSV)
        coloured = hsv[(hsv[..., 1] > 130) & (hsv[..., 2] > 120)]  # neither paper nor ink
        angle = np.angle(np.exp(1j * np.deg2rad(2.0 * coloured[:, 0])).mean()) % (2 * np.pi)
        right += round(np.rad2deg(angle) / 60) % 6 == label
    assert right > 0.9 * len(hue)


def test_a_start_from_motion_keeps_the_head_and_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "cache_folder", lambda: tmp_path)
    monkeypatch.setitem(variants.MOTION, "clips", 64)
    monkeypatch.setitem(variants.MOTION, "epochs", 1)
    sizes = LIPS_MODEL | dict(dim=8, heads=2, depth=1)
    fresh, first, second = (seeded(transformer, 3, **sizes) for _ in range(3))
    variants.from_motion(first)
    (kept,) = (tmp_path / "experiments").iterdir()
    written = kept.stat().st_mtime_ns
    variants.from_motion(second)
    assert kept.stat().st_mtime_ns == written
    taught, _ = load_model(kept)
    assert taught.config == first.config | dict(num_classes=6)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
        same_as = fresh if name.startswith("head.") else taught
        assert torch.equal(value, same_as.state_dict()[name]), name


@pytest.mark.parametrize("build", [variants.lips_convolutions_3d, variants.lips_frame_differences])
def test_the_networks_beside_the_lip_reader_have_as_many_parameters(build):
    ours = count_parameters(transformer(**LIPS_MODEL))
    assert abs(count_parameters(build(**LIPS_MODEL)) / ours - 1) < 0.05


@pytest.mark.parametrize("label", range(6), ids=CLASSES)
def test_wrapping_objects_do_what_their_class_says_and_come_back(label):
    """Followed round a torus: the bright object's centre as an angle, for rows and for columns."""
    turn = np.exp(2j * np.pi * np.arange(32) / 32)
    moved, grown, crossed = [], [], 0
    for seed in range(30):
        clip = make_wrapping_clip(label, np.random.default_rng(seed))
        weight = np.clip(clip.max(-1).astype(float) - 130, 0, None)
        angles = np.stack(
            [np.angle((weight * turn[:, None]).sum((1, 2))), np.angle((weight * turn).sum((1, 2)))],
            -1,
        )
        moved.append(np.angle(np.exp(1j * np.diff(angles, axis=0))).mean(0))
        crossed += np.abs(np.diff(angles, axis=0)).max() > np.pi  # from one side to the other
        area = (clip.max(-1) > 150).mean((1, 2))
        grown.append(np.log(area[-2:].mean() / area[:2].mean()))
    moved, grown, name = np.median(moved, axis=0), np.median(grown), CLASSES[label]
    if name in VELOCITY:
        assert np.sign(np.round(moved, 1)).tolist() == list(VELOCITY[name]) and abs(grown) < 0.3
        assert crossed >= 5
    else:
        assert np.abs(moved).max() < 0.1 and (grown > 0.7 if name == "approach" else grown < -0.7)
