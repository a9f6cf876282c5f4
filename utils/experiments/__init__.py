"""The measurements behind the lesson of experiments: `python -m utils.experiments --help`.

grids.py      what is measured: a list of runs per table
variants.py   the networks: one thing left out, moved or exchanged at a time
runs.py       trains what a table still lacks, and checks what it has
tables.py     the results files, and the rule by which a difference is claimed
"""
