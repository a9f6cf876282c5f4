"""What lesson 16 says of larger machines: `python -m utils.experiments scaling`, once on each machine.

Training steps of the paper's model (ViT-B sizes) and of the course's, in the ways that the lesson shows,
and the course's own trainings from scratch. Writes data/experiments/scaling-DEVICE.json.
"""

import json
import os
import statistics
import time
from contextlib import nullcontext

import torch
from torch.nn import functional as F

from utils import lips
from utils.experiments.tables import machine
from utils.model import TimeSformer, attention_numbers, multiply_adds
from utils.motion import augment
from utils.paths import DATA, write_text
from utils.recipe import LIPS_MODEL, LIPS_RECIPE, MODEL, RECIPE, for_fit, motion_data, read_lips
from utils.train import fused_attention, recompute_blocks
from utils.training import evaluate, fit

BASE = dict(num_classes=400, image_size=224, num_frames=8, patch_size=16, dim=768, depth=12, heads=12, activation="gelu")  # fmt: skip
WAYS = {  # name -> what is done to the model, in mixed precision or not, compiled or not
    "plain": ((), False, False),
    "fused": ((fused_attention,), False, False),
    "bfloat16": ((), True, False),
    "bfloat16, fused": ((fused_attention,), True, False),
    "bfloat16, fused, compiled": ((fused_attention,), True, True),
    "bfloat16, fused, recomputed": ((fused_attention, recompute_blocks), True, False),
}


def _peak(device):
    return torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else None


def step_time(sizes, way, clips, device, repeats):
    """One line: seconds of the first step, milliseconds of a later one (median), MB at most.

    None for the times if the memory is not enough.
    """
    changes, half, compiled = WAYS[way]
    torch.manual_seed(0)
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model = TimeSformer(**sizes).to(device)
    for change in changes:
        change(model)
    if compiled:
        model.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    video = torch.randn(clips, *model.clip_shape, device=device)
    labels = torch.zeros(clips, dtype=torch.long, device=device)
    times = []
    try:
        for _ in range(repeats + 2):
            started = time.perf_counter()
            with torch.autocast(device, torch.bfloat16) if half else nullcontext():
                loss = F.cross_entropy(model(video), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # a GPU works on by itself: wait for it
            times.append(time.perf_counter() - started)
    except torch.OutOfMemoryError:
        return dict(first_s=None, ms=None, mb=None)
    return dict(first_s=round(times[0], 2), ms=round(1000 * statistics.median(times[2:]), 2), mb=_peak(device))  # fmt: skip


def steps(device, repeats=10):
    """All lines of step times: (name, sizes, clips) for each way."""
    on_gpu = device == "cuda"
    cases = [("course", MODEL, 32), ("ViT-B, 8 frames", BASE, 8 if on_gpu else 1)]
    if on_gpu:
        long = BASE | dict(num_frames=96)
        cases += [("ViT-B, 96 frames", long, 1), ("ViT-B, 96 frames, joint", long | dict(scheme="joint"), 1)]  # fmt: skip
    found = []
    for name, sizes, clips in cases:
        with torch.device("meta"):
            twin = TimeSformer(**sizes)
        size = dict(clips=clips, attention_gb=round(4e-9 * attention_numbers(twin, clips), 2),
                    tera_multiply_adds=round(3 * multiply_adds(twin, clips) / 1e12, 3))  # fmt: skip
        for way in WAYS:
            if WAYS[way][2] and "96" in name:
                continue  # compiling the long models takes minutes
            row = dict(model=name, way=way, **size, **step_time(sizes, way, clips, device, repeats))
            found.append(row)
            print(row, flush=True)
    return found


def trainings(device):
    """The course's two trainings from scratch: seconds in `fit`, and accuracy on what is kept for tests."""
    # Reading ahead changes no bit of the result; without it the augmentation takes longer than a GPU.
    found, how = [], dict(seed=0, progress=False, workers=os.cpu_count() // 2 if device == "cuda" else 0)  # fmt: skip
    data, test = motion_data(progress=False), motion_data("test", progress=False)
    torch.manual_seed(0)
    model = TimeSformer(**MODEL).to(device)
    started = time.perf_counter()
    fit(model, data, **RECIPE, augment=augment, **how)
    found.append(dict(what="motion", seconds=round(time.perf_counter() - started, 1), accuracy=round(evaluate(model, test), 4)))  # fmt: skip
    print(found[-1], flush=True)

    words = [word for split in ("train", "validation") for word in lips.words(split)]
    data = lips.windows(words, LIPS_MODEL["num_frames"], margin=lips.MARGIN, progress=False)
    torch.manual_seed(0)
    model = TimeSformer(**LIPS_MODEL).to(device)
    started = time.perf_counter()
    fit(model, data, **for_fit(LIPS_RECIPE), **how)
    seconds = time.perf_counter() - started
    words = lips.words("test")
    told = lips.accuracies(read_lips(words, [model.cpu().eval()]), lips.labels_of(words))
    found.append(dict(what="lips", seconds=round(seconds, 1), accuracy=round(told["all"], 4)))
    print(found[-1], flush=True)
    return found


def scaling(folder=DATA / "experiments"):
    """Measure on this machine: its GPU, if it has one, otherwise its processor."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    result = dict(
        device=name, machine=machine(), steps=steps(device, 10 if device == "cuda" else 3)
    )
    path = folder / f"scaling-{name.split()[-1] if device == 'cpu' else 'GPU'}.json"
    write_text(path, json.dumps(result, indent=1) + "\n")  # should the rest not come to its end
    result["trainings"] = trainings(device)
    write_text(path, json.dumps(result, indent=1) + "\n")
