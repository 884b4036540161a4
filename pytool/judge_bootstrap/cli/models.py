"""`judge-bootstrap models`: which model, from where, and what the nodes' stores hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from judge_bootstrap.cli.context import AppContext, global_options, pass_app
from judge_bootstrap.cli.options import host_options, variable_option

if TYPE_CHECKING:
    from judge_bootstrap.core.model_lock import LockChange

CHECK = click.option("--check", is_flag=True, help="Change nothing; say what would change.")
NODES_ONLY = click.option("--nodes-only", is_flag=True, help="Switch the nodes' branch alone; no pod moves.")


@click.group()
@global_options
def models() -> None:
    """Lock, mirror, list, check, update and remove the models on the nodes.

    `run model_cache` brings the model that the settings name. These commands are for what comes before it (which
    commit, from which mirror) and after it, on every GPU node of the environment or on those that --limit names.

    \b
    Examples:
      judge-bootstrap --env prod models list
      judge-bootstrap --env prod models lock --check       has the branch moved, and what would a node fetch?
      judge-bootstrap --env prod models mirror             fill the S3 mirror, once for all nodes
      judge-bootstrap --env prod models update             bring the new commit everywhere, then switch everywhere
      judge-bootstrap --env prod models rollback
      judge-bootstrap --env prod models prune --keep-free 20% --check
    """


@models.command()
@click.option("--out", metavar="FILE", help="Where to write it (default: model_cache_lock_file).")
@CHECK
@variable_option
@global_options
@pass_app
def lock(app: AppContext, out: str | None, check: bool, extra: tuple[str, ...]) -> int:
    """Resolve the model's revision on the Hub, and write what it means to a file.

    The lock file names the commit, every file with its size and hash, and its own digest; it is committed and reviewed.
    With model_cache_lock_file set to it, a run takes the manifest from there and asks no network which files make the
    model; a file that was edited by hand, or is of another model or revision than the settings name, is refused.

    It shows what changes against the file that is there, and what a node that has the old files will fetch.

    \b
    Examples:
      judge-bootstrap --env prod models lock --out inventory/prod.model.json
      judge-bootstrap --env prod models lock --check
      judge-bootstrap --env prod models lock -e model.revision=main
    """
    from judge_bootstrap.adapters.hub import resolve_model
    from judge_bootstrap.adapters.lock_file import load_lock, write_lock
    from judge_bootstrap.cli.model_settings import lock_place, read_model_settings
    from judge_bootstrap.core.errors import BootstrapError
    from judge_bootstrap.core.model_lock import compare, lock_text

    app.command = "models lock"
    settings = read_model_settings(app, extra)
    path = lock_place(settings, out)
    found = resolve_model(settings.repo_id, settings.revision, settings.endpoint,
                          allow_auto_map=settings.allow_auto_map).manifest
    before = None
    if path.exists():
        try:
            before = load_lock(path)
        except BootstrapError as error:
            app.warn(f"{error.message}; it is written anew")
    text, change = lock_text(found), compare(before, found)
    changed = not path.is_file() or path.read_bytes() != text.encode()
    if changed and not check:
        write_lock(path, text)
    if app.json:
        app.emit({
            "ok": True, "command": app.command, "env": app.env, "check": check, "changed": changed, "file": str(path),
            "repo_id": found["repo_id"], "revision": found["revision"], "commit": change.commit,
            "commit_before": change.commit_before, "digest": found["digest"],
            "quantization": found.get("quantization"), "files": len(found["files"]), "size_bytes": change.size_bytes,
            "fetch_bytes": change.fetch_bytes, "added_files": list(change.added),
            "changed_files": list(change.changed), "removed_files": list(change.removed)})
        return 0
    _say_lock(app, found, change)
    if not changed:
        app.say(f"{path}: nothing would change." if check else f"{path}: nothing changed.")
        return 0
    app.say(f"{'Would write' if check else 'Wrote'} {path}")
    if not check and not settings.lock_file:
        app.say(f"Next: commit it, and set model_cache_lock_file: {path}")
    elif not check:
        app.say(f"Next: commit it, then: judge-bootstrap --env {app.env} plan model_cache")
    return 0


def _say_lock(app: AppContext, manifest: dict[str, Any], change: LockChange) -> None:
    from judge_node.disks.facts import format_size

    declared = f", quantization {manifest['quantization']}" if manifest.get("quantization") else ""
    app.say(f"{manifest['repo_id']}: {manifest['revision']} is commit {manifest['commit']}, "
            f"{len(manifest['files'])} files, {format_size(change.size_bytes)}{declared}")
    for line in change.lines():
        app.say(f"  {line}")
    has = "the files of the old one" if change.commit_before else "nothing yet"
    app.say(f"  a node that has {has} fetches {format_size(change.fetch_bytes)}")


@models.command()
@click.option("--to", "to", metavar="s3://BUCKET/PREFIX", help="Where to (default: model_cache_mirror).")
@CHECK
@variable_option
@global_options
@pass_app
def mirror(app: AppContext, to: str | None, check: bool, extra: tuple[str, ...]) -> int:
    """Bring the model from the Hub into an S3 mirror, once for all nodes.

    What is there already is skipped; every file is checked against the manifest before its key exists; a command that
    was interrupted leaves no half-uploaded file, and the next one does what is left. AWS credentials are this
    machine's own; a token for a gated model is HF_TOKEN, or that of `hf auth login`.

    The nodes find the mirror through model_cache_sources; with an empty model_cache_hub_endpoint they ask nothing else.

    \b
    Examples:
      judge-bootstrap --env prod models mirror --to s3://acme-models/hub --check
      judge-bootstrap --env prod models mirror
    """
    import time

    from judge_node.cache.manifest import Manifest, parse
    from judge_node.cache.progress import progress_text
    from judge_node.disks.facts import format_size

    from judge_bootstrap.adapters.hub import hub_token, model_of
    from judge_bootstrap.adapters.lock import held, new_holder
    from judge_bootstrap.adapters.mirror import Mirror, Uploads, parse_target, s3_client
    from judge_bootstrap.adapters.state import state_dir
    from judge_bootstrap.cli.model_settings import as_bytes, read_model_settings
    from judge_bootstrap.cli.run import new_run_id
    from judge_bootstrap.core.errors import UsageProblem

    app.command = "models mirror"
    settings = read_model_settings(app, extra)
    named = to or settings.mirror
    if not named:
        raise UsageProblem("no mirror is named", hint="give --to s3://BUCKET/PREFIX, or set model_cache_mirror")
    target = parse_target(named)
    resolved = model_of(settings.repo_id, settings.revision, settings.endpoint, lock_file=settings.lock_file,
                        inventory_dir=settings.inventory_dir, allow_auto_map=settings.allow_auto_map)
    manifest: Manifest = parse(as_bytes(resolved.manifest))
    place = state_dir(settings.env)
    there = Mirror(s3_client(settings.region), target, manifest, Uploads(place / "mirror-uploads.json"))
    fetched = 0
    told = time.monotonic()

    def on_progress(progress: dict[str, Any]) -> None:
        nonlocal told
        if not app.quiet and time.monotonic() - told >= 2:
            told = time.monotonic()
            click.echo(f"{progress['files_done']} of {progress['files']} files, {progress_text(progress)}", err=True)

    with held(place / "mirror-lock", settings.env, new_holder(new_run_id(), f"judge-bootstrap {app.command}")):
        missing = there.missing()
        if not check:
            left = there.clean()
            if left:
                app.warn(f"ended {left} half-done uploads of a run that was killed")
            if missing.files and not settings.endpoint:
                raise UsageProblem("model_cache_hub_endpoint is empty, so there is nothing to fill the mirror from",
                                   hint="-e model_cache_hub_endpoint=https://huggingface.co")
            fetched = there.fill(missing, settings.endpoint, hub_token(), on_progress=on_progress)
    changed = bool(missing.files or missing.manifest)
    source = there.source_url()
    if app.json:
        app.emit({
            "ok": True, "command": app.command, "env": app.env, "check": check, "changed": changed,
            "mirror": str(target), "repo_id": manifest.repo_id, "revision": manifest.revision,
            "commit": manifest.commit, "digest": manifest.digest, "files": len(manifest.files),
            "missing_files": [file.path for file in missing.files], "upload_bytes": missing.size,
            "fetched_bytes": fetched, "source": source})
        return 0
    app.say(f"{manifest.repo_id}: {manifest.revision} is commit {manifest.commit}, {len(manifest.files)} files, "
            f"{format_size(manifest.size)}")
    if not changed:
        app.say(f"{target} has all of it.")
    else:
        verb = "Would bring" if check else "Brought"
        app.say(f"{verb} {len(missing.files)} files, {format_size(missing.size)}, into {target}")
    app.say(f"Nodes read it with model_cache_sources: [{source}]")
    return 0


@models.command("list")
@host_options
@global_options
@pass_app
def list_(app: AppContext, /, **options: Any) -> int:
    """Show which model is on which node: commit, size, complete or not, checked when, in use, why it is kept."""
    from judge_bootstrap.cli.fleet import fleet

    return fleet(app, "list", options)


@models.command()
@click.option("--deep", is_flag=True, help="Hash every byte, read from the disk (default: a quick check).")
@click.option("--limit-rate", metavar="SIZE", help="With --deep: bytes a second that each node reads at most, as 200M.")
@host_options
@global_options
@pass_app
def verify(app: AppContext, /, deep: bool, limit_rate: str | None, **options: Any) -> int:
    """Check on every node whether what its store vouches for is still so. Changes nothing that is served.

    Quick: links, sizes and the headers of the weights. With --deep every byte is hashed. What is found wrong is marked,
    so that no new pod is served from it; `run model_cache` repairs it.
    """
    from judge_bootstrap.cli.fleet import fleet

    return fleet(app, "verify", options, {"deep": deep, "limit_rate": limit_rate})


@models.command()
@click.option("--max-size", metavar="SIZE", help="Until the store is no bigger, such as 200G.")
@click.option("--keep-free", metavar="SIZE", help="Until so much of the filesystem is free: 50G, or 20%.")
@click.option("--unused-for", metavar="DAYS", help="All that nobody used for so many days.")
@CHECK
@host_options
@global_options
@pass_app
def prune(app: AppContext, /, max_size: str | None, keep_free: str | None, unused_for: str | None,
          **options: Any) -> int:
    """Make room on the nodes: remove what was used least recently.

    Never what is in use, pinned, current or previous; where a node cannot tell what is in use, it removes nothing.

    \b
    Examples:
      judge-bootstrap --env prod models prune --keep-free 20% --check
      judge-bootstrap --env prod models prune --unused-for 30 --limit i-0abc
    """
    from judge_bootstrap.cli.fleet import fleet
    from judge_bootstrap.core.errors import UsageProblem

    goals = {"max_size": max_size, "keep_free": keep_free, "unused_for": unused_for}
    given = {name: value for name, value in goals.items() if value is not None}
    if len(given) != 1:
        raise UsageProblem(f"found {len(given)} of --max-size, --keep-free and --unused-for, wanted one",
                           hint=f"judge-bootstrap --env {app.env or 'ENV'} models prune --keep-free 20% --check")
    return fleet(app, "prune", options, given)


@models.command()
@click.argument("model", metavar="REPO[@COMMIT]")
@click.option("--why", metavar="TEXT", help="What it is kept for; list shows it.")
@CHECK
@host_options
@global_options
@pass_app
def pin(app: AppContext, /, model: str, why: str | None, **options: Any) -> int:
    """Keep a model on the nodes: no prune and no rm removes it."""
    from judge_bootstrap.cli.fleet import fleet

    return fleet(app, "pin", options, {"why": why}, model=model)


@models.command()
@click.argument("model", metavar="REPO[@COMMIT]")
@CHECK
@host_options
@global_options
@pass_app
def unpin(app: AppContext, /, model: str, **options: Any) -> int:
    """Let a pinned model go again."""
    from judge_bootstrap.cli.fleet import fleet

    return fleet(app, "unpin", options, model=model)


@models.command()
@click.option("--canary", metavar="SHARE", help="So many replicas first, such as 25%; the others wait for them.")
@click.option("--bake", metavar="SPAN", help="With --canary: how long these must stay ready before the others follow.")
@NODES_ONLY
@CHECK
@host_options
@global_options
@pass_app
def update(app: AppContext, /, canary: str | None, bake: str | None, nodes_only: bool, **options: Any) -> int:
    """Bring the commit that the revision means now to all nodes, and move the pods to it, one replica at a time.

    Each node fetches and verifies the new files beside the old ones; only when every node has the whole of them do the
    pods move: the old replica goes, the new one comes in its place, and the next one waits until it serves the right
    commit and its golden answers hold. When one does not, all go back to the old commit by themselves and the command
    fails with the reason. At the end the nodes' branch points at the new commit.

    A command that was interrupted says where it stands; `models update` goes on, `models rollback` goes back.

    \b
    Examples:
      judge-bootstrap --env prod models update --check
      judge-bootstrap --env prod models update -e model.revision=main
      judge-bootstrap --env prod models update --canary 25% --bake 10m
    """
    from judge_bootstrap.cli.fleet import fleet, rolling_options

    return fleet(app, "update", options, rolling_options(app, canary, bake, nodes_only))


@models.command()
@click.argument("model", metavar="[REPO]", required=False)
@click.option("--revision", metavar="NAME", help="The branch that goes back (default: model.revision).")
@NODES_ONLY
@CHECK
@host_options
@global_options
@pass_app
def rollback(app: AppContext, /, model: str | None, revision: str | None, nodes_only: bool, **options: Any) -> int:
    """Bring the pods of the commit before back, just as they were, and point the nodes' branch at it.

    Without REPO it is the model of the settings; of another one only the nodes know. Nothing is fetched: the previous
    commit is kept until the next update. An update that was interrupted is taken back.
    """
    from judge_bootstrap.cli.fleet import fleet

    return fleet(app, "rollback", options, {"revision": revision, "nodes_only": nodes_only}, model=model)


@models.command()
@click.argument("model", metavar="REPO[@COMMIT]")
@click.option("--current", is_flag=True, help="Also when it is the one that the next pod would want.")
@CHECK
@host_options
@global_options
@pass_app
def rm(app: AppContext, /, model: str, current: bool, **options: Any) -> int:
    """Remove one model from the nodes, and the blobs that only it has. Never what is in use or pinned."""
    from judge_bootstrap.cli.fleet import fleet

    return fleet(app, "rm", options, {"current": current}, model=model)


@models.command()
@click.option("--out", metavar="FILE", help="The file of golden answers (default: vllm_k8s_golden_file).")
@click.option("--check", is_flag=True, help="Write nothing; fail when the scores are too far from those accepted.")
@variable_option
@global_options
@pass_app
def baseline(app: AppContext, out: str | None, check: bool, extra: tuple[str, ...]) -> int:
    """Ask the judge that runs now for its scores of the golden answers, and write them to a file.

    The file holds questions with answers that are clearly good or bad, and the scores that people accepted for them.
    Where it is not there yet it begins with eight that came with this program; more can be added by hand, with
    `"accepted": null`. Once it is reviewed and committed, and vllm_k8s_golden_file names it, a pod is ready only when
    it scores all of them as accepted, give or take vllm_k8s_golden_tolerance.

    With --check nothing is written, and the exit code is 1 (GOLDEN_DRIFT) when a pod would not become ready.

    \b
    Examples:
      judge-bootstrap --env prod models baseline --out inventory/prod.golden.json
      judge-bootstrap --env prod models baseline --check
    """
    from judge_bootstrap.cli import baseline as command

    return command.baseline(app, out, check, extra)


@models.command()
@click.argument("node", metavar="NODE")
@click.option("--model", metavar="REPO", help="Another model than that of the settings.")
@click.option("--revision", metavar="REV", help="Another revision: a commit, a branch or a tag.")
@variable_option
@global_options
@pass_app
def preload(app: AppContext, node: str, model: str | None, revision: str | None, extra: tuple[str, ...]) -> int:
    """Bring a model to one node through Kubernetes, where ssh does not reach it.

    NODE is the Node's name, its instance id or its address. The loader runs as a Job on that very node, is watched to
    its end, and removed afterwards, also on Ctrl-C. What is on the node already is not fetched again; what was fetched
    stays when it is stopped, and the next time does only what is left.

    For the model that the cluster's loaders are to have, the Node is marked as they mark it: from then on pods start
    there. For another model, and where no loader is installed, nothing is said on the Node.

    \b
    Examples:
      judge-bootstrap --env prod models preload i-0abc
      judge-bootstrap --env prod models preload ip-10-0-1-7.ec2.internal --model org/next-judge --revision main
    """
    from judge_bootstrap.cli.preload import preload as preload_on

    app.command = "models preload"
    return preload_on(app, node, model, revision, extra)
