"""The page a student gets: points and what each check said, then the notebook as the grader ran it.

One HTML file that needs no network and runs no script: the notebook's own HTML is sanitised, and a
Content-Security-Policy forbids the rest. Hidden tests are left out, of cells and of tracebacks.
"""

import copy
import html
import re

import bleach
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbformat.v4 import new_output
from pygments.formatters import HtmlFormatter

from utils.course.exercises import HIDDEN, visible
from utils.grading.submissions import marks

TAGS = {*bleach.ALLOWED_TAGS, "h1", "h2", "h3", "h4", "h5", "h6", "p", "br", "hr", "div", "span", "pre", "img", "del", "sub",
        "sup", "details", "summary", "table", "thead", "tbody", "tr", "th", "td"}  # fmt: skip
LONGEST = 600  # characters of a check's message
HIDDEN_ONLY = "the check that you have passes, a hidden one with other numbers does not"
ANSI = re.compile(r"\x1b\[[0-9;]*m")  # colours of a terminal
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 58rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: 0 } header p { margin-top: .2rem }
table { border-collapse: collapse } th, td { padding: .35rem .7rem; text-align: left; vertical-align: top }
header th, header td { border-bottom: 1px solid #d8dee4 } td.points { white-space: nowrap; text-align: right }
header td { white-space: pre-line } td:first-child { white-space: nowrap } .notes { color: #57606a } hr { border: 0; border-top: 2px solid #1b1f24; margin: 2rem 0 }
pre { overflow-x: auto; margin: 0; font: 13px/1.45 ui-monospace, monospace }
.input_area { background: #f6f8fa; border-left: 3px solid #d8dee4; padding: .5rem .7rem; margin: .8rem 0 .2rem }
.output_area { padding: .2rem .9rem } .output_error { background: #fff4f2; padding: .4rem } .output_area pre { white-space: pre-wrap } .prompt { display: none }
.anchor-link { display: none } img { max-width: 100% } code { background: #f6f8fa }
"""


MATHML = {"math", "mrow", "mi", "mo", "mn", "mtext", "mspace", "mstyle", "mfrac", "msqrt", "mroot", "msup", "msub",
          "msubsup", "mover", "munder", "munderover", "mtable", "mtr", "mtd"}  # fmt: skip
FORMULA = re.compile(
    r"(`+).+?\1|\$\$(?P<display>.+?)\$\$|\$(?P<inline>[^\s$](?:[^$\n]*[^\s$])?)\$(?!\d)", re.S
)


# A part of a traceback, as IPython writes it, that lies in a file and not in a cell.
FRAME = re.compile(r"(\x1b\[[0-9;]*m)*File ")


def _drawn(text):
    """Markdown with its formulas as MathML, which browsers draw without a script; code stays code."""

    def draw(found):
        formula = found["display"] or found["inline"]
        if formula is None:
            return found[0]
        try:
            return convert(formula, display="block" if found["display"] else "inline")
        except Exception:  # a student's formula may be anything: then it stays as it was typed
            return found[0]

    return FORMULA.sub(draw, text)


def _clean(text):
    """HTML of which only harmless tags are left as tags; the others are shown as the text they are."""
    return bleach.clean(
        str(text),
        tags=TAGS | MATHML,
        attributes=_harmless,
        protocols={"http", "https", "mailto", "data"},
    )


def _harmless(tag, name, value):
    if name == "src":  # a picture in the page, not one that tells its owner who reads it
        return tag == "img" and value.startswith("data:image/")
    if name == "href":
        return tag == "a" and value.startswith(("http://", "https://", "mailto:"))
    if tag in MATHML:
        return name in (
            "display",
            "displaystyle",
            "scriptlevel",
            "mathvariant",
            "stretchy",
            "fence",
            "width",
        )
    return name in ("class", "alt", "width", "height", "title")


def what_it_said(task, run, limits):
    """What became of a task, in a learner's words: "right", the check's message, "not answered yet", …"""
    if task.by_hand:
        return "no answer" if run.points.get(task.graded) == 0 else ""
    cells = {marks(cell).get("grade_id"): n for n, cell in enumerate(run.notebook.cells)}
    if cells[task.answer] in run.stopped:
        return f"your answer stopped the grader: {run.stopped[cells[task.answer]]}"
    check, answer = (
        error_of(run.notebook.cells[cells[name]], limits) for name in (task.graded, task.answer)
    )
    if check is None:
        return "right"
    if check[0] == "NameError" and answer:
        check = answer
    kind, message = check
    if kind == "NotImplementedError":
        return "not answered yet"
    said = message if kind in ("AssertionError", "limit") and message else f"{kind}: {message}"
    if kind == "AssertionError" and not message:
        said = "the check failed"
    if only_hidden_tests_fail(task, run):
        said = f"{HIDDEN_ONLY}: {said}"
    return said if len(said) <= LONGEST else said[:LONGEST] + " …"


def only_hidden_tests_fail(task, run):
    """Whether the part of a task's check that students have went well, and one behind it did not.

    IPython's traceback says "Cell In[5], line 7": is that before the hidden tests or in them?
    """
    if task.by_hand:
        return False
    (cell,) = (c for c in run.notebook.cells if marks(c).get("grade_id") == task.graded)
    hidden = HIDDEN.search(cell.source)
    errors = [out for out in cell.get("outputs", []) if out.output_type == "error"]
    if not hidden or not errors or any(out.ename == "CellTimeoutError" for out in errors):
        return False
    traceback = ANSI.sub("", "\n".join(errors[-1].traceback))
    line = re.search(r"Cell In\[\d+\], line (\d+)", traceback)
    return line is not None and int(line[1]) > cell.source[: hidden.start()].count("\n")


def error_of(cell, limits):
    """(kind, message) of the error that a cell ended with, or None."""
    errors = [out for out in cell.get("outputs", []) if out.output_type == "error"]
    if not errors:
        return None
    if any(out.ename == "CellTimeoutError" for out in errors):
        return "limit", f"took longer than {limits.seconds} s"
    said = ANSI.sub("", errors[-1].evalue).strip()
    # the file that a SyntaxError names is the kernel's own
    return errors[-1].ename, re.sub(r" \([^()]*, line (\d+)\)$", r" (line \1)", said)


def page(student, exercise, total, rows, notes, run):
    """The page as text. rows: (task, points, what the check said, comment); run: None if not graded."""
    title = f"{student} · {exercise}"
    table = "".join(
        f'<tr><td>{_text(task)}</td><td class="points">{_text(points)}</td><td>{_text(said)}</td><td>{_text(comment)}</td></tr>'
        for task, points, said, comment in rows
    )
    table = f"<table><tr><th>task</th><th>points</th><th>what the check said</th><th>comment</th></tr>{table}</table>"
    listed = "".join(f"<li>{_text(note)}</li>" for note in notes)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width">
<style>{STYLE}{HtmlFormatter().get_style_defs(".highlight")}</style></head><body>
<header><h1>{_text(title)}</h1><p><strong>{_text(total)}</strong></p>
{table if rows else ""}<ul class="notes">{listed}</ul></header>
<hr>{_body(run) if run and run.notebook else ""}</body></html>
"""


def _text(value):
    return html.escape(str(value))


def _body(run):
    notebook = copy.deepcopy(run.notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _drawn(cell.source)
    for index, cell in enumerate(notebook.cells):
        mark = marks(cell)
        if mark.get("grade") and not mark["solution"]:
            shown = visible(cell.source)
            cell.source = (
                shown if shown == cell.source.rstrip("\n") else f"{shown}\n# … and more checks"
            )
            for out in cell.outputs:
                out.traceback = [f"{out.ename}: {out.evalue}"[:LONGEST]]
            if not cell.outputs and index not in run.stopped:  # the grader keeps errors only
                cell.outputs = [new_output("stream", name="stdout", text="✓ passed\n")]
        elif index in run.stopped:
            for out in cell.outputs:
                if out.output_type == "error":
                    out.traceback = [f"{out.ename}: {out.evalue}"]
        for out in cell.get("outputs", []):
            if out.output_type == "error":
                # the student's own lines, not those of libraries on this machine
                out.traceback = [frame for frame in out.traceback if not FRAME.match(frame)]
    notebook.metadata = {"language_info": {"name": "python"}}
    exporter = HTMLExporter(template_name="basic", sanitize_html=True)
    exporter.register_filter("clean_html", _clean)  # nbconvert's own escapes even headings
    return exporter.from_notebook_node(notebook)[0]
