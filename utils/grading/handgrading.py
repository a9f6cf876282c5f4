"""Answers that a person grades: a table to fill in, and what was filled in.

answers.csv of an exercise lists the answers in words. The instructor fills in `points` and `comment`
in a spreadsheet; the next run takes them over, and never changes them.
"""

import csv
import io

COLUMNS = ("student", "task", "answer", "points", "out_of", "comment", "remark")
CHANGED = "the answer changed after it was graded"
GONE = "it was graded, but there is no answer any more"
LONGEST = 30_000  # characters; a spreadsheet's cell holds 32,767


def safe(value):
    """Text for a spreadsheet's cell: what would start a formula gets an apostrophe."""
    text = str(value)
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def table(columns, rows):
    """CSV text with a byte order mark, by which spreadsheets know that it is UTF-8."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *([safe(value) for value in row] for row in rows)])
    return "\ufeff" + text.getvalue()


def read(path, tasks):
    """{(student, task): row} of a filled-in answers.csv; {} where there is none yet.

    tasks: the hand-graded tasks, name -> points at most. SystemExit names the row that is wrong.
    """
    if not path.exists():
        return {}
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        text = path.read_bytes().decode("cp1252", "replace")  # what Excel saves without asking
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    rows = {}
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    missing = set(COLUMNS) - {"remark"} - set(reader.fieldnames or ())
    if missing:
        raise SystemExit(f"{path}: the column {sorted(missing)[0]} is missing")
    for number, row in enumerate(reader, start=2):
        row = {name: (row.get(name) or "").strip() for name in COLUMNS}
        if not any(row.values()):
            continue
        where = f"{path}, row {number} ({row['student']}, {row['task']})"
        if row["task"] not in tasks:
            raise SystemExit(f"{where}: the task is unknown; there are: {', '.join(tasks)}")
        if (row["student"], row["task"]) in rows:
            raise SystemExit(f"{where}: this row is there twice")
        row["points"] = _points(row["points"], tasks[row["task"]], where)
        rows[row["student"], row["task"]] = row
    return rows


def _points(text, most, where):
    if not text:
        return None
    try:
        points = float(text.replace(",", "."))
    except ValueError:
        points = -1.0
    if not 0 <= points <= most:
        raise SystemExit(
            f"{where}: points should be a number from 0 to {most:g}, they are {text!r}"
        )
    return points


def check_students(path, rows, students):
    """SystemExit where points were given to somebody whose submission is not there."""
    known = {safe(student) for student in students}
    for (student, task), row in rows.items():
        if student not in known and row["points"] is not None:
            raise SystemExit(
                f"{path}: {student} has points for {task}, but no submission; put the file back, or delete the row"
            )


def merge(rows, answers, tasks):
    """The new table: (student, task, answer) triples with what was filled in; rows without answer stay."""
    merged = {}
    for student, task, answer in answers:
        answer = answer if len(answer) <= LONGEST else answer[:LONGEST] + " …"
        row = rows.get((safe(student), task), {"points": None, "comment": "", "remark": ""})
        graded = row["points"] is not None or row["comment"]
        changed = graded and row["answer"].split() != safe(answer).split()
        merged[safe(student), task] = row | {
            "student": student,
            "task": task,
            "answer": answer,
            "out_of": tasks[task],
            "remark": CHANGED if changed else row["remark"].replace(GONE, ""),
        }
    left = {
        key: row | {"remark": GONE}
        for key, row in rows.items()
        if key not in merged and row["points"] is not None
    }
    return dict(sorted((merged | left).items()))


def text(rows):
    """The content of answers.csv."""
    return table(
        COLUMNS,
        [
            [
                _number(row[name]) if name in ("points", "out_of") else _again(row[name])
                for name in COLUMNS
            ]
            for row in rows.values()
        ],
    )


def _number(value):
    return f"{value:g}" if isinstance(value, float) else ("" if value is None else value)


def _again(value):
    """A cell as it was before `safe`, so that a row that is kept is not escaped twice."""
    return value[1:] if value.startswith("'") and safe(value[1:]) == value else value
