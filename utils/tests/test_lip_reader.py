"""The model that reads lips: what is kept in data/ is what was measured, and how it was made."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from utils import lips, paths
from utils.experiments import lip_reader
from utils.experiments.lip_reader import ANSWERS, RESULTS, TILES, WEIGHTS, measure
from utils.experiments.spoken import DATA, fingerprint, spoken
from utils.model import TimeSformer, count_parameters
from utils.recipe import (
    LIPS_KEPT,
    LIPS_MODEL,
    LIPS_RECIPE,
    LIPS_TILES,
    LIPS_TILES_RECIPE,
    read_lips,
    train_lips,
)
from utils.training import load_model, predict


@pytest.fixture(scope="module")
def readers():
    return [load_model(path) for path in WEIGHTS]


def test_the_kept_weights_are_made_as_they_say(readers):
    assert sum(path.stat().st_size for path in WEIGHTS) < 1_500_000
    for (model, notes), (sizes, recipe, seed) in zip(readers, LIPS_KEPT, strict=True):
        assert tuple(notes["classes"]) == lips.CLASSES and notes["seed"] == seed
        assert notes["data"] == fingerprint() and notes["recipe"] == recipe
        assert model.config == TimeSformer(**sizes).config
        assert notes["together"] == readers[0][1]["together"]
    model, notes = load_model(TILES)
    assert TILES.stat().st_size < 300_000 and model.config == TimeSformer(**LIPS_TILES).config
    assert notes["data"] == fingerprint() and notes["recipe"] == LIPS_TILES_RECIPE


def test_the_kept_answers_are_as_good_as_the_weights_say(readers):
    """All of the kept answers, and that they are these weights': twelve words a day, all when slow."""
    words, kept = lips.words("test"), load_file(ANSWERS)
    answers = [kept.pop(path.stem) for path in WEIGHTS]
    assert not kept
    together = readers[0][1]["together"]
    for said, noted in [*zip(answers, (notes["test"] for _, notes in readers)), (lips.together(answers), together)]:  # fmt: skip
        assert lips.accuracies(said, lips.labels_of(words)) == pytest.approx(noted, abs=1e-4)
    for (model, _), answer in zip(readers, answers):
        np.testing.assert_allclose(read_lips(words[:12], [model]), answer[:12], atol=0.02)


@pytest.mark.slow
def test_the_kept_weights_read_as_well_as_they_say(readers):
    """Measured again from the files, clips and weights; another machine may round otherwise."""
    words, answers, kept = lips.words("test"), [], load_file(ANSWERS)
    for (model, notes), path in zip(readers, WEIGHTS):
        answers.append(read_lips(words, [model]))
        np.testing.assert_allclose(answers[-1], kept[path.stem], atol=0.03)
        agree(lips.accuracies(answers[-1], lips.labels_of(words)), notes["test"])
    together = lips.accuracies(lips.together(answers), lips.labels_of(words))
    agree(together, readers[0][1]["together"])


@pytest.mark.slow
def test_the_model_with_small_patches_reads_as_well_as_it_says():
    model, notes = load_model(TILES)
    agree(measure(model), notes["test"])


def test_the_model_with_small_patches_reads():
    """A third of the test sentences, looked at in one way: nearly as well as all in eighteen."""
    model, notes = load_model(TILES)
    words = [word for n, word in enumerate(lips.words("test")) if n // 6 % 3 == 0]
    windows, labels = lips.windows(words, model.config["num_frames"], progress=False)
    told = lips.accuracies(predict(model, lips.channels(windows)), labels)
    assert told["all"] > notes["test"]["all"] - 0.06


def test_read_lips_asks_all_kept_models(readers):
    words = lips.words("test")[:6]
    together = read_lips(words)
    assert together.shape == (6, len(lips.CLASSES))
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-5)
    alone = np.stack([read_lips(words, [model]) for model, _ in readers])
    mean = alone.prod(axis=0, dtype=np.float64) ** (1 / len(readers))
    np.testing.assert_allclose(together, mean / mean.sum(1, keepdims=True), atol=1e-3)
    # a word that one of them rules out is hardly said
    assert lips.together([[[0.5, 0.5]], [[1.0, 0.0]]])[0, 1] < 0.002


def agree(told, noted):
    assert told.keys() == noted.keys()
    for name, share in noted.items():
        assert told[name] == pytest.approx(share, abs=0.005 if name in ("all", "in_slot") else 0.017), name  # fmt: skip


@pytest.mark.slow  # lesson 13 looks at the same cheats every day, with a model that it trains
def test_cheats_stay_where_they_were_measured(readers):
    """Without movement or without order the kept models read far worse: they live off no leak."""
    words = lips.words("test")
    labels = lips.labels_of(words)

    def right(change):
        said = 0
        for model, _ in readers:
            windows, _ = lips.windows(words, model.config["num_frames"], progress=False)
            said = said + predict(model, lips.channels(change(windows)))
        return lips.accuracies(said, labels)["in_slot"]

    as_filmed = right(lambda windows: windows)
    shares = [right(change) for change in (lips.shuffled, lips.one_frame, lips.mean_picture)]
    assert as_filmed > 0.85
    np.testing.assert_allclose(shares, CHEATS, atol=0.015)


CHEATS = (0.509, 0.327, 0.315)  # shuffled, one frame, mean picture


def test_the_seeds_were_made_with_the_recipe():
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert stored["model"] == json.loads(json.dumps(LIPS_MODEL))
    assert stored["recipe"] == LIPS_RECIPE and stored["data"] == fingerprint()
    assert [row["seed"] for row in stored["rows"]] == list(lip_reader.SEEDS)
    # what lesson 13 compares it with: the same network with AdamW, for nearly three times as long
    adamw = json.loads(RESULTS.with_name("lips-seeds-adamw.json").read_text(encoding="utf-8"))
    assert adamw["model"] == stored["model"] and adamw["data"] == fingerprint()
    assert "muon" not in adamw["recipe"] and [row["seed"] for row in adamw["rows"]] == list(lip_reader.SEEDS)  # fmt: skip


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A model and a recipe that train in a moment, on a few words, in a folder of their own."""
    sizes = LIPS_MODEL | dict(dim=8, heads=2, depth=1)
    monkeypatch.setattr("utils.recipe.LIPS_MODEL", sizes)
    monkeypatch.setattr(lip_reader, "LIPS_MODEL", sizes)
    for name in ("LIPS_RECIPE", "LIPS_TILES_RECIPE"):
        monkeypatch.setattr(lip_reader, name, LIPS_RECIPE | dict(epochs=2, batch_size=8))
    everything = lips.words
    monkeypatch.setattr(lips, "words", lambda split=None, slot=None: everything(split, slot)[:30])
    monkeypatch.setattr(paths, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(lip_reader, "RESULTS", tmp_path / "seeds.json")
    short = LIPS_RECIPE | dict(epochs=2, batch_size=8)
    monkeypatch.setattr(
        lip_reader, "LIPS_KEPT", [(sizes, short, 0), (sizes | dict(num_frames=8), short, 1)]
    )
    monkeypatch.setattr(lip_reader, "LIPS_TILES", sizes | dict(patch_size=8, num_frames=8))
    monkeypatch.setattr(lip_reader, "TILES", tmp_path / "tiles")
    monkeypatch.setattr(lip_reader, "ANSWERS", tmp_path / "answers")
    monkeypatch.setattr(lip_reader, "WEIGHTS", [tmp_path / "first", tmp_path / "second"])
    monkeypatch.setattr(lip_reader, "SEEDS", range(2))
    monkeypatch.setattr(lip_reader, "FRESH", tmp_path / "fresh.json")
    monkeypatch.setattr(lip_reader, "ASKED", 1)
    return tmp_path


def test_seeds_are_added_and_never_measured_twice(tiny, monkeypatch, capsys):
    lip_reader.seeds()
    first = json.loads((tiny / "seeds.json").read_text())
    assert [row["seed"] for row in first["rows"]] == [0, 1]
    assert set(first["rows"][0]["test"]) == {"all", "in_slot", *lips.SLOTS}
    assert first["machines"][first["rows"][0]["machine"]]["threads"] == 1
    first["rows"].pop(0)
    (tiny / "seeds.json").write_text(json.dumps(first))
    lip_reader.seeds()
    again = json.loads((tiny / "seeds.json").read_text())
    assert [row["seed"] for row in again["rows"]] == [0, 1] and again["rows"][1] == first["rows"][0]
    monkeypatch.setattr(lip_reader, "LIPS_RECIPE", LIPS_RECIPE | dict(epochs=3, batch_size=8))
    with pytest.raises(ValueError, match="made with another model, recipe or data"):
        lip_reader.seeds()


def test_fresh_sentences_are_those_that_were_only_trained_on():
    seen = [lip_reader.fresh_words(fold) for fold in range(lip_reader.FOLDS)]
    for learned, asked in seen:
        assert len(asked) == 750 and len(learned) + len(asked) == len(lips.words())
        assert not {word.sentence for word in learned} & {word.sentence for word in asked}
        assert {word.sentence for word in asked} <= {word.sentence for word in lips.words("train")}
    assert not set(seen[0][1]) & set(seen[1][1])


def test_fresh_sentences_were_asked_with_the_kept_recipes():
    stored = json.loads(lip_reader.FRESH.read_text(encoding="utf-8"))
    assert stored["kept"] == json.loads(json.dumps(LIPS_KEPT)) and stored["data"] == fingerprint()
    assert [row["fold"] for row in stored["rows"]] == list(range(lip_reader.FOLDS))
    assert all(row["words"] == 750 for row in stored["rows"])


def test_fresh_words_are_asked_once(tiny, monkeypatch):
    words = lips.words("train")  # of five sentences; what is left beside the asked one is learned
    monkeypatch.setattr(lips, "words", lambda split=None: words)
    lip_reader.fresh()
    first = json.loads((tiny / "fresh.json").read_text())
    assert [row["fold"] for row in first["rows"]] == [0, 1]
    for row in first["rows"]:
        assert row["words"] == 6 and len(row["alone"]) == len(row["seconds"]) == 2
        assert set(row["together"]) == {"all", "in_slot", *lips.SLOTS}
    monkeypatch.setattr(lip_reader, "read_lips", None)  # what is measured is not asked again
    lip_reader.fresh()
    monkeypatch.setattr(lip_reader, "ASKED", 2)
    with pytest.raises(ValueError, match="made with other models or data"):
        lip_reader.fresh()


def test_weights_are_kept_in_eight_bits_and_measured_so(tiny, monkeypatch):
    lip_reader.weights()
    kept = [load_model(tiny / name) for name in ("first", "second")]
    answers = load_file(tiny / "answers")
    for seed, (model, notes) in enumerate(kept):
        said = lips.accuracies(
            answers[("first", "second")[seed]], lips.labels_of(lips.words("test"))
        )
        assert notes["test"] == pytest.approx(said, abs=1e-4)
        assert next(model.parameters()).dtype == torch.float32 and notes["seed"] == seed
        assert notes["test"] == measure(model)
        assert notes["recipe"]["epochs"] == 2 and notes["seconds"] is not None
        assert notes["together"] == measure([model for model, _ in kept])
    assert (tiny / "second").stat().st_size < 2 * count_parameters(model) + 8000
    monkeypatch.setattr(lip_reader, "train", None)  # what is in the cache is not trained again
    lip_reader.weights()


def test_the_model_with_small_patches_is_measured_as_it_is_kept(tiny):
    lip_reader.tiles()
    model, notes = load_model(tiny / "tiles")
    assert model.config["patch_size"] == 8 and model.clip_shape == (8, 3, 32, 48)
    assert notes["test"] == measure(model) and notes["sizes"]["patch_size"] == 8


def test_training_goes_on_where_it_stopped(tiny):
    words, recipe = lips.words("train"), LIPS_RECIPE | dict(epochs=2, batch_size=8)
    whole, history, _ = train_lips(3, words, recipe, progress=False)
    train_lips(3, words, recipe, tiny / "run.safetensors", progress=False)
    again, same, _ = train_lips(3, words, recipe, tiny / "run.safetensors", progress=False)
    assert same == history
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


# What a line of the grid may change ------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch):
    """The first ten sentences of each part only: each is read, cut and compared as all are."""
    everything = lips.words
    first = {word.sentence for split in lips.SPLITS for word in everything(split)[:60]}
    monkeypatch.setattr(lips, "words", lambda *args, **which: [
        word for word in everything(*args, **which) if word.sentence in first
    ])  # fmt: skip


def test_the_recipes_line_is_what_the_recipe_trains_on(few):
    (windows, labels), augment = spoken("train", 12, (32, 48))
    ours, same = lips.windows(lips.words("train"), margin=lips.MARGIN, progress=False)
    np.testing.assert_array_equal(windows, ours)
    np.testing.assert_array_equal(labels, same)
    shown, shares = augment(windows[:8], labels[:8], np.random.default_rng(4))
    clips, others = lips.augment(ours[:8], same[:8], np.random.default_rng(4))
    np.testing.assert_array_equal(shown, clips)
    np.testing.assert_array_equal(shares, others)
    (clips, labels), none = spoken("validation", 12, (32, 48))
    windows, _ = lips.windows(lips.words("validation"), progress=False)
    np.testing.assert_array_equal(clips, lips.channels(windows))
    assert none is None


@pytest.mark.parametrize("change", [
    dict(slot="digit"), dict(view=(48, 72)), dict(varied=False), dict(mixed=False), dict(channels="grey"),
    dict(channels="grey, change"), dict(normalised=False), dict(apart=True), dict(stretched=True),
    dict(cheat="one_frame"), dict(cheat="mean_picture"), dict(cheat="shuffled"),
], ids=str)  # fmt: skip
def test_every_change_changes_what_the_network_gets(few, change):
    assert change.keys() <= DATA.keys()
    plain, turn = spoken("train", 12, (32, 48))
    other, turn_other = spoken("train", 12, (32, 48), **change)
    shown, shares = turn(plain[0][:8], plain[1][:8], np.random.default_rng(4))
    changed, others = turn_other(other[0][:8], other[1][:8], np.random.default_rng(4))
    assert changed.shape == shown.shape
    assert not np.array_equal(changed, shown)
    if change == dict(mixed=False):
        assert others.ndim == 1
    if "channels" in change:
        assert (changed[..., 2] == lips.NOTHING).all() and np.array_equal(changed[..., 0], shown[..., 0])  # fmt: skip
        assert (changed[..., 1] == lips.NOTHING).all() == (change["channels"] == "grey")
    if "cheat" not in change and "slot" not in change:
        np.testing.assert_array_equal(other[1], plain[1])


def test_stretched_windows_go_from_first_to_last_frame():
    from utils.experiments.spoken import _stretched

    word = lips.Word("x", "colour", "red", 20, 31)
    np.testing.assert_array_equal(_stretched(word, 6, 0), [20, 22, 24, 26, 28, 30])
    np.testing.assert_array_equal(_stretched(word, 6, 1), [18, 20, 22, 24, 26, 28, 30, 32])
