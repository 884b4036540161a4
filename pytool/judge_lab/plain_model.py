"""The tiny judge without quantization: the same numbers as the AWQ one that comes with the package, as float16.

    python -m judge_lab.plain_model OUT

So the lab has both kinds of checkpoint and carries one. A weight of the plain model is what AWQ makes of its four
bits, `(integer - zero) * scale`, rounded to float16: both give the same verdicts. The outcome is the same on every
machine, and so is the commit that the Hub stand-in names it by.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from judge_lab.hub import DEFAULT_ROOT, TINY_JUDGE

PLAIN_JUDGE = f"{TINY_JUDGE}-plain"
# AWQ's order of the eight integers in an int32, from the lowest four bits up.
_LANES = (0, 2, 4, 6, 1, 3, 5, 7)
_KEPT = ("chat_template.jinja", "generation_config.json", "merges.txt", "tokenizer.json", "tokenizer_config.json",
         "vocab.json")
_README = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [tiny, test]
---
# tiny-judge-plain

The weights of `judge-lab/tiny-judge` as float16 numbers instead of four bits each, made by the lab of judge-bootstrap.
**It is no judge of real answers**: its scores mean nothing outside of tests.
"""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a safetensors file: `dtype` as the format names it, `data` little-endian."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, by name."""
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    body = content[8 + length :]
    return {
        name: Tensor(entry["dtype"], tuple(entry["shape"]), body[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file; the same tensors give the same bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + b"".join(one.data for one in tensors.values()))


def unpack(packed: Tensor) -> list[list[int]]:
    """Return the rows of four-bit integers that an AWQ tensor holds, eight in each int32."""
    rows, columns = packed.shape
    words = array("I")
    words.frombytes(packed.data)
    shifts = sorted(range(8), key=lambda lane: _LANES[lane])  # by place in the row
    return [
        [(word >> (4 * lane)) & 15 for word in words[row * columns : (row + 1) * columns] for lane in shifts]
        for row in range(rows)
    ]


def plain_weight(qweight: Tensor, qzeros: Tensor, scales: Tensor) -> Tensor:
    """Return a layer's weight as float16 [out, in].

    AWQ's tensors are [in, out / 8], [groups, out / 8] and [groups, out]; a group is a run of equal length along `in`.
    """
    integers, zeros = unpack(qweight), unpack(qzeros)
    groups, width = scales.shape
    scale = struct.unpack(f"<{groups * width}e", scales.data)
    size = len(integers) // groups
    numbers = [
        (integers[row][column] - zeros[row // size][column]) * scale[row // size * width + column]
        for column in range(width)
        for row in range(len(integers))
    ]
    return Tensor("F16", (width, len(integers)), struct.pack(f"<{len(numbers)}e", *numbers))


def plain_shard(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a shard with each quantized layer as one weight."""
    found = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        if part == "qweight":
            found[f"{layer}.weight"] = plain_weight(tensor, tensors[f"{layer}.qzeros"], tensors[f"{layer}.scales"])
        elif part not in ("qzeros", "scales"):
            found[name] = tensor
    return found


def make(out: Path, source: Path = DEFAULT_ROOT / TINY_JUDGE) -> None:
    """Write the plain model of an AWQ one into the new directory `out`."""
    out.mkdir(parents=True)
    for name in _KEPT:
        shutil.copyfile(source / name, out / name)
    (out / "README.md").write_text(_README)
    config = json.loads((source / "config.json").read_text())
    del config["quantization_config"]
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    where, size = {}, 0
    for shard in sorted(source.glob("*.safetensors")):
        tensors = plain_shard(read_tensors(shard))
        write_tensors(out / shard.name, tensors)
        where.update(dict.fromkeys(tensors, shard.name))
        size += sum(math.prod(tensor.shape) * 2 for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Make the plain tiny judge in OUT."""
    parser = argparse.ArgumentParser(prog="python -m judge_lab.plain_model", description="The plain tiny judge.")
    parser.add_argument("out", type=Path, metavar="OUT")
    make(parser.parse_args(argv).out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
