"""Checks of the exercises of lesson 04: norms, and stacks of them."""

import torch
from torch.nn import functional as F

from utils.checks.diagnose import (
    check_answers,
    check_shape,
    close,
    diagnose,
    explained,
    noise,
    numbers,
    sizes,
    unpack,
    untouched,
)


def check_equal_numbers(equal_numbers):
    """`equal_numbers()` is the layer norm of four sevens, with eps 1e-6 and with eps 0."""
    with_eps, without = unpack(equal_numbers(), "the result with eps", "the result without")
    wrong = {
        "the mean, 7, is taken away from each": [7.0] * 4,
        "0 divided by a small number is 0, not 1": [1.0] * 4,
        "0 divided by the root of a millionth is a number (first the result with eps)": [torch.nan]
        * 4,
    }
    diagnose(with_eps, [0.0] * 4, wrong, "with eps 1e-6, the result")
    wrong = {
        "0 divided by 0 is not 0": [0.0] * 4,
        "1 divided by 0 would be infinite; this is 0 divided by 0": [torch.inf] * 4,
    }
    diagnose(without, [torch.nan] * 4, wrong, "with eps 0, the result", "what is 0 divided by 0?")


def check_layer_norm(layer_norm, seed=0):
    """`layer_norm(x, weight, bias, eps)` normalises each token, then scales and shifts it."""
    for its_seed in (seed, seed + 2):  # two sizes: none is to be taken for granted
        _check_layer_norm(layer_norm, its_seed)


_KEEP = "has a mean lost its axis? keepdim=True keeps it, with length 1"


def _check_layer_norm(layer_norm, seed):
    b, n, d = sizes(3, seed, of=(2, 3, 5, 7))
    d = max(d, 3)
    x = noise(b, n, d, seed=seed) * 3 + 5
    weight, bias = noise(d, seed=seed + 100), noise(d, seed=seed + 200)
    far, mean = 0.5, x.mean(-1, keepdim=True)  # a large eps shows where it stands
    variance = x.var(-1, keepdim=True, unbiased=False)

    def scaled(y):
        return y * weight + bias

    all_mean, all_variance = (
        x.mean((-2, -1), keepdim=True),
        x.var((-2, -1), keepdim=True, unbiased=False),
    )
    whole_mean, whole_variance = x.mean(), x.var(unbiased=False)
    over, over_variance = x.mean(-2, keepdim=True), x.var(-2, keepdim=True, unbiased=False)
    normed = (x - mean) / (variance + far).sqrt()
    wrong = {
        "you normalise each number over the tokens; each token is normalised over its own numbers":
            scaled((x - over) / (over_variance + far).sqrt()),
        "you normalise all tokens together; each token has its own mean and variance":
            scaled((x - all_mean) / (all_variance + far).sqrt()),
        "you normalise over the whole tensor; each token has its own mean and variance":
            scaled((x - whole_mean) / (whole_variance + far).sqrt()),
        "the variance divides by the number of entries, not by one less":
            scaled((x - mean) / (x.var(-1, keepdim=True) + far).sqrt()),
        "divide by the root of the variance": scaled((x - mean) / (variance + far)),
        "eps belongs under the root": scaled((x - mean) / (variance.sqrt() + far)),
        "eps belongs under the root, and the variance divides by the number of entries, not by one less":
            scaled((x - mean) / (x.std(-1, keepdim=True) + far)),
        "the variance is the mean of the squared distances, not their sum":
            scaled((x - mean) / ((x - mean).pow(2).sum(-1, keepdim=True) + far).sqrt()),
        "add the bias, do not take it away": normed * weight - bias,
        "take the mean away": scaled(x / (variance + far).sqrt()),
        "weight and bias are swapped: multiply by the weight, add the bias": normed * bias + weight,
        "weight and bias are not used": normed,
        "the bias is not added": normed * weight,
        "the weight is not used": normed + bias,
        "eps is not used": scaled((x - mean) / variance.sqrt()),
        "first multiply by the weight, then add the bias": (normed + bias) * weight,
    }  # fmt: skip
    wrong["the mean is not taken away anywhere: that is RMSNorm"] = scaled(
        x / (x.pow(2).mean(-1, keepdim=True) + far).sqrt()
    )
    wrong["each token is normalised over its own numbers, the last axis, not over the batch"] = (
        scaled((x - x.mean(0)) / (x.var(0, unbiased=False) + far).sqrt())
    )
    wrong["eps is not used: take the argument, not a number of your own"] = scaled(
        (x - mean) / (variance + 1e-6).sqrt()
    )
    with explained(_KEEP, RuntimeError):
        found = untouched(layer_norm, x, weight, bias, eps=far)
    diagnose(found, scaled(normed), wrong, "layer norm (with eps 0.5)")
    diagnose(layer_norm(x[0].clone(), weight, bias), F.layer_norm(x[0], (d,), weight, bias, 1e-6), {},
             "layer norm of (tokens, d)")  # fmt: skip


def check_rms_norm(rms_norm, token_on_which_they_agree, seed=0):
    """`rms_norm(x, eps)` divides by the root of the mean square; on some tokens it is layer norm."""
    b, n, d = sizes(3, seed, of=(2, 3, 5, 7))
    x, far = noise(b, n, d, seed=seed) * 3 + 2, 0.5
    square, spread = x.pow(2).mean(-1, keepdim=True), x - x.mean(-1, keepdim=True)
    wrong = {
        "RMSNorm leaves the mean alone":
            spread / (spread.pow(2).mean(-1, keepdim=True) + far).sqrt(),
        "RMSNorm leaves the mean alone, above the line, too": spread / (square + far).sqrt(),
        "the mean of the squares, not their sum": x / (x.pow(2).sum(-1, keepdim=True) + far).sqrt(),
        "a token's numbers need not be four: divide the sum by as many as there are":
            x / (x.pow(2).sum(-1, keepdim=True) / 4 + far).sqrt(),
        "divide by the root": x / (square + far),
        "eps belongs under the root": x / (square.sqrt() + far),
        "eps is not used": x / square.sqrt(),
        "each token is normalised over its own numbers": x / (x.pow(2).mean(-2, keepdim=True) + far).sqrt(),
        "that is the mean of the sizes; RMS squares first": x / (x.abs().mean(-1, keepdim=True) + far),
        "divide by the root of the mean square; the standard deviation takes the mean away first":
            x / (x.var(-1, keepdim=True, unbiased=False) + far).sqrt(),
        "divide by the root of the mean square; x.std takes the mean away first, and eps belongs under the root":
            x / (x.std(-1, keepdim=True) + far),
        "each token is normalised over its own numbers, not over the whole tensor": x / (x.pow(2).mean() + far).sqrt(),
        "each token is normalised over its own numbers, the last axis, not over the batch": x / (x.pow(2).mean(0) + far).sqrt(),
        "the mean of the squares, not their sum (F.normalize takes the sum)": F.normalize(x, dim=-1),
    }  # fmt: skip
    with explained(_KEEP, RuntimeError):
        found = untouched(rms_norm, x, eps=far)
    diagnose(found, x / (square + far).sqrt(), wrong, "RMSNorm (with eps 0.5)")
    token = numbers(token_on_which_they_agree(), "the token")
    check_shape(token, (4,), "the token")
    assert len(token.unique()) == 4, "the four numbers should differ"
    assert close(
        numbers(rms_norm(token.clone(), eps=0.0), "RMSNorm"), F.layer_norm(token, (4,), eps=0.0)
    ), "on this token the two differ: layer norm takes its mean away first"


def check_thousand(thousand):
    """`thousand()` predicts what a pre-norm layer makes of a token 1,000 times as large."""
    answers = thousand()
    hints = {
        "branch": "the norm takes any factor out again: fn sees the same token as before",
        "share": "the branch stays as it is, and what it is compared with grows",
        "others change, MLP": "the MLP works on each token alone",
        "others change, attention": "the others do look at this token, but what they see of it is normalised",
    }
    right = {
        "branch": 1,
        "share": 0.001,
        "others change, MLP": False,
        "others change, attention": False,
    }
    check_answers(answers, right, hints, tolerance=1e-5)


def check_stream(stack, size_after, seed=0):
    """`stack(x, branches, norm)` is a pre-norm stack; `size_after(layers)` the size of what it carries."""
    n, d, depth = sizes(3, seed, of=(3, 4, 5, 7))
    x, maps = noise(n, d, seed=seed), noise(depth, d, d, seed=seed + 100)
    branches = [lambda y, w=w: torch.tanh(y @ w) for w in maps]

    def norm(y):
        return F.layer_norm(y, (d,)) * 1.5 + 0.2

    def run(step, last, through=branches):
        y = x
        for branch in through:
            y = step(y, branch)
        return last(y)

    wrong = {
        "the skip connection is missing: add what the branch returns": run(lambda y, f: f(norm(y)), norm),
        "the last norm comes once, behind the loop; yours is inside it": run(lambda y, f: norm(y + f(norm(y))), lambda y: y),
        "the last branch was left out": run(lambda y, f: y + f(norm(y)), norm, branches[:-1]),
        "take the branches in the order of the list": run(lambda y, f: y + f(norm(y)), norm, branches[::-1]),
        "the list may have more than three branches": run(lambda y, f: y + f(norm(y)), norm, branches[:3]),
        "the last norm is missing": run(lambda y, f: y + f(norm(y)), lambda y: y),
        "that is post-norm: the norm goes before the branch": run(lambda y, f: norm(y + f(y)), lambda y: y),
        "that is post-norm, with one norm more": run(lambda y, f: norm(y + f(y)), norm),
        "add to the tokens themselves, not to the normalised ones": run(lambda y, f: norm(y) + f(norm(y)), norm),
        "the branches get tokens that are not normalised": run(lambda y, f: y + f(y), norm),
        "only the first branch was used: is the return inside the loop?": norm(x + branches[0](norm(x))),
        "use the norm that you are given, not one of your own": run(lambda y, f: y + f(F.layer_norm(y, (d,))), lambda y: F.layer_norm(y, (d,))),
        "you normalise what the branch returns; normalise what it gets": run(lambda y, f: y + norm(f(y)), norm),
        "each branch gets the tokens as those before have left them, not the first ones": norm(x + sum(f(norm(x)) for f in branches)),
    }  # fmt: skip
    right, given = run(lambda y, f: y + f(norm(y)), norm), x.clone()
    diagnose(stack(given, branches, norm), right, wrong, "the stack's output")
    assert torch.equal(given, x), (
        "the x that came in was changed: x = x + … makes a new tensor, x += … does not"
    )
    layers = 10 + 7 * (seed % 5)
    wrong = {
        "that is the variance; the standard deviation is its root": 1 + layers,
        "the input counts once": (2 + layers) ** 0.5,
        "the input has a variance of 1 too": layers**0.5,
        "variances add up, standard deviations do not": layers,
    }
    diagnose(size_after(layers), (1 + layers) ** 0.5, wrong, f"the size after {layers} layers")
