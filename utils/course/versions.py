"""`python -m utils.course lowest`: the lowest versions that pyproject.toml allows, for pip's -c."""

import re
import tomllib

from utils.paths import ROOT


def requirements():
    """Every requirement in pyproject.toml, of all extras, without the course itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [project["dependencies"], *project["optional-dependencies"].values()]
    return [one for part in listed for one in part if not one.startswith(project["name"])]


def lowest():
    """Each requirement at its lower bound: "numpy>=2.0" gives "numpy==2.0"."""
    return [re.sub(r"^([\w-]+)>=([\d.]+).*$", r"\1==\2", one) for one in requirements()]
