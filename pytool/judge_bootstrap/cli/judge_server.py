"""Which server judges, for every verb of `judge`: a URL, or the pods of an environment through the cluster.

    @server_options
    def score(app, server, ...):
        with open_judge(app, server) as judge, judge.client() as client:
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from judge_bootstrap.cli.options import variable_option
from judge_bootstrap.core.errors import BootstrapError, ExitCode, Refusal, UsageProblem
from judge_bootstrap.core.redact import JUDGE_KEY_VARIABLE, remember

if TYPE_CHECKING:
    from judge_client import AsyncJudgeClient, JudgeClient, Rubric
    from judge_client.errors import InputProblem

    from judge_bootstrap.adapters.judge_pods import ReadyPod
    from judge_bootstrap.cli.cluster_settings import ClusterSettings
    from judge_bootstrap.cli.context import AppContext

TIMEOUT_SECONDS = 60.0
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


class Cluster(Protocol):
    """The cluster of an environment; tests give their own."""

    def pods(self) -> Sequence[ReadyPod]:
        """Return the ready pods. Raises BootstrapError when the cluster does not say."""

    def key(self) -> str | None:
        """Return the API key that they want, None for none. Raises BootstrapError."""

    def forward(self, model: str) -> AbstractContextManager[str]:
        """Return a context with a base URL that leads to those that serve the model."""


class RealCluster:
    """The real one."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings, self._api_client = settings, settings.connect()

    def pods(self) -> Sequence[ReadyPod]:
        """Return the ready pods."""
        from judge_bootstrap.adapters.judge_pods import ready_pods

        return ready_pods(self._api_client, self._settings.namespace, self._settings.serving_pods)

    def key(self) -> str | None:
        """Return the key in the Secret."""
        from judge_bootstrap.adapters.kube_secrets import read_api_key

        return read_api_key(self._api_client, self._settings.namespace, self._settings.api_key_secret_name)

    def forward(self, model: str) -> AbstractContextManager[str]:
        """Return the port-forward."""
        from judge_bootstrap.adapters.judge_pods import forward_to_all

        return forward_to_all(self._api_client, self._settings.namespace, self._settings.serving_pods,
                              self._settings.port, model)


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

    def error_of(self, reason: str, message: str) -> BootstrapError:
        """Return why there is no verdict as the CLI's error: the client's reason and words, and the next command."""
        return BootstrapError(message, reason=reason, hint=self._hint(reason, message))

    def _hint(self, reason: str, message: str) -> str:
        ours = f"judge-bootstrap --env {self.env}" if self.env else None
        look = f"{ours} health" if ours else f"curl -sS {self.base_url}/v1/models"
        if reason == "SERVER_UNREACHABLE" and "CERTIFICATE_VERIFY_FAILED" in message:
            return "export SSL_CERT_FILE=FILE   # with the certificate of your own CA"
        if reason == "SERVER_UNREACHABLE" and self.base_url.startswith("https:") and not ours:
            return f"{look}; or, if it speaks http: --url http{self.base_url.removeprefix('https')}"
        if reason == "SERVER_TIMEOUT":
            return f"--timeout {2 * self.timeout_seconds:g}, or {look}"
        if reason == "SERVER_DENIED":
            return f"{ours} secrets apply --check" if ours else f"--api-key-file FILE, or export {JUDGE_KEY_VARIABLE}"
        if reason == "WRONG_MODEL_SERVED":
            return f"--model NAME, with a name that is served: {look}"
        if reason == "SERVER_RATE_LIMITED":
            return "run the same command again later"
        if reason == "REQUEST_REFUSED" and "context length" in message:
            return "give shorter texts, or serve the judge with a longer context (model.max_model_len)"
        if reason in ("REQUEST_REFUSED", "RESPONSE_INVALID") and not ours:
            return f"{look}   # does a server with OpenAI's API answer there?"
        if reason.startswith("REPLY_") or reason == "VOTES_MISSING":
            return f"{ours} logs" if ours else "see the server's log: does it know the response format json_schema?"
        return look

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
        key = _given_key(server.api_key_file) or _key_of_environment()
        yield OpenJudge(url, server.model, _kept(key), rubric, server.timeout_seconds)
        return
    if app.env is None:
        raise UsageProblem("nothing says which server judges",
                           hint="add --url http://HOST:PORT (any server with OpenAI's API), or --env ENV for the judge "
                                "of an environment")
    with _judge_of_environment(app, server) as (base_url, model, key):
        yield OpenJudge(base_url, server.model or model, _kept(key), rubric, server.timeout_seconds, app.env)


def checked_url(url: str, name: str = "--url") -> str:
    """Return a server's root URL. Raises UsageProblem for what is none, without showing credentials in it."""
    from judge_client.exchange import root_of

    if "@" in url:
        raise UsageProblem(f"{name} holds credentials, wanted them in a file: what is typed ends up in logs",
                           hint="--api-key-file FILE, or the variable JUDGE_API_KEY")
    try:
        return root_of(url)
    except ValueError:
        raise UsageProblem(f"{name} is {url!r}, wanted the address of a server",
                           hint=f"{name} http://HOST:PORT, as in http://127.0.0.1:8000") from None


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


def _kept(key: str | None) -> str:
    """Return the key to send, which is masked from now on in whatever is printed."""
    if key:
        remember(key)
    return key or NO_KEY


def _given_key(path: str | None) -> str | None:
    """Return the key in the file of --api-key-file. Raises UsageProblem."""
    from judge_bootstrap.adapters.judge_check import read_key_file

    try:
        return read_key_file(path, "--api-key-file")
    except BootstrapError as error:
        raise UsageProblem(error.message, reason=error.reason, hint=error.hint) from error


def _key_of_environment() -> str | None:
    """Return the key in JUDGE_API_KEY. Raises UsageProblem for one that no header can hold, without showing it."""
    key = os.environ.get(JUDGE_KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageProblem(f"{JUDGE_KEY_VARIABLE} holds no API key, wanted one word of printable characters",
                           reason="SECRET_UNUSABLE",
                           hint=f"export {JUDGE_KEY_VARIABLE}=$(cat FILE), or --api-key-file FILE")
    return key or None


@contextmanager
def _judge_of_environment(app: AppContext, server: ServerChoice) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield the environment's judge as its base URL, its model's name and its API key."""
    from judge_bootstrap.adapters.judge_check import read_key_file
    from judge_bootstrap.cli.cluster_settings import read_cluster_settings

    settings = read_cluster_settings(app, server.extra)
    values = app.get_services().render(settings.variables, _ENDPOINT, settings.inventory_dir)
    if url := values.get("vllm_k8s_endpoint_url"):
        key = _given_key(server.api_key_file) or read_key_file(values.get("vllm_k8s_endpoint_key_file"))
        yield checked_url(str(url), "vllm_k8s_endpoint_url"), None, key
        return
    cluster: Cluster = (app.extra.get("judge") or RealCluster)(settings)
    pods = cluster.pods()
    if not pods:
        raise BootstrapError(f"no pod of {settings.namespace}/{settings.service_name} is ready, so no judge can be "
                             "asked", reason="POD_PENDING", hint=f"judge-bootstrap --env {settings.env} health")
    model = server.model or pods[0].model
    # The Secret is not asked for where a key is given: not everybody who may judge may read it.
    key = _given_key(server.api_key_file) or cluster.key()
    # A pod is known by the first of its names; --model may say another one, which the server itself is asked about.
    serving = model if any(pod.model == model for pod in pods) else pods[0].model
    with cluster.forward(serving) as base_url:
        yield base_url, model, key
