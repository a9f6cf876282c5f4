"""Every check passes right answers, in several spellings, and catches plausible wrong ones by name."""

import math

import pytest
import torch
from einops import einsum, rearrange
from torch import nn
from torch.nn import functional as F

from utils import checks
from utils.model import (
    GEGLU,
    Attention,
    AttentionStep,
    FeedForward,
    PreNorm,
    Step,
    attend,
    to_patches,
)

SPACE, TIME = Step("(b t) (h w)"), Step("(b h w) t", with_class=False, extra=True)


def awake(step):
    module = AttentionStep(6, 2, step).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def by_loops(q, k, v):
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    for b in range(len(q)):
        for i in range(q.shape[1]):
            scores = torch.stack([q[b, i] @ k[b, j] for j in range(k.shape[1])]) / math.sqrt(
                q.shape[-1]
            )
            weights = scores.exp() / scores.exp().sum()
            out[b, i] = sum(weights[j] * v[b, j] for j in range(k.shape[1]))
    return out


def by_einsum(q, k, v):
    scores = einsum(q, k, "b i d, b j d -> b i j") / q.shape[-1] ** 0.5
    return einsum(scores.softmax(-1), v, "b i j, b j e -> b i e")


class TorchAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.inner = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x)[0]


RIGHT = [
    (checks.check_prenorm, PreNorm),
    (checks.check_geglu, GEGLU),
    (checks.check_feedforward, FeedForward),
    (checks.check_attend, attend),
    (checks.check_attend, by_loops),
    (checks.check_attend, by_einsum),
    (checks.check_attend, F.scaled_dot_product_attention),
    (checks.check_attention, Attention),
    (checks.check_attention, TorchAttention),
    (checks.check_to_patches, to_patches),
    (
        checks.check_to_patches,
        lambda v, p: v.unfold(3, p, p).unfold(4, p, p).permute(0, 1, 3, 4, 2, 5, 6).flatten(4),
    ),
    (checks.check_time_step, awake(TIME)),
    (checks.check_space_step, awake(SPACE)),
]


@pytest.mark.parametrize(
    "check, answer", RIGHT, ids=lambda x: getattr(x, "__name__", type(x).__name__)
)
def test_right_answers_pass(check, answer):
    check(answer)


class NormTwice(PreNorm):
    def forward(self, x, *args, **kwargs):
        return self.norm(self.fn(self.norm(x), *args, **kwargs))


class PostNorm(PreNorm):
    def forward(self, x, *args, **kwargs):
        return self.norm(self.fn(x, *args, **kwargs))


class WithSkip(PreNorm):
    def forward(self, x, *args, **kwargs):
        return x + self.fn(self.norm(x), *args, **kwargs)


class ForgetsArguments(PreNorm):
    def forward(self, x, *args, **kwargs):
        return self.fn(self.norm(x))


class BatchAxis(PreNorm):
    def forward(self, x, *args, **kwargs):
        return self.fn((x - x.mean(0)) / x.std(0), *args, **kwargs)


def gated(rule):
    return lambda: lambda x: rule(*x.chunk(2, dim=-1))


class Changed(Attention):
    """Attention with another last step."""

    def merge(self, heads):
        return rearrange(heads, "g heads n d -> g n (heads d)")

    def mix(self, q, k, v):
        return attend(q, k, v)

    def forward(self, x):
        return self.out(self.merge(self.mix(*self.split(x))))


class HeadsMergedWrongly(Changed):
    def merge(self, heads):
        return heads.reshape(heads.shape[0], heads.shape[2], -1)


class HeadsInterleaved(Changed):
    def merge(self, heads):
        return rearrange(heads, "g heads n d -> g n (d heads)")


class ScaledByDim(Changed):
    def mix(self, q, k, v):
        return (q @ k.mT / math.sqrt(q.shape[-1] * self.heads)).softmax(-1) @ v


class WrongAxis(Changed):
    def mix(self, q, k, v):
        return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-2) @ v


class NobodyAttends(Changed):
    def mix(self, q, k, v):
        return v


class GroupsMix(Changed):
    def forward(self, x):
        return super().forward(x) + x.mean(0, keepdim=True)


class MlpOverTokens(nn.Module):
    def __init__(self, dim, mult=4, dropout=0.0):
        super().__init__()
        self.ff = FeedForward(dim, mult, dropout)

    def forward(self, x):
        return self.ff(x) + x.mean(1, keepdim=True)


class DropoutAlways(nn.Module):
    def __init__(self, dim, mult=4, dropout=0.0):
        super().__init__()
        self.ff = FeedForward(dim, mult)

    def forward(self, x):
        return F.dropout(self.ff(x), 0.5)


def softmaxed(axis, scale):
    return lambda q, k, v: (q @ k.mT * scale(q.shape[-1], k.shape[-2])).softmax(axis) @ v


WRONG = [
    (checks.check_prenorm, NormTwice, "post-norm"),
    (checks.check_prenorm, PostNorm, "normalise first"),
    (checks.check_prenorm, WithSkip, "skip connection is added outside"),
    (checks.check_prenorm, ForgetsArguments, "handed on"),
    (checks.check_prenorm, BatchAxis, "last dimension"),
    (checks.check_geglu, gated(lambda a, b: b * F.gelu(a)), "swapped"),
    (checks.check_geglu, gated(lambda a, b: a * torch.sigmoid(b)), "not sigmoid"),
    (checks.check_geglu, gated(lambda a, b: a * b), "needs its gelu"),
    (checks.check_geglu, gated(lambda a, b: F.gelu(a) * F.gelu(b)), "only the gate"),
    (
        checks.check_geglu,
        lambda: lambda x: x[..., ::2] * F.gelu(x[..., 1::2]),
        "first and a second half",
    ),
    (checks.check_geglu, lambda: F.gelu, "should have shape"),
    (
        checks.check_feedforward,
        lambda dim, mult, dropout: FeedForward(dim, mult, dropout, "gelu"),
        "should be 260 parameters",
    ),
    (checks.check_feedforward, lambda dim, mult, dropout: FeedForward(dim, mult), "should differ"),
    (checks.check_feedforward, DropoutAlways, "eval mode"),
    (checks.check_feedforward, MlpOverTokens, "changed another"),
    (
        checks.check_attend,
        softmaxed(-2, lambda d, n: d**-0.5),
        "over queries; they should over keys",
    ),
    (checks.check_attend, softmaxed(-1, lambda d, n: 1), "before the softmax"),
    (checks.check_attend, softmaxed(-1, lambda d, n: 1 / d), "not by d"),
    (checks.check_attend, softmaxed(-1, lambda d, n: d**0.5), "divide"),
    (checks.check_attend, softmaxed(-1, lambda d, n: n**-0.5), "not the number of keys"),
    (checks.check_attend, lambda q, k, v: q @ k.mT / q.shape[-1] ** 0.5 @ v, "softmax is missing"),
    (checks.check_attend, lambda q, k, v: (q @ k.mT).softmax(-1), "should have shape"),
    (checks.check_attention, HeadsMergedWrongly, "mixed up in a reshape"),
    (checks.check_attention, HeadsInterleaved, "side by side"),
    (checks.check_attention, ScaledByDim, "divided by √dim"),
    (checks.check_attention, WrongAxis, "the softmax runs over the queries"),
    (checks.check_attention, NobodyAttends, "nobody attends"),
    (checks.check_attention, GroupsMix, "groups must not see"),
    (
        checks.check_to_patches,
        lambda v, p: rearrange(v, "b t c (h p) (w q) -> b t h w (p q c)", p=p, q=p),
        "colour, row, column",
    ),
    (
        checks.check_to_patches,
        lambda v, p: rearrange(v, "b t c (p h) (q w) -> b t h w (c p q)", p=p, q=p),
        "and no others",
    ),
    (
        checks.check_to_patches,
        lambda v, p: rearrange(v, "b t c (h p) (w q) -> b t (h w) (c p q)", p=p, q=p),
        "should have shape",
    ),
    (checks.check_time_step, awake(SPACE), "stays in place"),
    (checks.check_time_step, lambda p, c: (p, c), "attend over t"),
    (checks.check_space_step, awake(TIME), "within the frame"),
    (checks.check_space_step, awake(Step("(b t h) w")), "attend over h and w"),
]


@pytest.mark.parametrize("check, answer, words", WRONG)
def test_wrong_answers_are_named(check, answer, words):
    with pytest.raises(AssertionError, match=words):
        check(answer)


def test_check_shape_names_both_shapes():
    checks.check_shape(torch.zeros(2, 3), (2, 3))
    with pytest.raises(AssertionError, match=r"scores should have shape \(3, 2\), it has \(2, 3\)"):
        checks.check_shape(torch.zeros(2, 3), (3, 2), "scores")
    with pytest.raises(AssertionError, match="should be a tensor, it is a list"):
        checks.check_shape([1], (1,))
