"""Checks of the exercises of lesson 07: the class token and the divided block."""

import torch
from einops import rearrange, reduce, repeat
from torch.nn import functional as F

from utils.checks.diagnose import (
    borrowed,
    check_answers,
    diagnose,
    explained,
    noise,
    sizes,
    unpack,
    untouched,
)
from utils.model import SCHEMES, AttentionStep, Block, PreNorm, Step


def _mixing(seed, d):
    """A stand-in for attention: every token influences every other of its group, unevenly."""
    weight = noise(d, d, seed=seed + 50)

    def attention(tokens):
        first = torch.tanh(
            tokens[:, :1] @ weight.T
        )  # the class token is told apart, patches are not
        return torch.tanh(tokens @ weight) + 2 * tokens.mean(1, keepdim=True) + first

    return attention


def check_copies(copies, seed=0):
    """`copies(t, h, w)`: how many copies of the class token each step makes, and what one sees."""
    t, h, w = sizes(3, seed, of=(5, 3, 4, 7))
    right = {
        "space": (t, h * w),
        "joint": (1, t * h * w),
        "rows": (t * h, w),
        "time as in the paper": (h * w, t),
    }
    answers = copies(t, h, w)
    hints = {
        "space": "how many frames are there, and how many patches in one? (The class token is no patch)",
        "joint": "how many groups does a clip have when all meet all?",
        "rows": "how many rows are there in the whole clip?",
        "time as in the paper": "who meets in time attention, and how many such groups are there?",
    }
    hints = {key: f"{hint} (t = {t}, h = {h}, w = {w})" for key, hint in hints.items()}
    check_answers(answers, right, hints)


def _class_update(patches, cls, attention, pattern, order="(b g)", how="mean", where="cat"):
    """The update of a step with class token, and of its usual mistakes."""
    b, t, h, w, d = patches.shape
    tokens = rearrange(patches, f"b t h w d -> {pattern} d")
    g = len(tokens) // b
    copies = repeat(cls, f"b d -> {order} 1 d", g=g)
    if where == "zero":
        copies = torch.zeros_like(copies)
    parts = [tokens, copies] if where == "end" else [copies, tokens]
    tokens = attention(torch.cat(parts, dim=1))
    if where == "end and back":
        tokens = attention(torch.cat([parts[1], parts[0]], dim=1)).roll(1, 1)
    back = rearrange(tokens[:, 1:], f"{pattern} d -> b t h w d", b=b, t=t, h=h, w=w)
    copies = rearrange(tokens[:, 0], f"{order} d -> b g d", b=b)
    if how == "first":
        return back, copies[:, 0]
    if how == "patches":
        return back, reduce(back, "b t h w d -> b d", "mean")
    return back, reduce(copies, "b g d -> b d", how)


def _check_class_update(update, pattern, seed, wrong_patterns):
    b, t, h, w = sizes(4, seed, of=(2, 3, 4, 5))
    d = 3
    patches, cls = noise(b, t, h, w, d, seed=seed), noise(b, d, seed=seed + 1)
    attention = _mixing(seed, d)
    right = _class_update(patches, cls, attention, pattern)
    seen = []

    def watched(tokens):
        seen.append(tokens)
        return attention(tokens)

    found = untouched(update, patches, cls, watched)
    assert not isinstance(found, torch.Tensor), (
        "return two things, what is added to the patches and what is added to the class token; you return one tensor"
    )
    found = unpack(found, "the patches", "the class token")
    n = right[0][0].numel() // d // (len(rearrange(patches, f"b t h w d -> {pattern} d")) // b)
    if len(seen) == 1:
        assert seen[0].shape[1] == 1 + n, (
            f"attention got groups of {seen[0].shape[1]} tokens; a group is 1 class token and {n} patches"
        )
    mistakes = {
        "the class token's copies are in the wrong order: clip slow, group fast, like the patches; now clips are mixed":
            _class_update(patches, cls, attention, pattern, order="(g b)"),
        "the class token does not take part: the patches see nothing of it":
            _class_update(patches, cls, attention, pattern, where="zero"),
        "the copies belong in front of the patches, not behind them":
            _class_update(patches, cls, attention, pattern, where="end and back"),
        "the copies belong in front of the patches": _class_update(patches, cls, attention, pattern, where="end"),
    } | {
        message: _class_update(patches, cls, attention, other) for message, other in wrong_patterns.items()
    }  # fmt: skip
    wrong = {message: value[0] for message, value in mistakes.items()}
    wrong["return what the step adds, without the patches themselves"] = right[0] + patches
    diagnose(found[0], right[0], wrong, "what is added to the patches")
    wrong = {
        "keep all copies, not only the first group's":
            _class_update(patches, cls, attention, pattern, how="first")[1],
        "the copies are averaged, not summed": _class_update(patches, cls, attention, pattern, how="sum")[1],
        "average the copies of the class token, not the patches":
            _class_update(patches, cls, attention, pattern, how="patches")[1],
        "return what the step adds, without the class token itself": right[1] + cls,
    } | {message: value[1] for message, value in mistakes.items()}  # fmt: skip
    diagnose(found[1], right[1], wrong, "what is added to the class token",
             "average each clip's copies, and only those")  # fmt: skip


def check_space_update(update, seed=0):
    """`update(patches, cls, attention)` is what a space step with class token adds."""
    wrong = {
        "those groups hold one place in all frames; space attention stays in the frame": "(b h w) t"
    }
    _check_class_update(update, "(b t) (h w)", seed, wrong)


def check_paper_time_update(update, seed=0):
    """`update(patches, cls, attention)` is what a time step with class token, as in the paper, adds."""
    wrong = {
        "those groups hold the patches of one frame; time attention stays in place": "(b t) (h w)"
    }
    _check_class_update(update, "(b h w) t", seed, wrong)


def check_clips_are_apart(clips_are_apart, broken_update, seed=0):
    """`clips_are_apart(update)` finds updates in which one clip influences another."""

    def good(patches, cls, attention):
        return _class_update(patches, cls, attention, "(b t) (h w)")

    def only_patches_mixed(patches, cls, attention):
        update, copies = good(patches, cls, attention)
        return update + patches.mean(0, keepdim=True), copies

    def only_class_mixed(patches, cls, attention):
        update, copies = good(patches, cls, attention)
        return update, copies + cls.mean(0, keepdim=True)

    def only_last_frame_mixed(patches, cls, attention):
        update, copies = good(patches, cls, attention)
        others = patches.roll(1, 0)[:, -1:]
        return torch.cat([update[:, :-1], update[:, -1:] + others], dim=1), copies

    def only_the_first_is_mixed(patches, cls, attention):  # the second clip goes its own way
        update, copies = good(patches, cls, attention)
        return (
            torch.cat([update[:1] + patches.roll(-1, 0)[:1], update[1:]]),
            torch.cat([copies[:1] + cls.roll(-1, 0)[:1], copies[1:]]),
        )

    def verdict(update):
        found = clips_are_apart(update)
        assert found is not None, "nothing is returned; return True or False"
        return bool(found)

    assert verdict(good), (
        "your test rejects a correct update: does it look at the clip that was left as it was, "
        "and is your attention the same in both runs?"
    )
    assert verdict(lambda p, c, a: (0 * p, 0 * c)), (
        "your test rejects an update that adds nothing, and so mixes nothing: compare the first clip's results of "
        "two runs, not an update with another one"
    )
    assert not verdict(broken_update), (
        "your test accepts broken_update. Change the second clip by random numbers, its patches and its class "
        "token, and compare both of the first clip; take several frames, and an attention that mixes the tokens of a group"
    )
    assert not verdict(only_class_mixed), (
        "your test accepts an update that mixes the clips' class tokens: change the second clip's, "
        "and compare the first clip's"
    )
    assert not verdict(only_patches_mixed), (
        "your test accepts an update that mixes the clips' patches: change the second clip's, "
        "and compare the first clip's"
    )
    assert not verdict(only_last_frame_mixed), (
        "your test accepts an update that mixes the clips in their last frame only: compare all frames"
    )
    assert not verdict(only_the_first_is_mixed), (
        "your test accepts an update whose first clip depends on the second: change the *second* clip, "
        "and compare the *first* one's results"
    )


def check_assembled_block(space_step, divided_block, seed=0):
    """`space_step(dim, heads)` and `divided_block(dim, heads)` are modules: patches, class token -> both.

    They are compared with the course's block, which gets their weights. They are given a right `space_update`.
    """

    def space_update(patches, cls, attention):
        return _class_update(patches, cls, attention, "(b t) (h w)")

    with borrowed(space_step.forward, space_update=space_update):
        _check_assembled_block(space_step, divided_block, seed)


@torch.no_grad()
def _check_assembled_block(space_step, divided_block, seed):
    b, t, h, w = sizes(4, seed, of=(2, 3, 4, 5))
    dim, heads = (6, 8, 12)[seed % 3], 2
    torch.manual_seed(seed)
    patches, cls = noise(b, t, h, w, dim, seed=seed), noise(b, dim, seed=seed + 1)

    step = space_step(dim, heads)
    for parameter in step.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    assert isinstance(getattr(step, "attention", None), PreNorm), (
        "SpaceStep should keep PreNorm(dim, Attention(dim, heads)) as self.attention"
    )
    reference = AttentionStep(dim, heads, Step("(b t) (h w)"))
    _match(step.attention, reference.attention, "SpaceStep's attention")
    right = reference(patches, cls)
    found = unpack(untouched(step, patches, cls), "the patches", "the class token")
    for name, ours, theirs, came in zip(("patches", "class token"), right, found, (patches, cls)):
        part = name == "class token"
        unnormed = _class_update(patches, cls, step.attention.fn, "(b t) (h w)")[part]
        twice = _class_update(F.layer_norm(patches, (dim,)), F.layer_norm(cls, (dim,)), step.attention, "(b t) (h w)")[part]  # fmt: skip
        mixed = _class_update(patches, cls, step.attention, "(b t) (h w)", order="(g b)")[part]
        wrong = {
            f"SpaceStep: the skip connection of the {name} is missing": ours - came,
            f"SpaceStep: what the step found out is not added to the {name}": came,
            "SpaceStep: the norm is missing; self.attention has it, self.attention.fn has not": came
            + unnormed,
            f"SpaceStep: add the {name} as it came in, not normalised": ours
            - came
            + step.attention.norm(came),
            "SpaceStep: the norm is applied twice; self.attention has it": came + twice,
            "SpaceStep: clips are mixed; the copies of the class token are in the wrong order": came
            + mixed,
        }
        diagnose(theirs, ours, wrong, f"SpaceStep's {name}")

    block = divided_block(dim, heads)
    parts = {name: getattr(block, name, None) for name in ("time", "space", "mlp")}
    missing = [name for name, part in parts.items() if part is None]
    assert not missing, f"DividedBlock has no self.{missing[0]}; keep the three given parts"
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    course = Block(dim, heads, SCHEMES["divided"])
    _match(block.time, course.steps[0], "DividedBlock's time step")
    _match(block.space.attention, course.steps[1].attention, "DividedBlock's space step")
    _match(block.mlp, course.feed_forward, "DividedBlock's MLP")
    time, space, mlp = course.steps[0], course.steps[1], course.feed_forward

    def finish(x, c):
        return x + mlp(x), c + mlp(c)

    x, c = space(*time(patches, cls))
    beside = time(patches, cls)[0] + space(patches, cls)[0] - patches, space(patches, cls)[1]
    mistakes = {
        "time comes first, then space": finish(*time(*space(patches, cls))),
        "the steps run side by side on what came in; space should see what time has made of it": finish(*beside),
        "all three run side by side on what came in; each should see what the one before has made of it":
            (beside[0] + mlp(patches), beside[1] + mlp(cls)),
        "the MLP's skip connection is missing": (mlp(x), mlp(c)),
        "the MLP is missing": (x, c),
        "the class token goes through the MLP too": (x + mlp(x), c),
        "the patches go through the MLP too": (x, c + mlp(c)),
        "the time step is missing": finish(*space(patches, cls)),
        "the space step is missing": finish(*time(patches, cls)),
        "the time step has its skip connection inside: you add the patches twice": finish(*space(patches + time(patches, cls)[0], cls)),
        "the space step has its skip connection inside: you add the patches twice": finish(x + time(patches, cls)[0], c),
        "the class token from before the space step went into the MLP": (x + mlp(x), cls + mlp(cls)),
    }  # fmt: skip
    found = unpack(untouched(block, patches, cls), "the patches", "the class token")
    for part, name in enumerate(("patches", "class token")):
        wrong = {message: value[part] for message, value in mistakes.items()}
        if part:  # the patches were right, so they went through it
            del wrong["the MLP is missing"]
        diagnose(found[part], finish(x, c)[part], wrong, f"DividedBlock's {name}")
    hint = "the block computes the right numbers, but cannot be trained: x = x + y makes a new tensor, x += y does not"
    with torch.enable_grad(), explained(hint, RuntimeError):
        x, c = block(patches, cls)
        (x.sum() + c.sum()).backward()
    asleep = [name for name, parameter in block.named_parameters() if parameter.grad is None]
    assert not asleep, f"no gradient comes to {asleep[0]}: no detach, no no_grad"


def _match(part, reference, name):
    """Give the course's part the weights of the learner's; AssertionError when they do not fit."""
    try:
        reference.load_state_dict(part.state_dict())
    except (RuntimeError, AttributeError) as error:
        raise AssertionError(f"{name} has other weights than the course's: {error}") from error


def check_asleep(asleep):
    """`asleep()` predicts what a fresh time step does and learns; compared with a measurement."""
    torch.manual_seed(0)
    step = AttentionStep(6, 2, Step("(b h w) t", with_class=False, extra=True))
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1)
    patches, target = noise(1, 3, 2, 2, 6), noise(1, 3, 2, 2, 6, seed=1)
    moved, same = [], []
    for _ in range(2):
        out, _ = step(patches, torch.zeros(1, 6))
        same.append(torch.equal(out, patches))
        optimizer.zero_grad()
        ((out - target) ** 2).sum().backward()
        moved.append(
            [
                bool(layer.weight.grad.abs().max() > 0)
                for layer in (step.project, step.attention.fn.qkv)
            ]
        )
        optimizer.step()
    right = {
        "output": same[0],
        "project learns": moved[0][0],
        "attention learns": moved[0][1],
        "after one step": moved[1][1],
    }
    hints = {
        "output": "zero times anything, plus zero, added to the input",
        "project learns": "the derivative of W·a with respect to W is a, and a is not zero",
        "attention learns": "on its way back, the gradient passes through W, which is zero",
        "after one step": "is W still zero then?",
    }
    check_answers(asleep(), right, hints)
