"""A Python process that waits for a job, is watched while it works, and takes its children along."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from utils.paths import ROOT

# What the grader's processes see of the environment: no tokens, no settings of the instructor's.
KEPT = (
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "SYSTEMROOT",
    "OMP_NUM_THREADS",
)


class Process:
    """A Python with nbgrader imported, waiting for its job."""

    def __init__(self, memory):
        self.memory = memory
        self.log = tempfile.TemporaryFile()
        environment = {name: os.environ[name] for name in KEPT if name in os.environ} | {
            # nbgrader runs `alembic` by name, which is found only when the environment is active
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            "OPENCV_LOG_LEVEL": "ERROR",
            "OPENCV_FFMPEG_LOGLEVEL": "-8",
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONIOENCODING": "utf-8",
            "CUDA_VISIBLE_DEVICES": "",  # points must not depend on the instructor's machine
            "JUPYTER_NO_CONFIG": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(ROOT / "utils" / "grading" / "autograde.py")],
            stdin=subprocess.PIPE,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=tempfile.gettempdir(),
            start_new_session=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def work(self, job, seconds):
        """Do a job; returns why it was killed ("long", "memory" or None), and the log's lines."""
        why = None
        try:
            self.process.stdin.write((json.dumps(job) + "\n").encode())
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it failed to start; the log says why
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            time.sleep(0.1)
            kernels = self._kernels()
            if sum(_memory(kernel) for kernel in kernels) > self.memory:
                why = "memory"
                _kill(kernels)
            if time.monotonic() > end:
                why = "long"
                _kill(kernels)
                self.process.kill()
        self.log.seek(0)
        return why, self.log.read().decode("utf-8", "replace").strip().splitlines()

    def _kernels(self):
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def close(self):
        """End it and all that it started."""
        kernels = self._kernels()
        if self.process.poll() is None:
            self.process.kill()
        _kill(kernels)
        self.process.wait()
        for file in (self.process.stdin, self.log):
            file.close()


def _memory(process):
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def _kill(processes):
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass
    psutil.wait_procs(processes, timeout=10)
