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


class Fixed(torch.nn.Module):
    """An attention whose weights are given: one-hot rows, the same in every group."""

    def __init__(self, looks_at):
        super().__init__()
        self.rows = torch.nn.functional.one_hot(torch.tensor(looks_at)).float()

    def weights(self, x):
        return self.rows.expand(len(x), 2, -1, -1)  # two heads that agree

    def forward(self, x):
        return torch.zeros_like(x)


def test_a_path_through_time_and_class_token_that_is_known():
    """Frame 0 looks at frame 1; in each frame the class token looks at patch 2. So half of its
    attention on (frame 0, patch 2), which is a quarter, is passed on to (frame 1, patch 2)."""
    model = TimeSformer(**SIZES)
    time, space = model.blocks[0].steps
    time.attention.fn = Fixed([1, 1])  # frame 0 -> frame 1, frame 1 -> itself
    space.attention.fn = Fixed([3, 1, 2, 3, 4])  # class token -> patch 2; each patch -> itself
    share = attention_rollout(model, make_clips(6, 0, num_frames=2, size=8)[0][0])
    expected = torch.zeros(2, 2, 2)
    expected[0, 1, 0] = 1 / 8  # of the class token's row: a quarter, of which half stays
    expected[1, 1, 0] = 1 / 4 + 1 / 8
    torch.testing.assert_close(share, expected / expected.sum())


@pytest.mark.parametrize("scheme", ["local+global", "axial"])
def test_rows_sum_to_one_in_the_schemes_with_blocks_and_axes(scheme):
    torch.manual_seed(0)
    model = TimeSformer(**SIZES | dict(image_size=16, patch_size=4, num_frames=4), scheme=scheme)
    clip = make_clips(6, 0, num_frames=4, size=16)[0][0]
    patches, cls = model.embedding(to_video(clip[None]))
    for step in model.blocks[0].steps:
        matrix = step_matrix(step, patches, cls)
        torch.testing.assert_close(matrix.sum(-1), torch.ones(65))
        assert ((matrix > 0) == (step_matrix(step, patches * 2, cls) > 0)).all()  # by place alone
    share = attention_rollout(model, clip)
    assert share.shape == (4, 4, 4) and share.min() > 0
    torch.testing.assert_close(share.sum(), torch.tensor(1.0))


def test_on_the_trained_model_it_is_a_distribution_that_follows_the_object():
    """Share of attention on the object over its area, against its place four frames later or earlier."""
    model, _ = load_model(DATA / "motion_divided.safetensors")
    clips, _ = make_clips(60, seed=9)
    shares, elsewhere, areas = [], [], []
    for clip in clips:
        share = attention_rollout(model.train(), clip)
        assert model.training  # left in the mode it was in
        assert share.shape == (8, 4, 4) and share.min() >= 0
        torch.testing.assert_close(share.sum(), torch.tensor(1.0))
        bright = torch.as_tensor(clip.max(-1) > 130).float().view(8, 4, 8, 4, 8).mean((2, 4))
        shares.append((share * bright).sum().item())
        elsewhere.append((share * bright.roll(4, 0)).sum().item())
        areas.append(bright.mean().item())
    on, off = sum(shares) / sum(areas), sum(elsewhere) / sum(areas)
    assert on > 1.5 and on > 1.15 * off  # measured: about 2.0 and 1.5


def test_space_has_no_rollout():
    with pytest.raises(ValueError, match="space"):
        attention_rollout(TimeSformer(**SIZES, scheme="space"), make_clips(6, 0, 2, 8)[0][0])
