"""vLLM's own figures, out of its /metrics. Pure."""

from __future__ import annotations

import re

_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{[^}]*\})?\s+(\S+)")
# Figure -> the names it has had; all engines of one server are added up.
_SUMS = {
    "requests_running": ("vllm:num_requests_running",),
    "requests_waiting": ("vllm:num_requests_waiting",),
}
_CACHE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
_HITS = ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total", "vllm:prefix_cache_hits")
_QUERIES = ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total", "vllm:prefix_cache_queries")
_FIRST_TOKEN = "vllm:time_to_first_token_seconds"


def read_metrics(text: str) -> dict[str, float]:
    """Return what a person on call asks first; a figure that the text has not is left out.

    requests_running, requests_waiting (now); kv_cache_usage and prefix_cache_hit_rate (0 to 1; the rate since the
    server's start); time_to_first_token_seconds (mean since the start).
    """
    samples: dict[str, list[float]] = {}
    for line in text.splitlines():
        if found := _SAMPLE.match(line):
            try:
                samples.setdefault(found[1], []).append(float(found[2]))
            except ValueError:
                continue

    def of(names: tuple[str, ...]) -> list[float]:
        return next((samples[name] for name in names if name in samples), [])

    figures = {figure: sum(values) for figure, names in _SUMS.items() if (values := of(names))}
    if usage := of(_CACHE):
        figures["kv_cache_usage"] = max(usage)
    hits, queries = of(_HITS), of(_QUERIES)
    if hits and sum(queries) > 0:
        figures["prefix_cache_hit_rate"] = sum(hits) / sum(queries)
    total, count = of((f"{_FIRST_TOKEN}_sum",)), of((f"{_FIRST_TOKEN}_count",))
    if total and sum(count) > 0:
        figures["time_to_first_token_seconds"] = sum(total) / sum(count)
    return figures
