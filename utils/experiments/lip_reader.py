"""The model that reads lips: five seeds of the recipe, and the weights that the course keeps."""

import json
from time import process_time

from utils import lips, paths
from utils.experiments.runs import in_parallel, one_thread
from utils.experiments.spoken import fingerprint
from utils.experiments.tables import machine
from utils.paths import DATA, write_text
from utils.recipe import LIPS_MODEL, LIPS_RECIPE, LIPS_WEIGHTS, train_lips
from utils.training import predict_views, save_model

SEEDS = range(5)
RESULTS, WEIGHTS = DATA / "experiments" / "lips-seeds.json", DATA / "lips.safetensors"


def measure(model, split="test"):
    """Accuracies on the sentences of a split, each window looked at in eighteen ways; rounded."""
    windows, labels = lips.windows(lips.words(split), margin=lips.MARGIN, progress=False)
    told = lips.accuracies(predict_views(model, lips.views(windows)), labels)
    return {name: round(share, 4) for name, share in told.items()}


def train(name, seed, recipe):
    """Train on the sentences for training and validation, test on those for test: (row, machine, model).

    On one thread. A run that was killed goes on where it stopped; its seconds are then not known.
    """
    with one_thread():
        checkpoint = paths.cache_folder() / "experiments" / f"lips-{name}-{seed}.run.safetensors"
        resumed = checkpoint.exists()
        words = [word for split in ("train", "validation") for word in lips.words(split)]
        started = process_time()
        model, history, _ = train_lips(seed, words, recipe, checkpoint, progress=False)
        seconds = None if resumed else round(process_time() - started)
        row = dict(seed=seed, epochs=recipe["epochs"], seconds=seconds, test=measure(model),
                   train_accuracy=[round(epoch["accuracy"], 4) for epoch in history])  # fmt: skip
        return row, machine(), model


def _row(name, seed, recipe):
    row, on, _ = train(name, seed, recipe)
    return row, on


def seeds(jobs=1):
    """Five seeds of the recipe: data/experiments/lips-seeds.json. Every row is saved at once.

    ValueError if the file holds rows made with another model, recipe or data.
    """
    setting = json.loads(json.dumps(dict(model=LIPS_MODEL, recipe=LIPS_RECIPE, data=fingerprint())))
    stored = dict(setting, machines=[], rows=[])
    if RESULTS.exists():
        stored = json.loads(RESULTS.read_text(encoding="utf-8"))
        if {name: stored[name] for name in setting} != setting:
            raise ValueError(f"{RESULTS.name}: made with another model, recipe or data; move it away to measure again")  # fmt: skip
    have = {row["seed"] for row in stored["rows"]}
    missing = [("seeds", seed, LIPS_RECIPE) for seed in SEEDS if seed not in have]
    for row, on in in_parallel(_row, missing, [f"seed {seed}" for _, seed, _ in missing], jobs):
        if on not in stored["machines"]:
            stored["machines"].append(on)
        stored["rows"].append(row | dict(machine=stored["machines"].index(on)))
        stored["rows"].sort(key=lambda row: row["seed"])
        write_text(RESULTS, json.dumps(stored, indent=1) + "\n")
        print(f"seed {row['seed']}: {row['test']['all']:.1%} of the test words, {row['seconds']} s", flush=True)  # fmt: skip


def weights():
    """The weights that the course keeps, in half precision: data/lips.safetensors."""
    row, on, model = train("weights", 0, LIPS_WEIGHTS)
    model.half()
    test = measure(model.float())  # what is kept is what is measured
    notes = row | dict(test=test, machine=on, recipe=LIPS_WEIGHTS, data=fingerprint(), classes=lips.CLASSES)  # fmt: skip
    save_model(model.half(), WEIGHTS, **notes)
    print(f"{test['all']:.1%} of the test words, {row['seconds']} s")
