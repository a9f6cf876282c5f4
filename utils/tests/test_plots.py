import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from utils import plots  # noqa: E402
from utils.motion import CLASSES, make_clips  # noqa: E402
from utils.video import read_frames  # noqa: E402


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def clips():
    return make_clips(6, seed=0)[0]


def drawn():
    """Everything written in the current figure, after really drawing it."""
    figure = plt.gcf()
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text()]


def test_map_lights_what_it_is_asked_to(clips):
    plots.model_map("prenorm")
    bold = [t.get_text() for t in plt.gcf().findobj(plt.Text) if t.get_weight() == "bold"]
    assert bold == ["PreNorm"] * 3
    with pytest.raises(ValueError, match=r"\['tokenz'\].*tokens"):
        plots.model_map("tokenz")


def test_frames_show_each_frame_once(clips):
    plots.frames(clips[:2], ["one", "two"], numbers=range(10, 18))
    assert len(plt.gcf().axes) == 16
    images = [ax.images[0].get_array() for ax in plt.gcf().axes]
    assert np.array_equal(images[9], clips[1][1])
    assert {"one", "two", "10", "17"} <= set(drawn())
    plots.frames(clips[0])
    assert len(plt.gcf().axes) == 8


def test_player_embeds_a_playable_video(clips, tmp_path):
    import base64

    html = plots.play(clips[0]).data
    data = base64.b64decode(html.split("base64,")[1].split('"')[0])
    (tmp_path / "clip.mp4").write_bytes(data)
    back = read_frames(tmp_path / "clip.mp4", size=32)
    assert len(back) == 8 and np.abs(back.astype(int) - clips[0]).mean() < 20
    assert b"vp09" in data


def test_animation_is_a_moving_gif(clips):
    from io import BytesIO

    from PIL import Image

    picture = Image.open(BytesIO(plots.animate(clips).data))
    assert picture.format == "GIF" and picture.n_frames == 8 and picture.width > 6 * 96


def test_matrix_writes_its_numbers():
    plots.matrix(torch.tensor([[0.25, 0.75]]), ["row"], ["a", "b"], title="shares")
    assert {"0.25", "0.75", "row", "a", "b", "shares"} <= set(drawn())


def test_lines_draw_every_seed():
    plots.lines(range(3), {"a": [[1, 2, 3], [2, 3, 4]], "b": [1, 1, 1]}, "step", "loss", log=True)
    axes = plt.gca()
    assert len(axes.lines) == 3 and axes.get_yscale() == "log"
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["a", "b"]
    marks = {line.get_marker() for line in axes.lines}
    assert len(marks) == 2  # also told apart without colour


def test_other_figures_draw(clips):
    plots.bars(["a", "b"], torch.tensor([1.0, 2.0]), "count")
    plots.heat({"a": torch.rand(3, 4), "b": torch.rand(3, 4)}, label="share")
    plots.overlay(clips[0], torch.rand(8, 4, 4), "where it looks")
    plots.timeline(60, {"uniform": [1, 5], "first": [0, 1]})
    plots.probabilities(clips, torch.eye(6), CLASSES, range(6))
    plots.reliability(torch.rand(100), torch.rand(100) > 0.5)
    for number in plt.get_fignums():
        plt.figure(number)
        assert drawn()
