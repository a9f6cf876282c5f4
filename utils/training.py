"""Training written out: fit, evaluate, predict, and files that bring a model or a run back.

Clips travel as (n, t, height, width, 3) uint8 arrays, labels as (n,) int64; `to_video` turns a
batch of them into what the model takes. Weights and runs are safetensors files: loading one runs
no code.
"""

import functools
import hashlib
import json
import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from utils.model import TimeSformer
from utils.paths import whole_file

MEAN, STD = 0.45, 0.225  # of the colour channels; the values of the authors' released code


def to_video(clips):
    """Raw frames to model input: (b, t, height, width, 3) uint8 -> (b, t, c, height, width) float32."""
    video = (
        clips if isinstance(clips, torch.Tensor) else torch.as_tensor(np.ascontiguousarray(clips))
    )
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


def evaluate(model, data, batch_size=100, accelerator=None):
    """Share of clips whose most probable class is the right one. `data` as in `fit`.

    Where several processes ask together, each takes its part, and every clip counts once.
    """
    source, accelerator = as_source(data), accelerator or Alone()
    mine = np.arange(len(source))[accelerator.process_index :: accelerator.num_processes]
    right = 0
    for start in range(0, len(mine), batch_size):
        clips, labels = source.read(mine[start : start + batch_size])
        right += (predict(model, clips).argmax(-1).numpy() == labels).sum().item()
    return accelerator.reduce(_counts(model, right), "sum")[0].item() / len(source)


def learning_rate(step, steps, peak, warm_up=0.1):
    """Rise linearly over the first `warm_up` share of the steps, then fall along half a cosine."""
    start = max(1, round(steps * warm_up))
    if step < start:
        return peak * (step + 1) / start
    return peak * 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, steps - start)))


def adamw(model, lr, weight_decay):
    """What `fit` trains with, unless told otherwise."""
    return torch.optim.AdamW(model.parameters(), lr, (0.9, 0.99), weight_decay=weight_decay)


class InMemory:
    """Clips that are arrays, as `fit` asks for them; another source has the same four methods.

    `read(indices)` gives clips and labels as they are; `source[epoch, position, chosen, part]` the clips
    `chosen` for a step, augmented, and of those only `part`, a slice: what one of many processes trains on.
    """

    def __init__(self, clips, labels, augment=None, seed=0):
        self.clips, self.labels, self.augment, self.seed = clips, labels, augment, seed

    def __len__(self):
        return len(self.clips)

    def read(self, indices):
        return self.clips[indices], self.labels[indices]

    def __getitem__(self, key):
        epoch, position, chosen, part = key
        batch, targets = self.read(chosen)
        if self.augment is not None:
            rng = np.random.default_rng((self.seed, epoch, position))
            batch, targets = self.augment(batch, targets, rng)
        return batch[part], targets[part]

    def fingerprint(self):
        """What tells these clips from others in a checkpoint."""
        return _digest((self.clips, self.labels))


def as_source(data, augment=None, seed=0):
    """(clips, labels) as a source of batches; a source stays what it is."""
    return InMemory(*data, augment, seed) if isinstance(data, (tuple, list)) else data


class Alone:
    """What `fit` asks of the machine, where one process trains on one device.

    The names are those of `accelerate.Accelerator`: with one of these in its place the same loop trains
    in many processes (lesson 16).
    """

    process_index, num_processes, is_main_process, scaler = 0, 1, True, None

    def prepare(self, *parts):
        return parts

    def autocast(self):
        return nullcontext()

    def no_sync(self, model):
        return nullcontext()

    def backward(self, loss):
        loss.backward()

    def clip_grad_norm_(self, parameters, max_norm):
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)

    def reduce(self, tensor, reduction):
        return tensor


def fit(model, train, test=None, *, epochs, batch_size=32, peak_lr=4e-3, weight_decay=0.05,
        warm_up=0.1, clip_norm=1.0, augment=None, seed=0, checkpoint=None, every=100, progress=True,
        keep_last=False, accumulate=1, workers=0, accelerator=None, log=None, patience=None, optimizer=None):  # fmt: skip
    """Train `model` on `train` = (clips, labels) with AdamW; returns one dict per epoch.

    Each dict holds epoch, loss and accuracy over the epoch's batches, and test_accuracy if `test`
    is given. `augment(clips, labels, rng)` changes each batch; it may return each clip's labels as
    shares of the classes, (b, num_classes) float32 (the largest then counts for the accuracy). All
    randomness of a step follows from `seed` and the step's number. With `checkpoint` (a file) the run is
    saved every `every` steps and at the end, and continues from there when it is called again: on the
    same machine it ends with the same bits as a run that was never stopped.

    For larger things (lesson 16): `train` and `test` may be sources that read clips when they are
    needed (see `InMemory`), and then `workers` processes read ahead; `keep_last` trains on the smaller
    batch at an epoch's end, too; `accumulate` takes each batch in that many parts, one after the other,
    for less memory; an `accelerate.Accelerator` trains in many processes, each on its part of the
    batch, or in mixed precision; `log(step, values)` is told of each step and epoch; the run ends
    early when the accuracy on `test` was not better in the last `patience` epochs than before;
    `optimizer(model, lr, weight_decay)` makes another one than AdamW, such as `utils.muon.Muon`.

    ValueError when the clips do not fill one batch, patience has no `test`, or the checkpoint belongs to
    another run;
    FloatingPointError when the loss is no longer a number.
    """
    source, accelerator = as_source(train, augment, seed), accelerator or Alone()
    per_epoch = math.ceil(len(source) / batch_size) if keep_last else len(source) // batch_size
    if not per_epoch:
        raise ValueError(f"{len(source)} clips do not fill one batch of {batch_size}")
    if patience is not None and (test is None or patience < 1):
        raise ValueError(f"patience is 1 or more epochs, and needs a test; got {patience}, {'a' if test else 'no'} test")  # fmt: skip
    steps = epochs * per_epoch
    run = dict(network=_network(model), epochs=epochs, batch_size=batch_size,
               peak_lr=peak_lr, weight_decay=weight_decay, warm_up=warm_up, clip_norm=clip_norm,
               seed=seed, augment=_name(augment), keep_last=keep_last)  # fmt: skip
    if optimizer is not None:
        run |= dict(optimizer=_name(optimizer))
    optimizer = (optimizer or adamw)(model, peak_lr, weight_decay)
    trained, optimizer = accelerator.prepare(model, optimizer)  # `model` stays the bare one
    device = next(model.parameters()).device
    gpus = [device] if device.type == "cuda" else []
    first, history, sums = 0, [], [0.0, 0, 0]
    if checkpoint is not None:
        run |= dict(train=source.fingerprint(), test=None if test is None else as_source(test).fingerprint())  # fmt: skip
        if Path(checkpoint).exists():
            first, history, sums = load_run(checkpoint, model, optimizer, run, accelerator.scaler)

    enough = _enough(history, patience)
    rank, processes = accelerator.process_index, accelerator.num_processes
    plan = _plan(
        range(steps if enough else first, steps),
        per_epoch,
        batch_size,
        len(source),
        seed,
        rank,
        processes,
    )
    model.train()
    how = dict(desc="training", unit="step", leave=False, disable=not (progress and accelerator.is_main_process))  # fmt: skip
    with tqdm(total=steps, initial=first, **how) as bar:
        for step, (batch, targets) in zip(
            range(first, steps), _batches(source, plan, workers, gpus)
        ):
            epoch, position = divmod(step, per_epoch)
            whole = min(batch_size, len(source) - position * batch_size)
            # A mean over all processes is a mean over all clips only if a smaller part weighs less. One
            # that is left without a clip has got a stranger, which weighs nothing.
            weight = len(batch) * processes / whole if rank < whole else 0.0
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, peak_lr, warm_up)

            optimizer.zero_grad()
            batch, targets = (torch.as_tensor(np.ascontiguousarray(it)) for it in (batch, targets))
            parts = [part for part in range(len(batch)) if part < accumulate]
            loss_sum = right = 0
            with torch.random.fork_rng(devices=gpus):  # for dropout; the caller's seed is kept
                torch.manual_seed((seed * 1_000_003 + step) * processes + rank)
                for part in parts:
                    some = slice(part, None, len(parts))
                    wanted = targets[some].to(device, non_blocking=True)
                    last = part == parts[-1]
                    with nullcontext() if last else accelerator.no_sync(trained):
                        with accelerator.autocast():
                            logits = trained(to_video(batch[some].to(device, non_blocking=True)))
                        loss = F.cross_entropy(logits, wanted)
                        accelerator.backward(loss * (weight * len(wanted) / len(batch)))
                    if weight:
                        meant = wanted if wanted.ndim == 1 else wanted.argmax(-1)
                        loss_sum += loss.detach() * len(wanted)
                        right += (logits.argmax(-1) == meant).sum()
            counts = accelerator.reduce(_counts(model, loss_sum, right), "sum")
            step_loss, right = counts[0].item() / whole, counts[1].item()
            if not math.isfinite(step_loss):
                raise FloatingPointError(
                    f"the loss is {step_loss} at step {step}: try a smaller peak_lr than {peak_lr}, and check the clips"
                )
            accelerator.clip_grad_norm_(model.parameters(), clip_norm)
            optimizer.step()

            sums = [sums[0] + step_loss * whole, sums[1] + right, sums[2] + whole]
            if log is not None and accelerator.is_main_process:
                log(step + 1, dict(loss=step_loss, learning_rate=optimizer.param_groups[0]["lr"]))
            if position == per_epoch - 1:
                row = dict(epoch=epoch + 1, loss=sums[0] / sums[2], accuracy=sums[1] / sums[2])
                if test is not None:
                    row["test_accuracy"] = evaluate(model, test, accelerator=accelerator)
                history.append(row)
                sums = [0.0, 0, 0]
                bar.set_postfix({name: f"{value:.3f}" for name, value in row.items() if name != "epoch"})  # fmt: skip
                if log is not None and accelerator.is_main_process:
                    log(step + 1, {f"epoch {name}": value for name, value in row.items()})
                enough = _enough(history, patience)
            bar.update()
            saves = checkpoint is not None and accelerator.is_main_process
            if saves and ((step + 1) % every == 0 or step + 1 == steps or enough):
                save_run(checkpoint, model, optimizer, run, step + 1, history, sums, accelerator.scaler)  # fmt: skip
            if enough:
                break
    return history


def _enough(history, patience):
    """Whether the best accuracy on `test` is `patience` epochs old, the first of several that are best."""
    if patience is None or not history:
        return False
    shares = [row["test_accuracy"] for row in history]
    return len(shares) - 1 - shares.index(max(shares)) >= patience


class BestEpoch:
    """For `fit(log=…)` with a `test`: keeps the weights of the epoch that was best on it, the first of equals.

    That `test` must not be the clips that judge the model in the end: the best of many epochs is partly
    luck (lesson 14). Afterwards `epoch` is its number and `weights` its state dict. `fit(patience=…)` ends a
    run that does not become better.
    """

    def __init__(self, model):
        self.model = model
        self.epoch, self.accuracy, self.weights = 0, -1.0, None

    def __call__(self, step, values):
        if values.get("epoch test_accuracy", -1.0) > self.accuracy:
            self.epoch, self.accuracy = values["epoch epoch"], values["epoch test_accuracy"]
            self.weights = {
                name: weight.clone() for name, weight in self.model.state_dict().items()
            }


def _plan(steps, per_epoch, batch_size, clips, seed, rank, processes):
    """What each step trains on: (epoch, position in it, the batch's clips, this process's part of them)."""
    for step in steps:
        epoch, position = divmod(step, per_epoch)
        order = np.random.default_rng((seed, epoch)).permutation(clips)
        chosen = order[position * batch_size : (position + 1) * batch_size]
        part = slice(rank, None, processes) if rank < len(chosen) else slice(0, 1)
        yield epoch, position, chosen, part


def _batches(source, plan, workers, gpus):
    """The planned batches, read ahead by `workers` processes, if any."""
    if not workers:
        return map(source.__getitem__, plan)
    how = dict(num_workers=workers, pin_memory=bool(gpus), generator=torch.Generator())
    return iter(DataLoader(source, sampler=plan, batch_size=None, **how))


def _counts(model, *numbers):
    """Numbers as one tensor where processes can add theirs up: on the model's device."""
    device = next(model.parameters()).device
    exact = torch.float32 if device.type == "mps" else torch.float64
    return torch.stack([torch.as_tensor(number, device=device).to(exact) for number in numbers])


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
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        with whole_file(path) as part:
            save_file(tensors, part, metadata)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path}: cannot be written ({error}); what was there before is as it was") from error  # fmt: skip


def save_run(path, model, optimizer, run, step, history, sums, scaler=None):
    """Save everything that `fit` needs to go on: weights, optimiser moments, place, history, and how
    float16 gradients are scaled."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    place = dict(
        run=run, step=step, history=history, sums=sums, scaler=scaler and scaler.state_dict()
    )
    _save(tensors, path, {"place": json.dumps(place)})


def _open_run(path):
    """The tensors of a saved run, and its place."""
    tensors, metadata = _open(path)
    if "place" not in metadata:
        raise ValueError(f"{path}: holds a model, not a training run to go on with; choose another file name")  # fmt: skip
    return tensors, json.loads(metadata["place"])


def saved_step(path):
    """How many steps a saved run has behind it. ValueError when the file holds no run."""
    return _open_run(path)[1]["step"]


def saved_history(path):
    """What `fit` has noted of a saved run's epochs so far. ValueError when the file holds no run."""
    return _open_run(path)[1]["history"]


def load_run(path, model, optimizer, run, scaler=None):
    """Put a saved run back into `model` and `optimizer`; returns its step, history and sums."""
    (tensors, place), run = _open_run(path), json.loads(json.dumps(run))  # tuples become lists
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
    if scaler is not None and place["scaler"]:
        scaler.load_state_dict(place["scaler"])
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
    if Path(path).is_dir():
        raise ValueError(f"{path}: a folder; name the .safetensors file in it")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
