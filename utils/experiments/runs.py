"""Filling the results files: trains what a grid still lacks, several runs at a time, and checks.

Every run is trained on one thread, so that its numbers do not depend on how many there are.
"""

import hashlib
import json
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from time import process_time

import numpy as np
import torch
from tqdm.auto import tqdm

from utils import paths
from utils.experiments import tables
from utils.experiments.grids import GRIDS
from utils.experiments.tables import line_name, machine, row_key
from utils.experiments.variants import seeded
from utils.lips import accuracies
from utils.model import count_parameters
from utils.muon import Muon
from utils.training import evaluate, fit, predict, save_model, to_video


@contextmanager
def one_thread():
    """Torch computes on one thread in here, so that what is measured does not depend on the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def features(model, clips, batch_size=100):
    """What the head sees: one row a clip, each column scaled to mean 0 and spread 1.

    Shapes: (n, t, height, width, 3) uint8 -> (n, dim) numpy. The model must be in eval mode.
    """
    batches = [clips[start : start + batch_size] for start in range(0, len(clips), batch_size)]
    points = torch.cat([model.forward_features(to_video(batch)) for batch in batches]).numpy()
    return (points - points.mean(0)) / np.maximum(points.std(0), 1e-6)


def separation(model, data):
    """How well the classes lie apart in the model's feature space.

    `probe`: accuracy of a logistic regression on the features, trained on half of the clips, tested
    on the other half. `silhouette`: from -1 (mixed up) over 0 to 1 (far apart).
    """
    from sklearn.linear_model import LogisticRegression  # slow to import, and seldom needed
    from sklearn.metrics import silhouette_score

    points, labels = features(model, data[0]), data[1]
    half = len(points) // 2
    probe = LogisticRegression(max_iter=2000).fit(points[:half], labels[:half])
    return dict(
        probe=round(float(probe.score(points[half:], labels[half:])), 4),
        silhouette=round(float(silhouette_score(points, labels)), 4),
    )


def _place(run, seed):
    """Where a run keeps what it needs to go on: named by all that decides its result."""
    setting = json.dumps([run.task, seed, run.setting()], sort_keys=True)
    name = hashlib.sha256(setting.encode()).hexdigest()[:16]
    return paths.cache_folder() / "experiments" / f"{name}.run.safetensors"


def train_row(name, index, seed, checkpoint=None):
    """Train one line of a grid with one seed; returns (row, machine, model).

    On one thread. `seconds` are the processor's, so that other work on the machine does not count; None
    if the run went on from a `checkpoint`.
    """
    run = GRIDS[name][index]
    resumed = checkpoint is not None and checkpoint.exists()
    with one_thread():
        (data, augment), (test, _) = run.clips("train"), run.clips("test")
        model = seeded(run.build, seed, **run.all_sizes())
        if run.change is not None:
            run.change(model)
        budget = run.all_budget()
        optimizer = Muon if budget.pop("muon", False) else None
        started = process_time()
        history = fit(model, data, **budget, augment=augment, seed=seed, optimizer=optimizer,
                      checkpoint=checkpoint, every=200, progress=False)  # fmt: skip
        seconds = process_time() - started
        model.eval()
        row = dict(variant=run.variant, task=run.task, seed=seed, accuracy=round(evaluate(model, test), 4),
                   train_accuracy=[round(epoch["accuracy"], 4) for epoch in history],
                   parameters=count_parameters(model),
                   seconds=None if resumed else round(seconds, 1))  # fmt: skip
        if run.task == "lips":
            told = accuracies(predict(model, test[0]), test[1])
            row["slots"] = {slot: round(share, 4) for slot, share in told.items() if slot != "all"}
        if run.features:
            row |= separation(model, test)
        return row, machine(), model


def _train_for_file(name, index, seed):
    """`train_row` that can be killed and gone on with; its model stays in a file beside the checkpoint."""
    run = GRIDS[name][index]
    checkpoint = _place(run, seed)
    row, on, model = train_row(name, index, seed, checkpoint)
    if run.features and seed == 0:
        save_model(model, checkpoint.with_suffix(".model"), **row)
    return index, row, on


def _measured_elsewhere(run, seed):
    """Row and machine of the same run in another grid's file, measured with the same settings."""
    for other, grid in GRIDS.items():
        stored = tables.load(other)
        for twin in grid:
            if twin.task != run.task or stored["settings"].get(line_name(twin)) != run.setting():
                continue
            for row in stored["rows"]:
                if row_key(row) == (twin.variant, twin.task, seed) and "taken_from" not in row:
                    return row | dict(variant=run.variant, taken_from=other), stored["machines"][row["machine"]]  # fmt: skip
    return None


def _add(name, row, on):
    """Put one row into a grid's file, as the file is now: another process may have added to it."""
    stored = tables.load(name)
    tables.verify(stored)
    grid = GRIDS[name]
    if row_key(row) in map(row_key, stored["rows"]):
        return
    if on not in stored["machines"]:
        stored["machines"].append(on)
    order = {(run.variant, run.task): number for number, run in enumerate(grid)}
    stored["rows"].append(row | dict(machine=stored["machines"].index(on)))
    stored["rows"].sort(key=lambda row: (order[row["variant"], row["task"]], row["seed"]))
    stored["settings"] |= {line_name(run): run.setting() for run in grid}
    tables.save(stored)


def fill(name, jobs=1):
    """Train what a grid's results file still lacks, `jobs` runs at a time; every row is saved at once.

    ValueError if the file holds rows made with other settings: they are never overwritten.
    RuntimeError, after all other runs, if one failed; the message names it.
    """
    stored, grid = tables.load(name), GRIDS[name]
    tables.verify(stored)
    have = set(map(row_key, stored["rows"]))
    missing = [
        (number, seed)
        for number, run in enumerate(grid)
        for seed in run.seeds
        if (run.variant, run.task, seed) not in have
    ]
    with tqdm(total=len(missing), desc=name, unit="run") as bar:
        waiting = []
        for number, seed in missing:
            if found := _measured_elsewhere(grid[number], seed):
                _add(name, *found)
                bar.update()
            else:
                waiting.append((name, number, seed))
        for index, row, on in _trained(waiting, jobs):
            checkpoint = _place(grid[index], row["seed"])
            if (
                grid[index].features and row["seed"] == 0
            ):  # first: with the row there, nobody would miss it
                tables.RESULTS.mkdir(parents=True, exist_ok=True)
                os.replace(checkpoint.with_suffix(".model"), model_file(name, row["variant"]))
            _add(name, row, on)
            checkpoint.unlink(missing_ok=True)  # another program may have trained the same run
            bar.update()
            bar.write(f"{row['variant']} / {row['task']}, seed {row['seed']}: {row['accuracy']:.1%}, {row['seconds']} s")  # fmt: skip


def model_file(name, variant):
    """Where the first seed's model of a line with features is kept."""
    return tables.RESULTS / f"{name}-{variant}.safetensors"


def _end_with_parent():
    """A worker whose parent was killed stops too, instead of training on for nobody."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _trained(waiting, jobs):
    """Results of `_train_for_file` in the order in which they are ready; what failed is raised last."""
    names = [f"{line_name(GRIDS[name][index])}, seed {seed}" for name, index, seed in waiting]
    yield from in_parallel(_train_for_file, waiting, names, jobs)


def in_parallel(function, calls, names, jobs):
    """Call `function` with each tuple of `calls`, `jobs` at a time, in processes of their own.

    Yields results in the order in which they are ready. RuntimeError, after all others, if one failed;
    the message has its name of `names`.
    """
    if jobs == 1 or len(calls) < 2:
        yield from (function(*one) for one in calls)
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads
    pool = ProcessPoolExecutor(min(jobs, len(calls)), context, _end_with_parent)
    failed = []
    try:
        runs = {pool.submit(function, *one): name for one, name in zip(calls, names)}
        for done in as_completed(runs):
            if error := done.exception():
                failed.append(f"{runs[done]}: {error}")
            else:
                yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)
    if failed:
        raise RuntimeError("these runs failed: " + "; ".join(failed))


def check(name, tolerance=0.03):
    """Train one line of a grid again for each of its tasks; returns what is wrong, if anything.

    The line is the steadiest of those that learned something, its quickest seed. Other machines
    round differently, so its accuracy may differ by `tolerance` or by as much as the seeds do.
    """
    try:
        stored, measured = tables.load(name), tables.table(name)
        tables.verify(stored)
    except ValueError as error:
        return [str(error)]
    numbers = {(run.variant, run.task): number for number, run in enumerate(GRIDS[name])}
    problems = []
    for task in dict.fromkeys(run.task for run in GRIDS[name]):
        lines = {key: values for key, values in measured.items() if key[1] == task}
        learned = {key: values for key, values in lines.items() if np.median(values) > 0.3} or lines
        key = min(learned, key=lambda key: np.ptp(learned[key]))
        rows = [row for row in stored["rows"] if row_key(row)[:2] == key]
        old = min(rows, key=lambda row: row["seconds"] or np.inf)
        new, _, _ = train_row(name, numbers[key], old["seed"])
        allowed = max(tolerance, np.ptp(measured[key]))
        line = f"{name}: {' / '.join(key)}, seed {old['seed']}: {new['accuracy']:.1%}, stored {old['accuracy']:.1%}"  # fmt: skip
        print(line, flush=True)
        if abs(new["accuracy"] - old["accuracy"]) > allowed:
            problems.append(f"{line}: they differ by more than {allowed:.1%}")
        if new["parameters"] != old["parameters"]:
            problems.append(f"{line}: {new['parameters']} parameters, stored {old['parameters']}")
    return problems
