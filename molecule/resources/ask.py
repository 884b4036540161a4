"""Ask the pods behind a Service for their models and for one structured answer, by plain HTTP to their addresses.

    ask.py KUBECONFIG NAMESPACE SERVICE
    prints {"models": [...], "reply": {...}, "finish_reason": "stop", "without_key": 401}

Neither the port-forward nor the judge client that the role uses; the lab's host has a route to its pods. The API
server's own proxy would do, but for the key: it keeps the header for itself.
"""

from __future__ import annotations

import base64
import json
import ssl
import sys
import urllib.error
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

    def cluster(path: str) -> Any:
        with urllib.request.urlopen(settings.host + path, timeout=120, context=context) as answer:
            return json.load(answer)

    slices = cluster(f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
                     f"?labelSelector=kubernetes.io/service-name%3D{service}")["items"]
    (base, *_) = [f"http://{endpoint['addresses'][0]}:{part['ports'][0]['port']}" for part in slices
                  for endpoint in part["endpoints"] or [] if endpoint["conditions"]["ready"]]
    secret = cluster(f"/api/v1/namespaces/{namespace}/secrets/judge-api-key")["data"]["api-key"]
    key = base64.b64decode(secret).decode()

    def ask(path: str, body: dict[str, Any] | None = None, key: str | None = key) -> Any:
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        request = urllib.request.Request(base + path, data=json.dumps(body).encode() if body else None, headers=headers)
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)

    try:
        ask("/v1/models", key=None)
        without_key = 200
    except urllib.error.HTTPError as error:
        without_key = error.code
    models = ask("/v1/models")["data"]
    choice = ask("/v1/chat/completions", {
        "model": models[0]["id"],
        "messages": [{"role": "user", "content": "Score this answer: Paris."}],
        "temperature": 0, "max_tokens": 64,
        "response_format": {"type": "json_schema", "json_schema": {"name": "score", "schema": SCHEMA, "strict": True}},
    })["choices"][0]
    json.dump({"models": models, "reply": json.loads(choice["message"]["content"]),
               "finish_reason": choice["finish_reason"], "without_key": without_key}, sys.stdout)


if __name__ == "__main__":
    main()
