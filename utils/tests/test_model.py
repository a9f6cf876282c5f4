import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from utils.model import (
    GEGLU,
    SCHEMES,
    Attention,
    AttentionStep,
    Block,
    FeedForward,
    Step,
    TimeSformer,
    attend,
    attention_numbers,
    attention_weights,
    count_parameters,
    fold,
    multiply_adds,
    resize_model,
    smooth_embedding,
    to_patches,
    unfold,
)
from utils.published import published_config, published_state  # fmt: skip

SMALL = dict(
    num_classes=5, image_size=(8, 12), num_frames=3, patch_size=4, dim=12, depth=2, heads=3
)


def awake(module):
    """Random numbers in every parameter, so that nothing hides behind a zero.

    The scales of the norms stay near 1: with small ones attention would be flat, and a mistake in
    it would hide.
    """
    for inner in module.modules():
        for name, parameter in inner.named_parameters(recurse=False):
            is_scale = isinstance(inner, nn.LayerNorm) and name == "weight"
            nn.init.normal_(parameter, mean=float(is_scale), std=0.2)
    return module.eval()


@pytest.mark.parametrize("scheme", ["space", "joint", "divided"])
@pytest.mark.parametrize(
    "image_size, frames, patch_size, dim, depth, heads",
    [(32, 4, 8, 48, 2, 4), (48, 5, 16, 36, 3, 3), (16, 3, 4, 20, 1, 1), (24, 8, 8, 64, 4, 8)],
)
def test_logits_equal_the_published_implementation(
    scheme, image_size, frames, patch_size, dim, depth, heads
):
    transformers = pytest.importorskip("transformers")
    model = awake(
        TimeSformer(7, image_size, frames, patch_size, dim, depth, heads, scheme, activation="gelu")
    )
    config = transformers.TimesformerConfig(**published_config(model))
    published = transformers.TimesformerForVideoClassification(config).eval()
    published.load_state_dict(published_state(model))  # strict: every weight has its place
    video = torch.randn(2, frames, 3, image_size, image_size)
    with torch.no_grad():
        ours, theirs = model(video), published(video).logits
    if (
        scheme == "space"
    ):  # theirs stops at one row of logits per frame; the head is linear, so average
        theirs = theirs.view(2, frames, 7).mean(1)
    scale = theirs.abs().max()
    assert scale > 0.1
    torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "scheme, millions",
    [
        ("space", 85.9),
        ("joint", 85.9),
        ("divided", 121.4),
        ("local+global", 121.4),
        ("axial", 156.8),
    ],
)
def test_parameters_of_table_1(scheme, millions):
    with torch.device("meta"):
        model = TimeSformer(174, 224, 8, 16, 768, 12, 12, scheme, activation="gelu")
    assert round(count_parameters(model) / 1e6, 1) == millions


@pytest.mark.parametrize(
    "image_size, frames, tera", [(224, 8, 0.59), (448, 16, 5.11), (224, 96, 7.14)]
)
def test_multiply_adds_of_the_published_models(image_size, frames, tera):
    with torch.device("meta"):
        model = TimeSformer(400, image_size, frames, 16, 768, 12, 12, activation="gelu")
    assert round(multiply_adds(model, clips=3) / 1e12, 2) == tera


def reach(step, t=4, h=4, w=6, dim=12):
    """out-position x in-position: does the gradient arrive? The class token is position 0."""
    patches, cls = (
        torch.randn(1, t, h, w, dim).requires_grad_(),
        torch.randn(1, dim).requires_grad_(),
    )
    out_patches, out_cls = step(patches, cls)
    outs = torch.cat([out_cls[:, None], out_patches.flatten(1, 3)], 1)[0]
    rows = []
    for out in outs:
        grads = torch.autograd.grad(
            (out * torch.randn(dim)).sum(), [cls, patches], retain_graph=True, allow_unused=True
        )
        g_cls, g_patches = (
            g if g is not None else torch.zeros_like(i) for g, i in zip(grads, (cls, patches))
        )
        rows.append(torch.cat([g_cls[:, None], g_patches.flatten(1, 3)], 1)[0].abs().sum(-1) > 0)
    return torch.stack(rows)


def same_block(a, b):
    """In the same quarter of a grid of 4 x 6."""
    return a[1] // 2 == b[1] // 2 and a[2] // 3 == b[2] // 3


def same_parity(a, b):
    return all((x - y) % 2 == 0 for x, y in zip(a, b))


# With the class token or without, step by step.
WITH_CLASS = {
    "space": [True],
    "joint": [True],
    "divided": [False, True],
    "local+global": [True, True],
    "axial": [False, True, True],
}
PLACES = [(t, h, w) for t in range(4) for h in range(4) for w in range(6)]
MEET = {
    "space": [lambda a, b: a[0] == b[0]],
    "joint": [lambda a, b: True],
    "divided": [lambda a, b: a[1:] == b[1:], lambda a, b: a[0] == b[0]],
    "local+global": [same_block, same_parity],
    "axial": [
        lambda a, b: a[1:] == b[1:],
        lambda a, b: a[:2] == b[:2],
        lambda a, b: (a[0], a[2]) == (b[0], b[2]),
    ],
}


@pytest.mark.parametrize("scheme, index", [(s, i) for s in SCHEMES for i in range(len(SCHEMES[s]))])
def test_who_sees_whom(scheme, index):
    step = SCHEMES[scheme][index]
    seen = reach(awake(AttentionStep(12, 3, step)))
    expected = torch.tensor([[MEET[scheme][index](a, b) for b in PLACES] for a in PLACES])
    assert torch.equal(seen[1:, 1:], expected)
    assert seen[0, 0]
    with_class = WITH_CLASS[scheme][index]
    assert seen[0, 1:].all() if with_class else not seen[0, 1:].any()
    assert seen[1:, 0].all() if with_class else not seen[1:, 0].any()


@pytest.mark.parametrize("scheme, index", [(s, i) for s in SCHEMES for i in range(len(SCHEMES[s]))])
def test_a_step_equals_attention_in_each_group_gathered_by_hand(scheme, index):
    step = SCHEMES[scheme][index]
    module = awake(AttentionStep(12, 3, step))
    patches, cls = torch.randn(2, 4, 4, 6, 12), torch.randn(2, 12)
    new_patches, new_cls = module(patches, cls)
    for clip in range(2):
        updates = []
        for place in PLACES:
            members = [other for other in PLACES if MEET[scheme][index](place, other)]
            tokens = torch.stack([patches[clip][other] for other in members])
            if step.with_class:
                tokens = torch.cat([cls[clip, None], tokens])
            out = module.project(module.attention(tokens[None]))[0]
            own = members.index(place) + step.with_class
            torch.testing.assert_close(new_patches[clip][place], patches[clip][place] + out[own])
            updates.append(out[0])
        if step.with_class:  # groups have equal sizes: the mean over places is the mean over groups
            torch.testing.assert_close(new_cls[clip], cls[clip] + torch.stack(updates).mean(0))
        else:
            torch.testing.assert_close(new_cls[clip], cls[clip], rtol=0, atol=0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_fold_and_unfold_are_opposites(scheme):
    patches = torch.randn(2, 4, 6, 10, 3)
    for step in SCHEMES[scheme]:
        groups = fold(patches, step)
        assert groups.shape[0] % 2 == 0 and groups.shape[0] * groups.shape[1] == 2 * 4 * 6 * 10
        assert torch.equal(unfold(groups, step, 4, 6, 10), patches)


@pytest.mark.parametrize(
    "frames, size, odd",
    [(3, (16, 16), "3 frames"), (4, (12, 16), "3 rows"), (4, (16, 12), "3 columns")],
)
def test_sizes_that_cannot_be_halved_are_an_error(frames, size, odd):
    sizes = SMALL | dict(num_frames=frames, image_size=size)
    for scheme in SCHEMES:
        if scheme == "local+global":
            with pytest.raises(ValueError, match=odd):
                TimeSformer(**sizes, scheme=scheme)
        else:
            TimeSformer(**sizes, scheme=scheme)


def test_resize_refuses_what_the_scheme_cannot_split_and_changes_nothing():
    sizes = SMALL | dict(num_frames=4, image_size=16)
    model = TimeSformer(**sizes, scheme="local+global")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="5 frames"):
        resize_model(model, 16, 5)
    assert model.config["num_frames"] == 4
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert resize_model(model, 24, 6)(torch.randn(1, 6, 3, 24, 24)).shape == (1, 5)


def test_clips_of_a_batch_never_mix():
    for scheme in SCHEMES:
        model = awake(TimeSformer(**SMALL | dict(image_size=(8, 16), num_frames=4), scheme=scheme))
        video = torch.randn(4, 4, 3, 8, 16)
        torch.testing.assert_close(model(video)[2:3], model(video[2:3]))


def test_class_token_update_is_the_mean_over_frames():
    step = awake(AttentionStep(12, 3, Step("(b t) (h w)")))
    patches, cls = torch.randn(2, 3, 2, 3, 12), torch.randn(2, 12)
    updates = [step(patches[:, [t]], cls)[1] - cls for t in range(3)]
    torch.testing.assert_close(step(patches, cls)[1] - cls, torch.stack(updates).mean(0))


def test_divided_starts_as_its_per_frame_model():
    model = TimeSformer(**SMALL).eval()
    video = torch.randn(2, 3, 3, 8, 12)
    before = model(video)
    for block in model.blocks:
        assert block.steps[0].project.weight.abs().max() == 0
        block.steps = block.steps[1:]
    torch.testing.assert_close(model(video), before, rtol=0, atol=0)


def test_divided_on_a_still_clip_starts_as_the_image_model():
    """With one frame repeated and no time embedding, nothing but the frame is left to see."""
    divided = TimeSformer(**SMALL).eval()
    divided.embedding.time.data.zero_()
    space = TimeSformer(**SMALL, scheme="space").eval()
    weights = {
        name.replace("steps.1.", "steps.0."): value
        for name, value in divided.state_dict().items()
        if "steps.0." not in name
    }
    weights.pop("embedding.time")
    space.load_state_dict(weights)
    still = torch.randn(2, 1, 3, 8, 12).expand(-1, 3, -1, -1, -1)
    torch.testing.assert_close(divided(still), space(still))


def test_time_step_learns_although_it_starts_at_zero():
    model = TimeSformer(**SMALL)
    model(torch.randn(2, 3, 3, 8, 12)).square().sum().backward()
    assert all(block.steps[0].project.weight.grad.abs().max() > 0 for block in model.blocks)


@pytest.mark.parametrize("scheme", ["joint", "divided", "axial"])
def test_frame_order_is_told_by_time_embeddings_alone(scheme):
    model = awake(TimeSformer(**SMALL, scheme=scheme))
    video = torch.randn(2, 3, 3, 8, 12)
    shuffled = video[:, [2, 0, 1]]
    assert not torch.allclose(model(video), model(shuffled), atol=1e-3)
    model.embedding.time.data.zero_()
    torch.testing.assert_close(model(video), model(shuffled))


def test_space_never_sees_the_order_of_frames():
    model = awake(TimeSformer(**SMALL, scheme="space"))
    video = torch.randn(2, 3, 3, 8, 12)
    torch.testing.assert_close(model(video), model(video[:, [2, 0, 1]]))


def test_attention_equals_torch():
    q, k, v = torch.randn(3, 2, 3, 5, 7).unbind(0)
    torch.testing.assert_close(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))
    module, x = Attention(12, 3), torch.randn(2, 5, 12)
    reference = nn.MultiheadAttention(12, 3, batch_first=True)
    reference.in_proj_weight, reference.in_proj_bias, reference.out_proj = (
        module.qkv.weight,
        module.qkv.bias,
        module.out,
    )
    expected, weights = reference(x, x, x, average_attn_weights=False)
    torch.testing.assert_close(module(x), expected)
    torch.testing.assert_close(module.weights(x), weights)


def test_patches_lose_nothing_and_match_a_convolution():
    video = torch.randn(2, 3, 3, 8, 12)
    patches = to_patches(video, 4)
    assert patches.shape == (2, 3, 2, 3, 48)
    conv = nn.Conv2d(3, 5, kernel_size=4, stride=4)
    by_matrix = patches @ conv.weight.flatten(1).T + conv.bias
    by_conv = conv(video.flatten(0, 1)).view(2, 3, 5, 2, 3).permute(0, 1, 3, 4, 2)
    torch.testing.assert_close(by_matrix, by_conv, rtol=1e-4, atol=1e-5)


def test_smooth_embedding_is_smooth():
    rows = smooth_embedding(16, 400)
    assert 0.7 < rows.std() < 1.4
    near, far = (rows[1:] - rows[:-1]).norm(dim=1).mean(), (rows[8:] - rows[:-8]).norm(dim=1).mean()
    assert near < far / 2


def test_resize_keeps_the_model_and_fits_the_new_clip():
    model = awake(TimeSformer(**SMALL))
    same = {name: value.clone() for name, value in model.state_dict().items()}
    resize_model(model, (8, 12), 3)
    torch.testing.assert_close(model.embedding.space.data, same["embedding.space"])
    resize_model(model, (16, 8), 5)
    assert model(torch.randn(2, 5, 3, 16, 8)).shape == (2, 5)
    assert model.embedding.space.shape == (4, 2, 12) and model.embedding.time.shape == (5, 12)
    assert TimeSformer(**model.config).load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match="10 x 8 pixels.*patches of 4"):
        resize_model(model, (10, 8), 5)


def test_errors_name_the_values():
    model = TimeSformer(**SMALL)
    with pytest.raises(ValueError, match=r"\(3, 3, 8, 12\).*\(4, 3, 8, 12\)"):
        model(torch.randn(2, 4, 3, 8, 12))
    with pytest.raises(ValueError, match="unknown scheme 'axal'.*divided"):
        TimeSformer(**SMALL, scheme="axal")
    with pytest.raises(ValueError, match="dim 12 .* 5 heads"):
        Attention(12, 5)
    with pytest.raises(ValueError, match="'relu'"):
        FeedForward(12, activation="relu")
    with pytest.raises(ValueError, match="9 x 12 pixels .* 4"):
        TimeSformer(**SMALL | dict(image_size=(9, 12)))


def test_a_gated_model_has_no_published_twin():
    with pytest.raises(ValueError, match="'geglu'"):
        published_config(TimeSformer(**SMALL))


def test_an_unpublished_scheme_has_no_published_twin():
    model = TimeSformer(**SMALL, scheme="axial", activation="gelu")
    with pytest.raises(
        ValueError, match="no published model has the scheme 'axial'; there are space"
    ):
        published_config(model)
    with pytest.raises(ValueError, match="square frames, not 8 x 12"):
        published_config(TimeSformer(**SMALL, activation="gelu"))


def test_sizes_of_numpy_are_welcome():
    """np.int64 is what arithmetic on shapes gives; it is no int, and JSON cannot hold it."""
    model = TimeSformer(**SMALL | dict(image_size=np.int64(8)))
    assert model.clip_shape == (3, 3, 8, 8) and json.dumps(model.config)
    assert resize_model(model, np.int64(16), 3).clip_shape == (3, 3, 16, 16)
    assert json.dumps(model.config)


def test_frozen_parameters_are_not_counted():
    model = TimeSformer(**SMALL)
    whole = count_parameters(model)
    model.head.requires_grad_(False)
    assert count_parameters(model) == whole - (12 * 5 + 5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nobody_reads_the_patches_behind_the_last_block(scheme):
    """To send them through the last MLP changes no bit of logits and gradients; only its work is spared."""
    model = awake(TimeSformer(**SMALL | dict(scheme=scheme, num_frames=4, image_size=(8, 16))))
    video = torch.randn(2, *model.clip_shape)
    assert [block.last for block in model.blocks] == [False] * (len(model.blocks) - 1) + [True]
    found = []
    for last in (True, False):
        model.blocks[-1].last = last
        model.zero_grad()
        with FlopCounterMode(display=False) as counter:
            logits = model(video)
        F.cross_entropy(logits, torch.tensor([0, 1])).backward()
        found.append([logits, *(parameter.grad for parameter in model.parameters())])
        assert (counter.get_total_flops() // 2 < multiply_adds(model, clips=2)) == last
    assert all(torch.equal(spared, whole) for spared, whole in zip(*found, strict=True))


def test_dropout_only_while_training():
    block = Block(12, 3, SCHEMES["divided"], dropout=0.5)
    args = torch.randn(2, 3, 2, 3, 12), torch.randn(2, 12)
    assert not torch.equal(block.train()(*args)[0], block(*args)[0])
    assert torch.equal(block.eval()(*args)[0], block(*args)[0])


def test_geglu_refuses_an_odd_width():
    """`chunk` would cut 3 into 2 and 1, and broadcast: an answer without an error."""
    with pytest.raises(ValueError, match="3 is odd"):
        GEGLU()(torch.randn(2, 3, 3))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_attention_numbers_are_what_a_step_keeps(scheme, monkeypatch):
    """Counted where they are made: every matrix of weights that a forward pass computes."""
    model = TimeSformer(5, 32, 4, 8, 12, 3, 2, scheme=scheme)
    made = []
    written_out = attention_weights

    def counting(q, k):
        weights = written_out(q, k)
        made.append(weights.numel())
        return weights

    monkeypatch.setattr("utils.model.attention_weights", counting)
    model(torch.randn(2, 4, 3, 32, 32))
    assert sum(made) == attention_numbers(model, clips=2)


def test_attention_of_the_long_model_is_204_gigabytes_joint_and_3_divided():
    giant = dict(num_classes=400, image_size=224, num_frames=96, patch_size=16, dim=768, depth=12, heads=12)  # fmt: skip
    with torch.device("meta"):
        joint, divided = (TimeSformer(**giant, scheme=scheme) for scheme in ("joint", "divided"))
    assert round(4e-9 * attention_numbers(joint)) == 204
    assert round(4e-9 * attention_numbers(divided)) == 3
