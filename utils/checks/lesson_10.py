"""Checks of the exercises of lesson 10: frames from files."""

import tempfile
from pathlib import Path

import numpy as np

from utils.checks.diagnose import (
    diagnose,
    numbers,
    refuses,
    unpack,
    untouched,
    whole,
)
from utils.video import VideoError, fit_frame, write_video


def _indices(found, n, total, name):
    """`found` as an int64 array, after checking that it can be a choice of n of total frames."""
    assert found is not None, f"{name}: nothing is returned"
    found = np.asarray(found)
    assert found.shape == (n,), f"{name} should be {n} indices, it is {found.shape}"
    assert np.issubdtype(found.dtype, np.integer), (
        f"{name}: an index is a whole number, not {found[0]!r}"
    )
    assert found.max() < total, (
        f"{name}: there is no frame {found.max()} among {total}; the last is {total - 1}"
    )
    assert found.min() >= 0, f"{name}: {found.min()} counts from the end"
    return found.astype(np.int64)


def check_uniform(uniform, seed=0):
    """`uniform(total, n)` is the middle of each of n equal segments; ValueError for impossible ones."""
    more = seed % 5
    for total, n in [(75 + 3 * more, 8), (9 + more, 8), (8, 8), (31, 4 + more), (50, 1)]:
        found = _indices(uniform(total, n), n, total, f"uniform({total}, {n})")
        i = np.arange(n)
        wrong = {
            "that is the start of each segment; take its middle": i * total // n,
            "that is the end of each segment; take its middle": (i + 1) * total // n - 1,
            "from the first to the last frame: the ends get too much weight; take the middle of each segment":
                np.linspace(0, total - 1, n).astype(int),
            "every k-th frame never reaches the end of the clip": i * (total // n),
            "all segments are equally long; `total // n` before multiplying throws the rest away":
                i * (total // n) + total // n // 2,
            "one frame too late": (2 * i + 1) * total // (2 * n) + 1,
            "round down, not to the nearest": np.round((2 * i + 1) * total / (2 * n)).astype(int),
            "the middle of the segments themselves, before they are rounded to whole frames":
                (i * total // n + (i + 1) * total // n - 1) // 2,
        }  # fmt: skip
        diagnose(found, (2 * i + 1) * total // (2 * n), wrong, f"uniform({total}, {n})")
    for total, n in [(7, 8), (5, 0), (5, -1)]:
        refuses(
            lambda total=total, n=n: uniform(total, n), f"nobody can choose {n} of {total} frames"
        )


def check_one_of_each(one_of_each, seed=0):
    """`one_of_each(total, n, seed)` takes a random frame of each segment, reproducibly."""
    total, n = 19 + 5 * (seed % 5), 5  # segments of different lengths
    i = np.arange(n)
    low, high = i * total // n, (i + 1) * total // n
    name = f"one_of_each({total}, {n}, seed)"
    draws = np.stack([_indices(one_of_each(total, n, s), n, total, name) for s in range(300)])
    again = np.stack([_indices(one_of_each(total, n, s), n, total, name) for s in range(300)])
    assert (draws == again).all(), "the same seed should give the same frames"
    assert (draws[1:] != draws[0]).any(), "every seed gives the same frames: use the seed"
    outside = (draws < low) | (draws >= high)
    if outside.any():
        place = int(np.argwhere(outside)[0][1])
        raise AssertionError(
            f"segment {place} holds frames {low[place]} to {high[place] - 1}, you took {draws[outside][0]} from it"
        )
    for place in i:
        missing = sorted(set(range(low[place], high[place])) - set(draws[:, place].tolist()))
        assert not missing, (
            f"in 300 draws frame {missing[0]} of segment {place} ({low[place]} to {high[place] - 1}) was never taken"
        )
    shares = [
        np.bincount(draws[:, place] - low[place]).min() / 300 * (high - low)[place] for place in i
    ]
    assert min(shares) > 0.5, (
        "some frames of a segment are taken much less often than others: all should be equally likely"
    )
    long = [place for place in i if high[place] - low[place] > 2]
    ends = sum(np.isin(draws[:, place], (low[place], high[place] - 1)).sum() for place in long)
    assert ends > 0.8 * sum(2 * 300 / (high - low)[place] for place in long), (
        "the first and last frame of a segment are taken less often than the others: all should be equally likely"
    )
    offsets = (draws - low) / (high - low)
    assert np.abs(np.corrcoef(offsets.T)[0, 1:]).max() < 0.5, (
        "all segments take the frame at the same place: draw anew for each segment"
    )


def check_read_rgb(read_rgb, seed=0):
    """`read_rgb(path, indices)` gives those frames, RGB uint8; VideoError naming the file otherwise."""
    rng = np.random.default_rng(seed)
    frames = np.zeros((9, 24, 32, 3), np.uint8)
    frames[..., 0] = 200 - 20 * (seed % 5)  # red everywhere: blue here means BGR
    frames[:, :12, :, 1] = (np.arange(9) * 25)[:, None, None]  # the upper half tells the frame
    frames[:, :, :16, 0] -= 80  # and the left half is darker
    indices = sorted(rng.choice(9, 3, replace=False).tolist()) if seed else [1, 4, 8]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "colours.mkv")
        write_video(path, frames)
        try:
            found = untouched(read_rgb, path, indices)
        except VideoError as error:
            raise AssertionError(
                f"frames {indices} of 9 are all there, but yours raises: {error}"
            ) from error
        assert isinstance(found, np.ndarray), f"return an array, not a {type(found).__name__}"
        assert found.shape == (3, 24, 32, 3), (
            f"the frames have shape {found.shape}, not (3, 24, 32, 3)"
        )
        assert found.dtype == np.uint8, f"the frames are {found.dtype}, not uint8"
        red, green, blue = found[0].reshape(-1, 3).mean(0)
        assert red > blue, "red and blue are swapped: OpenCV reads blue, green, red"
        assert found[:, :, :12, 0].mean() < found[:, :, 20:, 0].mean(), "the frames are mirrored"
        shown = found[:, :10, :, 1].mean((1, 2)) / 25
        below = found[:, 14:, :, 1].mean((1, 2)) / 25
        assert not (below > shown + 0.5).any(), "the frames are upside down"
        assert np.abs(shown - indices).max() < 0.4, (
            f"frames {indices} were asked for, you return {[round(float(s)) for s in shown]}"
        )
        for bad, wanted, why in [
            (path, [2, 9], "has 9 frames, and frame 9 is the tenth"),
            (Path(folder, "missing.mp4"), [0], "does not exist"),
        ]:
            try:
                found = read_rgb(bad, wanted)
            except VideoError as error:
                assert bad.name in str(error), f"the error should name the file: {error}"
            except NotImplementedError:
                raise
            except Exception as error:
                raise AssertionError(
                    f"{bad.name} {why}: raise a VideoError; yours raises {type(error).__name__}"
                ) from error
            else:
                raise AssertionError(
                    f"{bad.name} {why}: raise a VideoError; you return "
                    + ("nothing" if found is None else f"an array of {len(found)}")
                )
        _check_liars(read_rgb, Path(folder), frames)


def _check_liars(read_rgb, folder, frames):
    """Two files whose header says something else than nine frames."""
    write_video(folder / "honest.avi", frames)
    data = bytearray((folder / "honest.avi").read_bytes())
    place = data.index(b"strh") + 8 + 32  # where an .avi keeps its length in frames
    for claim in (3, 5000):
        data[place : place + 4] = claim.to_bytes(4, "little")
        path = folder / f"claims_{claim}.avi"
        path.write_bytes(data)
        told = f"{path.name} holds nine frames, whatever its header says"
        try:
            shown = read_rgb(path, [2, 5, 7])[:, :10, :, 1].mean((1, 2)) / 25
        except VideoError as error:
            raise AssertionError(
                f"{told}; frames 2, 5 and 7 are there, but yours raises: {error}"
            ) from error
        assert np.abs(shown - [2, 5, 7]).max() < 0.6, (
            f"{told}; asked for 2, 5 and 7 you return {[round(float(s)) for s in shown]}: decode in order, do not jump"
        )
        try:
            found = read_rgb(path, [2, 9])
        except VideoError:
            continue
        raise AssertionError(
            f"{told}, so there is no frame 9: raise a VideoError; you return an array of {len(found)}"
        )


def _check_fit(fit, rows, columns):
    y, x = np.mgrid[0:rows, 0:columns]
    frame = np.stack([255 * y / rows, 255 * x / columns, 90 + 0 * x], -1).round().astype(np.uint8)
    for height, width in [(24, 36), (30, 30), (36, 20), (100, 110), (24, 60), (60, 24)]:
        told = f"a frame of {rows} x {columns} fitted into {height} x {width}"
        found = untouched(fit, frame, height, width)
        assert isinstance(found, np.ndarray), f"{told}: return an array, not {type(found).__name__}"
        assert found.shape != (width, height, 3) or height == width, (
            f"{told} comes out as {found.shape[:2]}: cv2.resize wants (width, height)"
        )
        assert found.shape == (height, width, 3), f"{told} comes out as {found.shape[:2]}"
        assert found.dtype == np.uint8, f"{told} is {found.dtype}, not uint8"
        assert found[..., 2].min() > 60, (
            f"{told}: there are borders; scale until the frame covers all of it, by the larger of the two factors"
        )
        right = fit_frame(frame, (height, width)).astype(float)

        def edges(picture):  # where the first and last row and column of the picture come from
            return np.array(
                [
                    picture[0, :, 0].mean(),
                    picture[-1, :, 0].mean(),
                    picture[:, 0, 1].mean(),
                    picture[:, -1, 1].mean(),
                ]
            )

        want, off = edges(right), edges(found) - edges(right)
        spread = np.diff(edges(found))[::2] / np.diff(want)[::2]
        pixel = (
            1.6 * np.abs(np.diff(want)[::2] / (height - 1, width - 1)).max()
        )  # rounding moves it by one
        assert spread.max() < 1.12, (
            f"{told}: it is squeezed. Scale both sides by the same factor, then crop"
        )
        assert spread.min() > 0.88, f"{told}: too much is cut off; scale the frame first"
        assert np.abs(off).max() < max(6, pixel), (
            f"{told}: it should show the centre; cut equally on both ends"
        )


def check_fit(fit, seed=0):
    """`fit(frame, height, width)` scales until the frame is covered, and crops the centre."""
    for shape in [
        (60, 90),
        (90, 50),
        *([((40, 120), (64, 80), (30, 50))[seed % 3]] if seed else []),
    ]:
        _check_fit(fit, *shape)
    noise = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert fit(noise, 16, 16).std() < 28, (
        "fine patterns survive when the frame becomes smaller, and will flicker: use cv2.INTER_AREA there"
    )
    step = np.zeros((8, 8, 3), np.uint8)
    step[:, 4:] = 255
    between = fit(step, 32, 32)
    assert ((between > 10) & (between < 245)).any(), (
        "a frame that becomes larger shows steps: use cv2.INTER_LINEAR there"
    )
    for side in range(33, 80):  # a rounded side may be a pixel too short
        for other in (32, 49, 61):
            found = fit(np.zeros((side, other, 3), np.uint8), 32, 32)
            assert found.shape == (32, 32, 3), (
                f"a frame of {side} x {other} fitted into 32 x 32 comes out as {found.shape[:2]}: is a rounded side a pixel too short?"
            )


def check_at_rate(at_rate, seed=0):
    """`at_rate(total, fps, new_fps)`: the frame on the screen at each moment of the new rate."""
    for total, fps, new_fps in [
        (31 + seed % 5, 30, 10),
        (120, 25, 5),
        (20, 25 + seed % 5, 10),
        (9, 8, 24),
        (7, 30, 12),
        (12, 8, 8),
        (20, 24, 6),  # these three betray times that were computed with fractions
        (60, 30, 12),
        (7, 25, 25),
    ]:
        right = [m * fps // new_fps for m in range(10 * total) if m * fps // new_fps < total]
        told = f"at_rate({total}, {fps}, {new_fps})"
        found = numbers(at_rate(total, fps, new_fps), told)
        assert found.numel() and found.ndim == 1, (
            f"{told} should be a list of indices, it is {tuple(found.shape)}"
        )
        found = [whole(index, told) for index in found]
        assert max(found) < total, f"{told} asks for frame {max(found)}; the last is {total - 1}"
        assert fps <= new_fps or found == right or found != list(range(0, total, fps // new_fps)), (
            f"{told}: every k-th frame keeps the rate only where k is whole: {fps} / {new_fps} is not"
        )
        assert len(found) == len(right), (
            f"{told} has {len(found)} moments; {total} frames at {fps} a second last {total / fps:.2f} s, "
            f"in which {len(right)} moments at {new_fps} a second begin"
        )
        place = next((m for m in range(len(right)) if found[m] != right[m]), None)
        assert place is None, (
            f"{told}: at moment {place}, {place / new_fps:.3f} s, frame {right[place]} is on the screen "
            f"(from {right[place] / fps:.3f} s), you say {found[place]}"
        )


def check_split(split_by_person, seed=0):
    """`split_by_person(names, share, seed)` puts all clips of a person on one side."""
    team = [f"team_{'1' * person}_{k}.mp4" for person in range(1, 11) for k in range(2)]
    told = "of ten persons (team_1, team_11, team_111, …) with two files each, share 0.3,"
    for s in range(4):
        sides = unpack(split_by_person(list(team), 0.3, s), "training names", "test names")
        train, test = map(len, sides)
        assert 20 not in (train, test), (
            f"{told} one side gets everything: the person is all that stands before the *last* underscore"
        )
        assert (train, test) != (6, 14), (
            f"{told} 14 files go to the test side: are the two sides swapped?"
        )
        assert test == 6 or train + test != 20, (
            f"{told} three persons, 6 of the 20 files, are exactly enough; your test side holds {test}"
            + " (team_1 is another person than team_11, which begins alike)" * (test > 8)
        )
    rng = np.random.default_rng(seed)
    persons = ["anna", "amir", "ann", "bo_li", "bo", "bo_ann", "emil", "fay", "gus", "hana"]
    counts = rng.permutation([1, 1, 2, 2, 3, 3, 4, 6, 8, 10])
    names = [
        f"{person}_{7 * k}.mp4" for person, count in zip(persons, counts) for k in range(count)
    ]
    splits = set()
    for s in range(8):
        given = list(names)
        sides = unpack(split_by_person(given, 0.28, s), "training names", "test names")
        assert given == names, "the list that came in was changed: work on a new one"
        assert all(isinstance(side, list | tuple) for side in sides), "return two lists"
        train, test = map(list, sides)
        again = split_by_person(list(names), 0.28, s)
        assert sorted(again[1]) == sorted(test), (
            "the same seed should give the same split: use it for the shuffle"
        )
        assert sorted([*train, *test]) == sorted(names), (
            "every file belongs to exactly one side; some are lost or on both"
        )
        sides = [{name.rsplit("_", 1)[0] for name in side} for side in (train, test)]
        both = sides[0] & sides[1]
        assert not both, f"{sorted(both)[0]} is on both sides: move whole persons"
        largest = max((counts[persons.index(p)] for p in sides[1]), default=0)
        assert len(test) >= 0.28 * len(names), (
            f"the test side holds {len(test)} of {len(names)} files, less than 0.28 of them: count files, not persons, "
            "do not round, and do not stop one person too early"
        )
        assert len(test) - largest < 0.28 * len(names), (
            f"the test side holds {len(test)} of {len(names)} files: without one of its persons it "
            "would still have 0.28 of them; stop as soon as there are enough"
        )
        for turn in range(4):
            again = split_by_person(list(np.random.default_rng(turn).permutation(names)), 0.28, s)
            assert sorted(map(str, again[1])) == sorted(test), (
                "the split depends on the order of the names, or of a set: sort the persons before you shuffle"
            )
        splits.add(tuple(sorted(test)))
    assert len(splits) > 1, "every seed gives the same split: use the seed"
