"""Checks of the exercises of lesson 06: the MLP."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from utils.checks.diagnose import (
    check_answers,
    check_dropout,
    close,
    diagnose,
    explained,
    noise,
    number,
    numbers,
    sizes,
    unpack,
    untouched,
)
from utils.model import FeedForward


def check_count(count, seed=0):
    """`count(dim, mult)` is the number of parameters of FeedForward."""
    dim, mult = 6 + seed % 5, 3 + seed % 2
    wide = dim * mult
    right = dim * 2 * wide + 2 * wide + wide * dim + dim
    wrong = {
        "the biases are missing": dim * 2 * wide + wide * dim,
        "the first layer makes values and gates: dim · mult · 2 outputs": dim * wide + wide + wide * dim + dim,
        "GEGLU halves what the second layer gets": dim * 2 * wide + 2 * wide + 2 * wide * dim + dim,
        "the second layer has biases too": dim * 2 * wide + 2 * wide + wide * dim,
        "the first layer has biases too": dim * 2 * wide + wide * dim + dim,
        "the first layer has a bias for each of its dim · mult · 2 outputs": dim * 2 * wide + wide + wide * dim + dim,
    }  # fmt: skip
    diagnose(count(dim, mult), right, wrong, f"count({dim}, {mult})")


def check_repaired_feedforward(feedforward, seed=0):
    """`feedforward(dim, mult, dropout)`, with layers first and second, is FeedForward."""
    b, n, dim = sizes(3, seed, of=(2, 7, 5, 3))
    torch.manual_seed(seed)
    p = (0.2, 0.5, 0.3)[seed % 3]
    module = feedforward(dim, mult=2, dropout=p)
    x = noise(b, n, dim, seed=seed)
    module.eval()
    assert close(numbers(module(x), "the output"), module(x)), (
        "in eval mode two calls differ: dropout is still on"
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
    check_dropout(module, module.second, dim, p)


def check_as_one_layer(as_one_layer, seed=0):
    """`as_one_layer(first, second)` is the weight and bias of second(first(x))."""
    a, b, c = sizes(3, seed)
    torch.manual_seed(seed)
    first, second = nn.Linear(a, b), nn.Linear(b, c)
    with torch.no_grad():
        came = [parameter.clone() for parameter in (*first.parameters(), *second.parameters())]
        hint = (
            f"here a = {a}, b = {b}, c = {c}: first.weight is (b, a), second.weight is (c, b), and the first bias, (b,), "
            "has to become (c,)"
        )
        with explained(hint, RuntimeError):
            weight, bias = unpack(as_one_layer(first, second), "the weight", "the bias")
        kept = zip(came, (*first.parameters(), *second.parameters()))
        assert all(torch.equal(one, now) for one, now in kept), (
            "a layer that came in was changed: work on new numbers (x = x + y, not x += y)"
        )
        wrong = {"a weight is (out, in): transpose it": (second.weight @ first.weight).T}
        diagnose(weight, second.weight @ first.weight, wrong, "the weight")
        wrong = {
            "the first layer's bias goes through the second layer": second.bias,
            "the second layer's bias is missing": second.weight @ first.bias,
            "the first bias goes through the second weight, not around it": second.bias + first.bias.sum(),
        }  # fmt: skip
        bias = numbers(bias, "the bias")
        assert bias.shape == (c,), f"the bias should be ({c},), it is {tuple(bias.shape)}"
        diagnose(bias, second.weight @ first.bias + second.bias, wrong, "the bias")
        x = noise(3, a, seed=seed)
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
    b, n, dim = sizes(3, seed, of=(2, 4, 6, 3))
    torch.manual_seed(seed)
    net, x = FeedForward(dim, mult=2).eval(), noise(b, n, dim, seed=seed)
    first, _, _, second = net.net
    value, gate = first(x).chunk(2, dim=-1)
    wrong = {
        "value and gate are swapped": second(F.gelu(value) * gate),
        "the second bias is missing": net(x) - second.bias,
        "put the axes back at the end: (b, n, dim)": net(x).mT,
    }
    run = as_convolutions(net)
    assert callable(run), "return a function that takes x"
    used = []

    class Watch(TorchDispatchMode):  # sees the operation, by whatever name it was called
        def __torch_dispatch__(self, function, types, given=(), named=None):
            if "convolution" in str(function):
                used.append(function)
            return function(*given, **named or {})

    hint = "conv1d wants (batch, channels, tokens): channels are axis 1, before it, behind it, and for chunk"
    with torch.no_grad(), Watch(), explained(hint, RuntimeError):
        found = untouched(run, x)
    value, gate = F.linear(x, first.weight).chunk(2, dim=-1)
    bare = value * F.gelu(gate)
    wrong |= {
        "the biases are missing": F.linear(bare, second.weight),
        "the first bias is missing": second(bare),
        "view and reshape do not turn axes round: rearrange or transpose do":
            net(x.reshape(b, dim, n).mT).mT.reshape(b, n, dim),
    }  # fmt: skip
    diagnose(found, net(x), wrong, "your network's output",
             "with the same weights it should give what FeedForward gives")  # fmt: skip
    assert used, "the numbers are right, but no convolution was used"
    assert len(used) == 2, (
        f"there were {len(used)} convolutions; each layer should be one, two in all"
    )


def check_unit(favourites, names, seed=0):
    """`favourites(says, words, unit, count)` names the words that drive a unit most; `names()` three units."""
    rows, units, count = sizes(3, seed, of=(11, 5, 3, 7))
    rows, count = max(rows, count), min(rows, count)
    says = noise(rows, units, seed=seed)
    says[0] += 3
    says[1] -= 9  # far below: the highest are asked for, not the farthest
    says[4] = says[0] - 0.001  # of the same word, which comes twice, at the top
    says[3] = says[0] + 1  # the highest is not the first
    words = [f"word {number % 4}" for number in range(rows)]  # some come more than once
    unit = units - 1

    def by(column, order=True, count=count):
        return [words[row] for row in column.argsort(descending=order)[:count].tolist()]

    right = by(says[:, unit])
    with explained(
        f"{count} of {rows} words were asked for: use `count`", RuntimeError, IndexError
    ):
        found = untouched(favourites, says, words, unit, count)
    assert isinstance(found, list | tuple) and all(isinstance(word, str) for word in found), (
        f"return a list of words, not {found!r}"
    )
    found = list(found)
    assert len(found) == count, (
        f"{count} words were asked for, you return {len(found)}; a word may come more than once"
    )
    wrong = {
        "those are the words in which it stays lowest": by(says[:, unit], order=False),
        "the highest comes first": right[::-1],
        "the units are the columns: says[:, unit]": by(
            says[min(unit, rows - 1)][: min(rows, units)]
        ),
        "a word comes as often as windows of it are among the highest": list(
            dict.fromkeys(by(says[:, unit], count=rows))
        )[:count],
        "those are the first words of the list": words[:count],
        "that is the unit before it": by(says[:, unit - 1]),
    }
    seen = [message for message, value in wrong.items() if found == value and value != right]
    assert found == right, seen[0] if seen else f"the words should be {right}, they are {found}"
    more = "look at fifteen of its words: which comes most?"
    hints = {
        51: more,
        88: more,
        84: "say bin, place and blue before a mirror: what do the lips do first?",
    }
    check_answers(names(), {51: "place", 88: "set", 84: "pressed together"}, hints)
