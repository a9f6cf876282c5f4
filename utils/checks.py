"""Checks that say what is wrong: used by the lessons and the exercises.

Each `check_…` takes what the learner wrote, raises AssertionError with an explanation in the
learner's terms, and returns nothing when all is well. Sizes are small and all different, so that
a swapped axis cannot hide.
"""

import torch
from torch import nn
from torch.nn import functional as F


def check_shape(tensor, shape, name="the result"):
    """AssertionError unless `tensor` has exactly this shape."""
    assert isinstance(tensor, torch.Tensor), (
        f"{name} should be a tensor, it is a {type(tensor).__name__}"
    )
    assert tuple(tensor.shape) == tuple(shape), (
        f"{name} should have shape {tuple(shape)}, it has {tuple(tensor.shape)}"
    )


def _random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _close(a, b):
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-8)


def check_prenorm(prenorm):
    """`prenorm(dim, fn)` builds a module that calls fn(LayerNorm(x))."""
    x = _random(2, 3, 5) * 4 + 7
    norm = F.layer_norm(x, (5,), eps=1e-6)
    seen = []

    def fn(tokens, shift=0.0):
        seen.append(tokens)
        return 3 * tokens + 2 + shift

    module = prenorm(5, fn).double()
    y = module(x)
    assert seen, "fn was never called"
    assert len(seen) == 1, f"fn was called {len(seen)} times; once is enough"
    assert not _close(seen[0], x), "fn got x itself: normalise first, then call fn"
    assert _close(seen[0], norm), (
        "fn did not get LayerNorm(x): mean 0 and variance 1 over the last dimension of each token"
    )
    assert not _close(y, F.layer_norm(3 * norm + 2, (5,))), (
        "you normalise after fn as well: that is post-norm"
    )
    assert _close(y, 3 * norm + 2), (
        "the result should be fn(LayerNorm(x)); the skip connection is added outside"
    )
    assert _close(module(x, shift=1.0), y + 1), "extra arguments should be handed on to fn"


def check_geglu(geglu):
    """`geglu()` builds a module: value * gelu(gate), value and gate the halves of the last dimension."""
    x = _random(2, 3, 10)
    value, gate = x[..., :5], x[..., 5:]
    y = geglu()(x)
    check_shape(y, (2, 3, 5), "GEGLU's output for an input of (2, 3, 10)")
    assert not _close(y, gate * F.gelu(value)), (
        "value and gate are swapped: the second half is the gate"
    )
    assert not _close(y, value * torch.sigmoid(gate)), (
        "that is GLU: the gate goes through gelu, not sigmoid"
    )
    assert not _close(y, value * gate), "the gate needs its gelu"
    assert not _close(y, x[..., ::2] * F.gelu(x[..., 1::2])), (
        "split into a first and a second half, not even and odd entries"
    )
    assert _close(y, value * F.gelu(gate)), "the result should be value * gelu(gate)"


def check_feedforward(feedforward):
    """`feedforward(dim, mult, dropout)` builds dim -> dim * mult * 2 -> GEGLU -> dropout -> dim."""
    torch.manual_seed(0)
    module = feedforward(5, mult=3, dropout=0.5).double()
    x = _random(2, 7, 5)
    check_shape(module(x), (2, 7, 5), "FeedForward's output for an input of (2, 7, 5)")
    assert not _close(module.train()(x), module(x)), (
        "with dropout=0.5 two training passes should differ"
    )
    y = module.eval()(x)
    assert _close(y, module(x)), "in eval mode dropout must do nothing"
    expected = (5 * 30 + 30) + (15 * 5 + 5)
    count = sum(p.numel() for p in module.parameters())
    assert count == expected, (
        f"for dim 5 and mult 3 there should be {expected} parameters, there are {count}"
    )
    changed = x.clone()
    changed[:, 3] += 1
    others = [0, 1, 2, 4, 5, 6]
    assert _close(module(changed)[:, others], y[:, others]), (
        "changing one token changed another: the MLP works on each token alone"
    )


def check_attend(attend):
    """`attend(q, k, v)` is softmax(q kᵀ / √d) v."""
    q, k, v = _random(2, 3, 5, seed=1), _random(2, 7, 5, seed=2), _random(2, 7, 4, seed=3)
    y = attend(q, k, v)
    check_shape(y, (2, 3, 4), "attend's output for 3 queries and 7 values of 4 numbers")
    scores = q @ k.transpose(-2, -1)
    wrong = {
        "your weights sum to 1 over queries; they should over keys": (scores / 5**0.5).softmax(-2),
        "divide the scores by √d before the softmax": scores.softmax(-1),
        "divide by √d, not by d": (scores / 5).softmax(-1),
        "you multiply by √d; divide": (scores * 5**0.5).softmax(-1),
        "d is the length of a query, not the number of keys": (scores / 7**0.5).softmax(-1),
        "the softmax is missing": scores / 5**0.5,
    }
    for message, weights in wrong.items():
        assert not _close(y, weights @ v), message
    assert _close(y, F.scaled_dot_product_attention(q, k, v)), (
        "the result should be softmax(q kᵀ / √d) v"
    )


def check_attention(attention):
    """`attention(dim, heads)` builds multi-head self-attention over (groups, tokens, dim)."""
    torch.manual_seed(0)
    module = attention(12, 3).double().eval()
    x = _random(2, 5, 12)
    y = module(x)
    check_shape(y, (2, 5, 12), "Attention's output for an input of (2, 5, 12)")
    order = torch.tensor([3, 0, 4, 1, 2])
    assert _close(module(x[:, order]), y[:, order]), (
        "reordering the tokens should reorder the output and change nothing else: are heads and tokens mixed up in a reshape?"
    )
    changed = x.clone()
    changed[1] += 1
    assert _close(module(changed)[0], y[0]), (
        "changing one group changed another: groups must not see each other"
    )
    changed = x.clone()
    changed[0, 2] += _random(12)
    assert not _close(module(changed)[0, 0], y[0, 0]), (
        "changing one token left the others as they were: nobody attends"
    )
    if hasattr(module, "qkv") and hasattr(module, "out"):
        weight, bias = module.qkv.weight, module.qkv.bias
        reference = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
        reference.in_proj_weight, reference.in_proj_bias, reference.out_proj = (
            weight,
            bias,
            module.out,
        )
        assert _close(y, reference(x, x, x)[0]), (
            "with the same weights nn.MultiheadAttention gives another result: each head takes dim / heads "
            "neighbouring numbers, is scaled by √(dim / heads), and the heads are put back side by side"
        )


def check_to_patches(to_patches):
    """`to_patches(video, patch_size)` cuts (b, t, c, height, width) into (b, t, h, w, c * patch²)."""
    video = torch.arange(2 * 3 * 3 * 4 * 6, dtype=torch.float64).view(2, 3, 3, 4, 6)
    patches = to_patches(video, 2)
    check_shape(patches, (2, 3, 2, 3, 12), "the patches of a (2, 3, 3, 4, 6) video, patch size 2,")
    corner = video[1, 2, :, 2:4, 0:2]
    assert set(patches[1, 2, 1, 0].tolist()) == set(corner.flatten().tolist()), (
        "row 1, column 0 of the patch grid should hold the pixels of rows 2-3 and columns 0-1, and no others"
    )
    assert torch.equal(patches[1, 2, 1, 0], corner.flatten()), (
        "inside a patch the order is colour, row, column"
    )


def _reach(module, t, h, w, dim):
    """Which patch reaches which: (t, h, w) x (t, h, w) booleans, by gradient, class token at rest."""
    patches = _random(1, t, h, w, dim).requires_grad_()
    out, _ = module(patches, _random(1, dim, seed=1))
    reach = torch.zeros(t, h, w, t, h, w, dtype=torch.bool)
    probe = _random(dim, seed=2)
    for place in torch.cartesian_prod(torch.arange(t), torch.arange(h), torch.arange(w)).tolist():
        (gradient,) = torch.autograd.grad(
            (out[0][tuple(place)] * probe).sum(), patches, retain_graph=True
        )
        reach[tuple(place)] = gradient[0].abs().sum(-1) > 1e-12
    return reach


def check_time_step(module, dim=6):
    """A time step: (patches, cls) -> (patches, cls); only equal positions of different frames mix."""
    reach = _reach(module, 3, 2, 4, dim)
    same_place = torch.eye(8, dtype=torch.bool).view(1, 2, 4, 1, 2, 4)
    assert not (reach & ~same_place).any(), (
        "a patch reached another patch position: time attention stays in place"
    )
    assert reach.any((1, 2, 4, 5)).all(), (
        "a patch did not reach its own position in every frame: does the step attend over t?"
    )


def check_space_step(module, dim=6):
    """A space step: (patches, cls) -> (patches, cls); only patches of the same frame mix."""
    reach = _reach(module, 3, 2, 4, dim)
    same_frame = torch.eye(3, dtype=torch.bool).view(3, 1, 1, 3, 1, 1)
    assert not (reach & ~same_frame).any(), (
        "a patch reached another frame: space attention stays within the frame"
    )
    assert (reach | ~same_frame).all(), (
        "a patch did not reach every patch of its frame: does the step attend over h and w?"
    )
