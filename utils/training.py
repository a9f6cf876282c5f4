"""Training written out: fit, evaluate, predict, and files that bring a model or a run back.

Clips travel as (n, t, height, width, 3) uint8 arrays, labels as (n,) int64; `to_video` turns a
batch of them into what the model takes. Weights and runs are safetensors files: loading one runs
no code.
"""

import functools
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import functional as F
from tqdm.auto import tqdm

from utils.model import TimeSformer
from utils.paths import whole_file

MEAN, STD = 0.45, 0.225  # of the colour channels; the values of the authors' released code


def to_video(clips):
    """Raw frames to model input: (b, t, height, width, 3) uint8 -> (b, t, c, height, width) float32."""
    video = torch.as_tensor(np.ascontiguousarray(clips))
    if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[-1] != 3:
        raise ValueError(f"clips are (b, t, height, width, 3) uint8, got {tuple(video.shape)} {video.dtype}")  # fmt: skip
    return (rearrange(video, "b t height width c -> b t c height width").float() / 255 - MEAN) / STD


@torch.no_grad()
def predict(model, clips, batch_size=100):
    """Class probabilities of each clip: (n, t, height, width, 3) uint8 -> (n, num_classes)."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        batches = [clips[start : start + batch_size] for start in range(0, len(clips), batch_size)]
        return torch.cat([model(to_video(batch).to(device)).softmax(-1).cpu() for batch in batches])
    finally:
        model.train(was_training)


def predict_views(model, views, batch_size=100):
    """Class probabilities averaged over several views of the same clips: a list of clip arrays."""
    return sum(predict(model, view, batch_size) for view in views) / len(views)


def evaluate(model, data, batch_size=100):
    """Share of clips whose most probable class is the right one. `data` is (clips, labels)."""
    clips, labels = data
    return (predict(model, clips, batch_size).argmax(-1).numpy() == labels).mean().item()


def learning_rate(step, steps, peak, warm_up=0.1):
    """Rise linearly over the first `warm_up` share of the steps, then fall along half a cosine."""
    start = max(1, round(steps * warm_up))
    if step < start:
        return peak * (step + 1) / start
    return peak * 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, steps - start)))


def fit(model, train, test=None, *, epochs, batch_size=32, peak_lr=4e-3, weight_decay=0.05,
        warm_up=0.1, clip_norm=1.0, augment=None, seed=0, checkpoint=None, every=100, progress=True):  # fmt: skip
    """Train `model` on `train` = (clips, labels) with AdamW; returns one dict per epoch.

    Each dict holds epoch, loss and accuracy over the epoch's batches, and test_accuracy if `test`
    is given. `augment(clips, labels, rng)` changes each batch; it may return each clip's labels as
    shares of the classes, (b, num_classes) float32 (the largest then counts for the accuracy). All randomness of a step follows
    from `seed` and the step's number. With `checkpoint` (a file) the run is saved every `every`
    steps and at the end, and continues from there when it is called again: on the same machine it
    ends with the same bits as a run that was never stopped. ValueError when the clips do not fill one
    batch, or the checkpoint belongs to another run; FloatingPointError when the loss is no longer a
    number.
    """
    clips, labels = train
    device = next(model.parameters()).device
    per_epoch = len(clips) // batch_size
    if not per_epoch:
        raise ValueError(f"{len(clips)} clips do not fill one batch of {batch_size}")
    steps = epochs * per_epoch
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, betas=(0.9, 0.99), weight_decay=weight_decay)  # fmt: skip
    run = dict(network=_network(model), epochs=epochs, batch_size=batch_size,
               peak_lr=peak_lr, weight_decay=weight_decay, warm_up=warm_up, clip_norm=clip_norm,
               seed=seed, augment=_name(augment))  # fmt: skip
    gpus = [device] if device.type == "cuda" else []
    first, history, sums = 0, [], [0.0, 0]
    if checkpoint is not None:
        run |= dict(train=_digest(train), test=None if test is None else _digest(test))
        if Path(checkpoint).exists():
            first, history, sums = load_run(checkpoint, model, optimizer, run)

    model.train()
    how = dict(desc="training", unit="step", disable=not progress, leave=False)
    with tqdm(total=steps, initial=first, **how) as bar:
        for step in range(first, steps):
            epoch, position = divmod(step, per_epoch)
            order = np.random.default_rng((seed, epoch)).permutation(len(clips))
            chosen = order[position * batch_size : (position + 1) * batch_size]
            batch, targets = clips[chosen], labels[chosen]
            if augment is not None:
                batch, targets = augment(batch, targets, np.random.default_rng((seed, epoch, position)))  # fmt: skip

            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, peak_lr, warm_up)
            with torch.random.fork_rng(devices=gpus):  # for dropout; the caller's seed is kept
                torch.manual_seed(seed * 1_000_003 + step)
                logits = model(to_video(batch).to(device))
            targets = torch.as_tensor(targets, device=device)
            loss = F.cross_entropy(logits, targets)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss.item()} at step {step}: try a smaller peak_lr than {peak_lr}, and check the clips"
                )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            optimizer.step()

            meant = targets if targets.ndim == 1 else targets.argmax(-1)
            sums = [sums[0] + loss.item(), sums[1] + (logits.argmax(-1) == meant).sum().item()]
            if position == per_epoch - 1:
                row = dict(
                    epoch=epoch + 1,
                    loss=sums[0] / per_epoch,
                    accuracy=sums[1] / (per_epoch * batch_size),
                )
                if test is not None:
                    row["test_accuracy"] = evaluate(model, test)
                history.append(row)
                sums = [0.0, 0]
                bar.set_postfix({name: f"{value:.3f}" for name, value in row.items() if name != "epoch"})  # fmt: skip
            bar.update()
            if checkpoint is not None and ((step + 1) % every == 0 or step + 1 == steps):
                save_run(checkpoint, model, optimizer, run, step + 1, history, sums)
    return history


def _digest(data):
    return [hashlib.sha256(np.ascontiguousarray(part)).hexdigest()[:16] for part in data]


def _network(model):
    """What tells one network from another in a checkpoint: its class, its sizes, what it learns."""
    shapes = [(name, list(tensor.shape)) for name, tensor in model.state_dict().items()]
    learned = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    digest = hashlib.sha256(json.dumps([shapes, learned]).encode()).hexdigest()[:16]
    return dict(kind=type(model).__name__, config=getattr(model, "config", None), weights=digest)


def _name(call):
    """What tells one augmentation from another: a function's name, a partial's with its arguments."""
    if call is None:
        return None
    if isinstance(call, functools.partial):
        return [_name(call.func), repr(call.args), repr(sorted(call.keywords.items()))]
    named = call if hasattr(call, "__qualname__") else type(call)
    return f"{named.__module__}.{named.__qualname__}"


def _save(tensors, path, metadata):
    with whole_file(path) as part:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, metadata)


def save_run(path, model, optimizer, run, step, history, sums):
    """Save everything that `fit` needs to go on: weights, optimiser moments, place, history."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    place = dict(run=run, step=step, history=history, sums=sums)
    _save(tensors, path, {"place": json.dumps(place)})


def load_run(path, model, optimizer, run):
    """Put a saved run back into `model` and `optimizer`; returns its step, history and sums."""
    tensors, metadata = _open(path)
    if "place" not in metadata:
        raise ValueError(f"{path}: holds a model, not a training run to go on with; choose another file name")  # fmt: skip
    place, run = json.loads(metadata["place"]), json.loads(json.dumps(run))  # tuples become lists
    if place["run"] != run:
        names = [n for n in place["run"] | run if place["run"].get(n) != run.get(n)]
        was = {name: place["run"].get(name, "not noted") for name in names}
        raise ValueError(f"{path}: holds another training run (there: {was}); delete it or choose another file")  # fmt: skip
    model.load_state_dict(
        {
            name.removeprefix("model."): tensor
            for name, tensor in tensors.items()
            if name.startswith("model.")
        }
    )
    state = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, field = name.split(".")
            state.setdefault(int(index), {})[field] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})  # fmt: skip
    return place["step"], place["history"], place["sums"]


def in_eight_bits(matrix):
    """A matrix as whole numbers and one scale a row: (rows, columns) -> int8, -127 to 127, and (rows,)."""
    scale = matrix.abs().amax(dim=1).clamp(min=1e-12) / 127
    return (matrix / scale[:, None]).round().to(torch.int8), scale


def save_model(model, path, eight_bits=False, **notes):
    """Save weights, sizes and `notes` (class names, accuracy, …; anything JSON can hold).

    With `eight_bits` matrices are kept `in_eight_bits`, a quarter of the space.
    """
    tensors = model.state_dict()
    if eight_bits:
        for name, matrix in list(tensors.items()):
            if matrix.ndim == 2:
                tensors[name], tensors[f"{name}.scale"] = in_eight_bits(matrix)
    _save(tensors, path, {"config": json.dumps(model.config), "notes": json.dumps(notes)})


def load_model(path):
    """Rebuild a saved TimeSformer: (model in eval mode, notes). Weights kept in half precision or in
    eight bits to save space come back as float32.

    FileNotFoundError when there is no such file, ValueError when it is not one of `save_model`'s.
    """
    tensors, metadata = _open(path)
    if "config" not in metadata:
        raise ValueError(f"{path}: a safetensors file, but not one that save_model wrote")
    for name in [name for name in tensors if name.endswith(".scale")]:
        matrix = name.removesuffix(".scale")
        tensors[matrix] = tensors[matrix].float() * tensors.pop(name)[:, None]
    with torch.device("meta"):  # no weights are drawn: the caller's random numbers stay the same
        model = TimeSformer(**json.loads(metadata["config"]))
    model.load_state_dict(tensors, assign=True)
    return model.float().eval(), json.loads(metadata["notes"])


def _open(path):
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
