"""Where the course, its data and its cache are, and how a file is written whole.

What the course makes for itself (clips, decoded frames, checkpoints, slides) goes to the cache.
"""

import os
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
UMASK = os.umask(0o022)  # there is no way to ask for it without setting it
os.umask(UMASK)


def _writable(folder):
    """Make the folder, and say whether a file can be written there. Asking the system's rights is
    not enough: root may write everywhere, except on a disk that is mounted read-only."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@cache
def cache_folder():
    """data/cache, or where that cannot be written (a read-only checkout) a folder of the user's.

    The first call that has to go elsewhere prints where. OSError when no place can be written.
    """
    here = DATA / "cache"
    if _writable(here):
        return here
    users = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    places = [Path(place, "timesformer-from-scratch") for place in (users, tempfile.gettempdir())]
    for place in places:
        if _writable(place):
            print(f"{here} cannot be written; what is made here is kept in {place}")
            return place
    raise OSError(f"no place for the cache: {here} and {' and '.join(map(str, places))} cannot be written")  # fmt: skip


@contextmanager
def whole_file(path, flush=True):
    """Give a temporary name beside `path` to write to; it becomes `path` when the block ends well.

    Folders are made as needed. After an error nothing is left behind, and an older file stays as it
    was. With `flush` the bytes are on the disk before the file takes its name, which costs a moment.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the suffix stays last: OpenCV goes by it
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        os.chmod(part, 0o666 & ~UMASK)  # safetensors writes for its owner's eyes only
        if flush:
            with open(part, "rb+") as file:  # some systems flush only what may be written
                os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path, text):
    """Write a text file that is there whole or not at all: UTF-8, lines ended as on Linux."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")
