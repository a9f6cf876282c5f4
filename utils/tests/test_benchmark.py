"""The benchmark prints its tables; how fast anything is, no test says."""

import json
import re
import sys
from functools import partial

import pytest

from utils.course import benchmark
from utils.course.__main__ import main

TINY = dict(num_classes=3, image_size=8, num_frames=2, patch_size=4, dim=16, depth=1, heads=2)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(benchmark, "CASES", {"tiny": (TINY, 2)})
    # a large product in bfloat16 takes a minute on a processor that does not know it
    monkeypatch.setattr(benchmark, "product_speed", partial(benchmark.product_speed, size=64))


def test_both_peers_are_compared_in_both_precisions(tiny, tmp_path, capsys):
    pytest.importorskip("transformers")
    pytest.importorskip("timesformer_pytorch")
    main(["benchmark", "--repeats", "1", "--json", str(tmp_path / "speed.json")])
    out = capsys.readouterr().out
    stored = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert {"torch", "processor"} <= stored["machine"].keys()
    compared = {(row["peer"], row["dtype"]) for row in stored["rows"]}
    assert len(compared) == len(stored["rows"]) == 4
    for peer, numbers in compared:
        assert re.search(rf"tiny +{peer} +{numbers}( +\d+\.\d+){{8}}( +\d+%){{2}}", out), out


def test_a_missing_peer_is_one_clear_error(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "timesformer_pytorch", None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SystemExit, match=r'pip install -e "\.\[compare\]"'):
        main(["benchmark", "--repeats", "1"])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SystemExit, match=r'pip install -e "\.\[compare\]"'):
        main(["benchmark-video"])


def test_a_package_that_cannot_load_counts_as_missing(tmp_path, monkeypatch):
    (tmp_path / "without_its_library.py").write_text("raise OSError('no libavutil')")
    monkeypatch.syspath_prepend(tmp_path)
    assert benchmark.loads("json") and not benchmark.loads("without_its_library")
