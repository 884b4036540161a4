"""The headers of weight files: every file that is one is taken, and what is not what its header says is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import judge_lab
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_node.cache.contents import check_contents, content_problems
from judge_node.cache.headers import MOST_HEADER_BYTES, HeaderWrong, tensor_names
from judge_node.cache.store import Store
from judge_node.result import NodeError
from unit.node.model_stores import add_model
from weights import raw, weights

TINY_JUDGE = Path(judge_lab.__file__).parent / "model/judge-lab/tiny-judge"


def tensor(start: int, stop: int, dtype: str = "U8", shape: list[int] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [stop - start] if shape is None else shape, "data_offsets": [start, stop]}


def names(path: Path, data: bytes) -> frozenset[str]:
    path.write_bytes(data)
    return tensor_names(path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.safetensors"


def test_real_weights_are_taken_and_their_tensors_are_those_of_the_index() -> None:
    index = json.loads((TINY_JUDGE / "model.safetensors.index.json").read_text())["weight_map"]
    found = {name for shard in TINY_JUDGE.glob("*.safetensors") for name in tensor_names(shard)}
    assert found == set(index) and len(found) > 50


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ({}, b""),
        ({"__metadata__": {"format": "pt"}}, b""),
        ({"a": tensor(0, 4)}, b"1234"),
        ({"b": tensor(4, 8), "a": tensor(0, 4)}, b"12345678"),
        ({"a": tensor(0, 0, shape=[0]), "b": tensor(0, 0, shape=[3, 0])}, b""),
        ({"a": tensor(0, 4, "F32", [])}, b"1234"),
        ({"a": tensor(0, 12, "BF16", [2, 3])}, bytes(12)),
        ({"a": tensor(0, 2, "F4", [4])}, b"12"),
        ({"a": tensor(0, 3, "F9_OF_TOMORROW", [7])}, b"123"),
        (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}     ', b"1"),
    ],
)
def test_file_that_is_what_its_header_says_is_taken(file: Path, header: Any, body: bytes) -> None:
    assert names(file, raw(header, body)) == frozenset(json.loads(raw(header)[8:])) - {"__metadata__"}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it has 0 bytes, wanted a header"),
        (b"1234567", "it has 7 bytes, wanted a header"),
        (bytes(4096), "its header is said to have 0 bytes, the file has 4096"),
        (b"<!doctype html><html>sign in", "its header is said to have"),
        ((100).to_bytes(8, "little") + b"{}", "its header is said to have 100 bytes, the file has 10"),
        (((1 << 64) - 1).to_bytes(8, "little") + b"{}", "its header is said to have 18446744073709551615 bytes"),
        (raw(b"{]"), "its header is not JSON"),
        (raw(b"\xff\xfe"), "its header is not JSON"),
        (raw(b"[" * 100_000), "its header is not JSON"),
        (raw(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":1}'), "its header is not JSON"),
        (raw([]), "its header is not a JSON object"),
        (raw({"__metadata__": {"a": 1}}), "its __metadata__ is not an object of strings"),
        (raw({"a": 5}), "tensor 'a' has not the keys dtype, shape and data_offsets"),
        (raw({"a": {**tensor(0, 1), "more": 1}}, b"1"), "tensor 'a' has not the keys"),
        (raw({"a": {**tensor(0, 1), "dtype": 5}}, b"1"), "tensor 'a' has a dtype, shape or place that is none"),
        (raw({"a": {**tensor(0, 1), "shape": [True]}}, b"1"), "tensor 'a' has a dtype, shape or place that is none"),
        (raw({"a": {**tensor(0, 1), "shape": [-1]}}, b"1"), "tensor 'a' has a dtype, shape or place that is none"),
        (raw({"a": {**tensor(0, 1), "shape": [1] * 65}}, b"1"), "tensor 'a' has a dtype, shape or place that is none"),
        (raw({"a": {**tensor(0, 1), "data_offsets": [0]}}, b"1"), "tensor 'a' has no place in the file"),
        (raw({"a": {**tensor(0, 1), "data_offsets": [1, 0]}}, b"1"), "tensor 'a' has no place in the file"),
        (raw({"a": tensor(0, 4, "F32", [2])}, b"1234"), "tensor 'a' (F32) has 4 bytes, its shape wants 8"),
        (raw({"a": tensor(0, 4, "F32", [1 << 60] * 9)}, b"1234"), "its shape wants more than any file has"),
        (raw({"a": tensor(1, 4)}, b"1234"), "tensor 'a' leaves a gap of 1 bytes before it"),
        (raw({"a": tensor(0, 2), "b": tensor(3, 4)}, b"1234"), "tensor 'b' leaves a gap of 1 bytes before it"),
        (raw({"a": tensor(0, 3), "b": tensor(2, 4)}, b"1234"), "tensor 'b' overlaps another"),
        (raw({"a": tensor(0, 4), "b": tensor(0, 4)}, b"1234"), "tensor 'b' overlaps another"),
        (raw({"a": tensor(0, 4)}, b"123"), "its tensors have 4 bytes, the file has 3 for them"),
        (raw({"a": tensor(0, 4)}, b"12345"), "its tensors have 4 bytes, the file has 5 for them"),
        (raw({"\x1b[2J" * 50: 5}), r"tensor '\x1b[2J"),
    ],
)
def test_file_that_is_not_what_its_header_says_is_refused(file: Path, data: bytes, why: str) -> None:
    with pytest.raises(HeaderWrong) as caught:
        names(file, data)
    assert why in str(caught.value) and "\x1b" not in str(caught.value)


def test_header_beyond_the_limit_of_the_format_is_not_read(file: Path) -> None:
    with file.open("wb") as sparse:
        sparse.write((MOST_HEADER_BYTES + 1).to_bytes(8, "little"))
        sparse.truncate(MOST_HEADER_BYTES + 100)
    with pytest.raises(HeaderWrong, match="its header is said to have 100000001 bytes"):
        tensor_names(file)


def test_link_is_not_followed(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(weights(b"1"))
    file.symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="x.safetensors"):
        tensor_names(file)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.binary(max_size=300).map(raw) | st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.floats(), lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "U8"]), inner, max_size=4)
).map(raw))  # fmt: skip
def test_any_bytes_are_survived(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    try:
        names(path, data)
    except HeaderWrong as error:
        assert str(error)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=6), st.randoms())
def test_every_cut_and_every_longer_file_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], random: Any
) -> None:
    header, end = {}, 0
    for number, size in enumerate(sizes):
        header[str(number)] = tensor(end, end + size)
        end += size
    shuffled = dict(random.sample(list(header.items()), len(header)))
    data = raw(shuffled, bytes(end))
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    assert names(path, data) == set(header)
    for other in (data[: random.randrange(len(data))], data + b"\0"):
        with pytest.raises(HeaderWrong):
            names(path, other)


def index_of(weight_map: Any) -> dict[str, bytes]:
    return {
        "model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode(),
        "one.safetensors": weights(b"1", "a", "b"),
        "two.safetensors": weights(b"2", "c"),
    }


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"a.safetensors": b"x" * 100}, "a.safetensors is no weight file: its header is said to have"),
        (index_of({"a": "one.safetensors", "z": "two.safetensors"}), "looks for the tensor 'z' in two.safetensors"),
        (index_of({"a": "three.safetensors"}), "names the shard 'three.safetensors', which the manifest does not have"),
    ],
)
def test_files_that_make_no_model_are_incomplete(tmp_path: Path, files: dict[str, bytes], why: str) -> None:
    store = Store(tmp_path)
    manifest = add_model(store, files=files)
    with pytest.raises(NodeError) as caught:
        check_contents(store, manifest)
    assert caught.value.reason == "MODEL_INCOMPLETE" and why in caught.value.message


def test_index_that_agrees_with_the_headers_is_right(tmp_path: Path) -> None:
    store = Store(tmp_path)
    files = index_of({"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"})
    assert content_problems(store, add_model(store, files=files)) == []
