"""Files that are there whole or not at all, and a cache that finds another place."""

import os
import subprocess
import sys

import pytest

from utils import paths
from utils.paths import ROOT, whole_file, write_text


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "deep" / "table.json"
    write_text(file, "all öf it\n")
    assert file.read_bytes() == "all öf it\n".encode()

    def pulled(*_):
        raise OSError("the plug")

    with pytest.raises(OSError, match="plug"), whole_file(file) as part:
        part.write_text("half of")
        pulled()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", pulled)
        with pytest.raises(OSError, match="plug"):
            write_text(file, "nearly all")
    assert file.read_text(encoding="utf-8") == "all öf it\n" and os.listdir(file.parent) == [
        "table.json"
    ]


def test_the_temporary_name_is_beside_it_hidden_and_keeps_the_suffix(tmp_path):
    with whole_file(tmp_path / "clip.tar.mp4") as part:
        assert part.parent == tmp_path and part.name[0] == "." and part.suffix == ".mp4"
        part.write_bytes(b"x")
    assert os.listdir(tmp_path) == ["clip.tar.mp4"]


@pytest.fixture
def fresh():
    paths.cache_folder.cache_clear()
    yield
    paths.cache_folder.cache_clear()


def test_the_cache_is_in_data(fresh, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    assert paths.cache_folder() == tmp_path / "data" / "cache" and (tmp_path / "data").is_dir()
    assert capsys.readouterr().out == "" and not os.listdir(tmp_path / "data" / "cache")


def test_a_course_that_cannot_be_written_keeps_its_cache_elsewhere_and_says_where(
    fresh, monkeypatch, tmp_path, capsys
):
    (tmp_path / "file").touch()  # root may write anywhere, but nobody below a file
    monkeypatch.setattr(paths, "DATA", tmp_path / "file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    place = tmp_path / "users" / "timesformer-from-scratch"
    assert paths.cache_folder() == place == paths.cache_folder() and place.is_dir()
    said = capsys.readouterr().out
    assert said.count(str(place)) == 1 and "cannot be written" in said

    paths.cache_folder.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(paths.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    assert paths.cache_folder() == tmp_path / "temporary" / "timesformer-from-scratch"

    paths.cache_folder.cache_clear()
    monkeypatch.setattr(paths.tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    with pytest.raises(OSError, match="no place for the cache"):
        paths.cache_folder()


def test_importing_writes_nothing(tmp_path):
    """The cache's place is looked for when something is put there, not before."""
    code = "from utils import recipe, plots, checks; from utils.paths import cache_folder; print(cache_folder.cache_info().currsize)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "0", run.stderr
