"""Published TimeSformer weights in our model, and ours under the published names.

Two layouts are about: Hugging Face's (`facebook/timesformer-base-finetuned-k400` and its sisters) and that
of the authors' release (`TimeSformer_divST_8x32_224_K400.pyth`). The networks are the same; the names
differ, and so does the shape of what ours keeps as plain vectors. Reading a checkpoint runs no code of it.
"""

import hashlib
import json
import math
import os
import pickle
import re
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from statistics import mode

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from utils.model import TimeSformer, as_pair, resize_model

LAYOUTS = "ours", "hugging face", "authors"  # the columns of the tables below
SCHEME_NAMES = {
    "space": "space_only",
    "joint": "joint_space_time",
    "divided": "divided_space_time",
}
# The same things under three names: ours, Hugging Face's, the authors'.
OUTSIDE = (
    ("embedding.cls", "timesformer.embeddings.cls_token", "model.cls_token"),
    ("embedding.space", "timesformer.embeddings.position_embeddings", "model.pos_embed"),
    ("embedding.time", "timesformer.embeddings.time_embeddings", "model.time_embed"),
    ("embedding.patches", "timesformer.embeddings.patch_embeddings.projection", "model.patch_embed.proj"),
    ("norm", "timesformer.layernorm", "model.norm"),
    ("head", "classifier", "model.head"),
)  # fmt: skip
BLOCKS = "blocks.", "timesformer.encoder.layer.", "model.blocks."  # and then the block's number
TIME_STEP = (
    ("steps.0.attention.norm", "temporal_layernorm", "temporal_norm1"),
    ("steps.0.attention.fn.qkv", "temporal_attention.attention.qkv", "temporal_attn.qkv"),
    ("steps.0.attention.fn.out", "temporal_attention.output.dense", "temporal_attn.proj"),
    ("steps.0.project", "temporal_dense", "temporal_fc"),
)
SPACE_STEP = (
    ("steps.1.attention.norm", "layernorm_before", "norm1"),
    ("steps.1.attention.fn.qkv", "attention.attention.qkv", "attn.qkv"),
    ("steps.1.attention.fn.out", "attention.output.dense", "attn.proj"),
)
MLP = (
    ("feed_forward.norm", "layernorm_after", "norm2"),
    ("feed_forward.fn.net.0", "intermediate.dense", "mlp.fc1"),
    ("feed_forward.fn.net.3", "output.dense", "mlp.fc2"),
)
VECTORS = ("embedding.cls", "embedding.space", "embedding.time")  # the rest has a weight and a bias


def names(scheme, depth, layout="hugging face"):
    """Every weight's name in our model -> its name in a published one of `depth` blocks.

    `layout` is "hugging face" or "authors".
    """
    column = LAYOUTS.index(layout)
    found = {
        row[0]: row[column] for row in OUTSIDE if scheme != "space" or row[0] != "embedding.time"
    }
    # Without a time step, attention over patches is a block's first step, and not its second.
    space_step = [(ours.replace("steps.1", "steps.0"), *rest) for ours, *rest in SPACE_STEP]
    steps = [*TIME_STEP, *SPACE_STEP] if scheme == "divided" else space_step
    for block in range(depth):
        for row in (*steps, *MLP):
            found[f"{BLOCKS[0]}{block}.{row[0]}"] = f"{BLOCKS[column]}{block}.{row[column]}"
    return {f"{ours}{end}": f"{theirs}{end}" for ours, theirs in found.items()
            for end in (("",) if ours in VECTORS else (".weight", ".bias"))}  # fmt: skip


# Ours -> published ----------------------------------------------------------------------------------


def published_config(model):
    """The arguments of `transformers.TimesformerConfig` that describe the same network.

    ValueError for a model whose MLP is gated (the published one is plain, "gelu"), for a scheme that
    was never published, and for frames that are not square.
    """
    config = model.config
    if config["scheme"] not in SCHEME_NAMES:
        raise ValueError(f"no published model has the scheme {config['scheme']!r}; there are {', '.join(SCHEME_NAMES)}")  # fmt: skip
    if config["activation"] != "gelu":
        raise ValueError(f'the published MLP is activation="gelu", not {config["activation"]!r}')
    height, width = config["image_size"]
    if height != width:
        raise ValueError(f"the published model takes square frames, not {height} x {width}")
    return dict(
        image_size=height, patch_size=config["patch_size"], num_frames=config["num_frames"],
        hidden_size=config["dim"], num_hidden_layers=config["depth"], num_attention_heads=config["heads"],
        intermediate_size=config["dim"] * config["mult"], attention_type=SCHEME_NAMES[config["scheme"]],
        num_labels=config["num_classes"], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip


def published_state(model, layout="hugging face"):
    """The model's weights as a state dict of `transformers.TimesformerForVideoClassification`, or of the
    authors' model.

    Theirs adds a position to the class token; ours has them in one vector, so each of theirs gets half of
    it (zero for one of them would let a reader pass who forgets it). Their patches go through a
    convolution, whose kernel is our matrix in another shape.
    """
    config, ours = model.config, model.state_dict()
    dim, patch_size = config["dim"], config["patch_size"]
    half = ours["embedding.cls"][None] / 2
    changed = {
        "embedding.cls": half[None],
        "embedding.space": torch.cat([half, ours["embedding.space"].flatten(0, 1)])[None],
        "embedding.patches.weight": ours["embedding.patches.weight"].view(dim, 3, patch_size, patch_size),
    }  # fmt: skip
    if "embedding.time" in ours:
        changed["embedding.time"] = ours["embedding.time"][None]
    table = names(config["scheme"], config["depth"], layout)
    return {table[name]: weight for name, weight in (ours | changed).items()}


def save_published(model, folder, classes):
    """Write a folder that `transformers` (and `load_published`) can read: config.json, model.safetensors."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    labels = {str(number): name for number, name in enumerate(classes)}
    config = published_config(model) | dict(
        model_type="timesformer", architectures=["TimesformerForVideoClassification"], hidden_act="gelu",
        qkv_bias=True, layer_norm_eps=model.norm.eps, id2label=labels, label2id={name: int(n) for n, name in labels.items()},
    )  # fmt: skip
    del config["num_labels"]  # id2label says it
    state = {name: weight.contiguous() for name, weight in published_state(model).items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    # Last: a folder with a config is whole.
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8", newline="\n")  # fmt: skip


# Published -> ours ----------------------------------------------------------------------------------

# What our network always is, and what config.json means by leaving a size out: the paper's model.
FIXED = dict(hidden_act="gelu", qkv_bias=True, layer_norm_eps=1e-6, num_channels=3)
DEFAULT = dict(
    image_size=224, patch_size=16, num_frames=8, hidden_size=768, num_hidden_layers=12,
    num_attention_heads=12, intermediate_size=3072, attention_type="divided_space_time",
)  # fmt: skip
WEIGHT_FILES = "model.safetensors", "pytorch_model.bin"  # the better one first


def load_published(source, num_frames=None, image_size=None, heads=None):
    """A published checkpoint as our model: (model in eval mode, class names or None).

    `source` is a file (.safetensors, .bin, .pyth, .pt), a folder, or a name on the Hugging Face hub,
    which is downloaded once. Hugging Face's config.json, beside the weights, tells the sizes and the
    class names; without it the weights' shapes tell all but `heads`, which are as wide as in every
    published model, 64 numbers, if not given. Another `num_frames` or `image_size` than the
    checkpoint's interpolates its positions (`resize_model`).

    ValueError that names the file for one that is none of these, that wants to run code, or that lacks a
    weight, has one too many or one of another shape; OSError when the hub cannot be reached. Source:
    `transformers`. A space-only model gives the mean of its logits for each frame; the authors' code
    takes the mean before the last norm, which is not the same.
    """
    path = _weights_file(source)
    state = _read_weights(path)
    layout = "authors" if any(name.startswith("model.") for name in state) else "hugging face"
    beside = path.with_name("config.json")
    if layout == "hugging face" and beside.exists():
        config = _read_config(beside)
        sizes = _sizes_of_config(path, config, heads)
    else:
        config, sizes = {}, _sizes_of_shapes(path, state, layout, heads)
    sizes["num_classes"] = _length(path, state, names("space", 0, layout)["head.weight"], 0)

    try:
        with torch.device("meta"):  # draws no weights: the caller's random numbers stay the same
            model = TimeSformer(**sizes, activation="gelu")
    except ValueError as error:  # sizes that do not go together
        raise ValueError(f"{path}: {error}") from error
    model.load_state_dict(_renamed(path, state, layout, model), assign=True)
    model.eval()
    size = as_pair(image_size or model.config["image_size"])
    frames = num_frames or model.config["num_frames"]
    if (size, frames) != (model.config["image_size"], model.config["num_frames"]):
        resize_model(model, size, frames)
    return model, _class_names(path, config, sizes["num_classes"])


def _renamed(path, state, layout, model):
    """The checkpoint's weights under our names and in our shapes, every one of them accounted for."""
    table = names(model.config["scheme"], model.config["depth"], layout)
    theirs = published_state(model, layout)  # on the meta device: shapes, and no numbers
    if missing := sorted(theirs.keys() - state.keys()):
        raise ValueError(f"{path}: {len(missing)} weights are missing, as {missing[0]!r}")
    if odd := sorted(state.keys() - theirs.keys()):
        raise ValueError(f"{path}: {len(odd)} weights have no place in our model, as {odd[0]!r}")
    for name, weight in theirs.items():
        if state[name].shape != weight.shape:
            raise ValueError(f"{path}: {name!r} has the shape {tuple(state[name].shape)}, and not {tuple(weight.shape)}")  # fmt: skip
    ours = {name: state[other].float() for name, other in table.items()}
    cls_place, places = ours["embedding.space"][0, 0], ours["embedding.space"][0, 1:]
    ours["embedding.cls"] = ours["embedding.cls"][0, 0] + cls_place
    ours["embedding.space"] = places.view(model.embedding.space.shape)
    ours["embedding.patches.weight"] = ours["embedding.patches.weight"].flatten(1)
    if "embedding.time" in ours:
        ours["embedding.time"] = ours["embedding.time"][0]
    return {name: weight.contiguous() for name, weight in ours.items()}


def _sizes_of_config(path, config, heads):
    """The arguments of our TimeSformer that config.json asks for, `num_classes` aside."""
    config = DEFAULT | FIXED | config
    for name, value in FIXED.items():
        if config[name] != value:
            raise ValueError(f"{path}: config.json has {name} {config[name]!r}, and our model {value!r}")  # fmt: skip
    schemes = {theirs: ours for ours, theirs in SCHEME_NAMES.items()}
    if config["attention_type"] not in schemes:
        raise ValueError(f"{path}: config.json has attention_type {config['attention_type']!r}; there are {', '.join(schemes)}")  # fmt: skip
    dim, hidden = config["hidden_size"], config["intermediate_size"]
    if hidden % dim:
        raise ValueError(f"{path}: config.json has intermediate_size {hidden}, no multiple of hidden_size {dim}")  # fmt: skip
    return dict(
        image_size=config["image_size"], num_frames=config["num_frames"], patch_size=config["patch_size"],
        dim=dim, depth=config["num_hidden_layers"], heads=heads or config["num_attention_heads"],
        scheme=schemes[config["attention_type"]], mult=hidden // dim,
    )  # fmt: skip


def _sizes_of_shapes(path, state, layout, heads):
    """The same, read off the shapes."""
    table = names("divided", 1, layout)  # a block and what is around it
    patch_size = _length(path, state, table["embedding.patches.weight"], 3)
    places = _length(path, state, table["embedding.space"], 1) - 1  # without the class token's
    # The width that most weights have: a single one of another width is then named by itself.
    dim = mode(weight.shape[-1] for weight in state.values() if weight.ndim)
    if heads is None and dim % 64:
        raise ValueError(f"{path}: how many heads? No weight tells, and 64 numbers each do not divide {dim}; give heads=…")  # fmt: skip
    scheme = "joint" if table["embedding.time"] in state else "space"
    if any("temporal_" in name for name in state):
        scheme = "divided"
    frames = DEFAULT["num_frames"] if scheme == "space" else _length(path, state, table["embedding.time"], 1)  # fmt: skip
    wide = table["blocks.0.feed_forward.fn.net.0.weight"]
    hidden = _length(path, state, wide, 0)
    if hidden % dim:
        raise ValueError(f"{path}: {wide!r} makes the MLP {hidden} wide, no multiple of {dim}")
    before = BLOCKS[LAYOUTS.index(layout)]
    numbers = {name.removeprefix(before).split(".")[0] for name in state if name.startswith(before)}
    return dict(
        image_size=math.isqrt(places) * patch_size, num_frames=frames, patch_size=patch_size, dim=dim,
        depth=len(numbers), heads=heads or dim // 64, scheme=scheme, mult=hidden // dim,
    )  # fmt: skip


def _length(path, state, name, axis):
    """How long an axis of a weight is. ValueError that names it, where it or the axis is missing."""
    if name not in state:
        raise ValueError(f"{path}: no TimeSformer for classes, for it has no weight {name!r}")
    if state[name].ndim <= axis:
        raise ValueError(f"{path}: {name!r} has the shape {tuple(state[name].shape)}, and too few axes")  # fmt: skip
    return state[name].shape[axis]


def _class_names(path, config, num_classes):
    """The names of config.json in the order of the head's rows, or None."""
    labels = config.get("id2label")
    if labels is None:
        return None
    if labels.keys() != {str(number) for number in range(num_classes)}:
        raise ValueError(f"{path}: config.json names {len(labels)} classes, not those of a head for {num_classes}")  # fmt: skip
    return tuple(labels[str(number)] for number in range(num_classes))


def _weights_file(source):
    """The file of weights that `source` means: itself, one in the folder, or one from the hub."""
    path = Path(source)
    if not path.exists():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) or path.suffix in READERS:
            raise ValueError(f"{source}: no such file or folder, and no name on the hub (OWNER/NAME) either")  # fmt: skip
        path = fetch(str(source))
    if not path.is_dir():
        return path
    for name in WEIGHT_FILES:
        if (path / name).exists():
            return path / name
    raise ValueError(f"{path}: neither {' nor '.join(WEIGHT_FILES)} in this folder")


def _read_config(path):
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(config, dict) or not config:
        raise ValueError(f"{path}: describes no model")
    return config


def _read_pickle(path):
    content = torch.load(path, map_location="cpu", weights_only=True)
    # The authors' files hold the optimiser, too.
    return content.get("model_state", content) if isinstance(content, dict) else content


READERS = {
    ".safetensors": load_file,
    ".bin": _read_pickle,
    ".pyth": _read_pickle,
    ".pt": _read_pickle,
}


def _read_weights(path):
    """Name -> tensor. A pickle may hold code: `weights_only` refuses to run any."""
    if path.suffix not in READERS:
        raise ValueError(f"{path}: weights end in {', '.join(READERS)}")
    try:
        state = READERS[path.suffix](path)
    except OSError:
        raise
    except Exception as error:  # what a damaged file ends in is not foreseeable
        if isinstance(error, pickle.UnpicklingError):
            program = re.search(r"GLOBAL (\S+)", str(error))  # torch names it, if it got so far
            asks = f" (it asks for {program[1]})" if program else ""
            raise ValueError(f"{path}: refused, for it is no file of weights, or might run code when it is opened{asks}") from error  # fmt: skip
        raise ValueError(f"{path}: not a readable file of weights ({type(error).__name__}); is it whole?") from error  # fmt: skip
    if not isinstance(state, dict) or not state or not all(isinstance(one, torch.Tensor) for one in state.values()):  # fmt: skip
        raise ValueError(f"{path}: not a file of weights, for it holds other things than named tensors")  # fmt: skip
    return state


# From the hub, and frames as the published models want them ---------------------------------------------


def fetch(name, endpoint=None):
    """The folder of a published model, from the hub or from where an earlier download lies.

    `huggingface_hub` shows progress, and goes on where the connection broke. OSError when it cannot be
    had, saying what to do, or when a file is not what the hub's checksum says (it is deleted then);
    ModuleNotFoundError without that package.
    """
    if find_spec("huggingface_hub") is None:
        raise ModuleNotFoundError(f'{name}: what is on the hub comes with huggingface_hub: pip install -e ".[published]"')  # fmt: skip
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    def get(file):
        return Path(hf_hub_download(name, file, endpoint=endpoint))

    better, other = WEIGHT_FILES
    try:
        folder, weights = get("config.json").parent, None
        # The older checkpoints have a pickle only. The cache knows; then it works without a network, too.
        if try_to_load_from_cache(name, better) is not _CACHED_NO_EXIST:
            with suppress(EntryNotFoundError):
                weights = get(better)
        weights = weights or get(other)
    except (
        Exception
    ) as error:  # the hub client's, its HTTP library's (they changed it twice), the disk's
        raise OSError(
            f"{name}: not to be had from the hub, nor downloaded before ({type(error).__name__}). Is the name right, and "
            f"is there a network? Otherwise run `hf download {name} --local-dir FOLDER` where there is one, and give FOLDER instead"
        ) from error  # fmt: skip
    _verify(weights)
    return folder


def _verify(path):
    """Delete a damaged file from the hub's cache, where a large file links to one named by its sha256.

    OSError then. The link is followed one step only: what it leads to may be another link, to a store
    that goes by other checksums. A cache without links (Windows) has no names to compare with.
    """
    if not path.is_symlink():
        return
    blob = path.parent / os.readlink(path)
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name) and found != blob.name:
        for place in (path.resolve(), blob, path):
            place.unlink(missing_ok=True)
        raise OSError(f"{path}: the download is damaged (another checksum than the hub's); it is deleted, try again")  # fmt: skip


def published_clip(frames, size=224):
    """Frames as the published models want them: the shorter side scaled to `size`, the middle cut out.

    Shapes: (t, height, width, 3) uint8 -> (t, size, size, 3) uint8; `to_video` does the rest. As
    `transformers.VideoMAEImageProcessor`, which comes with the checkpoints: bilinear, over as many pixels
    as one of the new ones covers.
    """
    sides = frames.shape[1:3]
    height, width = (side * size // min(sides) for side in sides)
    top, left = (height - size) // 2, (width - size) // 2
    box = left, top, left + size, top + size
    images = (Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR).crop(box) for frame in frames)  # fmt: skip
    return np.stack([np.asarray(image) for image in images])
