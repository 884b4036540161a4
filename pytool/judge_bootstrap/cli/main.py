"""The entry point: global options, lazily loaded commands, and the one place that turns errors into exit codes."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from judge_bootstrap import __version__
from judge_bootstrap.cli.context import AppContext, global_options, pass_app
from judge_bootstrap.cli.options import RunOptions, check_options, run_options
from judge_bootstrap.core.errors import BootstrapError, ExitCode, UsageProblem

# name -> (module:attribute, first line of its help). The line stands here so that --help imports no command.
COMMANDS = {
    "run": ("judge_bootstrap.cli.run:run", "Run single playbooks: one link of the chain, or a repair."),
    "plan": ("judge_bootstrap.cli.run:plan", "Show what a run would change, without changing anything."),
    "render": ("judge_bootstrap.cli.render:render",
               "Write the Kubernetes manifests that `run vllm_k8s` would apply, one file an object."),
    "models": ("judge_bootstrap.cli.models:models",
               "Lock, mirror, list, check, update and remove the models on the nodes."),
    "secrets": ("judge_bootstrap.cli.secrets:secrets",
                "Bring the Hub token and the API key into the cluster, as Secrets."),
    "config": ("judge_bootstrap.cli.config:config",
               "Show the settings with their sources, and take over what Terraform made."),
    "doctor": ("judge_bootstrap.cli.doctor:doctor",
               "Check what a run needs: tools, AWS identity, AppConfig, inventory, cluster, GPU nodes."),
    "health": ("judge_bootstrap.cli.health:health",
               "Show the chain as it is now: nodes, model, pods, answers; and what is broken."),
    "warmup": ("judge_bootstrap.cli.warmup:warmup", "Send judge requests until the latency has settled."),
    "judge": ("judge_bootstrap.cli.judge:judge",
              "Have answers judged: one, two against each other, or a file of them; and check the judge itself."),
    "logs": ("judge_bootstrap.cli.logs:logs", "Show or follow the logs of the loader's and the server's pods."),
    "preflight": ("judge_bootstrap.cli.preflight:preflight",
                  "Check that the cluster has what a run needs, and that we may make it."),
    "lab": ("judge_bootstrap.cli.lab:lab", "Bring the local environment up or down, and drive its nodes."),
}


class LazyGroup(click.Group):
    """A group that imports a command only when it is asked for, and owns the process's exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, complete_var: str | None = None,
             standalone_mode: bool = True, **extra: Any) -> Any:
        """Run a command line; known errors become a line and an exit code, unknown ones keep their traceback."""
        words = list(sys.argv[1:] if args is None else args)
        app = extra.setdefault("obj", AppContext())
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            code = self._answer(words, app, prog_name=prog_name, complete_var=complete_var, **extra)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            # stdout may be what is full, so the error goes to stderr, with --json too.
            app.json = False
            _give_up_stdout()
            what = error.filename or "the output or a temporary file"
            code = app.fail(BootstrapError(f"no space left to write {what}", hint="df -h . /tmp /dev/shm"))
        sys.exit(int(code) if isinstance(code, int) else ExitCode.OK)

    def _answer(self, words: list[str], app: AppContext, **extra: Any) -> Any:
        """Run a command line and return its exit code, also for an error, which has been printed then."""
        try:
            return super().main(words, standalone_mode=False, **extra)
        except (BootstrapError, click.ClickException) as error:
            # An error may come before --json was parsed, so look for the word itself.
            app.json = app.json or "--json" in words
            return app.fail(error if isinstance(error, BootstrapError) else _usage_problem(error))
        except click.Abort:
            return app.fail(Interrupted("interrupted", reason="INTERRUPTED", hint="run the same command again"))
        except BrokenPipeError:
            # The reader (head, less) went away; a second error at shutdown would only confuse.
            sys.stderr.close()
            return ExitCode.FAILED


def _give_up_stdout() -> None:
    """Lead stdout nowhere: Python would try to write what is left in its buffer once more, and end with 120."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class Interrupted(BootstrapError):
    """Ctrl-C outside of a playbook: exit code 130."""

    exit_code = ExitCode.INTERRUPTED


def _usage_problem(error: click.ClickException) -> UsageProblem:
    path = getattr(getattr(error, "ctx", None), "command_path", None) or "judge-bootstrap"
    return UsageProblem(error.format_message(), hint=f"{path} --help")


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="judge-bootstrap", message="%(prog)s %(version)s")
@run_options
@check_options
@global_options
@pass_app
@click.pass_context
def cli(ctx: click.Context, app: AppContext, /, **options: Any) -> int | None:
    """Turn blank GPU nodes into a self-hosted LLM judge: disk, verified weights, serving pod, trusted verdict.

    Without a command the whole site runs: preflight, nvme, model_cache, vllm_k8s, verify. Running it again is
    safe: what already holds is left alone, and a run that was cut goes on where it stopped.

    \b
    Examples:
      judge-bootstrap --env local                     the whole chain on this machine, no AWS account needed
      judge-bootstrap --env prod plan                 what a run would change; changes nothing
      judge-bootstrap --env prod                      blank nodes to a judge that answers
      judge-bootstrap --env prod --limit i-0abc       the same for one node
      judge-bootstrap --env prod run nvme --limit i-0abc   repair one link on one node
      judge-bootstrap --env prod config show          which value comes from where

    \b
    Exit codes: 0 everything asked for holds, 1 a host or check failed, 2 wrong usage or configuration,
    3 refused for safety (disk with data, zero hosts, lock held), 130 interrupted, nothing left running.

    \b
    Variables: LOG_LEVEL (DEBUG, INFO, WARNING, ERROR), LOG_FILE (a log of the run, mode 0600), NO_COLOR,
    JUDGE_BOOTSTRAP_<SECTION>__<KEY> (a setting, such as JUDGE_BOOTSTRAP_VLLM__PORT=9000),
    JUDGE_API_KEY (the key of a judge that is named by its --url).
    """
    from judge_bootstrap.cli import log

    log.set_up(app.verbose)
    given = RunOptions(**options)
    if ctx.invoked_subcommand is not None:
        app.command = ctx.invoked_subcommand
        if given != RunOptions():
            # They would be lost without a word, and a run without its --limit is a run on every node.
            raise click.UsageError("options of a run stand after its command, not before it", ctx)
        return None
    app.command = "site"
    from judge_bootstrap.cli.run import site

    return site(app, given)


def main() -> NoReturn:
    """Console script `judge-bootstrap`."""
    cli.main(prog_name="judge-bootstrap")
    raise AssertionError("unreachable: cli.main() exits")
