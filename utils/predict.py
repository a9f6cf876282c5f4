"""What a trained model says of videos.

    python -m utils.predict MODEL VIDEO [VIDEO …]

MODEL is the folder of a run of `python -m utils.train`, or a file that `save_model` wrote. Frames and size
are the model's, the names of the classes its notes'. A VIDEO may be a folder: all videos in it, then.
"""

import argparse
import sys
from pathlib import Path

from utils.training import load_model, predict
from utils.video import VIDEO_SUFFIXES, VideoError, read_frames


def open_model(path):
    """A model and its notes, by its file or by the folder of its run. ValueError where there is none."""
    path = Path(path)
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{file}: no such file; a run writes it when it has ended")
    return load_model(file)


def answer(model, path, pad=False):
    """Class probabilities of one video: (num_classes,). VideoError when it cannot be read."""
    frames, _, height, width = model.clip_shape
    return predict(model, read_frames(path, frames, (height, width), pad=pad)[None])[0]


def videos_in(path):
    """The path itself, or all videos in a folder and in its folders. ValueError where there are none."""
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
    if not found:
        raise ValueError(f"{path}: no video in this folder")
    return found


def main(arguments=None):
    """The command: a line per video; 0 when all could be read."""
    parser = argparse.ArgumentParser(prog="python -m utils.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("videos", metavar="VIDEO", nargs="+", type=Path)
    parser.add_argument("--top", type=int, default=3, help="how many classes to name (%(default)s)")
    parser.add_argument("--pad", action="store_true", help="repeat the last frame of videos that are too short (as in training, if it did)")  # fmt: skip
    given = parser.parse_args(arguments)
    failed = 0
    try:
        model, notes = open_model(given.model)
        classes = notes.get("classes") or [f"class {k}" for k in range(model.config["num_classes"])]
        for path in (video for one in given.videos for video in videos_in(one)):
            try:
                shares = answer(model, path, given.pad or notes.get("pad", False))
            except VideoError as error:
                print(f"utils.predict: {error}", file=sys.stderr)
                failed = 1
                continue
            best = shares.argsort(descending=True)[: given.top].tolist()
            print(f"{path}: " + ", ".join(f"{classes[k]} {shares[k]:.0%}" for k in best), flush=True)  # fmt: skip
    except (ValueError, OSError) as error:
        print(f"utils.predict: {error}", file=sys.stderr)
        return 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
