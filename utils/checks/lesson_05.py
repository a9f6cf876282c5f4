"""Checks of the exercises of lesson 05: gates."""

from contextlib import contextmanager

import numpy as np
import torch
from torch.nn import functional as F

from utils.checks.diagnose import (
    diagnose,
    explained,
    noise,
    number,
    numbers,
    refuses,
    sizes,
    untouched,
    whole,
)


def check_geglu_shape(geglu_shape, seed=0):
    """`geglu_shape(shape)` predicts the shape of GEGLU's output; ValueError for an odd last size."""
    a, b, half = sizes(3, seed, of=(7, 2, 3, 5))
    for shape in [(a, b, 4, 2 * half), (a, 2 * half), (2 * half,)]:
        right = (*shape[:-1], shape[-1] // 2)
        try:
            found = geglu_shape(shape)
        except ValueError as error:
            raise AssertionError(f"{shape} can be halved, but yours raises a ValueError: {error}") from error  # fmt: skip
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


@contextmanager
def _written_out(*names):
    """Torch's functions of these names say, while they are away, that they are to be written out."""

    def refuse(name):
        def call(*args, **kwargs):
            raise AssertionError(
                f"the sigmoid is to be written out, with torch.exp: without {name}"
            )

        return call

    places = (torch, torch.Tensor, torch.special, F)
    kept = [(place, name, getattr(place, name)) for place in places for name in names if hasattr(place, name)]  # fmt: skip
    try:
        for place, name, _ in kept:
            setattr(place, name, refuse(name))
        yield
    finally:
        for place, name, function in kept:
            setattr(place, name, function)


def check_swiglu(swiglu, where_they_differ_most, seed=0):
    """`swiglu(x)` is value * silu(gate); the other function says where gelu and silu differ most."""
    b, n, half = sizes(3, seed)
    x = noise(b, n, 2 * half, seed=seed)
    value, gate = x.chunk(2, dim=-1)
    wrong = {
        "the value is missing: value · silu(gate)": F.silu(gate),
        "only the gate goes through silu; the value stays as it is": F.silu(value) * F.silu(gate),
        "silu of the gate alone, not of the product": F.silu(value * gate),
        "the sigmoid is 1 / (1 + exp(-g)): mind the brackets": value * gate * (1 + torch.exp(-gate)),
        "value and gate are swapped: the second half is the gate": gate * F.silu(value),
        "silu is the gate times its sigmoid; you leave out the gate itself": value * torch.sigmoid(gate),
        "the sigmoid is 1 / (1 + exp(-g)): mind the sign": value * gate / (1 + torch.exp(gate)),
        "that is GEGLU": value * F.gelu(gate),
    }  # fmt: skip
    right = value * F.silu(gate)
    with _written_out("sigmoid", "silu", "logsigmoid", "expit"):
        found = untouched(swiglu, x)
    diagnose(found, right, wrong, "SwiGLU's output")
    other = noise(b, 2 * half, seed=seed)
    diagnose(swiglu(other), F.silu(other[:, half:]) * other[:, :half], {}, "SwiGLU's output for (b, 2 * d)",
             "the halves are those of the last dimension, however many stand before it")  # fmt: skip
    gates = torch.tensor([1.0, 1.0, 200.0, -200.0])  # values 1, gates ±200
    found = numbers(swiglu(gates), "SwiGLU's output for gates of ±200")
    assert found.isfinite().all(), "for gates of ±200 the result is no number: exp(200) is more than float32 holds, exp(-200) is 0"  # fmt: skip
    diagnose(found, [200.0, 0.0], {}, "SwiGLU's output for gates of ±200")
    grid = torch.linspace(0, 6, 6001, dtype=torch.float64)
    right = grid[(F.gelu(grid) - F.silu(grid)).abs().argmax()].item()
    found = number(where_they_differ_most(), "where they differ most")
    assert found > -0.05, "a positive gate is asked for; on the left they differ just as much"
    assert abs(found) > 0.05, "at 0 both are 0; look for the place of the largest difference"
    assert found <= 6, (
        f"is {found:g} a place in your list of gates? Return the gate that stands there"
    )
    assert found < 5.9, "far out both are nearly the gate itself, so they hardly differ"
    assert abs(found - right) < 0.07, f"at {found:g} they differ less than elsewhere"


def check_gated_width(weights, gated_width, seed=0):
    """`weights(dim, wide, gated)` counts an MLP's weights; `gated_width(dim, wide)` makes them equal."""
    dim, wide = 4 * (seed % 5 + 2), 17 + 7 * (seed % 5)
    wrong = {"biases are not counted": 2 * dim * wide + wide + dim}
    found = weights(dim, wide, gated=False)
    diagnose(found, 2 * dim * wide, wrong, f"weights({dim}, {wide}, gated=False)")
    wrong = {
        "the second matrix, from wide to dim, is the same in both": 4 * dim * wide,
        "values and gates need a matrix each": 2 * dim * wide,
        "weights takes the width as it is given": 3 * dim * (2 * wide // 3),
        "biases are not counted": 3 * dim * wide + 2 * wide + dim,
    }
    diagnose(
        weights(dim, wide, gated=True), 3 * dim * wide, wrong, f"weights({dim}, {wide}, gated=True)"
    )
    found = whole(gated_width(dim, wide), f"gated_width({dim}, {wide})")
    wrong = {
        "that is a number of weights; a width is asked for": 2 * dim * wide // 3,
        "half would be right if both matrices doubled; only the first one does": wide // 2,
        "with the same width the gated network has half as many weights again": wide,
        "round down: it may not have more weights than the plain one": -(-2 * wide // 3),
        "divide at the end: wide // 3 has lost its rest already": wide // 3 * 2,
    }
    diagnose(found, 2 * wide // 3, wrong, f"gated_width({dim}, {wide})")
    for large in range(3000 + seed, 3003 + seed):  # all three rests
        wrong = {"round down, not to the nearest: it may not have more weights than the plain one": round(2 * large / 3)}  # fmt: skip
        found = whole(gated_width(8, large), f"gated_width(8, {large})")
        diagnose(found, 2 * large // 3, wrong, f"gated_width(8, {large})")


def check_turn(gelu_derivative, lowest_point, seed=0):
    """`gelu_derivative(g)` is the derivative of gelu; `lowest_point()` the gate where it is 0."""
    g = noise(7, seed=seed).double()  # so that small differences can stand for a derivative
    variable = g.clone().requires_grad_()
    (right,) = torch.autograd.grad(F.gelu(variable).sum(), variable)
    density = torch.exp(-(g**2) / 2)
    below = 0.5 * (1 + torch.erf(g / 2**0.5))
    wrong = {
        "a product has two terms in its derivative: the second, g · density, is missing": below,
        "the density has the factor 1 / √(2π)": below + g * density,
        "erf gets g / √2": 0.5 * (1 + torch.erf(g)) + g * density / (2 * torch.pi) ** 0.5,
        "erf gets g / √2, not g / 2": 0.5 * (1 + torch.erf(g / 2)) + g * density / (2 * torch.pi) ** 0.5,
        "the second term is added": below - g * density / (2 * torch.pi) ** 0.5,
        "the second term is g times the density": below + density / (2 * torch.pi) ** 0.5,
        "Φ has a ½ in front": 2 * below + g * density / (2 * torch.pi) ** 0.5,
        "the density falls on both sides: exp of *minus* g²/2": below
        + g / density / (2 * torch.pi) ** 0.5,
        "the density has a root: 1 / √(2π), not 1 / (2π)": below + g * density / (2 * torch.pi),
        "that is gelu itself": F.gelu(g),
        "the density falls like exp(-g²/2), not exp(-g²)": below + g * density**2 / (2 * torch.pi) ** 0.5,
        "divide by √(2π): mind the brackets": below + g * density / 2**0.5 * torch.pi,
    }  # fmt: skip
    with explained("g is a tensor: use torch.erf and torch.exp", TypeError, ValueError):
        found = untouched(gelu_derivative, g)
    diagnose(found, right, wrong, "the derivative")
    found, grid = (
        number(lowest_point(), "the lowest point"),
        torch.linspace(-1, 0, 100_001, dtype=torch.float64),
    )
    place = grid[F.gelu(grid).argmin()].item()
    assert abs(found - F.gelu(torch.tensor(place)).item()) > 1e-3, (
        "that is how low it gets; asked for is the gate at which it does"
    )
    assert abs(found + place) > 6e-4, "mind the sign: the lowest point lies left of 0"
    assert abs(found - place) < 6e-4, (
        f"at {found:.4f} gelu is not at its lowest, rounded to three decimals: is its derivative 0 there?"
    )
