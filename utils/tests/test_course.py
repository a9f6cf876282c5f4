import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

import nbformat
import pytest
import yaml

from utils.course import exercises, notebooks
from utils.course.__main__ import main
from utils.course.notebooks import SETUP_CELL, execute, lessons, repository, set_repo
from utils.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


# The lists of packages ---------------------------------------------------------------------------


def pip_list():
    """Everything that the README's test command installs: dependencies, and the test extra, unrolled."""
    extras = PROJECT["optional-dependencies"]
    listed = list(PROJECT["dependencies"])
    for requirement in extras["test"]:
        inner = re.fullmatch(r"timesformer-from-scratch\[(\w+)\]", requirement)
        listed += extras[inner[1]] if inner else [requirement]
    return listed


def conda_list():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (nested,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    return environment, nested


def test_conda_and_pip_install_the_same():
    environment, nested = conda_list()
    assert sorted(nested) == sorted(set(pip_list()))  # two extras may need the same package
    assert (
        f"python{PROJECT['requires-python']}" in environment["dependencies"]
        and "pip" in environment["dependencies"]
    )
    names = {re.split(r"[<>=]", requirement)[0] for requirement in nested}
    assert {"torch", "einops", "jupyterlab", "matplotlib", "opencv-python", "nbval"} <= names


def test_the_pip_part_can_be_resolved():
    """A dry run without a network: what is installed here satisfies the list, and nothing is missing."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--no-index",
        "--no-input",
        *conda_list()[1],
    ]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "Would install" not in run.stdout


def test_the_lowest_versions_can_be_asked_for(capsys):
    main(["lowest"])
    pins = capsys.readouterr().out.split()
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", pin) for pin in pins)
    assert sorted(pin.replace("==", ">=") for pin in pins) == sorted(
        requirement.partition(",")[0] for requirement in pip_list()
    )


def imported(source):
    """The packages that a text imports, anywhere in it, without Python's own and ours."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    tops = {name.partition(".")[0] for name in names}
    return tops - set(sys.stdlib_module_names) - {"utils"}


def declared(*extras):
    """Names in pyproject.toml: the dependencies, and the extras that are named."""
    listed = list(PROJECT["dependencies"])
    for extra in extras:
        listed += PROJECT["optional-dependencies"][extra]
    return {re.split(r"[<>=\[]", requirement)[0].lower() for requirement in listed}


# which extras a room may use beside the dependencies
EXTRAS = {"grading": ["instructor"], "course": ["instructor", "compare", "corpus"],
          "train.py": ["train"], "published.py": ["published"],
          "tests": ["instructor", "compare", "corpus", "train", "published", "test"]}  # fmt: skip


def test_every_import_is_declared():
    """Also those that other packages happen to bring along today."""
    distributions = metadata.packages_distributions()
    texts = [(path, path.read_text(encoding="utf-8"), path.relative_to(ROOT / "utils").parts[0])
             for path in (ROOT / "utils").rglob("*.py")]  # fmt: skip
    for path in lessons() + notebooks.solved_exercises():
        cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        code = re.sub(r"^(\s*)[%!].*$", r"\1pass", "\n".join(cells), flags=re.M)
        texts.append((path, code, "tests" if path.stem[:2] in ("09", "15") else "lesson"))
    assert len(texts) > 90
    for path, text, room in texts:
        known = declared(*EXTRAS.get(room, []))
        for name in imported(text) - {"torchcodec"}:  # measured where it is; no extra brings it
            packages = {one.lower() for one in distributions[name]}
            assert packages & known, f"{path.name} imports {name}, which comes with {packages}"


# The README's commands -----------------------------------------------------------------------------


def test_ci_runs_what_the_readme_says():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    start, test = re.findall(r"^python3 -m venv .*$", readme, re.M)
    assert start.endswith(".venv/bin/python -m utils.course start") and test.endswith("bin/pytest")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")  # it reads the lines, has no copy
    pattern = re.search(r"grep -E '(.*)' README\.md", ci)[1]
    assert [line for line in readme.splitlines() if re.search(pattern, line)] == [
        test,
        ".venv/bin/pytest -m slow",
    ]


# The set-up cell ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    """A git repository that stands in for the one on GitHub, and the environment that redirects to it."""
    place = tmp_path_factory.mktemp("remote") / "course"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    if not tracked:
        pytest.skip("not a git checkout")
    for name in tracked:
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.com"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "copy"]):
        subprocess.run([*git, *command], cwd=place, check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return environment | {
        "COLAB_RELEASE_TAG": "release-colab-test",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{place}.insteadOf",
        "GIT_CONFIG_VALUE_0": repository(),
    }


def setup_output(folder, environment):
    """Run the set-up cell in `folder` as a script that also says which utils it imported."""
    code = (
        SETUP_CELL.format(repo=repository())
        + "\nimport utils\nprint(Path(utils.__file__).resolve().parents[1])"
    )
    # -S and no user site: like Colab, this Python has never heard of the course
    run = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_set_up_fetches_the_course_once(tmp_path, remote):
    (tmp_path / "lone.ipynb").touch()
    expected = tmp_path / repository().rsplit("/", 1)[1]
    assert setup_output(tmp_path, remote) == str(expected.resolve())
    (expected / "mine.txt").write_text("a learner's file")
    without_network = remote | {
        "GIT_CONFIG_VALUE_0": "https://nowhere.invalid/x",
        "GIT_CONFIG_KEY_0": "url.file:///nowhere.insteadOf",
    }
    assert setup_output(tmp_path, without_network) == str(expected.resolve())
    assert (expected / "mine.txt").exists()


def test_set_up_finds_the_course_around_it(tmp_path, remote):
    for folder in (ROOT, ROOT / "notebooks", ROOT / "utils" / "tests"):
        assert setup_output(folder, remote) == str(ROOT.resolve())
    assert not (ROOT / "notebooks" / repository().rsplit("/", 1)[1]).exists()


MARKER = "utils/model.py"  # frozen, and so is the text: downloaded notebooks go by them


def test_the_marker_is_frozen():
    assert b"TimeSformer from scratch" in (ROOT / MARKER).read_bytes()
    assert 'place / "utils" / "model.py"' in SETUP_CELL
    assert 'b"TimeSformer from scratch" in file.read_bytes()' in SETUP_CELL


def test_another_project_is_not_taken_for_the_course(tmp_path, remote):
    """Many projects have a utils/model.py."""
    project = tmp_path / "project"
    (project / "utils").mkdir(parents=True)
    (project / MARKER).write_bytes("# naïve".encode("latin-1"))
    expected = project / repository().rsplit("/", 1)[1]
    assert setup_output(project, remote) == str(expected.resolve())


def test_set_up_lets_waiting_threads_sleep(remote):
    code = SETUP_CELL.format(repo=repository()) + '\nprint(os.environ["OMP_WAIT_POLICY"])'
    for given, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):  # a user's choice stays
        environment = {k: v for k, v in remote.items() if k != "OMP_WAIT_POLICY"}
        environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
        run = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, env=environment,
                             capture_output=True, text=True)  # fmt: skip
        assert run.stdout.strip() == expected, run.stderr


def test_whoever_imports_utils_before_torch_has_sleeping_threads_too():
    """start, grade, the experiments, the tests."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    code = "import os, utils; print(os.environ['OMP_WAIT_POLICY'])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)  # fmt: skip
    assert run.stdout.strip() == "PASSIVE", run.stderr


def test_set_up_says_when_it_cannot_fetch(tmp_path, remote):
    broken = remote | {"GIT_CONFIG_KEY_0": f"url.file://{tmp_path}/nothing.insteadOf"}
    code = SETUP_CELL.format(repo=repository())
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=broken, capture_output=True, text=True
    )
    assert run.returncode != 0 and "nothing" in run.stderr
    assert not (tmp_path / repository().rsplit("/", 1)[1]).exists()


RUNNER = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
"""


def shortened(notebook):
    """The same notebook with few motion clips, one epoch, and without the claims about accuracy."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and "setup" in cell.metadata.get("tags", []):
            cell.source += (
                "\nimport utils.recipe as _e"
                "\n_write, _e.RECIPE = _e.write_dataset, _e.RECIPE | dict(epochs=1)"
                "\n_e.write_dataset = lambda root: _write(root, train=600, test=60)"
            )
        elif cell.cell_type == "code":
            cell.source = re.sub(r"^(\s*)assert .*$", r"\1pass", cell.source, flags=re.M)
    return notebook


CACHING = ("00", "10", "11", "12")  # the first, and those that leave something in the cache


@pytest.mark.parametrize("chosen", [("00",), pytest.param(None, marks=pytest.mark.slow, id="all")])
def test_lessons_run_alone_as_in_colab_and_again(remote, tmp_path, chosen):
    """An empty folder, one .ipynb, no course beside it. Long lessons are shortened here; nbval runs them whole."""
    paths = [path for path in lessons() if chosen is None or path.stem[:2] in chosen]

    def run_alone(path):
        folder = (
            tmp_path / f"Mein Kurs, ähnlich {path.stem}"
        )  # spaces and letters that are not ASCII
        folder.mkdir()
        notebook = shortened(nbformat.read(path, as_version=4))
        (folder / path.name).write_text(nbformat.writes(notebook))
        command = [sys.executable, "-c", RUNNER, path.name]
        for _ in range(2 if path.stem[:2] in CACHING and chosen is None else 1):
            run = subprocess.run(command, cwd=folder, env=remote, capture_output=True, text=True)
            if run.returncode:
                return f"{path.stem}: {run.stderr[-2000:]}"
        clone = folder / repository().rsplit("/", 1)[1]
        found = sorted(p.name for p in folder.iterdir())
        return None if found == sorted([path.name, clone.name]) else f"{path.stem} left {found}"

    with ThreadPoolExecutor(2) as pool:
        problems = [problem for problem in pool.map(run_alone, paths) if problem]
    assert not problems, "\n".join(problems)


# set-repo ---------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the course that set-repo may change."""
    for name in ("README.md", "pyproject.toml"):
        shutil.copy2(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path / "notebooks")
    return tmp_path


def test_set_repo_reaches_every_badge_and_cell(copy):
    old = repository()
    set_repo("https://github.com/ada/my-fork.git")
    assert notebooks.repository() == "https://github.com/ada/my-fork"
    for path in [
        copy / "README.md",
        copy / "pyproject.toml",
        *(copy / "notebooks").rglob("*.ipynb"),
    ]:
        text = path.read_text(encoding="utf-8")
        assert old not in text and old.removeprefix("https://") not in text.replace(
            "colab.research.google.com/", ""
        )
    for path in notebooks.lessons():
        notebook = nbformat.read(path, as_version=4)
        (cell,) = (cell for cell in notebook.cells if "setup" in cell.metadata.get("tags", []))
        assert 'REPO = "https://github.com/ada/my-fork"' in cell.source
        assert "/github/ada/my-fork/blob/main/notebooks/" in notebook.cells[0].source
    set_repo(old)
    for path in (copy / "notebooks").rglob("*.*"):
        if path.is_file():
            assert path.read_bytes() == (ROOT / path.relative_to(copy)).read_bytes(), path.name


def test_set_repo_leaves_student_copies_as_nbgrader_would_make_them(copy, tmp_path, monkeypatch):
    pytest.importorskip("nbgrader")
    if not (exercises.EXERCISES / "source").is_dir():
        pytest.skip("a students' copy, without solutions")
    set_repo("https://github.com/ada/my-fork")
    monkeypatch.setattr(exercises, "EXERCISES", copy / "notebooks" / "exercises")
    for path in exercises.make_release(["02_attention"], into=tmp_path / "made"):
        assert "ada/my-fork" in path.read_text(encoding="utf-8")
        assert path.read_bytes() == exercises.release("02_attention").read_bytes()


@pytest.mark.parametrize(
    "url", ["my-fork", "http://github.com/a/b", "https://github.com/a", "https://github.com/a/b/c"]
)
def test_set_repo_refuses_other_addresses(copy, url):
    before = (copy / "README.md").read_bytes()
    with pytest.raises(SystemExit, match="not an address like"):
        set_repo(url)
    assert (copy / "README.md").read_bytes() == before


# execute -----------------------------------------------------------------------------------------------


def little_course(folder, monkeypatch, **sources):
    (folder / "notebooks").mkdir()
    for stem, source in sources.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        nbformat.write(notebook, folder / "notebooks" / f"{stem[1:]}.ipynb")
    monkeypatch.setattr(notebooks, "NOTEBOOKS", folder / "notebooks")


def test_execute_stores_outputs_and_prints_seconds(tmp_path, monkeypatch, capfd):
    bar = "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)): pass\n"
    little_course(tmp_path, monkeypatch, _01_a=bar + "print(6 * 7)", _02_b="1 / 2")
    execute()
    out = capfd.readouterr().out
    assert re.search(r"01_a +\d+\.\d s\n02_b +\d+\.\d s\nall together +\d+\.\d s", out)
    stored = nbformat.read(tmp_path / "notebooks" / "01_a.ipynb", as_version=4)
    assert [
        o.text for o in stored.cells[0].outputs if o.output_type == "stream" and o.name == "stdout"
    ] == ["42\n"]
    assert "widget" not in str(stored) and "execution" not in stored.cells[0].metadata
    before = (tmp_path / "notebooks" / "01_a.ipynb").read_bytes()
    execute(["01"])
    assert (tmp_path / "notebooks" / "01_a.ipynb").read_bytes() == before


def test_execute_leaves_a_failing_lesson_as_it_was(tmp_path, monkeypatch):
    little_course(tmp_path, monkeypatch, _01_a="raise ValueError('on purpose')")
    before = (tmp_path / "notebooks" / "01_a.ipynb").read_bytes()
    with pytest.raises(Exception, match="on purpose"):
        execute()
    assert (tmp_path / "notebooks" / "01_a.ipynb").read_bytes() == before
    with pytest.raises(SystemExit, match="no notebook is called 99; there are: 01_a"):
        execute(["99"])
    with pytest.raises(SystemExit, match="no notebook is called 99"):
        execute(["01", "99"])  # nothing is run when one name is wrong


def test_benchmark_prints_a_table(tmp_path, capsys):
    pytest.importorskip("av")
    shutil.copy2(ROOT / "data" / "samples" / "left.mp4", tmp_path)
    (tmp_path / "broken.mp4").write_text("no video")
    main(["benchmark-video", str(tmp_path), "--json", str(tmp_path / "speed.json")])
    (row,) = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))["rows"]
    assert (row["file"], row["height"], row["width"], row["frames"]) == ("left.mp4", 96, 96, 24)
    assert row["ours per second"] > 0 and row["PyAV per second"] > 0
    out = capsys.readouterr().out
    assert (
        re.search(r"left.mp4 +24 +\d+ +\d+ +\d+\.\d\d", out)
        and "broken.mp4" in out
        and "VideoError" in out
    )
    with pytest.raises(SystemExit, match="no videos here"):
        main(["benchmark-video", str(tmp_path / "nothing")])
