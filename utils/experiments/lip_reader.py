"""The models that read lips: five seeds of the recipe, the three that the course keeps, those three made
again for sentences that nobody was asked about, and one to look into."""

import json
from time import process_time

import numpy as np
from safetensors.numpy import save_file

from utils import lips, paths
from utils.experiments.runs import in_parallel, one_thread
from utils.experiments.spoken import fingerprint
from utils.experiments.tables import machine
from utils.paths import DATA, whole_file, write_text
from utils.recipe import (
    LIPS_KEPT,
    LIPS_MODEL,
    LIPS_RECIPE,
    LIPS_TILES,
    LIPS_TILES_RECIPE,
    read_lips,
    train_lips,
)  # fmt: skip
from utils.training import load_model, save_model

SEEDS = range(5)
RESULTS = DATA / "experiments" / "lips-seeds.json"
WEIGHTS = [DATA / f"lips_{number}.safetensors" for number in range(len(LIPS_KEPT))]
ANSWERS = DATA / "lips_answers.safetensors"  # of each of WEIGHTS to the test words
TILES = DATA / "lips_tiles.safetensors"
# The test words were asked for several teams of readers, so they flatter the one that was chosen. Twice as
# many sentences, which had only ever been trained on, are asked about once: fixed before anything was run.
FRESH = DATA / "experiments" / "lips-fresh.json"
FOLDS, ASKED = 2, 125  # as many sentences a fold as there are for test


def measure(models, split="test", aside=1):
    """Accuracies of a model, or of several together, on the sentences of a split.

    Each window is looked at in eighteen ways, `aside` as in `lips.views`. Shares, rounded.
    """
    words = lips.words(split)
    models = models if isinstance(models, list) else [models]
    return _shares(read_lips(words, models, aside=aside), words)


def _shares(probabilities, words):
    told = lips.accuracies(probabilities, lips.labels_of(words))
    return {name: round(share, 4) for name, share in told.items()}


def train(name, seed, recipe, sizes=None):
    """Train on the sentences for training and validation, test on those for test: (row, machine, model).

    On one thread. A run that was killed goes on where it stopped; its seconds are then not known.
    """
    words = [word for split in ("train", "validation") for word in lips.words(split)]
    row, on, model = _train_on(words, name, seed, recipe, sizes)
    with one_thread():
        return row | dict(test=measure(model)), on, model


def _train_on(words, name, seed, recipe, sizes):
    with one_thread():
        checkpoint = paths.cache_folder() / "experiments" / f"lips-{name}-{seed}.run.safetensors"
        resumed = checkpoint.exists()
        started = process_time()
        model, history, _ = train_lips(seed, words, recipe, checkpoint, progress=False, sizes=sizes)
        seconds = None if resumed else round(process_time() - started)
        row = dict(seed=seed, epochs=recipe["epochs"], seconds=seconds,
                   train_accuracy=[round(epoch["accuracy"], 4) for epoch in history])  # fmt: skip
        return row, machine(), model


def _row(name, seed, recipe):
    row, on, model = train(name, seed, recipe)
    return row | dict(test_straight=measure(model, aside=0)), on


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


def fresh_words(fold):
    """What a fold trains on, and what it is asked about: two lists of words, of different sentences.

    Asked are ASKED of the sentences for training, so nothing was ever chosen by them; in a fold the test
    sentences are trained on in their place, beside those for validation.
    """
    names = sorted({word.sentence for word in lips.words("train")})
    drawn = np.random.default_rng(0).permutation(names)[ASKED * fold : ASKED * (fold + 1)]
    asked = set(drawn.tolist())
    everything = lips.words()
    return [word for word in everything if word.sentence not in asked], [word for word in everything if word.sentence in asked]  # fmt: skip


def _train_fresh(fold, number):
    """One of the kept models for a fold, in eight bits like those, unless it lies in the cache; its file."""
    sizes, recipe, seed = LIPS_KEPT[number]
    path = paths.cache_folder() / "experiments" / f"lips-fresh-{fold}-{number}.safetensors"
    setting = json.loads(json.dumps(dict(fold=fold, sizes=sizes, recipe=recipe, seed=seed, data=fingerprint())))  # fmt: skip
    if path.exists():
        notes = load_model(path)[1]
        if {name: notes[name] for name in setting} == setting:
            return fold, number, path
    row, on, model = _train_on(fresh_words(fold)[0], f"fresh{fold}.{number}", seed, recipe, sizes)
    save_model(model, path, eight_bits=True, **row | setting, machine=on)
    return fold, number, path


def fresh(jobs=1):
    """The three kept models made again for sentences nobody was asked about: data/experiments/lips-fresh.json.

    Each fold is asked once, when its models are all there. ValueError if the file holds other settings.
    """
    setting = json.loads(json.dumps(dict(kept=LIPS_KEPT, folds=FOLDS, asked=ASKED, data=fingerprint())))  # fmt: skip
    stored = dict(setting, rows=[])
    if FRESH.exists():
        stored = json.loads(FRESH.read_text(encoding="utf-8"))
        if {name: stored[name] for name in setting} != setting:
            raise ValueError(f"{FRESH.name}: made with other models or data; move it away to measure again")  # fmt: skip
    have, files = {row["fold"] for row in stored["rows"]}, {}
    missing = [(f, n) for f in range(FOLDS) if f not in have for n in range(len(LIPS_KEPT))]
    for fold, number, path in in_parallel(_train_fresh, missing, [f"fold {f}, model {n}" for f, n in missing], jobs):  # fmt: skip
        files[fold, number] = path
        if not all((fold, n) in files for n in range(len(LIPS_KEPT))):
            continue
        readers = [load_model(files[fold, n]) for n in range(len(LIPS_KEPT))]
        asked = fresh_words(fold)[1]
        answers = [read_lips(asked, [model]) for model, _ in readers]
        row = dict(fold=fold, words=len(asked), seconds=[notes["seconds"] for _, notes in readers],
                   alone=[_shares(answer, asked)["all"] for answer in answers],
                   together=_shares(lips.together(answers), asked))  # fmt: skip
        stored["rows"] = sorted([*stored["rows"], row], key=lambda row: row["fold"])
        write_text(FRESH, json.dumps(stored, indent=1) + "\n")
        print(f"fold {fold}: {row['together']['all']:.1%} of {len(asked)} words", flush=True)


def _keep(number):
    """Train one of the models that are kept, unless it lies in the cache; its file there."""
    sizes, recipe, seed = LIPS_KEPT[number]
    path = paths.cache_folder() / "experiments" / f"lips-kept-{number}.safetensors"
    setting = json.loads(json.dumps(dict(sizes=sizes, recipe=recipe, seed=seed, data=fingerprint())))  # fmt: skip
    if path.exists():
        notes = load_model(path)[1]
        if {name: notes[name] for name in setting} == setting:
            return path
    row, on, model = train(f"kept{number}", seed, recipe, sizes)
    save_model(model, path, **row | setting, machine=on, classes=lips.CLASSES)
    return path


def weights(jobs=1):
    """The three models that the course keeps, in eight bits, what they read alone and together, and
    the probabilities they gave: a tensor (words, 51) for each file's name in ANSWERS.
    """
    numbers = range(len(LIPS_KEPT))
    files = sorted(in_parallel(_keep, [(n,) for n in numbers], [f"model {n}" for n in numbers], jobs))  # fmt: skip
    for path, file in zip(WEIGHTS, files):
        model, notes = load_model(file)
        save_model(model, path, eight_bits=True, **notes)
    kept, words = [load_model(path) for path in WEIGHTS], lips.words("test")
    answers = [read_lips(words, [model]) for model, _ in kept]  # what is kept is what is measured
    together = _shares(lips.together(answers), words)
    for (model, notes), path, answer in zip(kept, WEIGHTS, answers):
        notes |= dict(test=_shares(answer, words), together=together)
        save_model(model, path, eight_bits=True, **notes)
        print(f"{path.name}: {notes['test']['all']:.1%} of the test words, {notes['seconds']} s")
    with whole_file(ANSWERS) as part:
        save_file({path.stem: answer for path, answer in zip(WEIGHTS, answers)}, part)
    print(f"together: {together['all']:.1%}")


def tiles():
    """The model with small patches that lessons 02, 06, 07 and 09 look into; kept and measured in eight bits."""
    setting = json.loads(json.dumps(dict(sizes=LIPS_TILES, recipe=LIPS_TILES_RECIPE, data=fingerprint())))  # fmt: skip
    row, on, model = train("tiles", 0, LIPS_TILES_RECIPE, LIPS_TILES)
    notes = row | setting | dict(machine=on, classes=lips.CLASSES)
    save_model(model, TILES, eight_bits=True, **notes)
    notes["test"] = measure(load_model(TILES)[0])
    save_model(model, TILES, eight_bits=True, **notes)
    print(f"{TILES.name}: {notes['test']['all']:.1%} of the test words, {notes['seconds']} s")
