"""The committed tiny judge: a checkpoint whose parts fit together, small enough for a git repository."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
from judge_lab import hub

MODEL = hub.DEFAULT_ROOT / hub.TINY_JUDGE
DTYPE_BYTES = {"F16": 2, "I32": 4}


def header(shard: Path) -> dict[str, Any]:
    """Return the tensors of a safetensors file, by the format's own description (8 bytes of length, then JSON)."""
    content = shard.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    tensors: dict[str, Any] = json.loads(content[8 : 8 + length])
    tensors.pop("__metadata__", None)
    assert 8 + length + max(tensor["data_offsets"][1] for tensor in tensors.values()) == len(content)
    return tensors


@pytest.fixture(scope="module")
def index() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((MODEL / "model.safetensors.index.json").read_text())
    return document


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((MODEL / "config.json").read_text())
    return document


def test_it_has_at_least_two_shards_and_the_index_lists_their_tensors(index: dict[str, Any]) -> None:
    shards = sorted(MODEL.glob("*.safetensors"))
    assert len(shards) >= 2
    assert index["weight_map"] == {tensor: shard.name for shard in shards for tensor in header(shard)}


def test_the_index_states_the_size_of_all_tensors(index: dict[str, Any]) -> None:
    sizes = [
        math.prod(tensor["shape"]) * DTYPE_BYTES[tensor["dtype"]]
        for shard in MODEL.glob("*.safetensors")
        for tensor in header(shard).values()
    ]
    assert index["metadata"]["total_size"] == sum(sizes)


def test_it_is_the_production_models_architecture_and_quantization(config: dict[str, Any]) -> None:
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert (config["quantization_config"]["quant_method"], config["quantization_config"]["bits"]) == ("awq", 4)


def test_its_layers_are_packed_four_bit_integers(config: dict[str, Any]) -> None:
    tensors = {name: tensor for shard in MODEL.glob("*.safetensors") for name, tensor in header(shard).items()}
    packed = tensors["model.layers.0.mlp.down_proj.qweight"]
    assert packed["dtype"] == "I32"
    assert packed["shape"] == [config["intermediate_size"], config["hidden_size"] // 8]


def test_its_context_holds_what_the_settings_ask_for(config: dict[str, Any]) -> None:
    from judge_lab.appconfig import default_document

    assert config["max_position_embeddings"] >= default_document()["judge_inference"]["model"]["max_model_len"]


def test_its_vocabulary_is_the_tokenizers(config: dict[str, Any]) -> None:
    vocabulary = json.loads((MODEL / "vocab.json").read_text())
    assert len(vocabulary) == config["vocab_size"]
    assert json.loads((MODEL / "tokenizer.json").read_text())["model"]["vocab"] == vocabulary
    assert config["eos_token_id"] == vocabulary["<|im_end|>"]


def test_it_holds_nothing_that_runs_and_stays_small() -> None:
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".txt", ".md", ".jinja", ".safetensors"}
    assert sum(path.stat().st_size for path in files) < 1_000_000
