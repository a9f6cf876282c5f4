"""Checks of the exercises of lesson 12: predictions."""

import math

import numpy as np
import torch
from torch.nn import functional as F

from utils.checks.diagnose import (
    check_answers,
    check_shape,
    diagnose,
    noise,
    number,
    numbers,
    sizes,
    unpack,
    untouched,
)


def check_softmax_by_hand(by_hand):
    """`by_hand()`: a probability, three logits, and the probability after adding 100."""
    a, b, c = unpack(by_hand(), "(a)", "(b)", "(c)")
    a, c = number(a, "(a)"), number(c, "(c)")
    right = math.exp(3) / (math.exp(3) + 1)
    assert abs(float(a) - (1 - right)) > 0.01, "(a) that is the other class's probability"
    assert abs(float(a) - 1) > 1e-6, "(a) the other class has a logit of 0, and e⁰ is 1, not 0"
    assert abs(float(a) - right) < 0.006, (
        f"(a) {float(a):.2f} is not right: whose e-powers are added up below the line?"
    )
    b = numbers(b, "(b)")
    check_shape(b, (3,), "(b)")
    assert b[2] == 0, "(b) the last logit should be 0"
    found = b.softmax(-1)
    told = ", ".join(f"{value:.2f}" for value in found.tolist())
    wanted = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    assert (found - wanted).abs().max() < 0.01, (
        f"(b) your logits give {told}: which difference of logits makes one probability twice the other?"
    )
    assert abs(float(c) - right) < 0.006, (
        "(c) softmax sees differences: the same number added to all logits changes nothing"
    )


def check_softmax(softmax, seed=0):
    """`softmax(logits)` over the last axis, without overflow."""
    n, classes = sizes(2, seed, of=(3, 5, 4, 6))
    logits = noise(n, classes, seed=seed) * 3 + noise(n, 1, seed=seed + 1) * 5
    exp = logits.exp()
    wrong = {
        "each clip's shares should sum to 1, over its classes; yours sum to 1 over the clips": logits.softmax(0),
        "all numbers together sum to 1; each row should": exp / exp.sum(),
        "the rows do not sum to 1: do the shares of a row share its sum?": logits.sigmoid(),
        "shares of e^logit, not of the logits": logits / logits.sum(-1, keepdim=True),
        "that is the logarithm of the softmax": logits.log_softmax(-1),
    }  # fmt: skip
    shifted = (logits - logits.max(-1, keepdim=True).values).exp()
    wrong["each clip's shares should sum to 1, over its classes"] = shifted / shifted.sum(
        0, keepdim=True
    )
    diagnose(untouched(softmax, logits), logits.softmax(-1), wrong, "the shares")
    many = noise(2, n, classes, seed=seed)
    diagnose(softmax(many), many.softmax(-1), {}, "the shares for (b, n, classes)")
    diagnose(softmax(many[0, 0]), many[0, 0].softmax(-1), {}, "the shares for one row")
    for large in (torch.tensor([[1000.0, 999.0, 998.0]]), torch.tensor([[0.0, 1.0], [-2000.0, -2001.0]]),
                  torch.tensor([[1000.0, 0.0, -1000.0]]), torch.tensor([[0.0, 1000.0]])):  # fmt: skip
        found = numbers(softmax(large), "the shares")
        assert found.isfinite().all(), (
            f"for logits like {large[-1].tolist()} the result is not a number: take each row's largest away first"
        )
        diagnose(found, large.softmax(-1), {}, f"the shares for logits like {large[-1].tolist()}")


def check_hide(hide, lost, seed=0):
    """`hide(clip, row, column, size)` covers a tile; `lost(share, clip, size)` what each one costs."""
    for its_seed in (seed, seed + 2):  # two sizes: none is to be taken for granted
        _check_hide(hide, lost, its_seed)


def _check_hide(hide, lost, seed):
    t, rows, columns, size = sizes(4, seed, of=(2, 3, 4, 5))
    rng = np.random.default_rng(seed)
    clip = rng.integers(0, 100, (t, rows * size, columns * size, 3), dtype=np.uint8)
    for row, column in ((rows - 1, columns - 1), (0, 1), (1, 0)):
        _check_hidden_tile(hide, clip, row, column, size)
    before = clip.copy()
    _check_lost(lost, clip, before, rng, t, rows, columns, size)


def _check_hidden_tile(hide, clip, row, column, size):
    before = clip.copy()
    right = clip.copy()
    right[:, row * size : (row + 1) * size, column * size : (column + 1) * size] = 115
    found = hide(clip, row, column, size)
    assert (
        isinstance(found, np.ndarray) and found.shape == clip.shape and found.dtype == np.uint8
    ), f"hide returns a clip like the one it got, {clip.shape} uint8"
    assert (clip == before).all(), "the clip that comes in was changed: work on a copy"
    black, first, swapped = clip.copy(), clip.copy(), clip.copy()
    black[right != clip] = 0
    first[0] = right[0]
    swapped[:, column * size : (column + 1) * size, row * size : (row + 1) * size] = 115
    pixel = clip.copy()
    pixel[:, row : row + size, column : column + size] = 115
    wrong = {
        "hidden is NOTHING, 115, not black": black,
        "the tile is to be hidden in all frames": first,
        "rows come before columns": swapped,
        "row and column count tiles, not pixels: multiply by the size": pixel,
    }
    wrong["nothing was hidden"] = before
    one = before.copy()
    one[:, row * size : (row + 1) * size, column * size : (column + 1) * size, 0] = 115
    wrong["all three colours are to be hidden"] = one
    diagnose(found, right, wrong, f"the clip with tile {row}, {column} hidden")


def _check_lost(lost, clip, before, rng, t, rows, columns, size):
    weights = rng.random((rows, columns))

    def share(clip):
        tiles = clip[..., 0].reshape(t, rows, size, columns, size).mean((0, 2, 4)) / 255
        return float((weights * tiles).sum())

    right = np.array(
        [
            [share(before) - share(_hidden(before, r, c, size)) for c in range(columns)]
            for r in range(rows)
        ]
    )
    wrong = {
        "what is *lost*: the whole clip's share minus the share with the place hidden": -right,
        "subtract the share with the place hidden from the whole clip's": share(before) - right,
        "rows come before columns": right.T if rows == columns else right.T.copy(),
    }
    diagnose(lost(share, clip, size), right, wrong, "what is lost")
    assert (clip == before).all(), "the clip that comes in was changed: work on a copy"


def _hidden(clip, row, column, size):
    clip = clip.copy()
    clip[:, row * size : (row + 1) * size, column * size : (column + 1) * size] = 115
    return clip


def check_temperature(with_temperature_two, best_temperature, seed=0):
    """What a temperature of 2 changes, and which of some candidates has the smallest cross-entropy."""
    hints = {
        "accuracy": "does the order of the logits change?",
        "confidence": "do the differences between the logits grow or shrink?",
    }
    check_answers(with_temperature_two(), {"accuracy": "same", "confidence": "down"}, hints)
    stretches = (3.0, 0.4, 2.0, 5.0, 0.3)
    for one in (seed, seed + 1):  # logits too far apart, and too near
        _check_best_temperature(best_temperature, stretches[one % 5], one)


def _check_best_temperature(best_temperature, stretch, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = noise(300, 4, seed=seed) * 2
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    stretched = logits * stretch
    candidates = [1.0, 5.0, 0.4, 3.0, 0.25, 4.0, 0.5, 2.0, 0.3]  # in no order

    def loss(temperature):
        return F.cross_entropy(stretched / temperature, labels).item()

    right = min(candidates, key=loss)
    found = untouched(best_temperature, stretched, labels, candidates)
    found = number(found, "the best temperature")
    assert any(abs(found - candidate) < 1e-6 for candidate in candidates), (
        f"one of the candidates, not {found}"
    )
    twice = [F.cross_entropy(stretched.softmax(-1) / t, labels).item() for t in candidates]
    accuracy = [-(((stretched / t).argmax(-1) == labels).float().mean().item()) for t in candidates]
    usual = {
        "F.cross_entropy takes logits: no softmax before it": candidates[int(np.argmin(twice))],
        "accuracy is the same at every temperature; take the cross-entropy": candidates[
            int(np.argmin(accuracy))
        ],
        "divide the logits by the temperature; you multiply": min(
            candidates, key=lambda t: loss(1 / t)
        ),
        "that is the one with the largest loss": max(candidates, key=loss),
    }
    seen = [message for message, value in usual.items() if abs(found - value) < 1e-6]
    assert abs(found - right) < 1e-6, (
        f"temperature {found:g} has a cross-entropy of {loss(found):.3f}, {right} has {loss(right):.3f}"
        + (f": {'; or: '.join(seen)}" if seen else "")
    )


def _calibration_error(probabilities, labels, bins, absolute=True, weighted=True, clamp=True):
    confidence, predicted = probabilities.max(-1)
    correct = (predicted == labels).double()
    place = (confidence * bins).long()
    place = place.clamp(max=bins - 1) if clamp else place
    total, used = 0.0, [k for k in range(bins) if (place == k).any()]
    for k in used:
        inside = place == k
        gap = confidence[inside].mean() - correct[inside].mean()
        gap = gap.abs() if absolute else gap
        total += gap * (inside.double().mean() if weighted else 1 / len(used))
    return abs(float(total))


def _without_sure(probabilities, labels, bins):
    """The error when clips of confidence 1 are in no bin, but count among all clips."""
    unsure = probabilities.max(-1).values < 1
    share = unsure.double().mean().item()
    return share * _calibration_error(probabilities[unsure], labels[unsure], bins)


def check_calibration(calibration_error, seed=0):
    """`calibration_error(probabilities, labels, bins)` is the expected calibration error."""
    generator = torch.Generator().manual_seed(seed)
    probabilities = (noise(400, 3, seed=seed) * 3).softmax(-1)
    confidence, predicted = probabilities.max(-1)
    labels = torch.randint(0, 3, (400,), generator=generator)  # mostly wrong: too sure …
    unsure = (confidence > 0.55) & (confidence < 0.65) | (confidence > 0.9)
    labels[unsure] = predicted[unsure]  # … and here always right: not sure enough
    sure = torch.tensor([1.0, 0.0, 0.0]).expand(80, 3)
    probabilities = torch.cat([probabilities, sure])
    labels = torch.cat([labels, torch.arange(80) % 2])  # sure, and wrong every other time
    # a confidence on a border belongs to the bin that begins there
    border = torch.tensor([0.5, 0.25, 0.25]).expand(40, 3)
    probabilities, labels = torch.cat([probabilities, border]), torch.cat([labels, torch.zeros(40, dtype=torch.long)])  # fmt: skip
    for bins in (10, 20 + seed % 5):
        right = _calibration_error(probabilities, labels, bins)
        confidence, predicted = probabilities.max(-1)
        overall = abs(float(confidence.mean() - (predicted == labels).double().mean()))
        wrong = {
            "too sure in one bin may not cancel too unsure in another: take each gap's size":
                _calibration_error(probabilities, labels, bins, absolute=False),
            "a bin counts as much as it holds clips; yours all weigh the same":
                _calibration_error(probabilities, labels, bins, weighted=False),
            "a confidence of exactly 1 falls out of the last bin": _without_sure(probabilities, labels, bins),
            "a confidence of exactly 1 belongs to the last bin, not to one of its own":
                _calibration_error(probabilities, labels, bins, clamp=False),
            "gaps cancel, and all bins weigh the same":
                _calibration_error(probabilities, labels, bins, absolute=False, weighted=False),
            "gaps cancel, bins weigh the same, and a confidence of exactly 1 falls out":
                _calibration_error(probabilities, labels, bins, absolute=False, weighted=False, clamp=False),
            "that compares the means over all clips; compare within bins": overall,
            "use the number of bins that is asked for": _calibration_error(probabilities, labels, 10),
        }  # fmt: skip
        found = untouched(calibration_error, probabilities, labels, bins=bins)
        found = number(found, "the calibration error")
        assert found == found, (
            "the error is not a number: a bin without clips has no mean, so pass it over"
        )
        diagnose(found, right, wrong, f"the calibration error with {bins} bins")


def check_two_views(two_views, seed=0):
    """`two_views(plain, mirrored)` averages after putting left and right of the second back."""
    plain = (noise(4, 6, seed=seed) * 2).softmax(-1)
    mirrored = (noise(4, 6, seed=seed + 1) * 2).softmax(-1)
    swap, pairs = [1, 0, 2, 3, 4, 5], [1, 0, 3, 2, 5, 4]
    back = mirrored[:, swap]
    wrong = {
        'the mirrored "left" is a "right": put its columns back first': (plain + mirrored) / 2,
        "in a mirror up stays up, and approach still approaches": (plain + mirrored[:, pairs]) / 2,
        "only the mirrored probabilities need putting back": (plain + mirrored)[:, swap] / 2,
        "an average, not a sum: rows sum to 1": plain + back,
        "an average of the two, not the larger one": torch.maximum(plain, back),
        "exchange columns (classes), not rows (clips)": (plain + mirrored[[1, 0, 2, 3]]) / 2,
    }
    right = (plain + back) / 2
    twice = mirrored.clone()
    twice[:, 0] = mirrored[:, 1]
    wrong["left and right were exchanged one after the other in place: both are right now"] = (
        plain + twice
    ) / 2
    wrong["only the mirrored probabilities need putting back, not the plain ones"] = (
        plain[:, swap] + mirrored
    ) / 2
    diagnose(untouched(two_views, plain, mirrored), right, wrong, "the averaged probabilities")


def check_rollout(rollout, share_of_patches, seed=0):
    """`rollout(matrices)` multiplies the layers with their skips; the other reads the class token's row."""
    n, layers = sizes(2, seed, of=(4, 3, 5, 6))
    matrices = list((noise(layers, n, n, seed=seed) * 2).softmax(-1))
    itself = torch.eye(n)

    def product(parts):
        total = itself
        for part in parts:
            total = part @ total
        return total

    halves = [(matrix + itself) / 2 for matrix in matrices]
    elementwise = itself
    for half in halves:
        elementwise = half * elementwise
    wrong = {
        "the later layer stands on the left": product(halves[::-1]),
        "the skip connection is missing: half of each token stays itself": product(matrices),
        "each layer is the mean of A and I: halve the sum": product([2 * half for half in halves]),
        "the layers are multiplied, not averaged": sum(matrices) / layers,
        "a matrix product, not number by number": elementwise,
        "the last layer alone is not the rollout": halves[-1],
    }
    right = product(halves)
    wrong |= {
        "row by row: who looks stands in the rows, so no transpose": product(
            [half.T for half in halves]
        ),
        "that is the rollout turned round: rows and columns are exchanged": right.T,
        "the identity is halved, too: (A + I) / 2": product(
            [matrix / 2 + itself for matrix in matrices]
        ),
        "the last layer is missing": product(halves[:-1]),
        "the first layer has a skip connection, too": product([matrices[0], *halves[1:]]),
    }
    given = [matrix.clone() for matrix in matrices]
    diagnose(rollout(given), right, wrong, "the rollout")
    assert len(given) == len(matrices) and all(map(torch.equal, given, matrices)), (
        "the matrices that came in, or their list, were changed: work on new ones"
    )
    wrong = {
        "a row says at whom the class token looks; you take the column": right[1:, 0]
        / right[1:, 0].sum(),
        "make the shares sum to 1": right[0, 1:],
        "without the class token's share of itself": right[0],
    }
    diagnose(
        untouched(share_of_patches, right),
        right[0, 1:] / right[0, 1:].sum(),
        wrong,
        "the shares of the patches",
    )
