"""The measurements behind the course's claims: `python -m utils.experiments NAME`.

    a grid         {grids}:
                   trains every line of one of the tables of lesson 14 with five seeds (lips:
                   mostly three) and writes data/experiments/NAME.json; `all` does one grid after the other
    motion-seeds   train the course's model on the motion clips with five seeds, read from .mp4
                   files; writes data/motion_seeds.json, and the first seed's model to
                   data/motion_divided.safetensors
    recipe-variants
                   one change to the recipe at a time, three seeds each; writes
                   data/recipe_variants.json
    lips-seeds     train the model that reads lips with five seeds, on the sentences for training and
                   validation, and test it; writes data/experiments/lips-seeds.json
    lips-weights   train the three models that the course keeps, data/lips_0.safetensors and so on
    lips-fresh     train those three again without 125 sentences that were never asked about, ask once,
                   and so twice; writes data/experiments/lips-fresh.json
    lips-tiles     train the one with small patches that lessons look into, data/lips_tiles.safetensors
    hands          train on synthetic arms, test on real hands (in ../shared/videos/gestures, not a
                   part of the course), five seeds; writes data/experiments/hands.json
    fine-tuning    start from the motion model, from a checkpoint in the published layout, and from
                   nothing; three seeds; writes data/experiments/fine-tuning.json and data/published
    scaling        time training steps and the course's trainings on this machine, on its GPU if it has
                   one; writes data/experiments/scaling-GPU.json or scaling-CPU.json
    samples        write the sample clips to data/samples
    overview       draw the README's pictures, data/reading.png and data/overview.gif

An experiment that was killed goes on where it stopped. A results file that was made with other
settings is never overwritten: move it away first. `--check` trains a line of every grid's table
again, or of the one named, and compares.
"""

import argparse
import json
import math
import os
from unittest.mock import patch

import numpy as np
import torch

from utils import lips, plots
from utils.experiments import fine_tuning, hands, lip_reader, runs, scaling, tables
from utils.experiments.grids import GRIDS, turn_only
from utils.experiments.tables import machine
from utils.experiments.variants import no_time, random_time, small_time
from utils.motion import CLASSES, make_clip, make_counter
from utils.paths import DATA, cache_folder, write_text
from utils.recipe import MODEL, RECIPE, motion_data, read_lips, train_motion
from utils.rollout import attention_rollout
from utils.training import evaluate, load_model, predict, save_model
from utils.video import read_frames, write_video


def _measure(results, variant, seed, stored, keep=None, **how):
    """Train one variant with one seed and add a line to the results file; skip what is there.

    `keep` is a file for the model. It is written before the line: with the line there, nobody would
    miss the model.
    """
    if any(row["variant"] == variant and row["seed"] == seed for row in stored["rows"]):
        return
    run = cache_folder() / f"{variant.replace(' ', '_')}_{seed}.run.safetensors"
    resumed = run.exists()  # then the seconds below are not those of a whole run
    model, history, seconds = train_motion(seed, checkpoint=run, **how)
    row = dict(
        variant=variant,
        seed=seed,
        test_accuracy=round(evaluate(model, motion_data("test")), 4),
        seconds=None if resumed else round(seconds, 1),
        train_accuracy=[round(epoch["accuracy"], 4) for epoch in history],
    )
    if keep is not None:
        save_model(model, keep, classes=CLASSES, **row)
    stored["rows"].append(row)
    write_text(results, json.dumps(stored, indent=1) + "\n")
    run.unlink()
    print(f"{variant}, seed {seed}: {row['test_accuracy']:.1%}, {row['seconds']} s", flush=True)


def _stored(results):
    """The results file, or a new one. ValueError if it was made otherwise: it is not overwritten."""
    setting = dict(model=MODEL, recipe=RECIPE, machine=machine())
    if not results.exists():
        return dict(**setting, rows=[])
    stored = json.loads(results.read_text(encoding="utf-8"))
    if {name: stored.get(name) for name in setting} != setting:
        raise ValueError(
            f"{results.name}: made with another model, recipe or machine; move it away to measure again"
        )
    return stored


def motion_seeds():
    """Five seeds of the course's recipe; the first one's model is the one the lessons load."""
    results = DATA / "motion_seeds.json"
    stored = _stored(results)
    for seed in range(5):
        keep = DATA / "motion_divided.safetensors" if seed == 0 else None
        _measure(results, "the recipe", seed, stored, keep)


def recipe_variants():
    """One change to the recipe at a time, three seeds each."""
    results = DATA / "recipe_variants.json"
    stored = _stored(results)
    variants = {
        "space only": dict(scheme="space"),
        "random time embedding": dict(prepare=random_time),
        "small time embedding": dict(prepare=small_time),
        "no time embedding": dict(prepare=no_time),
        "no augmentation": dict(augment=None),
        "labels not remapped": dict(augment=turn_only),
        "no warm-up": dict(warm_up=0),
        "no clipping": dict(clip_norm=math.inf),
    }
    for variant, how in variants.items():
        for seed in range(3):
            _measure(results, variant, seed, stored, **how)
    with patch("utils.training.learning_rate", lambda step, steps, peak, warm_up: peak):
        for seed in range(3):
            _measure(results, "constant rate", seed, stored)


def samples():
    """Sample clips, larger and longer than the training clips: 24 frames of 96 x 96."""
    folder = DATA / "samples"
    folder.mkdir(exist_ok=True)
    seeds = (500, 101, 302, 403, 404, 305)  # six shapes, all of them well in the picture
    for label, (name, seed) in enumerate(zip(CLASSES, seeds)):
        clip = make_clip(label, np.random.default_rng(seed), num_frames=24, size=96)
        write_video(folder / f"{name}.mp4", clip, fps=24)
    write_video(folder / "counter.mp4", make_counter(), fps=25)


def overview():
    """The pictures in README.md: a sentence as the models read it, and what the motion model sees."""
    frames = read_frames(lips.clip_path("bwbh1a"))
    sentence = [word for word in lips.words("test") if word.sentence == "bwbh1a"]
    read = lips.in_slot(read_lips(sentence), lips.SLOT_OF[lips.labels_of(sentence)])
    moving = plots.subtitles(frames, sentence, [lips.CLASSES[k] for k in read])
    (DATA / "reading.png").write_bytes(moving.data)

    model, _ = load_model(DATA / "motion_divided.safetensors")
    files = [DATA / "samples" / f"{name}.mp4" for name in CLASSES]
    clips = np.stack([read_frames(file, 8, 32) for file in files])
    large = np.stack([read_frames(file, 8) for file in files])
    maps = torch.stack([attention_rollout(model, clip) for clip in clips])
    plots.overview(DATA / "overview.gif", large, maps, predict(model, clips), CLASSES)


OTHERS = {
    "motion-seeds": motion_seeds,
    "recipe-variants": recipe_variants,
    "lips-seeds": lip_reader.seeds,
    "lips-weights": lip_reader.weights,
    "lips-fresh": lip_reader.fresh,
    "lips-tiles": lip_reader.tiles,
    "hands": hands.hands,
    "fine-tuning": fine_tuning.fine_tuning,
    "scaling": scaling.scaling,
    "samples": samples,
    "overview": overview,
}


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.format(grids=", ".join(GRIDS)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", choices=["all", *GRIDS, *OTHERS])
    parser.add_argument("--check", action="store_true", help="train a line of each table again")
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(8, os.cpu_count() or 1),
        help="runs of a grid at a time (%(default)s)",
    )
    arguments = parser.parse_args()
    if arguments.name is None and not arguments.check:
        parser.error("which experiment? all, or one of: " + ", ".join([*GRIDS, *OTHERS]))
    if arguments.jobs < 1:
        parser.error(f"--jobs is at least 1, not {arguments.jobs}")
    if arguments.check and arguments.name in OTHERS:
        parser.error(f"--check is for the grids, not for {arguments.name}: {', '.join(GRIDS)}")
    names = GRIDS if arguments.name in (None, "all") else [arguments.name]
    try:
        if arguments.check:
            problems = [problem for name in names for problem in runs.check(name)]
            raise SystemExit("\n".join(problems) if problems else 0)
        for name in names:
            if name in OTHERS:
                OTHERS[name](
                    *(
                        [arguments.jobs]
                        if name
                        in ("lips-seeds", "lips-weights", "lips-fresh", "hands", "fine-tuning")
                        else []
                    )
                )
            else:
                runs.fill(name, arguments.jobs)
                print(tables.as_text(name), flush=True)
    except (ValueError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
