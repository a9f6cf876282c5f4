"""The results files behind the tables of lessons 13 and 14: read, written whole, compared.

One file per grid, data/experiments/NAME.json: the settings of every line, the machines, and one row
per line and seed. runs.py fills them.
"""

import json
import os
import platform

import cv2
import numpy as np
import torch

from utils.experiments.grids import GRIDS
from utils.paths import DATA, write_text

RESULTS = DATA / "experiments"


def machine():
    """What a measurement was made on: enough to judge its seconds, nothing private."""
    return dict(
        processor=platform.machine(), cores=os.cpu_count(), threads=torch.get_num_threads(), system=platform.system(),
        python=platform.python_version(), torch=torch.__version__, opencv=cv2.__version__,
    )  # fmt: skip


def line_name(run):
    """How a line of a table is called in its file."""
    return f"{run.variant} / {run.task}"


def row_key(row):
    """What a row is the result of: (variant, task, seed)."""
    return row["variant"], row["task"], row["seed"]


def load(name):
    """A results file as it is stored, or an empty one. ValueError for a grid that does not exist."""
    if name not in GRIDS:
        raise ValueError(f"unknown experiment {name!r}; there are {', '.join(GRIDS)}")
    path = RESULTS / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    return dict(experiment=name, settings={}, machines=[], rows=[])


def save(stored):
    """Write a results file with one row a line, so that a changed row is a changed line."""
    rows = ",\n  ".join(json.dumps(row) for row in stored["rows"])
    settings = ",\n  ".join(
        f"{json.dumps(name)}: {json.dumps(setting)}" for name, setting in stored["settings"].items()
    )
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
    write_text(RESULTS / f"{stored['experiment']}.json", text)


def verify(stored):
    """ValueError if a row of a results file was measured with other settings than the code has now."""
    settings = {line_name(run): run.setting() for run in GRIDS[stored["experiment"]]}
    for row in stored["rows"]:
        name = f"{row['variant']} / {row['task']}"
        if name not in settings:
            raise ValueError(
                f"data/experiments/{stored['experiment']}.json: {name!r} is no line of the grid any more; "
                "move the file away to measure again"
            )
        then, now = stored["settings"].get(name, {}), settings.get(name, {})
        changed = [key for key in then | now if then.get(key) != now.get(key)]
        if changed:
            raise ValueError(
                f"data/experiments/{stored['experiment']}.json: {name!r} was measured with another {', '.join(changed)} "
                "than the code has now; move the file away to measure again"
            )


def table(name, measure="accuracy"):
    """{(variant, task): one number per seed} from a results file. ValueError if a row is missing."""
    rows = load(name)["rows"]
    found = {}
    for run in GRIDS[name]:
        values = [row[measure] for row in rows if (row["variant"], row["task"]) == (run.variant, run.task)]  # fmt: skip
        if len(values) != len(run.seeds):
            raise ValueError(
                f"data/experiments/{name}.json: {len(values)} of {len(run.seeds)} seeds of {line_name(run)!r}; "
                f"run python -m utils.experiments {name}"
            )
        found[run.variant, run.task] = values
    return found


def as_text(name, measure="accuracy"):
    """A table to print: median, lowest and highest seed of every line."""
    lines = [f"{name}: median of the seeds (lowest to highest)"]
    for (variant, task), values in table(name, measure).items():
        lines.append(f"  {task:7}{variant:32}{np.median(values):7.1%}  ({min(values):.1%} to {max(values):.1%})")  # fmt: skip
    return "\n".join(lines)


def differ(first, second, clips=1000):
    """Whether we claim a difference: no seed overlaps, and test clips alone cannot explain the gap.

    `first` and `second` are accuracies, one per seed, on the same `clips` test clips, which give
    every accuracy an error of its own (two standard errors count). For other numbers `clips` is None.
    """
    if min(first) <= max(second) and min(second) <= max(first):
        return False
    if clips is None:
        return True
    p = np.clip((np.median(first) + np.median(second)) / 2, 0.5 / clips, 1 - 0.5 / clips)
    error = np.sqrt(2 * p * (1 - p) / clips)
    return bool(abs(np.median(first) - np.median(second)) > 2 * error)
