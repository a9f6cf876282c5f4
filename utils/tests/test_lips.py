import shutil

import cv2
import numpy as np
import pytest
import torch

from utils import lips
from utils.lips import (
    CLASSES,
    GRAMMAR,
    LIP_SHAPES,
    LIPS,
    MARGIN,
    NOTHING,
    SLOT_OF,
    SLOTS,
    SPLITS,
    Word,
    accuracies,
    augment,
    centred,
    channels,
    clip_path,
    crop,
    grey,
    guess_by_length,
    in_slot,
    labels_of,
    mean_picture,
    mix,
    moved,
    one_frame,
    respeed,
    shuffled,
    vary,
    views,
    window,
    windows,
    words,
)
from utils.training import to_video
from utils.video import VideoError, probe, read_frames


def test_every_letter_has_one_lip_shape():
    assert sorted("".join(LIP_SHAPES.values())) == sorted(GRAMMAR["letter"])


def test_the_grammar_has_51_different_words():
    assert len(CLASSES) == len(set(CLASSES)) == len(SLOT_OF) == 51
    for place, slot in enumerate(SLOTS):
        assert tuple(np.array(CLASSES)[SLOT_OF == place]) == GRAMMAR[slot]


# data/lips -----------------------------------------------------------------------------------------


def test_the_splits_share_no_sentence_and_hold_every_word():
    parts = {split: words(split) for split in SPLITS}
    names = {split: {word.sentence for word in part} for split, part in parts.items()}
    assert {split: len(part) for split, part in names.items()} == dict(
        train=617, validation=125, test=125
    )
    assert len(set.union(*names.values())) == 867
    for split, part in parts.items():
        assert {word.word for word in part} == set(CLASSES), split
    letters = [word.word for word in words("test", "letter")]
    assert {letter: letters.count(letter) for letter in letters} == dict.fromkeys(GRAMMAR["letter"], 5)  # fmt: skip


def test_every_sentence_has_six_words_one_after_the_other():
    table = words()
    for six in (table[start : start + 6] for start in range(0, len(table), 6)):
        assert len({word.sentence for word in six}) == 1
        assert tuple(word.slot for word in six) == SLOTS
        assert all(word.word in GRAMMAR[word.slot] for word in six)
        assert all(word.first < word.end for word in six)
        assert all(a.end <= b.first for a, b in zip(six, six[1:]))


def test_the_mouth_that_the_lessons_show_is_not_trained_on():
    assert "bwbh1a" in {word.sentence for word in words("test")}
    white = next(w for w in words("test", "colour") if w.sentence == "bwbh1a")
    assert (white.word, round(white.first), round(white.end)) == ("white", 23, 29)


def test_a_video_for_every_sentence_and_nothing_else():
    names = {word.sentence for word in words()}
    assert {path.name for path in (LIPS / "clips").iterdir()} == {f"{n}.mp4" for n in names}
    size = sum(path.stat().st_size for path in LIPS.rglob("*") if path.is_file())
    assert size < 6_000_000


def test_the_licence_and_the_authors_are_named():
    text = (LIPS / "README.md").read_text(encoding="utf-8")
    for needed in ("CC BY 4.0", "Cooke", "Barker", "Cunningham", "Shao", "3625687", "What was changed"):  # fmt: skip
        assert needed in text


def test_the_clips_are_as_the_table_says():
    for name in sorted({word.sentence for word in words()})[::60]:
        info = probe(clip_path(name))
        assert (info.height, info.width, info.fps) == (*lips.FRAME_SIZE, lips.FPS)
        assert len(read_frames(clip_path(name))) in (74, 75)
    for path in (LIPS / "clips").glob("*.mp4"):
        assert b"avc1" in path.read_bytes()  # H.264: browsers play it


def test_opencv_and_pyav_read_the_same_frames():
    av = pytest.importorskip("av")
    for name in sorted({word.sentence for word in words()})[::60]:
        with av.open(str(clip_path(name))) as container:
            theirs = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
        np.testing.assert_array_equal(read_frames(clip_path(name)), theirs)


def test_words_refuses_what_is_not_there(tmp_path):
    with pytest.raises(
        ValueError, match="unknown split 'valid'; there are train, validation, test"
    ):
        words("valid")
    with pytest.raises(ValueError, match="unknown slot 'color'; there are command, colour"):
        words("train", "color")
    with pytest.raises(VideoError, match=r"words\.csv: No such file.*python -m utils\.course lips"):
        words(folder=tmp_path)


def test_a_missing_clip_is_named(tmp_path):
    shutil.copy(LIPS / "words.csv", tmp_path)
    with pytest.raises(VideoError, match="bwbh1a.mp4"):
        windows([w for w in words("test") if w.sentence == "bwbh1a"], folder=tmp_path)


# Windows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first, end, expected", [
    (20, 26, range(19, 27)), (20, 22, range(17, 25)), (20.75, 25.5, range(19, 27)),
])  # fmt: skip
def test_a_window_lies_around_the_middle_of_its_word(first, end, expected):
    np.testing.assert_array_equal(window(Word("x", "colour", "red", first, end), 75, 8), expected)


def test_a_window_does_not_tell_how_long_its_word_is():
    for length in (1, 4, 11, 21):
        chosen = window(Word("x", "colour", "red", 37 - length / 2, 37 + length / 2), 75, 8)
        np.testing.assert_array_equal(chosen, np.arange(33, 41))


def test_beyond_the_ends_the_outermost_frame_is_repeated():
    np.testing.assert_array_equal(
        window(Word("x", "command", "bin", 0, 2), 75, 8)[:5], [0, 0, 0, 0, 1]
    )
    np.testing.assert_array_equal(window(Word("x", "adverb", "now", 73, 75), 75, 8)[-4:], [74] * 4)


def test_windows_are_the_frames_of_the_file():
    word = next(w for w in words("test", "colour") if w.sentence == "bwbh1a")
    clips, labels = windows([word], num_frames=5, size=(16, 24))
    assert clips.shape == (1, 5, 16, 24) and clips.dtype == np.uint8
    assert CLASSES[labels[0]] == "white"
    frames = grey(read_frames(clip_path("bwbh1a")), (16, 24))[24:29]
    np.testing.assert_array_equal(clips[0], frames[:, 24:40, 36:60])


def test_the_margin_lies_around_the_window():
    some = words("test")[:7]
    small, _ = windows(some, 4, (16, 24))
    large, _ = windows(some, 4, (16, 24), margin=(2, 5))
    assert large.shape == (7, 8, 26, 34)
    np.testing.assert_array_equal(centred(large, (2, 5)), small)
    with pytest.raises(ValueError, match=r"64, 96.* too few for \(64, 96\) with a margin of 1"):
        windows(some, 4, (64, 96), margin=(0, 1))


def test_grey_forgets_lamp_and_contrast():
    frames = read_frames(clip_path("bwbh1a"))
    dim = (frames * 0.6 + 30).round().astype(np.uint8)
    light, dark = grey(frames), grey(dim)
    assert abs(light.astype(int) - dark).max() <= 4  # rounding
    middle = crop(light, lips.IMAGE_SIZE)
    np.testing.assert_allclose([middle.mean(), middle.std()], [115, 29], atol=0.6)
    video = to_video(channels(middle[None]))
    assert abs(video[:, :, 0].mean()) < 0.02 and abs(video[:, :, 0].std() - 0.5) < 0.02


def test_channels_by_hand():
    still = np.full((1, 3, 2, 2), 100, np.uint8)
    still[0, 1, 0, 0] = 130
    shown = channels(still)
    assert shown.shape == (1, 3, 2, 2, 3) and shown.dtype == np.uint8
    np.testing.assert_array_equal(shown[..., 0], still)
    np.testing.assert_array_equal(shown[0, :, 0, 0, 1], [NOTHING, NOTHING + 60, NOTHING - 60])
    np.testing.assert_array_equal(shown[0, :, 0, 0, 2], [NOTHING - 10, NOTHING + 20, NOTHING - 10])
    np.testing.assert_array_equal(shown[0, :, 1, 1, 1:], NOTHING)


def test_a_photograph_shows_no_change():
    shown = channels(one_frame(windows(words("test")[:3])[0]))
    np.testing.assert_array_equal(shown[..., 1:], NOTHING)


# Augmentation --------------------------------------------------------------------------------------


def numbered(n=64):
    """Windows whose brightness says where each pixel was: 10 frames of 12 x 14."""
    t, y, x = np.ogrid[:10, :12, :14]
    return np.broadcast_to((60 + 4 * t + 3 * y + 2 * x).astype(np.uint8), (n, 10, 12, 14)).copy()


def test_moved_shows_other_frames_and_places():
    clips = numbered(2)
    got = moved(clips, np.array([1, -1]), np.array([3, -3]), np.array([-3, 2]), (1, 3))
    np.testing.assert_array_equal(got[0], clips[0, 2:10, 6:12, 0:8])
    np.testing.assert_array_equal(got[1], clips[1, 0:8, 0:6, 5:13])


def test_respeed_by_hand():
    clip = np.arange(0, 90, 10, dtype=np.uint8)[None, :, None, None]  # 9 frames: 0, 10, … 80
    for speed, late, expected in [
        (1, 0, [20, 30, 40, 50, 60]), (1, -1, [10, 20, 30, 40, 50]), (1, 0.25, [22.5, 32.5, 42.5, 52.5, 62.5]),
        (1.5, 0, [10, 25, 40, 55, 70]), (0.5, 0, [30, 35, 40, 45, 50]), (3, 0, [0, 10, 40, 70, 80]),
    ]:  # fmt: skip
        shown = respeed(clip, 5, np.array([speed]), np.array([late]))
        np.testing.assert_allclose(shown[0, :, 0, 0], expected, atol=1e-4)
    even = respeed(clip[:, :8], 4, np.ones(1), np.zeros(1))
    np.testing.assert_array_equal(even, clip[:, 2:6])


def test_vary_reaches_the_whole_margin_and_changes_nothing_else():
    windows = numbered(600)
    before = windows.copy()
    shown = vary(windows, np.random.default_rng(0), (1, 3))
    assert shown.shape == (600, 8, 6, 8) and shown.dtype == np.uint8
    np.testing.assert_array_equal(windows, before)  # what came in is as it was
    np.testing.assert_array_equal(vary(windows, np.random.default_rng(0), (1, 3)), shown)
    shown = shown.astype(int)
    across = shown[:, 0, 0, -1] - shown[:, 0, 0, 0]  # 14 as it is
    assert 0.45 < (across < 0).mean() < 0.55  # mirrored
    contrast = abs(across) / 14
    assert 0.78 < contrast.min() < 0.86 and 1.14 < contrast.max() < 1.22
    speed = (shown[:, 5, 0, 0] - shown[:, 2, 0, 0]) / 12 / contrast
    assert 0.75 < speed.min() < 0.95 and 1.05 < speed.max() < 1.3
    assert len(np.unique(shown[:, 0, 0, 0])) > 30


def test_mix_lays_two_clips_and_their_labels_over_each_other():
    clips = np.full((6, 2, 3, 3), np.arange(0, 240, 40, dtype=np.uint8)[:, None, None, None])
    labels, mixed = np.array([4, 9, 4, 0, 50, 7]), 0
    for seed in range(40):
        shown, shares = mix(clips, labels, np.random.default_rng(seed))
        assert shown.dtype == np.uint8 and shares.shape == (6, 51) and shares.dtype == np.float32
        np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
        if (shares.max(1) == 1).all() and (shown == clips).all():
            continue
        mixed += 1
        # a clip's brightness says of which two clips it was mixed, and how: its label must agree
        for place, (clip, share) in enumerate(zip(shown, shares)):
            rest = 1 - share[labels[place]]
            partners = [k for k in range(6) if k != place and share[labels[k]] > 0]
            if labels[place] != 4 and partners:
                middle = (1 - rest) * 40 * place + rest * np.array([40.0 * k for k in partners])
                assert abs(middle - clip[0, 0, 0]).min() < 1
    assert 10 <= mixed <= 30


def test_augment_is_what_fit_takes():
    windows, labels = numbered(4)[:, :, :10, :12], np.arange(4)
    shown, shares = augment(
        np.pad(windows, ((0, 0), (1, 1), (0, 0), (0, 0))), labels, np.random.default_rng(0)
    )
    assert shown.shape == (4, 8, 4, 6, 3) and shown.dtype == np.uint8
    assert shares.shape == (4, 51)


def test_one_of_the_eighteen_views_is_what_is_evaluated():
    clips, _ = windows(words("test")[:4], margin=MARGIN, progress=False)
    seen = views(clips)
    straight = views(clips, aside=0)
    assert len(seen) == len(straight) == 18
    as_it_is, mirrored, early = straight[8], straight[9], straight[6]
    np.testing.assert_array_equal(as_it_is, channels(centred(clips)))
    np.testing.assert_array_equal(mirrored, channels(centred(clips)[..., ::-1]))
    np.testing.assert_array_equal(early[:, 1:, ..., 0], as_it_is[:, :-1, ..., 0])
    for others in (seen, straight):
        assert len({view.tobytes() for view in others}) == 18
    # the place from which each of the nine looks: in the middle as it is, all others once
    places = []
    for number in range(0, 18, 2):
        for rows, columns in np.ndindex(3, 3):
            moved_clips = np.roll(clips, (rows - 1, columns - 1), axis=(2, 3))
            if (views(moved_clips, aside=0)[number] == seen[number]).all():
                places.append((rows - 1, columns - 1))
    assert places[4] == (0, 0) and len(places) == len(set(places)) == 9


# Reading and cheats ---------------------------------------------------------------------------------


def test_the_slot_narrows_the_choice():
    blue, again = CLASSES.index("blue"), CLASSES.index("again")
    odds = torch.full((1, 51), 0.01)
    odds[0, again], odds[0, blue] = 0.5, 0.2
    assert in_slot(odds, [SLOTS.index("colour")]) == blue
    told = accuracies(odds, np.array([blue]))
    assert told == dict(all=0, in_slot=1, colour=1)


def test_the_length_of_a_word_is_a_cheat_of_known_size():
    """Measured once; nothing random is in it. If windows told the length, a model could do this."""
    train, test = words("train"), words("test")
    right = guess_by_length(train, test) == labels_of(test)
    told = {slot: round(right[SLOT_OF[labels_of(test)] == place].mean().item(), 3)
            for place, slot in enumerate(SLOTS)}  # fmt: skip
    assert told == dict(command=0.472, colour=0.344, preposition=0.448, letter=0.064, digit=0.232, adverb=0.512)  # fmt: skip


def test_a_length_never_seen_counts_as_the_nearest():
    train = [Word("a", "colour", "red", 0, 4), Word("b", "colour", "red", 0, 4), Word("c", "colour", "blue", 0, 9)]  # fmt: skip
    test = [Word("d", "colour", "x", 0, length) for length in (1, 5, 8, 30)]
    assert [CLASSES[k] for k in guess_by_length(train, test)] == ["red", "red", "blue", "blue"]


def test_cheats_leave_out_what_they_say():
    clips = np.random.default_rng(0).integers(0, 255, (3, 8, 4, 6), dtype=np.uint8)
    np.testing.assert_array_equal(one_frame(clips), clips[:, [4] * 8])
    np.testing.assert_allclose(mean_picture(clips), clips.mean(1, keepdims=True).repeat(8, 1), atol=0.51)  # fmt: skip
    mixed = shuffled(clips)
    assert (mixed != clips).any()
    np.testing.assert_array_equal(np.sort(mixed, axis=1), np.sort(clips, axis=1))
    np.testing.assert_array_equal(shuffled(clips), mixed)
    for place, clip in zip(mixed, clips):  # whole frames, each once
        order = [next(k for k in range(8) if (clip[k] == frame).all()) for frame in place]
        assert sorted(order) == list(range(8))


def test_the_mouths_lie_in_the_same_place():
    """The mean of all first frames is still a mouth: a dark line between the lips, near the middle."""
    first = [grey(read_frames(clip_path(n), sampling=[0], num_frames=1))[0] for n in sorted({w.sentence for w in words()})[::12]]  # fmt: skip
    mean = cv2.GaussianBlur(np.mean(first, axis=0), (1, 5), 0)[16:48, 36:60].mean(axis=1)
    assert abs(int(mean.argmin()) - 16) <= 5
