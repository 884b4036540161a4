"""`judge-bootstrap models preload`: the loader as a Job on one node, watched to its end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.core.errors import ExitCode, UsageProblem

if TYPE_CHECKING:
    from judge_bootstrap.adapters.preload_manifests import Preload
    from judge_bootstrap.cli.cluster_settings import ClusterSettings
    from judge_bootstrap.cli.model_settings import ModelSettings

_FETCHING = ("model_cache_sources", "model_cache_connections", "model_cache_limit_rate")


def _resolve(settings: ModelSettings) -> dict[str, Any]:
    from judge_bootstrap.adapters.hub import model_of

    return model_of(settings.repo_id, settings.revision, settings.endpoint, lock_file=settings.lock_file,
                    inventory_dir=settings.inventory_dir, allow_auto_map=settings.allow_auto_map).manifest


def _run(*given: Any, **options: Any) -> dict[str, Any]:
    from judge_bootstrap.adapters.preload_job import run

    return run(*given, **options)


@dataclass(frozen=True)
class World:
    """The outside worlds that preload asks; tests give their own."""

    connect: Callable[[ClusterSettings], Any] = lambda settings: settings.connect()
    resolve: Callable[[ModelSettings], dict[str, Any]] = _resolve
    run: Callable[..., dict[str, Any]] = _run


def preload(app: AppContext, word: str, model: str | None, revision: str | None, extra: Sequence[str]) -> int:
    """Bring the model to the node that `word` names; return the exit code. Raises BootstrapError."""
    from judge_bootstrap.adapters.preload_job import find_node
    from judge_bootstrap.cli.cluster_settings import read_cluster_and_model
    from judge_bootstrap.core.redact import redactor

    settings, wanted = read_cluster_and_model(app, extra)
    if model or revision:
        # A lock file is of the model in the settings; what is asked for here is asked of the Hub.
        wanted = replace(wanted, repo_id=model or wanted.repo_id, revision=revision or ("main" if model else
                                                                                       wanted.revision), lock_file=None)
    world: World = app.extra.get("preload") or World()
    api_client = world.connect(settings)
    node = find_node(api_client, word)
    manifest = world.resolve(wanted)
    request = request_of(app, settings, wanted, manifest, node, api_client)
    name = request.node

    def show(line: str) -> None:
        if not app.quiet:
            click.echo(redactor().clean(f"{name}: {line}"), err=True)

    started = time.monotonic()
    if not app.quiet:
        click.echo(f"{name}: bringing {manifest['repo_id']} at {manifest['commit'][:12]} (Job "
                   f"{request.namespace}/{request.name})", err=True)
    answer = world.run(api_client, request, node, settings.loader_namespace_object(), on_line=show, warn=app.warn)
    return _say(app, request, answer, time.monotonic() - started)


def request_of(app: AppContext, settings: ClusterSettings, wanted: ModelSettings, manifest: Mapping[str, Any],
               node: Mapping[str, Any], api_client: Any) -> Preload:
    """Return what is to be done. The Node is marked only for what the cluster's loaders are to have, too."""
    from judge_bootstrap.adapters.lock import new_holder
    from judge_bootstrap.adapters.preload_job import fleet_manifests
    from judge_bootstrap.adapters.preload_manifests import Preload
    from judge_bootstrap.cli.run import new_run_id

    fetching = app.get_services().render(settings.variables, _FETCHING, settings.inventory_dir)
    fleet = fleet_manifests(api_client, settings.loader_namespace)
    # Of another model nothing may be said: the labels of what is served would go.
    report = fleet is not None and _commit(fleet.get("wanted.json")) == manifest["commit"]
    run_id = new_run_id()
    holder = new_holder(run_id, f"judge-bootstrap {app.command}")
    return Preload(
        node=node["metadata"]["name"], namespace=settings.loader_namespace, image=settings.image,
        store=settings.model_cache_dir, manifest=manifest, endpoint=wanted.endpoint, labels=settings.labels(
            "judge-preload"), run=run_id, by=f"{holder.user}@{holder.host}", report=report,
        beside={name: text for name, text in (fleet or {}).items() if name != "wanted.json"} if report else {},
        taint=settings.node_taint, sources=_texts("model_cache_sources", fetching.get("model_cache_sources")),
        connections=_connections(fetching.get("model_cache_connections")),
        limit_rate=str(fetching.get("model_cache_limit_rate") or "") or None,
        token_secret=settings.hf_secret_name if settings.loader_use_token else None)


def _commit(manifest: str | None) -> str | None:
    try:
        found = json.loads(manifest or "{}")
    except ValueError:
        return None
    return found.get("commit") if isinstance(found, dict) else None


def _connections(value: Any) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 64):
        raise UsageProblem(f"model_cache_connections is {text!r}, wanted a number from 1 to 64",
                           hint="-e model_cache_connections=8")
    return int(text)


def _texts(name: str, value: Any) -> list[str]:
    if value in (None, ""):
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UsageProblem(f"{name} is no list of texts", hint=f"""-e '{{"{name}": ["s3://BUCKET/PREFIX"]}}'""")
    return value


def _say(app: AppContext, request: Preload, answer: Mapping[str, Any], seconds: float) -> int:
    from judge_bootstrap.core.health_nodes import repair_of_model
    from judge_bootstrap.core.redact import redactor

    ok = bool(answer.get("ok"))
    reason, message = answer.get("reason"), str(answer.get("message") or "")
    repair = answer.get("repair") or (None if ok else repair_of_model(str(reason or ""), request.node, str(app.env)))
    code = ExitCode.OK if ok else ExitCode.FAILED
    said = {"ok": ok, "changed": bool(answer.get("changed")), "state": answer.get("state"), "reason": reason,
            "message": message, "repair": repair}
    if app.json:
        app.emit({**said, "command": app.command, "env": app.env, "run_id": request.run, "node": request.node,
                  "repo_id": request.manifest["repo_id"], "revision": request.manifest.get("revision"),
                  "commit": request.manifest["commit"], "reported": request.report, "hosts": {request.node: said},
                  "elapsed_seconds": round(seconds, 1)})
    elif ok:
        app.say(f"{request.node}: {message} ({seconds:.0f} s)")
        if not request.report:
            app.say("Nothing was said on the Node: no loader of the cluster is to have this commit. Next: "
                    f"judge-bootstrap --env {app.env} run vllm_k8s")
    else:
        click.echo(redactor().clean(f"Error: {request.node}: {f'{reason}: ' if reason else ''}{message}"), err=True)
        click.echo(redactor().clean(f"Hint: {repair}"), err=True)
    return int(code)
