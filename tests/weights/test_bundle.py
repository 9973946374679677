"""Checkpoints that TensorFlow wrote (reference), and ones of our own with what those do not have; and their faults."""

from __future__ import annotations

import json
import shutil
import time

import numpy as np
import pytest

from tests.golden.golden import REFERENCE
from tests.weights.bundle_writer import BFLOAT16, STRING, block, field, number, table, write_bundle
from vatt.weights.tensorflow import Bundle, TensorFlowError
from vatt.weights.tensorflow.table import MAGIC

FOLDERS = sorted(path.name for path in REFERENCE.glob("tf_ckpt_*"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_reference_keys_shapes_and_types(folder):
    bundle = Bundle(REFERENCE / folder)
    listed = json.loads((REFERENCE / folder / "variables.json").read_text())
    assert bundle.keys() == sorted(variable["name"] for variable in listed)
    for variable in listed:
        assert bundle.shape(variable["name"]) == tuple(variable["shape"])
        assert bundle.dtype(variable["name"]) == variable["dtype"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_reference_values(folder):
    bundle = Bundle(REFERENCE / folder)
    with np.load(REFERENCE / folder / "expected.npz") as archive:
        recorded = {key.removeprefix("variable/"): archive[key] for key in archive.files if key[:9] == "variable/"}
    assert recorded
    for key, value in recorded.items():
        array = bundle.read(key)
        assert array.dtype == value.dtype
        np.testing.assert_array_equal(array, value, err_msg=key)


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    made = {f"layer/{i}/kernel": random.standard_normal((i, 3)).astype(np.float32) for i in range(40)}
    return {**made, "scalar": np.array(7, np.int64), "half": np.array([0.5, -2], np.float16)}


@pytest.mark.parametrize("shards", [1, 3])
def test_round_trip_over_blocks_and_shards(tmp_path, arrays, shards):
    write_bundle(tmp_path / "ckpt", arrays, shards)
    bundle = Bundle(tmp_path / "ckpt")
    assert bundle.keys() == sorted(arrays)
    assert [path.is_file() for path in bundle.files()] == [True] * (shards + 1)
    for key, value in arrays.items():
        array = bundle.read(key)
        assert (array.dtype, array.shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(array, value)


def test_bfloat16_is_widened(tmp_path):
    values = np.array([1.0, -0.15625, 3e38], np.float32)
    write_bundle(tmp_path / "ckpt", {"x": (values.view(np.uint32) >> 16).astype(np.uint16)}, kinds={"x": BFLOAT16})
    array = Bundle(tmp_path / "ckpt").read("x")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, (values.view(np.uint32) & 0xFFFF0000).view(np.float32))


def test_a_prefix_may_be_a_file_or_a_folder(tmp_path, arrays):
    write_bundle(tmp_path / "ckpt-7", arrays, shards=2)
    state = 'model_checkpoint_path: "{}"\nall_model_checkpoint_paths: "ckpt-3"\n'
    names = ["ckpt-7", "ckpt-7.index", "ckpt-7.data-00001-of-00002", "."]
    for written in ("ckpt-7", tmp_path / "ckpt-7", "/gone/run/ckpt-7"):
        (tmp_path / "checkpoint").write_text(state.format(written))
        assert {Bundle(tmp_path / name).prefix for name in names} == {tmp_path / "ckpt-7"}


def copy(folder, tmp_path):
    """A writable copy of a reference checkpoint: its bundle."""
    for path in (REFERENCE / folder).iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    return Bundle(tmp_path)


def test_a_truncated_shard_is_refused_at_once(tmp_path):
    data = copy(FOLDERS[0], tmp_path).data_file(0)
    size = data.stat().st_size
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(TensorFlowError, match=rf"{data.name}: is cut off: .* needs {size} bytes, .* has {size - 1}"):
        Bundle(tmp_path)


def test_a_missing_shard(tmp_path, arrays):
    write_bundle(tmp_path / "ckpt", arrays, shards=3)
    (tmp_path / "ckpt.data-00001-of-00003").unlink()
    with pytest.raises(TensorFlowError, match=r"ckpt\.data-00001-of-00003: no such file; the checkpoint has 3"):
        Bundle(tmp_path / "ckpt")


def test_a_flipped_byte_names_file_and_key_and_leaves_the_others(tmp_path, arrays):
    write_bundle(tmp_path / "ckpt", arrays)
    first, *others = (key for key in sorted(arrays) if arrays[key].size)
    data = bytearray((tmp_path / "ckpt.data-00000-of-00001").read_bytes())
    data[1] ^= 1
    (tmp_path / "ckpt.data-00000-of-00001").write_bytes(data)
    bundle = Bundle(tmp_path / "ckpt")
    with pytest.raises(TensorFlowError, match=rf"ckpt\.data-00000-of-00001: the checksum of {first} is wrong"):
        bundle.read(first)
    assert all(np.array_equal(bundle.read(key), arrays[key]) for key in others)


def is_noticed(prefix):
    try:
        Bundle(prefix)
    except TensorFlowError as error:
        return f"{prefix.name}.index: " in str(error)
    return False


def test_every_flipped_byte_of_an_index_is_found(tmp_path, arrays):
    """Wherever it is: in a block, its checksum, a handle, the magic number. Only padding does not matter."""
    write_bundle(tmp_path / "ckpt", dict(list(arrays.items())[:10]))
    index = tmp_path / "ckpt.index"
    good = index.read_bytes()
    unnoticed = []
    for at in range(len(good)):
        index.write_bytes(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :])
        if not is_noticed(tmp_path / "ckpt"):
            unnoticed.append(at)
    padding = len(good[-48:-8]) - len(good[-48:-8].rstrip(b"\0"))
    assert padding > 30
    assert unnoticed == list(range(len(good) - 8 - padding, len(good) - 8))


def test_a_truncated_index(tmp_path, arrays):
    write_bundle(tmp_path / "ckpt", arrays)
    index = tmp_path / "ckpt.index"
    good = index.read_bytes()
    for size in (0, 10, 47, 100, len(good) - 1):
        index.write_bytes(good[:size])
        with pytest.raises(TensorFlowError, match=r"ckpt\.index: is not the index of a TensorFlow 2 checkpoint"):
            Bundle(tmp_path / "ckpt")
    index.write_bytes(good[:20] + good[-48:])
    with pytest.raises(TensorFlowError, match=r"ckpt\.index: the index is unreadable: a block of .* does not fit"):
        Bundle(tmp_path / "ckpt")


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(TensorFlowError, match=r"absent\.index: no such file; give PREFIX"):
        Bundle(tmp_path / "absent")
    with pytest.raises(TensorFlowError, match="checkpoint: cannot be read"):
        Bundle(tmp_path)
    (tmp_path / "checkpoint").write_text("hello")
    with pytest.raises(TensorFlowError, match="checkpoint: has no line model_checkpoint_path"):
        Bundle(tmp_path)
    (tmp_path / "page.index").write_text("<html>Sign in</html>" * 9)
    with pytest.raises(TensorFlowError, match=r"page\.index: is not the index"):
        Bundle(tmp_path / "page")


def test_layouts_that_are_not_supported(tmp_path):
    x = {"x": np.zeros(3, np.float32)}
    write_bundle(tmp_path / "snappy", x, compression=1)
    with pytest.raises(TensorFlowError, match=r"snappy\.index: .*compressed \(snappy\)"):
        Bundle(tmp_path / "snappy")
    write_bundle(tmp_path / "sliced", x, extra={"x": field(7, field(1, b"\x08\x01"))})
    with pytest.raises(TensorFlowError, match=r"sliced\.index: a variable is stored in slices"):
        Bundle(tmp_path / "sliced")
    write_bundle(tmp_path / "text", x, kinds={"x": STRING})
    with pytest.raises(TensorFlowError, match=r"text\.index: x holds string"):
        Bundle(tmp_path / "text").read("x")
    write_bundle(tmp_path / "wide", x, kinds={"x": 2})
    with pytest.raises(TensorFlowError, match=r"x has 12 bytes, but shape \(3,\) of float64 needs 24"):
        Bundle(tmp_path / "wide").read("x")
    with pytest.raises(TensorFlowError, match=r"wide\.index: holds no y"):
        Bundle(tmp_path / "wide").read("y")


def test_headers_that_are_not_supported(tmp_path):
    x = {b"x": field(1, 1)}
    for header, message in {
        field(1, 1) + field(2, 1): "big-endian machine",
        b"": "has no header",
        field(1, b"many"): "unknown layout",
        b"\x08": "the data end inside a number",
    }.items():
        (tmp_path / "ckpt.index").write_bytes(table({b"": header, **x}))
        with pytest.raises(TensorFlowError, match=rf"ckpt\.index: .*{message}"):
            Bundle(tmp_path / "ckpt")
    (tmp_path / "ckpt.data-00000-of-00001").write_bytes(b"")
    (tmp_path / "ckpt.index").write_bytes(table({b"": field(1, 1), b"x": field(1, 1) + field(3, 2)}))
    with pytest.raises(TensorFlowError, match=r"ckpt\.index: x lies in a shard beyond the 1"):
        Bundle(tmp_path / "ckpt")


def made_of(blocks, index):
    """A table with these blocks, whose index is made of their handles by ``index``."""
    data, handles = b"", []
    for made in blocks:
        handles.append((len(data), len(made) - 5))
        data += made
    footer = b""
    for made in (block([]), block([(b"%06d" % n, number(at) + number(size)) for n, (at, size) in index(handles)])):
        footer += number(len(data)) + number(len(made) - 5)
        data += made
    return data + footer.ljust(40, b"\0") + MAGIC


HEADER = (b"", field(1, 1))
SOME = block([HEADER, *((b"k%05d" % n, field(1, 1)) for n in range(2000))])
GROWING = block([HEADER, *((b"a" * n, b"") for n in range(1, 6000))])


def of_entry(entry):
    return table({b"": field(1, 1), b"x": entry})


BUNDLES = {
    "the same block 5000 times": (made_of([SOME], lambda h: [(n, h[0]) for n in range(5000)]), "or comes twice"),
    "a block in another": (made_of([SOME], lambda h: [(0, h[0]), (1, (0, 4))]), "or comes twice"),
    "blocks of the same keys": (made_of([SOME, SOME], lambda h: list(enumerate(h))), r"key b'' is not in order"),
    "a block of 2^63 bytes": (made_of([SOME], lambda h: [(0, (0, 2**63))]), "does not fit into"),
    "keys that grow": (made_of([GROWING], lambda h: [(0, h[0])]), "a key of 4097"),
    "2^60 data files": (table({b"": field(1, 2**60)}), "1,152,921,504,606,846,976 data files"),
    "a shape of 2^60": (of_entry(field(1, 1) + field(2, field(2, field(1, 2**60)))), "an array of the shape"),
    "a thousand dimensions": (of_entry(field(2, field(2, field(1, 1)) * 1000)), "an array of the shape"),
    "an offset behind the end": (of_entry(field(1, 1) + field(4, 2**62) + field(5, 8)), "is cut off"),
    "a number without an end": (of_entry(b"\x08" + b"\xff" * 400), "more than 64 bits"),
    "a message in itself": (of_entry(field(2, b"\x12" * 300)), "unreadable|the data end|unknown"),
    "keys that are no text": (table({b"": field(1, 1), b"\xff\xfe": field(1, 1)}), "can't decode"),
}


@pytest.mark.parametrize("name", BUNDLES)
def test_a_hostile_index_is_refused_at_once(tmp_path, name):
    content, message = BUNDLES[name]
    (tmp_path / "ckpt.index").write_bytes(content)
    (tmp_path / "ckpt.data-00000-of-00001").write_bytes(b"")
    began = time.monotonic()
    with pytest.raises(TensorFlowError, match=message) as caught:
        Bundle(tmp_path / "ckpt")
    assert time.monotonic() - began < 5
    assert "ckpt." in str(caught.value)
    assert len(str(caught.value)) < 400
