"""`python -m utils.course numbers`: do the stored outputs hold on another machine?

Runs lessons and solved exercises as other processors would, and in a rounding storm, and lists cell by
cell what changes of what nbval compares. A number that changes here is rounding noise: print fewer
digits, or assert the claim and tag the cell nbval-ignore-output.
"""

import difflib
import multiprocessing
import os
import re
import zlib
from concurrent.futures import ProcessPoolExecutor

import nbformat
import torch
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm.auto import tqdm

from utils.course.notebooks import choose, lessons, solved_exercises
from utils.paths import ROOT

# Each is a machine: its instruction sets and its number of threads, as the libraries' switches give them.
MACHINES = {
    "an old processor, one thread": dict(ATEN_CPU_CAPABILITY="default", MKL_ENABLE_INSTRUCTIONS="SSE4_2", OMP_NUM_THREADS="1"),
    "a usual processor, two threads": dict(ATEN_CPU_CAPABILITY="avx2", MKL_ENABLE_INSTRUCTIONS="AVX2", OMP_NUM_THREADS="2"),
    "a rounding storm": dict(OMP_NUM_THREADS="1"),
}  # fmt: skip
STORM = "a rounding storm"

# Operations in which another processor adds up in another order. PyTorch's names of what is left
# when everything else has been taken apart.
ROUNDED = {
    # matrix products
    "mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot", "linear", "_addmm_activation",
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward",
    "_scaled_dot_product_attention_math", "linalg_svd", "_linalg_svd",
    # convolutions
    "convolution", "convolution_backward", "_convolution", "mkldnn_convolution",
    # normalisations
    "native_layer_norm", "native_layer_norm_backward", "native_batch_norm", "native_batch_norm_backward",
    "_native_batch_norm_legit", "native_group_norm", "_fused_rms_norm", "_softmax", "_log_softmax",
    "_softmax_backward_data", "_log_softmax_backward_data",
    # reductions
    "sum", "mean", "std", "std_mean", "var", "var_mean", "prod", "cumsum", "cumprod", "norm",
    "linalg_vector_norm", "logsumexp", "nll_loss_forward", "mse_loss", "binary_cross_entropy",
}  # fmt: skip


# Those that only multiply and add (a mean divides once, at the end, which every processor does alike).
ADDED = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "linear", "sum", "mean", "cumsum"}


def is_whole(tensor):
    """Whether a tensor holds nothing but whole numbers, small enough to be added exactly."""
    if not tensor.is_floating_point() or tensor.device.type != "cpu":
        return True
    few = tensor.flatten()[:16]  # mostly enough to see that it does not
    return all(bool(((t == t.round()) & (t.abs() < 1000)).all()) for t in (few, tensor))


class RoundingStorm(TorchDispatchMode):
    """Multiply the result of every rounded operation by 1 + noise: 1e-6 in float32, 1e-13 in float64.

    That is what another processor does, only more. And as a processor does: the same numbers are
    rounded in the same way every time, and sums and products of whole numbers are exact. The noise
    comes from a generator of its own, so the program's random numbers stay as they are.
    """

    SIZE = {torch.float32: 1e-6, torch.float64: 1e-13}
    LENGTH = 2**20

    def __init__(self, seed=0):
        super().__init__()
        noise = torch.randn(self.LENGTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)  # fmt: skip
        # drawn once, since drawing takes longer than the program; each result begins elsewhere in it
        self.factors = {dtype: (1 + size * noise).to(dtype) for dtype, size in self.SIZE.items()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        exact = name in ADDED and all(
            is_whole(arg) for arg in args if isinstance(arg, torch.Tensor)
        )
        if name in ROUNDED and not exact:
            for tensor in result if isinstance(result, tuple | list) else [result]:
                self.disturb(tensor)
        return result

    def disturb(self, tensor):
        """Change a tensor in place, if it holds numbers that are rounded."""
        if not isinstance(tensor, torch.Tensor) or tensor.device.type != "cpu":
            return
        if tensor.dtype not in self.factors or not tensor.numel():
            return
        flat, count = tensor.detach().flatten(), tensor.numel()
        sample = flat[:: count // 256 + 1].contiguous()
        start = zlib.crc32(sample.view(torch.uint8).numpy()) % self.LENGTH
        factors = self.factors[tensor.dtype]
        repeats = (start + count) // self.LENGTH + 1
        if repeats > 1:
            factors = factors.repeat(repeats)
        tensor.mul_(factors[start : start + count].view(tensor.shape))


def storm(seed=0):
    """Let a storm blow in this process from now on."""
    RoundingStorm(seed).__enter__()


def compared(cell):
    """What nbval compares of a code cell, a list of texts; of a cell that it ignores, only an error."""
    ignored = "nbval-ignore-output" in cell.metadata.get("tags", [])
    streams, shown = {}, []
    for output in cell.outputs:
        if output.output_type == "error":
            where = [line for line in output.traceback if "---->" in line][-1:]
            text = f"{output.ename}: {output.evalue}\n" + "\n".join(where)
            shown.append(re.sub(r"\x1b\[[\d;]*m", "", text)[:1000])
        elif ignored:
            continue
        elif output.output_type == "stream":
            streams[output.name] = streams.get(output.name, "") + output.text
        else:
            pictures = {"image/png", "image/jpeg"} & output.data.keys()  # nbval leaves them alone
            shown += [text for kind, text in sorted(output.data.items())
                      if not (kind in pictures or kind == "text/plain" and pictures)]  # fmt: skip
    return [streams[name] for name in sorted(streams)] + shown


def run(path, machine):
    """Run one notebook on one of MACHINES; returns a list of what changed, a text a cell."""
    stored = nbformat.read(path, as_version=4)
    notebook = nbformat.read(path, as_version=4)
    # before every cell that is the notebook's own, so before it draws its first number
    first = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
    first += "from utils.course.numbers import storm\nstorm()" if machine == STORM else ""
    notebook.cells.insert(0, nbformat.v4.new_code_cell(first))
    environment = os.environ | MACHINES[machine]
    client = NotebookClient(notebook, timeout=1800, kernel_name="python3", allow_errors=True,
                            coalesce_streams=True, resources={"metadata": {"path": path.parent}})  # fmt: skip
    try:
        client.execute(env=environment)
    except (DeadKernelError, TimeoutError) as error:
        return [f"{path.stem}, {machine}: does not run\n{_indented(str(error)[-1500:])}"]
    del notebook.cells[0]
    changes, number = [], 0
    for before, after in zip(stored.cells, notebook.cells, strict=True):
        if before.cell_type != "code":
            continue
        number += 1  # code cells are counted from 1, as they are when they run from top to bottom
        old, new = compared(before), compared(after)
        if old != new:
            lines = difflib.unified_diff("\n".join(old).split("\n"), "\n".join(new).split("\n"), n=0, lineterm="")  # fmt: skip
            told = "\n".join(line for line in list(lines)[2:] if not line.startswith("@@"))
            changes.append(f"{path.stem}, code cell {number}, {machine}:\n{_indented(told)}")
    return changes


def _indented(text):
    return "\n".join(f"    {line}" for line in text.split("\n"))


def numbers(names=(), jobs=1, paths=None):
    """Run notebooks on all of MACHINES, print what changes; returns how many cells did."""
    paths = choose(names, lessons() + solved_exercises() if paths is None else paths)
    work = [(path, machine) for path in paths for machine in MACHINES]
    found = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context) as pool:
        for changes in tqdm(pool.map(run, *zip(*work)), total=len(work), unit="run"):
            for change in changes:
                tqdm.write(change)
            found += changes
    print(f"{len(paths)} notebooks on {len(MACHINES)} machines: {len(found) or 'no'} changes")
    return len(found)
