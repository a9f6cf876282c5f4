"""What several test files share."""

from pathlib import Path

import pytest
import torch

SHARED_VIDEOS = Path(__file__).resolve().parents[3] / "shared" / "videos"


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def shared_videos(folder):
    """The real clips of ../shared as test parameters, or one skipped parameter where they are absent."""
    files = sorted(p for p in (SHARED_VIDEOS / folder).glob("*") if p.is_file())
    if not files:
        return [pytest.param(None, marks=pytest.mark.skip(reason="../shared/videos is not here"))]
    return [pytest.param(path, id=path.name) for path in files]
