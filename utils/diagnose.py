"""What every check is made of: random input from a seed, sizes from a seed, and a comparison that
recognises mistakes by their result.

A mistake is known by the number it produces. `diagnose` is given the right result and what
each common mistake would give, and says which of them it sees.
"""

import numpy as np
import torch


def check_shape(tensor, shape, name="the result"):
    """AssertionError unless `tensor` has exactly this shape."""
    assert isinstance(tensor, torch.Tensor), (
        f"{name} should be a tensor, it is a {type(tensor).__name__}"
    )
    assert tuple(tensor.shape) == tuple(shape), (
        f"{name} should have shape {tuple(shape)}, it has {tuple(tensor.shape)}"
    )


def random(*shape, seed=0):
    """Normal random numbers, float64, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def sizes(count, seed=0, of=(2, 3, 5, 7)):
    """`count` different small sizes: the first ones of `of` for seed 0, else drawn by the seed."""
    if seed == 0:
        return list(of[:count])
    return [int(size) for size in np.random.default_rng(seed).permutation(of)[:count]]


def close(a, b):
    """Equal shapes, and equal numbers up to rounding."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-8, equal_nan=True)


def _tensor(value, name):
    if value is None:
        raise AssertionError(f"{name} is None: does the function return something?")
    try:
        value = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AssertionError(f"{name} should be numbers, it is {value!r}") from error
    return value.detach().double()


def diagnose(found, right, wrong=None, name="the result", but="compare it with the description"):
    """AssertionError unless `found` equals `right`; names the mistake when it is a known one.

    `wrong` maps what to tell the learner to what that mistake gives. A mistake that happens
    to give the right result is passed over. Numbers, arrays and tensors are all welcome.
    """
    right, found = _tensor(right, "the right result"), _tensor(found, name)
    if close(found, right):
        return
    for message, value in (wrong or {}).items():
        value = _tensor(value, "a wrong result")
        if close(found, value) and not close(right, value):
            raise AssertionError(message)
    check_shape(found, right.shape, name)
    place = tuple(int(i) for i in (found - right).abs().nan_to_num(torch.inf).argmax().unsqueeze(0))
    place = np.unravel_index(place[0], right.shape) if right.ndim else ()
    where = f" at {tuple(int(i) for i in place)}" if place else ""
    raise AssertionError(
        f"{name} is {found[place].item():.6g}{where}, it should be {right[place].item():.6g}: {but}"
    )


def check_answers(found, right, hints=None, name="your answer"):
    """AssertionError unless `found`, a dict of answers, has the keys of `right` and its values.

    `hints` maps a key to what to think of when the answer to it is wrong; the right one is not told.
    """
    assert isinstance(found, dict), f"{name} should be a dict, it is {found!r}"
    missing, extra = sorted(set(right) - set(found)), sorted(set(found) - set(right))
    assert not missing, f"{name} says nothing about {', '.join(map(repr, missing))}"
    assert not extra, f"{name} has entries that nobody asked for: {', '.join(map(repr, extra))}"
    for key, value in right.items():
        same = found[key] == value and isinstance(found[key], bool) == isinstance(value, bool)
        hint = (hints or {}).get(key, "look again")
        assert same, f"{key!r}: {found[key]!r} is not right. {hint[0].upper()}{hint[1:]}"
