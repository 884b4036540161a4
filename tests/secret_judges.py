"""The judges of the secret drill, and the files that they are asked about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pod_servers import SCORES, VERDICT, PodServer, serving

COMPARISON = json.dumps({"reasoning": "The first one is right.", "winner": "first"})


class Judge(PodServer):
    """A judge that takes any of its keys, and compares, too."""

    keys: tuple[str, ...] = ()

    def answer(self, method: str, path: str, authorization: str | None) -> tuple[int, Any]:
        """Return status and body."""
        if authorization not in {f"Bearer {key}" for key in self.keys}:
            return 401, {"error": "no valid API key"}
        status, body = super().answer(method, path, authorization)
        if path.endswith("/completions"):
            schema = self.bodies[-1]["response_format"]["json_schema"]["schema"]
            reply = VERDICT if "scores" in schema["properties"] else COMPARISON
            body["choices"][0]["message"]["content"] = reply
        return status, body


class Parrot(PodServer):
    """A server that lists its model, and else refuses with the key in its words."""

    def answer(self, method: str, path: str, authorization: str | None) -> tuple[int, Any]:
        """Return status and body."""
        if path == "/v1/models":
            return super().answer(method, path, authorization)
        return 400, {"error": {"message": f"cannot route the request of {authorization}"}}


def judging(*keys: str) -> Judge:
    """Return a judge that takes these keys."""
    judge = Judge(serving("judge", "a" * 40).routes)
    judge.keys = keys
    return judge


def parrot() -> Parrot:
    """Return a server that says its key back."""
    return Parrot(serving("judge", "a" * 40).routes)


def lay_out(work: Path) -> None:
    """Write the files that the scenarios of `judge` name."""
    item = {"original_prompt": "2+2?", "model_response": "It is 4."}
    scored = {**item, "scores": SCORES}
    pair = {"original_prompt": "2+2?", "response_a": "It is 4.", "response_b": "It is 5."}
    for name, line in (("items", item), ("gold", scored), ("pairs", pair)):
        lines = [json.dumps({"id": f"{name}-{number}", **line}) for number in range(4)]
        (work / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
