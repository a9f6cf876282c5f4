"""The options of `python -m utils.train`: from the command line, from a file, and noted with a run."""

import argparse
import json
import math
import sys
import tomllib
from pathlib import Path

from utils.model import SCHEMES
from utils.paths import write_text

SIZES = {
    "tiny": dict(patch_size=8, dim=48, depth=2, heads=4),  # of lesson 11
    "small": dict(patch_size=16, dim=192, depth=6, heads=3),
    "base": dict(patch_size=16, dim=768, depth=12, heads=12),  # of the paper
}

# What a run is: to go on with it, these stay as they were.
FIXED = ("frames", "size", "sampling", "pad", "skip_unreadable", "validation_share", "group", "augment", "model", "scheme",
         "dropout", "freeze", "epochs", "batch_size", "learning_rate", "weight_decay", "warm_up", "clip_norm", "seed")  # fmt: skip


def side(text):
    """ "64" is a square, "48x96" height and width, in pixels."""
    sides = [int(part) for part in str(text).split("x")]
    if len(sides) > 2 or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a side in pixels, nor HEIGHTxWIDTH")
    return sides[0] if len(sides) == 1 else tuple(sides)


def number(kind, least, most=math.inf, above=False):
    """An option's type: a number from `least` to `most`, or above `least`."""

    def read(text):
        value = kind(text)
        if not (least < value if above else least <= value) or not value <= most:
            limits = f"{'above' if above else 'at least'} {least}" + (f", at most {most}" if most < math.inf else "")  # fmt: skip
            raise argparse.ArgumentTypeError(f"{text} should be {limits}")
        return value

    read.__name__ = {int: "whole number", float: "number"}[kind]  # for argparse's "invalid … value"
    return read


class Parser(argparse.ArgumentParser):
    """Says what is wrong by ValueError, so that a file of options is named."""

    def error(self, message):
        raise ValueError(message)


def options(description=None):
    """The command line of `python -m utils.train`."""
    count, share, above = number(int, 1), number(float, 0, 1), number(float, 0, above=True)
    parser = Parser(prog="python -m utils.train", description=description, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("--config", metavar="FILE", help="options from a TOML file (names as here, without --); the command line takes precedence")  # fmt: skip
    add("--data", metavar="FOLDER", help="videos, a folder per class")
    add("--out", metavar="RUN", help="folder for the results")
    add("--resume", action="store_true", help="go on where the run in RUN stopped, also with another number of processes; without --data, with the options noted there")  # fmt: skip
    add("--frames", type=count, default=8, help="frames of each clip (%(default)s)")
    add("--size", type=side, default=64, help="side in pixels, or HEIGHTxWIDTH (%(default)s)")
    add("--sampling", default="uniform", choices=("uniform", "random"), help="which frames: evenly spaced, or others in every epoch (%(default)s)")  # fmt: skip
    add("--pad", action="store_true", help="repeat the last frame of videos that are too short")
    add("--skip-unreadable", action="store_true", help="name files that cannot be read, and go on without them")  # fmt: skip
    add("--validation-share", type=number(float, 0, 0.5, above=True), default=0.2, help="how much is kept for validation, rounded to one in 2, 3, 4 …, where FOLDER has no train/ and validation/ (%(default)s)")  # fmt: skip
    add("--group", metavar="PATTERN", help="what stays on one side of the split, found in a file's name: ^[^_]+ is anna in anna_1.mp4")  # fmt: skip
    add("--augment", metavar="NAME", help="mirror (left to right, one time in two), or module:function with the arguments of utils.motion:augment")  # fmt: skip
    add("--cache", action="store_true", help="decode every video once, into RUN and into memory")
    add("--workers", type=number(int, 0), default=0, help="processes that read ahead, for each that trains (%(default)s)")  # fmt: skip
    add("--model", default="tiny", help=f"a size ({', '.join(SIZES)}), a file of save_model, or published weights: a file, a folder, a name on the hub (%(default)s)")  # fmt: skip
    add("--scheme", default="divided", choices=SCHEMES, help="of a new model (%(default)s)")
    add("--dropout", type=share, default=0.0, help="of a new model (%(default)s)")
    add("--freeze", action="store_true", help="train the head alone")
    add("--epochs", type=count, default=20, help="a run cannot be made longer afterwards (%(default)s)")  # fmt: skip
    add("--patience", type=count, metavar="EPOCHS", help="stop when so many epochs were not better in validation, and keep the best epoch's model instead of the last one's")  # fmt: skip
    add("--batch-size", type=count, default=32, help="of all processes together (%(default)s)")
    add("--accumulate", type=count, default=1, help="take each process's part of a batch in so many pieces, for less memory (%(default)s)")  # fmt: skip
    add("--learning-rate", type=above, default=1e-3, help="the highest (%(default)s)")
    add("--weight-decay", type=number(float, 0), default=0.05, help="(%(default)s)")
    add("--warm-up", type=share, default=0.1, help="share of the steps in which the rate rises (%(default)s)")  # fmt: skip
    add("--clip-norm", type=above, default=1.0, help="longest gradient (%(default)s)")
    add("--precision", default="no", choices=("no", "bf16", "fp16"), help="automatic mixed precision (%(default)s)")  # fmt: skip
    add("--fused", action="store_true", help="scaled_dot_product_attention instead of attend")
    add("--recompute", action="store_true", help="gradient checkpointing: less memory, a third more work")  # fmt: skip
    add("--compile", action="store_true", help="torch.compile")
    add("--cpu", action="store_true", help="leave the GPUs alone")
    add("--every", type=count, default=100, help="steps from one checkpoint to the next (%(default)s, or an epoch's, if they are fewer)")  # fmt: skip
    add("--seed", type=number(int, 0), default=0, help="(%(default)s)")
    return parser


def read_options(arguments=None, description=None):
    """Options from the command line and, for what it leaves open, from --config. ValueError for unknown names."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = options(description)
    given = parser.parse_args(arguments)
    noted = Path(given.out or "") / "options.toml"
    if given.resume and given.out and not (given.data or given.config) and noted.is_file():
        given.config = noted  # a run knows its own options
    if given.config:
        given = parser.parse_args([*_from_toml(parser, given.config), *arguments])
    if missing := [f"--{name}" for name in ("data", "out") if getattr(given, name) is None]:
        raise ValueError(f"{' and '.join(missing)} must be given; see --help")
    return given


def _from_toml(parser, path):
    """A file's options as the command line would give them."""
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML ({error})") from error
    known = {name.replace("-", "_"): value for name, value in table.items()}
    defaults = vars(parser.parse_args([]))
    if odd := sorted(set(known) - set(defaults) | set(known) & {"config"}):
        raise ValueError(f"{path}: unknown option {', '.join(odd)}; see --help")
    given = []
    for name, value in known.items():
        if isinstance(defaults[name], bool) != isinstance(value, bool):
            raise ValueError(
                f"{path}: {name} = {value!r}: true or false is for switches, and only for them"
            )
        if value is not False:
            given.append(f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}"))
    try:
        parser.parse_args(given)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return given


def same_run(given, path):
    """ValueError where a run that goes on was started with other options."""
    parser = options()
    was = vars(parser.parse_args(_from_toml(parser, path)))
    other = [name for name in FIXED if was[name] != getattr(given, name)]
    if other:
        told = ", ".join(
            f"--{name.replace('_', '-')} {was[name]} and not {getattr(given, name)}"
            for name in other
        )
        raise ValueError(
            f"{path.parent}: this run was started with {told}; give the same, or another --out"
        )


def write_options(given, path):
    """The options as TOML, to be read again with --config."""
    told = {name: value for name, value in vars(given).items() if value is not None and name not in ("config", "resume")}  # fmt: skip
    told["size"] = given.size if isinstance(given.size, int) else "x".join(map(str, given.size))
    lines = [f"{name.replace('_', '-')} = {json.dumps(value)}\n" for name, value in told.items()]
    write_text(path, "".join(lines))
