"""The results files behind lesson 13's tables: filled run by run, read by the lesson, checked.

One file per grid, data/experiments/NAME.json: the settings of every line, the machines, and one row
per line and seed.
"""

import json
import multiprocessing
import os
import platform
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from time import process_time

import cv2
import numpy as np
import torch
from tqdm.auto import tqdm

from utils.grids import AUGMENT, BUDGET, GRIDS, SEEDS, SIZES, task_clips
from utils.model import count_parameters
from utils.training import evaluate, fit, save_model, to_video
from utils.variants import seeded

DATA = Path(__file__).resolve().parents[1] / "data"
CACHE = DATA / "cache"
RESULTS = DATA / "experiments"


def machine():
    """What a measurement was made on: enough to judge its seconds, nothing private."""
    return dict(
        processor=platform.machine(), cores=os.cpu_count(), threads=torch.get_num_threads(), system=platform.system(),
        python=platform.python_version(), torch=torch.__version__, opencv=cv2.__version__,
    )  # fmt: skip


def write_whole(path, text):
    """Write a text file that is either there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    os.replace(part, path)


def label(run):
    return f"{run.variant} / {run.task}"


def load(name):
    """A results file as it is stored, or an empty one. ValueError for a grid that does not exist."""
    if name not in GRIDS:
        raise ValueError(f"unknown experiment {name!r}; there are {', '.join(GRIDS)}")
    path = RESULTS / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text())
    return dict(experiment=name, settings={}, machines=[], rows=[])


def save(stored):
    """One row a line, so that a changed row is a changed line."""
    rows = ",\n  ".join(json.dumps(row) for row in stored["rows"])
    settings = ",\n  ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in stored["settings"].items())  # fmt: skip
    text = f"""{{
 "experiment": {json.dumps(stored["experiment"])},
 "settings": {{
  {settings}
 }},
 "machines": {json.dumps(stored["machines"])},
 "rows": [
  {rows}
 ]
}}
"""
    write_whole(RESULTS / f"{stored['experiment']}.json", text)


def separation(model, data):
    """How well the classes lie apart in the model's feature space, before its head.

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


@torch.no_grad()
def features(model, clips, batch_size=100):
    """The class token's features, one row a clip, each column scaled to a spread of 1."""
    model.eval()
    batches = [clips[start : start + batch_size] for start in range(0, len(clips), batch_size)]
    points = torch.cat([model.forward_features(to_video(batch)) for batch in batches]).numpy()
    return (points - points.mean(0)) / points.std(0)


def train_row(name, index, seed):
    """Train one line of a grid with one seed, on one thread; returns its row.

    `seconds` are the processor's, so that other work on the machine does not count.
    """
    torch.set_num_threads(1)
    run = GRIDS[name][index]
    sizes = SIZES | run.sizes
    size = sizes["num_frames"], sizes["image_size"]
    data, test = (task_clips(run.task, split, *size) for split in ("train", "test"))
    model = seeded(run.build, seed, **sizes)
    if run.change is not None:
        run.change(model)
    unfinished = CACHE / "experiments" / f"{name}_{index}_{seed}.run.safetensors"
    resumed = unfinished.exists()  # then the seconds below are not those of a whole run
    started = process_time()
    history = fit(model, data, **(BUDGET | run.budget), augment=AUGMENT[run.task], seed=seed,
                  checkpoint=unfinished, every=200, progress=False)  # fmt: skip
    seconds = process_time() - started
    row = dict(variant=run.variant, task=run.task, seed=seed, accuracy=round(evaluate(model, test), 4),
               train_accuracy=[round(epoch["accuracy"], 4) for epoch in history],
               parameters=count_parameters(model), seconds=None if resumed else round(seconds, 1))  # fmt: skip
    if run.features:
        row |= separation(model, test)
        if seed == 0:
            save_model(model, RESULTS / f"{run.variant}.safetensors", **row)
    return row, machine(), unfinished


def _verify(stored, grid):
    """Rows are added to a file only if all its settings are still those of the code."""
    settings = {label(run): json.loads(json.dumps(run.setting())) for run in grid}
    for name, setting in stored["settings"].items():
        if settings.get(name) != setting:
            raise ValueError(
                f"data/experiments/{stored['experiment']}.json: {name!r} was measured with {setting}, and the code "
                f"now says {settings.get(name)}; move the file away to measure again"
            )
    stored["settings"] = settings


def _measured_elsewhere(run, seed):
    """Row and machine of the same run in another grid's file, if there is one."""
    for other, grid in GRIDS.items():
        for twin in grid:
            if twin.task == run.task and twin.setting() == run.setting():
                stored = load(other)
                for row in stored["rows"]:
                    if (row["variant"], row["task"], row["seed"]) == (
                        twin.variant,
                        twin.task,
                        seed,
                    ):
                        return row | dict(variant=run.variant, taken_from=other), stored["machines"][row["machine"]]  # fmt: skip
    return None


def _end_with_parent():
    """A worker whose parent was killed stops too, instead of training on for nobody."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def fill(name, jobs=1):
    """Train what a grid's results file still lacks, `jobs` runs at a time on one thread each."""
    stored, grid = load(name), GRIDS[name]
    _verify(stored, grid)
    have = {(row["variant"], row["task"], row["seed"]) for row in stored["rows"]}
    order = {label(run): number for number, run in enumerate(grid)}
    missing = [
        (number, seed)
        for number, run in enumerate(grid)
        for seed in SEEDS
        if (run.variant, run.task, seed) not in have
    ]

    def add(row, on):
        if on not in stored["machines"]:
            stored["machines"].append(on)
        stored["rows"].append(row | dict(machine=stored["machines"].index(on)))
        stored["rows"].sort(
            key=lambda row: (order[f"{row['variant']} / {row['task']}"], row["seed"])
        )
        save(stored)

    with tqdm(total=len(missing), desc=name, unit="run") as bar:
        waiting = []
        for number, seed in missing:
            if found := _measured_elsewhere(grid[number], seed):
                add(*found)
                bar.update()
            else:
                waiting.append((name, number, seed))
        for row, on, unfinished in _trained(waiting, jobs):
            add(row, on)
            unfinished.unlink()
            bar.update()
            bar.write(f"{row['variant']} / {row['task']}, seed {row['seed']}: {row['accuracy']:.1%}, {row['seconds']} s")  # fmt: skip


def _trained(waiting, jobs):
    """The results of `train_row`, in the order in which they are ready."""
    if jobs == 1 or len(waiting) < 2:
        yield from (train_row(*one) for one in waiting)
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads
    pool = ProcessPoolExecutor(min(jobs, len(waiting)), context, _end_with_parent)
    try:
        for done in as_completed([pool.submit(train_row, *one) for one in waiting]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def table(name, measure="accuracy"):
    """{(variant, task): one number per seed} from a results file. ValueError if a row is missing."""
    rows = load(name)["rows"]
    found = {}
    for run in GRIDS[name]:
        values = [row[measure] for row in rows if (row["variant"], row["task"]) == (run.variant, run.task)]  # fmt: skip
        if len(values) != len(SEEDS):
            raise ValueError(
                f"data/experiments/{name}.json: {len(values)} of {len(SEEDS)} seeds of {label(run)!r}; "
                f"run python -m utils.experiments {name}"
            )
        found[run.variant, run.task] = values
    return found


def as_text(name, measure="accuracy"):
    """A table to print: median, lowest and highest seed of every line."""
    lines = [f"{name}: median of {len(SEEDS)} seeds (lowest to highest)"]
    for (variant, task), values in table(name, measure).items():
        lines.append(f"  {task:7}{variant:32}{np.median(values):7.1%}  ({min(values):.1%} to {max(values):.1%})")  # fmt: skip
    return "\n".join(lines)


def differ(first, second):
    """Whether one set of seeds lies wholly above the other; if they overlap, we claim no difference."""
    return min(first) > max(second) or min(second) > max(first)


def check(name, tolerance=0.03):
    """Train one line of a grid again and compare; returns what is wrong, an empty list if nothing.

    The line is the steadiest of those well above chance, its quickest seed. Other machines round
    differently, so its accuracy may differ by `tolerance` or by as much as the seeds do.
    """
    try:
        stored, measured = load(name), table(name)
        _verify(stored, GRIDS[name])
    except ValueError as error:
        return [str(error)]
    runs = {(run.variant, run.task): number for number, run in enumerate(GRIDS[name])}
    trained = {key: values for key, values in measured.items() if np.median(values) > 0.4}
    key = min(trained, key=lambda key: np.ptp(trained[key]))
    rows = [row for row in stored["rows"] if (row["variant"], row["task"]) == key]
    old = min(rows, key=lambda row: row["seconds"] or np.inf)
    new, _, unfinished = train_row(name, runs[key], old["seed"])
    unfinished.unlink()
    allowed = max(tolerance, np.ptp(measured[key]))
    line = f"{name}: {' / '.join(key)}, seed {old['seed']}: {new['accuracy']:.1%}, stored {old['accuracy']:.1%}"  # fmt: skip
    print(line, flush=True)
    if abs(new["accuracy"] - old["accuracy"]) > allowed or new["parameters"] != old["parameters"]:
        return [f"{line}: they differ by more than {allowed:.1%}, or in parameters"]
    return []
