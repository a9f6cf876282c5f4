"""Checks of the components that the lessons build: used by the lessons and the exercises."""

import torch
from einops import EinopsError
from torch import nn
from torch.nn import functional as F

from utils.checks.diagnose import (
    check_dropout,
    check_shape,
    close,
    diagnose,
    explained,
    noise,
    numbers,
    sizes,
    untouched,
)


def check_prenorm(prenorm, seed=0):
    """`prenorm(dim, fn)` builds a module that calls fn(LayerNorm(x))."""
    b, n, d = sizes(3, seed)
    d = max(d, 3)  # two numbers normalise to +1 and -1, whatever they were
    x = noise(b, n, d, seed=seed) * 4 + 7
    norm = F.layer_norm(x, (d,), eps=1e-6)
    seen = []

    def fn(tokens, shift=0.0):
        seen.append(tokens)
        return 3 * tokens + 2 + tokens.abs() + shift

    module = prenorm(d, fn)
    learned = list(module.parameters())
    assert [tuple(p.shape) for p in learned] == [(d,), (d,)], (
        "the norm should be made in __init__ and learn a weight and a bias of dim numbers each"
    )
    y = numbers(module(x), "PreNorm's output")
    right = fn(norm)
    seen.pop()
    assert seen, "fn was never called"
    assert len(seen) == 1, f"fn was called {len(seen)} times; once is enough"
    assert not close(seen[0], x), "fn got x itself: normalise first, then call fn"
    wrong = {
        "you normalise over all tokens together; each token has its own mean and variance":
            F.layer_norm(x, (n, d), eps=1e-6),
        "you normalise over the whole tensor; each token has its own mean and variance":
            F.layer_norm(x, tuple(x.shape), eps=1e-6),
        "the variance divides by the number of entries, not by one less":
            (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-6).sqrt(),
    }  # fmt: skip
    diagnose(seen[0], norm, wrong, "what fn got",
             "fn did not get LayerNorm(x): mean 0 and variance 1 over the last dimension of each token")  # fmt: skip
    wrong = {
        "you normalise after fn as well: that is post-norm": F.layer_norm(right, (d,), eps=1e-6),
        "you add x: the skip connection is added outside": right + x,
        "you add the normalised tokens: PreNorm adds nothing": right + norm,
    }
    diagnose(y, right, wrong, "PreNorm's output", "the result should be fn(LayerNorm(x))")
    with explained("hand arguments on with their stars: self.fn(…, *args, **kwargs)", TypeError):
        named, unnamed = module(x, shift=1.0), module(x, 1.0)
    assert close(named, y + 1), "extra arguments should be handed on to fn"
    assert close(unnamed, y + 1), "extra arguments without a name should be handed on to fn too"
    with torch.no_grad():
        learned[0].copy_(torch.arange(d) + 1)
        module(x)
    assert close(seen[-1], (torch.arange(d) + 1) * norm), (
        "the norm's learned weight is not used: call self.norm"
    )


def check_geglu(geglu, seed=0):
    """`geglu()` builds a module: value * gelu(gate), value and gate the halves of the last dimension."""
    b, n, half = sizes(3, seed)
    x = noise(b, n, 2 * half, seed=seed)
    value, gate = x[..., :half], x[..., half:]
    but = "the halves are those of the last dimension, however many stand before it"
    y = _of_geglu(geglu, x, but)
    check_shape(y, (b, n, half), f"{but}: GEGLU's output for an input of ({b}, {n}, {2 * half})")
    assert geglu()(x.clone().requires_grad_()).requires_grad, (
        "no gradient passes through your GEGLU, so nothing before it could learn: no detach, no no_grad"
    )
    wrong = {
        "value and gate are swapped: the second half is the gate": gate * F.gelu(value),
        "that is GLU: the gate goes through gelu, not sigmoid": value * torch.sigmoid(gate),
        "the gate goes through gelu, not relu": value * F.relu(gate),
        "the gate goes through gelu, not silu (that is SwiGLU)": value * F.silu(gate),
        "the gate needs its gelu": value * gate,
        "only the gate goes through gelu; the value stays as it is": F.gelu(value) * F.gelu(gate),
        "multiply value and gate; you add them": value + F.gelu(gate),
        "split into a first and a second half, not even and odd entries":
            x[..., ::2] * F.gelu(x[..., 1::2]),
        "gelu(g) is g · Φ(g); you leave out g itself": value * torch.special.ndtr(gate),
        "gelu of the gate alone, not of the product": F.gelu(value * gate),
        "that is gelu's approximation with tanh; take gelu itself": value * F.gelu(gate, approximate="tanh"),
    }  # fmt: skip
    diagnose(y, value * F.gelu(gate), wrong, "GEGLU's output", "it should be value * gelu(gate)")
    half += 1  # another size: none is to be taken for granted
    for shape in ((b, 2 * half), (2, b, n, 2 * half)):
        x = noise(*shape, seed=seed)
        value, gate = x[..., :half], x[..., half:]
        name = f"GEGLU's output for an input of {shape}"
        found = _of_geglu(geglu, x, but)
        check_shape(found, value.shape, f"{but}: {name}")
        diagnose(found, value * F.gelu(gate), {}, name, but)


def _of_geglu(geglu, x, but):
    """What the learner's GEGLU makes of x; its own errors come back with what to think of."""
    with explained(
        f"the input is {tuple(x.shape)}, and {but}", RuntimeError, IndexError, ValueError
    ):
        return untouched(geglu(), x)


def check_feedforward(feedforward, seed=0):
    """`feedforward(dim, mult, dropout)` builds dim -> dim * mult * 2 -> GEGLU -> dropout -> dim."""
    b, n, dim = sizes(3, seed, of=(2, 7, 5, 3))
    mult = 3
    torch.manual_seed(seed)
    module = feedforward(dim, mult=mult, dropout=0.5)
    x = noise(b, n, dim, seed=seed)
    check_shape(module(x), (b, n, dim), f"FeedForward's output for an input of {tuple(x.shape)}")
    assert not close(module.train()(x), module(x)), (
        "with dropout=0.5 two training passes should differ"
    )
    y = numbers(module.eval()(x), "FeedForward's output")
    assert close(y, module(x)), "in eval mode dropout must do nothing"
    wide = dim * mult
    expected = (dim * 2 * wide + 2 * wide) + (wide * dim + dim)
    count = sum(p.numel() for p in module.parameters())
    assert count == expected, (
        f"for dim {dim} and mult {mult} there should be {expected} parameters, there are {count}"
    )
    changed = x.clone()
    changed[:, 1] += 1
    others = [token for token in range(n) if token != 1]
    assert close(module(changed)[:, others], y[:, others]), (
        "changing one token changed another: the MLP works on each token alone"
    )
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    layers.sort(key=lambda layer: -layer.out_features)
    shapes = [tuple(layer.weight.shape) for layer in layers]
    if shapes == [(2 * wide, dim), (dim, wide)]:  # the usual two layers: compare the numbers too
        value, gate = layers[0](x).chunk(2, dim=-1)
        wrong = {
            "value and gate are swapped: the second half is the gate": layers[1](F.gelu(value) * gate),
            "the activation between the two layers is missing its gelu": layers[1](value * gate),
        }  # fmt: skip
        diagnose(y, layers[1](value * F.gelu(gate)), wrong, "FeedForward's output in eval mode",
                 "it should be linear, GEGLU, (dropout,) linear, and nothing else")  # fmt: skip
        check_dropout(module, layers[1], dim, 0.5)


def check_attend(attend, seed=0):
    """`attend(q, k, v)` is softmax(q kᵀ / √d) v."""
    for its_seed in (seed, seed + 2):  # two sizes: none is to be taken for granted
        _check_attend(attend, its_seed)


def _check_attend(attend, seed):
    b, queries, d, keys = sizes(4, seed)
    q = noise(b, queries, d, seed=3 * seed + 1)
    k = noise(b, keys, d, seed=3 * seed + 2)
    v = noise(b, keys, 4, seed=3 * seed + 3)
    hint = (
        f"q is {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}. Every query meets every key in "
        "q @ k.transpose(-2, -1); k.T would turn all axes around, the batch too"
    )
    with explained(hint, RuntimeError):
        y = untouched(attend, q, k, v)
    check_shape(
        y, (b, queries, 4), f"attend's output for {queries} queries and {keys} values of 4 numbers"
    )
    scores = q @ k.transpose(-2, -1)
    wrong = {
        "your weights sum to 1 over queries; they should over keys": (scores / d**0.5).softmax(-2),
        "divide the scores by √d before the softmax": scores.softmax(-1),
        "divide by √d, not by d": (scores / d).softmax(-1),
        "you multiply by √d; divide": (scores * d**0.5).softmax(-1),
        "d is the length of a query, not the number of keys": (scores / keys**0.5).softmax(-1),
        "d is the length of a query, not that of a value": (scores / 4**0.5).softmax(-1),
        "divide before the softmax, not after it": scores.softmax(-1) / d**0.5,
        "the softmax runs over the batch too; each query has shares of its own": (scores / d**0.5)
        .flatten(1)
        .softmax(-1)
        .view(scores.shape),
        "the softmax is missing": scores / d**0.5,
    }
    wrong = {message: weights @ v for message, weights in wrong.items()}
    right = F.scaled_dot_product_attention(q, k, v)
    diagnose(y, right, wrong, "attend's output", "it should be softmax(q kᵀ / √d) v")


def check_attention(attention, seed=0):
    """`attention(dim, heads)` builds multi-head self-attention over (groups, tokens, dim)."""
    for its_seed in (seed, seed + 2):  # two sizes: none is to be taken for granted
        _check_attention(attention, its_seed)


def _check_attention(attention, seed):
    groups, n, heads = sizes(3, seed, of=(2, 5, 3, 4))
    dim = (4, 3, 5)[seed % 3] * heads
    torch.manual_seed(seed)
    module = attention(dim, heads).eval()
    x = noise(groups, n, dim, seed=seed)
    y = module(x)
    check_shape(y, (groups, n, dim), f"Attention's output for an input of {tuple(x.shape)}")
    order = torch.arange(n).roll(1)
    assert close(module(x[:, order]), y[:, order]), (
        "reordering the tokens should reorder the output and change nothing else: are heads and tokens mixed up in a reshape?"
    )
    changed = x.clone()
    changed[1] += 1
    assert close(module(changed)[0], y[0]), (
        "changing one group changed another: groups must not see each other"
    )
    changed = x.clone()
    changed[0, 1] += noise(dim, seed=seed)
    assert not close(module(changed)[0, 0], y[0, 0]), (
        "changing one token left the others as they were: nobody attends"
    )
    if hasattr(module, "qkv") and hasattr(module, "out"):
        reference = nn.MultiheadAttention(dim, heads, batch_first=True)
        reference.in_proj_weight, reference.in_proj_bias = module.qkv.weight, module.qkv.bias
        reference.out_proj = module.out
        q, k, v = module.qkv(x).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / q.shape[-1] ** 0.5
        by_column = (scores.softmax(-2) @ v).transpose(1, 2).flatten(2)
        assert not close(y, module.out(by_column)), (
            "the softmax runs over the queries: each query's shares must sum to 1, so it runs over the keys, the last axis"
        )
        for why, scale in {
            "divided by √dim; the query of one head has dim / heads numbers": dim,
            "the scores are not divided by √(dim / heads)": 1,
        }.items():
            other = ((q @ k.mT / scale**0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
            assert scale == q.shape[-1] or not close(y, module.out(other)), why
        assert close(y, reference(x, x, x)[0]), (
            "with the same weights nn.MultiheadAttention gives another result: each head takes dim / heads "
            "neighbouring numbers, is scaled by √(dim / heads), and the heads are put back side by side"
        )


def check_to_patches(to_patches, seed=0):
    """`to_patches(video, patch_size)` cuts (b, t, c, height, width) into (b, t, h, w, c * patch²)."""
    for its_seed in (seed, seed + 1, seed + 2):  # three sizes: none is to be taken for granted
        _check_to_patches(to_patches, its_seed)


def _check_to_patches(to_patches, seed):
    t, h, w, b = sizes(4, seed, of=(4, 2, 3, 5))
    patch, b, c, h = 3 - seed % 2, min(b, 2), 2 + seed % 3, h + 4 * (seed % 2)
    video = torch.arange(b * t * c * h * w * patch**2, dtype=torch.float32)
    video = video.view(b, t, c, h * patch, w * patch)
    hint = f"there are {c} colours and patches of {patch}; give einops the two sides of a patch, from the argument, and it finds the rest"
    with explained(hint, EinopsError):
        patches = to_patches(video, patch)
    check_shape(
        patches,
        (b, t, h, w, c * patch**2),
        f"the patches of a {tuple(video.shape)} video, patch size {patch},",
    )
    corner = video[-1, -1, :, patch : 2 * patch, 0:patch]
    found = patches[-1, -1, 1, 0]
    assert set(found.tolist()) == set(corner.flatten().tolist()), (
        f"row 1, column 0 of the patch grid should hold the pixels of rows {patch}-{2 * patch - 1} "
        f"and columns 0-{patch - 1}, and no others"
    )
    assert torch.equal(found, corner.flatten()), "inside a patch the order is colour, row, column"
    for clip, frame, row, column in [
        (0, 0, 0, 0),
        (0, t - 1, h - 1, w - 1),
        (b - 1, 0, 0, w - 1),
        (0, 1, h - 1, 0),
    ]:
        rows, columns = (
            slice(row * patch, (row + 1) * patch),
            slice(column * patch, (column + 1) * patch),
        )
        place = f"clip {clip}, frame {frame}, row {row}, column {column}"
        assert torch.equal(
            patches[clip, frame, row, column], video[clip, frame, :, rows, columns].flatten()
        ), f"the patch at {place} holds pixels of another clip, frame or place"


def reach(module, t, h, w, dim, seed=0):
    """Which patch reaches which: (t, h, w) x (t, h, w) booleans, by gradient, class token at rest."""
    kind = next(module.parameters()).dtype if isinstance(module, nn.Module) else torch.float32
    patches = noise(1, t, h, w, dim, seed=seed).to(kind).requires_grad_()
    out, _ = module(patches, noise(1, dim, seed=seed + 1).to(kind))
    check_shape(out, patches.shape, "the patches that come out")
    reach = torch.zeros(t, h, w, t, h, w, dtype=torch.bool)
    probe = noise(dim, seed=seed + 2).to(kind)
    for place in torch.cartesian_prod(torch.arange(t), torch.arange(h), torch.arange(w)).tolist():
        (gradient,) = torch.autograd.grad(
            (out[0][tuple(place)] * probe).sum(), patches, retain_graph=True
        )
        reach[tuple(place)] = gradient[0].abs().sum(-1) > 1e-12
    return reach


def check_time_step(module, dim=6, seed=0):
    """A time step: (patches, cls) -> (patches, cls); only equal positions of different frames mix."""
    t, h, w = sizes(3, seed, of=(3, 2, 4))
    reached = reach(module, t, h, w, dim, seed)
    same_place = torch.eye(h * w, dtype=torch.bool).view(1, h, w, 1, h, w)
    assert not (reached & ~same_place).any(), (
        "a patch reached another patch position: time attention stays in place"
    )
    assert reached.any((1, 2, 4, 5)).all(), (
        "a patch did not reach its own position in every frame: does the step attend over t?"
    )


def check_space_step(module, dim=6, seed=0):
    """A space step: (patches, cls) -> (patches, cls); only patches of the same frame mix."""
    t, h, w = sizes(3, seed, of=(3, 2, 4))
    reached = reach(module, t, h, w, dim, seed)
    same_frame = torch.eye(t, dtype=torch.bool).view(t, 1, 1, t, 1, 1)
    assert not (reached & ~same_frame).any(), (
        "a patch reached another frame: space attention stays within the frame"
    )
    assert (reached | ~same_frame).all(), (
        "a patch did not reach every patch of its frame: does the step attend over h and w?"
    )
