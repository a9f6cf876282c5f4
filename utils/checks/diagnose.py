"""What every check is made of: random input from a seed, sizes from a seed, and a comparison that
recognises mistakes by their result.

A mistake is known by the number it produces. `diagnose` is given the right result and what
each common mistake would give, and says which of them it sees.
"""

from contextlib import contextmanager
from copy import deepcopy
from numbers import Real

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


def noise(*shape, seed=0):
    """Normal random numbers, float32 as in the lessons, the same for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sizes(count, seed=0, of=(2, 3, 5, 7)):
    """`count` different small sizes: the first ones of `of` for seed 0, else drawn by the seed."""
    if seed == 0:
        return list(of[:count])
    return [int(size) for size in np.random.default_rng(seed).permutation(of)[:count]]


# Float32 has seven digits, and two right ways of computing differ in the last two.
RELATIVE, ABSOLUTE = 1e-4, 1e-5


def close(a, b, tolerance=ABSOLUTE):
    """Equal shapes, and equal numbers up to float32 rounding (or up to `tolerance`)."""
    a, b = a.double(), b.double()
    return a.shape == b.shape and torch.allclose(a, b, RELATIVE, tolerance, equal_nan=True)


def numbers(value, name):
    """`value` as a float64 tensor; AssertionError in the learner's terms when it holds no numbers."""
    if value is None:
        raise AssertionError(
            f"{name}: nothing is returned. Is there a `return` on every way through?"
        )
    try:
        if not isinstance(value, torch.Tensor):
            value = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AssertionError(f"{name}: numbers were expected, not {value!r}") from error
    assert not value.is_complex(), f"{name}: this is a complex number; take its size, abs()"
    return value.detach().double()


def number(value, name):
    """`value` as a float; AssertionError unless it is one number (a tensor of one number will do)."""
    value = numbers(value, name)
    assert value.numel() == 1, f"{name}: one number was expected, not {value.numel()}"
    return value.item()


def whole(value, name):
    """`value` as an int; AssertionError unless it is a whole number."""
    found = number(value, name)
    assert found.is_integer(), f"{name}: a whole number was expected, not {found:g}"
    return int(found)


def unpack(value, *what):
    """`value` as a list of as many things as `what` names; AssertionError that says which."""
    expected = f"return {len(what)} things: {', '.join(what)}"
    several = isinstance(value, tuple | list | np.ndarray) or (
        isinstance(value, torch.Tensor) and value.ndim > 0
    )
    assert several and len(value) == len(what), (
        f"{expected}; you return {len(value)}"
        if several
        else f"{expected}; you return {'nothing' if value is None else type(value).__name__}"
    )
    return list(value)


@contextmanager
def explained(hint, *kinds):
    """An error of these kinds becomes an AssertionError with a hint; what is not written yet stays so."""
    try:
        yield
    except NotImplementedError:  # a RuntimeError, as it happens
        raise
    except kinds as error:
        raise AssertionError(f"your answer fails: {error}. {hint[0].upper()}{hint[1:]}") from error


@contextmanager
def borrowed(function, **right):
    """Inside, `function` finds these in its notebook instead of the learner's own functions of these names,
    so that a mistake in an earlier task (or none of it) costs its points only once."""
    names = function.__globals__
    own = {name: names[name] for name in right if name in names}
    names.update(right)
    try:
        yield
    finally:
        for name in right:
            del names[name]
        names.update(own)


def untouched(function, *given, **named):
    """`function(*given, **named)`, on copies; AssertionError when it changes a tensor, an array or a list."""
    copies = [deepcopy(one) if isinstance(one, torch.Tensor | np.ndarray | list) else one for one in given]  # fmt: skip
    found = function(*copies, **named)
    for number, (one, copy) in enumerate(zip(given, copies), 1):
        same = one is copy or (
            torch.equal(one, copy) if isinstance(one, torch.Tensor) else np.array_equal(one, copy)
        )
        which = "what came in" if len(given) == 1 else f"argument number {number}, which came in,"
        assert same, f"{which} was changed: work on a new one (x = x + y, not x += y)"
    return found


def refuses(call, why):
    """AssertionError unless `call()` raises a ValueError; `why` says what cannot be done. -> the error"""
    try:
        found = call()
    except NotImplementedError:  # nothing written yet
        raise
    except ValueError as error:
        return error
    except Exception as error:
        kind = type(error).__name__
        raise AssertionError(f"{why}: raise a ValueError; yours raises {kind}") from error
    if isinstance(found, torch.Tensor | np.ndarray):
        found = f"something of shape {tuple(found.shape)}"
    raise AssertionError(f"{why}: raise a ValueError, do not return {found}"[:300])


def diagnose(found, right, wrong=None, name="the result", but="", tolerance=ABSOLUTE, secret=False):
    """AssertionError unless `found` equals `right`; names the mistake when it is a known one.

    `wrong` maps what to tell the learner to what that mistake gives. Where several mistakes give
    the same, all are named; one that happens to give the right result is passed over. Numbers,
    arrays and tensors are all welcome. `secret`: do not say what would be right.
    """
    right, found = numbers(right, "the right result"), numbers(found, name)
    if right.ndim < 2 and found.numel() == right.numel() == max(found.shape, default=1):
        found = found.reshape(right.shape)  # one number, or one row, in more brackets than needed
    if close(found, right, tolerance):
        return
    seen = []
    for message, value in (wrong or {}).items():
        value = numbers(value, "a wrong result")
        if close(found, value, tolerance) and not close(right, value, tolerance):
            seen.append(message)
    assert not seen, "; or: ".join(seen)
    assert right.ndim or found.numel() == 1, f"{name}: one number was expected, not {found.numel()}"
    check_shape(found, right.shape, name)
    where, place = "", ()
    if right.ndim:
        off = ((found - right).abs() / (tolerance + RELATIVE * right.abs())).nan_to_num(torch.inf)
        place = tuple(int(i) for i in np.unravel_index(off.argmax().item(), right.shape))
        where = f" at {place}"
    but = f". {but[0].upper()}{but[1:]}" if but else ""
    told = "is not right" if secret else f"should be {right[place].item():.8g}"
    raise AssertionError(
        f"{name}{where}: {found[place].item():.8g}{'' if secret else ','} {told}{but}"
    )


def _plain(value):
    """A measured answer, such as tensor(True), as Python's own kind of value."""
    if isinstance(value, torch.Tensor | np.generic | np.ndarray):
        return value.item() if np.prod(value.shape) == 1 else tuple(value.tolist())
    return tuple(value) if isinstance(value, list) else value


def check_answers(found, right, hints=None, tolerance=0.005):
    """AssertionError unless `found`, a dict of answers, has the keys of `right` and its values.

    `hints` maps a key to what to think of when the answer to it is wrong. Hints are only given
    when every question has an answer of the right kind. Numbers with digits behind the point may
    be off by `tolerance`.
    """
    assert isinstance(found, dict), f"return the dict of answers, not {found!r}"
    found = {key: _plain(value) for key, value in found.items()}
    missing, extra = (
        sorted(map(repr, keys)) for keys in (set(right) - set(found), set(found) - set(right))
    )
    assert not missing, f"there is no answer to {', '.join(missing)}"
    assert not extra, f"nobody asked for {', '.join(extra)}"
    still_open = [key for key in right if found[key] is None]
    assert not still_open, (
        f"answer all {len(right)} first; {', '.join(map(repr, still_open))} is still open"
    )
    for key, value in right.items():
        if isinstance(value, bool):
            kind, fits = "True or False", isinstance(found[key], bool)
        elif isinstance(value, str):
            kind, fits = "a text in quotation marks", isinstance(found[key], str)
        elif isinstance(value, tuple):
            kind = f"{len(value)} numbers in brackets"
            fits = isinstance(found[key], tuple) and len(found[key]) == len(value)
        else:
            kind = "a number"
            fits = isinstance(found[key], Real) and not isinstance(found[key], bool)
        assert fits, f"{key!r}: answer with {kind}, not {found[key]!r}"
    for key, value in right.items():
        near = isinstance(value, float) and abs(found[key] - value) <= tolerance
        near |= isinstance(value, str) and found[key].strip().lower() == value.lower()
        hint = (hints or {}).get(key, "look again")
        assert near or found[key] == value, (
            f"{key!r}: {found[key]!r} is not right. {hint[0].upper()}{hint[1:]}"
        )


def check_dropout(module, layer, dim, p):
    """What `layer` of a training `module` gets is dropped with probability p, and made up for."""
    seen = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    x = noise(1, dim).expand(400, dim)
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
    assert abs(zeros - 1 + (1 - p) ** 2) > 0.05, (
        f"{zeros:.0%} of what goes into the second layer is zero, more than {p:.0%}: the dropout stands behind "
        "GEGLU, not before it, where it strikes value and gate, and there is only one"
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
