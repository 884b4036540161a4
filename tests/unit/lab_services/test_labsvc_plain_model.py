"""The tiny judge without quantization: the same numbers, and the same bytes on every machine."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from judge_lab import hub, plain_model
from judge_lab.hub_catalog import Catalog
from judge_lab.layout import Layout
from judge_lab.plain_model import PLAIN_JUDGE, Tensor, plain_weight, read_tensors
from judge_lab.services import fill_hub

SOURCE = hub.DEFAULT_ROOT / hub.TINY_JUDGE


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layout = Layout(tmp_path_factory.mktemp("lab"))
    fill_hub(layout)
    return layout.hub


@pytest.fixture(scope="module")
def plain(root: Path) -> Path:
    return root / PLAIN_JUDGE


def numbers(tensor: Tensor) -> list[float]:
    return list(struct.unpack(f"<{len(tensor.data) // 2}e", tensor.data))


def test_eight_integers_of_a_word_come_out_in_awq_s_order() -> None:
    """AWQ packs the integers 0..7 of a row as 0, 2, 4, 6, 1, 3, 5, 7, from the lowest four bits up."""
    word = sum(integer << (4 * lane) for lane, integer in enumerate((0, 2, 4, 6, 1, 3, 5, 7)))
    one = struct.pack("<8e", *[1.0] * 8)
    weight = plain_weight(Tensor("I32", (1, 1), struct.pack("<I", word)), Tensor("I32", (1, 1), struct.pack("<I", 0)),
                          Tensor("F16", (1, 8), one))
    assert (weight.shape, numbers(weight)) == ((8, 1), [0, 1, 2, 3, 4, 5, 6, 7])


def test_zero_points_and_scales_are_those_of_the_row_s_group() -> None:
    """Two groups of two rows; every column has the same numbers, so that the order plays no part."""
    rows = [5, 6, 7, 8]
    qweight = struct.pack("<4I", *(sum(integer << (4 * lane) for lane in range(8)) for integer in rows))
    qzeros = struct.pack("<2I", *(sum(zero << (4 * lane) for lane in range(8)) for zero in (1, 2)))
    scales = struct.pack("<16e", *[0.5] * 8, *[2.0] * 8)
    weight = plain_weight(Tensor("I32", (4, 1), qweight), Tensor("I32", (2, 1), qzeros), Tensor("F16", (2, 8), scales))
    assert numbers(weight)[:4] == [(5 - 1) * 0.5, (6 - 1) * 0.5, (7 - 2) * 2, (8 - 2) * 2]


def test_rounding_a_layer_to_four_bits_again_gives_the_same_integers(plain: Path) -> None:
    layer = "model.layers.1.mlp.gate_proj"
    shard = json.loads((SOURCE / "model.safetensors.index.json").read_text())["weight_map"][f"{layer}.qweight"]
    packed = read_tensors(SOURCE / shard)
    weight = read_tensors(plain / shard)[f"{layer}.weight"]
    width, depth = weight.shape
    made, scales = numbers(weight), numbers(packed[f"{layer}.scales"])
    integers, zeros = plain_model.unpack(packed[f"{layer}.qweight"]), plain_model.unpack(packed[f"{layer}.qzeros"])
    again = [[round(made[column * depth + row] / scales[row // 32 * width + column]) + zeros[row // 32][column]
              for column in range(width)] for row in range(depth)]
    assert again == integers


def test_it_declares_no_quantization_and_differs_in_nothing_else(plain: Path) -> None:
    config, quantized = (json.loads((folder / "config.json").read_text()) for folder in (plain, SOURCE))
    assert quantized.pop("quantization_config")["quant_method"] == "awq"
    assert config == quantized
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (plain / name).read_bytes() == (SOURCE / name).read_bytes()


def test_its_index_lists_the_tensors_of_its_shards(plain: Path) -> None:
    index = json.loads((plain / "model.safetensors.index.json").read_text())
    tensors = {name: (shard.name, tensor) for shard in plain.glob("*.safetensors")
               for name, tensor in read_tensors(shard).items()}
    assert index["weight_map"] == {name: shard for name, (shard, _) in tensors.items()}
    assert index["metadata"]["total_size"] == sum(len(tensor.data) for _, tensor in tensors.values())
    assert {tensor.dtype for _, tensor in tensors.values()} == {"F16"}


def test_the_hub_names_it_by_the_same_commit_everywhere(root: Path) -> None:
    repository = Catalog(root).repository(PLAIN_JUDGE)
    assert repository is not None
    assert repository.commit == "41a790c1999e8fd2823409b192fa6ee5bee7ecb1"


def test_what_the_hub_serves_already_stays(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    fill_hub(layout)
    changed = layout.hub / PLAIN_JUDGE / "config.json"
    changed.write_text("{}")
    fill_hub(layout)
    assert changed.read_text() == "{}"
    assert sorted(path.name for path in (layout.hub / "judge-lab").iterdir()) == ["tiny-judge", "tiny-judge-plain"]
