"""`judge-bootstrap secrets`: the Hub token of the loader and the API key of the judge, as Secrets of the cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from judge_bootstrap.cli.context import AppContext, global_options, pass_app
from judge_bootstrap.cli.options import variable_option
from judge_bootstrap.core.errors import BootstrapError, UsageProblem

if TYPE_CHECKING:
    from judge_bootstrap.cli.cluster_settings import ClusterSettings

# No token is longer (kube_secrets.LONGEST): what a pipe brings beyond it is some other file.
_READ_CHARACTERS = 65_536


def _read_aws_secret(region: str, name: str) -> str:
    from judge_bootstrap.adapters.aws import read_secret

    return read_secret(region, name)


@dataclass(frozen=True)
class World:
    """The outside worlds that `secrets` asks; tests give their own."""

    connect: Callable[[ClusterSettings], Any] = lambda settings: settings.connect()
    aws_secret: Callable[[str, str], str] = _read_aws_secret


@click.group()
@global_options
def secrets() -> None:
    """Bring the Hub token and the API key into the cluster, as Secrets.

    \b
    Examples:
      HF_TOKEN=$(cat token) judge-bootstrap --env prod secrets apply
      judge-bootstrap --env prod secrets apply --from aws --secret-id hf-token
      judge-bootstrap --env prod secrets apply --rotate-api-key
    """


@secrets.command()
@click.option("--from", "source", type=click.Choice(["env", "stdin", "aws"]), default=None,
              help="Where the Hub token comes from: HF_TOKEN, stdin, or AWS Secrets Manager (default: env, where it is "
                   "set; else only the API key is seen to).")
@click.option("--secret-id", metavar="NAME", help="With --from aws: name or ARN of the secret.")
@click.option("--rotate-api-key", is_flag=True, help="Make a new API key; the old one is served until the next time.")
@click.option("--check", is_flag=True, help="Change nothing; say what would change.")
@variable_option
@global_options
@pass_app
def apply(app: AppContext, source: str | None, secret_id: str | None, rotate_api_key: bool, check: bool,
          extra: tuple[str, ...]) -> int:
    """Put the Hub token into the loader's namespace, and make the API key where there is none.

    The token goes into the Secret vllm_k8s_hf_secret_name (key `token`) of the loader's namespace, which is made where
    it is missing. Only the loader reads it, and only with vllm_k8s_loader_gated_model; the serving pods get none. The
    API key is random and goes into vllm_k8s_api_key_secret_name (key `api-key`) of the serving namespace.

    Neither is ever shown, nor on a command line, nor in an annotation. A Secret of that name that somebody else made is
    refused and left alone. Doing it again changes nothing.

    \b
    Examples:
      judge-bootstrap --env prod secrets apply --from stdin < token
      judge-bootstrap --env prod secrets apply --check
    """
    from judge_bootstrap.cli.cluster_settings import read_cluster_settings

    app.command = "secrets apply"
    if (source == "aws") != (secret_id is not None):
        raise UsageProblem("--from aws and --secret-id belong together", hint="--from aws --secret-id NAME")
    settings = read_cluster_settings(app, extra)
    world: World = app.extra.get("secrets") or World()
    token = _token(app, source, secret_id, settings, world)
    done = put(settings, world.connect(settings), token, rotate=rotate_api_key, check=check)
    changed = sum(item["action"] != "unchanged" for item in done)
    if app.json:
        app.emit({"ok": True, "command": app.command, "env": app.env, "check": check, "changed": changed,
                  "secrets": done})
        return 0
    would = "would be " if check else ""
    for item in done:
        said = "unchanged" if item["action"] == "unchanged" else f"{would}{item['action']}"
        app.say(f"Secret {item['secret']} ({item['what']}): {said}")
    if token is None and settings.loader_use_token:
        app.warn("no Hub token was given, and the loader wants one (vllm_k8s_loader_gated_model); set HF_TOKEN")
    if token is not None and not (settings.loader and settings.loader_use_token):
        app.warn("nothing reads the Hub token: the loader is not told to use it (vllm_k8s_loader_gated_model is false)")
    if rotate_api_key and not check:
        app.say("Clients that have the key before are served until the next rotation. The pods see the new one within "
                "a minute or two.")
    return 0


def put(settings: ClusterSettings, api_client: Any, token: str | None, *, rotate: bool,
        check: bool) -> list[dict[str, str]]:
    """See to both Secrets; return {"secret", "what", "action"} of each. `token` None leaves the token's alone.

    Nothing is written when one of them would be refused. Raises BootstrapError.
    """
    from judge_bootstrap.adapters import kube_secrets

    done = []
    place = settings.loader_namespace, settings.hf_secret_name
    key_place = settings.namespace, settings.api_key_secret_name
    labels = settings.labels("judge-inference")

    def put_token(check: bool) -> str:
        return kube_secrets.put_token(api_client, *place, str(token), labels=settings.labels("judge-loader"),
                                      within=settings.loader_namespace_object(), check=check)

    def put_key(name: str, check: bool) -> str:
        given: Mapping[str, Any] = {"labels": labels, "within": settings.namespace_object(), "check": check}
        if rotate:
            return kube_secrets.rotate_api_key(api_client, settings.namespace, name, **given)
        made = kube_secrets.ensure_api_key(api_client, settings.namespace, name, **given)
        return "created" if made else "unchanged"

    if rotate and key_place[1] is None:
        raise UsageProblem("vllm_k8s_api_key_secret_name is null: this judge has no API key to rotate",
                           hint="-e vllm_k8s_api_key_secret_name=NAME")
    # What the second would refuse must not come after the first was written.
    if key_place[1] is not None and not check and token is not None:
        put_key(key_place[1], check=True)
    if token is not None:
        done.append({"secret": "/".join(place), "what": "Hub token", "action": put_token(check)})
    if key_place[1] is not None:
        done.append({"secret": f"{key_place[0]}/{key_place[1]}", "what": "API key",
                     "action": put_key(key_place[1], check)})
    return done


def _token(app: AppContext, source: str | None, secret_id: str | None, settings: ClusterSettings,
           world: World) -> str | None:
    """Return the Hub token; None where none was asked for and none is set. Raises BootstrapError, never showing it."""
    from judge_bootstrap.adapters.kube_secrets import checked

    if source in ("env", None):
        given = os.environ.get("HF_TOKEN")
        if given is None:
            if source is None:
                return None
            raise UsageProblem("HF_TOKEN is not set", hint="export HF_TOKEN, or --from stdin, or: "
                                                            "--from aws --secret-id NAME")
        return checked(given, "HF_TOKEN")
    if source == "stdin":
        if sys.stdin.isatty():
            raise UsageProblem("stdin is a terminal, wanted the token from a pipe or a file",
                               hint=f"judge-bootstrap --env {app.env} secrets apply --from stdin < FILE")
        try:
            return checked(sys.stdin.read(_READ_CHARACTERS), "what stdin holds")
        except UnicodeDecodeError as error:
            raise BootstrapError("what stdin holds is no text, wanted a token in one line", reason="TOKEN_UNAVAILABLE",
                                 hint="give the file that holds the token alone") from error
    return _token_of_aws(str(secret_id), settings.region, world)


def _token_of_aws(name: str, region: str, world: World) -> str:
    from judge_node.cache.tokens import token_in
    from judge_node.result import NodeError

    from judge_bootstrap.adapters.aws import AwsUnavailable
    from judge_bootstrap.core.redact import SECRET_SHAPE

    if SECRET_SHAPE.search(name):
        raise UsageProblem("--secret-id looks like a token itself, wanted the name of what holds it",
                           hint="revoke that token, which is in the shell's history now; then give a name or an ARN")
    try:
        # As a node reads it: the token itself, or an object with HF_TOKEN, hf_token or token in it.
        return token_in(world.aws_secret(region, name), f"AWS secret {name}")
    except AwsUnavailable as error:
        raise BootstrapError(f"AWS Secrets Manager in {region} gives no secret {name}: {error}",
                             reason="TOKEN_UNAVAILABLE",
                             hint=f"aws secretsmanager describe-secret --region {region} --secret-id {name}") from error
    except NodeError as error:
        raise BootstrapError(error.message, reason=error.reason, hint=error.repair) from error
