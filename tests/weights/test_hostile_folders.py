"""Model folders that somebody else made, to do harm or by mistake: a message with the file and the field, at once and
in little memory."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import struct
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.weights.test_model_folder import classifier_of, small
from vatt.data.tokenizer import Tokenizer
from vatt.errors import UserError
from vatt.inference import VATT, Classifier
from vatt.weights.folder import save_pretrained

WORD = "text.embedding.weight"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    config = small()
    save_pretrained(VATT(config), folder / "vatt", tokenizer=Tokenizer.train(["a dog runs"]))
    save_pretrained(classifier_of(config, "audio"), folder / "classifier")
    return folder


def values(dotted, value, file="config.json"):
    """Puts a value into a JSON file; a key may be new."""

    def spoil(folder):
        content = json.loads((folder / file).read_text())
        place, (*path, name) = content, dotted.split(".")
        for key in path:
            place = place[key]
        place[name] = value
        (folder / file).write_text(json.dumps(content))

    return spoil


def text(file, content):
    return lambda folder: (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())


def tensors(change):
    def spoil(folder):
        weights = load_file(folder / "model.safetensors")
        save_file(change(weights) or weights, folder / "model.safetensors")

    return spoil


def head(change):
    """Changes the head of the file of weights and leaves the rest."""

    def spoil(folder):
        path = folder / "model.safetensors"
        data = path.read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        made = change(json.loads(data[8 : 8 + size]))
        made = made if isinstance(made, bytes) else json.dumps(made).encode()
        path.write_bytes(struct.pack("<Q", len(made)) + made + data[8 + size :])

    return spoil


def of_word(**entry):
    return head(lambda content: {**content, WORD: {**content[WORD], **entry}})


def instead(file, make):
    def spoil(folder):
        (folder / file).unlink()
        make(folder / file)

    return spoil


def sparse(path):
    with path.open("wb") as file:
        file.truncate(2**40)


def sparse_weights(folder):
    """A config and a head that agree on 320 GB, in a file that holds none of them."""
    values("text.vocab_size", 5_000_000)(folder)
    values("text.d_embedding", 16_000)(folder)
    config = small()
    config.text.vocab_size, config.text.d_embedding = 5_000_000, 16_000
    with torch.device("meta"):
        shapes = {name: list(value.shape) for name, value in VATT(config).state_dict().items()}
    made, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        made[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    top = json.dumps(made).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(top)) + top)
        file.truncate(8 + len(top) + at)


def deep_sequence(depth):
    part = {"type": "Lowercase"}
    for _ in range(depth):
        part = {"type": "Sequence", "normalizers": [part]}
    return part


def huge_vocabulary(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"] |= {f"w{n}": n + 100 for n in range(500)}
    (folder / "tokenizer.json").write_text(json.dumps(content))


BOMB = {"type": "Split", "pattern": {"Regex": r"(a+)+$"}, "behavior": "Isolated", "invert": False}
GROW = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100_000}
TOKENIZER = "tokenizer.json"

# name -> (what is done to the folder, what the message says)
OF_VATT = {
    "wide": (values("video.d_model", 10**9), r"config\.json: video\.d_model: .* from 1 to 16,384, got 1000000000"),
    "wide float": (values("video.d_model", 1e9), r"video\.d_model: .* got 1000000000"),
    "frames": (values("input.frames", 10**9), r"input\.frames: .* from 1 to 4,096"),
    "no frames": (values("input.fps", 0), r"input\.fps: .* from 0\.01"),
    "no rate": (values("input.sample_rate", 0), r"input\.sample_rate"),
    "cold": (values("loss.temperature", 0), r"loss\.temperature: .* from 0\.001"),
    "negative": (values("text.num_layers", -1), r"text\.num_layers"),
    "layers": (values("text.num_layers", 10**6), r"text\.num_layers"),
    "nothing": (values("text.vocab_size", 0), r"text\.vocab_size"),
    "words": (values("text.vocab_size", 2**31), r"text\.vocab_size"),
    "bool for int": (values("video.d_ff", True), r"video\.d_ff: expected int .* got True"),
    "text for number": (values("video.d_ff", "32"), r"video\.d_ff: expected int .* got '32'"),
    "number for bool": (values("video.use_bias", 1), r"video\.use_bias: expected bool, got 1"),
    "null": (values("video.d_ff", None), r"video\.d_ff"),
    "list for section": (values("video", [1]), r"video: is a section"),
    "number for name": (values("name", 3), r"name: expected str"),
    "long name": (values("name", "x" * 10**6), r"name: expected str of at most"),
    "nan": (values("video.dropout_rate", float("nan")), r"config\.json: video\.dropout_rate: NaN is no number"),
    "infinity": (values("input.fps", float("inf")), r"input\.fps: Infinity is no number"),
    "dropout": (values("video.dropout_rate", 1.0), r"video\.dropout_rate"),
    "dropout 2": (values("video.dropout_rate", 2), r"video\.dropout_rate"),
    "unknown kind": (values("text.kind", "gpt"), r"text\.kind: 'gpt' is not one of"),
    "list kind": (values("text.kind", ["t5"]), r"text\.kind: \['t5'\] is not one of"),
    "unknown": (values("video.d_modl", 3), r"unknown configuration key 'video\.d_modl'"),
    "long key": (values("k" * 10**5, 3), r"unknown configuration key 'kkk"),
    "parameters": (
        lambda f: [
            values(f"video.{k}", v)(f) for k, v in {"d_model": 16384, "d_ff": 131072, "num_layers": 256}.items()
        ],
        r"config\.json: .*num_layers.* parameters, .* GB; at most",
    ),
    "tokens": (
        lambda f: [values(k, v)(f) for k, v in {"input.size": 2048, "video.spatial_patch_size": 1}.items()],
        r"config\.json: .*patch sizes of video: a window makes .* tokens; at most 65,536",
    ),
    "window": (lambda f: [values("input.frames", 4096)(f), values("input.size", 4096)(f)], r"a window has .* values"),
    "buckets": (values("text.num_relative_buckets", 64), r"model\.safetensors: .* has shape"),
    "no distance": (values("text.max_relative_distance", 2), r"config\.json: .*max_relative_distance"),
    "deep": (text("config.json", "[" * 10**6), r"config\.json: is nested deeper than 64"),
    "digits": (text("config.json", '{"num_classes": ' + "9" * 5000 + "}"), r"num_classes: a number of 5000 digits"),
    "twice": (text("config.json", '{"name": "a", "name": "b"}'), r"config\.json: name: stands there twice"),
    "no json": (text("config.json", "name: vatt"), r"config\.json: is not JSON"),
    "latin": (text("config.json", b'{"name": "\xe9"}'), r"config\.json: is not UTF-8"),
    "pickle": (text("model.safetensors", b"\x80\x04" + b"x" * 100), r"model\.safetensors: cannot be read"),
    "empty weights": (text("model.safetensors", b""), r"model\.safetensors: cannot be read"),
    "config of 5 MB": (text("config.json", b" " * 5_000_000), r"config\.json: has more than 4,194,304 bytes"),
    "config is a pipe": (instead("config.json", os.mkfifo), r"config\.json: is not a regular file"),
    "config is a folder": (instead("config.json", os.mkdir), r"config\.json"),
    "config leads to zeros": (instead("config.json", lambda p: p.symlink_to("/dev/zero")), r"is not a regular file"),
    "config leads out": (instead("config.json", lambda p: p.symlink_to("/etc/passwd")), r"config\.json: is not JSON"),
    "weights are a pipe": (instead("model.safetensors", os.mkfifo), r"holds no model\.safetensors"),
    "weights lead nowhere": (instead("model.safetensors", lambda p: p.symlink_to("gone")), r"holds no model"),
    "a terabyte of zeros": (instead("model.safetensors", sparse), r"model\.safetensors: the head: is not JSON"),
    "320 GB that are not there": (sparse_weights, r"model\.safetensors: needs 320\.\d GB of memory, .* GB are free"),
    "missing": (tensors(lambda w: w.pop(WORD) is None), r"is of another model: it lacks \['text\.embedding"),
    "extra": (tensors(lambda w: w.update(extra=torch.zeros(3))), r"has \['extra'\]"),
    "escape codes": (tensors(lambda w: w.update({"\x1b[2J": torch.zeros(1)})), r"has \['\\x1b\[2J'\]"),
    "no size": (tensors(lambda w: w.update({WORD: torch.zeros(0, 300)})), rf"{WORD} has shape \(0, 300\)"),
    "no dimension": (tensors(lambda w: w.update({WORD: torch.tensor(1.0)})), rf"{WORD} has shape \(\)"),
    "integers": (tensors(lambda w: w.update({WORD: w[WORD].int()})), rf"{WORD} has the type 'I32'"),
    "complex": (tensors(lambda w: w.update({WORD: w[WORD].to(torch.complex64)})), rf"{WORD} has the type 'C64'"),
    "not finite": (tensors(lambda w: w[WORD].fill_(float("nan")) is None), rf"{WORD} holds values that are not"),
    "too large": (tensors(lambda w: w.update({WORD: w[WORD].double() + 1e300})), rf"{WORD} holds values that are too"),
    "a lie of the shape": (of_word(shape=[10**6, 10**6]), rf"model\.safetensors: '{WORD}': .* is no place of F32"),
    "a lie of the type": (of_word(dtype="F64"), rf"'{WORD}': .* is no place of F64"),
    "an unknown type": (of_word(dtype="F3"), rf"{WORD} has the type 'F3'"),
    "a place behind the end": (of_word(data_offsets=[0, 2**40]), rf"'{WORD}'"),
    "a negative size": (of_word(shape=[-1, 3]), rf"'{WORD}': .* in the head"),
    "a shape in words": (of_word(shape="large"), rf"'{WORD}': .* in the head"),
    "no entry": (head(lambda c: {**c, WORD: None}), rf"'{WORD}': None in the head"),
    "the same place": (head(lambda c: {n: {**c[WORD]} for n in c}), r"do not fill the file"),
    "nested head": (head(lambda c: b'{"a":' * 10**5), r"the head: is nested deeper"),
    "list head": (head(lambda c: []), r"the head: expected an object"),
    "a huge head": (text("model.safetensors", struct.pack("<Q", 2**63) + b"{}" * 99), r"has a huge head"),
    "a head of spaces": (head(lambda c: b" " * 17 * 2**20), r"has a huge head"),
    "regex bomb": (
        values("pre_tokenizer", BOMB, TOKENIZER),
        r"tokenizer\.json: pre_tokenizer: .*Split",
    ),
    "replace bomb": (values("normalizer", GROW, TOKENIZER), r"tokenizer\.json: normalizer: .*Replace"),
    "replace regex": (
        values("normalizer", {**GROW, "pattern": {"Regex": "(a|a)*b"}, "content": ""}, TOKENIZER),
        r"tokenizer\.json: normalizer",
    ),
    "nested": (values("normalizer", deep_sequence(20), TOKENIZER), r"tokenizer\.json: normalizer: .*Sequence"),
    "nested deep": (text(TOKENIZER, '{"normalizer":' * 1000), r"tokenizer\.json: is nested deeper"),
    "another model": (values("model.type", "BPE", TOKENIZER), r"model\.type: 'BPE' is not one of"),
    "huge ids": (values("model.vocab.dog", 2**32 - 1, TOKENIZER), r"model\.vocab: 'dog' has the id 4294967295"),
    "negative id": (values("model.vocab.dog", -1, TOKENIZER), r"model\.vocab: 'dog'"),
    "equal ids": (values("model.vocab.dog", 1, TOKENIZER), r"'dog' has the same id 1 as '<unk>'"),
    "more words": (huge_vocabulary, r"tokenizer\.json: has 600 words, but the model in .* has 20 word vectors"),
    "no unknown": (values("model.unk_token", "nope", TOKENIZER), r"model\.unk_token: 'nope' is not in"),
    "no words": (values("model.vocab", {}, TOKENIZER), r"tokenizer\.json: model\.vocab"),
    "words in a list": (values("model.vocab", [["a", 1]], TOKENIZER), r"tokenizer\.json: model\.vocab"),
    "wrong padding": (values("model.vocab.<pad>", 9, TOKENIZER), r"id 0 is None, but it is padding"),
    "added": (values("added_tokens", [{"id": 99, "content": "x"}], TOKENIZER), r"tokenizer\.json: added_tokens"),
    "no model": (text(TOKENIZER, "{}"), r"tokenizer\.json: model\.type"),
}
OF_CLASSIFIER = {
    "other classes": (values("classes", ["a", "b"]), r"config\.json: .*classes: 2 names for num_classes=3"),
    "number of classes": (
        values("num_classes", 4),
        r"safetensors: classifier\.\w+ has shape \(.*3.*needed: .*4",
    ),
    "no classes": (values("num_classes", 0), r"num_classes"),
    "a billion classes": (values("num_classes", 10**9), r"num_classes"),
    "a class that is a number": (values("classes", ["a", "b", 3]), r"classes\[2\]: expected str"),
    "the same class": (values("classes", ["a", "b", "a"]), r"classes: 'a' stands there twice"),
    "classes in words": (values("classes", "abc"), r"classes: expected list\[str\]"),
    "another modality": (values("modality", "video"), r"is of another model|has shape"),
    "dropout": (values("dropout", -0.1), r"dropout"),
    "surrogate": (
        text("config.json", rb'{"num_classes": 3, "classes": ["\ud800", 1, 2]}'),
        r"config\.json: .*classes\[1\]",
    ),
}


@pytest.mark.parametrize("name", [*OF_VATT, *(f"classifier: {name}" for name in OF_CLASSIFIER)])
def test_a_hostile_folder_is_refused_at_once(good, tmp_path, name):
    of_classifier = name.startswith("classifier: ")
    spoil, message = OF_CLASSIFIER[name[12:]] if of_classifier else OF_VATT[name]
    folder = tmp_path / "m"
    shutil.copytree(good / ("classifier" if of_classifier else "vatt"), folder)
    spoil(folder)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(UserError, match=message) as caught:
        (Classifier if of_classifier else VATT).from_pretrained(folder)
    assert time.monotonic() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 700


def test_what_a_tokenizer_says_of_ends_and_lengths_changes_nothing(good, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(good / "vatt", folder)
    before = Tokenizer.load(folder).encode(["a dog"], 4)
    values("padding", {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_id": 0}, TOKENIZER)(folder)
    values("truncation", {"max_length": 1, "strategy": "LongestFirst", "stride": 0}, TOKENIZER)(folder)
    assert (Tokenizer.load(folder).encode(["a dog"], 4) == before).all()
