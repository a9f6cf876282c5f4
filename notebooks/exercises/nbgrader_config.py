"""nbgrader's settings for the exercises; used by `python -m utils.course release` and `… grade`.

It also serves who runs nbgrader by hand in this folder: `nbgrader generate_assignment 02_attention`.
"""

from pathlib import Path

c = get_config()  # noqa: F821  (nbgrader puts it there)
c.CourseDirectory.course_id = "timesformer-from-scratch"
c.CourseDirectory.root = str(Path(__file__).resolve().parent)

# What students find in place of a solution. A stub raises: a plausible value would look like an answer.
c.ClearSolutions.code_stub = {"python": 'raise NotImplementedError("write your answer here")'}
c.ClearSolutions.text_stub = "*Write your answer here.*"

# nbgrader gives no points to a check that wrote to stderr. A warning or a progress bar is no mistake.
c.IgnorePattern.pattern = "(?s).*"
c.Execute.timeout = 60  # seconds a cell; nbgrader's own 30 are few on a busy machine
