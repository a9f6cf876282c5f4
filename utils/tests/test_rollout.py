import numpy as np
import pytest
import torch

from utils.model import TimeSformer, fold
from utils.motion import make_clips
from utils.paths import DATA
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


def test_two_blocks_two_heads_written_out_again():
    """Every step's attention, read while the model runs, multiplied here by hand."""
    torch.manual_seed(3)
    sizes = SIZES | dict(depth=2, heads=2, dropout=0.5)
    model = TimeSformer(**sizes).eval()
    for parameter in model.blocks.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    seen = []
    for block in model.blocks:
        for step in block.steps:
            step.attention.fn.register_forward_pre_hook(
                lambda module, inputs: seen.append(module.weights(inputs[0]))
            )
    clip = make_clips(6, 1, num_frames=2, size=8)[0][0]
    model(to_video(clip[None]))

    total = torch.eye(9)
    for number, weights in enumerate(seen):  # time, space, time, space
        mean, matrix = weights.mean(1), torch.zeros(9, 9)
        if number % 2 == 0:  # four groups of two tokens: place p of frames 0 and 1
            matrix[0, 0] = 1
            for place in range(4):
                for a in range(2):
                    for b in range(2):
                        matrix[1 + 4 * a + place, 1 + 4 * b + place] = mean[place, a, b]
        else:  # two groups of five: the class token's copy and the patches of a frame
            for frame in range(2):
                tokens = [0, *range(1 + 4 * frame, 5 + 4 * frame)]
                for a, row in enumerate(tokens):
                    for b, column in enumerate(tokens):
                        matrix[row, column] += mean[frame, a, b] * (0.5 if row == 0 else 1)
        total = (matrix + torch.eye(9)) / 2 @ total
    expected = total[0, 1:] / total[0, 1:].sum()
    share = attention_rollout(model.train(), clip)  # dropout must not touch it
    torch.testing.assert_close(share.flatten(), expected, rtol=1e-4, atol=1e-6)


def test_a_clip_of_another_size_is_an_error():
    for frames, size in ((1, 8), (4, 8), (2, 16)):
        clip = make_clips(6, 0, num_frames=frames, size=size)[0][0]
        with pytest.raises(
            ValueError, match=rf"\(2, 3, 8, 8\), got \({frames}, 3, {size}, {size}\)"
        ):
            attention_rollout(TimeSformer(**SIZES), clip)


@pytest.mark.parametrize("scheme", ["local+global", "axial"])
def test_rows_sum_to_one_in_the_schemes_with_blocks_and_axes(scheme):
    torch.manual_seed(0)
    model = TimeSformer(**SIZES | dict(image_size=16, patch_size=4, num_frames=4), scheme=scheme)
    clip = make_clips(6, 0, num_frames=4, size=16)[0][0]
    patches, cls = model.embedding(to_video(clip[None]))
    for step in model.blocks[0].steps:
        matrix = step_matrix(step, patches, cls)
        torch.testing.assert_close(matrix.sum(-1), torch.ones(65))
        groups = fold(torch.arange(64.0).view(1, 4, 4, 4, 1), step.spec)[..., 0].long()
        meet = torch.eye(64, dtype=torch.bool)
        for group in groups:
            meet[group[:, None], group] = True
        assert torch.equal(matrix[1:, 1:] > 0, meet)
    share = attention_rollout(model, clip)
    assert share.shape == (4, 4, 4) and share.min() > 0
    torch.testing.assert_close(share.sum(), torch.tensor(1.0))


def test_on_the_trained_model_it_is_a_distribution_that_follows_the_object():
    """Share of attention on the object over its area, against its place four frames later or earlier."""
    model, _ = load_model(DATA / "motion_divided.safetensors")
    clips, _ = make_clips(60, seed=9, size=32)
    shares, elsewhere, areas = [], [], []
    for clip in clips:
        share = attention_rollout(model.train(), clip)
        assert model.training  # left in the mode it was in
        assert share.shape == (8, 4, 4) and share.min() >= 0
        torch.testing.assert_close(share.sum(), torch.tensor(1.0))
        pixels = clip.astype(int)
        thing = (np.ptp(pixels, axis=-1) > 60) | (pixels.max(-1) < 110)  # coloured, or ink
        thing = torch.as_tensor(thing).float().view(8, 4, 8, 4, 8).mean((2, 4))
        shares.append((share * thing).sum().item())
        elsewhere.append((share * thing.roll(4, 0)).sum().item())
        areas.append(thing.mean().item())
    on, off = sum(shares) / sum(areas), sum(elsewhere) / sum(areas)
    assert on > 1.5 and on > 1.15 * off  # measured: about 3.0 and 1.9


def test_the_mode_comes_back_after_an_error(monkeypatch):
    model = TimeSformer(**SIZES).train()

    def fails(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("utils.rollout.step_matrix", fails)
    with pytest.raises(RuntimeError):
        attention_rollout(model, make_clips(6, 0, 2, 8)[0][0])
    assert model.training


def test_space_has_no_rollout():
    with pytest.raises(ValueError, match="space"):
        attention_rollout(TimeSformer(**SIZES, scheme="space"), make_clips(6, 0, 2, 8)[0][0])
