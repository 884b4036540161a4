"""Which server judges, for every verb of `judge`: a URL, or the pods of an environment through the cluster.

    @server_options
    def score(app, server, ...):
        with open_judge(app, server) as judge, judge.client() as client:
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from judge_bootstrap.cli.options import variable_option
from judge_bootstrap.core.errors import BootstrapError, ExitCode, Refusal, UsageProblem

if TYPE_CHECKING:
    from judge_client import AsyncJudgeClient, JudgeClient, Rubric
    from judge_client.errors import InputProblem

    from judge_bootstrap.cli.context import AppContext

TIMEOUT_SECONDS = 60.0
KEY_VARIABLE = "JUDGE_API_KEY"
# What servers without keys are sent. Never None: the client would take the environment's key, also for other servers.
NO_KEY = "EMPTY"
_ENDPOINT = ("vllm_k8s_endpoint_url", "vllm_k8s_endpoint_key_file")

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


@dataclass(frozen=True)
class ServerChoice:
    """What the options say about the server. `extra` holds what followed each -e."""

    url: str | None = None
    model: str | None = None
    api_key_file: str | None = None
    rubric: str | None = None
    timeout_seconds: float = TIMEOUT_SECONDS
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class OpenJudge:
    """A judge that can be asked at `base_url` (without /v1). `env` None: it was given by its URL.

    `model` None: the only one that it serves. `api_key` is what to send, EMPTY where no key is wanted.
    """

    base_url: str
    model: str | None
    api_key: str = field(repr=False)
    rubric: Rubric
    timeout_seconds: float
    env: str | None = None

    def client(self, **options: Any) -> JudgeClient:
        """Return a client of it; `options` are those of JudgeClient."""
        from judge_client import JudgeClient

        return JudgeClient(**self._options(), **options)

    def async_client(self, **options: Any) -> AsyncJudgeClient:
        """Return a client for asyncio; `options` are those of AsyncJudgeClient."""
        from judge_client.async_client import AsyncJudgeClient

        return AsyncJudgeClient(**self._options(), **options)

    def _options(self) -> dict[str, Any]:
        from judge_client.judging import Policy

        return {"base_url": self.base_url, "model": self.model, "api_key": self.api_key, "rubric": self.rubric,
                "timeout_seconds": self.timeout_seconds,
                # A server that is given long to answer must be given the time to do so.
                "deadline_seconds": max(Policy.deadline_seconds, self.timeout_seconds)}


def server_options(function: Decorated) -> Decorated:
    """Add the options of the server, which come as one `server: ServerChoice`."""
    @wraps(function)
    def with_server(*args: Any, url: str | None, model: str | None, api_key_file: str | None, rubric: str | None,
                    timeout_seconds: float, extra: tuple[str, ...], **options: Any) -> Any:
        choice = ServerChoice(url, model, api_key_file, rubric, timeout_seconds, extra)
        return function(*args, server=choice, **options)

    decorated: Any = with_server
    for option in reversed([
        click.option("--url", metavar="URL", help="The judge: any server with OpenAI's API, such as "
                                                  "http://127.0.0.1:8000 (else that of --env)."),
        click.option("--model", metavar="NAME", help="The model that judges (default: the one that is served)."),
        click.option("--api-key-file", metavar="FILE", help="File whose first line is the API key (default: the "
                                                            "variable JUDGE_API_KEY; with --env its Secret)."),
        click.option("--rubric", metavar="FILE", help="What is judged: a rubric in JSON or TOML (default: our own)."),
        click.option("--timeout", "timeout_seconds", type=click.FloatRange(0, 86_400, min_open=True), metavar="SECONDS",
                     default=TIMEOUT_SECONDS, show_default=True, help="How long one answer of the server may take."),
        variable_option,
    ]):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


@contextmanager
def open_judge(app: AppContext, server: ServerChoice) -> Iterator[OpenJudge]:
    """Yield the judge that the options name; nothing was asked of it yet, but its cluster.

    Raises UsageProblem when no server is named, BootstrapError when the environment's cannot be reached.
    """
    rubric = _rubric(server.rubric)
    if server.url is not None:
        url = checked_url(server.url)
        key = _key_in(server.api_key_file) or os.environ.get(KEY_VARIABLE) or NO_KEY
        yield OpenJudge(url, server.model, key, rubric, server.timeout_seconds)
        return
    if app.env is None:
        raise UsageProblem("nothing says which server judges",
                           hint="add --url http://HOST:PORT (any server with OpenAI's API), or --env ENV for the judge "
                                "of an environment")
    with _judge_of_environment(app, server) as (base_url, model, found):
        key = _key_in(server.api_key_file) or found or NO_KEY
        yield OpenJudge(base_url, server.model or model, key, rubric, server.timeout_seconds, app.env)


def checked_url(url: str) -> str:
    """Return a server's root URL. Raises UsageProblem for what is none, without showing credentials in it."""
    hint = "--url http://HOST:PORT, as in http://127.0.0.1:8000"
    if "@" in url:
        raise UsageProblem("--url holds credentials, wanted them in a file: what is typed ends up in logs",
                           hint="--api-key-file FILE, or the variable JUDGE_API_KEY")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise UsageProblem(f"--url is {url!r}, wanted the address of a server", hint=hint)
    return url.rstrip("/").removesuffix("/v1")


def input_error(problem: InputProblem) -> BootstrapError:
    """Return what judge_client says of a user's file or argument as the CLI's error, with its code's exit code."""
    from judge_node.reasons import REASONS

    known = REASONS.get(problem.reason)
    kinds: Mapping[int, type[BootstrapError]] = {ExitCode.USAGE: UsageProblem, ExitCode.REFUSED: Refusal}
    kind = kinds.get(known.exit_code if known else ExitCode.USAGE, BootstrapError)
    return kind(problem.message, reason=problem.reason, hint=problem.hint)


def _rubric(path: str | None) -> Rubric:
    from judge_client import DEFAULT_RUBRIC

    if path is None:
        return DEFAULT_RUBRIC
    from judge_client.rubric_file import load_rubric

    return load_rubric(path)


def _key_in(path: str | None) -> str | None:
    from judge_bootstrap.adapters.judge_check import read_key_file

    return read_key_file(path)


@contextmanager
def _judge_of_environment(app: AppContext, server: ServerChoice) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield the environment's judge as its base URL, its model's name and its API key."""
    from judge_bootstrap.adapters.kube_secrets import read_api_key
    from judge_bootstrap.adapters.port_forward import forward
    from judge_bootstrap.cli.cluster_settings import read_cluster_settings
    from judge_bootstrap.cli.warmup import ClusterSite

    settings = read_cluster_settings(app, server.extra)
    values = app.get_services().render(settings.variables, _ENDPOINT, settings.inventory_dir)
    if url := values.get("vllm_k8s_endpoint_url"):
        yield checked_url(str(url)), None, _key_in(values.get("vllm_k8s_endpoint_key_file"))
        return
    site = ClusterSite(settings)
    pods = site.servers()
    if not pods:
        raise BootstrapError(f"no pod of {settings.namespace}/{settings.service_name} is ready, so no judge can be "
                             "asked", reason="POD_PENDING", hint=f"judge-bootstrap --env {settings.env} health")
    api_client = settings.connect()
    key = read_api_key(api_client, settings.namespace, settings.api_key_secret_name)
    with forward(api_client, settings.namespace, pods[0].pod, settings.port) as base_url:
        yield base_url, pods[0].model, key
