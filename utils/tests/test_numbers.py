"""The rounding storm disturbs what another processor rounds otherwise, and finds what was printed too precisely."""

import nbformat
import pytest
import torch
from torch.nn import functional as F

from utils.course import numbers
from utils.course.__main__ import main
from utils.course.notebooks import solved_exercises
from utils.course.numbers import MACHINES, STORM, RoundingStorm, compared, run
from utils.model import TimeSformer

X = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
W = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "call",
    [
        lambda: X @ W.T,
        lambda: F.linear(X, W, W[:, 0]),
        lambda: torch.einsum("b d, k d -> b k", X, W),
        lambda: F.scaled_dot_product_attention(*X.view(1, 1, 5, 7).expand(3, 1, 1, 5, 7)),
        lambda: F.conv2d(X.view(1, 1, 5, 7), W.view(1, 3, 1, 7)[:, :1]),
        lambda: F.layer_norm(X, (7,)),
        lambda: F.batch_norm(X, None, None, training=True),
        lambda: X.softmax(-1),
        lambda: X.log_softmax(-1),
        lambda: X.logsumexp(-1),
        lambda: X.mean(-1),
        lambda: X.sum(0),
        lambda: X.std(-1),
        lambda: X.norm(dim=-1),
        lambda: X.cumsum(0),
        lambda: F.cross_entropy(X, torch.zeros(5, dtype=torch.long), reduction="none"),
        lambda: torch.linalg.svd(X)[1],
    ],
)
@pytest.mark.parametrize("dtype, size", [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_the_storm_disturbs_what_is_rounded_a_little(call, dtype, size, monkeypatch):
    for name in "XW":
        monkeypatch.setitem(globals(), name, globals()[name].to(dtype))
    calm = call()
    with RoundingStorm():
        stormy, again = call(), call()
    error = ((stormy - calm).abs() / calm.abs().max()).max().item()
    assert 0.05 * size < error < 100 * size
    assert torch.equal(stormy, again)  # a processor rounds the same numbers in the same way


def test_the_storm_leaves_alone_what_every_processor_does_alike():
    whole = torch.arange(12.0).view(3, 4)
    torch.manual_seed(1)
    expected = torch.rand(3), torch.randperm(5)
    torch.manual_seed(1)
    with RoundingStorm():
        assert torch.equal(X + 0.1, X.add(0.1)) and torch.equal(X[1:], X[1:].clone())
        assert torch.equal(whole @ whole.T, whole @ whole.T.clone()) and whole.mean() == 5.5
        assert (whole @ whole.T)[0, 0] == 14 and (whole > 3).sum() == 8
        assert torch.ones(3, 4, device="meta").sum().device.type == "meta"
        assert torch.equal(torch.rand(3), expected[0])
        assert torch.equal(torch.randperm(5), expected[1])


def test_gradients_and_training_are_disturbed_too():
    def step():
        torch.manual_seed(0)
        model = TimeSformer(3, 8, 2, 4, 8, 1, 2)
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.randn(2, 2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        return model.head.weight.grad, model.blocks[0].feed_forward.fn.net[0].weight.detach()

    calm = step()
    with RoundingStorm():
        stormy = step()
    for a, b in zip(calm, stormy):
        assert not torch.equal(a, b) and torch.allclose(a, b, rtol=1e-2, atol=1e-3)


# Lesson 03 of the first edition, code cell 14 of the report that it failed on another processor.
COLLAPSE = """
import math
import torch

def difference(x):
    return ((x - x.mean(dim=-2, keepdim=True)).norm() / x.norm()).item()

generator = torch.Generator().manual_seed(0)
x = torch.randn(64, 64, generator=generator)
for layer in range(9):
    if layer > 3:
        print(f"layer {layer}: {math.log10(max(difference(x), 1e-15)):6.1f}")
    w_q, w_k, w_v = torch.randn(3, 64, 64, generator=generator) / math.sqrt(64)
    x = (4 * (x @ w_q) @ (x @ w_k).T / math.sqrt(64)).softmax(dim=-1) @ (x @ w_v)
"""


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    """A notebook that prints rounding noise in its second code cell, its outputs as they came out here."""
    from nbclient import NotebookClient

    path = tmp_path_factory.mktemp("lessons") / "01_collapse.ipynb"
    new = nbformat.v4.new_code_cell
    cells = [new("print(6 * 7)"), new(COLLAPSE), new(COLLAPSE, metadata={"tags": ["nbval-ignore-output"]}),
             new("print(round(difference(torch.eye(5)), 3), torch.eye(5).softmax(-1)[0, 0].item() > 0.4)"),
             nbformat.v4.new_markdown_cell("text"), new("assert difference(torch.ones(3, 3)) < 1e-3")]  # fmt: skip
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, kernel_name="python3", coalesce_streams=True).execute()
    nbformat.write(notebook, path)
    return path


@pytest.mark.slow
def test_the_storm_would_have_caught_lesson_01(lesson):
    (change,) = run(lesson, STORM)
    head, *lines = change.split("\n")
    assert head == "01_collapse, code cell 2, a rounding storm:"
    assert any(line.startswith("    -layer 8:") for line in lines), change
    assert not any("layer 4" in line for line in lines), change  # well above the noise


def test_the_same_machine_changes_nothing(lesson, monkeypatch, capsys):
    monkeypatch.setitem(MACHINES, STORM, {})
    monkeypatch.setattr(numbers, "STORM", "none")
    assert run(lesson, STORM) == []


def test_the_command_counts_what_changes(monkeypatch, capsys):
    class Here:  # instead of a pool of processes
        def __init__(self, *_):
            self.map = map

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *_: None  # noqa: E731

    monkeypatch.setattr(numbers, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(numbers, "run", lambda path, machine: [f"{path.stem}: changed"] * (machine == STORM))  # fmt: skip
    assert main(["numbers", "04_prenorm"]) == 1
    out = capsys.readouterr().out
    count = 1 + len([path for path in solved_exercises() if path.stem.startswith("04_")])
    assert "04_prenorm: changed" in out
    assert f"{count} notebooks on 3 machines: {count} changes" in out
    monkeypatch.setattr(numbers, "run", lambda path, machine: [])
    assert main(["numbers", "04_prenorm"]) == 0
    assert "no changes" in capsys.readouterr().out


def test_what_nbval_compares_is_what_we_compare():
    """Pictures are not compared, everything else is; an ignored cell may still not fail."""
    new = nbformat.v4.new_output
    png = new("display_data", {"image/png": "…", "text/plain": "<Figure>"})
    html = new("execute_result", {"text/html": "<b>", "text/plain": "b"})
    out, more = (new("stream", name="stdout", text=text) for text in ("a", "b"))
    error = new("error", ename="ValueError", evalue="no", traceback=["----> 1 fails()"])
    cell = nbformat.v4.new_code_cell("", outputs=[out, png, html, more])
    assert compared(cell) == ["ab", "<b>", "b"]
    cell.metadata["tags"] = ["nbval-ignore-output"]
    assert compared(cell) == []
    cell.outputs.append(error)
    assert compared(cell) == ["ValueError: no\n----> 1 fails()"]


def test_switches_of_the_machines_cover_what_differs():
    values = {name: {machine.get(name) for machine in MACHINES.values()} for name in
              ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "OMP_NUM_THREADS")}  # fmt: skip
    assert {"default", "avx2"} <= values["ATEN_CPU_CAPABILITY"]
    assert {"SSE4_2", "AVX2"} <= values["MKL_ENABLE_INSTRUCTIONS"]
    assert {"1", "2"} <= values["OMP_NUM_THREADS"]
