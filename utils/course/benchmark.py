"""Speed, measured and printed, never tested: `python -m utils.course benchmark` and `benchmark-video`."""

import json
import math
import statistics
import time
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from utils.experiments.tables import machine
from utils.model import TimeSformer
from utils.paths import ROOT, write_text
from utils.published import published_config, published_state
from utils.recipe import MODEL
from utils.video import VIDEO_SUFFIXES, count_frames, probe, read_frames, sample_indices

# The course's size, and the paper's with four blocks instead of twelve; clips of a batch.
CASES = {
    "course": (MODEL, 32),
    "ViT-B, 4 blocks": (dict(num_classes=400, image_size=224, num_frames=8, patch_size=16, dim=768, depth=4, heads=12), 1),
}  # fmt: skip


def ours(sizes, activation):
    """Our model with every weight drawn at random: where a time step starts at zero, nothing can be skipped."""
    torch.manual_seed(0)
    model = TimeSformer(**sizes, activation=activation)
    for block in model.blocks:
        torch.nn.init.normal_(block.steps[0].project.weight, std=0.02)
    return model


def of_transformers(sizes):
    """Hugging Face's TimeSformer with the weights of our GELU one, and that one beside it."""
    import transformers

    model = ours(sizes, "gelu")
    theirs = transformers.TimesformerForVideoClassification(transformers.TimesformerConfig(**published_config(model)))  # fmt: skip
    theirs.load_state_dict(published_state(model))
    return model, theirs, lambda video: theirs(video).logits


def of_timesformer_pytorch(sizes):
    """The short re-implementation (GEGLU, rotary positions) with the same sizes, and our GEGLU one."""
    import timesformer_pytorch

    theirs = timesformer_pytorch.TimeSformer(
        dim=sizes["dim"], num_frames=sizes["num_frames"], num_classes=sizes["num_classes"], image_size=sizes["image_size"],
        patch_size=sizes["patch_size"], depth=sizes["depth"], heads=sizes["heads"], dim_head=sizes["dim"] // sizes["heads"],
    )  # fmt: skip
    return ours(sizes, "geglu"), theirs, theirs


PEERS = {"transformers": of_transformers, "timesformer-pytorch": of_timesformer_pytorch}


class Kept:
    """Bytes that autograd keeps for the backward pass, the model's weights aside: exact, and the same on
    every machine."""

    def __init__(self, model):
        self.weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self.found = {}

    def note(self, tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.weights:
            self.found[storage.data_ptr()] = storage.nbytes()
        return tensor

    def of(self, call):
        with torch.autograd.graph.saved_tensors_hooks(self.note, lambda tensor: tensor):
            kept = call()  # alive until the count is done: a freed address would be used again
        return sum(self.found.values()) / 1e6 if kept is not None else 0.0


def _wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def _seconds(call, device):
    _wait(device)
    started = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - started


def product_speed(device, dtype, size=1024):
    """Multiply-adds a second of a plain matrix product, the best of ten: what the machine can do."""
    a, b = torch.randn(2, size * (4 if device == "cuda" else 1), size * (4 if device == "cuda" else 1), device=device, dtype=dtype)  # fmt: skip
    best = min(_seconds(lambda: a @ b, device) for _ in range(10))
    return a.shape[0] ** 3 / best


def _products(call):
    """The multiply-adds that a call really takes, counted in every matrix product."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 2


def compare(case, peer, half, device, repeats):
    """Forward pass and training step of ours and a peer's, in turn: one row of numbers."""
    sizes, clips = CASES[case]
    model, theirs, call = PEERS[peer](sizes)
    pair = {"ours": (model.to(device), model), "theirs": (theirs.to(device), call)}
    video = torch.randn(clips, *model.clip_shape, device=device)
    labels = torch.zeros(clips, dtype=torch.long, device=device)

    def mixed():
        return torch.autocast(device, torch.bfloat16) if half else nullcontext()

    def forward(module, run):
        with torch.no_grad(), mixed():
            run(video)

    def train(module, run):
        with mixed():
            loss = F.cross_entropy(run(video).float(), labels)
        module.zero_grad(set_to_none=True)
        loss.backward()

    row = dict(case=case, peer=peer, dtype="bfloat16" if half else "float32", clips=clips)
    for name, (module, run) in pair.items():
        if device == "cuda":  # what the allocator held at most in a step
            train(module, run)
            torch.cuda.reset_peak_memory_stats()
            train(module, run)
            row[f"{name} MB"] = torch.cuda.max_memory_allocated() / 1e6
        else:
            with mixed():
                row[f"{name} MB"] = Kept(module).of(lambda run=run: run(video))
    speed = product_speed(device, torch.bfloat16 if half else torch.float32)
    ours = pair["ours"]
    products = dict(
        forward=_products(lambda: model(video)), training=_products(lambda: train(*ours))
    )
    for what, call in (("forward", forward), ("training", train)):
        times = {name: [] for name in pair}
        for _ in range(repeats + 2):
            for name, (module, run) in pair.items():
                times[name].append(
                    _seconds(lambda call=call, module=module, run=run: call(module, run), device)
                )
        medians = {name: statistics.median(values[2:]) for name, values in times.items()}
        row |= {f"{name} {what} ms": 1000 * value for name, value in medians.items()}
        row[f"{what} ratio"] = medians["theirs"] / medians["ours"]
        row[f"{what} share"] = products[what] / medians["ours"] / speed
    return {
        name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()
    }


def benchmark(device="cpu", repeats=15, json_file=None):
    """Print, for both sizes, both peers and both precisions: times, ratios (above 1: ours is faster), memory,
    and how much of the speed of a plain matrix product ours reaches. On the processor with one thread.

    SystemExit when a peer is not installed.
    """
    torch.set_num_threads(1)
    print(
        f"{'':17}{'':21}{'':10}{'forward, ms':>22}{'training, ms':>26}{'memory, MB':>20}   share of a product"
    )
    print(f"{'size':17}{'peer':21}{'':10}{'ours':>8}{'theirs':>8}{'ratio':>6}{'ours':>10}{'theirs':>9}{'ratio':>7}"
          f"{'ours':>10}{'theirs':>9}{'forward':>12}{'training':>9}")  # fmt: skip
    rows = []
    for case in CASES:
        for peer in PEERS:
            for half in (False, True):
                try:
                    row = compare(case, peer, half, device, repeats)
                except ImportError as error:
                    raise SystemExit(
                        f'{error}; pip install -e ".[compare]" brings both peers'
                    ) from error
                rows.append(row)
                print(f"{case:17}{peer:21}{row['dtype']:10}{row['ours forward ms']:8.1f}{row['theirs forward ms']:8.1f}{row['forward ratio']:6.2f}"
                      f"{row['ours training ms']:10.1f}{row['theirs training ms']:9.1f}{row['training ratio']:7.2f}"
                      f"{row['ours MB']:10.1f}{row['theirs MB']:9.1f}{row['forward share']:12.0%}{row['training share']:9.0%}", flush=True)  # fmt: skip
    if json_file is not None:
        where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
        result = dict(device=where, machine=machine(), rows=rows)
        write_text(json_file, json.dumps(result, indent=1) + "\n")


HDR, BT709 = (16, 18), 1  # transfer curves in ITU-T H.273; OpenCV maps the first two to the third


def pyav_frames(path, num_frames):
    """What a careful PyAV user writes: decode with all threads, keep evenly spaced frames as RGB."""
    import av

    wanted = set(sample_indices(count_frames(path), num_frames).tolist())  # not timed: PyAV is told
    reformatter = av.video.reformatter.VideoReformatter()
    started = time.perf_counter()
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        kept = []
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                tone = dict(dst_color_trc=BT709) if frame.color_trc in HDR else {}
                kept.append(reformatter.reformat(frame, format="rgb24", **tone).to_ndarray())
        np.stack(kept)
    return time.perf_counter() - started


def our_frames(path, num_frames):
    """read_frames, which is not told how many frames there are."""
    started = time.perf_counter()
    read_frames(path, num_frames)
    return time.perf_counter() - started


def torchcodec_frames(path, num_frames):
    """What a careful torchcodec user writes: it knows where every frame lies, and jumps over what it can."""
    from torchcodec.decoders import VideoDecoder

    started = time.perf_counter()
    try:
        decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=0)  # 0: all
        decoder.get_frames_at(sample_indices(len(decoder), num_frames).tolist())
    except (RuntimeError, ValueError):
        return math.inf  # it cannot read this file
    return time.perf_counter() - started


def torchcodec_unlike(path, num_frames):
    """How many of torchcodec's frames are not those that decoding in order finds, by more than rounding."""
    from torchcodec.decoders import VideoDecoder

    try:
        decoder = VideoDecoder(str(path), dimension_order="NHWC")
        theirs = decoder.get_frames_at(sample_indices(len(decoder), num_frames).tolist()).data.numpy()  # fmt: skip
    except (RuntimeError, ValueError):
        return None
    off = np.abs(theirs.astype(np.int16) - read_frames(path, num_frames)).mean((1, 2, 3))
    return int((off > 0.5).sum())


def loads(package):
    """Whether a package is here and works: torchcodec needs FFmpeg's libraries and the torch it was made for."""
    try:
        import_module(package)
    except (ImportError, OSError, RuntimeError):  # the last two when a library is missing
        return False
    return True


def benchmark_video(folder=None, num_frames=8, repeats=5, json_file=None):
    """Print decoded frames per second for "8 of all", ours beside PyAV's and torchcodec's, best of several,
    in turn.

    SystemExit when there is no video, or no PyAV; torchcodec, which no extra brings, may be missing.
    """
    if not loads("av"):
        raise SystemExit('PyAV is missing: pip install -e ".[compare]"')
    import av

    folder = folder or ROOT.parent / "shared" / "videos" / "real"
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise SystemExit(f"{folder}: no videos here; name a folder with some")
    readers = {"ours": our_frames, "PyAV": pyav_frames}
    if loads("torchcodec"):
        readers["torchcodec"] = torchcodec_frames
    missing = "" if "torchcodec" in readers else "; torchcodec: not installed"
    print(f"OpenCV {cv2.__version__}, PyAV {av.__version__}, {num_frames} frames of all, best of {repeats}{missing}")  # fmt: skip
    heads = "".join(f" {name + '/s':>12} {'ratio':>6}" for name in list(readers)[1:])
    print(f"{'file':44} {'frames':>6} {'ours/s':>8}{heads}")
    rows = []
    for path in files:
        try:
            info, total = probe(path), count_frames(path)
            n = min(num_frames, total)
            turns = [[read(path, n) for read in readers.values()] for _ in range(repeats)]
        except (ValueError, av.error.FFmpegError) as error:  # ours are ValueErrors; theirs where sizes change  # fmt: skip
            print(f"{path.name[:44]:44} {type(error).__name__}: not compared")
            continue
        speeds = {name: total / min(times) for name, times in zip(readers, zip(*turns))}
        unlike = {"torchcodec unlike": torchcodec_unlike(path, n)} if "torchcodec" in readers else {}  # fmt: skip
        ours, *theirs = speeds.values()
        cells = "".join(f" {one:12.0f} {ours / one if one else math.inf:6.2f}" for one in theirs)
        print(f"{path.name[:44]:44} {total:6} {ours:8.0f}{cells}", flush=True)
        rows.append(dict(file=path.name, codec=info.codec, height=info.height, width=info.width, frames=total,
                         **{f"{name} per second": round(speed) for name, speed in speeds.items()}, **unlike))  # fmt: skip
    if json_file is not None:
        versions = {name: import_module(module).__version__ for name, module in (("PyAV", "av"), ("torchcodec", "torchcodec")) if name in readers}  # fmt: skip
        write_text(json_file, json.dumps(dict(machine=machine(), **versions, rows=rows), indent=1) + "\n")  # fmt: skip
