#!/bin/bash
# The Hub stand-in (judge_lab.hub) with a small repository of files that must, and of files that must not, reach a node.
#
#     hub.sh up DIR PYTHON     DIR gets: url, root, pid, log. Idempotent.
#     hub.sh down DIR
set -euo pipefail
verb=$1 dir=$2
here=$(cd "$(dirname "$0")" && pwd)

up() {
  local python=$1 repository=$dir/root/molecule/tiny
  [ -s "$dir/pid" ] && kill -0 "$(cat "$dir/pid")" 2>/dev/null && return
  mkdir -p "$repository/onnx"
  echo '{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}' > "$repository/config.json"
  echo '{}' > "$repository/tokenizer.json"
  echo '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}' > "$repository/model.safetensors.index.json"
  # Bytes that differ and are the same at every run, so that the commit is too.
  PYTHONPATH=$here/../../tests "$python" - "$repository" <<'PYTHON'
import sys
from pathlib import Path

from weights import weights

for shard, tensor in ((1, "a"), (2, "b")):
    body = "".join(f"{shard} {line}\n" for line in range(400_000)).encode()
    Path(sys.argv[1], f"model-0000{shard}-of-00002.safetensors").write_bytes(weights(body, tensor))
PYTHON
  echo 'pickle' > "$repository/pytorch_model.bin"
  echo 'import os' > "$repository/modeling_qwen2.py"
  echo 'weights again' > "$repository/onnx/model.safetensors"
  PYTHONPATH=$here/../../pytool setsid "$python" -m judge_lab.hub --host 127.0.0.1 --port 0 --root "$dir/root" </dev/null >"$dir/log" 2>&1 &
  echo $! > "$dir/pid"
  for _ in $(seq 600); do
    grep -m1 -o 'http://[0-9.:]*' "$dir/log" > "$dir/url" || true
    [ ! -s "$dir/url" ] || return 0
    sleep 0.1
  done
  echo "The Hub stand-in did not start; it said:" >&2
  tail -5 "$dir/log" >&2
  exit 1
}

down() {
  if [ -s "$dir/pid" ] && tr '\0' ' ' 2>/dev/null < "/proc/$(cat "$dir/pid")/cmdline" | grep -qF "$dir/root"; then
    kill "$(cat "$dir/pid")"
  fi
  rm -rf "$dir"
}

$verb "${@:3}"
