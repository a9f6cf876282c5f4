"""Published TimeSformer weights in our model, and ours under the published names.

Two layouts are about: Hugging Face's (`facebook/timesformer-base-finetuned-k400` and its sisters) and that
of the authors' release (`TimeSformer_divST_8x32_224_K400.pyth`). The networks are the same; the names
differ, and so does the shape of what ours keeps as plain vectors. Reading a checkpoint runs no code of it.
"""

import hashlib
import json
import math
import os
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from utils.model import TimeSformer, resize_model

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
    column = ("ours", "hugging face", "authors").index(layout)
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

    Theirs adds a position to the class token; ours has them in one vector, so theirs gets zero. Their
    patches go through a convolution, whose kernel is our matrix in another shape.
    """
    config, ours = model.config, model.state_dict()
    dim, patch_size = config["dim"], config["patch_size"]
    changed = {
        "embedding.cls": torch.zeros(1, 1, dim),
        "embedding.space": torch.cat([ours["embedding.cls"][None], ours["embedding.space"].flatten(0, 1)])[None],
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


def load_published(source, num_frames=None, image_size=None, heads=None):
    """A published checkpoint as our model: (model in eval mode, class names or None).

    `source` is a file (.safetensors, .bin, .pyth), a folder with config.json, or a name on the Hugging
    Face hub, which is downloaded once. Another `num_frames` or `image_size` than the checkpoint's
    interpolates its positions (`resize_model`). `heads` are in no weight: config.json says how many,
    otherwise each has 64 numbers, as in every published model.

    ValueError that names the file for one that is none of these, that wants to run code, or that lacks a
    weight, has one too many or one of another shape; OSError when the hub cannot be reached.
    """
    path, config = Path(source), {}
    if not path.exists():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) or path.suffix in READERS:
            raise ValueError(f"{source}: no such file or folder, and no name on the hub (OWNER/NAME) either")  # fmt: skip
        path = fetch(str(source))
    if path.is_dir():
        path, config = _in_folder(path)
    elif (path.parent / "config.json").exists() and path.suffix != ".pyth":
        config = _read_config(path.parent / "config.json")
    state = _read_weights(path)
    layout = "authors" if any(name.startswith("model.") for name in state) else "hugging face"
    sizes = _sizes(path, state, layout, config, heads)
    if num_frames is not None and sizes["scheme"] == "space":
        sizes["num_frames"] = (
            num_frames  # each frame is for itself: nothing depends on their number
        )

    with torch.device("meta"):  # no weights are drawn: the caller's random numbers stay the same
        model = TimeSformer(**sizes)
    model.load_state_dict(_renamed(path, state, layout, model), assign=True)
    model.float().eval()
    wanted = num_frames or sizes["num_frames"], image_size or sizes["image_size"]
    if wanted != (sizes["num_frames"], sizes["image_size"]):
        resize_model(model, num_frames=wanted[0], image_size=wanted[1])
    labels = config.get("id2label")
    return model, labels and tuple(labels[str(k)] for k in range(sizes["num_classes"]))


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
    ours = {name: state[other] for name, other in table.items()}
    cls_place, places = ours["embedding.space"][0, 0], ours["embedding.space"][0, 1:]
    ours["embedding.cls"] = ours["embedding.cls"][0, 0] + cls_place
    ours["embedding.space"] = places.view(model.embedding.space.shape)
    ours["embedding.patches.weight"] = ours["embedding.patches.weight"].flatten(1)
    if "embedding.time" in ours:
        ours["embedding.time"] = ours["embedding.time"][0]
    return {name: weight.contiguous() for name, weight in ours.items()}


def _sizes(path, state, layout, config, heads):
    """The arguments of our TimeSformer, read off the shapes; what no shape tells is in the config."""
    column = ("ours", "hugging face", "authors").index(layout)
    name = {row[0]: row[column] for row in OUTSIDE}
    block = f"{BLOCKS[column]}0."
    try:
        dim, patch_size = state[name["embedding.cls"]].shape[-1], state[name["embedding.patches"] + ".weight"].shape[-1]  # fmt: skip
        places = state[name["embedding.space"]].shape[1] - 1
        hidden = state[f"{block}{MLP[1][column]}.weight"].shape[0]
        num_classes = state[name["head"] + ".weight"].shape[0]
    except KeyError as error:
        raise ValueError(f"{path}: no TimeSformer for classes, for it has no weight {error}") from error  # fmt: skip
    time = state.get(name["embedding.time"])
    scheme = "space" if time is None else "joint"
    if f"{block}{TIME_STEP[0][column]}.weight" in state:
        scheme = "divided"
    numbers = {int(one[len(BLOCKS[column]) :].split(".")[0]) for one in state if one.startswith(BLOCKS[column])}  # fmt: skip
    heads = heads or config.get("num_attention_heads") or max(1, dim // 64)
    side = math.isqrt(places) * patch_size
    frames = config.get("num_frames", 8) if time is None else time.shape[1]
    found = dict(
        image_size=side, patch_size=patch_size, hidden_size=dim, num_hidden_layers=len(numbers),
        intermediate_size=hidden, attention_type=SCHEME_NAMES[scheme], num_frames=frames,
        hidden_act="gelu", qkv_bias=True, layer_norm_eps=1e-6, num_channels=3,
    )  # fmt: skip
    for what, value in found.items():
        if config.get(what, value) != value:
            raise ValueError(f"{path}: config.json has {what} {config[what]!r}; the weights, and what our model can be, say {value!r}")  # fmt: skip
    if hidden % dim:
        raise ValueError(f"{path}: the MLP is {hidden} wide, which is no multiple of {dim}")
    return dict(num_classes=num_classes, image_size=(side, side), num_frames=frames, patch_size=patch_size, dim=dim,
                depth=len(numbers), heads=heads, scheme=scheme, activation="gelu", mult=hidden // dim)  # fmt: skip


def _in_folder(folder):
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder}: no config.json in this folder")
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return folder / name, _read_config(folder / "config.json")
    raise ValueError(f"{folder}: neither model.safetensors nor pytorch_model.bin in this folder")


def _read_config(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error


def _read_pickle(path):
    content = torch.load(path, map_location="cpu", weights_only=True)
    return content.get("model_state", content)  # the authors' files hold the optimiser, too


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
        assert state and all(isinstance(one, torch.Tensor) for one in state.values())
        return state
    except OSError:
        raise
    except (
        SafetensorError,
        RuntimeError,
        EOFError,
        AssertionError,
        AttributeError,
        ValueError,
    ) as error:
        raise ValueError(f"{path}: not a readable file of weights ({str(error).splitlines()[0] if str(error) else 'no tensors in it'})") from error  # fmt: skip
    except Exception as error:  # pickle's own errors have no common ancestor
        raise ValueError(f"{path}: refused, for it holds more than weights and would run code ({type(error).__name__})") from error  # fmt: skip


# From the hub, and frames as the published models want them ---------------------------------------------


def fetch(name, endpoint=None):
    """The folder of a published model, from the hub or from where an earlier download lies.

    `huggingface_hub` shows progress and goes on where a download stopped. OSError when it cannot be had,
    saying what to do, or when a file is not what the hub's checksum says (it is deleted then).
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    def get(file):
        path = Path(hf_hub_download(name, file, endpoint=endpoint))
        blob = Path(os.path.realpath(path))  # in the cache a large file is called by its sha256
        if re.fullmatch(r"[0-9a-f]{64}", blob.name) and _sha256(blob) != blob.name:
            blob.unlink()
            path.unlink(missing_ok=True)
            raise OSError(f"{name}/{file}: the download is damaged (another checksum than the hub's); it is deleted, try again")  # fmt: skip
        return path

    try:
        config = get("config.json")
        try:
            get("model.safetensors")
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):
                raise  # the hub was not asked
            get("pytorch_model.bin")
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise OSError(
            f"{name}: not to be had from the hub, nor downloaded before ({type(error).__name__}). Is the name right, and "
            f"is there a network? Otherwise run `hf download {name} --local-dir FOLDER` where there is one, and give FOLDER instead"
        ) from error  # fmt: skip
    return config.parent


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def published_clip(frames, size=224):
    """Frames as the published models want them: the shorter side scaled to `size`, the middle cut out.

    Shapes: (t, height, width, 3) uint8 -> (t, size, size, 3) uint8; `to_video` does the rest. As
    `transformers.VideoMAEImageProcessor`, which comes with the checkpoints: bilinear, over as many pixels
    as one of the new ones covers.
    """
    height, width = frames.shape[1:3]
    scale = size / min(height, width)
    new = (size, int(width * scale)) if height <= width else (int(height * scale), size)
    top, left = ((side - size) // 2 for side in new)
    box = left, top, left + size, top + size
    images = (Image.fromarray(frame).resize(new[::-1], Image.Resampling.BILINEAR).crop(box) for frame in frames)  # fmt: skip
    return np.stack([np.asarray(image) for image in images])
