"""`python -m utils.train`: the same training in one process and in two, whatever happens to them."""

import json
import os
import socket
import subprocess
import sys
import textwrap
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from utils import train, training
from utils.dataset import VideoFolder
from utils.model import TimeSformer
from utils.motion import CLASSES, make_clips
from utils.paths import DATA, ROOT
from utils.predict import main as predict_main
from utils.published import load_published
from utils.train import FolderClips, fused_attention, main, read_options, recompute_blocks, split
from utils.training import evaluate, fit, load_model
from utils.video import write_video

pytest.importorskip("accelerate", reason='needs pip install -e ".[train]"')
SMALL = dict(num_classes=3, image_size=16, num_frames=4, patch_size=8, dim=16, depth=2, heads=2)
OPTIONS = ["--frames=4", "--size=16", "--epochs=2", "--batch-size=4", "--cpu", "--every=2"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """train/ and validation/: three classes; 17 and 7 clips, neither divisible by the batch or by two."""
    root = tmp_path_factory.mktemp("videos")
    for part, number, seed in (("train", 17, 1), ("validation", 7, 2)):
        clips, _ = make_clips(number, seed=seed, num_frames=4, size=16)
        for index, clip in enumerate(clips):
            folder = root / part / CLASSES[index % 3]
            folder.mkdir(parents=True, exist_ok=True)
            write_video(folder / f"{part}_{index:02}.mkv", clip)
    return root


@pytest.fixture(scope="module")
def spies(tmp_path_factory):
    """Augmentations that note what they see, and one that dies, in a module of their own."""
    folder = tmp_path_factory.mktemp("spies")
    (folder / "spies.py").write_text(
        textwrap.dedent("""
        import hashlib, os, signal
        from pathlib import Path

        def note(clips, labels, rng):
            name = hashlib.sha256(clips.tobytes()).hexdigest()
            with open(os.environ["SPY"] + "." + os.environ.get("RANK", "0"), "a") as file:
                file.write(name + "\\n")
            return clips, labels

        def die_once(clips, labels, rng):
            note(clips, labels, rng)
            seen = Path(os.environ["SPY"] + "." + os.environ.get("RANK", "0"))
            died = Path(os.environ["SPY"] + ".died")
            if os.environ.get("RANK") == "1" and len(seen.read_text().split()) == 11 and not died.exists():
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return clips, labels
    """)
    )
    return folder


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def run(videos, out, *more, processes=1, spies=None, spy=None):
    """The command, in fresh processes of one thread each."""
    python = [sys.executable, "-m"]
    if processes > 1:  # as README.md has it
        python += ["accelerate.commands.launch", "--multi_gpu", f"--num_processes={processes}",
                   f"--main_process_port={free_port()}", "-m"]  # fmt: skip
    command = [*python, "utils.train", f"--data={videos}", f"--out={out}", *OPTIONS, *more]
    paths = os.pathsep.join(str(path) for path in (ROOT, spies) if path)
    env = os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=paths, SPY=str(spy))
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def alone(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    done = run(videos, out)
    assert done.returncode == 0, done.stderr
    return out


def same_run(one, other):
    """Loss curves and final weights agree up to rounding, and the counts exactly."""
    first, second = (json.loads((out / "history.json").read_text()) for out in (one, other))
    for ours, theirs in zip(first, second, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["accuracy"] == theirs["accuracy"] and ours["test_accuracy"] == theirs["test_accuracy"]  # fmt: skip
    ours, theirs = (load_file(out / "model.safetensors") for out in (one, other))
    assert ours.keys() == theirs.keys()
    for name in ours:
        pair = ours[name], theirs[name]
        if name.endswith("qkv.bias"):
            # What is added to all keys raises all scores of a query alike, and softmax takes it away: the
            # gradient there is nothing but rounding, which AdamW makes much of.
            pair = ([part for k, part in enumerate(bias.chunk(3)) if k != 1] for bias in pair)
        torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-5)


@pytest.mark.slow  # every day lesson 16 trains with two, kills them and goes on with one
def test_two_processes_train_as_one_does(videos, alone, tmp_path):
    """17 clips in batches of four: in each epoch's last step the second process has no clip of its own."""
    done = run(videos, tmp_path / "run", processes=2)
    assert done.returncode == 0, done.stderr
    assert "2 process(es) on cpu" in done.stdout
    same_run(alone, tmp_path / "run")


def test_every_clip_counts_once(videos, alone):
    history = json.loads((alone / "history.json").read_text())
    for row in history:
        assert (row["accuracy"] * 17) == pytest.approx(round(row["accuracy"] * 17))
        assert (row["test_accuracy"] * 7) == pytest.approx(round(row["test_accuracy"] * 7))
    model, notes = load_model(alone / "model.safetensors")
    held = VideoFolder(videos / "validation", 4, 16)
    assert evaluate(model, held.load(progress=False)) == history[-1]["test_accuracy"]
    assert notes["classes"] == list(held.classes)


@pytest.mark.parametrize("clips, batch", [(17, 4), (18, 4), (16, 4), (3, 4)])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_an_epochs_plan_gives_every_clip_to_one_process_once(clips, batch, processes):
    per_epoch = -(-clips // batch)
    seen = []
    for rank in range(processes):
        plan = training._plan(range(2 * per_epoch), per_epoch, batch, clips, 0, rank, processes)
        seen += [(epoch, index) for epoch, _, chosen, part in plan
                 for index in chosen[part] if rank < len(chosen)]  # fmt: skip
    assert sorted(seen) == [(epoch, index) for epoch in range(2) for index in range(clips)]


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_and_one_process_goes_on(videos, spies, tmp_path):
    """The second of two is killed in the second epoch; one goes on from the checkpoint, to the same end."""
    out, spy = tmp_path / "run", tmp_path / "spy"
    how = dict(spies=spies, spy=spy)
    died = run(videos, out, "--augment=spies:die_once", processes=2, **how)
    assert died.returncode != 0 and (tmp_path / "spy.died").exists()
    assert "as when another process ended" in died.stderr and "--resume goes on" in died.stderr
    assert not (out / "model.safetensors").exists()

    refused = run(videos, out, "--augment=spies:die_once", **how)
    assert refused.returncode == 1
    assert refused.stderr.strip().endswith("a run is there already; go on with --resume, or choose another --out")  # fmt: skip

    for file in tmp_path.glob("spy.[01]"):
        file.unlink()
    resumed = run(videos, out, "--augment=spies:die_once", "--resume", **how)
    assert resumed.returncode == 0, resumed.stderr
    undisturbed = run(videos, tmp_path / "whole", "--augment=spies:note", spies=spies, spy=tmp_path / "all")  # fmt: skip
    assert undisturbed.returncode == 0, undisturbed.stderr
    same_run(out, tmp_path / "whole")

    whole = (tmp_path / "all.0").read_text().split()
    assert (
        Counter(whole[:17]) == Counter(whole[17:]) and len(set(whole)) == 17
    )  # each once an epoch
    again = (tmp_path / "spy.0").read_text().split()
    assert whole[-len(again) :] == again and len(again) < len(
        whole
    )  # from the checkpoint, not anew


@pytest.mark.slow
def test_two_go_on_where_one_stopped_with_workers_and_pieces(videos, alone, tmp_path):
    """`every` 2 of ten steps: the first run is stopped after four by asking for fewer steps is another
    run, so its checkpoint is taken on the way."""
    out = tmp_path / "run"
    stopped = subprocess.run(
        [sys.executable, "-c", STOPPED, f"--data={videos}", f"--out={out}", *OPTIONS],
        cwd=ROOT, env=os.environ | dict(OMP_NUM_THREADS="1"), capture_output=True, text=True,
    )  # fmt: skip
    assert stopped.returncode == 1 and "enough" in stopped.stderr, stopped.stderr
    done = run(videos, out, "--resume", "--workers=1", "--accumulate=2", processes=2)
    assert done.returncode == 0, done.stderr
    same_run(alone, out)


STOPPED = """
import sys
from utils import train, training
rate = training.learning_rate
def stop(step, *rest):
    if step == 7:
        raise ValueError("enough")
    return rate(step, *rest)
training.learning_rate = stop
sys.exit(train.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_patience_ends_the_run_for_all_processes_and_keeps_the_best_epoch(videos, tmp_path):
    """The rate is so high that the first epochs are luck; a run that was stopped goes on to the same end."""
    more = ["--epochs=30", "--patience=2", "--learning-rate=0.02"]
    one, two = tmp_path / "one", tmp_path / "two"
    for out, processes in ((one, 1), (two, 2)):
        done = run(videos, out, *more, processes=processes)
        assert done.returncode == 0, done.stderr
        shares = [row["test_accuracy"] for row in json.loads((out / "history.json").read_text())]
        best = shares.index(max(shares))
        assert len(shares) == best + 3 < 30 and f"the best epoch, {best + 1} of {len(shares)}" in done.stdout  # fmt: skip
        model, notes = load_model(out / "best.safetensors")
        assert (notes["validation"], notes["epoch"]) == (max(shares), best + 1)
        assert evaluate(model, VideoFolder(videos / "validation", 4, 16).load(progress=False)) == max(shares)  # fmt: skip
        kept, result = (load_file(out / f"{name}.safetensors") for name in ("best", "model"))
        assert all(torch.equal(kept[name], result[name]) for name in kept)
    before = load_file(one / "model.safetensors")
    again = run(videos, one, *more, "--resume")  # nothing is left to do
    assert again.returncode == 0, again.stderr
    after = load_file(one / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    (one / "best.safetensors").unlink()  # as after a run that began without --patience
    lost = run(videos, one, *more, "--resume")
    assert lost.returncode == 1 and "best.safetensors: not there, so the best epoch so far is lost" in lost.stderr  # fmt: skip


# In this process, alone ---------------------------------------------------------------------------


@pytest.fixture
def fresh():
    """Accelerate keeps its state for the whole process; start without, and leave none behind."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def told(capsys, *arguments):
    """What the command says on its way out."""
    assert main(list(arguments)) == 1
    return capsys.readouterr().err.split("\r")[-1].strip()  # behind the progress bar


def test_tensorboard_config_and_resume(videos, tmp_path, capsys, fresh):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tmp_path / "run.toml"
    config.write_text('epochs = 1\n"batch-size" = 8\nsize = "16x32"\nframes = 4\nmodel = "tiny"\ncpu = true\n')  # fmt: skip
    out = tmp_path / "run"
    assert main([f"--config={config}", f"--data={videos}", f"--out={out}", "--batch-size=5"]) == 0
    given = read_options([f"--config={out / 'options.toml'}"])
    assert (given.batch_size, given.epochs, given.size, given.data) == (5, 1, (16, 32), str(videos))
    board = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == [1, 2, 3, 4]
    history = json.loads((out / "history.json").read_text())
    assert board.Scalars("epoch test_accuracy")[0].value == pytest.approx(history[0]["test_accuracy"])  # fmt: skip
    before = load_file(out / "model.safetensors")
    assert main([f"--config={out / 'options.toml'}", "--resume"]) == 0  # nothing is left to do
    after = load_file(out / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)  # fmt: skip
    assert main(["--resume", f"--out={out}"]) == 0  # the options noted there will do
    capsys.readouterr()
    noted = (out / "options.toml").read_text()
    assert "run was started with --epochs 1 and not 2;" in told(capsys, f"--config={out / 'options.toml'}", "--resume", "--epochs=2")  # fmt: skip
    assert (out / "options.toml").read_text() == noted  # what was refused has not spoilt the run
    rows = (out / "validation.csv").read_text().splitlines()
    assert len(rows) == 1 + len(list((videos / "validation").glob("*/*.mkv")))
    right = sum(row.split(",")[1] == row.split(",")[2] for row in rows[1:])
    assert right / len(rows[1:]) == pytest.approx(history[-1]["test_accuracy"])


def test_a_model_that_knew_other_classes_says_that_its_head_is_new(videos, tmp_path, capsys, fresh):  # fmt: skip
    arguments = [f"--data={videos}", f"--out={tmp_path / 'run'}", *OPTIONS, f"--model={DATA / 'motion_divided.safetensors'}"]  # fmt: skip
    message = "motion_divided.safetensors: other classes, so its head is new; the rest is kept"
    assert main(arguments) == 0 and message in capsys.readouterr().out
    assert main([*arguments, "--resume"]) == 0 and message not in capsys.readouterr().out


def test_the_model_answers_for_a_file(videos, alone, tmp_path, capsys):
    """`python -m utils.predict` with the folder of a run: the same answers as in validation.csv."""
    row = (alone / "validation.csv").read_text().splitlines()[1]
    name, _, said, share = (text.strip('"') for text in row.split(","))
    assert predict_main([str(alone), str(videos / "validation" / name)]) == 0
    line = capsys.readouterr().out.strip()
    assert line.startswith(f"{videos / 'validation' / name}: {said} {float(share):.0%}")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"")
    assert predict_main([str(alone / "model.safetensors"), str(broken), str(videos / "validation")]) == 1  # fmt: skip
    told = capsys.readouterr()
    assert "broken.mp4: the file is empty" in told.err and len(told.out.splitlines()) > 1
    assert predict_main([str(tmp_path), str(broken)]) == 1
    assert "model.safetensors: no such file; a run writes it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--data and --out must be given"),
        (["--data=nowhere", "--out=x"], "nowhere: no such folder"),
        (["--data={videos}", "--out={tmp}/run", "--model=nowhere.safetensors"], "nowhere.safetensors"),
        (["--data={videos}", "--out={tmp}/file/run", *OPTIONS], "file"),  # a file where a folder should be
        (["--config={tmp}/bad.toml"], "bad.toml: unknown option epoch;"),
        (["--config={tmp}/worse.toml"], "worse.toml: not TOML"),
        (["--data={videos}/train", "--out={tmp}/run", "--validation-share=0.1"], "groups (people, scenes, files) are too few"),
        (["--data={videos}/train", "--out={tmp}/run", "--group=[^_]+$", "--validation-share=0.2", "--frames=9"], "has 4 frames, 9 asked for"),
        (["--data={videos}", "--out={tmp}/run", *OPTIONS, "--scheme=local+global", "--frames=3"], "not all even"),
        (["--data={videos}", "--out={tmp}/file"], "file: a file, not a folder"),
        (["--data={videos}", "--out={tmp}/run", "--epochs=0"], "--epochs: 0 should be at least 1"),
        (["--data={videos}", "--out={tmp}/run", "--accumulate=0"], "--accumulate: 0 should be at least 1"),
        (["--data={videos}", "--out={tmp}/run", "--validation-share=0.7"], "0.7 should be above 0, at most 0.5"),
        (["--data={videos}", "--out={tmp}/run", "--size=1x2x3"], "1x2x3 is not a side in pixels"),
        (["--config={tmp}/half.toml"], "half.toml: argument --epochs: invalid whole number value: '1.5'"),
        (["--config={tmp}/odd.toml"], "odd.toml: argument --precision: invalid choice: 'float8'"),
        (["--config={tmp}/switch.toml"], "switch.toml: fused = 'no': true or false is for switches"),
        (["--data={videos}/train", "--out={tmp}/run", *OPTIONS, "--group=("], "--group (: no regular expression"),
        (["--data={videos}", "--out={tmp}/run", *OPTIONS, "--augment=nowhere"], "--augment nowhere: neither mirror nor module:function"),
        (["--data={videos}", "--out={tmp}/run", *OPTIONS, "--augment=utils.motion:nope"], "neither mirror nor module:function"),
        (["--data={videos}", "--out={tmp}/run", *OPTIONS, "--precision=fp16"], "fp16 needs a GPU"),
        (["--data={tmp}/one", "--out={tmp}/run", *OPTIONS], "one class only"),
        (["--data={tmp}/parts", "--out={tmp}/run", *OPTIONS], "would be the classes; call the parts train and validation"),
        (["--data={videos}", "--out={tmp}/run", *OPTIONS, "--frames=9"], "--pad repeats the last one"),
        (["--data={videos}", "--out={tmp}/run", *OPTIONS, "--frames=9", "--workers=1"], "--pad repeats the last one"),
        (["--data={videos}", "--out={tmp}/run", *OPTIONS, "--frames=9", "--cache"], "--skip-unreadable goes on without them"),
    ],
)  # fmt: skip
def test_one_clear_error(videos, tmp_path, capsys, arguments, message, fresh):
    (tmp_path / "file").write_text("")
    (tmp_path / "bad.toml").write_text("epoch = 3")
    (tmp_path / "worse.toml").write_text("epochs 3")
    (tmp_path / "half.toml").write_text("epochs = 1.5")
    (tmp_path / "odd.toml").write_text('precision = "float8"')
    (tmp_path / "switch.toml").write_text('fused = "no"')
    for place in ("one/left", "parts/train", "parts/test"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "a.mp4").write_bytes(b"")
    error = told(capsys, *[one.format(videos=videos, tmp=tmp_path) for one in arguments])
    assert message in error and "Traceback" not in error and error.startswith("utils.train: ")


@pytest.mark.slow  # test_training.py only pretends it, but every day
@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are a Unix thing")
def test_a_full_disk_keeps_the_last_good_checkpoint(videos, alone, tmp_path):
    """Files may not grow beyond a limit that the first checkpoints keep and the run then lowers."""
    out = tmp_path / "run"
    full = subprocess.run([sys.executable, "-c", FULL, f"--data={videos}", f"--out={out}", *OPTIONS],
                          cwd=ROOT, env=os.environ | dict(OMP_NUM_THREADS="1"), capture_output=True, text=True)  # fmt: skip
    assert full.returncode == 1
    assert "run.safetensors: cannot be written" in full.stderr and "Traceback" not in full.stderr
    assert not [path for path in out.iterdir() if ".part" in path.name]
    done = run(videos, out, "--resume")
    assert done.returncode == 0, done.stderr
    same_run(alone, out)


FULL = """
import resource, signal, sys
from utils import train, training
rate = training.learning_rate
def fill(step, *rest):
    if step == 5:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    return rate(step, *rest)
training.learning_rate = fill
sys.exit(train.main(sys.argv[1:]))
"""


def test_a_truncated_or_foreign_checkpoint_is_named_and_left_alone(videos, alone, tmp_path, capsys, fresh):  # fmt: skip
    out = tmp_path / "run"
    out.mkdir()
    for content in ((alone / "run.safetensors").read_bytes()[:500], (alone / "model.safetensors").read_bytes()):  # fmt: skip
        (out / "run.safetensors").write_bytes(content)
        error = told(capsys, f"--data={videos}", f"--out={out}", *OPTIONS, "--resume")
        assert f"{out / 'run.safetensors'}: " in error
        assert (out / "run.safetensors").read_bytes() == content


# Parts --------------------------------------------------------------------------------------------


def test_a_folder_is_a_source_like_arrays(videos):
    folder = VideoFolder(videos / "train", 4, 16)
    clips, labels = folder.load(progress=False)
    source = FolderClips(folder, [3, 5, 8, 1])
    read, theirs = source.read(np.array([2, 0]))
    assert (read == clips[[8, 3]]).all() and (theirs == labels[[8, 3]]).all()
    torch.manual_seed(0)
    ours, arrays = TimeSformer(**SMALL), TimeSformer(**SMALL)
    arrays.load_state_dict(ours.state_dict())
    how = dict(epochs=2, batch_size=5, progress=False, keep_last=True)
    assert fit(ours, FolderClips(folder, range(17)), **how) == fit(arrays, (clips, labels), **how)
    cached = FolderClips(folder, range(17), clips=clips)
    assert (cached.read(np.arange(4))[0] == clips[:4]).all()


def test_augmentation_does_not_depend_on_who_reads_the_clip(videos):
    folder = VideoFolder(videos / "train", 4, 16)
    source = FolderClips(folder, range(17), augment=train.mirror)
    chosen = np.array([4, 9, 2, 16])
    whole, _ = source[1, 0, chosen, slice(None)]
    halves = [source[1, 0, chosen, slice(rank, None, 2)][0] for rank in range(2)]
    assert (whole[0::2] == halves[0]).all() and (whole[1::2] == halves[1]).all()
    plain, _ = source.read(chosen)
    mirrored = [not (one == other).all() for one, other in zip(whole, plain)]
    assert all((one == other[:, :, ::-1]).all() for one, other, turned in zip(whole, plain, mirrored) if turned)  # fmt: skip
    epochs = [source[epoch, 0, chosen, slice(None)][0].tobytes() for epoch in range(6)]
    assert len(set(epochs)) > 1


@pytest.mark.parametrize("name", ["motion_divided.safetensors", "published", "published/model.safetensors"])  # fmt: skip
def test_every_kind_of_model_to_start_from(name):
    given = read_options(
        ["--data=x", "--out=y", f"--model={DATA / name}", "--frames=4", "--size=32"]
    )
    model, anew = train.make_model(given, ("jump", "wave"))
    assert anew
    assert model.clip_shape == (4, 3, 32, 32) and model.head.out_features == 2
    video = torch.randn(1, *model.clip_shape)
    assert model(video).shape == (1, 2)
    if "published" in name:
        body, _ = load_published(DATA / name, num_frames=4, image_size=32)
        torch.testing.assert_close(model.blocks.state_dict(), body.blocks.state_dict())


def test_groups_stay_on_one_side(tmp_path):
    for label in ("jump", "wave"):
        (tmp_path / label).mkdir()
        for person in ("anna", "ben", "chen", "dora"):
            for take in range(2):
                write_video(tmp_path / label / f"{person}_{take}.mkv", np.zeros((4, 16, 16, 3), np.uint8))  # fmt: skip
    folder = VideoFolder(tmp_path, 4, 16)
    kept, held = split(folder, 0.25, group="^[^_]+")
    people = [{folder.paths[k].stem.split("_")[0] for k in side} for side in (kept, held)]
    assert len(kept) + len(held) == 16 and not people[0] & people[1] and len(people[1]) == 1
    with pytest.raises(ValueError, match="finds no group in this name"):
        split(folder, 0.25, group="^x")


def test_fused_and_recomputed_models_answer_and_learn_alike():
    video = torch.randn(2, 4, 3, 16, 16)
    grads = []
    for change in (lambda model: model, fused_attention, recompute_blocks):
        torch.manual_seed(0)
        model = change(TimeSformer(**SMALL))
        for block in model.blocks:
            torch.nn.init.normal_(block.steps[0].project.weight, std=0.1)
        loss = model(video).square().sum()
        loss.backward()
        grads.append([loss, *[parameter.grad for parameter in model.parameters()]])
        assert sorted(model.state_dict()) == sorted(TimeSformer(**SMALL).state_dict())
    for other in grads[1:]:
        for ours, theirs in zip(grads[0], other):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
