"""`python -m utils.course start`: the course in JupyterLab, on whatever machine this is."""

import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser

import nbformat
from jupyter_server.serverapp import list_running_servers
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat.sign import NotebookNotary

from utils.course.notebooks import NOTEBOOKS
from utils.paths import ROOT

LESSON = NOTEBOOKS / "00_start_here.ipynb"
SECONDS = 120  # how long JupyterLab may take to answer; a cold disk is slow


def start(port=8888, ip=None):
    """Open lesson 00 in JupyterLab and stay until it ends; returns an exit code.

    Prints the address in any case, and opens it where there is a browser. The next free port is
    taken where `port` is in use. A JupyterLab that serves this course already is used again.
    """
    if (server := _running()) is not None:
        print("The course is already open. (For another port or --ip, close it first.)")
        _show(server)
        return 0
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", f"--ServerApp.root_dir={ROOT}",
        f"--ServerApp.port={port}", "--ServerApp.port_retries=100",
        "--ServerApp.log_level=WARN", "--LabApp.log_level=WARN",
    ]  # fmt: skip
    if ip is not None:
        command.append(f"--ServerApp.ip={ip}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # in a container one is root, and its walls are the guard
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # take JupyterLab along
    _trust()
    # With a token of our own JupyterLab prints no address beside ours. Without a terminal to ask,
    # Ctrl-C ends it at once.
    token = secrets.token_hex(24)
    environment = os.environ | {"JUPYTER_TOKEN": token}
    lab = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
    try:
        server = _wait(lab, token)
        if server is None:
            code = lab.poll()
            why = f"did not answer within {SECONDS} s" if code is None else f"ended with exit code {code}"  # fmt: skip
            print(f"JupyterLab {why}; what it said stands above.", file=sys.stderr)
            return 1
        _show(server)
        print("Ctrl-C in this window ends it.", flush=True)
        return lab.wait()
    except KeyboardInterrupt:
        print("\nThe course is closed.")
        return 0
    finally:
        if lab.poll() is None:
            lab.terminate()
            lab.wait()


def _trust():
    """Let JupyterLab show at once what can be clicked in the lessons, not only when its cell has been run.

    It shows nothing that could run a script in a notebook that nobody has run or trusted on this machine;
    whoever starts the course is about to run these. Where that cannot be noted, the still pictures stay.
    """
    try:
        notary = NotebookNotary()
        for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
            notary.sign(nbformat.read(path, as_version=4))
    except (OSError, sqlite3.Error, nbformat.reader.NotJSONError, nbformat.ValidationError):
        pass


def _running(token=None):
    """The server of this course that answers, or None; with `token` only the one that has it.

    (Not by its process's number: in a virtual environment on Windows that is another one's.)
    """
    for server in list_running_servers():
        same = os.path.realpath(server.get("root_dir", "")) == os.path.realpath(ROOT)
        if same and token in (None, server["token"]) and _answers(server):
            return server
    return None


def _url(server):
    """The server's address on this machine, whatever addresses it listens to."""
    scheme = "https" if server.get("secure") else "http"
    return f"{scheme}://localhost:{server['port']}{server.get('base_url', '/')}"


def _answers(server):
    request = urllib.request.Request(
        f"{_url(server)}api/status", headers={"Authorization": f"token {server['token']}"}
    )
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    )  # no proxy for this machine
    try:
        return direct.open(request, timeout=5).status == 200
    except (OSError, urllib.error.URLError):
        return False


def _wait(lab, token):
    end = time.monotonic() + SECONDS
    while lab.poll() is None and time.monotonic() < end:
        if (server := _running(token)) is not None:
            return server
        time.sleep(0.2)
    return None


def has_browser():
    """Whether a browser window can be opened here; a browser in the terminal does not run JupyterLab."""
    screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    if sys.platform.startswith("linux") and not screen:
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def _show(server):
    lesson = LESSON.relative_to(ROOT).as_posix()
    address = f"{_url(server)}lab/tree/{lesson}?token={server['token']}"
    print(f"\n    {address}\n", flush=True)
    if has_browser() and webbrowser.open(address):
        print("It opens in your browser; if it does not, copy the address there.", flush=True)
        return
    port = server["port"]
    print(
        "There is no browser here. Open the address\n"
        f"- on this machine's own screen as it is;\n"
        f"- from another computer after `ssh -L {port}:localhost:{port} YOU@THIS-MACHINE` on that one;\n"
        f"- from outside a container that publishes the port (`docker run -p {port}:{port} …`) when the\n"
        "  course was started with `start --ip 0.0.0.0`;\n"
        f"- in Codespaces and the like with a click on port {port} in the tab “Ports”.",
        flush=True,
    )


def check():
    """Run lesson 00 without a browser and print what its model says of a video; returns an exit code."""
    notebook = nbformat.read(LESSON, as_version=4)
    started = time.perf_counter()
    folder = {"metadata": {"path": str(NOTEBOOKS)}}
    client = NotebookClient(notebook, timeout=600, startup_timeout=SECONDS, resources=folder,
                            kernel_name="python3")  # fmt: skip
    try:
        client.execute()
    except (CellExecutionError, DeadKernelError, TimeoutError, RuntimeError) as error:
        print(f"{error}\n{LESSON.name} does not run here; the error stands above.", file=sys.stderr)
        return 1
    answers = [cell for cell in notebook.cells if "answer" in cell.metadata.get("tags", [])]
    said = "".join(out.get("text", "") for cell in answers for out in cell.outputs)
    print(f"{LESSON.name} ran in {time.perf_counter() - started:.0f} s. It says:\n\n{said}")
    return 0
