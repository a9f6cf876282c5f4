"""One submission through nbgrader, in a process of its own: `python autograde.py`, the job on stdin.

Reads one line of JSON, the job (see utils/grading/sandbox.py), after the imports: these take seconds, so the
next student's process is started while this one's works. Leaves result.json, or stopped.json when a
limit struck: {"cell": index, "why": "memory", "time" or "died"}.
"""

import json
import os
import sys
from pathlib import Path

from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbgrader.api import Gradebook
from nbgrader.converters.autograde import Autograde
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import Execute
from nbgrader.utils import is_grade, is_solution
from traitlets import Dict
from traitlets.config import Config

OUTPUT = 2 * 2**20  # bytes of output kept of a cell; an endless print would fill the memory


class Stopped(Exception):
    """A cell has used up the memory: what follows in this kernel would say nothing."""


class GuardedExecute(Execute):
    """nbgrader's Execute, with our kernel; notes which cell runs, and stops where a limit struck."""

    job = Dict(config=True)
    running = None

    def create_kernel_manager(self):
        self.km = AsyncKernelManager(
            kernel_name="guarded",
            transport=self.job["transport"],
            connection_file=self.job["connection"],
        )
        return self.km

    def preprocess(self, nb, resources, km=None):
        resources["metadata"]["path"] = self.job["folder"]  # not beside the gradebook
        try:
            return super().preprocess(nb, resources, km)
        except (Stopped, DeadKernelError, CellTimeoutError) as error:
            why = {Stopped: "memory", DeadKernelError: "died"}.get(type(error), "time")
            _write(self.job["stopped"], {"cell": self.running, "why": why})
            raise

    def on_cell_execute(self, cell, cell_index):
        self.running, self.size = cell_index, 0
        _write(self.job["running"], {"cell": cell_index})

    def output(self, outs, msg, display_id, cell_index):
        self.size += len(str(msg["content"]))
        if self.size < OUTPUT or msg["msg_type"] == "error":
            return super().output(outs, msg, display_id, cell_index)
        return None

    def on_cell_executed(self, cell, cell_index, execute_reply):
        super().on_cell_executed(cell=cell, cell_index=cell_index, execute_reply=execute_reply)
        failed = [out for out in cell.outputs if out.output_type == "error"]
        if any(out.ename == "MemoryError" or "t allocate memory" in out.evalue for out in failed):
            raise Stopped
        if is_grade(cell) and not is_solution(cell):
            # nbgrader takes stderr (a warning, a progress bar) for a failure and a displayed number
            # for partial points; here a check fails when it raises, and only then
            cell.outputs = failed


def _write(path, content):
    part = Path(path).with_suffix(".part")
    part.write_text(json.dumps(content), encoding="utf-8")
    os.replace(part, path)


def grade(job):
    """Run nbgrader's autograde on the job's only submission, and write what each cell got."""
    config = Config()
    config.CourseDirectory.root = job["course"]
    config.CourseDirectory.db_url = f"sqlite:///{job['course']}/gradebook.db"
    config.CourseDirectory.assignment_id = job["exercise"]
    config.GuardedExecute.job = job
    config.Execute.timeout = job["seconds"]
    config.Execute.startup_timeout = 120
    config.Execute.shutdown_kernel = "immediate"
    config.Execute.store_widget_state = False
    converter = Autograde(coursedir=CourseDirectory(config=config), config=config)
    converter.autograde_preprocessors = [
        GuardedExecute if step is Execute else step for step in converter.autograde_preprocessors
    ]
    converter.start()
    name = f"{job['exercise']}_exercises"
    with Gradebook(config.CourseDirectory.db_url) as gradebook:
        graded = gradebook.find_submission_notebook(name, job["exercise"], "student")
        points = {grade.name: grade.auto_score for grade in graded.grades}
    _write(job["result"], {"points": points})


if __name__ == "__main__":
    line = sys.stdin.readline()
    if line:
        job = json.loads(line)
        os.environ.update(job["environment"])
        grade(job)
