"""`judge-bootstrap` (the whole site), `run` and `plan`."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from judge_bootstrap.cli.context import AppContext, global_options, nearest, pass_app
from judge_bootstrap.cli.options import RunOptions, check_options, run_options
from judge_bootstrap.content import content_root
from judge_bootstrap.core.errors import BootstrapError, UsageProblem
from judge_bootstrap.core.redact import is_secret_name

SITE = "site"
# Playbooks that a command of its own runs (`judge-bootstrap models`), with variables that `run` does not give.
INTERNAL = ("models", "stop_sync")
# How long an interrupted run may take to end the syncs that it started: the node gives each 10 s to stop by itself.
STOP_SECONDS = 30.0
# Playbooks that are not part of the site and want each host by its name -> why.
NAMED_HOSTS_ONLY = {"nvme_pod": "it runs a privileged pod on each node"}


def playbook_names(root: Path) -> list[str]:
    """Return the names of the content's playbooks that `run` takes, sorted."""
    return sorted(path.stem for path in (root / "playbooks").glob("*.yml") if path.stem not in INTERNAL)


def complete_playbook(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Tab completion of playbook names."""
    try:
        return [name for name in playbook_names(content_root()) if name.startswith(incomplete)]
    except BootstrapError:
        return []


@click.command()
@click.argument("playbooks", nargs=-1, required=True, metavar="PLAYBOOK...", shell_complete=complete_playbook)
@run_options
@check_options
@global_options
@pass_app
def run(app: AppContext, /, playbooks: tuple[str, ...], **options: Any) -> int:
    """Run single playbooks: one link of the chain, or a repair.

    The links are preflight, nvme, model_cache, vllm_k8s and verify; several run in the order they are given, and a
    host that fails in one is left out of the next. Each does only what is left to do.

    \b
    Examples:
      judge-bootstrap --env prod run nvme --limit i-0abc      mount one node's disk
      judge-bootstrap --env prod run model_cache -e model.id=org/name --limit i-0abc
      judge-bootstrap --env prod run verify                   is everything as it should be?
      judge-bootstrap --env prod run vllm_k8s --check --diff  what would it change?

    Not part of the chain: nvme_pod does what nvme does, in a privileged pod, on nodes that ssh does not reach. It wants
    each of them by name: judge-bootstrap --env prod run nvme_pod --limit i-0abc

    A token is never given with -e: it would be on the command line and in Ansible's files. Put it into a file on the
    node and name that with -e model_cache_token_file=/path, or give it to this program as HF_TOKEN.
    """
    return execute(app, "run", playbooks, RunOptions(**options))


@click.command()
@click.argument("playbooks", nargs=-1, metavar="[PLAYBOOK...]", shell_complete=complete_playbook)
@run_options
@global_options
@pass_app
def plan(app: AppContext, /, playbooks: tuple[str, ...], **options: Any) -> int:
    """Show what a run would change, without changing anything.

    It is `run --check --diff` of the whole site, or of the playbooks that you name. After a run that went well it
    lists nothing.

    \b
    Examples:
      judge-bootstrap --env prod plan
      judge-bootstrap --env prod plan nvme --limit i-0abc
    """
    return execute(app, "plan", playbooks or (SITE,), RunOptions(check=True, diff=True, **options))


def site(app: AppContext, options: RunOptions) -> int:
    """Run the whole chain: `judge-bootstrap --env ENV` without a command."""
    return execute(app, "site", (SITE,), options)


def execute(app: AppContext, command: str, playbooks: Sequence[str], options: RunOptions) -> int:
    """Run playbooks in an environment and show what it came to; return the exit code.

    Raises BootstrapError for what is wrong before the first task: nothing has been touched then.
    """
    from judge_bootstrap.cli import output

    done = perform(app, command, playbooks, options)
    steps = next_steps(done.env, done.settings, playbooks, done.result, lab=done.lab, variables=done.variables,
                       options=options)
    if app.json:
        app.emit(done.result.to_json(steps))
    output.recap(app, done.result, steps)
    return int(done.result.exit_code)


@dataclass(frozen=True)
class Performed:
    """A run that has ended: its RunResult, the settings it was made with, and what its hosts answered last."""

    env: str
    lab: bool
    settings: Any
    result: Any
    # host -> judge-node's last answer there, as it was printed
    answers: Mapping[str, Mapping[str, Any]]
    # The roles' variables, as files and flags have them: nothing is rendered.
    variables: Mapping[str, Any]


def perform(app: AppContext, command: str, playbooks: Sequence[str], options: RunOptions, *,
            variables: Mapping[str, Any] | None = None, words: str | None = None) -> Performed:
    """Run playbooks in an environment, showing progress.

    `variables` go to Ansible beside the settings, and are what a command gives that is not `run`; `words` is then how
    it was typed, for hints.

    Raises BootstrapError for what is wrong before the first task: nothing has been touched then.
    """
    import logging

    from judge_bootstrap.adapters import lock, processes
    from judge_bootstrap.adapters.runner import Event, PlaybookRun
    from judge_bootstrap.adapters.state import state_dir
    from judge_bootstrap.adapters.tags import check_tags
    from judge_bootstrap.cli import output
    from judge_bootstrap.cli.log import FILE_ONLY
    from judge_bootstrap.core.result import Collector
    from judge_bootstrap.core.syncs import Syncs

    app.command = command
    env = app.require_env()
    root = content_root()
    paths = resolve_playbooks(root, playbooks, internal=variables is not None)
    refuse_patterns(env, command, playbooks, options.limit)
    check_tags(root, paths, (options.tags, options.skip_tags))
    refuse_secrets(options.extra_vars)
    services = app.get_services()
    started = time.monotonic()
    run_id = new_run_id()

    def clean_up_after(dead: lock.Holder) -> None:
        app.warn(f"`{dead.command}` (run {dead.run_id}, pid {dead.pid}, started {dead.started}) ended without "
                 "finishing; this run goes on where it stopped")
        processes.end(dead.run_id)

    typed = words or f"{command} {' '.join(playbooks)}".strip()
    holder = lock.new_holder(run_id, f"judge-bootstrap {typed}")
    with lock.held(state_dir(env) / "lock", env, holder, on_stale=clean_up_after):
        environment = services.environment(env)
        if environment.provider == "lab":
            from judge_bootstrap.cli.lab import bring_up

            bring_up(app)
        settings = services.settings(environment, options.extra_vars)
        refuse_secrets_in(settings.passed_on)
        for warning in settings.warnings:
            app.warn(warning)
        hosts = services.hosts(environment, options.limit)
        refuse_patterns(env, command, playbooks, options.limit, hosts)
        request = PlaybookRun(
            run_id=run_id, content_root=root, playbooks=paths, inventory=environment.inventory_dir, limit=options.limit,
            tags=options.tags, skip_tags=options.skip_tags, check=options.check, diff=options.diff,
            extra_vars={**settings.extra_vars(), **(variables or {})}, forks=options.forks,
            verbosity=max(0, app.verbose - 1))
        collector = Collector(env, playbooks, hosts, check=options.check, again=words)
        syncs = Syncs()
        logger = logging.getLogger(FILE_ONLY)
        logger.info("run %s: %s in %s on %d hosts", run_id, holder.command, env, len(hosts))
        with output.progress(app, hosts) as progress:
            def on_event(event: Event) -> None:
                collector.add(event)
                syncs.add(event)
                progress.add(event)
                log_event(event)
                if options.diff and not options.check:
                    output.show_diff(app, event)

            ended = services.run_playbooks(request, on_event)
        beyond = stop_syncs(app, services, request, syncs.hosts) if ended.interrupted and not options.check else []
    result = conclude(collector, ended, command=command, run_id=run_id, check=options.check,
                      elapsed_seconds=time.monotonic() - started, beyond=beyond)
    logger.info("run %s ended with %d: %s", run_id, result.exit_code, result.to_json()["message"] or "everything holds")
    return Performed(env, environment.provider == "lab", settings, result, collector.last_answers(),
                     {**services.role_variables(environment), **settings.passed_on})


def stop_syncs(app: AppContext, services: Any, request: Any, hosts: Sequence[str]) -> list[str]:
    """End the syncs that an interrupted run started on its hosts; return the hosts on which that could not be done.

    A sync outlives its connection on purpose, and "interrupted" means that nothing is left running.
    """
    from dataclasses import replace

    if not hosts:
        return []
    app.warn(f"stopping the sync on {len(hosts)} host{'s' if len(hosts) > 1 else ''} "
             "(Ctrl-C again: leave it to end by itself)")
    stopped: set[str | None] = set()

    def on_event(event: Any) -> None:
        if event.kind == "runner_on_ok" and "judge" in event.result:
            stopped.add(event.host)

    services.run_playbooks(
        replace(request, playbooks=(request.content_root / "playbooks" / "stop_sync.yml",), limit=",".join(hosts),
                tags=None, skip_tags=None, diff=False, forks=min(len(hosts), 50), limit_seconds=STOP_SECONDS), on_event)
    return [host for host in hosts if host not in stopped]


def conclude(collector: Any, ended: Any, *, command: str, run_id: str, check: bool, elapsed_seconds: float,
             beyond: Sequence[str] = ()) -> Any:
    """Return the RunResult: what the hosts reported, and what went wrong beside them.

    `beyond`: hosts where an interrupted run could not stop its sync.
    """
    from judge_bootstrap.core.result import INTERRUPTED, RunResult, first_line

    collector.interrupted = ended.interrupted
    hosts = collector.outcomes()
    reason = hint = None
    message = ""
    if ended.interrupted:
        reason, message = INTERRUPTED, "interrupted; nothing is left running"
        if beyond:
            message = f"interrupted; the sync on {', '.join(beyond)} could not be stopped and ends by itself"
        hint = "run the same command again: it does only what is left"
    elif ended.rc != 0 and not collector.counts:
        # Ansible never got to its recap: a playbook or an inventory that it cannot read.
        complaint = next((first_line(text) for text in ended.complaints if "error" in text.lower()),
                         first_line(ended.complaints[-1]) if ended.complaints else "no reason was given")
        message = f"ansible-playbook ended with {ended.rc} before any host reported: {complaint}"
        hint = "the same command with -vv shows all that Ansible said"
    elif ended.rc != 0 and all(host.ok for host in hosts.values()):
        message = f"ansible-playbook ended with {ended.rc} though every host reported success"
        hint = "the same command with -vv shows all that Ansible said"
    elif ended.rc == 0 and collector.counts and not collector.did_anything:
        message = "no task ran: --tags and --skip-tags leave nothing to do"
        hint = "leave --tags and --skip-tags out, or name single links: judge-bootstrap run --help"
    return RunResult(command=command, env=collector.env, run_id=run_id, playbooks=collector.playbooks, check=check,
                     hosts=hosts, changes=tuple(collector.changes), reason=reason, message=message, hint=hint,
                     interrupted=ended.interrupted, elapsed_seconds=elapsed_seconds, verdict=collector.verdict,
                     roll=collector.roll)


def new_run_id() -> str:
    """Return a run id that sorts by time: 20261124-151233-3f9a1c."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + uuid.uuid4().hex[:6]


def resolve_playbooks(root: Path, names: Sequence[str], *, internal: bool = False) -> tuple[Path, ...]:
    """Return the playbooks' absolute paths; `internal`: also those that `run` does not take.

    Raises UsageProblem, with all names and the nearest, for an unknown one.
    """
    known = playbook_names(root) + (list(INTERNAL) if internal else [])
    for name in names:
        if name not in known:
            raise UsageProblem(f"unknown playbook {name!r} (known: {', '.join(known) or 'none'})",
                               hint=f"{nearest(name, known)}judge-bootstrap run --help")
    return tuple(root / "playbooks" / f"{name}.yml" for name in names)


def refuse_patterns(env: str, command: str, playbooks: Sequence[str], limit: str | None,
                    hosts: Sequence[str] | None = None) -> None:
    """Raise UsageProblem when a playbook wants its hosts named one by one, and --limit is left out or a pattern.

    `hosts`: what the limit matches, once the inventory has been asked.
    """
    for name in playbooks:
        if name not in NAMED_HOSTS_ONLY:
            continue
        named = {word.strip() for word in (limit or "").split(",")}
        if limit is None or (hosts is not None and named != set(hosts)):
            found = "no --limit" if limit is None else f"--limit {limit}, which is no list of hosts' names"
            raise UsageProblem(f"{name}: found {found}; wanted the hosts by name: {NAMED_HOSTS_ONLY[name]}",
                               hint=f"judge-bootstrap --env {env} {command} {name} --limit {(hosts or ['NODE'])[0]}")


def refuse_secrets(extra_vars: Sequence[str]) -> None:
    """Raise UsageProblem for an -e whose name says that its value is a secret: it would reach Ansible's files."""
    for text in extra_vars:
        # Every name that is assigned to, in all of Ansible's forms: name=value, {"name": value}, name: value.
        for name in re.findall(r"""([A-Za-z_][\w.]*)["']?\s*[=:]""", text if not text.startswith("@") else ""):
            _refuse_secret(name)


def refuse_secrets_in(variables: Mapping[str, Any]) -> None:
    """Raise UsageProblem for a variable, at any depth, whose name says that its value is a secret (`-e @FILE` too)."""
    for name, value in variables.items():
        if isinstance(value, Mapping):
            refuse_secrets_in(value)
        elif value is not None:
            _refuse_secret(str(name))


def _refuse_secret(name: str) -> None:
    if is_secret_name(name):
        raise UsageProblem(
            f"-e {name}=... would put a secret on the command line and into Ansible's files",
            hint="put it into a file on the node and name that: -e model_cache_token_file=/path; or export HF_TOKEN")


def log_event(event: Any) -> None:
    """Write one event to the log file: what changed or failed at INFO, the rest at DEBUG. People see progress."""
    import logging

    from judge_bootstrap.cli.log import FILE_ONLY
    from judge_bootstrap.cli.output import event_text, outcome_word

    word = outcome_word(event)
    if word is not None:
        level = logging.DEBUG if word in ("ok", "skipped") else logging.INFO
        logging.getLogger(FILE_ONLY).log(level, "%s %s %s %s", event.host, word, event.task, event_text(event))


def next_steps(env: str, settings: Any, playbooks: Sequence[str], result: Any, *, lab: bool,
               variables: Mapping[str, Any], options: RunOptions) -> list[str]:
    """Return how to go on after success: how to watch, reach and test the judge, or what is still to do."""
    if result.interrupted or not result.ok:
        return []
    if result.check:
        words = "" if tuple(playbooks) == (SITE,) else f" run {' '.join(playbooks)}"
        named = bool(NAMED_HOSTS_ONLY.keys() & set(playbooks))
        if named:
            words += f" --limit {','.join(result.hosts)}"
        # What is done must be what was planned: on the same hosts, with the same values.
        words += options.words(limit=not named)
        return [f"judge-bootstrap --env {env}{words}        do it"] if result.changes else []
    if not {SITE, "vllm_k8s", "verify"} & set(playbooks):
        return [f"judge-bootstrap --env {env}        the rest of the chain"]
    namespace, service = settings["kubernetes.namespace"], settings["kubernetes.service_name"]
    port = settings["vllm.port"]
    if lab and (url := os.environ.get("JUDGE_LAB_ENDPOINT_URL")):  # no Kubernetes there
        return [
            'first:     eval "$(judge-bootstrap lab env)"',
            'watch it:  tail -F "$JUDGE_LAB_DIR"/nodes/*/fs/var/log/pods/*.log',
            f'reach it:  curl --oauth2-bearer "$(cat "$JUDGE_LAB_DIR"/api-key)" {url}:{port}/v1/models',
            f"test it:   judge-bootstrap --env {env} run verify",
        ]
    curl = f"curl http://127.0.0.1:{port}/v1/models"
    key = []
    if secret := variables.get("vllm_k8s_api_key_secret_name", "judge-api-key"):
        curl = curl.replace("curl", 'curl --oauth2-bearer "$KEY"')
        get = f"kubectl -n {namespace} get secret {secret} -o jsonpath='{{.data.api-key}}'"
        key = [f"           KEY=$({get} | base64 -d)"]
    return [
        *(['first:     eval "$(judge-bootstrap lab env)"   # kubectl talks to the local environment'] if lab else []),
        f"watch it:  judge-bootstrap --env {env} health",
        f"           judge-bootstrap --env {env} logs -f",
        f"reach it:  kubectl -n {namespace} port-forward service/{service} {port}:{port}",
        f"           in the cluster: http://{service}.{namespace}.svc:{port}/v1, from where the label",
        "           judge-bootstrap.io/client=true is on the pod or its namespace",
        f"test it:   judge-bootstrap --env {env} run verify",
        f'           judge-bootstrap --env {env} judge score --prompt "2+2?" --response "4"',
        *key,
        f"           {curl}",
    ]
