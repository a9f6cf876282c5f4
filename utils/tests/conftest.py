"""What the tests share: threads that sleep, the order of the files, the real clips."""

import os

# Two workers run on two cores, so one thread for each. Before torch loads; the kernels and programs
# that the tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

SHARED_VIDEOS = Path(__file__).resolve().parents[3] / "shared" / "videos"

LARGE = ("fate_hevc_dv84.mp4",)

# The longest first, so that the two workers end at about the same time.
LONGEST = (
    "13_reading_lips.ipynb", "11_training.ipynb", "test_exercises.py", "16_scaling_up.ipynb", "test_grading.py",
    "14_experiments.ipynb", "15_published_weights.ipynb", "test_course.py", "12_predictions.ipynb", "test_train.py", "test_video.py",
    "test_runs.py", "test_lip_reader.py", "test_training.py",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by marker
def pytest_collection_modifyitems(items):
    for item in items:
        if {"exercises", "source"} <= set(item.path.parts) and item.path.suffix == ".ipynb":
            item.add_marker("slow")  # test_exercises.py runs the same cells, without a kernel
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def shared_videos(folder):
    """The real clips of ../shared as test parameters, or one skipped parameter where they are absent."""
    files = sorted(p for p in (SHARED_VIDEOS / folder).glob("*") if p.is_file())
    if not files:
        return [pytest.param(None, marks=pytest.mark.skip(reason="../shared/videos is not here"))]
    return [
        # pictures of 4K take a quarter of a minute
        pytest.param(path, id=path.name, marks=pytest.mark.slow if path.name in LARGE else ())
        for path in files
    ]
