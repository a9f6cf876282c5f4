"""Train on a folder of videos from the command line, in one process or in many.

    python -m utils.train --data FOLDER --out RUN
    accelerate launch --num_processes 4 -m utils.train --data FOLDER --out RUN --precision bf16
    accelerate launch --multi_gpu --num_processes 2 -m utils.train --data FOLDER --out RUN --cpu

(Without GPUs, several processes need --multi_gpu, in spite of its name.)
FOLDER holds a folder per class (see utils/dataset.py), or train/ and validation/ with a folder per class
in each. The loop is `fit` of lesson 11; Accelerate (extra "train") starts the processes and adds up their
gradients. Each process takes its part of every batch, so that the result depends on --batch-size and not
on how many there are. RUN gets run.safetensors (to go on from, with --resume), model.safetensors (for
`load_model`), history.json, validation.csv (its answers), options.toml (for --config) and TensorBoard's logs; with --patience also
best.safetensors, and model.safetensors is the same then. A run that is resumed keeps the options that it
was started with, but for those of speed and memory. Lesson 16 shows how it works.
"""

import hashlib
import importlib
import json
import math
import re
import signal
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from safetensors import SafetensorError, safe_open
from sklearn.model_selection import StratifiedGroupKFold
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import get_worker_info

from utils.dataset import VideoFolder
from utils.model import Attention, TimeSformer, count_parameters, resize_model
from utils.options import SIZES, read_options, same_run, write_options
from utils.paths import write_text
from utils.published import load_published
from utils.training import fit, load_model, predict, save_model, saved_history, saved_step
from utils.video import VideoError


class FolderClips:
    """Some videos of a `VideoFolder` as a source for `fit`: read when they are needed.

    What happens to a clip follows from seed, epoch and the clip's own number, so that it does not matter
    which process reads it. `augment(clips, labels, rng)` gets one clip at a time. With `clips`, what
    `folder.load` gave, nothing is read any more.
    """

    def __init__(self, folder, indices, augment=None, seed=0, clips=None):
        self.folder, self.indices, self.augment = folder, np.asarray(indices), augment
        self.seed, self.clips = seed, clips
        self.labels = np.array(folder.labels)[self.indices]

    def __len__(self):
        return len(self.indices)

    def _clip(self, index):
        return self.folder[index][0] if self.clips is None else self.clips[index]

    def read(self, indices):
        chosen = self.indices[indices]
        if (
            self.clips is not None or get_worker_info() is not None
        ):  # workers share the cores already
            return np.stack([self._clip(index) for index in chosen]), self.labels[indices]
        with ThreadPoolExecutor() as pool:  # decoding lets go of Python's lock
            return np.stack(list(pool.map(self._clip, chosen))), self.labels[indices]

    def __getitem__(self, key):
        epoch, _, chosen, part = key
        self.folder.epoch = epoch  # for sampling="random"
        clips, labels = self.read(chosen[part])
        if self.augment is None:
            return clips, labels
        rngs = [np.random.default_rng((self.seed, epoch, index)) for index in chosen[part]]
        pairs = [
            self.augment(clips[k : k + 1], labels[k : k + 1], rng) for k, rng in enumerate(rngs)
        ]
        return tuple(np.concatenate(side) for side in zip(*pairs))

    def fingerprint(self):
        """What tells these clips from others in a checkpoint: names and sizes of the files, how they are read."""
        folder = self.folder
        paths = [folder.paths[k] for k in self.indices]
        files = [(path.relative_to(folder.root).as_posix(), path.stat().st_size) for path in paths if path.exists()]  # fmt: skip
        how = [folder.classes, folder.num_frames, folder.size, folder.sampling, folder.pad]
        return hashlib.sha256(json.dumps([files, how]).encode()).hexdigest()[:16]


def mirror(clips, labels, rng):
    """Mirror a clip left to right, one time in two. Not for classes that turn with it, such as left and right."""
    return (clips[:, :, :, ::-1] if rng.random() < 0.5 else clips), labels


def split(folder, share, group=None, seed=0):
    """Indices for training and validation: about `share` of each class for validation.

    What `group`, a pattern, finds in a file's name stays on one side: "^[^_]+" the person in
    anna_1.mp4. Without one each file is a group. ValueError where a file has no group, or a class has
    fewer groups than parts.
    """
    groups = [path.stem for path in folder.paths]
    if group is not None:
        try:
            found = [re.search(group, name) for name in groups]
        except re.error as error:
            raise ValueError(f"--group {group}: no regular expression ({error})") from error
        if None in found:
            raise ValueError(f"{folder.paths[found.index(None)]}: the pattern {group!r} finds no group in this name")  # fmt: skip
        groups = [match.group() for match in found]
    parts = round(1 / share)
    for label, name in enumerate(folder.classes):
        there = {one for one, other in zip(groups, folder.labels) if other == label}
        if len(there) < parts:
            raise ValueError(f"{folder.root / name}: {len(there)} groups (people, scenes, files) are too few to keep "
                             f"one in {parts} for validation; give a larger --validation-share, or folders train and validation")  # fmt: skip
    folds = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    return next(folds.split(folder.labels, folder.labels, groups))


def fused_attention(model):
    """Let PyTorch's `scaled_dot_product_attention` compute what `attend` writes out; returns the model.

    It never holds the whole matrix of weights, where the machine has a kernel for that.
    """

    def forward(self, x):
        heads = rearrange(
            F.scaled_dot_product_attention(*self.split(x)), "g heads n d -> g n (heads d)"
        )
        return self.dropout(self.out(heads))

    for module in model.modules():
        if isinstance(module, Attention):
            module.forward = types.MethodType(forward, module)
    return model


def recompute_blocks(model):
    """Gradient checkpointing: keep only what goes into each block, and compute the rest again for the
    backward pass; returns the model. Source: Chen et al. 2016, arXiv 1604.06174."""
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return model


def make_model(given, classes):
    """The model that the options ask for: of a size, from a file of `save_model`, or published weights.

    One that has learned other classes keeps all but its head. Returns (model, whether its head is new).
    """
    torch.manual_seed(given.seed)
    clip = dict(num_frames=given.frames, image_size=given.size)
    if given.model in SIZES:
        return TimeSformer(num_classes=len(classes), scheme=given.scheme, dropout=given.dropout, **clip, **SIZES[given.model]), True  # fmt: skip
    if _of_save_model(given.model):
        model, notes = load_model(given.model)
        known = notes.get("classes")
        model = resize_model(model, **clip)
    else:
        model, known = load_published(given.model, **clip)
    anew = known is None or tuple(known) != tuple(classes)
    if anew:
        model.head = nn.Linear(model.config["dim"], len(classes))
        model.config["num_classes"] = len(classes)
    return model, anew


def _of_save_model(path):
    """Whether the file is one of ours; published weights may end in .safetensors, too."""
    if Path(path).suffix != ".safetensors" or not Path(path).is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return "config" in (file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error


def make_sources(given, accelerator):
    """Where the clips come from: (training source, validation source, classes)."""
    how = dict(num_frames=given.frames, size=given.size, pad=given.pad, seed=given.seed)
    root = Path(given.data)
    pair = [root / "train", root / "validation"]
    if all(folder.is_dir() for folder in pair):
        train = VideoFolder(pair[0], sampling=given.sampling, **how)
        held = VideoFolder(pair[1], classes=train.classes, **how)
    else:
        train = VideoFolder(root, sampling=given.sampling, **how)
        held = train if given.sampling == "uniform" else VideoFolder(root, **how)
    if len(train.classes) == 1:
        raise ValueError(f"{train.root}: one class only ({train.classes[0]}), so there is nothing to tell apart; is this the folder of the class folders?")  # fmt: skip
    if set(train.classes) <= {"train", "test", "val", "valid", "validation"}:
        raise ValueError(f"{train.root}: {' and '.join(train.classes)} would be the classes; call the parts train and validation")  # fmt: skip
    if train.passed_over and accelerator.is_main_process:
        print(f"passed over: {train.told_passed_over()}")
    both = [train] if held is train else [train, held]
    for folder in both if given.skip_unreadable else ():
        for reason in folder.leave_out_unreadable(accelerator.is_main_process).values():
            accelerator.print("left out:", reason)
    if train.root == held.root:
        if given.group is None:
            accelerator.print("each video by itself goes to training or validation; where several show one person or scene, --group keeps them on one side")  # fmt: skip
        chosen = split(train, given.validation_share, given.group, given.seed)
    else:
        chosen = range(len(train)), range(len(held))

    clips = None, None
    if given.cache:
        parts = ("", "-validation") if len(both) == 2 else ("",)
        files = [Path(given.out) / f"clips{part}.safetensors" for part in parts]
        with accelerator.main_process_first():  # one decodes, the others find its work
            clips = [folder.load(file, accelerator.is_main_process)[0] for folder, file in zip(both, files)]  # fmt: skip
    augment = None
    if given.augment == "mirror":
        augment = mirror
    elif given.augment:
        module, _, name = given.augment.partition(":")
        try:
            augment = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"--augment {given.augment}: neither mirror nor module:function ({error})") from error  # fmt: skip
    return (FolderClips(train, chosen[0], augment, given.seed, clips[0]),
            FolderClips(held, chosen[1], clips=clips[-1]), train.classes)  # fmt: skip


def train(given):
    """Do what the options say; returns `fit`'s history."""
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision=given.precision, cpu=given.cpu)
    if given.precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("--precision fp16 needs a GPU; bf16 works on processors, too")
    out = Path(given.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: a file, not a folder")
    run, result = out / "run.safetensors", out / "model.safetensors"
    if run.exists() and not given.resume:
        raise ValueError(f"{run}: a run is there already; go on with --resume, or choose another --out")  # fmt: skip
    noted = out / "options.toml"
    if given.resume and run.exists() and noted.exists():
        same_run(given, noted)
    if given.resume and not run.exists():
        accelerator.print(f"{out}: no run to go on with; it begins")
    accelerator.wait_for_everyone()  # nobody writes before all have looked
    source, held, classes = make_sources(given, accelerator)
    model, anew = make_model(given, classes)
    if anew and given.model not in SIZES and not (given.resume and run.exists()):
        accelerator.print(f"{given.model}: other classes, so its head is new; the rest is kept")
    if given.freeze:
        model.requires_grad_(False)
        model.head.requires_grad_(True)
    if given.fused:
        fused_attention(model)
    if given.recompute:
        recompute_blocks(model)
    if given.compile:
        model.compile()
    if accelerator.is_main_process and not (run.exists() and noted.exists()):
        write_options(given, noted)
    accelerator.print(
        f"{len(source)} videos for training, {len(held)} for validation; {len(classes)} classes; "
        f"{count_parameters(model):,} parameters to train; {accelerator.num_processes} process(es) on {accelerator.device.type}"
    )
    if given.resume and run.exists():
        accelerator.print(f"going on after step {saved_step(run)}")
    best = out / "best.safetensors"
    if (
        given.patience
        and given.resume
        and run.exists()
        and saved_history(run)
        and not best.exists()
    ):
        raise ValueError(f"{best}: not there, so the best epoch so far is lost; go on without --patience, or begin anew")  # fmt: skip
    highest = [load_model(best)[1]["validation"] if given.resume and best.exists() else -1.0]
    board = []  # TensorBoard's writer, once there is something to write

    def log(step, values):
        if not board:
            from torch.utils.tensorboard import SummaryWriter

            board.append(SummaryWriter(out / "tensorboard", purge_step=step))
        for name, value in values.items():
            board[0].add_scalar(name, value, step)
        if given.patience and values.get("epoch test_accuracy", -1.0) > highest[0]:
            highest[0] = values["epoch test_accuracy"]
            save_model(model, best, classes=classes, validation=highest[0], epoch=values["epoch epoch"])  # fmt: skip

    started = time.perf_counter()
    history = fit(
        model, source, held, epochs=given.epochs, batch_size=given.batch_size, peak_lr=given.learning_rate,
        weight_decay=given.weight_decay, warm_up=given.warm_up, clip_norm=given.clip_norm, seed=given.seed,
        checkpoint=run, every=min(given.every, math.ceil(len(source) / given.batch_size)), keep_last=True, accumulate=given.accumulate,
        workers=given.workers, accelerator=accelerator, log=log, patience=given.patience,
    )  # fmt: skip
    if accelerator.is_main_process:
        for one in board:
            one.close()
        write_text(out / "history.json", json.dumps(history, indent=1))
        if given.patience:
            model.load_state_dict(load_model(best)[0].state_dict())
        save_model(model, result, classes=classes, pad=given.pad, history=history)
        note_answers(model, held, classes, out / "validation.csv")
    rows = [row["test_accuracy"] for row in history]
    last = history[rows.index(max(rows)) if given.patience else -1]
    of = f"the best epoch, {last['epoch']} of {len(rows)}: " if given.patience else ""
    accelerator.print(f"{time.perf_counter() - started:.0f} s; {of}loss {last['loss']:.3f}, right in training {last['accuracy']:.1%}, "
                      f"in validation {last['test_accuracy']:.1%}; {result}")  # fmt: skip
    accelerator.wait_for_everyone()  # who leaves while another still writes may die of it
    accelerator.end_training()
    return history


def note_answers(model, held, classes, path):
    """What the model says of each validation video, as a table: the wrong ones are worth looking at."""
    rows = ["video,class,answer,probability\n"]
    for start in range(0, len(held), 32):
        chosen = np.arange(start, min(start + 32, len(held)))
        clips, labels = held.read(chosen)
        for index, label, share in zip(chosen, labels, predict(model, clips)):
            name = held.folder.paths[held.indices[index]].relative_to(held.folder.root).as_posix()
            quoted = (text.replace('"', '""') for text in (name, classes[label], classes[share.argmax()]))  # fmt: skip
            rows.append("".join(f'"{text}",' for text in quoted) + f"{share.max():.3f}\n")
    write_text(path, "".join(rows))


STOPPED = (
    "utils.train: stopped from outside, as when another process ended (its own message says why, if there were several); "
    "--resume goes on from the last checkpoint, if there is one yet"
)
FOR_PYTHON = {
    "pad=True": "--pad",
    "a smaller peak_lr than": "a smaller --learning-rate than",
    "leave_out_unreadable() goes on without them": "--skip-unreadable goes on without them",
}


def _in_a_line(error):
    """What went wrong, for the command line: of a reading process the last line, and options instead of calls."""
    text = str(error)
    if "Original Traceback" in text:
        text = text.strip().splitlines()[-1].partition(": ")[2]
    if isinstance(error, VideoError) and not any(call in text for call in FOR_PYTHON):
        text += "; --skip-unreadable goes on without such files"
    for call, option in FOR_PYTHON.items():
        text = text.replace(call, option)
    return text


def _stop(*_):
    sys.exit(STOPPED)


def main(arguments=None):
    """The command: 0 when all went well; otherwise one line says what did not."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)  # torchrun stops all processes when one has ended
    try:
        train(read_options(arguments, __doc__))
    except ImportError as error:
        print(f'utils.train: {error}; pip install -e ".[train]" brings what is needed', file=sys.stderr)  # fmt: skip
        return 1
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"utils.train: {_in_a_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "utils.train: stopped; --resume goes on from the last checkpoint, if there is one yet",
            file=sys.stderr,
        )
        return 130
    except RuntimeError:
        if not torch.distributed.is_initialized():
            raise
        print(STOPPED, file=sys.stderr)  # a sum that cannot be made any more: the others are gone
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
