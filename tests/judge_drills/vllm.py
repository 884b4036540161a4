"""One real vLLM on the CPU with the tiny judge behind its gateway, started as the pod starts it, and ended by its pid.

    with serving() as server:
        JudgeClient(server.url, server.model, server.key)

`python tests/judge_drills/vllm.py` starts one by hand, tells how to reach it, and ends it at Ctrl-C.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "pytool"), str(Path(__file__).resolve().parents[1])]

from judge_bootstrap.core.golden import BUILT_IN, gateway_config, request_of
from judge_lab import gpu, runtime
from judge_lab.hub import DEFAULT_ROOT, TINY_JUDGE
from judge_node.bundle import build_pyz
from ports import kept_port

MODEL = "judge"
COMMIT = "c0ffee" + "0" * 34
DIGEST = "sha256:" + "d" * 64
START_SECONDS = 900
_END_SECONDS = 60


@dataclass(frozen=True)
class Server:
    """vLLM behind the gateway at `url`, which wants `key`. Its log and its files lie in `folder`."""

    url: str
    key: str = field(repr=False)
    folder: Path
    process: subprocess.Popen[bytes]
    model: str = MODEL

    @property
    def log(self) -> str:
        """What it has said so far."""
        return (self.folder / "log").read_text(errors="replace")

    def ask(self, path: str) -> str:
        """Return what a path answers. Raises OSError for any status but 200."""
        request = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            text: str = answer.read().decode()
            return text


def available() -> str | None:
    """Return None where the server can be started: vLLM is there, or can be installed; else what is missing.

    The first call may take minutes. The message says what to do.
    """
    from judge_lab import LabError

    try:
        runtime.ensure(lambda line: sys.stderr.write(f"{line}\n") and None)
    except LabError as error:
        return f"no vLLM for the CPU: {error}"
    return None


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[Server]:
    """Have the server, with more arguments for `vllm serve`. Raises RuntimeError with its log when it does not start.

    It needs what `available` looks for, takes about half a minute to start, and ends with the caller.
    """
    folder = Path(tempfile.mkdtemp(prefix="judge-vllm."))
    try:
        key = secrets.token_urlsafe(32)
        (folder / "api-key").write_text(key)
        golden = [{"id": BUILT_IN[0].id, "request": request_of(BUILT_IN[0], MODEL), "accepted": None}]
        (folder / "gateway.json").write_text(json.dumps(gateway_config(
            served_name=MODEL, commit=COMMIT, manifest_digest=DIGEST, repo_id=TINY_JUDGE, image="vllm:drill",
            api_key_file=str(folder / "api-key"), max_body_bytes=1 << 20, tolerance=1.0, items=golden)))
        with launched(folder, "judge_node.serving.gateway.Gateway", *arguments,
                      environment={"JUDGE_GATEWAY_CONFIG": str(folder / "gateway.json")}) as (port, process):
            server = Server(f"http://127.0.0.1:{port}", key, folder, process)
            _wait(server)
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def launched(folder: Path, middleware: str, *arguments: str, environment: Mapping[str, str] | None = None
             ) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Have vLLM on a port of this machine, not yet up, with files and log in `folder`: it is ended with the block.

    `middleware` is imported from judge-node.pyz, or from `folder`.
    """
    snapshot = folder / f"models--{TINY_JUDGE.replace('/', '--')}" / "snapshots" / COMMIT
    shutil.copytree(DEFAULT_ROOT / TINY_JUDGE, snapshot)
    (folder / "judge-node.pyz").write_bytes(build_pyz())
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": f"{folder}/judge-node.pyz:{folder}",
           "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", **gpu.ENVIRONMENT,
           # As in the pod: what the server's processes say to each other stays on this machine.
           "GLOO_SOCKET_IFNAME": "lo", "VLLM_HOST_IP": "127.0.0.1", **(environment or {})}
    with kept_port() as port, (folder / "log").open("wb") as log:
        # setpriv: it ends with the process that started it, however that ends.
        argv = ["setpriv", "--pdeathsig", "TERM", str(runtime.folder() / "bin/python"), "-m",
                "vllm.entrypoints.cli.main", "serve", str(snapshot), "--served-model-name", MODEL,
                "--host", "127.0.0.1", "--port", str(port), "--dtype", "half",
                "--max-model-len", "8192", "--enforce-eager", "--structured-outputs-config",
                json.dumps({"backend": "guidance", "disable_any_whitespace": True}),
                "--middleware", middleware, *arguments]
        # In a folder of its own, so that nothing is imported from the checkout.
        process = subprocess.Popen(argv, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=subprocess.STDOUT, start_new_session=True)
        try:
            yield port, process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # the session that it was started in: its own processes
                process.wait()


def _wait(server: Server) -> None:
    """Wait until its gateway says that it is ready: vLLM is up, and has given one valid verdict."""
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            server.ask("/health/ready")
            return
        except urllib.error.HTTPError as error:
            said = str(error)
            error.close()
        except OSError as error:
            said = str(error)
        if server.process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"vLLM did not come up (exit code {server.process.poll()}, {said}): "
                               f"{server.log[-3000:]}")  # fmt: skip
        time.sleep(0.3)


def main() -> None:
    """Serve until Ctrl-C."""
    missing = available()
    if missing:
        sys.exit(missing)
    with serving(*sys.argv[1:]) as server, contextlib.suppress(KeyboardInterrupt):
        print(f"export JUDGE_API_KEY={server.key}\n--url {server.url} --model {server.model}", flush=True)
        server.process.wait()


if __name__ == "__main__":
    main()
