"""Checks of the exercises of lesson 02: attention."""

import weakref

import torch
from torch.nn import functional as F

from utils.checks.diagnose import check_answers, diagnose, noise, numbers, sizes, unpack, untouched
from utils.checks.puzzles import HEADS


def check_by_hand(by_hand):
    """`by_hand()` returns the shares of three keys for the query (√2 ln 2, 0), and what it receives."""
    shares, received = unpack(by_hand(), "shares", "received")
    scores = torch.tensor([4.0, 1, 4]).log()
    larger, smaller = (scores * 2**0.5).softmax(0), (scores / 2**0.5).softmax(0)
    wrong = {
        "a score of zero is not a share of zero: e to the power of 0 is 1": [1 / 2, 0, 1 / 2],
        "the third key is not the lesson's: what is its score?": [4 / 6, 1 / 6, 1 / 6],
        "all three keys take part": [4 / 5, 1 / 5, 0],
        "the shares sum to 1: divide by their sum": [4, 1, 4],
        "these are the scores; the shares are their softmax": scores,
        "divide the scores by √2, the root of a key's width, before the softmax": larger,
        "divide the scores by the root of a key's width, not by the width": smaller,
        "a share is a number from 0 to 1, not per cent": [44.44, 11.11, 44.44],
    }
    but = "the scores are ln 4, 0 and ln 4"
    diagnose(shares, [4 / 9, 1 / 9, 4 / 9], wrong, "shares", but, 0.007, secret=True)
    wrong = {
        "the values are mixed by the shares, not summed": [15, 15],
        "the third value takes part with its share": [40 / 9, 10 / 9],
        "those are the values of the two likeliest keys; all three are mixed": [7.5, 2.5],
    }
    but = "mix the values by the shares"
    diagnose(
        received, [60 / 9, 30 / 9], wrong, "received", but, 0.08, secret=True
    )  # two decimals of rounded shares


def check_causal(attend, seed=0):
    """`attend(q, k, v)` is attention in which query i sees keys 0 … i only."""
    for its_seed in (seed, seed + 2):  # two sizes: none is to be taken for granted
        _check_causal(attend, its_seed)


def _check_causal(attend, seed):
    b, n, d = sizes(3, seed, of=(2, 5, 3, 4))
    q, k = (noise(b, n, d, seed=3 * seed + i) for i in range(2))
    v = noise(b, n, d + 3, seed=3 * seed + 2)
    y = numbers(untouched(attend, q, k, v), "the output")
    scores = q @ k.mT / d**0.5
    ones = torch.ones(n, n, dtype=torch.bool)

    def masked(keep):
        return scores.masked_fill(~keep, -torch.inf).softmax(-1).nan_to_num() @ v

    wrong = {
        "every query sees every key: the mask has no effect": scores.softmax(-1) @ v,
        "your mask hides the past and shows the future": masked(ones.triu()),
        "your mask lets each query look one step ahead": masked(ones.tril(1)),
        "your mask is the wrong way round: a query does not even see itself": masked(~ones.tril()),
        "mask the scores before the softmax; afterwards the shares no longer sum to 1":
            (scores.softmax(-1) * ones.tril()) @ v,
        "a score of 0 still gets a share: use minus infinity": (scores * ones.tril()).softmax(-1) @ v,
        "divide the scores by √d":
            (scores * d**0.5).masked_fill(~ones.tril(), -torch.inf).softmax(-1) @ v,
    }  # fmt: skip
    rows = y.isnan().flatten(2).any(-1).any(0).tolist() if y.ndim == 3 else [False]
    assert not all(rows), (
        "no output is a number: 0 · ∞ is none. Put minus infinity where a mask says so: masked_fill, or torch.where"
    )
    assert not any(rows), (
        f"query {rows.index(True)} of {n} got no key at all, and the softmax of nothing is not a number: "
        + ("each query sees itself" if rows[0] else "your mask forbids what it should allow")
    )
    wrong["the softmax runs over the queries; it should run over the keys, the last axis"] = (
        scores.masked_fill(~ones.tril(), -torch.inf).softmax(-2) @ v
    )
    diagnose(y, masked(ones.tril()), wrong, "the output", "query i should mix the values 0 … i")
    far = torch.randn(b, n, d, generator=torch.Generator().manual_seed(seed + 7)) * 100
    large = numbers(attend(far, -far, v), "the output for large scores")
    assert large.isfinite().all(), (
        "for large scores the result is no number: an exp that overflows, or a sum of shares that is 0? "
        "Mask the scores, and let one softmax do the rest"
    )
    right = (-far @ far.mT / d**0.5).masked_fill(~ones.tril(), -torch.inf).softmax(-1) @ v
    diagnose(large, right, {}, "the output for large scores",
             "a forbidden score is minus infinity, not a number that others can be below", 1e-4)  # fmt: skip


def check_attention_cost(cost, seed=0):
    """`cost(dim, heads, n)` returns the parameters and multiply-adds of one Attention."""
    heads, n, d = sizes(3, seed, of=(3, 7, 5, 4))
    dim = heads * d
    parameters, multiply_adds = unpack(cost(dim, heads, n), "parameters", "multiply_adds")
    linear, pairs = 4 * n * dim**2, n**2 * dim
    wrong = {
        "first the parameters, then the multiply-adds": linear + 2 * pairs,
        "the biases are missing": 4 * dim**2,
        "the linear layer after the heads is missing": 3 * dim**2 + 3 * dim,
        "the first layer makes queries, keys and values: 3 · dim outputs": 2 * dim**2 + 2 * dim,
        "the first layer has a bias for each of its 3 · dim outputs": 4 * dim**2 + 2 * dim,
    }
    diagnose(parameters, 4 * dim**2 + 4 * dim, wrong, f"parameters (dim {dim})")
    wrong = {
        "each head works on dim / heads numbers, so more heads do not cost more": linear + 2 * heads * pairs,
        "that is one head's share of scores and mixing": linear + 2 * pairs / heads,
        "two products grow with n²: the scores, and the mixing of the values": linear + pairs,
        "you count a multiply-add as two": 2 * (linear + 2 * pairs),
        "the scores compare every token with every token: n²": linear + 2 * n * dim,
        "the two linear layers are missing": 2 * pairs,
        "the linear layer after the heads is missing": 3 * n * dim**2 + 2 * pairs,
        "the scores and the mixing are missing": linear,
        "each of the n tokens goes through the linear layers": 4 * dim**2 + 2 * pairs,
        "biases are not counted": linear + 2 * pairs + 4 * n * dim,
    }  # fmt: skip
    diagnose(multiply_adds, linear + 2 * pairs, wrong,
             f"multiply_adds (dim {dim}, {heads} heads, {n} tokens)", "write down each product's shapes")  # fmt: skip


def check_read_maps(read_maps):
    """`read_maps()` names the head for each description of the exercise's four attention maps."""
    right = {what: head for head, what in HEADS.items()}
    hints = {
        "looks at the frame before": "query 5 should be bright at key 4, query 6 at key 5",
        "looks at the first frame, from everywhere": "which map is bright in one column, in every row?",
        "takes a bit of every frame": "which map has no bright spot?",
        "early frames look at late ones, late ones at early ones": "query 0 should be bright at key 7",
    }
    answers = read_maps()
    if isinstance(answers, dict):
        odd = [
            value
            for value in answers.values()
            if value is not None and str(value).upper() not in HEADS
        ]
        assert not odd, f'answer with "A", "B", "C" or "D", not {odd[0]!r}'
    check_answers(answers, right, hints)


def check_chunks(attend_in_chunks, seed=0):
    """`attend_in_chunks(q, k, v, size)` is attention that holds the scores of `size` keys at a time."""
    b, queries, d, size = sizes(4, seed, of=(2, 3, 5, 4))
    keys = 3 * size + 1  # the last chunk is shorter
    q, k, v = (
        noise(b, n, w, seed=seed + i)
        for i, (n, w) in enumerate([(queries, d), (keys, d), (keys, 6)])
    )
    k[:, -2] *= 3  # a larger score arrives late
    right = F.scaled_dot_product_attention(q, k, v)
    scores = q @ k.mT / d**0.5
    parts = [s.softmax(-1) @ w for s, w in zip(scores.split(size, -1), v.split(size, 1))]
    whole_chunks = scores[..., : 3 * size].softmax(-1) @ v[:, : 3 * size]
    wrong = {
        "each chunk has a softmax of its own; the shares of all chunks together sum to 1": sum(parts) / len(parts),
        "the last, shorter chunk is left out": whole_chunks,
        "divide the scores by √d": (scores * d**0.5).softmax(-1) @ v,
        "d is the length of a query, not the size of a chunk": (scores * (d / size) ** 0.5).softmax(-1) @ v,
        "divide by the sum of all exponentials at the end": (scores - scores.amax(-1, keepdim=True)).exp() @ v,
    }  # fmt: skip
    wrong |= {
        "that is the first chunk alone: is the return inside the loop?": parts[0],
        "each chunk has a softmax of its own; added up, the shares sum to more than 1": sum(parts),
    }
    found = numbers(untouched(attend_in_chunks, q, k, v, size), "the output")
    but = "when a larger score comes, scale down both sums, of the shares and of the mixture; no key may count twice"
    diagnose(found, right, wrong, "the output", but)
    for its_size in (4, 8):
        _check_held(attend_in_chunks, its_size)
    loose = 2e-3  # scores of hundreds have four digits behind the point
    low = torch.ones_like(q) * 10, -10 - k.abs()  # every score is far below 0
    found = numbers(attend_in_chunks(*low, v, size), "the output")
    right = F.scaled_dot_product_attention(*low, v)
    assert found.isfinite().all(), (
        "where all scores are far below 0 the result is no number: take the largest score so far away before the "
        "exponential, and let it start at minus infinity"
    )
    diagnose(found, right, {}, "the output where all scores are far below 0", but, loose)
    large = numbers(attend_in_chunks(100 * q, 100 * k, v, size), "the output")
    assert large.isfinite().all(), (
        "for large scores the result is no number: take each query's own largest score so far away before the exponential"
    )
    diagnose(
        large,
        F.scaled_dot_product_attention(100 * q, 100 * k, v),
        {},
        "the output for large scores",
        but,
        loose,
    )


def _check_held(attend_in_chunks, size):
    """AssertionError when more than `size` scores of a query are held at once, in one tensor or in several.

    A key is one number here, so a tensor made from queries holds scores if it is large at all.
    """
    queries, keys = 8, 300
    allowed, alive = queries * size, {}

    class Asking(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, given=(), named=None):
            assert function is not F.scaled_dot_product_attention, (
                "scaled_dot_product_attention does all of it at once: write the loop over chunks"
            )
            out = super().__torch_function__(function, types, given, named or {})
            for one in out if isinstance(out, tuple | list) else (out,):
                if isinstance(one, Asking):
                    assert one.numel() <= allowed, (
                        f"a tensor of {tuple(one.shape)} held more than {size} numbers for each of {queries} queries, and there were "
                        f"{keys} keys: hold {size} scores of a query at once, and nothing that grows with the keys"
                    )
                    if id(one) not in alive:
                        alive[id(one)] = one.numel()
                        weakref.finalize(one, alive.pop, id(one))
            # a chunk is in several tensors while it is worked on, but not in a dozen
            assert sum(alive.values()) <= 12 * allowed, (
                "something of every chunk is kept: three running results for each query are enough, however many keys there are"
            )
            return out

    q, k, v = noise(1, queries, 1), noise(1, keys, 1, seed=1), noise(1, keys, 1, seed=2)
    found = numbers(attend_in_chunks(q.as_subclass(Asking), k, v, size), "the output")
    right = F.scaled_dot_product_attention(q, k, v)
    diagnose(found.as_subclass(torch.Tensor), right, {}, f"the output for {keys} keys, {size} at a time")  # fmt: skip
