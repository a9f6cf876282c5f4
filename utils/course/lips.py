"""Makes data/lips, or the same of another speaker: `python -m utils.course lips SOURCE`.

The GRID corpus films whole heads. Here each sentence becomes one small silent video of the mouth, in the
same place in all of them, and one table says when which word is spoken.
"""

import csv
import hashlib
import io
import json
import re
import tempfile
import urllib.error
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from utils.lips import FPS, FRAME_SIZE, GRAMMAR, LIPS, MEAN_MOUTH, SLOTS, SPLITS, WORDS_TABLE
from utils.paths import cache_folder, write_text
from utils.video import VIDEO_SUFFIXES, VideoError, read_frames

RECORD = "https://zenodo.org/api/records/3625687"  # the corpus; its files' checksums are in there
SHOWN = "bwbh1a"  # the sentence that every lesson shows: never trained on, so it is a test sentence
PER_LETTER = 5  # test sentences, and validation sentences, for each of the 25 letters
QUALITY = 27  # of H.264: 5.6 MB in all; lower is larger and better
MATCH = 0.6  # a mouth that looks less like the mean mouth than this was not found

README = """\
# Spoken words: {speaker} of the GRID corpus

{count} sentences, one speaker, six words each, without sound: `clips/*.mp4`, {width} × {height} pixels, 25 frames a second,
H.264. (The models of the course look at 48 × 32 pixels in the middle.) `mean_mouth.png` is the average mouth by which
the sentences were aligned. `words.csv` has a row for every word:

- `sentence`: the clip's name; `split`: the part that the sentence belongs to ({parts});
- `slot`: command, colour, preposition, letter, digit or adverb; `word`: what is said;
- `first_frame`, `end_frame`: when the word begins and ends, in frames from 0 and to a quarter of a frame; the end is
  where the next word may begin.

**Source.** The GRID audiovisual sentence corpus, {speaker}: Martin Cooke, Jon Barker, Stuart Cunningham and Xu Shao,
*An audio-visual corpus for speech perception and automatic speech recognition*, Journal of the Acoustical Society of
America 120 (5), 2006, pages 2421–2424. Zenodo, record 3625687, https://doi.org/10.5281/zenodo.3625687.

**Licence.** Creative Commons Attribution 4.0 International (CC BY 4.0),
https://creativecommons.org/licenses/by/4.0/. These clips stay under it; the course's own licence does not apply to
them. The authors of the corpus have not endorsed the course.

**What was changed.** The sound was left out. Every sentence was cut to {width} × {height} pixels round the mouth, at the
original scale; the place was found once per sentence, where the mean mouth fits the sentence's average picture best
(`cv2.matchTemplate`), because the speaker sits in a different place each time. The clips were encoded anew. The times of the
words are the corpus's own. The corpus has 1,000 sentences a speaker; those that were not in the source are not here.
The split is by sentence: for each letter, {per_letter} sentences are for validation and {per_letter} for test, drawn by their names.
{left_out}
Made by `python -m utils.course lips` (utils/course/lips.py).
"""


def make(source, out=None, alignments=None, mouth=None, speaker=None, record=RECORD):
    """Make a folder of mouths like data/lips; returns it.

    `source` is a folder of videos (with words.csv, or with GRID's .align files), a speaker's zip from
    Zenodo, or a speaker's name ("s2"), which is downloaded. `alignments`: folder or zip with the
    .align files, where they lie elsewhere. `mouth`: (row, column) of the mouth's middle in the first
    sentence; without it the mean mouth in data/lips is looked for. `speaker`: GRID's name of who speaks,
    where `source` does not say it. SystemExit says what is missing.
    """
    source, speaker = str(source), speaker or Path(source).stem
    if not Path(source).exists() and re.fullmatch(r"s\d+", source):
        alignments = alignments or download("alignments.zip", record)
        source = download(f"{source}.zip", record)
    out = Path(out or cache_folder() / f"lips-{speaker}")
    if out.exists():
        raise SystemExit(f"{out}: already there; delete it or choose another folder with --out")
    with _unpacked(source) as folder, _unpacked(alignments or source, speaker) as timed:
        files = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in VIDEO_SUFFIXES]
        if not files:
            raise SystemExit(f"{source}: no videos in it")
        table, videos, refused = _timings(timed, files)
        if not table:
            raise SystemExit(f"{alignments or source}: neither words.csv nor .align files for the videos in {source}; GRID's are in alignments.zip, see --alignments")  # fmt: skip
        pictures = _mean_pictures(videos, refused)
        mean, places = align(pictures, _first_mouth(pictures, mouth))
        for name, (_, _, score) in places.items():
            if score < MATCH:
                refused[name] = f"no mouth found (the best place matches to {score:.2f} only)"
        places = {name: place for name, place in places.items() if name not in refused}
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as part:
            whole = Path(part, out.name)
            (whole / "clips").mkdir(parents=True)
            _encode_all(
                {name: (videos[name], *places[name][:2]) for name in places}, whole / "clips"
            )
            cv2.imwrite(str(whole / MEAN_MOUTH), mean.round().astype(np.uint8))
            splits = split({name: table[name] for name in places})
            write_text(whole / WORDS_TABLE, _words_csv(table, splits))
            write_text(whole / "README.md", _readme(speaker, splits, refused))
            whole.rename(out)
    for name, reason in sorted(refused.items()):
        print(f"left out: {name}: {reason}")
    return out


# What comes in -------------------------------------------------------------------------------------


def download(name, record=RECORD):
    """Fetch a file of the corpus into the cache, once, and compare it with the record's checksum.

    Shows progress; a file that did not come whole leaves nothing behind. SystemExit says why.
    """
    import pooch
    import requests

    try:
        with urllib.request.urlopen(record, timeout=30) as answer:
            files = {file["key"]: file for file in json.load(answer)["files"]}
        if name not in files:
            raise SystemExit(f"{record} has no {name}; it has: {', '.join(sorted(files))}")
        address, checksum = files[name]["links"]["self"], files[name]["checksum"]
        folder = cache_folder() / "grid"
        return Path(pooch.retrieve(address, checksum, name, folder, progressbar=True))
    except (urllib.error.URLError, requests.RequestException, TimeoutError) as error:
        raise SystemExit(f"cannot fetch {name} from {record} ({error}); with a browser, save it from "
                         "https://zenodo.org/records/3625687 and name the file instead") from error  # fmt: skip
    except ValueError as error:  # pooch: another checksum; json: not the record
        raise SystemExit(f"{name} from {record} did not come as it should: {error}") from error


@contextmanager
def _unpacked(source, only=None):
    """A folder with what `source` (a folder or a zip) holds; of a zip's files those below `only`, if any are."""
    source = Path(source)
    if source.is_dir():
        yield source
        return
    if not zipfile.is_zipfile(source):
        raise SystemExit(
            f"{source}: neither a folder nor a zip, nor a speaker of the corpus (s1, s2, …)"
        )
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(source) as archive:
        members = [m for m in archive.infolist() if Path(m.filename).suffix.lower() in VIDEO_SUFFIXES | {".align", ".csv"}]  # fmt: skip
        ours = [m for m in members if only in Path(m.filename).parts]
        for member in ours or members:
            member.filename = Path(member.filename).name  # nothing is written outside the folder
            archive.extract(member, folder)
        yield Path(folder)


def _timings(folder, files):
    """When each word is spoken, and in which file.

    Returns {sentence: [(slot, word, first, end), …]}, {sentence: file}, {sentence: why refused}.
    """
    table, refused, by_stem = {}, {}, {path.stem: path for path in reversed(files)}
    videos, by_name = {}, {path.name: path for path in reversed(files)}
    listed = folder / WORDS_TABLE
    if listed.exists():
        with open(listed, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                name = Path(row.get("sentence") or row["file"]).stem
                timed = row["slot"], row["word"], float(row["first_frame"]), float(row["end_frame"])
                table.setdefault(name, []).append(timed)
                videos[name] = by_name.get(row.get("file")) or by_stem.get(name)
    else:
        for path in sorted(folder.rglob("*.align")):
            rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
            said = [row for row in rows if row and row[2] not in ("sil", "sp")]
            # GRID counts in thousandths of a frame
            table[path.stem] = [(slot, word, int(first) / 1000, int(end) / 1000)
                                for slot, (first, end, word) in zip(SLOTS, said)]  # fmt: skip
            videos[path.stem] = by_stem.get(path.stem)
    for name in sorted(set(by_stem) | set(table)):
        words = table.get(name, [])
        if videos.get(name) is None or not words:
            refused[name] = "no word times" if name in by_stem else "no video"
        elif [slot for slot, *_ in words] != list(SLOTS) or any(
            word not in GRAMMAR[slot] for slot, word, *_ in words
        ):
            refused[name] = (
                f"not six words of the grammar: {' '.join(word for _, word, *_ in words)}"
            )
    kept = [name for name in table if name not in refused]
    return {name: table[name] for name in kept}, {name: videos[name] for name in kept}, refused


def _mean_pictures(videos, refused):
    """Each sentence's average frame in grey, float32; what cannot be read is refused with its reason."""

    def picture(name):
        try:
            frames = read_frames(videos[name])
        except VideoError as error:
            return name, str(error)
        mean = frames.mean(0).round().astype(np.uint8)
        return name, cv2.cvtColor(mean, cv2.COLOR_RGB2GRAY).astype(np.float32)

    with ThreadPoolExecutor() as pool:
        found = dict(tqdm(pool.map(picture, videos), "reading", len(videos), unit="sentence"))
    refused |= {name: what for name, what in found.items() if isinstance(what, str)}
    return {name: what for name, what in found.items() if name not in refused}


# The mouth -----------------------------------------------------------------------------------------

MOUTH = (48, 72)  # rows and columns of the mean mouth


def cut(picture, row, column, size):
    """A piece of a picture round (row, column); beyond the border its last pixels are repeated.

    Shapes: (height, width[, 3]) -> (*size[, 3]).
    """
    height, width = size
    rows = np.arange(row - height // 2, row - height // 2 + height).clip(0, picture.shape[0] - 1)
    columns = np.arange(column - width // 2, column - width // 2 + width)
    return picture[rows[:, None], columns.clip(0, picture.shape[1] - 1)]


def _first_mouth(pictures, mouth):
    if mouth is not None:
        return cut(next(iter(pictures.values())), *mouth, MOUTH)
    stored = LIPS / MEAN_MOUTH
    found = cv2.imread(str(stored), cv2.IMREAD_GRAYSCALE)
    if found is None:
        raise SystemExit(
            f"{stored}: the mean mouth is missing; say with --mouth where the mouth is"
        )
    return found.astype(np.float32)


def align(pictures, mouth):
    """Find the mouth in each sentence's mean picture, and the mean mouth of all of them.

    Shapes: pictures {name: (height, width) float32}, mouth (48, 72) -> mean mouth (48, 72), and
    {name: (row, column, score)} with the mouth's middle and a correlation of at most 1.
    """
    # Once with the given mouth, once with the mean of what it found, and no more: further rounds
    # drift. Each one blurs the mean a little, and a blurred mouth also fits the skin beside the mouth:
    # in eight rounds it wandered two pixels aside, with a better score in every round.
    found = {name: _look_for(mouth, picture) for name, picture in pictures.items()}
    mouth = _mean_mouth(pictures, found)
    places = {name: _look_for(mouth, picture) for name, picture in pictures.items()}
    return mouth, places


def _mean_mouth(pictures, places):
    found = [cut(pictures[name], row, column, MOUTH) for name, (row, column, _) in places.items()]
    return np.mean(found, axis=0)


def _look_for(mouth, picture):
    height, width = mouth.shape
    # a mouth may lie half beyond the border
    border = height // 2, height // 2, width // 2, width // 2
    wide = cv2.copyMakeBorder(picture, *border, cv2.BORDER_REPLICATE)
    fit = cv2.matchTemplate(wide, mouth.astype(np.float32), cv2.TM_CCOEFF_NORMED)
    _, score, _, (column, row) = cv2.minMaxLoc(fit)
    return row, column, score


# What goes out -------------------------------------------------------------------------------------


def _encode_all(sentences, folder):
    def one(name):
        path, row, column = sentences[name]
        frames = np.stack([cut(frame, row, column, FRAME_SIZE) for frame in read_frames(path)])
        write_h264(folder / f"{name}.mp4", frames)

    with ThreadPoolExecutor() as pool:
        list(tqdm(pool.map(one, sentences), "writing", len(sentences), unit="sentence"))


def write_h264(path, frames, fps=FPS, quality=QUALITY):
    """Frames, (t, height, width, 3) uint8 RGB, as an .mp4 that browsers play.

    OpenCV's wheels cannot write H.264; PyAV's can.
    """
    import av

    options = dict(
        crf=str(quality),
        preset="veryslow",
        threads="1",  # … and on any number of cores
        # What pleases the eye forges movement. Measured by how well the change from frame to frame
        # survives: a correlation of 0.84 as x264 comes, 0.87 so, in as many bytes.
        tune="psnr",
        # Bytes for brightness: the model sees no colour. And without mbtree the same frames give the
        # same bytes in every run; with it x264's result depends on where its memory happens to lie.
        **{"x264-params": "mbtree=0:chroma-qp-offset=6"},
    )
    with av.open(str(path), "w", options=dict(movflags="faststart")) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # x264 writes its settings into every file: a tenth of a sentence's bytes
        settings = av.bitstream.BitStreamFilterContext("filter_units=remove_types=6", stream)
        for number in range(len(frames) + 1):
            picture = None  # no more to come
            if number < len(frames):
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frames[number]), "rgb24")
                picture.pts, picture.time_base = number, 1 / Fraction(fps)
            for packet in stream.encode(picture):
                container.mux(settings.filter(packet))
        container.mux(settings.filter(None))


def split(table):
    """Which part each sentence belongs to: {sentence: "train", "validation" or "test"}.

    Of each letter's sentences PER_LETTER are for test and as many for validation (all 51 words are
    then in each part), the rest for training; which ones follows from their names alone, so it does
    not change when a sentence comes or goes elsewhere.
    """
    by_letter = {}
    for name, words in table.items():
        letter = next(word for slot, word, *_ in words if slot == "letter")
        by_letter.setdefault(letter, []).append(name)
    parts = {}
    for names in by_letter.values():
        drawn = sorted(
            names, key=lambda name: (name != SHOWN, hashlib.sha256(name.encode()).digest())
        )
        for place, name in enumerate(drawn):
            parts[name] = ("test", "validation", "train")[min(place // PER_LETTER, 2)]
    return parts


def _words_csv(table, splits):
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("sentence", "split", "slot", "word", "first_frame", "end_frame"))
    for name in sorted(splits):
        rows.writerows((name, splits[name], slot, word, f"{first:g}", f"{end:g}") for slot, word, first, end in table[name])  # fmt: skip
    return text.getvalue()


def _readme(speaker, splits, refused):
    number = re.fullmatch(r"s(\d+)", speaker)
    parts = list(splits.values())
    reasons = "".join(f"- `{name}`: {reason}\n" for name, reason in sorted(refused.items()))
    return README.format(
        speaker=f"speaker {number[1]}" if number else speaker, count=len(parts),
        parts=", ".join(f"{name} {parts.count(name)} sentences" for name in SPLITS),
        height=FRAME_SIZE[0], width=FRAME_SIZE[1], per_letter=PER_LETTER,
        left_out=f"\n**Left out:**\n\n{reasons}" if reasons else "")  # fmt: skip
