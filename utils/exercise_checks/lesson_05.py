"""Checks of the exercises of lesson 05: attention."""

import torch

from utils.diagnose import check_answers, diagnose, numbers, random, sizes, unpack


def check_by_hand(by_hand):
    """`by_hand()` returns the shares of three keys for a query of zeros, and what it receives."""
    shares, received = unpack(by_hand(), "shares", "received")
    wrong = {
        "a score of zero is not a share of zero: softmax of three equal scores": [0, 0, 0],
        "the key (0, 0) takes part like the others": [1 / 2, 1 / 2, 0],
        "the shares sum to 1": [1, 1, 1],
    }
    diagnose(shares, [1 / 3] * 3, wrong, "shares", "the three scores are equal", 0.005)
    wrong = {
        "the values are mixed by the shares, not summed": [15, 15],
        "with shares of 1/3 each the query does receive something": [0, 0],
    }
    diagnose(received, [5, 5], wrong, "received", "mix the values by the shares", 0.06)


def check_causal(attend, seed=0):
    """`attend(q, k, v)` is attention in which query i sees keys 0 … i only."""
    b, n, d = sizes(3, seed, of=(2, 5, 3, 4))
    q, k, v = (random(b, n, d, seed=3 * seed + i) for i in range(3))
    y = numbers(attend(q, k, v), "the output")
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
    assert not any(rows), (
        f"query {rows.index(True)} of {n} got no key at all, and the softmax of nothing is not a number: "
        + ("each query sees itself" if rows[0] else "your mask forbids what it should allow")
    )
    diagnose(y, masked(ones.tril()), wrong, "the output", "query i should mix the values 0 … i")


def check_attention_cost(cost, seed=0):
    """`cost(dim, heads, n)` returns the parameters and multiply-adds of one Attention."""
    heads, n, d = sizes(3, seed, of=(3, 9, 4, 5))  # no two mistakes give the same number
    dim = heads * d
    parameters, multiply_adds = unpack(cost(dim, heads, n), "parameters", "multiply_adds")
    linear, pairs = 4 * n * dim**2, n**2 * dim
    wrong = {
        "first the parameters, then the multiply-adds": linear + 2 * pairs,
        "the biases are missing": 4 * dim**2,
        "the linear layer after the heads is missing": 3 * dim**2 + 3 * dim,
        "the first layer makes queries, keys and values: 3 · dim outputs": 2 * dim**2 + 2 * dim,
    }
    diagnose(parameters, 4 * dim**2 + 4 * dim, wrong, f"parameters, for dim {dim},")
    wrong = {
        "each head works on dim / heads numbers, so more heads do not cost more": linear + 2 * heads * pairs,
        "that is one head's share of scores and mixing": linear + 2 * pairs / heads,
        "two products grow with n²: the scores, and the mixing of the values": linear + pairs,
        "you count a multiply-add as two": 2 * (linear + 2 * pairs),
        "the scores compare every token with every token: n²": linear + 2 * n * dim,
        "the two linear layers are missing": 2 * pairs,
        "the linear layer after the heads is missing": 3 * n * dim**2 + 2 * pairs,
    }  # fmt: skip
    diagnose(multiply_adds, linear + 2 * pairs, wrong,
             f"multiply_adds, for dim {dim}, {heads} heads, {n} tokens,", "write down each product's shapes")  # fmt: skip


def check_read_maps(read_maps):
    """`read_maps()` names the head for each description of the exercise's four attention maps."""
    from utils.puzzles import HEADS

    right = {what: head for head, what in HEADS.items()}
    hints = {
        "looks at the frame before": "query 5 should be bright at key 4, query 6 at key 5",
        "looks at the first frame, from everywhere": "which map is bright in one column, in every row?",
        "takes a bit of every frame": "which map has no bright spot?",
        "early frames look at late ones, late ones at early ones": "query 0 should be bright at key 7",
    }
    check_answers(read_maps(), right, hints)
