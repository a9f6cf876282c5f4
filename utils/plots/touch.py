"""Pieces that can be touched: a page of plain HTML and JavaScript in the notebook, and a still above it.

The still comes first: GitHub and notebooks that are not trusted show it alone. The page needs no network
and no kernel; it lies in an iframe of its own, so that nothing of it meets the notebook's. Templates and
their style are in utils/touch.
"""

import base64
import html
import io
import json
from pathlib import Path

import numpy as np
from IPython.display import HTML
from PIL import Image as Picture

TEMPLATES = Path(__file__).parents[1] / "touch"


def page(name, data):
    """The template utils/touch/NAME.html with its style and `data` (plain JSON) filled in, as text."""
    text = (TEMPLATES / f"{name}.html").read_text(encoding="utf-8")
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    facts = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    return text.replace("/*STYLE*/", style).replace("/*DATA*/null", facts)


def embed(text, title, height):
    """A page in an iframe, to be displayed; scripts run in it, and nothing else of it gets out."""
    return HTML(f'<iframe title="{html.escape(title)}" srcdoc="{html.escape(text)}" sandbox="allow-scripts" '
                f'style="width: 100%; max-width: 780px; height: {height}px; border: 1px solid #ccc; '
                f'border-radius: 8px"></iframe>')  # fmt: skip


def data_uri(picture, kind="PNG", **how):
    """A picture (height, width, 3) uint8 as a data: address."""
    file = io.BytesIO()
    Picture.fromarray(np.asarray(picture)).save(file, kind, **how)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def packed(model):
    """A model's weights as JSON: matrices as bytes with a scale per row, the rest as float32."""

    def text(array):
        return base64.b64encode(array.tobytes()).decode()

    found = {}
    for name, value in model.state_dict().items():
        value = value.detach().cpu().float().numpy()
        if value.ndim == 2 and name.endswith(".weight"):
            scales = np.maximum(abs(value).max(axis=1), 1e-12).astype("<f4") / 127
            whole = (value / scales[:, None]).round().astype(np.int8)
            found[name] = dict(shape=value.shape, whole=text(whole), scales=text(scales))
        else:
            found[name] = dict(shape=value.shape, plain=text(value.astype("<f4")))
    return found
