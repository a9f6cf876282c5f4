import io

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.patches import FancyBboxPatch  # noqa: E402

from utils import lips, plots  # noqa: E402
from utils.lips import CLASSES as CLASSES_51  # noqa: E402
from utils.lips import clip_path, words  # noqa: E402
from utils.motion import CLASSES, make_clips  # noqa: E402
from utils.plots.journey import PARTS  # noqa: E402
from utils.plots.style import shown, told  # noqa: E402
from utils.video import read_frames  # noqa: E402


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def clips():
    return make_clips(6, seed=0, size=32)[0]


def drawn():
    """Everything written in the current figure, after really drawing it."""
    figure = plt.gcf()
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text()]


def test_frames_show_each_frame_once(clips):
    plots.frames(clips[:2], ["one", "two"], numbers=range(10, 18))
    assert len(plt.gcf().axes) == 16
    images = [ax.images[0].get_array() for ax in plt.gcf().axes]
    assert np.array_equal(images[9], clips[1][1])
    assert {"one", "two", "10", "17"} <= set(drawn())
    plots.frames(clips[0])
    assert len(plt.gcf().axes) == 8


def test_an_animation_moves_and_is_told_in_words(clips):
    from io import BytesIO

    from PIL import Image

    shown = plots.animate(clips, "six clips, side by side")
    picture = Image.open(BytesIO(shown.data))
    assert picture.format == "PNG" and picture.n_frames == 9  # and the still
    assert picture.width > 6 * 96 and shown.alt == "six clips, side by side"
    still = np.asarray(picture.convert("RGB"))
    picture.seek(8)
    assert np.array_equal(
        still, np.asarray(picture.convert("RGB"))
    )  # the last, unless told otherwise


def test_every_figure_is_told_in_words():
    plots.matrix(np.eye(2), ["a", "b"], ["x", "y"], "who looks")
    assert (
        told(plt.gcf())
        == "A matrix of numbers, who looks. Columns: x, y. a: 1.00, 0.00; b: 0.00, 1.00"
    )
    figure, axes = plt.subplots()
    axes.plot([1, 2], label="loss")
    axes.set(title="training", xlabel="epoch", ylabel="nats")
    assert told(figure) == "training; loss; across: epoch; up: nats"


def test_a_notebook_keeps_figures_finely_and_with_their_words():
    import base64
    from io import BytesIO

    from PIL import Image

    plots.matrix(np.eye(2), ["a", "b"], ["x", "y"])
    data, notes = shown(plt.gcf())
    picture = Image.open(BytesIO(base64.b64decode(data)))
    assert abs(picture.width - 2 * notes["width"]) <= 1 and "a: 1.00" in notes["alt"]


def test_matrix_writes_its_numbers():
    plots.matrix(torch.tensor([[0.25, 0.75]]), ["row"], ["a", "b"], title="shares")
    assert {"0.25", "0.75", "row", "a", "b", "shares"} <= set(drawn())


def test_lines_draw_every_seed():
    plots.lines(range(3), {"a": [[1, 2, 3], [2, 3, 4]], "b": [1, 1, 1]}, "step", "loss", log=True)
    axes = plt.gca()
    assert len(axes.lines) == 3 + 2 and axes.get_yscale() == "log"
    assert {text.get_text() for text in axes.texts} == {"a", "b"}  # named where they end
    marks = {line.get_marker() for line in axes.lines}
    assert len(marks) == 2  # also told apart without colour
    assert all(tick == round(tick) for tick in axes.get_xticks())  # no step 0.25


def test_seeds_draw_every_seed_and_the_median():
    table = {("a", "motion"): [0.1, 0.2, 0.9], ("b", "motion"): [0.5, 0.6, 0.7], ("a", "hue"): [1, 1, 1]}  # fmt: skip
    plots.seeds(table, chance=1 / 6, note={("a", "motion"): "paper: 36.6"})
    left, right = plt.gcf().axes
    dots = [dot for points in left.collections for dot in points.get_offsets()[:, 0].tolist()]
    assert sorted(dots) == [0.1, 0.2, 0.5, 0.6, 0.7, 0.9]
    assert {line.get_xdata()[0] for line in left.lines} == {0.2, 0.6, 1 / 6}
    assert len(right.collections) == 1 and "paper: 36.6" in drawn()


def test_reach_colours_each_step_and_the_place():
    first, second = np.zeros((2, 3, 3), bool), np.zeros((2, 3, 3), bool)
    first[:, 1, 1] = second[0] = True
    plots.reach({"divided": [first, second]}, (0, 1, 1))
    here, there = (axes.images[0].get_array() for axes in plt.gcf().axes)
    assert (
        len({tuple(pixel) for pixel in here.reshape(-1, 3)}) == 2
    )  # the place, and the second step
    assert len({tuple(pixel) for pixel in there.reshape(-1, 3)}) == 2  # the first step, and nothing
    assert (there[0] == 1).all() and not (there[1, 1] == here[1, 1]).all()


def test_tokens_fade_when_they_become_alike():
    x = torch.randn(12, 5)
    same = 5 + 1e-6 * torch.randn(12, 5)
    plots.tokens(np.zeros((8, 8, 3), np.uint8), {"fall": [x, same]}, grid=(3, 4))
    _, before, after = (axes.images[0].get_array() for axes in plt.gcf().axes)
    assert before.shape == (3, 4, 3) and before.std() > 0.1 > 1e-3 > after.std()


def test_logarithmic_axes_name_every_x():
    plots.lines([8, 16, 96], {"a": [1, 2, 30]}, "frames", "cost", log="both")
    axes = plt.gca()
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "16", "96"]


def test_other_figures_draw(clips):
    plots.clouds({"a": torch.rand(30, 2), "b": torch.rand(30, 2)}, torch.arange(30) % 6, CLASSES, 2)
    plots.bars(["a", "b"], torch.tensor([1.0, 2.0]), "count")
    plots.heat({"a": torch.rand(3, 4), "b": torch.rand(3, 4)}, label="share")
    plots.spotlight(clips[0], {"where it looks": (None, torch.rand(8, 4, 4))}, wash=True)
    plots.timeline(60, {"uniform": [1, 5], "first": [0, 1]})
    plots.reliability(torch.rand(100), torch.rand(100) > 0.5)
    for number in plt.get_fignums():
        plt.figure(number)
        assert drawn()


def test_a_sentence_shows_its_words_and_what_was_said():
    said = [w for w in words("test") if w.sentence == "bwbh1a"]
    frames = read_frames(clip_path("bwbh1a"))
    plots.spoken(frames, said)
    assert [text for text in drawn() if text in CLASSES_51] == [word.word for word in said]
    pictures = [ax.images[0].get_array() for ax in plt.gcf().axes if ax.images]
    assert len(pictures) == 6 and np.array_equal(pictures[1], frames[26])  # the middle of "white"
    plots.spoken(frames, said, [[(word.word, 0.9), ("lay", 0.1)] for word in said[:5]] + [[("soon", 0.6)]])  # fmt: skip
    texts = {t.get_text(): t.get_color() for t in plt.gcf().findobj(plt.Text)}
    assert texts["✓ white 90%"] != texts["✗ soon 60%"] and "lay 10%" in texts
    assert [text for text in texts if text in CLASSES_51] == [word.word for word in said]


def test_a_confusion_colours_mistakes_only():
    counts = np.array([[9, 2, 0], [0, 9, 0], [1, 0, 9]])
    plots.confusion(counts, {"round": "ou", "open": "a"}, "mistakes")
    shown = plt.gcf().axes[0].images[0].get_array()
    expected = np.array([[np.nan, 2, np.nan], [np.nan] * 3, [1, np.nan, np.nan]])
    np.testing.assert_array_equal(np.ma.filled(shown, np.nan), expected)
    assert {"round", "open", "o", "u", "a", "mistakes", "2", "9"} <= set(drawn())
    plots.confusion(np.diag([3, 3]), {"none": "xy"})  # nothing wrong at all
    drawn()
    assert counts[0, 0] == 9  # what came in is as it was


@pytest.mark.parametrize("name, written", [
    ("attention", {"softmax", "(heads, n, n)"}), ("norm", {"norm", "layer"}), ("mlp", {"value", "gate", "GELU"}),
    ("block", {"(b h w) t d", "(b t) (1+h w) d", "starts at 0"}), ("rollout", {"all together", "time, block 1"}),
    ("schemes", {"16 of 64 patches", "64 of 64 patches", "(b i j k) (t h w)", "8 in the room"}),
])  # fmt: skip
def test_diagrams_say_what_they_show(name, written):
    plots.diagram(name)
    assert written <= set(drawn())


def test_an_unknown_diagram_is_named():
    with pytest.raises(ValueError, match="'blok'.*block"):
        plots.diagram("blok")


def test_spotlight_lights_what_is_looked_at(clips):
    shares = np.zeros((8, 4, 4))
    shares[2, 1, 3], shares[5, 0, 0] = 0.7, 0.3
    plots.spotlight(clips[0], {"a patch": ((2, 1, 2), shares)}, numbers=range(20, 28))
    assert {"a patch", "70", "30", "20", "27"} <= set(drawn())
    images = [ax.images[0].get_array() for ax in plt.gcf().axes]
    assert np.array_equal(
        images[2][8:16, 24:32], clips[0][2, 8:16, 24:32]
    )  # the most looked at, as it is
    assert images[2][0:8, 0:8].min() > 150  # elsewhere pale


def test_the_cut_is_the_middle_of_the_frame():
    frame = np.arange(64 * 96 * 3, dtype=np.uint32).reshape(64, 96, 3).astype(np.uint8)
    plots.cut(frame, (32, 48), 16)
    whole, part = plt.gcf().axes
    assert np.array_equal(part.images[0].get_array(), frame[16:48, 24:72])
    assert {"a frame, 96 × 64 pixels", "48 × 32 pixels in 2 × 3 patches"} <= set(drawn())
    assert len(part.lines) == 3  # two upright, one level


def test_the_story_of_a_token_has_seven_scenes(clips):
    import io

    from PIL import Image

    from utils.model import VideoEmbedding

    picture = Image.open(io.BytesIO(plots.token_story(clips[0], VideoEmbedding((32, 32), 8, 8, 48), (3, 2, 1)).data))  # fmt: skip
    assert picture.n_frames == 8 and picture.size == (1600, 688)  # seven, and the still
    assert not plt.get_fignums()  # nothing is left for the notebook to show a second time


def test_slices_show_a_row_of_pixels_over_time(clips):
    plots.slices(clips[0], (3, 2), clips[1], 8, pixel_row=10)
    whole, past, own, both, other = plt.gcf().axes
    row = clips[0][:, 10] / 255
    assert np.array_equal(whole.images[0].get_array(), row)
    assert np.array_equal(other.images[0].get_array(), clips[1][:, 16] / 255)
    assert np.array_equal(both.images[0].get_array(), row)
    lit = past.images[0].get_array()
    assert (
        np.array_equal(lit[:, 16:24], row[:, 16:24]) and lit[:, :16].min() > 0.6
    )  # the rest is pale
    lit = own.images[0].get_array()
    assert np.array_equal(lit[3], row[3]) and lit[[0, 1, 2, 4]].min() > 0.6


def test_the_map_grows():
    plots.journey(today=["attention"], built=["patches", "tokens"])
    frames = [patch for patch in plt.gcf().findobj(FancyBboxPatch)]
    assert sum(frame.get_linewidth() > 3 for frame in frames) == 2  # T and S
    dotted = sum(frame.get_linestyle() not in ("-", "solid") for frame in frames)
    assert dotted == len(frames) - 4
    bold = [t.get_text() for t in plt.gcf().findobj(plt.Text) if t.get_weight() == "bold" and t.get_color() == "black"]  # fmt: skip
    assert bold == []
    plots.journey(today=["answer"], built=PARTS)
    assert not [frame for frame in plt.gcf().findobj(FancyBboxPatch) if frame.get_linestyle() not in ("-", "solid")]  # fmt: skip
    with pytest.raises(ValueError, match=r"\['tokenz'\].*tokens"):
        plots.journey(today=["tokenz"])


def test_subtitles_write_a_word_when_it_is_over():
    words = [lips.Word("x", slot, word, 4.0 * k, 4.0 * k + 4) for k, (slot, word) in enumerate((("colour", "red"), ("digit", "one")))]  # fmt: skip
    frames = (
        np.arange(20, dtype=np.uint8)[:, None, None, None].repeat(32, 1).repeat(60, 2).repeat(3, 3)
        * 9
    )
    picture = plots.subtitles(frames, words, ["red", "two"], width=120, every=1)
    moves = Image.open(io.BytesIO(picture.data))
    seen = []
    for number in range(1, moves.n_frames):  # picture 0 is the still
        moves.seek(number)
        line = np.asarray(moves.convert("RGB"))[64:].astype(int)
        seen.append([bool((np.ptp(box[6:28, 5:-5], axis=-1) > 60).any() or (box[6:28, 5:-5].max(-1) < 175).any())
                     for box in (line[:, :60], line[:, 60:])])  # fmt: skip
    assert seen[0] == [False, False] and seen[5] == [True, False] and seen[-1] == [True, True]
    assert "red two" in picture.alt and "without sound" in picture.alt
    blue, grey = line[6:28, 5:55], line[6:28, 65:-5]  # right is blue, wrong is grey
    assert np.ptp(blue, axis=-1).max() > 60 > 20 > np.ptp(grey, axis=-1).max()


def test_confusions_show_a_matrix_for_each_moment():
    counts = np.stack([np.full((3, 3), 2), 6 * np.eye(3, dtype=int)])
    plots.confusions(counts, ["a", "b", "c"], ["at first", "at last"])
    first, last = plt.gcf().axes
    assert [len(axes.texts) for axes in (first, last)] == [9, 3]  # a zero is not written
    assert last.get_title() == "at last" and "at first 33%, at last 100%" in told(plt.gcf())


def test_places_on_a_curve_are_marked_and_told():
    plots.lines(range(5), {"right": np.arange(5) / 4}, "step", "share", places={"A": 1, "B": 3})
    axes = plt.gca()
    assert [line.get_xdata()[0] for line in axes.lines[1:]] == [1, 3]
    assert [text.get_text().strip() for text in axes.texts] == ["A", "B"]
    assert "A stands at 1. B stands at 3." in told(plt.gcf())


def test_a_timeline_shows_which_words_a_sampling_meets():
    word = lips.Word("x", "colour", "white", 23.25, 29.25)
    plots.timeline(75, {"uniform": [4, 23, 42]}, [word])
    axes = plt.gca()
    bar = next(patch for patch in axes.patches if patch.get_height() == 0.6)
    assert (bar.get_x(), bar.get_width()) == (23.25, 6.0)
    ticks = axes.collections[-1].get_offsets()[:, 0]
    assert [tick for tick in ticks if bar.get_x() <= tick <= 29.25] == [
        23.5
    ]  # a frame is drawn in its middle
    assert "white is said from frame 23 to 29" in told(plt.gcf())


def test_the_gradient_runs_back_on_the_map_when_asked():
    plots.journey(built=("frames", "patches"), learning=True)
    assert "gradient runs back" in told(plt.gcf())
    plots.journey(built=("frames", "patches"))
    assert "gradient" not in told(plt.gcf())


def test_heat_maps_share_their_ticks():
    plots.heat({name: np.eye(2) for name in "abcd"}, "looked at", "asks", columns=2, ticks=(7, 8))
    axes = [ax for ax in plt.gcf().axes if ax.get_title()]
    assert [[t.get_text() for t in ax.get_xticklabels()] for ax in axes] == [
        [],
        [],
        ["7", "8"],
        ["7", "8"],
    ]
    assert [[t.get_text() for t in ax.get_yticklabels()] for ax in axes] == [
        ["7", "8"],
        [],
        ["7", "8"],
        [],
    ]
