"""The experiments' networks: every one trains, and differs from the course's model where it says."""

import pytest
import torch
from torch.nn import functional as F

from utils import variants
from utils.grids import CLIPS, GRIDS, HUES, SHAPES, SIZES, TASKS, task_clips, turn_only
from utils.model import TimeSformer, count_parameters
from utils.motion import CLASSES
from utils.variants import NoSkip, seeded

RUNS = [
    pytest.param(run, id=f"{name}-{run.variant}-{run.task}")
    for name, grid in GRIDS.items()
    for run in grid
]


def network(run, seed=0):
    model = seeded(run.build, seed, **SIZES | run.sizes)
    if run.change is not None:
        run.change(model)
    return model


@pytest.mark.parametrize("run", RUNS)
def test_every_network_of_every_grid_learns_something_from_one_batch(run):
    model = network(run)
    sizes = SIZES | run.sizes
    video = torch.randn(3, sizes["num_frames"], 3, sizes["image_size"], sizes["image_size"])
    logits = model(video)
    assert logits.shape == (3, 6) and logits.isfinite().all()
    F.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    learning = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.grad is not None and bool(p.grad.abs().max() > 0) for p in learning) > 5


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
        patches, cls = new_patches - patches, new_cls - cls if step.step.with_class else cls
    feed_forward = whole.blocks[0].feed_forward
    torch.testing.assert_close(got_patches, feed_forward(patches), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got_cls, feed_forward(cls), rtol=1e-4, atol=1e-5)


def test_a_time_step_without_skip_keeps_the_class_token():
    step = NoSkip(small().blocks[0].steps[0])
    patches, cls = tokens()
    assert torch.equal(step(patches, cls)[1], cls)


def test_no_mlp_adds_nothing():
    model = small()
    variants.no_mlp(model)
    patches, cls = tokens()
    assert not model.blocks[0].feed_forward(patches).any()


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
    assert [step.step for step in turned.blocks[0].steps] == [space.step, time.step]
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
    turned, labels = turn_only(clips, hue, __import__("numpy").random.default_rng(0))
    assert (labels == hue).all() and not (turned == clips).all()
    with pytest.raises(ValueError, match="'size'.*hue"):
        task_clips("size")


def test_the_hue_of_the_object_is_its_label(monkeypatch):
    import cv2
    import numpy as np

    monkeypatch.setitem(CLIPS, "test", 66)
    clips, hue = task_clips("hue", "test", 3, 32)
    right = 0
    for clip, label in zip(clips, hue):
        hsv = cv2.cvtColor(clip[1], cv2.COLOR_RGB2HSV)
        bright = hsv[hsv[..., 2] > 190]
        angle = np.angle(np.exp(1j * np.deg2rad(2.0 * bright[:, 0])).mean()) % (2 * np.pi)
        right += round(np.rad2deg(angle) / 60) % 6 == label
    assert right > 0.9 * len(hue)
