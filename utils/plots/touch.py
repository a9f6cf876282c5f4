"""Pieces that can be touched: a page of plain HTML and JavaScript in the notebook, and a still above it.

The still comes first: GitHub and notebooks that are not trusted show it alone. The page needs no network
and no kernel; it lies in an iframe of its own, so that nothing of it meets the notebook's. Templates and
their style are in utils/touch.
"""

import base64
import html
import io
import json
import tempfile
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import HTML, display
from PIL import Image as Picture

from utils import lips
from utils.model import SCHEMES, axis_sizes, fold
from utils.plots.clips import frames as contact_sheet
from utils.plots.maps import spotlight
from utils.plots.style import SPACE, TIME
from utils.rollout import attention_maps
from utils.training import MEAN, STD, in_eight_bits, predict
from utils.video import read_frames, write_video

TEMPLATES = Path(__file__).parents[1] / "touch"


def page(name, data):
    """The template utils/touch/NAME.html with its style and `data` (plain JSON) filled in, as text."""
    text = (TEMPLATES / f"{name}.html").read_text(encoding="utf-8")
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    facts = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    return text.replace("/*STYLE*/", style).replace("/*DATA*/null", facts)


def embed(text, title, height):
    """A page in an iframe, to be displayed; scripts run in it, and nothing else of it gets out."""
    return HTML(f'<div><iframe title="{html.escape(title)}" srcdoc="{html.escape(text)}" sandbox="allow-scripts" '
                f'style="width: 100%; max-width: 780px; height: {height}px; border: 1px solid #ccc; '
                f'border-radius: 8px"></iframe></div>')  # fmt: skip


def data_uri(picture, kind="PNG", **how):
    """A picture (height, width, 3) uint8 as a data: address."""
    file = io.BytesIO()
    Picture.fromarray(np.asarray(picture)).save(file, kind, **how)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def packed(model):
    """A model's weights as JSON: matrices as bytes with a scale per row, the rest as float32."""

    def text(tensor):
        little = tensor.numpy().astype(tensor.numpy().dtype.newbyteorder("<"))
        return base64.b64encode(little.tobytes()).decode()

    found = {}
    for name, value in model.state_dict().items():
        value = value.detach().cpu().float()
        if value.ndim == 2 and name.endswith(".weight"):
            whole, scales = in_eight_bits(value)
            found[name] = dict(shape=value.shape, whole=text(whole), scales=text(scales))
        else:
            found[name] = dict(shape=value.shape, plain=text(value))
    return found


def _after_still(text, title, height):
    """Show the figure that has just been drawn, then the page below it."""
    figure = plt.gcf()
    display(figure)
    plt.close(figure)  # or the notebook shows it once more
    display(embed(text, title, height))


# You against the machine -----------------------------------------------------------------------------


def versus_page(words, probabilities, folder=lips.LIPS, num_frames=16):
    """The page of `versus`, as text."""
    rounds = []
    for word, shares in zip(words, np.asarray(probabilities, dtype=float)):
        possible = lips.GRAMMAR[word.slot]
        shares = shares[[lips.CLASSES.index(one) for one in possible]]
        clip = read_frames(lips.clip_path(word.sentence, folder))
        clip = clip[lips.window(word, len(clip), num_frames)]
        with tempfile.TemporaryDirectory() as place:
            path = Path(place, "word.mp4")
            write_video(path, clip, lips.FPS, codec="vp09")
            video = "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
        rounds.append(dict(video=video, slot=word.slot, words=possible, said=word.word,
                           shares=(shares / shares.sum()).round(4).tolist()))  # fmt: skip
    return page("versus", dict(rounds=rounds))


def versus(words, probabilities, folder=lips.LIPS):
    """A game: a silent mouth says a word; the reader names it, then sees what the model said.

    `words` are of `lips.words`, one round each; `probabilities` (n, 51) are what the model says of them.
    The still shows the first three words without their answers.
    """
    clips = []
    for word in words[:3]:
        clip = read_frames(lips.clip_path(word.sentence, folder))
        clips.append(clip[lips.window(word, len(clip), 8)])
    contact_sheet(clips, [f"{number}, {word.slot}" for number, word in enumerate(words[:3], 1)], numbers=[""] * 8)  # fmt: skip
    _after_still(versus_page(words, probabilities, folder), "You against the machine", 330)


# The model in the page -------------------------------------------------------------------------------


def _shrunk(clips, size):
    """(n, t, height, width, 3) uint8 -> (n, t, size, size, 3), averaged as the page does it."""
    return np.stack([[cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA) for frame in clip] for clip in clips])  # fmt: skip


def model_page(model, clips, classes, paper="#eeeeee"):
    """The page of `model_in_page`, as text."""
    strips = [data_uri(np.concatenate(list(clip), axis=1)) for clip in clips]
    return page("model", dict(config=model.config, mean=MEAN, std=STD, classes=list(classes), weights=packed(model),
                              clips=strips, size=clips.shape[2], paper=paper))  # fmt: skip


def model_in_page(model, clips, classes):
    """The model itself, in JavaScript: reorder, freeze and repaint frames, and it answers at once.

    For scheme "divided" with GEGLU. `clips` (n, t, size, size, 3) uint8, `size` a multiple of what the
    model takes. The weights lie in the page in eight bits. The still shows the first clip as filmed,
    backwards and frozen. ValueError for another scheme or activation.
    """
    if (model.config["scheme"], model.config["activation"]) != ("divided", "geglu"):
        raise ValueError(f"the page knows scheme divided with geglu, not {model.config['scheme']} with {model.config['activation']}")  # fmt: skip
    one = clips[0]
    ways = {"as filmed": one, "backwards": one[::-1], "frozen": one[[0] * len(one)]}
    shares = predict(model, _shrunk(np.stack(list(ways.values())), model.config["image_size"][0]))
    said = [f"{name}:\n{classes[row.argmax()]}, {row.max():.0%}" for name, row in zip(ways, shares)]
    contact_sheet(list(ways.values()), said)
    _after_still(model_page(model, clips, classes), "The model in the page", 450)


# Ask a patch -----------------------------------------------------------------------------------------

STEPS = {  # pattern of a step: what kind it is, and where it may look
    "(b h w) t": ("time", "the same place in every frame"),
    "(b t) (h w)": ("space", "its own frame"),
    "b (t h w)": ("other", "everywhere"),
    "(b i j) (t h w)": ("other", "its quarter of the picture, in every frame"),
    "(b i j k) (t h w)": ("other", "every second row, column and frame"),
    "(b t h) w": ("space", "its own row"),
    "(b t w) h": ("space", "its own column"),
}


def groups_of(step, t, h, w):
    """Which group each patch is in: a list of t * h * w numbers."""
    folded = fold(torch.arange(t * h * w).view(1, t, h, w, 1), step)[..., 0]
    number = torch.empty(t * h * w, dtype=torch.long)
    for group, members in enumerate(folded):
        number[members] = group
    return number.tolist()


def _schemes(names, t, h, w):
    found = []
    for name in names:
        steps = []
        for step in SCHEMES[name]:
            axis_sizes(step, t, h, w)  # ValueError: this scheme cannot split such a clip
            kind, label = STEPS[step.pattern]
            steps.append(dict(kind=kind, label=label, groups=groups_of(step, t, h, w)))
        found.append(dict(name=name, steps=steps))
    return found


def _as_bytes(weights):
    return base64.b64encode(
        (255 * weights).round().to(torch.uint8).cpu().numpy().tobytes()
    ).decode()


def ask_page(clip, grid, schemes, asked, first=0, maps=None, modes=("may",)):
    """The page of `ask_a_patch`, as text; `maps` are `attention_maps` of the first scheme's model."""
    t, (h, w) = len(clip), grid
    side = 24  # pixels of a patch in the page, which shows it twice as large
    large = [
        cv2.resize(frame, (w * side, h * side), interpolation=cv2.INTER_CUBIC) for frame in clip
    ]
    facts = dict(t=t, h=h, w=w, patch=side, scale=2, first=first, asked=asked, modes=modes,
                 schemes=_schemes(schemes, t, h, w), heads=maps[0][0].shape[1] if maps else 0,
                 picture=data_uri(np.concatenate(large, axis=1), "JPEG", quality=88))  # fmt: skip
    if maps:
        steps = SCHEMES[schemes[0]]
        facts["blocks"] = [
            [
                dict(cls=step.with_class, data=_as_bytes(weights))
                for step, weights in zip(steps, block)
            ]
            for block in maps
        ]
    return page("attention", facts)


def _shares(weights, step, asked, grid):
    """What one patch looks at, the heads one by one: (heads, t, h, w)."""
    t, h, w = grid
    groups = np.array(groups_of(step, t, h, w))
    place = np.ravel_multi_index(asked, grid)
    members = np.flatnonzero(groups == groups[place])
    shares = np.zeros((weights.shape[1], t * h * w))
    cls = int(step.with_class)
    row = weights[groups[place], :, cls + list(members).index(place), cls:]
    shares[:, members] = row.cpu().numpy()
    return shares.reshape(-1, t, h, w)


def ask_a_patch(clip, grid, schemes=("divided",), asked=(0, 0, 0), first=0, model=None, seen=None):
    """Click a patch: where may it look, and where does it look?

    `clip` (t, height, width, 3) uint8 is shown, cut into `grid` = (rows, columns); `schemes` are names of
    SCHEMES to choose from; `asked` is the patch (frame, row, column) that is asked first; `first` is the
    number of the first frame. With a `model` of the first scheme, `seen` is the same clip as the model
    takes it, uint8, and the page shows where the model does look, by block, step and head. The still
    shows the first block's first step.
    """
    t, (h, w) = len(clip), grid
    maps = None if model is None else attention_maps(model, seen)
    inks = {"time": TIME, "space": SPACE, "other": "#222222"}
    steps = [step for name in schemes for step in SCHEMES[name]]
    if maps is None:
        panels, colour = {}, [inks[STEPS[step.pattern][0]] for step in steps]
        for name in schemes:
            for step in SCHEMES[name]:
                groups = np.array(groups_of(step, t, h, w))
                group = groups == groups[np.ravel_multi_index(asked, (t, h, w))]
                panels[f"{name}:\n{STEPS[step.pattern][1]}"] = asked, (group / group.sum()).reshape(t, h, w)  # fmt: skip
    else:
        shares, colour = _shares(maps[0][0], steps[0], asked, (t, h, w)), inks[STEPS[steps[0].pattern][0]]  # fmt: skip
        panels = {f"head {head}": (asked, share) for head, share in enumerate(shares)}
    side = 24
    large = np.stack([cv2.resize(frame, (w * side, h * side), interpolation=cv2.INTER_CUBIC) for frame in clip])  # fmt: skip
    spotlight(large, panels, colour, numbers=range(first, first + t), percent=maps is not None)
    modes = ("may",) if maps is None else ("does", "may")
    _after_still(ask_page(clip, grid, schemes, asked, first, maps, modes), "Ask a patch", 440)
