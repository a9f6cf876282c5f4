"""The course's command line: `python -m utils.course …`"""

import argparse
import sys
from pathlib import Path

from utils.paths import ROOT

# Each command imports what it needs when it runs: `grade` needs nbgrader, `start` should be quick.


def start(given):
    from utils.course.start import check, start

    return check() if given.check else start(given.port, given.ip)


def execute(given):
    from utils.course.notebooks import execute

    execute(given.notebooks)


def numbers(given):
    from utils.course.numbers import numbers

    return 1 if numbers(given.notebooks, given.jobs) else 0


def lowest(given):
    from utils.course.versions import lowest

    print("\n".join(lowest()))


def set_repo(given):
    from utils.course.notebooks import set_repo

    set_repo(given.url)


def release(given):
    from utils.course.exercises import make_release

    for path in make_release(given.exercises):
        print(path.relative_to(ROOT))


def seeds(given):
    from utils.course.exercises import set_seeds

    print(f"{set_seeds(given.first)} loops of hidden tests begin with seed {given.first} now")


def solutions(given):
    from utils.course.exercises import publish_solutions

    for path in publish_solutions(given.folder, given.exercises or None):
        print(path)


def student_copy(given):
    from utils.course.exercises import student_copy

    print(f"{student_copy(given.folder)}: the course without its solutions")


def grade(given):
    try:
        from utils.grading import grade
    except ModuleNotFoundError as error:
        if error.name != "utils.grading":
            raise
        raise SystemExit(
            "the grader is not in a students' copy; run it in your private copy"
        ) from error

    grade(given.folder, given.out, given.seconds, given.minutes, given.memory, given.assigned)


def slides(given):
    from utils.course.slides import make

    make(given.lessons, given.out, given.reveal, given.offline, given.minutes)


def benchmark(given):
    from utils.course.benchmark import benchmark

    benchmark(given.device, given.repeats, given.json)


def benchmark_video(given):
    from utils.course.benchmark import benchmark_video

    benchmark_video(given.folder, json_file=given.json)


def lips(given):
    from utils.course.lips import make

    print(make(given.source, given.out, given.alignments, given.mouth, given.speaker))


def parser():
    """The commands and their arguments."""
    parser = argparse.ArgumentParser(prog="python -m utils.course", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run, name, help):
        one = commands.add_parser(name, help=help, description=help)
        one.set_defaults(run=run)
        return one

    one = command(start, "start", "open the course in JupyterLab; with --check only try whether it runs here")  # fmt: skip
    one.add_argument("--check", action="store_true", help="run lesson 00 without a browser and print what the model says of a video file")  # fmt: skip
    one.add_argument("--port", type=int, default=8888, help="or the next free one (%(default)s)")
    one.add_argument("--ip", help="0.0.0.0 in a container, so that it can be reached from outside")

    one = command(execute, "execute", "run lessons and solved exercises (default: all), store their outputs, print seconds")  # fmt: skip
    one.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="as 02, or 02_attention_exercises")  # fmt: skip

    one = command(numbers, "numbers", "do the stored outputs hold on another machine? runs all as other processors would, 16 minutes with --jobs 2")  # fmt: skip
    one.add_argument("notebooks", nargs="*", metavar="NOTEBOOK")
    one.add_argument("--jobs", type=int, default=1, help="notebooks at a time (%(default)s)")

    command(
        lowest, "lowest", "print the lowest versions that pyproject.toml allows, for pip install -c"
    )

    one = command(set_repo, "set-repo", "point every badge and set-up cell at another GitHub repository (a fork)")  # fmt: skip
    one.add_argument("url")

    one = command(release, "release", "let nbgrader make the student copies of the exercises (default: all)")  # fmt: skip
    one.add_argument("exercises", nargs="*", metavar="EXERCISE")

    one = command(seeds, "seeds", "let the hidden tests of all exercises begin with another seed, one that your class does not know")  # fmt: skip
    one.add_argument(
        "first", type=int, metavar="SEED", help="any whole number from 1 on, such as 731"
    )

    one = command(solutions, "solutions", "the solved exercises without hidden tests and mark schemes, to publish after the last hand-in")  # fmt: skip
    one.add_argument("folder")
    one.add_argument("exercises", nargs="*", help="such as 02 08 (default: all)")
    one = command(student_copy, "student-copy", "the course without solutions, hidden tests and model answers, to publish for a class")  # fmt: skip
    one.add_argument("folder", type=Path)

    one = command(grade, "grade", "grade a folder of submissions: points, feedback pages, what could not be graded")  # fmt: skip
    one.add_argument("folder", type=Path, help="FOLDER/STUDENT/….ipynb or FOLDER/STUDENT.ipynb")
    one.add_argument("--out", type=Path, help="where the results go (default: FOLDER-graded)")
    one.add_argument("--seconds", type=int, default=60, help="limit for one cell")
    one.add_argument("--minutes", type=float, default=10, help="limit for one notebook")
    one.add_argument("--memory", type=float, default=4, help="limit for one notebook, in GB")
    one.add_argument("--assigned", nargs="+", metavar="EXERCISE", help="as 02: what counts in the overview (default: all that somebody has handed in)")  # fmt: skip

    one = command(slides, "slides", "lecture slides from the lessons' stored outputs")
    one.add_argument("lessons", nargs="*", metavar="LESSON")
    one.add_argument("--out", type=Path, help="where the pages go; default: data/cache/slides")
    one.add_argument("--offline", action="store_true", help="put reveal.js and MathJax into the pages (fetched once, 8 MB)")  # fmt: skip
    one.add_argument("--reveal", metavar="PREFIX", help="address or path of another reveal.js")
    one.add_argument("--minutes", type=int, help="how long the lecture is, for the clock in the speaker's window; default: the lesson's reading time")  # fmt: skip

    one = command(benchmark, "benchmark", "training and forward pass beside transformers and timesformer-pytorch, interleaved, in one run")  # fmt: skip
    one.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="(%(default)s)")
    one.add_argument("--repeats", type=int, default=15, help="turns, of which the median counts (%(default)s)")  # fmt: skip
    one.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")

    one = command(benchmark_video, "benchmark-video", "frames per second of read_frames beside PyAV's and torchcodec's, on the same files")  # fmt: skip
    one.add_argument("folder", nargs="?", type=Path)
    one.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")

    one = command(lips, "lips", "make a folder of spoken words like data/lips from the GRID corpus, also of another speaker")  # fmt: skip
    one.add_argument("source", help="a folder of sentences with words.csv or .align files, a speaker's zip from Zenodo, or s1 to s34, which is downloaded (about 400 MB)")  # fmt: skip
    one.add_argument("--out", type=Path, help="default: data/cache/lips-SPEAKER")
    one.add_argument("--alignments", type=Path, help="folder or zip with the .align files, if they lie elsewhere")  # fmt: skip
    one.add_argument("--mouth", type=int, nargs=2, metavar=("ROW", "COLUMN"), help="the mouth's middle in the first sentence (default: look for the mean mouth of data/lips)")  # fmt: skip
    one.add_argument("--speaker", help="who speaks, for the attribution (default: the name of SOURCE)")  # fmt: skip
    return parser


def main(arguments=None):
    """Do what the command line says."""
    given = parser().parse_args(arguments)
    return given.run(given)


if __name__ == "__main__":
    sys.exit(main())
