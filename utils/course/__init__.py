"""The maintainer's tools: `python -m utils.course --help`.

notebooks.py   the lessons as files: execute, set-repo
exercises.py   what nbgrader makes of the exercises: release, student-copy
start.py       open the course in JupyterLab, wherever
numbers.py     do the stored outputs hold on another machine?
versions.py    the lowest versions that pyproject.toml allows
slides.py      lecture slides from the lessons
benchmark.py   speed, measured and printed
"""
