"""The `models` commands that ask every node: one run of playbooks/models.yml, shown as a table of hosts and models."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.cli.options import RunOptions

# The verbs that move pods.
ROLLING = ("update", "rollback")
_HEAD = ("host", "model", "commit", "state", "size", "revision", "checked", "in use", "kept")


def fleet(app: AppContext, verb: str, options: Mapping[str, Any], given: Mapping[str, Any] | None = None, *,
          model: str | None = None) -> int:
    """Run one verb of `judge-node cache` on the hosts, and show what it came to; return the exit code.

    `options`: limit, extra_vars, forks and check, as click has them; `given`: the verb's own.
    """
    from judge_bootstrap.cli import output
    from judge_bootstrap.cli.run import perform
    from judge_bootstrap.core.result import first_line

    own = {name: value for name, value in (given or {}).items() if value not in (None, False)}
    check = bool(options.get("check"))
    words = _typed(verb, model, own)
    run_options = RunOptions(limit=options["limit"], extra_vars=options["extra_vars"], forks=options["forks"],
                             check=check, diff=check)
    told = {**own, **({"model": model} if model else {})}
    if bake := told.pop("bake", None):
        told["bake_seconds"] = bake_seconds(bake)
    done = perform(app, f"models {verb}", ("models",), run_options, words=words,
                   variables={"models_verb": verb, "models_options": told})
    result = done.result
    if verb == "update" and not check:
        again = f"judge-bootstrap --env {done.env} {words}"
        result = replace(result, hosts=_switched(result.hosts, done.answers, again))
    if result.interrupted and verb in ROLLING and not check and not own.get("nodes_only"):
        _say_where_it_stands(app, options["extra_vars"])
    steps = _next_steps(done.env, verb, words, run_options, result)
    if app.json:
        answer = result.to_json(steps)
        for host, found in answer["hosts"].items():
            found["facts"] = dict(done.answers.get(host, {}).get("facts") or {})
        app.emit(answer)
    elif verb == "list" and not app.quiet:
        output.show_rows(app, _HEAD, model_rows(done.answers, time.time()))
    elif result.roll:
        for line in roll_lines(result.roll):
            app.say(line)
    # What a node says in many lines is in the table above, or in its own log.
    hosts = {name: replace(host, message=first_line(host.message)) for name, host in result.hosts.items()}
    output.recap(app, replace(result, hosts=hosts, playbooks=(f"models {verb}",)), steps)
    return int(result.exit_code)


def rolling_options(app: AppContext, canary: str | None, bake: str | None, nodes_only: bool) -> dict[str, Any]:
    """Return what an update says about the pods. Raises UsageProblem for what does not go together."""
    from judge_bootstrap.core.errors import UsageProblem
    from judge_bootstrap.core.model_roll import canary_count

    again = f"judge-bootstrap --env {app.env or 'ENV'} models update --canary 25% --bake 10m"
    if bake is not None and canary is None:
        raise UsageProblem("found --bake without --canary, wanted both", hint=again)
    if canary is not None and nodes_only:
        raise UsageProblem("found --canary and --nodes-only, wanted one: no pod moves", hint=again)
    if canary is not None:
        canary_count(canary, 1)
    if bake is not None:
        bake_seconds(bake)
    return {"canary": canary, "bake": bake, "nodes_only": nodes_only}


def bake_seconds(bake: str) -> int:
    """Return the seconds of 30s, 10m or 1h30m. Raises UsageProblem."""
    from judge_bootstrap.cli.logs import span_seconds
    from judge_bootstrap.core.errors import UsageProblem
    from judge_bootstrap.core.problems import shown

    try:
        return span_seconds(bake)
    except UsageProblem:
        raise UsageProblem(f"--bake is {shown(bake)}, wanted a span such as 30s, 10m or 1h30m",
                           hint="--bake 10m") from None


def _say_where_it_stands(app: AppContext, extra: Sequence[str]) -> None:
    """Tell what an interrupted update or rollback has left in the cluster, as far as that can be read."""
    from judge_bootstrap.adapters.roll_cluster import KubernetesRollCluster
    from judge_bootstrap.adapters.roll_state import Place, unfinished_text
    from judge_bootstrap.cli.cluster_settings import read_cluster_settings
    from judge_bootstrap.core.errors import BootstrapError

    go_on = f"judge-bootstrap --env {app.env} models update goes on, models rollback goes back"
    try:
        settings = read_cluster_settings(app, extra)
        if settings.render_dir:
            return
        text = unfinished_text(KubernetesRollCluster(settings.connect()),
                               Place(settings.namespace, settings.service_name))
    except BootstrapError as error:
        text = f"where the pods stand cannot be read: {error.message}"
    if text:
        app.warn(f"{text}; {go_on}")


def _switched(hosts: Mapping[str, Any], answers: Mapping[str, Mapping[str, Any]], again: str) -> dict[str, Any]:
    """Return the outcomes of an update: a host that got the new files and was not switched does not hold.

    `again`: the command as it was typed, hosts aside. Ansible counts no failure for a host that it stopped because of
    another one.
    """
    failed = ", ".join(name for name, host in hosts.items() if not host.ok)
    found = {}
    for name, host in hosts.items():
        answer = answers.get(name, {})
        facts = answer.get("facts") or {}
        # A revision that is the commit has no branch to switch.
        waits = answer.get("command") != "cache update" and facts.get("revision") != facts.get("commit")
        if host.ok and failed and waits:
            found[name] = replace(host, ok=False, reason="MODEL_STALE", repair=again,
                                  message=f"has the new files and was not switched, because of {failed}")
        else:
            # The command for one host alone would switch it alone.
            alone = host.repair == f"{again} --limit {name}"
            found[name] = replace(host, repair=again) if alone else host
    return found


def _typed(verb: str, model: str | None, given: Mapping[str, Any]) -> str:
    """Return the command as it is typed, hosts aside."""
    words = ["models", verb, *([model] if model else [])]
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        words += [option] if value is True else [option, str(value)]
    return shlex.join(words)


def _next_steps(env: str, verb: str, words: str, options: RunOptions, result: Any) -> list[str]:
    if result.interrupted or not result.ok or not result.changes:
        return []
    if result.check:
        return [f"judge-bootstrap --env {env} {words}{options.words()}        do it"]
    # Pods that were moved serve it already.
    serve = (f"judge-bootstrap --env {env} run verify        prove it, link by link" if result.roll
             else f"judge-bootstrap --env {env} run vllm_k8s        have the pods serve it")
    if verb == "update":
        return [serve, f"judge-bootstrap --env {env} models rollback        back to the one before"]
    if verb == "rollback":
        return [f"set model.revision to the commit that `judge-bootstrap --env {env} models list` shows, else the next "
                "run goes forward again", serve]
    return []


def roll_lines(roll: Mapping[str, Any]) -> list[str]:
    """Return what became of the pods, a line each, for people."""
    lines = [f"pods: {str(roll['from'])[:12]} -> {str(roll['to'])[:12]}, {str(roll['outcome']).replace('_', ' ')}, "
             f"{len(roll['replicas'])} new ones asked of {roll['wanted']}"]
    for one in roll["replicas"]:
        if one["golden_drift"] is not None:
            golden = f"{one['golden_items']} golden answers, {one['golden_drift']:g} points from what was accepted"
        else:
            golden = f"{one['golden_items']} golden answers" if one["asked"] else "not to be reached from here"
        lines.append(f"  {one['pod']} on {one['node']}: {'ready' if one['ready'] else one['reason'] or 'not ready'}, "
                     f"{golden}")
    return lines


def model_rows(answers: Mapping[str, Mapping[str, Any]], now: float) -> list[tuple[str, ...]]:
    """Return a row for each model on each host, hosts in order; a host with none has one row that says so."""
    rows = []
    for host, answer in sorted(answers.items()):
        facts = answer.get("facts") or {}
        models = facts.get("models") or []
        rows += [_row(host, model, now) for model in models if isinstance(model, Mapping)]
        if answer.get("ok") and not models:
            rows.append((host, "(none)", *["-"] * (len(_HEAD) - 2)))
    return rows


def _row(host: str, model: Mapping[str, Any], now: float) -> tuple[str, ...]:
    from judge_node.disks.facts import format_size

    revisions = [*(model.get("revisions") or []), *(f"({name})" for name in model.get("previous_of") or [])]
    users = model.get("in_use_by")
    return (host, str(model.get("repo_id")), str(model.get("commit"))[:12], str(model.get("state")),
            format_size(int(model.get("size_on_disk") or 0)), ", ".join(map(str, revisions)) or "-",
            _checked(model, now), "?" if users is None else f"by {len(users)}" if users else "no",
            str(model.get("kept") or "-").split(":")[0])


def _checked(model: Mapping[str, Any], now: float) -> str:
    """Return when the model was last checked, and how."""
    from judge_node.cache.times import format_age

    found = [(float(model[key]), word) for key, word in (("quick_at", "quick"), ("deep_at", "deep")) if model.get(key)]
    if not found:
        return "never"
    at, word = max(found)
    return f"{format_age(max(0.0, now - at))} ago, {word}"
