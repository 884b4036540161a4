"""Ask a Service for its models and for one structured answer, through the API server's own proxy.

    ask.py KUBECONFIG NAMESPACE SERVICE         prints {"models": [...], "reply": {...}, "finish_reason": "stop"}

Plain HTTP and JSON on purpose: neither the port-forward nor the judge client that the role uses.
"""

from __future__ import annotations

import json
import ssl
import sys
import urllib.request
from typing import Any

from kubernetes import config

SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 1, "maximum": 10}},
    "required": ["score"],
    "additionalProperties": False,
}


def main() -> None:
    kubeconfig, namespace, service = sys.argv[1:]
    settings = config.new_client_from_config(config_file=kubeconfig).configuration
    context = ssl.create_default_context(cafile=settings.ssl_ca_cert)
    context.load_cert_chain(settings.cert_file, settings.key_file)
    base = f"{settings.host}/api/v1/namespaces/{namespace}/services/{service}:http/proxy"

    def ask(path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(base + path, data=json.dumps(body).encode() if body else None,
                                         headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            return json.load(answer)

    models = ask("/v1/models")["data"]
    choice = ask("/v1/chat/completions", {
        "model": models[0]["id"],
        "messages": [{"role": "user", "content": "Score this answer: Paris."}],
        "temperature": 0, "max_tokens": 64,
        "response_format": {"type": "json_schema", "json_schema": {"name": "score", "schema": SCHEMA, "strict": True}},
    })["choices"][0]
    json.dump({"models": models, "reply": json.loads(choice["message"]["content"]),
               "finish_reason": choice["finish_reason"]}, sys.stdout)


if __name__ == "__main__":
    main()
