"""Checks of the exercises of lessons 01 to 05: collapse, norms, gates, the MLP, attention."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from utils.diagnose import (
    check_answers,
    check_shape,
    close,
    diagnose,
    number,
    numbers,
    random,
    refuses,
    sizes,
    unpack,
    whole,
)

# Lesson 01 ------------------------------------------------------------------------------------


def check_difference_by_hand(by_hand):
    """`by_hand()` is the difference of the tokens (1, 1), (1, 1), (4, 4)."""
    wrong = {
        "that is the square: take the root at the end": 1 / 3,
        "divide by the size of the tokens, √36": 12**0.5,
        "the sizes are √12 and √36": (12 / 24) ** 0.5,
    }
    diagnose(by_hand(), (1 / 3) ** 0.5, wrong, "the difference", "the mean token is (2, 2)", 0.003)


def check_difference(difference, seed=0):
    """`difference(x)` is the size of x without its mean token, relative to the size of x."""
    n, d = sizes(2, seed, of=(3, 5, 7, 4))
    x = random(n, d, seed=seed) + random(d, seed=seed + 100)
    rest = x - x.mean(0)
    wrong = {
        "you take the mean of each token's numbers; the mean goes over the tokens":
            (x - x.mean(1, keepdim=True)).norm() / x.norm(),
        "you take one mean of all numbers; the mean token has d numbers": (x - x.mean()).norm() / x.norm(),
        "divide by the size of x": rest.norm(),
        "that is the square of it": rest.norm() ** 2 / x.norm() ** 2,
        "that is one over it: the residual belongs above the line": x.norm() / rest.norm(),
    }  # fmt: skip
    diagnose(difference(x), rest.norm() / x.norm(), wrong, "the difference")
    diagnose(
        difference(random(1, d).expand(n, d)),
        0.0,
        {},
        "the difference of equal tokens",
        tolerance=1e-3,
    )


def check_layer(layer, seed=0):
    """`layer(x, w_q, w_k, w_v, skip, norm)` is attention with a skip and a norm before it if wanted."""
    n, d = sizes(2, seed, of=(4, 3, 5, 7))
    x = random(n, d, seed=seed) * 2 + 1
    w = random(3, d, d, seed=seed + 100) / d**0.5

    def attention(y, axis=-1, values=None, scale=d**0.5):
        shares = ((y @ w[0]) @ (y @ w[1]).T / scale).softmax(axis)
        return shares @ ((y if values is None else values) @ w[2])

    def norm(y):
        return F.layer_norm(y, (d,))

    normed = norm(x)
    alone = {
        "the softmax runs over the queries; each query's shares should sum to 1": attention(x, 0),
        "divide the scores by √d": attention(x, scale=1),
        "the skip is added although skip is False": attention(x) + x,
    }
    diagnose(
        layer(x, *w, skip=False, norm=False), attention(x), alone, "the layer without skip and norm"
    )
    both = {
        "the softmax runs over the queries; each query's shares should sum to 1": attention(normed, 0) + x,
        "the skip connection adds x as it came in, not the normalised tokens": attention(normed) + normed,
        "the softmax is over the queries, and the skip adds the normalised tokens":
            attention(normed, 0) + normed,
        "the norm comes before the attention, not after it": norm(attention(x)) + x,
        "the norm comes before the attention, not after the sum (that is post-norm)": norm(attention(x) + x),
        "queries, keys and values are all made from the normalised tokens": attention(normed, values=x) + x,
    }  # fmt: skip
    diagnose(
        layer(x, *w, skip=True, norm=True),
        attention(normed) + x,
        both,
        "the layer with skip and norm",
    )
    diagnose(layer(x, *w, skip=False, norm=True), attention(normed), {}, "the layer with norm only")
    diagnose(layer(x, *w, skip=True, norm=False), attention(x) + x, {}, "the layer with skip only")


def check_read_curves(read_curves):
    """`read_curves()` says how each of the exercise's four stacks falls."""
    answers = read_curves()
    words = ("single", "double", "none", None)
    if isinstance(answers, dict):
        odd = [value for value in answers.values() if value not in words]
        assert not odd, f'answer with "single", "double" or "none", not {odd[0]!r}'
    hints = {
        "A": "does the line go down straight, or does it bend down?",
        "B": "where is the line after twelve layers?",
        "C": "lay a ruler along it",
        "D": "a norm makes each token the same size; does that make two equal tokens different? Draw it",
    }
    from utils.puzzles import STACKS

    check_answers(answers, {name: kind["fall"] for name, kind in STACKS.items()}, hints)


def check_mixing(factor, layers_until, seed=0):
    """`factor(A)` is the second largest eigenvalue's size; `layers_until(A, share)` the layers it takes."""
    (n,) = sizes(1, seed, of=(4, 3, 5, 6))
    A = random(n, n, seed=seed).softmax(-1)
    # a permutation mixed in gives negative and complex eigenvalues
    A = 0.3 * A + 0.7 * torch.eye(n, dtype=A.dtype).roll(1, 0)
    ordered = torch.linalg.eigvals(A).abs().sort(descending=True).values
    real = torch.linalg.eigvals(A).real.sort(descending=True).values
    wrong = {
        "the largest eigenvalue belongs to what all tokens share; take the second": ordered[0],
        "that is the smallest; the slowest part decides, so take the second largest": ordered[-1],
        "those are singular values; a repeated product goes by eigenvalues": torch.linalg.svdvals(A)[1],
        "A is not symmetric, so eigvalsh does not fit": torch.linalg.eigvalsh(A).abs().sort().values[-2],
        "an eigenvalue may be negative or complex: its size is what counts": real[1],
    }  # fmt: skip
    diagnose(factor(A), ordered[1], wrong, "factor(A)")
    share = 0.01 / (1 + seed)
    layers = next(count for count in range(10_000) if ordered[1] ** count <= share)
    wrong = {
        "after that many layers more than the share is left: round up": layers - 1,
        "one layer less is enough": layers + 1,
    }
    diagnose(layers_until(A, share), layers, wrong, f"layers_until(A, {share:.4g})",
             "factor to the power of the layers should be at most the share")  # fmt: skip


# Lesson 02 ------------------------------------------------------------------------------------


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
    b, n, d = sizes(3, seed, of=(2, 3, 5, 7))
    d = max(d, 3)
    x = random(b, n, d, seed=seed) * 3 + 5
    weight, bias = random(d, seed=seed + 100), random(d, seed=seed + 200)
    far, mean = 0.5, x.mean(-1, keepdim=True)  # a large eps shows where it stands
    variance = x.var(-1, keepdim=True, unbiased=False)

    def scaled(y):
        return y * weight + bias

    all_mean, all_variance = (
        x.mean((-2, -1), keepdim=True),
        x.var((-2, -1), keepdim=True, unbiased=False),
    )
    over, over_variance = x.mean(-2, keepdim=True), x.var(-2, keepdim=True, unbiased=False)
    normed = (x - mean) / (variance + far).sqrt()
    wrong = {
        "you normalise each number over the tokens; each token is normalised over its own numbers":
            scaled((x - over) / (over_variance + far).sqrt()),
        "you normalise all tokens together; each token has its own mean and variance":
            scaled((x - all_mean) / (all_variance + far).sqrt()),
        "the variance divides by the number of entries, not by one less":
            scaled((x - mean) / (x.var(-1, keepdim=True) + far).sqrt()),
        "divide by the root of the variance": scaled((x - mean) / (variance + far)),
        "eps belongs under the root": scaled((x - mean) / (variance.sqrt() + far)),
        "take the mean away": scaled(x / (variance + far).sqrt()),
        "weight and bias are swapped: multiply by the weight, add the bias": normed * bias + weight,
        "weight and bias are not used": normed,
        "the bias is not added": normed * weight,
        "the weight is not used": normed + bias,
        "eps is not used": scaled((x - mean) / variance.sqrt()),
        "first multiply by the weight, then add the bias": (normed + bias) * weight,
    }  # fmt: skip
    found = layer_norm(x.clone(), weight, bias, eps=far)
    diagnose(found, scaled(normed), wrong, "layer norm (with eps 0.5)")
    diagnose(layer_norm(x[0].clone(), weight, bias), F.layer_norm(x[0], (d,), weight, bias, 1e-6), {},
             "layer norm of (tokens, d)")  # fmt: skip


def check_rms_norm(rms_norm, token_on_which_they_agree, seed=0):
    """`rms_norm(x, eps)` divides by the root of the mean square; on some tokens it is layer norm."""
    b, n, d = sizes(3, seed, of=(2, 3, 5, 7))
    x, far = random(b, n, d, seed=seed) * 3 + 2, 0.5
    square, spread = x.pow(2).mean(-1, keepdim=True), x - x.mean(-1, keepdim=True)
    wrong = {
        "RMSNorm leaves the mean alone":
            spread / (spread.pow(2).mean(-1, keepdim=True) + far).sqrt(),
        "the mean of the squares, not their sum": x / (x.pow(2).sum(-1, keepdim=True) + far).sqrt(),
        "divide by the root": x / (square + far),
        "eps belongs under the root": x / (square.sqrt() + far),
        "eps is not used": x / square.sqrt(),
        "each token is normalised over its own numbers": x / (x.pow(2).mean(-2, keepdim=True) + far).sqrt(),
        "that is the mean of the sizes; RMS squares first": x / (x.abs().mean(-1, keepdim=True) + far),
    }  # fmt: skip
    diagnose(
        rms_norm(x.clone(), eps=far), x / (square + far).sqrt(), wrong, "RMSNorm (with eps 0.5)"
    )
    token = numbers(token_on_which_they_agree(), "the token")
    check_shape(token, (4,), "the token")
    assert len(token.unique()) == 4, "the four numbers should differ"
    assert close(rms_norm(token.clone(), eps=0.0), F.layer_norm(token, (4,), eps=0.0)), (
        "on this token the two differ: layer norm takes its mean away first"
    )


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


def check_stream(stack, spread, seed=0):
    """`stack(x, branches, norm)` is a pre-norm stack; `spread(layers)` the size of what it carries."""
    n, d = sizes(2, seed, of=(3, 4, 5, 7))
    x, maps = random(n, d, seed=seed), random(3, d, d, seed=seed + 100)
    branches = [lambda y, w=w: torch.tanh(y @ w) for w in maps]

    def norm(y):
        return F.layer_norm(y, (d,))

    def run(step, last):
        y = x
        for branch in branches:
            y = step(y, branch)
        return last(y)

    wrong = {
        "the skip connection is missing: add what the branch returns": run(lambda y, f: f(norm(y)), norm),
        "the last norm is missing": run(lambda y, f: y + f(norm(y)), lambda y: y),
        "that is post-norm: the norm goes before the branch": run(lambda y, f: norm(y + f(y)), lambda y: y),
        "that is post-norm, with one norm more": run(lambda y, f: norm(y + f(y)), norm),
        "add to the tokens themselves, not to the normalised ones": run(lambda y, f: norm(y) + f(norm(y)), norm),
        "the branches get tokens that are not normalised": run(lambda y, f: y + f(y), norm),
        "only the first branch was used: is the return inside the loop?": norm(x + branches[0](norm(x))),
    }  # fmt: skip
    right = run(lambda y, f: y + f(norm(y)), norm)
    diagnose(stack(x.clone(), branches, norm), right, wrong, "the stack's output")
    layers = 8 + 7 * seed
    wrong = {
        "that is the variance; the spread is its root": 1 + layers,
        "the input has a variance of 1 too": layers**0.5,
        "variances add up, standard deviations do not": layers,
    }
    diagnose(spread(layers), (1 + layers) ** 0.5, wrong, f"the spread after {layers} layers")


# Lesson 03 ------------------------------------------------------------------------------------


def check_geglu_shape(geglu_shape, seed=0):
    """`geglu_shape(shape)` predicts the shape of GEGLU's output; ValueError for an odd last size."""
    a, b, half = sizes(3, seed, of=(7, 2, 3, 5))
    for shape in [(a, b, 4, 2 * half), (a, 2 * half), (2 * half,)]:
        right = (*shape[:-1], shape[-1] // 2)
        try:
            found = geglu_shape(shape)
        except ValueError as error:
            raise AssertionError(f"{shape} can be halved, but yours raises a ValueError") from error
        assert isinstance(found, tuple | list | torch.Size), f"a shape is a tuple, not {found!r}"
        told = f"an input of {shape} should give {right}, you say {tuple(found)}"
        assert all(isinstance(size, int | np.integer) for size in found), (
            f"sizes are whole numbers: {told}. Divide with //"
        )
        assert tuple(found) != shape, f"GEGLU halves something: {told}"
        assert tuple(found) == right, f"only the last dimension is halved: {told}"
    for shape in [(a, b, 2 * half + 1), (4, 5)]:
        refuses(
            lambda s=shape: geglu_shape(s),
            f"{shape} has an odd last dimension, which cannot be halved",
        )


def check_swiglu(swiglu, where_they_differ_most, seed=0):
    """`swiglu(x)` is value * silu(gate); the other function says where gelu and silu differ most."""
    b, n, half = sizes(3, seed)
    x = random(b, n, 2 * half, seed=seed)
    value, gate = x.chunk(2, dim=-1)
    wrong = {
        "value and gate are swapped: the second half is the gate": gate * F.silu(value),
        "silu is the gate times its sigmoid; you leave out the gate itself": value * torch.sigmoid(gate),
        "the sigmoid is 1 / (1 + exp(-g)): mind the sign": value * gate / (1 + torch.exp(gate)),
        "that is GEGLU": value * F.gelu(gate),
    }  # fmt: skip
    diagnose(swiglu(x), value * F.silu(gate), wrong, "SwiGLU's output")
    grid = torch.linspace(0, 6, 6001, dtype=torch.float64)
    right = grid[(F.gelu(grid) - F.silu(grid)).abs().argmax()].item()
    found = number(where_they_differ_most(), "where they differ most")
    assert abs(found) > 0.05, "at 0 both are 0; look for the place of the largest difference"
    assert found < 5.9, "far out both are nearly the gate itself, so they hardly differ"
    assert abs(found - right) < 0.11, f"at {found:.1f} they differ less than elsewhere"


def check_gated_width(weights, gated_width, seed=0):
    """`weights(dim, wide, gated)` counts an MLP's weights; `gated_width(dim, wide)` makes them equal."""
    dim, wide = 4 * (seed + 2), 16 + 7 * seed
    diagnose(
        weights(dim, wide, gated=False), 2 * dim * wide, {}, f"weights({dim}, {wide}, gated=False)"
    )
    wrong = {
        "the second matrix, from wide to dim, is the same in both": 4 * dim * wide,
        "values and gates need a matrix each": 2 * dim * wide,
    }
    diagnose(
        weights(dim, wide, gated=True), 3 * dim * wide, wrong, f"weights({dim}, {wide}, gated=True)"
    )
    found = whole(gated_width(dim, wide), f"gated_width({dim}, {wide})")
    wrong = {
        "half would be right if both matrices doubled; only the first one does": wide // 2,
        "with the same width the gated network has half as many weights again": wide,
        "round down: it may not have more weights than the plain one": -(-2 * wide // 3),
    }
    diagnose(found, 2 * wide // 3, wrong, f"gated_width({dim}, {wide})")
    diagnose(
        gated_width(8, 3000 + seed), 2 * (3000 + seed) // 3, {}, f"gated_width(8, {3000 + seed})"
    )


def check_turn(gelu_derivative, lowest_point, seed=0):
    """`gelu_derivative(g)` is the derivative of gelu; `lowest_point()` the gate where it is 0."""
    g = random(7, seed=seed).double()  # so that small differences can stand for a derivative
    variable = g.clone().requires_grad_()
    (right,) = torch.autograd.grad(F.gelu(variable).sum(), variable)
    density = torch.exp(-(g**2) / 2)
    below = 0.5 * (1 + torch.erf(g / 2**0.5))
    wrong = {
        "a product has two terms in its derivative: the second, g · density, is missing": below,
        "the density has the factor 1 / √(2π)": below + g * density,
        "erf gets g / √2": 0.5 * (1 + torch.erf(g)) + g * density / (2 * torch.pi) ** 0.5,
    }
    diagnose(gelu_derivative(g), right, wrong, "the derivative")
    found, grid = (
        number(lowest_point(), "the lowest point"),
        torch.linspace(-1, 0, 100_001, dtype=torch.float64),
    )
    place = grid[F.gelu(grid).argmin()].item()
    assert abs(found - F.gelu(torch.tensor(place)).item()) > 1e-3, (
        "that is how low it gets; asked for is the gate at which it does"
    )
    assert abs(found - place) < 6e-4, (
        f"at {found:.4f} gelu is not at its lowest, rounded to three decimals: is its derivative 0 there?"
    )


# Lesson 04 ------------------------------------------------------------------------------------


def check_count(count, seed=0):
    """`count(dim, mult)` is the number of parameters of FeedForward."""
    dim, mult = 6 + seed, 3 + seed % 2
    wide = dim * mult
    right = dim * 2 * wide + 2 * wide + wide * dim + dim
    wrong = {
        "the biases are missing": dim * 2 * wide + wide * dim,
        "the first layer makes values and gates: dim · mult · 2 outputs": dim * wide + wide + wide * dim + dim,
        "GEGLU halves what the second layer gets": dim * 2 * wide + 2 * wide + 2 * wide * dim + dim,
        "the second layer has biases too": dim * 2 * wide + 2 * wide + wide * dim,
    }  # fmt: skip
    diagnose(count(dim, mult), right, wrong, f"count({dim}, {mult})")


def dropped(module, layer, dim, p):
    """What `layer` of a training `module` gets is dropped with probability p, and made up for."""
    seen = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    x = random(1, dim).expand(400, dim)
    module.train()
    out = module(x)
    module.eval()
    module(x)
    handle.remove()
    assert len(seen) == 2, "the second linear layer should be called once in each pass"
    zeros = (seen[0] == 0).double().mean().item()
    assert zeros > 0.02, (
        "what goes into the second layer was not dropped: the dropout stands between GEGLU and it"
    )
    assert abs(zeros - p) < 0.1, (
        f"with dropout={p} the second layer's input should be zero in {p:.0%} of its places, it is in {zeros:.0%}"
    )
    kept = seen[0] != 0
    ratio = (seen[0][kept] / seen[1][kept]).median().item()
    assert abs(ratio - 1 / (1 - p)) < 0.01, (
        "what is not dropped should grow by 1 / (1 - p), so that the mean stays: F.dropout does that"
    )
    assert not (out == 0).any(), "the output itself is dropped too: one dropout is enough"


def check_repaired_feedforward(feedforward, seed=0):
    """`feedforward(dim, mult, dropout)`, with layers first and second, is FeedForward."""
    b, n, dim = sizes(3, seed, of=(2, 7, 5, 3))
    torch.manual_seed(seed)
    p = 0.5 if seed == 0 else 0.2
    module = feedforward(dim, mult=2, dropout=p)
    x = random(b, n, dim, seed=seed)
    module.eval()
    assert close(numbers(module(x), "the output"), module(x)), (
        "in eval mode two calls differ: dropout is still awake"
    )
    value, gate = module.first(x).chunk(2, dim=-1)
    wrong = {
        "value and gate are swapped: the second half is the gate": module.second(
            F.gelu(value) * gate
        ),
    }
    diagnose(module(x), module.second(value * F.gelu(gate)), wrong, "the output in eval mode")
    module.train()
    assert not close(module(x), module(x)), (
        "in training two calls should differ: dropout does nothing"
    )
    dropped(module, module.second, dim, p)


def check_as_one_layer(as_one_layer, seed=0):
    """`as_one_layer(first, second)` is the weight and bias of second(first(x))."""
    a, b, c = sizes(3, seed)
    torch.manual_seed(seed)
    first, second = nn.Linear(a, b), nn.Linear(b, c)
    with torch.no_grad():
        weight, bias = unpack(as_one_layer(first, second), "the weight", "the bias")
        wrong = {"a weight is (out, in): transpose it": (second.weight @ first.weight).T}
        diagnose(weight, second.weight @ first.weight, wrong, "the weight")
        wrong = {
            "the first layer's bias goes through the second layer": second.bias,
            "the second layer's bias is missing": second.weight @ first.bias,
            "the first bias goes through the second weight, not around it": second.bias + first.bias.sum(),
        }  # fmt: skip
        diagnose(bias, second.weight @ first.bias + second.bias, wrong, "the bias")
        x = random(3, a, seed=seed)
        weight, bias = numbers(weight, "the weight"), numbers(bias, "the bias")
        diagnose(
            F.linear(x.double(), weight, bias), second(first(x)), {}, "what your layer makes of x"
        )


def check_mlp_share(mlp_share):
    """`mlp_share()` is the MLP's share of the weights of four kinds of blocks."""
    answers = mlp_share()
    if isinstance(answers, dict):
        for key, value in answers.items():
            if value is not None:
                share = number(value, f"{key!r}")
                assert 0 < share < 1, (
                    f"{key!r}: a share is between 0 and 1, not {share:.3g}: MLP / whole block"
                )
        answers = {key: None if value is None else float(value) for key, value in answers.items()}
    hints = {
        "image": "an attention has 4 d² weights, the MLP 8 d², the block is their sum",
        "divided": "two attentions of 4 d², and one extra (d, d) layer",
        "axial": "three attentions of 4 d², and two extra layers",
        "divided, GEGLU": "GEGLU makes the first of the MLP's two matrices twice as wide",
    }
    right = {"image": 8 / 12, "divided": 8 / 17, "axial": 8 / 22, "divided, GEGLU": 12 / 21}
    check_answers(answers, right, hints)


def check_as_convolutions(as_convolutions, seed=0):
    """`as_convolutions(net)` gives what a FeedForward gives, by convolutions of width 1."""
    from utils.model import FeedForward

    b, n, dim = sizes(3, seed, of=(2, 4, 6, 3))
    torch.manual_seed(seed)
    net, x = FeedForward(dim, mult=2).eval(), random(b, n, dim, seed=seed)
    first, _, _, second = net.net
    value, gate = first(x).chunk(2, dim=-1)
    wrong = {
        "value and gate are swapped": second(F.gelu(value) * gate),
        "the second bias is missing": net(x) - second.bias,
        "put the axes back at the end: (b, n, dim)": net(x).mT,
    }
    run = as_convolutions(net)
    assert callable(run), "return a function that takes x"
    used, conv1d = [], F.conv1d
    F.conv1d = lambda *given, **named: used.append(1) or conv1d(*given, **named)
    try:
        found = run(x)
    finally:
        F.conv1d = conv1d
    diagnose(found, net(x), wrong, "your network's output",
             "with the same weights it should give what FeedForward gives")  # fmt: skip
    assert used, "the numbers are right, but F.conv1d was not used"


# Lesson 05 ------------------------------------------------------------------------------------


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
