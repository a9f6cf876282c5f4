"""Checks of the exercises of lesson 03: spread, collapse and mixing."""

import torch
from torch.nn import functional as F

from utils.checks.diagnose import check_answers, diagnose, noise, sizes, untouched
from utils.checks.puzzles import STACKS


def check_spread_by_hand(by_hand):
    """`by_hand()` is the spread of the tokens (5, 0), (1, 2), (0, 1)."""
    wrong = {
        "that is the square: take the root at the end": 16 / 31,
        "divide by the size of the tokens, √31": 16**0.5,
        "the sizes are √16 and √31": (16 / 15) ** 0.5,
        "the mean token has two numbers; you take one mean of all six": (17.5 / 31) ** 0.5,
        "you take the mean of each token's numbers; the mean goes over the tokens": (13.5 / 31) ** 0.5,
        "the size is the root of the sum of *all* squares, not the sum of the tokens' sizes":
            (10**0.5 + 2**0.5 + 2) / (6 + 5**0.5),
        "one ratio for all tokens together, not the mean of a ratio for each": (2 * 0.4**0.5 + 2) / 3,
    }  # fmt: skip
    diagnose(by_hand(), (16 / 31) ** 0.5, wrong, "the spread", "the mean token is (2, 1)", 0.006, secret=True)  # fmt: skip


def check_spread(spread, seed=0):
    """`spread(x)` is the size of x without its mean token, relative to the size of x."""
    n, d = sizes(2, seed, of=(3, 5, 7, 4))
    for more in (0, 2):  # two sizes: neither is to be taken for granted
        _check_spread(spread, n + more, d, seed)
    equal = spread(noise(1, d).expand(n, d))
    diagnose(equal, 0.0, {}, "the spread of equal tokens", tolerance=1e-3)


def _check_spread(spread, n, d, seed):
    x = noise(n, d, seed=seed) + noise(d, seed=seed + 100) + 2 * noise(n, 1, seed=seed + 200)
    rest = x - x.mean(0)
    wrong = {
        "you take the mean of each token's numbers; the mean goes over the tokens":
            (x - x.mean(1, keepdim=True)).norm() / x.norm(),
        "you take one mean of all numbers; the mean token has d numbers": (x - x.mean()).norm() / x.norm(),
        "divide by the size of x": rest.norm(),
        "that is the square of it": rest.norm() ** 2 / x.norm() ** 2,
        "that is one over it: the residual belongs above the line": x.norm() / rest.norm(),
        "divide by the size of all tokens together, not by that of their mean": rest.norm() / x.mean(0).norm(),
        "one ratio for all tokens together, not the mean of a ratio for each": (rest.norm(dim=1) / x.norm(dim=1)).mean(),
        "the size is the root of the sum of *all* squares, not a sum over tokens": rest.norm(dim=1).sum() / x.norm(dim=1).sum(),
        "take the sizes, not standard deviations": x.std(0).norm() / x.norm(),
    }  # fmt: skip
    diagnose(untouched(spread, x), rest.norm() / x.norm(), wrong, f"the spread of {n} tokens")


def check_layer(layer, seed=0):
    """`layer(x, w_q, w_k, w_v, skip, norm)` is attention with a skip and a norm before it if wanted."""
    for its_seed in (seed, seed + 2):  # two sizes: none is to be taken for granted
        _check_layer(layer, its_seed)


def _check_layer(layer, seed):
    n, d = sizes(2, seed, of=(4, 3, 5, 7))
    x = noise(n, d, seed=seed) * 2 + 1
    w = noise(3, d, d, seed=seed + 100) / d**0.5

    def attention(y, axis=-1, values=None, scale=d**0.5, queries=None, keys=None, order=(0, 1)):
        asked, told = (y if other is None else other for other in (queries, keys))
        shares = ((asked @ w[order[0]]) @ (told @ w[order[1]]).T / scale).softmax(axis)
        return shares @ ((y if values is None else values) @ w[2])

    def norm(y):
        return F.layer_norm(y, (d,))

    normed = norm(x)
    alone = {
        "the softmax runs over the queries; each query's shares should sum to 1": attention(x, 0),
        "divide the scores by √d": attention(x, scale=1),
        "the skip is added although skip is False": attention(x) + x,
        "the norm is applied although norm is False": attention(norm(x)),
        "w_q makes the queries, w_k the keys; yours are swapped": attention(x, order=(1, 0)),
        "d is the length of a query, not the number of tokens": attention(x, scale=n**0.5),
    }

    def run(**switches):
        return untouched(layer, x, *w, **switches)

    diagnose(run(skip=False, norm=False), attention(x), alone, "the layer without skip and norm")
    both = {
        "the softmax runs over the queries; each query's shares should sum to 1": attention(normed, 0) + x,
        "the skip connection adds x as it came in, not the normalised tokens": attention(normed) + normed,
        "the softmax is over the queries, and the skip adds the normalised tokens":
            attention(normed, 0) + normed,
        "the norm comes before the attention, not after it": norm(attention(x)) + x,
        "the norm comes before the attention, not after the sum (that is post-norm)": norm(attention(x) + x),
        "queries, keys and values are all made from the normalised tokens": attention(normed, values=x) + x,
        "the queries are made from the normalised tokens, too": attention(normed, queries=x) + x,
        "the keys are made from the normalised tokens, too": attention(normed, keys=x) + x,
        "x itself is returned: what became of the attention?": x,
        "the norm is missing": attention(x) + x,
        "the skip connection is missing": attention(normed),
        "both are missing: skip and norm": attention(x),
        "each token is normalised with its mean and variance, and F.layer_norm's variance divides by d":
            attention((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)) + x,
    }  # fmt: skip
    diagnose(run(skip=True, norm=True), attention(normed) + x, both, "the layer with skip and norm")
    wrong = {"the skip is added although skip is False": attention(normed) + x, "the norm is missing": attention(x)}  # fmt: skip
    diagnose(run(skip=False, norm=True), attention(normed), wrong, "the layer with norm only")
    wrong = {"the norm is applied although norm is False": attention(normed) + x, "the skip is missing": attention(x)}  # fmt: skip
    diagnose(run(skip=True, norm=False), attention(x) + x, wrong, "the layer with skip only")


def check_read_curves(read_curves):
    """`read_curves()` says how each of the exercise's four stacks falls."""
    answers = read_curves()
    words = ("single", "double", "none", None)
    if isinstance(answers, dict):
        answers = {name: value.lower() if isinstance(value, str) else value for name, value in answers.items()}  # fmt: skip
        left = [name for name, value in answers.items() if value is None]
        assert len(left) in (0, len(answers)), (
            f'{", ".join(left)} is still open; the word "none" is an answer, too, in quotation marks'
        )
        odd = [value for value in answers.values() if value not in words]
        assert not odd, f'answer with "single", "double" or "none", not {odd[0]!r}'
    hints = {
        "A": "does the line go down straight, or does it bend down?",
        "B": "where is the line after twelve layers?",
        "C": "lay a ruler along it",
        "D": "a norm makes each token the same size; does that make two equal tokens different? Draw it",
    }
    check_answers(answers, {name: kind["fall"] for name, kind in STACKS.items()}, hints)


def _check_factor(factor, A):
    ordered = torch.linalg.eigvals(A).abs().sort(descending=True).values
    real = torch.linalg.eigvals(A).real.sort(descending=True).values
    wrong = {
        "the largest eigenvalue belongs to what all tokens share; take the second": ordered[0],
        "that is the smallest; the slowest part decides, so take the second largest": ordered[-1],
        "those are singular values; a repeated product goes by eigenvalues": torch.linalg.svdvals(A)[1],
        "those are singular values, of A without its mean; a repeated product goes by eigenvalues":
            torch.linalg.svdvals(A - A.mean(0))[0],
        "A is not symmetric, so eigvalsh does not fit": torch.linalg.eigvalsh(A).abs().sort().values[-2],
        "an eigenvalue may be negative or complex: its size is what counts": real[1],
        "the size of a complex number is abs() of the whole, not of its real part":
            torch.linalg.eigvals(A).real.abs().sort(descending=True).values[1],
        "that is the third largest; take the second": ordered[2],
        "those are not sorted: the second of the list is not the second largest": torch.linalg.eigvals(A).abs()[1],
        "sorted upwards, the second is the second smallest": ordered[-2],
        "the size of the eigenvalue itself, not its square": ordered[1] ** 2,
    }  # fmt: skip
    diagnose(factor(A), ordered[1], wrong, "factor(A)")


def check_mixing(factor, layers_until, seed=0):
    """`factor(A)` is the second largest eigenvalue's size; `layers_until(A, share)` the layers it takes."""
    (n,) = sizes(1, seed, of=(5, 3, 4, 6))
    A = noise(n, n, seed=seed).softmax(-1)
    # a permutation mixed in gives negative and complex eigenvalues
    A = 0.3 * A + 0.7 * torch.eye(n, dtype=A.dtype).roll(1, 0)
    apart = torch.eye(3) + 0.1  # three sizes, far from each other: 1, 0.54 and 0.15
    apart[1] += torch.tensor([0.5, 0.0, 0.0])
    apart[2] += torch.tensor([1.0, 4.0, 0.0])
    _check_factor(factor, apart / apart.sum(-1, keepdim=True))
    _check_factor(factor, A)
    _check_factor(factor, torch.tensor([[0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.3, 0.3, 0.4]]))  # 1, -0.7, 0.3  # fmt: skip
    ordered = torch.linalg.eigvals(A).abs().sort(descending=True).values
    share = 0.02 / (1 + seed % 5)
    layers = next(count for count in range(10_000) if ordered[1] ** count <= share)
    wrong = {
        "after that many layers more than the share is left: round up": layers - 1,
        "one layer less is enough": layers + 1,
    }
    diagnose(layers_until(A, share), layers, wrong, f"layers_until(A, {share:.4g})",
             "factor to the power of the layers should be at most the share")  # fmt: skip
    # a factor of 1/2; to the power of 2 it is a quarter, but whether more or less, rounding decides
    half = 0.5 * torch.eye(4) + 0.125
    for share, layers in ((0.2501, 2), (0.2499, 3), (0.2, 3)):
        wrong = {
            "after that many layers more than the share is left: round up": layers - 1,
            "at most the share: one layer less is enough": layers + 1,
        }
        diagnose(layers_until(half, share), layers, wrong, f"layers_until(A, {share}) for a factor of 1/2")  # fmt: skip
