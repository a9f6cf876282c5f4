"""The README's first command: as root, without a browser or a screen, on a busy port, and twice."""

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

from utils.course import start
from utils.paths import ROOT

COMMAND = [sys.executable, "-m", "utils.course", "start"]
SCREENS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")


@pytest.fixture
def environment(tmp_path):
    """No screen, and a runtime folder of our own: a JupyterLab that somebody has open is not seen."""
    given = {name: value for name, value in os.environ.items() if name not in SCREENS}
    return given | {"JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"), "PYTHONUNBUFFERED": "1"}


@pytest.mark.slow  # every day nbval runs the lesson that it runs
def test_check_prints_what_the_model_says_of_a_file(environment):
    run = subprocess.run([*COMMAND, "--check"], cwd=ROOT, env=environment, capture_output=True,
                         text=True, encoding="utf-8")  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "right.mp4" in run.stdout and re.search(r"right +(0\.9\d|1\.00)", run.stdout)


def test_check_fails_when_the_lesson_fails(tmp_path, monkeypatch, capsys):
    cell = nbformat.v4.new_code_cell("raise ImportError('no torch here')")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "00.ipynb")
    monkeypatch.setattr(start, "LESSON", tmp_path / "00.ipynb")
    assert start.check() == 1
    assert "no torch here" in capsys.readouterr().err


def address(process):
    for line in process.stdout:
        if found := re.search(r"http://\S+", line):
            return found[0]
    pytest.fail("no address was printed")


def test_it_starts_on_a_busy_port_and_is_found_again(environment):
    """As root in a container, if the tests run so, behind a proxy; ends with SIGTERM, nothing left behind."""
    environment |= {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    with socket.socket() as busy:
        busy.bind(("localhost", 0))
        busy.listen()
        port = busy.getsockname()[1]
        first = subprocess.Popen([*COMMAND, "--port", str(port), "--ip", "0.0.0.0"], cwd=ROOT, env=environment,
                                 stdout=subprocess.PIPE, text=True, encoding="utf-8")  # fmt: skip
        try:
            place = address(first)
            assert "/lab/tree/notebooks/00_start_here.ipynb?token=" in place
            assert f":{port}/" not in place
            assert urllib.request.urlopen(place, timeout=30).status == 200
            page = urllib.request.urlopen(place.replace("/lab/tree/", "/files/"), timeout=30).read()
            assert b"nbformat" in page  # the lesson itself, not an empty folder
            again = subprocess.run(COMMAND, cwd=ROOT, env=environment, capture_output=True, text=True,
                                   encoding="utf-8")  # fmt: skip
            assert again.returncode == 0 and place in again.stdout
            assert "already open" in again.stdout and "There is no browser here" in again.stdout
        finally:
            first.send_signal(signal.SIGTERM)
            first.wait(30)
            first.stdout.close()
    for _ in range(100):
        try:
            urllib.request.urlopen(place, timeout=5)
        except OSError:
            return
        time.sleep(0.1)
    pytest.fail("JupyterLab outlived the command that started it")


def test_a_lab_that_ends_at_once_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(start, "_running", lambda token=None: None)
    monkeypatch.setattr(start.sys, "executable", "/bin/false" if os.name == "posix" else "where")
    assert start.start() != 0
    assert "ended with exit code" in capsys.readouterr().err


def test_another_course_s_server_is_not_ours(monkeypatch, tmp_path):
    server = dict(root_dir=str(tmp_path), port=1, url="http://host:1/", token="ours")
    monkeypatch.setattr(start, "list_running_servers", lambda: [server])
    monkeypatch.setattr(start, "_answers", lambda server: True)
    assert start._running() is None
    server["root_dir"] = str(ROOT)
    assert start._running() is server and start._running("ours") is server
    assert start._running("another") is None
    assert start._url(server) == "http://localhost:1/"  # a container's own name is known to nobody


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere there is a screen")
def test_a_browser_needs_a_screen(monkeypatch):
    for name in SCREENS:
        monkeypatch.delenv(name, raising=False)
    assert not start.has_browser()
    monkeypatch.setattr(start.webbrowser, "get", lambda: None)
    monkeypatch.setenv("DISPLAY", ":0")
    assert start.has_browser()


@pytest.mark.slow
def test_it_runs_from_a_folder_that_cannot_be_written(tmp_path, environment):
    """A real read-only mount, where this system lets us make one; test_paths.py has the rest."""
    place = tmp_path / "nur lesbar ✓"
    place.mkdir()
    mount = ["mount", "--bind", str(ROOT), str(place)]
    if (
        not sys.platform.startswith("linux")
        or subprocess.run(mount, capture_output=True).returncode
    ):
        pytest.skip("only root on Linux can mount a folder read-only")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(place)], check=True)
        environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        run = subprocess.run([*COMMAND, "--check"], cwd=place, env=environment, capture_output=True,
                             text=True, encoding="utf-8")  # fmt: skip
        assert run.returncode == 0 and "right.mp4" in run.stdout, run.stderr
        code = "from utils.paths import cache_folder as f; from utils.motion import write_dataset; write_dataset(f() / 'motion', 6, 6)"
        run = subprocess.run([sys.executable, "-c", code], cwd=place, env=environment, capture_output=True,
                             text=True, encoding="utf-8")  # fmt: skip
        assert run.returncode == 0, run.stderr
        assert f"is kept in {tmp_path / 'cache' / 'timesformer-from-scratch'}" in run.stdout
        assert (tmp_path / "cache" / "timesformer-from-scratch" / "motion" / "train").is_dir()
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_what_can_be_clicked_can_be_clicked_at_once(tmp_path, monkeypatch):
    """JupyterLab runs no script of a notebook that is not trusted; a home that cannot be written stops nobody."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    lesson = nbformat.read(start.LESSON, as_version=4)
    assert not start.NotebookNotary().check_signature(lesson)
    start._trust()
    assert start.NotebookNotary().check_signature(lesson)

    def broken():
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(start, "NotebookNotary", broken)
    start._trust()
