"""`judge-bootstrap models baseline`: ask the judge that runs now, and write what it says for people to accept."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from judge_bootstrap.core.errors import BootstrapError, ExitCode, UsageProblem

if TYPE_CHECKING:
    from judge_client.verdict import Provenance
    from judge_node.serving.golden import Drift

    from judge_bootstrap.cli.cluster_settings import ClusterSettings
    from judge_bootstrap.cli.context import AppContext
    from judge_bootstrap.core.golden import Golden, GoldenFile, Source

ANSWER_SECONDS = 180.0
DRIFTED = "GOLDEN_DRIFT"
# What the client says when there is no verdict, as the reason codes of the toolkit.
_REASONS = {"SERVER_DENIED": "API_KEY_WRONG", "WRONG_MODEL_SERVED": "WRONG_MODEL_SERVED"}
_NAMES = ("vllm_k8s_endpoint_url", "vllm_k8s_endpoint_key_file", "vllm_k8s_golden_file", "vllm_k8s_golden_tolerance")


@dataclass(frozen=True)
class Server:
    """A judge that can be asked. `name` is what messages call it."""

    name: str
    base_url: str
    key: str | None


@dataclass(frozen=True)
class Compared:
    """What the command found out: the file before and after, and how far apart the scores are."""

    path: Path
    before: GoldenFile
    after: GoldenFile
    scores: Mapping[str, Mapping[str, int]]
    drift: Drift
    tolerance: float

    @property
    def too_far(self) -> bool:
        """Whether a serving pod with the file of before would not become ready."""
        return self.drift.mean is not None and self.drift.mean > self.tolerance


def baseline(app: AppContext, out: str | None, check: bool, extra: Sequence[str]) -> int:
    """Run the command; see `models baseline --help`."""
    from judge_node.files import make_directory, write_file

    from judge_bootstrap.cli.cluster_settings import read_cluster_settings
    from judge_bootstrap.core.golden import BUILT_IN, GoldenFile, accept, drift_of, golden_text, load_golden

    app.command = "models baseline"
    settings = read_cluster_settings(app, extra)
    values = app.get_services().render(settings.variables, _NAMES, settings.inventory_dir)
    path = _place(out, values.get("vllm_k8s_golden_file"), settings.inventory_dir)
    before = load_golden(path) if path.exists() else GoldenFile(BUILT_IN)
    _warn_of_other_prompts(app, before, path)
    with _server(app, settings, values) as server:
        scores, source = _ask(app, server, before.items)
    after = accept(before, scores, source)
    found = Compared(path, before, after, scores, drift_of(before, scores), _tolerance(values))
    text = golden_text(after).encode()
    changed = not path.is_file() or path.read_bytes() != text
    if changed and not check:
        try:
            make_directory(path.parent)
            write_file(path, text)
        except OSError as error:
            raise UsageProblem(f"{path} cannot be written: {error.strerror}",
                               hint="give --out FILE, in a folder that is yours") from error
    failed = check and found.too_far
    if app.json:
        app.emit(_as_json(app, found, check=check, changed=changed, failed=failed))
    else:
        _tell(app, found, check=check, changed=changed)
        if failed:
            click.echo(f"Error: {DRIFTED}: {_drift_text(found)}", err=True)
            click.echo(f"Hint: {_repair(app, path)}", err=True)
    return ExitCode.FAILED if failed else ExitCode.OK


def _place(out: str | None, golden_file: Any, inventory_dir: Path) -> Path:
    from judge_bootstrap.adapters.lock_file import place_of

    if out:
        return Path(out).expanduser().absolute()
    if isinstance(golden_file, str) and golden_file:
        return place_of(golden_file, inventory_dir)
    raise UsageProblem("nothing says where the golden answers belong",
                       hint=f"set vllm_k8s_golden_file, or give --out {inventory_dir}.golden.json")


def _tolerance(values: Mapping[str, Any]) -> float:
    value = values.get("vllm_k8s_golden_tolerance")
    try:
        return float(value)  # type: ignore[arg-type]  # -e gives a text
    except (TypeError, ValueError):
        raise UsageProblem(f"vllm_k8s_golden_tolerance is {value!r}, wanted a number",
                           hint="-e vllm_k8s_golden_tolerance=1.0") from None


def _warn_of_other_prompts(app: AppContext, before: GoldenFile, path: Path) -> None:
    from judge_bootstrap.core.golden import check_prompts

    try:
        check_prompts(before, str(path))
    except UsageProblem as error:
        app.warn(f"{error.message}, so its scores and the new ones are not comparable")


@contextmanager
def _server(app: AppContext, settings: ClusterSettings, values: Mapping[str, Any]) -> Iterator[Server]:
    """Yield the judge to ask: what vllm_k8s_endpoint_url names, or a pod. Raises BootstrapError when there is none."""
    from judge_bootstrap.adapters.judge_check import read_key_file

    url = values.get("vllm_k8s_endpoint_url")
    if url:
        yield Server(str(url), str(url).rstrip("/"), read_key_file(values.get("vllm_k8s_endpoint_key_file")))
        return
    from judge_bootstrap.adapters.kube_secrets import read_api_key
    from judge_bootstrap.adapters.objects import listed
    from judge_bootstrap.adapters.port_forward import forward

    api_client = settings.connect()
    pods = list(listed(api_client, "v1", "Pod", namespace=settings.namespace, labels=settings.serving_pods))
    pod, ready = choose_pod(pods)
    if pod is None:
        raise BootstrapError(f"no pod of {settings.namespace}/{settings.service_name} runs, so no judge can be asked",
                             reason="POD_PENDING", hint=f"judge-bootstrap --env {settings.env} health")
    if not ready:
        # That is how a new model is accepted: its pod is not ready because its scores are not those of the old one.
        app.warn(f"no pod is ready, {pod} is asked all the same: judge-bootstrap --env {settings.env} health says why")
    key = read_api_key(api_client, settings.namespace, settings.api_key_secret_name)
    with forward(api_client, settings.namespace, pod, settings.port) as base_url:
        yield Server(f"pod {pod}", base_url, key)


def choose_pod(pods: Sequence[Mapping[str, Any]]) -> tuple[str | None, bool]:
    """Return the pod to ask and whether it is ready: the first by name that is, else the first that has started.

    None when no server has started. A pod that is being removed is not asked.
    """
    started: list[str] = []
    ready: list[str] = []
    for pod in pods:
        if "deletionTimestamp" in pod["metadata"]:
            continue
        containers = (pod.get("status") or {}).get("containerStatuses") or []
        server: Mapping[str, Any] = next((one for one in containers if one.get("name") == "vllm"), {})
        if server.get("ready"):
            ready.append(str(pod["metadata"]["name"]))
        elif server.get("started"):
            started.append(str(pod["metadata"]["name"]))
    return (min(ready), True) if ready else (min(started, default=None), False)


def _ask(app: AppContext, server: Server, items: Sequence[Golden]) -> tuple[dict[str, dict[str, int]], Source]:
    """Ask every item at temperature 0, one after the other, as the gateway does. Raises BootstrapError at the first
    that gives no verdict: half a baseline is none.
    """
    from judge_client import JudgeClient

    from judge_bootstrap.core.golden import Source

    said = _provenance(server)
    scores: dict[str, dict[str, int]] = {}
    provenance: Provenance | None = None
    model: str | None = said.get("served_name")
    with JudgeClient(server.base_url, model, server.key or "EMPTY", ANSWER_SECONDS) as judge:
        for item in items:
            verdict = judge.judge(item.question, item.answer)
            if verdict.status != "scored":
                raise BootstrapError(
                    f"{server.name} gave no verdict on golden answer {item.id}: {verdict.message}",
                    reason=_REASONS.get(str(verdict.reason), "VERDICT_INVALID"),
                    hint=f"judge-bootstrap --env {app.env} health --verbose")
            scores[item.id], provenance, model = dict(verdict.categories), verdict.provenance, verdict.model
            if not app.quiet:
                click.echo(f"{item.id}: overall {verdict.score} of 10", err=True)
    assert provenance is not None, "a golden file has an item at least"
    return scores, Source(
        repo_id=said.get("repo_id"), commit=said.get("commit") or provenance.model_commit, image=said.get("image"),
        served_name=model, prompt_sha256=provenance.prompt_sha256, rubric_sha256=provenance.rubric_sha256,
        at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))


def _provenance(server: Server) -> dict[str, str]:
    """Return what the gateway says of the judge behind it; {} where there is no gateway."""
    from judge_bootstrap.adapters.pod_http import get

    reply = get(f"{server.base_url}/judge/provenance", server.key)
    said = reply.json() if reply.status == 200 else None
    return {key: value for key, value in said.items() if isinstance(value, str)} if isinstance(said, dict) else {}


def _tell(app: AppContext, found: Compared, *, check: bool, changed: bool) -> None:
    from judge_bootstrap.core.golden import mixed_up

    source = found.after.accepted_from
    assert source is not None
    app.say(f"{len(found.scores)} golden answers, judged by {source.served_name} (commit {source.commit or 'unknown'})")
    for item in found.before.items:
        app.say(f"  {item.id}: {_scores_text(item.accepted, found.scores[item.id])}")
    if found.drift.mean is not None:
        app.say(_drift_text(found))
    for sentence in mixed_up(found.before.items, found.scores):
        app.warn(sentence)
    if not changed:
        app.say(f"{found.path}: nothing {'would change' if check else 'changed'}.")
    elif check:
        app.say(f"Would write {found.path}")
    else:
        app.say(f"Wrote {found.path}")
        app.say(f"Next: read it, commit it, and set vllm_k8s_golden_file: {found.path}")


def _scores_text(accepted: Mapping[str, int] | None, scores: Mapping[str, int]) -> str:
    """Return the scores of an item, those that moved as `8 -> 3`."""
    def one(name: str, score: int) -> str:
        moved = accepted is not None and accepted[name] != score
        return f"{name} {accepted[name]} -> {score}" if moved and accepted else f"{name} {score}"

    return ", ".join(one(name, score) for name, score in scores.items())


def _drift_text(found: Compared) -> str:
    return (f"the scores are {found.drift.mean:.2f} points from those accepted, on average (tolerance "
            f"{found.tolerance:g}); the furthest is {found.drift.worst}")


def _repair(app: AppContext, path: Path) -> str:
    return f"judge-bootstrap --env {app.env} models baseline --out {path}   # accepts the new scores; review them first"


def _as_json(app: AppContext, found: Compared, *, check: bool, changed: bool, failed: bool) -> dict[str, Any]:
    from judge_bootstrap.core.golden import mixed_up

    source = found.after.accepted_from
    assert source is not None
    return {
        "ok": not failed, "command": app.command, "env": app.env, "check": check, "changed": changed,
        "reason": DRIFTED if failed else None, "message": _drift_text(found) if failed else "",
        "repair": _repair(app, found.path) if failed else None, "file": str(found.path), "repo_id": source.repo_id,
        "commit": source.commit, "image": source.image, "served_name": source.served_name,
        "tolerance": found.tolerance, "drift": found.drift.mean, "worst": found.drift.worst,
        "mixed_up": mixed_up(found.before.items, found.scores),
        "items": [{"id": item.id, "expect": item.expect, "scores": dict(found.scores[item.id]),
                   "accepted_before": None if item.accepted is None else dict(item.accepted)}
                  for item in found.before.items]}
