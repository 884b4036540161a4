"""Loads models with transformers, and prints what it got as one JSON object.

    python transformers_loader.py load REPO COMMIT SNAPSHOT      by branch, by commit, by path
    python transformers_loader.py configure REPO COMMIT SNAPSHOT the same without the weights
    python transformers_loader.py make TOKENIZER FOLDER          writes a model of random weights, in several shards
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any


def weights(model: Any) -> str:
    """Return the sha256 of all tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def make(tokenizer: str, folder: str) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

    torch.manual_seed(5)
    words = AutoTokenizer.from_pretrained(tokenizer)
    model = AutoModelForCausalLM.from_config(Qwen2Config(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256))
    model.save_pretrained(folder, max_shard_size="60KB")
    words.save_pretrained(folder)
    return {"weights": weights(model), "shards": len(list(Path(folder).glob("*.safetensors")))}


def load(repo_id: str, commit: str, snapshot: str, *, whole: bool = True) -> dict[str, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    found = {}
    ways = (("main", repo_id, {}), ("commit", repo_id, {"revision": commit}), ("path", snapshot, {}))
    for name, where, named in ways:
        config = AutoConfig.from_pretrained(where, **named)
        tokenizer = AutoTokenizer.from_pretrained(where, **named)
        prompt = tokenizer("Rate this answer:", return_tensors="pt")
        found[name] = {"model_type": config.model_type,
                       "pad_token_id": GenerationConfig.from_pretrained(where, **named).pad_token_id,
                       "decoded": tokenizer.decode(prompt["input_ids"][0]), "template": bool(tokenizer.chat_template)}
        if whole:
            model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, **named)
            with torch.no_grad():
                tokens = model.generate(**prompt, max_new_tokens=4, do_sample=False)
            found[name] |= {"weights": weights(model), "new_tokens": tokens.shape[1] - prompt["input_ids"].shape[1]}
    return found


if __name__ == "__main__":
    verb, *words = sys.argv[1:]
    answer = make(*words) if verb == "make" else load(*words, whole=verb == "load")
    sys.stdout.write(json.dumps(answer) + "\n")
