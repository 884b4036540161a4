"""`judge-bootstrap render`: the manifests that a run would apply, as files, for GitOps and for reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from judge_bootstrap.cli.context import AppContext, global_options, pass_app


@click.command()
@click.option("--out", "out", required=True, metavar="DIR", help="A directory for these files alone; made when absent.")
@click.option("-e", "--extra-vars", "extra_vars", multiple=True, metavar="NAME=VALUE",
              help="A setting or variable as `run` takes it.")
@click.option("--check", is_flag=True, help="Write nothing; say what would be written.")
@click.option("--diff", is_flag=True, help="Show what each file changes.")
@global_options
@pass_app
def render(app: AppContext, /, out: str, **options: Any) -> int:
    """Write the Kubernetes manifests that `run vllm_k8s` would apply, one file an object.

    They are made of the same settings, inventory (the GPU decides arguments) and model, and every field is checked by
    name and type; no cluster is asked. Files of an earlier `render` that are not wanted any more go, all others in DIR
    stay. The Secret with the API key is not among them: `judge-bootstrap secrets apply` makes it, or your own tool does
    (key `api-key`).

    \b
    Examples:
      judge-bootstrap --env prod render --out deploy/judge
      judge-bootstrap --env prod render --out deploy/judge --check --diff     has anything changed?
      kubectl apply --server-side --field-manager judge-bootstrap -f deploy/judge
    """
    from judge_bootstrap.cli import output
    from judge_bootstrap.cli.options import RunOptions
    from judge_bootstrap.cli.run import perform

    directory = Path(out).expanduser().absolute()
    given = RunOptions(**options)
    done = perform(app, "render", ("vllm_k8s",), given, words=f"render --out {out}",
                   variables={"vllm_k8s_render_dir": str(directory)})
    steps = []
    if done.result.ok and not done.result.interrupted:
        again = f"judge-bootstrap --env {done.env} render --out {out}{given.words()}        write them"
        send = f"kubectl apply --server-side --field-manager judge-bootstrap -f {directory}"
        steps = [again if options["check"] and done.result.changes else send]
    if app.json:
        app.emit({**done.result.to_json(steps), "directory": str(directory)})
    output.recap(app, done.result, steps)
    return int(done.result.exit_code)
