"""Published checkpoints, in both layouts and from every place, give the reference's logits in our model."""

import hashlib
import importlib.util
import json
import os
import pickle
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from utils import published
from utils.model import TimeSformer, resize_model
from utils.published import (
    SCHEME_NAMES,
    load_published,
    names,
    published_clip,
    published_state,
    save_published,
)
from utils.training import MEAN, STD, to_video

transformers = pytest.importorskip("transformers", reason='needs pip install -e ".[compare]"')
pytest.importorskip("huggingface_hub")
SIZES = dict(image_size=24, patch_size=8, num_frames=3, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
             intermediate_size=64)  # fmt: skip
CLASSES = ("jump", "clap", "wave", "abseil", "zumba")  # not in alphabetical order, on purpose


def reference(scheme, seed=0):
    """The published implementation with random weights: none of them is zero, or alike."""
    torch.manual_seed(seed)
    config = transformers.TimesformerConfig(
        **SIZES, attention_type=SCHEME_NAMES[scheme], id2label=dict(enumerate(CLASSES)),
        label2id={name: number for number, name in enumerate(CLASSES)},
    )  # fmt: skip
    model = transformers.TimesformerForVideoClassification(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def as_the_authors(model, scheme):
    """The reference's weights under the authors' names, written down here once more and by hand."""
    swap = [
        ("timesformer.embeddings.cls_token", "cls_token"),
        ("timesformer.embeddings.position_embeddings", "pos_embed"),
        ("timesformer.embeddings.time_embeddings", "time_embed"),
        ("timesformer.embeddings.patch_embeddings.projection", "patch_embed.proj"),
        ("timesformer.layernorm", "norm"),
        ("classifier", "head"),
        ("timesformer.encoder.layer.", "blocks."),
        ("temporal_layernorm", "temporal_norm1"),
        ("temporal_attention.attention.qkv", "temporal_attn.qkv"),
        ("temporal_attention.output.dense", "temporal_attn.proj"),
        ("temporal_dense", "temporal_fc"),
        ("layernorm_before", "norm1"),
        ("attention.attention.qkv", "attn.qkv"),
        ("attention.output.dense", "attn.proj"),
        ("layernorm_after", "norm2"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ]
    state = {}
    for name, weight in model.state_dict().items():
        for theirs, authors in swap:
            name = name.replace(theirs, authors)
        state[f"model.{name}"] = weight
    return state


def same_logits(model, theirs):
    video = torch.randn(2, 3, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, logits = model(video), theirs(video).logits
    if model.per_frame:  # theirs stops at one row for each frame; the head is linear, so average
        logits = logits.view(2, 3, -1).mean(1)
    assert logits.abs().max() > 0.1
    torch.testing.assert_close(ours, logits, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def divided():
    return reference("divided")


@pytest.fixture(scope="module")
def folder(divided, tmp_path_factory):
    place = tmp_path_factory.mktemp("published")
    divided.save_pretrained(place)
    return place


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_hugging_face_checkpoints(scheme, safe, tmp_path):
    theirs = reference(scheme)
    theirs.save_pretrained(tmp_path)
    if not safe:
        (tmp_path / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    model, classes = load_published(tmp_path)
    assert model.config["scheme"] == scheme and not model.training and classes == CLASSES
    same_logits(model, theirs)
    file = next(tmp_path.glob("*model.*"))
    same_logits(load_published(file)[0], theirs)  # its config.json lies beside it


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
def test_the_authors_checkpoints(scheme, tmp_path):
    theirs = reference(scheme)
    content = dict(epoch=15, model_state=as_the_authors(theirs, scheme), optimizer_state={"state": {}}, cfg="TRAIN: …")  # fmt: skip
    torch.save(content, tmp_path / "TimeSformer.pyth")
    torch.save(content["model_state"], tmp_path / "bare.pt")
    torch.save(
        content, tmp_path / "old.pyth", _use_new_zipfile_serialization=False
    )  # as until 2020
    for name in ("TimeSformer.pyth", "bare.pt", "old.pyth"):
        model, classes = load_published(tmp_path / name, heads=4, num_frames=3)
        assert model.config["scheme"] == scheme and classes is None
        same_logits(model, theirs)


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
def test_there_and_back(scheme, tmp_path):
    torch.manual_seed(3)
    model = TimeSformer(5, 24, 3, 8, 32, 2, 4, scheme=scheme, activation="gelu", mult=2)
    save_published(model, tmp_path, CLASSES)
    again, classes = load_published(tmp_path)
    assert classes == CLASSES and again.config == model.config
    state = again.state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in model.state_dict().items())
    theirs = transformers.TimesformerForVideoClassification.from_pretrained(tmp_path).eval()
    same_logits(model, theirs)
    assert theirs.config.id2label == dict(enumerate(CLASSES))
    authors = published_state(model, "authors")
    assert authors.keys() == as_the_authors(theirs, scheme).keys()


def test_names_of_the_paper_s_model_are_all_there():
    with torch.device("meta"):
        model = TimeSformer(400, 224, 8, 16, 768, 12, 12, activation="gelu")
        theirs = transformers.TimesformerForVideoClassification(transformers.TimesformerConfig(num_labels=400))  # fmt: skip
    table = names("divided", 12)
    assert table.keys() == model.state_dict().keys()
    assert set(table.values()) == theirs.state_dict().keys()


def test_other_frames_and_pixels_by_interpolation(folder):
    small, _ = load_published(folder)
    large, _ = load_published(folder, num_frames=6, image_size=(32, 40))
    assert large.clip_shape == (6, 3, 32, 40)
    by_hand = resize_model(load_published(folder)[0], (32, 40), 6)
    for name, weight in by_hand.state_dict().items():
        torch.testing.assert_close(large.state_dict()[name], weight)
    torch.testing.assert_close(large.blocks.state_dict(), small.blocks.state_dict())


def test_loading_leaves_the_random_numbers_alone(folder):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_published(folder)
    assert torch.equal(torch.rand(1), expected)


def test_half_precision_comes_back_as_float32(divided, tmp_path):
    """… before anything is computed with it: the class token and its position are a sum."""
    halves = {name: weight.half() for name, weight in divided.state_dict().items()}
    save_file(halves, tmp_path / "model.safetensors")
    model, _ = load_published(tmp_path / "model.safetensors", heads=4)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    token, places = (halves[f"timesformer.embeddings.{name}"].float() for name in ("cls_token", "position_embeddings"))  # fmt: skip
    assert torch.equal(model.embedding.cls, token[0, 0] + places[0, 0])


def test_heads_that_nothing_tells_are_asked_for(folder, tmp_path):
    """A wrong number of heads fits every shape and gives other logits, so it is not guessed."""
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(
        ValueError, match="alone.safetensors: how many heads.* divide 32; give heads"
    ):
        load_published(alone)
    assert load_published(alone, heads=4)[0].config["heads"] == 4
    wide = TimeSformer(5, 24, 3, 8, 128, 1, 2, activation="gelu", mult=1)
    save_file(published_state(wide), alone)
    assert load_published(alone)[0].config["heads"] == 2


def test_a_config_that_leaves_sizes_out_means_the_paper_s():
    sizes = published._sizes_of_config("config.json", {}, None)
    config = transformers.TimesformerConfig()
    with torch.device("meta"):
        model = TimeSformer(400, 224, 8, 16, 768, 12, 12, activation="gelu")
    assert sizes.items() <= (model.config | dict(image_size=224)).items()
    for name, value in (published.DEFAULT | published.FIXED).items():
        assert getattr(config, name) == value


# What is wrong is named -----------------------------------------------------------------------------

QKV = "timesformer.encoder.layer.1.attention.attention.qkv.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state, config: state.pop(QKV), f"1 weights are missing, as '{QKV}'"),
        (lambda state, config: state.update(extra=torch.zeros(2)), "1 weights have no place in our model, as 'extra'"),
        (lambda state, config: state.update({QKV: torch.zeros(96, 31)}), rf"'{QKV}' has the shape \(96, 31\), and not \(96, 32\)"),
        (lambda state, config: state.pop("classifier.weight"), "no weight 'classifier.weight'"),
        (lambda state, config: config.update(hidden_act="relu"), "hidden_act 'relu', and our model 'gelu'"),
        (lambda state, config: config.update(qkv_bias=False), "qkv_bias False, and our model True"),
        (lambda state, config: config.update(layer_norm_eps=1e-12), "layer_norm_eps 1e-12, and our model 1e-06"),
        (lambda state, config: config.update(num_channels=4), "num_channels 4, and our model 3"),
        (lambda state, config: config.update(attention_type="axial"), "attention_type 'axial'; there are space_only"),
        (lambda state, config: config.update(attention_type="joint_space_time"), "16 weights have no place in our model, as .*temporal"),
        (lambda state, config: config.update(num_hidden_layers=3), "20 weights are missing, as 'timesformer.encoder.layer.2"),
        (lambda state, config: config.update(num_frames=4), r"time_embeddings' has the shape \(1, 3, 32\), and not \(1, 4, 32\)"),
        (lambda state, config: config.update(intermediate_size=65), "intermediate_size 65, no multiple of hidden_size 32"),
        (lambda state, config: config.update(num_attention_heads=5), "dim 32 cannot be split into 5 heads"),
        (lambda state, config: config["id2label"].pop("4"), "names 4 classes, not those of a head for 5"),
        (lambda state, config: config["id2label"].update({"5": "yawn"}), "names 6 classes, not those of a head for 5"),
    ],
    ids=["missing", "left over", "shape", "no head", "activation", "bias", "eps", "channels", "unknown scheme", "scheme",
         "depth", "frames", "width", "heads", "too few names", "too many names"],
)  # fmt: skip
def test_what_does_not_fit_is_named(folder, tmp_path, change, message):
    state = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    change(state, config)
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message) as error:
        load_published(tmp_path)
    assert "model.safetensors" in str(error.value)


@pytest.mark.parametrize("kind", ["weights.pyth", "alone.safetensors", "model.safetensors"])
def test_each_weight_that_is_wrong_is_named(kind, folder, divided, tmp_path):
    """Whichever it is: sizes are read off some of them, and that must not turn the blame elsewhere."""
    save, whole = save_file, divided.state_dict()
    if kind == "weights.pyth":
        save, whole = torch.save, as_the_authors(divided, "divided")
    if kind == "model.safetensors":
        (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    for name, weight in whole.items():
        if ".1." in name:  # the second block
            continue
        rest = {other: one for other, one in whole.items() if other != name}
        longer = torch.zeros([length + 1 for length in weight.shape])
        for wrong in ({}, {f"{name}s": weight}, {name: torch.zeros(())}, {name: longer}, {name: weight[None]}):  # fmt: skip
            save(rest | wrong, tmp_path / kind)
            with pytest.raises(ValueError) as error:
                load_published(tmp_path / kind, heads=4)
            assert name in str(error.value) and kind in str(error.value)


class Evil:
    def __reduce__(self):
        return print, ("this code must not run",)


def test_files_that_are_none(folder, tmp_path):
    whole = (folder / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "whole.bin")
    whole = (tmp_path / "whole.bin").read_bytes()
    (tmp_path / "cut.bin").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.bin").write_text("no weights")
    (tmp_path / "nothing.bin").write_bytes(b"")
    torch.save({"model_state": {"a": 3}}, tmp_path / "numbers.pyth")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    save_file({"a": torch.zeros(())}, tmp_path / "stranger.safetensors")
    (tmp_path / "weights.onnx").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name in ("cut.safetensors", "cut.bin", "text.bin", "nothing.bin", "numbers.pyth", "list.pt", "stranger.safetensors",
                 "weights.onnx", "empty", "none.bin"):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            load_published(tmp_path / name)
    with pytest.raises(
        ValueError, match=r"nowhere: no such file or folder, and no name on the hub"
    ):
        load_published("nowhere")
    for text in ("no JSON", "[1]", "{}"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match="config.json"):
            load_published(tmp_path / "whole.bin")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_pickle_is_refused(protocol, tmp_path, capsys):
    (tmp_path / "evil.bin").write_bytes(pickle.dumps({"weight": Evil()}, protocol))
    torch.save({"model_state": {"a": Evil()}}, tmp_path / "evil.pyth", pickle_protocol=protocol)
    for name in ("evil.bin", "evil.pyth"):
        with pytest.raises(ValueError, match=f"{name}: refused.* might run code") as error:
            load_published(tmp_path / name)
        assert protocol == 4 or "it asks for print" in str(error.value)
    assert "must not run" not in capsys.readouterr().out


# The hub ---------------------------------------------------------------------------------------------


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A server on this machine that speaks the hub's protocol for somebody/clips, and an empty cache."""
    from huggingface_hub import constants

    files = {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            asked.append((self.command, self.path, self.headers.get("Range")))
            owner, name, _, _, file = (self.path.strip("/").split("/") + [""] * 5)[:5]
            if (owner, name) != ("somebody", "clips") or file not in files:
                self.send_response(404)
                code = "EntryNotFound" if name == "clips" else "RepoNotFound"
                self.send_header("X-Error-Code", code)
                self.send_header("X-Repo-Commit", "c" * 40)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = files[file]
            digest = hashlib.sha256(content).hexdigest()
            start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{digest if file != "config.json" else digest[:40]}"')
            self.send_header("X-Repo-Commit", "c" * 40)
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            self.end_headers()
            if body:
                sent = content[start:]
                if files.get("damage") == file:
                    sent = sent[:-1] + bytes([sent[-1] ^ 1])
                if files.get("cut") == file:  # once
                    sent = sent[: len(sent) // 2]
                    del files["cut"]
                self.wfile.write(sent)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between one try and the next
    original = published.fetch
    where = {"endpoint": f"http://127.0.0.1:{server.server_port}"}
    monkeypatch.setattr(published, "fetch", lambda name, **_: original(name, **where))
    yield files, asked, where
    server.shutdown()


def test_a_name_on_the_hub(hub, divided):
    files, asked, where = hub
    model, classes = load_published("somebody/clips")
    same_logits(model, divided)
    assert classes == CLASSES
    fetched = [path for verb, path, _ in asked if verb == "GET"]
    assert len(fetched) == 2 and fetched[0].endswith("config.json")
    where["endpoint"] = "http://127.0.0.1:9"  # nobody listens there: what was fetched is enough
    same_logits(load_published("somebody/clips")[0], divided)


def test_no_network_is_one_clear_error(hub):
    _, _, where = hub
    where["endpoint"] = "http://127.0.0.1:9"
    with pytest.raises(OSError, match=r"somebody/clips: not to be had from the hub.*hf download somebody/clips"):  # fmt: skip
        load_published("somebody/clips")


def test_an_unknown_name_is_one_clear_error(hub):
    with pytest.raises(
        OSError, match="somebody/other: not to be had from the hub.*Is the name right"
    ):
        load_published("somebody/other")


def test_no_network_by_choice_is_the_same(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="somebody/clips: not to be had from the hub"):
        load_published("somebody/clips")


def test_without_the_hub_s_package_it_is_asked_for(hub, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(published, "find_spec", lambda name: None if name == "huggingface_hub" else found(name))  # fmt: skip
    with pytest.raises(
        ModuleNotFoundError, match=r"somebody/clips: .*pip install -e .*\[published\]"
    ):
        load_published("somebody/clips")


def test_an_older_checkpoint_has_a_bin_only(hub, divided, tmp_path, monkeypatch):
    files, _, where = hub
    del files["model.safetensors"]
    torch.save(divided.state_dict(), tmp_path / "b")
    files["pytorch_model.bin"] = (tmp_path / "b").read_bytes()
    same_logits(load_published("somebody/clips")[0], divided)
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    where["endpoint"] = "http://127.0.0.1:9"
    same_logits(load_published("somebody/clips")[0], divided)
    assert not waited  # for a file that the hub was known not to have


def test_a_broken_download_goes_on(hub, divided, monkeypatch):
    from huggingface_hub import constants

    files, asked, _ = hub
    files["cut"] = "model.safetensors"
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what it counts in: else 10 MB
    same_logits(load_published("somebody/clips")[0], divided)
    had = len(files["model.safetensors"]) // 2 // 1000 * 1000
    assert [at for verb, _, at in asked if verb == "GET"] == [None, None, f"bytes={had}-"]


def test_a_download_in_the_hub_s_shared_store_is_whole(hub, divided, tmp_path):
    """There the file that is called by its sha256 is a link, too: to one with a checksum of another kind."""
    load_published("somebody/clips")
    place = next((tmp_path / "cache").glob("models--*/snapshots/*/model.safetensors"))
    blob = place.parent / os.readlink(place)
    stored = tmp_path / "cache" / "blobs" / "ab" / ("ab" * 32)
    stored.parent.mkdir(parents=True)
    blob.rename(stored)
    blob.symlink_to(stored)
    same_logits(load_published("somebody/clips")[0], divided)
    stored.write_bytes(stored.read_bytes()[:-1] + b"?")
    with pytest.raises(OSError, match="model.safetensors: the download is damaged"):
        load_published("somebody/clips")
    assert not stored.exists()
    same_logits(load_published("somebody/clips")[0], divided)


def test_a_damaged_download_is_deleted_and_fetched_again(hub, divided):
    files, _, _ = hub
    files["damage"] = "model.safetensors"
    with pytest.raises(OSError, match="model.safetensors: the download is damaged"):
        load_published("somebody/clips")
    del files["damage"]
    same_logits(load_published("somebody/clips")[0], divided)


# Frames ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height, width", [(240, 320), (320, 241), (224, 224), (100, 180), (97, 64), (225, 224), (55, 110)])  # fmt: skip
def test_frames_are_prepared_as_the_published_processor_does(height, width):
    rng = np.random.default_rng(height)
    frames = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    kind = getattr(transformers, "VideoMAEImageProcessorPil", transformers.VideoMAEImageProcessor)
    processor = kind(image_mean=[MEAN] * 3, image_std=[STD] * 3)
    theirs = processor(list(frames), return_tensors="np")["pixel_values"][0]
    ours = to_video(published_clip(frames)[None])[0].numpy()
    assert ours.shape == theirs.shape == (2, 3, 224, 224)
    # a rounded pixel may be one level (1/255) off
    assert abs(ours - theirs).max() <= 1.01 / 255 / STD
    assert (abs(ours - theirs) > 1e-4).mean() < 0.02


def test_a_square_frame_is_only_scaled():
    """55 pixels: 55 * (224 / 55) is less than 224, and a border would be black."""
    assert (published_clip(np.full((1, 55, 55, 3), 200, np.uint8)) == 200).all()


def test_the_middle_is_kept():
    frames = np.zeros((1, 224, 448, 3), np.uint8)
    frames[:, :, 112:336] = 200
    assert (published_clip(frames) == 200).all()
