"""Checks of the exercises of lesson 11: training."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from utils.checks.diagnose import (
    check_answers,
    diagnose,
    explained,
    noise,
    number,
    unpack,
    untouched,
)
from utils.checks.puzzles import RUNS
from utils.motion import make_clips
from utils.training import to_video


def check_losses(losses, seed=0):
    """`losses(num_classes, p)`: the cross-entropy of knowing nothing, and of probability p."""
    for one in (seed, seed + 1):
        _check_losses(losses, one)


def _check_losses(losses, seed):
    classes, p = (400, 6, 10, 1000)[seed % 4], (0.25, 0.99, 0.9, 0.1)[seed % 4]
    alike, sure = unpack(losses(classes, p), "the loss of equal classes", "the loss at p")
    wrong = {
        "a loss is not negative: -ln of a probability": -math.log(classes),
        "that is the probability; the loss is -ln of it": 1 / classes,
        "take the natural logarithm, not that of base 2": math.log2(classes),
        "take the natural logarithm, not that of base 10": math.log10(classes),
    }
    diagnose(
        alike, math.log(classes), wrong, f"the loss of {classes} equal classes", tolerance=0.005
    )
    wrong = {
        "a loss is not negative: -ln of a probability": math.log(p),
        "that is the missing probability; the loss is -ln of p": 1 - p,
        "p is the right class's probability: -ln of p, not of what is missing": -math.log(1 - p),
        "take the natural logarithm, not that of base 2": -math.log2(p),
        "take the natural logarithm, not that of base 10": -math.log10(p),
    }
    diagnose(sure, -math.log(p), wrong, f"the loss at probability {p}", tolerance=0.005)


def check_learning_rate(learning_rate, seed=0):
    """`learning_rate(step, steps, peak, warm_up)` rises linearly, then falls along half a cosine."""
    for one in (seed, seed + 1):
        _check_learning_rate(learning_rate, one)


def _check_learning_rate(learning_rate, seed):
    more = seed % 5
    steps, warm_up, peak = 50 + 30 * more, 10 - more, 0.004 * (more + 1)
    found = [
        number(learning_rate(k, steps, peak, warm_up), f"the rate of step {k}")
        for k in range(steps)
    ]
    step = np.arange(steps)
    progress = (step - warm_up) / (steps - warm_up)
    rise = peak * (step + 1) / warm_up
    up = step < warm_up

    def schedule(fall, rise=rise):
        return np.where(up, rise, peak * fall)

    cosine = 0.5 * (1 + np.cos(np.pi * progress))
    wrong = {
        "the first step has a rate of 0, so it learns nothing: count it as 1": schedule(cosine, peak * step / warm_up),
        "step 0 has peak / warm_up, not 0: there are warm_up steps of equal height": schedule(cosine, peak * step / max(warm_up - 1, 1)),
        "the rate is a share of peak": schedule(cosine, rise / peak) / np.where(up, 1, peak),
        "half of (1 + cos), so that it starts at the peak": schedule(2 * cosine),
        "a quarter of a cosine falls too steeply at its end: half of one, ½ · (1 + cos(π · progress))": schedule(np.cos(np.pi / 2 * progress)),
        "progress is the share of the way from warm_up to steps, so divide by steps - warm_up": schedule(0.5 * (1 + np.cos(np.pi * (step - warm_up) / steps))),
        "there is no warm-up": peak * cosine,
        "there is no warm-up, and the fall begins at step 0": peak * 0.5 * (1 + np.cos(np.pi * step / steps)),
        "the fall is a straight line; it should be half a cosine": schedule(1 - progress),
        "a whole cosine comes up again: half of one, π · progress": schedule(0.5 * (1 + np.cos(2 * np.pi * progress))),
        "the fall begins at step 0; progress is 0 at the end of the warm-up": schedule(0.5 * (1 + np.cos(np.pi * step / steps))),
        "the rate falls below 0: half of (1 + cos)": schedule(np.cos(np.pi * progress)),
        "after the warm-up the rate stays where it is": schedule(1.0),
        "after the warm-up the rate starts at half the peak": schedule(cosine / 2),
    }  # fmt: skip
    for share in (peak * (step + 1) / (warm_up * steps), peak * step / (warm_up * steps)):
        wrong.setdefault("warm_up is a number of steps, not a share of all", share)
        if np.allclose(found, share):
            wrong["warm_up is a number of steps, not a share of all"] = share
    wrong["step warm_up is the first of the fall, not the last of the rise"] = np.where(
        step <= warm_up, rise, peak * cosine
    )
    wrong["the fall would reach 0 at step `steps`, which is one behind the last"] = np.where(
        up, rise, peak * 0.5 * (1 + np.cos(np.pi * (step - warm_up) / (steps - 1 - warm_up)))
    )
    diagnose(
        found,
        schedule(cosine),
        wrong,
        f"the rate of steps 0 to {steps - 1} (warm-up {warm_up})",
        tolerance=1e-8,
    )


def check_mirror(mirror, seed=0):
    """`mirror(clips, labels)` exchanges left and right, in the clips and in the labels."""
    clips, labels = make_clips(12, seed)
    kept, kept_labels = clips.copy(), labels.copy()
    found, after = unpack(mirror(clips, labels), "the clips", "the labels")
    assert isinstance(found, np.ndarray), f"return an array of clips, not {type(found).__name__}"
    assert (clips == kept).all(), "the clips that came in were changed: work on a copy"
    assert (labels == kept_labels).all(), "the labels that came in were changed: work on a copy"
    wrong = {
        "that is upside down: the width is axis 3": clips[:, :, ::-1],
        "that is backwards in time: the width is axis 3": clips[:, ::-1],
        "you turn the colours round: the width is axis 3": clips[..., ::-1],
        "the clips were not mirrored": clips,
    }
    assert len(found) == len(clips), (
        f"return only the mirrored clips, {len(clips)}; yours are {len(found)}"
    )
    wrong["only left and right are exchanged: the width alone"] = clips[:, :, ::-1, ::-1]
    after = np.asarray(after)
    assert np.issubdtype(after.dtype, np.integer), (
        f"labels are whole numbers; yours are {after.dtype}"
    )
    diagnose(np.ascontiguousarray(found), np.ascontiguousarray(clips[:, :, :, ::-1]),
             {message: np.ascontiguousarray(value) for message, value in wrong.items()}, "the mirrored clips")  # fmt: skip
    only_once = np.where(labels < 2, 0, labels)
    half = np.where(labels == 0, 1, labels)
    wrong = {
        'a mirrored "left" is a "right": turn the labels too': labels,
        'in a mirror "up" stays up and "approach" still approaches': np.array([1, 0, 3, 2, 5, 4])[
            labels
        ],
        "left becomes right, but right has to become left too": half,
        "left became right, and then right became left again: look up all labels at once": only_once,
    }
    diagnose(after, np.where(labels < 2, 1 - labels, labels), wrong, "the labels")


class _Small(nn.Module):
    """A model with dropout, for the checks of training steps."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.linear, self.dropout = nn.Linear(4, 3), nn.Dropout(0.5)
        self.modes = []

    def forward(self, x):
        self.modes.append(self.training)
        return self.linear(self.dropout(x))


def check_train_step(train_step, seed=0):
    """`train_step(model, optimizer, inputs, targets, clip_norm)` is one step of training."""
    for clip in (
        0.1,
        100.0,
    ):  # 100 is never reached: the first hides the gradients' size, the second the clipping
        _check_train_step(train_step, clip, seed)


def _check_train_step(train_step, clip, seed):
    inputs, targets = noise(6, 4, seed=seed) * 5, torch.arange(6) % 3

    def prepared():
        model = _Small(seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.3)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.7)  # left over from another step
        torch.manual_seed(seed)
        return model, optimizer

    def variant(forget=True, clip_it=True, values=False, double=False, twice=False):
        model, optimizer = prepared()
        model.train()
        logits = model(inputs)
        loss = F.cross_entropy(logits.softmax(-1) if double else logits, targets)
        if forget:
            optimizer.zero_grad()
        loss.backward(retain_graph=twice)
        if twice:
            loss.backward()
        if clip_it and values:
            nn.utils.clip_grad_value_(model.parameters(), clip)
        elif clip_it:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        return model.linear.weight.detach(), loss.item()

    def by_hand():
        model, optimizer = prepared()
        optimizer.zero_grad()
        F.cross_entropy(model.train()(inputs), targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        return (model.linear.weight - model.linear.weight.grad).detach()

    model, optimizer = prepared()
    model.eval()  # as an evaluation leaves it
    start = model.linear.weight.detach().clone()
    loss = untouched(train_step, model, optimizer, inputs, targets, clip)
    assert model.modes, "the model was not called"
    assert model.modes[-1], "the model ran in eval mode: put it into training mode first"
    assert not isinstance(loss, torch.Tensor), "return the loss as a number: loss.item()"
    after, right_loss = variant()
    wrong = {"F.cross_entropy takes logits: no softmax before it": variant(double=True)[1]}
    diagnose(loss, right_loss, wrong, "the loss")
    wrong = {
        "the weights did not move: does the optimiser step, with gradients that are there?": start,
        "gradients of an earlier step are added in: forget them before backward": variant(forget=False)[0],
        "the gradients are not limited when they are used: clip after backward, before the step": variant(clip_it=False)[0],
        "old gradients are added in, and nothing is clipped": variant(forget=False, clip_it=False)[0],
        "limit the norm of all gradients together, not each number": variant(values=True)[0],
        "the gradients are there twice: call backward once": variant(twice=True)[0],
        "let the optimiser step: it does more than subtract gradients": by_hand(),
    }  # fmt: skip
    diagnose(model.linear.weight, after, wrong, "the weights after the step")


def check_accuracy(accuracy, seed=0):
    """`accuracy(model, clips, labels)` is a share, measured in eval mode, leaving no trace."""
    for count in (37, 23):  # two numbers that no batch divides
        _check_accuracy(accuracy, count, seed)


def _check_accuracy(accuracy, count, seed):
    rng = np.random.default_rng(seed)
    clips = rng.integers(0, 256, (count, 2, 4, 4, 3), dtype=np.uint8)
    torch.manual_seed(seed)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout, self.head = nn.Dropout(0.9), nn.Linear(96, 4)
            self.tracked = []

        def forward(self, video):
            assert isinstance(video, torch.Tensor) and video.is_floating_point(), (
                "the model takes what `to_video(clips)` gives, not raw frames"
            )
            self.tracked.append(torch.is_grad_enabled())
            return self.head(self.dropout(video.flatten(1)))

    model = Model().eval()
    with torch.no_grad():
        logits = model(to_video(clips))
    labels = logits.argmax(-1).numpy()
    off = 10 + seed % 5
    labels[:off] = (labels[:off] + 1) % 4
    right = 1 - off / count
    model.tracked.clear()
    for mode in (True, False):
        model.train(mode)
        with explained("argmax goes over the classes, the last axis", ValueError, RuntimeError):
            found = number(untouched(accuracy, model, clips, labels), "the accuracy")
        wrong = {
            "a share is between 0 and 1; you return a number of clips": right * count,
            "a share is between 0 and 1; you return per cent": right * 100,
            "that is the share of mistakes": 1 - right,
            "take the most probable class, not the least": (
                logits.argmin(-1).numpy() == labels
            ).mean(),
        }
        but = "is dropout off while you measure, and does every clip count, and once?"
        diagnose(found, right, wrong, "the accuracy", but)
        assert model.training == mode and model.dropout.training == mode, (
            f"the model came in {'training' if mode else 'eval'} mode and should leave in it, with all its parts: model.train(mode)"
        )
    enabled = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    assert enabled, (
        "gradients are switched off for everybody now: use torch.no_grad() as a with block, which switches them on again"
    )
    assert not any(model.tracked), "gradients were kept: measure under torch.no_grad()"


def check_training_curves(read_curves):
    """`read_curves()` names the runs of the exercise's picture."""
    names = {
        "the recipe": ("the recipe", "which line reaches the top, and for every seed?"),
        "frames never meet (space only)": ("space only", "no motion can be seen, so one class of six is a guess"),
        "no time embeddings": ("no time embedding", "the axis of a motion stays visible, its direction does not"),
        "clips turned in four ways, labels not": (
            "labels not remapped", "turned, transposed and reversed: what stays true of the label?"),
    }  # fmt: skip
    letter = {what: name for name, what in RUNS.items()}
    right = {name: letter[what] for name, (what, _) in names.items()} | {"no further than": 0.5}
    hints = {name: hint for name, (_, hint) in names.items()}
    hints["no further than"] = (
        "what of the six motions can still be seen when frames have no order? And what is left to guess?"
    )
    check_answers(read_curves(), right, hints)


def check_train_step_in_parts(step, seed=0):
    """`step(model, optimizer, parts, clip_norm)` moves the weights as one step on the whole batch."""
    for clip in (100.0, 0.1):
        _check_train_step_in_parts(step, clip, seed)


class _Watched(nn.Module):
    """A model without dropout (parts and whole must agree) that notes what happens to it."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.linear, self.seen, self.events = nn.Linear(4, 3), [], []

    def forward(self, x):
        self.seen.append((len(x), self.training))
        self.events.append("forward")
        out = self.linear(x)
        if out.requires_grad:
            out.register_hook(lambda _: self.events.append("backward"))
        return out


def _check_train_step_in_parts(step, clip, seed):
    parts = [(noise(n, 4, seed=seed + n) * 3, torch.arange(n) % 3) for n in (2, 5, 3 + seed % 5)]
    clips = sum(len(targets) for _, targets in parts)

    def run(take):
        model = _Watched(seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.3)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.7)  # left over from another step
        model.eval()
        return model, take(model, optimizer)

    def share(n):
        return n / clips

    def variant(weight=share, forget="once", clipping="once", stepping="once", limit=clip):
        def take(model, optimizer):
            if forget == "once":
                optimizer.zero_grad()
            for inputs, targets in parts:
                if forget == "each":
                    optimizer.zero_grad()
                (F.cross_entropy(model(inputs), targets) * weight(len(targets))).backward()
                if clipping == "each":
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                if stepping != "once":
                    optimizer.step()
            if clipping == "once":
                nn.utils.clip_grad_norm_(model.parameters(), limit)
            if stepping != "each":
                optimizer.step()

        return run(take)[0].linear.weight.detach()

    given = list(parts)
    model, loss = run(lambda model, optimizer: step(model, optimizer, given, clip))
    assert len(given) == len(parts), "the list of parts was changed: go through it, do not empty it"
    assert all(mode for _, mode in model.seen), "put the model into training mode first"
    counts = [n for n, _ in model.seen]
    assert max(counts, default=0) < clips, "the whole batch went through at once; take part by part"
    assert sum(counts) == clips, (
        f"{clips} clips are in the parts, {sum(counts)} went through the model"
    )
    wrong = {
        "the weights did not move: does the optimiser step, with gradients that are there?": _Watched(seed).linear.weight,
        "a part with more clips weighs more: average over all clips, not over parts": variant(lambda n: 1 / len(parts)),
        "the parts' means are added up: average over all clips": variant(lambda n: 1.0),
        "the sum over all clips was used: divide it by their number": variant(lambda n: n),
        "gradients of an earlier step are added in: forget them first": variant(forget="never"),
        "only the last part's gradients are left: forget once, before the parts, not for each": variant(forget="each"),
        "the gradients are not limited before they are used": variant(clipping="never"),
        "clip once, when all parts' gradients are added up, not for each part": variant(clipping="each"),
        "limit the norm to the clip_norm that is given": variant(limit=1.0),
        "parts need not be equally large: count all clips": variant(lambda n: n / len(parts) / len(parts[0][1])),
        "one step at the end, not one for each part": variant(stepping="each"),
        "one step at the end, none for each part": variant(stepping="each and at the end"),
        "each part is clipped and makes a step of its own: both once, at the end": variant(clipping="each", stepping="each"),
        "each part forgets, clips and steps: all of it once for the whole batch":
            variant(forget="each", clipping="each", stepping="each"),
    }  # fmt: skip
    diagnose(model.linear.weight, variant(), wrong, f"the weights after the step, with clip_norm = {clip}",
             "forget once, let the gradients of all parts add up, each clip with the same weight, clip once, step once")  # fmt: skip
    start = _Watched(seed)
    means = [F.cross_entropy(start(x), y).item() for x, y in parts]
    right = sum(mean * len(y) for mean, (_, y) in zip(means, parts)) / clips
    wrong = {
        "that is the last part's share": means[-1] * len(parts[-1][1]) / clips,
        "a part with more clips weighs more": sum(means) / len(means),
        "average over all clips": sum(means),
        "the sum over all clips: divide it by their number": right * clips,
    }
    assert not isinstance(loss, torch.Tensor), "return the loss as a number: loss.item()"
    diagnose(loss, right, wrong, "the loss")
    assert model.events[:2] != ["forward", "forward"], (
        "`backward` came only when all parts had been through the model, so all their graphs were held "
        "at once, and nothing was saved: call it for each part, at once"
    )
