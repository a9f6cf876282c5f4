import pytest
import torch

from utils.experiments import DATA
from utils.model import TimeSformer
from utils.motion import make_clips
from utils.rollout import attention_rollout, step_matrix
from utils.training import load_model, to_video

SIZES = dict(num_classes=2, image_size=8, num_frames=2, patch_size=4, dim=6, depth=1, heads=1)


def blind(step):
    """All scores zero: every token looks at all its keys alike."""
    torch.nn.init.zeros_(step.attention.fn.qkv.weight)
    torch.nn.init.zeros_(step.attention.fn.qkv.bias)


@pytest.mark.parametrize("scheme", ["joint", "divided"])
def test_uniform_attention_by_hand(scheme):
    """2 frames of 2 x 2 patches, 9 tokens: the matrices can be written down."""
    model = TimeSformer(**SIZES, scheme=scheme)
    patches, cls = model.embedding(torch.randn(1, 2, 3, 8, 8))
    for step in model.blocks[0].steps:
        blind(step)
    if scheme == "joint":
        expected = torch.full((9, 9), 1 / 9)
        torch.testing.assert_close(step_matrix(model.blocks[0].steps[0], patches, cls), expected)
        return
    time, space = model.blocks[0].steps
    expected = torch.zeros(9, 9)
    expected[0, 0] = 1
    for place in range(8):
        expected[1 + place, 1 + place % 4] = expected[1 + place, 5 + place % 4] = 0.5
    torch.testing.assert_close(step_matrix(time, patches, cls), expected)
    expected = torch.zeros(9, 9)
    expected[0] = torch.tensor([1 / 5] + [1 / 10] * 8)  # half its copies see each frame
    for frame in (slice(1, 5), slice(5, 9)):
        expected[frame, frame] = expected[frame, 0:1] = 1 / 5
    torch.testing.assert_close(step_matrix(space, patches, cls), expected)


def test_steps_are_multiplied_in_order():
    """A space step, then nothing: the class token sees what its own frame-wise row says."""
    model = TimeSformer(**SIZES)
    clip = make_clips(6, 0, num_frames=2, size=8)[0][0]
    patches, cls = model.embedding(to_video(clip[None]))
    first, second = (
        step_matrix(step, patches, cls) for step in model.blocks[0].steps
    )  # time starts at zero
    half = torch.eye(9) / 2
    expected = ((second / 2 + half) @ (first / 2 + half))[0, 1:]
    torch.testing.assert_close(
        attention_rollout(model, clip),
        (expected / expected.sum()).view(2, 2, 2),
        rtol=1e-4,
        atol=1e-6,
    )


def test_on_the_trained_model_it_is_a_distribution_that_favours_the_object():
    model, _ = load_model(DATA / "motion_divided.safetensors")
    clips, _ = make_clips(60, seed=9)
    shares, areas = [], []
    for clip in clips:
        share = attention_rollout(model.train(), clip)
        assert model.training  # left in the mode it was in
        assert share.shape == (8, 4, 4) and share.min() >= 0
        torch.testing.assert_close(share.sum(), torch.tensor(1.0))
        bright = torch.as_tensor(clip.max(-1) > 130).float().view(8, 4, 8, 4, 8).mean((2, 4))
        shares.append((share * bright).sum().item())
        areas.append(bright.mean().item())
    assert sum(shares) > 1.05 * sum(areas)


def test_space_has_no_rollout():
    with pytest.raises(ValueError, match="space"):
        attention_rollout(TimeSformer(**SIZES, scheme="space"), make_clips(6, 0, 2, 8)[0][0])
