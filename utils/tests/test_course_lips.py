"""The maker of data/lips: from folders, zips and a server that speaks as Zenodo does."""

import csv
import hashlib
import http.server
import json
import threading
import zipfile

import cv2
import numpy as np
import pytest

from utils.course import lips as maker
from utils.course.__main__ import main
from utils.course.lips import MOUTH, align, cut, download, make, split
from utils.lips import GRAMMAR, LIPS, SLOTS, words
from utils.paths import ROOT
from utils.video import probe, read_frames, write_video

SHARED = ROOT.parent / "shared" / "videos" / "lips"
pytest.importorskip("av")


def head(row, column, frames=12, seed=0):
    """A picture with a mouth in it: (t, 128, 176, 3), the mouth's middle at (row, column)."""
    rng = np.random.default_rng(seed)
    still = cv2.resize(rng.uniform(120, 170, (5, 7, 3)), (176, 128), interpolation=cv2.INTER_CUBIC)
    clip = np.repeat(still.clip(0, 255).astype(np.uint8)[None], frames, axis=0)
    for number, frame in enumerate(clip):
        open_by = 3 + round(3 * np.sin(number))
        cv2.ellipse(
            frame, (column, row), (20, 6 + open_by), 0, 0, 360, (190, 90, 90), -1, cv2.LINE_AA
        )
        cv2.ellipse(
            frame, (column, row), (14, 1 + open_by), 0, 0, 360, (40, 20, 20), -1, cv2.LINE_AA
        )
    return clip


NAMES = {"bbaf2n": (60, 80), "lgbf8n": (70, 95), "swiz9a": (52, 71)}
SAID = {"bbaf2n": "bin blue at f two now", "lgbf8n": "lay green by f eight now", "swiz9a": "set white in z nine again"}  # fmt: skip
ALIGNED = "0 1000 sil\n{}\n7000 12000 sil\n"


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    """A folder as the corpus has it: videos of heads, and .align files."""
    folder = tmp_path_factory.mktemp("grid") / "s9"
    folder.mkdir()
    for seed, (name, place) in enumerate(NAMES.items()):
        write_video(folder / f"{name}.avi", head(*place, seed=seed), 25)
        rows = [f"{1000 * k + 1000} {1000 * k + 2000} {word}" for k, word in enumerate(SAID[name].split())]  # fmt: skip
        (folder / f"{name}.align").write_text(ALIGNED.format("\n".join(rows)))
    return folder


def test_cut_repeats_the_border():
    picture = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(cut(picture, 0, 0, (2, 4)), [[0, 0, 0, 1], [0, 0, 0, 1]])
    np.testing.assert_array_equal(cut(picture, 1, 2, (2, 4)), picture[:2])


def test_align_finds_every_mouth():
    places = {str(k): (50 + 2 * k, 70 + 3 * k) for k in range(9)}
    pictures = {n: head(*p, seed=int(n)).mean((0, 3)).astype(np.float32) for n, p in places.items()}
    mean, found = align(pictures, cut(pictures["4"], *places["4"], MOUTH))
    assert mean.shape == MOUTH
    for name, (row, column, score) in found.items():
        assert abs(row - places[name][0]) <= 1 and abs(column - places[name][1]) <= 1
        assert score > 0.8


def test_a_speaker_becomes_a_folder_like_data_lips(speaker, tmp_path, capsys):
    (speaker / "prii9a.align").write_text("0 1000 sil\n")  # no video
    out = make(speaker, tmp_path / "lips", mouth=(60, 80))
    assert "left out: prii9a: no video" in capsys.readouterr().out
    assert [(w.sentence, w.word, w.first, w.end) for w in words(folder=out)][:2] == [("bbaf2n", "bin", 1, 2), ("bbaf2n", "blue", 2, 3)]  # fmt: skip
    shown = {name: read_frames(out / "clips" / f"{name}.mp4") for name in NAMES}
    assert all(clip.shape == (12, 64, 96, 3) for clip in shown.values())
    for clip in shown.values():  # the dark inside of the mouth is in the middle
        dark = clip.mean((0, 3))
        row, column = np.unravel_index(cv2.GaussianBlur(dark, (9, 9), 0).argmin(), dark.shape)
        assert abs(row - 32) <= 4 and abs(column - 48) <= 8
    readme = (out / "README.md").read_text(encoding="utf-8")
    assert "speaker 9" in readme and "CC BY 4.0" in readme and "`prii9a`: no video" in readme
    assert probe(out / "clips" / "bbaf2n.mp4").fps == 25
    (speaker / "prii9a.align").unlink()


def test_the_same_input_gives_the_same_bytes(speaker, tmp_path):
    for name in ("one", "two"):
        make(speaker, tmp_path / name, mouth=(60, 80))
    files = [p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file()]
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_what_it_made_can_be_made_again(speaker, tmp_path):
    first = make(speaker, tmp_path / "first", mouth=(60, 80))
    second = make(first, tmp_path / "second", mouth=(32, 48))
    assert words(folder=first) == words(folder=second)


def test_what_cannot_be_done_is_said_and_leaves_nothing(speaker, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="neither a folder nor a zip"):
        make(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(SystemExit, match="already there"):
        make(speaker, speaker)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="no videos in it"):
        make(tmp_path / "empty", tmp_path / "out")
    write_video(tmp_path / "empty" / "bbaf2n.avi", head(60, 80), 25)
    with pytest.raises(SystemExit, match=r"neither words.csv nor .align files.*--alignments"):
        make(tmp_path / "empty", tmp_path / "out")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(maker, "write_h264", full)
    with pytest.raises(OSError, match="No space"):
        make(speaker, tmp_path / "out", mouth=(60, 80))
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_broken_and_odd_sentences_are_named(speaker, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    for path in speaker.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "lgbf8n.avi").write_bytes(b"not a video")
    (folder / "swiz9a.align").write_text(ALIGNED.format("1000 2000 set"))
    out = make(folder, tmp_path / "out", mouth=(60, 80))
    readme = (out / "README.md").read_text(encoding="utf-8")
    assert "`lgbf8n`" in readme and "`swiz9a`: not six words of the grammar: set" in readme
    assert {word.sentence for word in words(folder=out)} == {"bbaf2n"}


def test_split_goes_by_name_and_letter():
    table = {f"s{k}": [("letter", GRAMMAR["letter"][k % 25], 0, 1)] for k in range(500)}
    parts = split(table)
    for letter in range(25):
        of_letter = [parts[f"s{k}"] for k in range(500) if k % 25 == letter]
        assert {p: of_letter.count(p) for p in of_letter} == dict(train=10, validation=5, test=5)
    fewer = split({name: table[name] for name in table if name != "s25"})
    changed = [name for name in fewer if fewer[name] != parts[name]]
    assert all(int(name[1:]) % 25 == 0 for name in changed) and len(changed) <= 2


# The corpus from a server ---------------------------------------------------------------------------


@pytest.fixture
def zenodo(speaker, tmp_path, monkeypatch):
    """A server with two files of the corpus, and what went wrong with them: (address, files)."""
    files = {}
    with zipfile.ZipFile(tmp_path / "s9.zip", "w") as archive:
        for path in sorted(speaker.glob("*.avi")):
            archive.write(path, f"s9/{path.name}")
        archive.writestr("../../escaped.avi", b"x")
    with zipfile.ZipFile(tmp_path / "alignments.zip", "w") as archive:
        for path in sorted(speaker.glob("*.align")):
            archive.write(path, f"alignments/s9/{path.name}")
            archive.writestr(f"alignments/s8/{path.name}", "0 1 sil")
    for name in ("s9.zip", "alignments.zip"):
        files[name] = (tmp_path / name).read_bytes()
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.split("/")[-2]
            if self.path == "/records/1":
                listed = [dict(key=n, checksum=f"md5:{sums[n]}", links=dict(self=f"{address}/files/{n}/content")) for n in sums]  # fmt: skip
                body = json.dumps(dict(files=listed)).encode()
            else:
                body = files.get(name)
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Length", str(len(body or b"") + lost.get(name, 0)))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    lost = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(maker, "cache_folder", lambda: tmp_path / "cache")
    yield f"{address}/records/1", files, lost
    server.shutdown()


def test_a_speaker_from_the_server(zenodo, speaker, tmp_path):
    record, files, _ = zenodo
    out = make("s9", mouth=(60, 80), record=record)
    assert out == tmp_path / "cache" / "lips-s9"
    from_folder = make(speaker, tmp_path / "folder", mouth=(60, 80))
    for name in NAMES:
        clip = f"clips/{name}.mp4"
        assert (out / clip).read_bytes() == (from_folder / clip).read_bytes()
    assert not list(tmp_path.parent.rglob("escaped.avi"))
    files.clear()  # both are in the cache by now
    assert download("s9.zip", record).is_file()


def test_a_file_with_another_checksum_is_refused(zenodo, tmp_path):
    record, files, _ = zenodo
    files["s9.zip"] += b"!"
    with pytest.raises(SystemExit, match=r"s9\.zip from .* did not come as it should"):
        download("s9.zip", record)
    assert not list((tmp_path / "cache").rglob("*.zip"))


def test_a_download_that_breaks_off_leaves_nothing(zenodo, tmp_path):
    record, _, lost = zenodo
    lost["s9.zip"] = 1000
    with pytest.raises(SystemExit, match=r"s9\.zip"):
        download("s9.zip", record)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_what_the_server_does_not_have(zenodo):
    record, files, _ = zenodo
    with pytest.raises(SystemExit, match=r"has no s21\.zip; it has: alignments\.zip, s9\.zip"):
        download("s21.zip", record)
    del files["s9.zip"]
    with pytest.raises(SystemExit, match="cannot fetch s9.zip.*with a browser"):
        download("s9.zip", record)


def test_without_a_network_it_says_what_to_do():
    with pytest.raises(
        SystemExit, match="cannot fetch alignments.zip.*https://zenodo.org/records/3625687"
    ):
        make("s3", record="http://127.0.0.1:9/records/1")


# Against the real source ----------------------------------------------------------------------------

needs_source = pytest.mark.skipif(not SHARED.is_dir(), reason="the corpus's clips are not here (../shared/videos/lips)")  # fmt: skip


@needs_source
def test_sentences_come_out_as_they_lie_in_data_lips(tmp_path):
    """A few sentences made again, by the stored mean mouth, show the mouth in the same place."""
    few = tmp_path / "few"
    few.mkdir()
    kept = sorted({word.sentence for word in words()})[::87]
    with open(SHARED / "words.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["file"][:-4] in kept]
    with open(few / "words.csv", "w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    for name in kept:
        (few / f"{name}.mp4").write_bytes((SHARED / "clips" / f"{name}.mp4").read_bytes())
    assert main(["lips", str(few), "--out", str(tmp_path / "out"), "--speaker", "s1"]) is None
    stored = {(w.sentence, w.slot): w for w in words()}
    assert all(stored[w.sentence, w.slot] == w for w in words(folder=tmp_path / "out"))
    for name in kept:
        ours = read_frames(LIPS / "clips" / f"{name}.mp4").mean((0, 3)).astype(np.float32)
        again = (
            read_frames(tmp_path / "out" / "clips" / f"{name}.mp4").mean((0, 3)).astype(np.float32)
        )
        (x, y), _ = cv2.phaseCorrelate(ours, again)
        assert abs(x) < 2.5 and abs(y) < 2.5, name


@needs_source
def test_the_mouth_is_found_in_the_corpus_own_pictures(tmp_path):
    """The films as Zenodo has them: 360 x 288 pixels, a whole head."""
    source = tmp_path / "s1"
    source.mkdir()
    for path in (SHARED / "whole").iterdir():
        (source / path.name).write_bytes(path.read_bytes())
        said = [w for w in words() if w.sentence == path.stem]
        assert [w.slot for w in said] == list(SLOTS)
        rows = "\n".join(f"{round(w.first * 1000)} {round(w.end * 1000)} {w.word}" for w in said)
        (source / f"{path.stem}.align").write_text(rows)
    out = make(source, tmp_path / "out")
    for path in (SHARED / "whole").iterdir():
        ours = read_frames(LIPS / "clips" / f"{path.stem}.mp4").mean((0, 3)).astype(np.float32)
        whole = read_frames(out / "clips" / f"{path.stem}.mp4").mean((0, 3)).astype(np.float32)
        (x, y), _ = cv2.phaseCorrelate(ours, whole)
        assert abs(x) < 2.5 and abs(y) < 2.5
