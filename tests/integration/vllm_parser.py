"""What vLLM's own parser and engine configuration make of argument lists; run with the Python of the CPU build.

    python vllm_parser.py < LISTS

LISTS is one JSON object, {name: [argument, ...]}: what follows `vllm serve`. Prints one JSON object,
{name: {"error": text or null, and what was understood}}. "error" begins with "parser: " where the command line is
refused, and with "engine: " where the engine's configuration is.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser


def understood(parser: FlexibleArgumentParser, arguments: list[str]) -> dict[str, Any]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = parser.parse_args(arguments)
            validate_parsed_serve_args(parsed)
    except SystemExit:
        return {"error": "parser: " + said.getvalue().strip().splitlines()[-1]}
    except (ValueError, TypeError) as error:
        return {"error": f"parser: {error}"}
    parsed.model = parsed.model_tag  # as `vllm serve` does
    try:
        config = AsyncEngineArgs.from_cli_args(parsed).create_engine_config()
    except Exception as error:  # whatever it is, it is the answer
        return {"error": f"engine: {error}"}
    outputs = config.structured_outputs_config
    return {
        "error": None,
        "model": config.model_config.model,
        "names": parsed.served_model_name,
        "address": [parsed.host, parsed.port],
        "dtype": str(config.model_config.dtype),
        "max_model_len": config.model_config.max_model_len,
        "quantization": config.model_config.quantization,
        "gpu_share": config.cache_config.gpu_memory_utilization,
        "gpus": config.parallel_config.tensor_parallel_size,
        "structured": [outputs.backend, outputs.disable_any_whitespace],
        "prefix_caching": config.cache_config.enable_prefix_caching,
        "sampling_defaults": config.model_config.get_diff_sampling_param(),
        "middleware": parsed.middleware,
        "eager": config.model_config.enforce_eager,
    }


def main() -> None:
    parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve", add_help=False))
    lists = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):  # its log
        answers = {name: understood(parser, arguments) for name, arguments in lists.items()}
    sys.stdout.write(json.dumps(answers) + "\n")


if __name__ == "__main__":
    main()
