"""The pieces that can be touched, in a real browser: Chromium without a screen, from a saved file.

Screenshots of every piece land in data/cache/screenshots, for a person to look at.
"""

import json
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")

from utils import lips, plots  # noqa: E402
from utils.model import TimeSformer  # noqa: E402
from utils.motion import CLASSES, make_clips  # noqa: E402
from utils.paths import DATA, cache_folder  # noqa: E402
from utils.plots import touch  # noqa: E402
from utils.rollout import attention_maps  # noqa: E402
from utils.training import load_model, to_video  # noqa: E402

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
  --disable-component-update --disable-sync --window-size=800,560 --hide-scrollbars"""
MOUTH = "bwbh1a"


@pytest.fixture(scope="module")
def browser():
    if not (BROWSER and DRIVER):
        pytest.skip(
            "no chromium and chromedriver here (Debian: apt install chromium chromium-driver)"
        )
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


class Piece:
    """A piece in its iframe, in a saved HTML file, as a notebook's export has it."""

    def __init__(self, driver, text, path, height=450):
        path.write_text("<!doctype html><meta charset=utf-8>" + touch.embed(text, "piece", height).data, encoding="utf-8")  # fmt: skip
        self.driver = driver
        driver.get_log("performance"), driver.get_log("browser")  # what came before is not ours
        driver.get(path.as_uri())
        driver.switch_to.frame(0)
        self.wait(lambda: self.run("return document.body.dataset.ready") == "yes")

    def wait(self, what):
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 20).until(lambda _: what())

    def run(self, code, *more):
        return self.driver.execute_script(code, *more)

    def find(self, css):
        return self.driver.find_element("css selector", css)

    def all(self, css):
        return self.driver.find_elements("css selector", css)

    def state(self):
        return json.loads(self.run("return document.body.dataset.state"))

    def press(self, *keys):
        from selenium.webdriver.common.keys import Keys

        self.driver.switch_to.active_element.send_keys(*(getattr(Keys, key, key) for key in keys))

    def shoot(self, name):
        folder = cache_folder() / "screenshots"
        folder.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(folder / f"{name}.png"))

    def quiet(self):
        """No error was logged, and nothing was asked of any network."""
        assert self.driver.get_log("browser") == []
        asked = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]  # fmt: skip
        addresses = [one["params"]["request"]["url"] for one in asked if one["method"] == "Network.requestWillBeSent"]  # fmt: skip
        assert not [address for address in addresses if not address.startswith(("file:", "data:", "about:"))]  # fmt: skip


@pytest.fixture(scope="module")
def motion():
    model, _ = load_model(DATA / "motion_divided.safetensors")
    return model, *make_clips(60, seed=77, size=32)


def test_the_model_in_the_page_computes_what_torch_computes(browser, motion, tmp_path):
    model, clips, _ = motion
    piece = Piece(browser, touch.model_page(model, clips[:6], CLASSES), tmp_path / "model.html")
    with torch.no_grad():
        expected = model(to_video(clips)).numpy()
    frames = [[frame.reshape(-1).tolist() for frame in clip] for clip in clips]
    logits = np.array([piece.run("return Array.from(logits(arguments[0]))", clip) for clip in frames])  # fmt: skip
    assert abs(logits - expected).max() < 0.05
    assert (logits.argmax(1) == expected.argmax(1)).all()
    piece.quiet()


def test_the_model_in_the_page_answers_clicks_and_keys(browser, motion, tmp_path):
    from selenium.webdriver import ActionChains

    model, clips, labels = motion
    six = np.stack([clips[np.flatnonzero(labels == label)[0]] for label in range(6)])
    with torch.no_grad():
        backwards = model(to_video(six[:, ::-1].copy())).argmax(1).tolist()
        frozen = model(to_video(six[:, [0] * 8])).argmax(1).tolist()
    piece = Piece(browser, touch.model_page(model, six, CLASSES), tmp_path / "model.html")

    def click(what):
        piece.find(f"[data-do={what}]").click()

    def answer():
        return CLASSES.index(piece.run("return document.body.dataset.answer"))

    piece.shoot("model")
    for number, button in enumerate(piece.all(".clips button")):
        button.click()
        assert answer() == number
        click("reverse")
        assert answer() == backwards[number]
        click("reset")
        click("freeze")
        assert answer() == frozen[number]
    assert "The model says: " + CLASSES[answer()] == piece.find(".answer").text
    click("reset")

    def order():
        return [int(frame.text) for frame in piece.all(".frame")]

    assert order() == [1, 2, 3, 4, 5, 6, 7, 8]
    piece.all(".frame")[0].click()
    piece.press("ARROW_RIGHT", "ARROW_RIGHT")
    assert order() == [2, 3, 1, 4, 5, 6, 7, 8]
    first, last = piece.all(".frame")[0], piece.all(".frame")[7]
    ActionChains(browser).click_and_hold(last).move_to_element(first).release().perform()
    assert order() == [8, 2, 3, 1, 4, 5, 6, 7]
    click("shuffle")
    assert sorted(order()) == [1, 2, 3, 4, 5, 6, 7, 8]

    click("reset")
    before = piece.run("return small(shown[3].canvas).join()")
    click("paint")
    ActionChains(browser).move_to_element(piece.all(".frame")[3]).click().perform()
    assert piece.run("return small(shown[3].canvas).join()") != before
    piece.shoot("model-painted")
    piece.quiet()


@pytest.fixture(scope="module")
def rounds():
    words = [word for word in lips.words("test") if word.sentence == MOUTH and word.slot != "letter"][:3]  # fmt: skip
    said = np.full((3, 51), 0.001)
    said[range(3), lips.labels_of(words)] = 0.9  # the machine is right each time
    return words, said


def test_you_against_the_machine(browser, rounds, tmp_path):
    words, said = rounds
    piece = Piece(browser, touch.versus_page(words, said), tmp_path / "versus.html")
    piece.wait(lambda: piece.run("return document.querySelector('video').readyState") >= 2)
    assert piece.run("return document.querySelector('video').error") is None
    piece.shoot("versus")
    buttons = piece.all("#words button")
    assert [button.text for button in buttons] == list(lips.GRAMMAR[words[0].slot])
    next(button for button in buttons if button.text == words[0].word).click()
    assert piece.state()["marks"] == [dict(you=True, machine=True)]
    assert f"He said {words[0].word}. You saw it." in piece.find("#verdict").text
    piece.press("ENTER")  # the button for the next word has the focus

    wrong = 1 - lips.GRAMMAR[words[1].slot].index(words[1].word)  # the first word or the second
    piece.press(str(wrong % 4 + 1))
    assert piece.state()["marks"][1] == dict(you=False, machine=True)
    piece.shoot("versus-answered")
    piece.find("#next").click()
    piece.find("#slow").click()
    assert piece.run("return document.querySelector('video').playbackRate") == 0.5
    piece.find("#words button").click()
    assert piece.find("#machine").text == "3" and "machine" in piece.find("#verdict").text
    piece.find("#next").click()
    assert piece.state() == dict(round=0, marks=[]) and piece.find("#you").text == "0"
    piece.quiet()


@pytest.fixture(scope="module")
def mouth():
    whole = lips.read_frames(lips.clip_path(MOUTH))
    seen = lips.channels(lips.crop(lips.grey(whole)[..., None], (32, 48))[None, 23:31, ..., 0])[0]
    torch.manual_seed(0)
    model = TimeSformer(num_classes=51, image_size=(32, 48), num_frames=8, patch_size=8, dim=16, depth=2, heads=2)  # fmt: skip
    return lips.crop(whole, (32, 48))[23:31], seen, model.eval()


def test_ask_a_patch(browser, mouth, tmp_path):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.ui import Select

    shown, seen, model = mouth
    schemes = ("divided", "space", "joint", "local+global", "axial")
    maps = attention_maps(model, seen)
    text = touch.ask_page(shown, (4, 6), schemes, (3, 2, 1), 23, maps, ("does", "may"))
    piece = Piece(browser, text, tmp_path / "ask.html")
    group = 2 * 6 + 1  # row 2, column 1: the time step's groups are places
    assert piece.state()["share"] == pytest.approx(
        maps[0][0][group, :, 3].mean(0).max().item(), abs=0.005
    )
    Select(piece.find("[name=block]")).select_by_value("1")
    Select(piece.find("[name=step]")).select_by_value("1")
    Select(piece.find("[name=head]")).select_by_value("1")
    weights = maps[1][1][3, 1, 1 + group]  # frame 3 is the group; query 0 is the class token
    assert piece.state()["share"] == pytest.approx(weights[1:].max().item(), abs=0.005)
    assert piece.state()["top"] == 3 * 24 + weights[1:].argmax()
    assert f"The class token gets {100 * weights[0]:.0f} %." == piece.find(".cls").text
    piece.shoot("ask-does")

    Select(piece.find("[name=mode]")).select_by_value("may")
    members = {}
    for name in schemes:
        Select(piece.find("[name=scheme]")).select_by_value(name)
        members[name] = []
        steps = piece.all("[name=step] option")
        for number in range(max(1, len(steps))):
            if steps:
                Select(piece.find("[name=step]")).select_by_value(str(number))
            members[name].append(piece.state()["members"])
    assert members == {"divided": [8, 24], "space": [24], "joint": [192], "local+global": [48, 24], "axial": [8, 6, 4]}  # fmt: skip
    piece.shoot("ask-may")

    canvas = piece.all("canvas")[5]
    ActionChains(browser).move_to_element_with_offset(canvas, 5, 5).click().perform()
    assert [piece.state()[axis] for axis in "thw"] == [5, 2, 3]
    piece.run("document.querySelector('#frames').focus()")
    piece.press("ARROW_LEFT", "ARROW_DOWN", "ARROW_DOWN", "PAGE_UP")
    assert [piece.state()[axis] for axis in "thw"] == [4, 0, 2]
    piece.quiet()


def test_stills_and_sizes(mouth, rounds, motion, monkeypatch):
    shown, seen, model = mouth
    out = []
    monkeypatch.setattr(touch, "display", out.append)
    plots.ask_a_patch(shown, (4, 6), asked=(3, 2, 1), first=23, model=model, seen=seen)
    plots.ask_a_patch(shown, (4, 6), schemes=("joint", "local+global"))
    plots.versus(*rounds)
    plots.model_in_page(motion[0], motion[1][:6], CLASSES)
    kinds = [type(one).__name__ for one in out]
    assert kinds == ["Figure", "HTML"] * 4  # a still, then the page
    sizes = [len(one.data.encode()) // 1000 for one in out[1::2]]
    assert max(sizes) < 500, sizes
    for one in out[1::2]:
        assert 'sandbox="allow-scripts"' in one.data and "http" not in one.data.replace("http-equiv", "")  # fmt: skip


def test_a_piece_that_cannot_be_made_is_named(mouth):
    _, seen, model = mouth
    joint = TimeSformer(6, 32, 8, 8, 16, 1, 2, scheme="joint")
    with pytest.raises(ValueError, match="divided with geglu, not joint"):
        plots.model_in_page(joint, np.zeros((1, 8, 32, 32, 3), np.uint8), CLASSES)
    with pytest.raises(ValueError, match="halves"):
        plots.ask_a_patch(np.zeros((7, 32, 48, 3), np.uint8), (4, 6), schemes=("local+global",))


def test_templates_ask_nothing_of_a_network():
    for path in Path(touch.TEMPLATES).iterdir():
        assert "http" not in path.read_text(encoding="utf-8"), path
