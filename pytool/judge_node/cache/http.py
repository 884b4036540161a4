"""HTTP for downloads: connections that stay open between requests, and failures that say whether to try again."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import ipaddress
import socket
import ssl
import threading
import urllib.parse
import urllib.request
from email.utils import parsedate_to_datetime

from .. import __version__
from ..result import NodeError, foreign
from .failures import Transient

_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_DRAIN_BYTES = 64 << 10


def origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port: what a token belongs to."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, (parts.hostname or ""), parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def shown(url: str) -> str:
    """Return the URL without user, query and fragment: a signed URL is a secret."""
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an unreadable URL"
    return foreign(f"{parts.scheme}://{host}{port}{parts.path}", 300)


def check_url(url: str, option: str, variable: str) -> str:
    """Return `url` without a trailing slash. Raises NodeError (wrong usage) when it cannot be one."""
    wanted = "wanted a URL such as https://huggingface.co"
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise NodeError(f"{option} is not usable ({error}), {wanted}", repair=f"set {variable}") from None
    if parts.scheme not in ("http", "https") or not host or set("?#") & set(url) or any(c <= " " for c in url):
        raise NodeError(f"{option} is {shown(url)!r}, {wanted}", repair=f"set {variable}")
    if parts.username is not None:
        raise NodeError(f"{option} carries a user name; secrets do not belong in arguments", repair="use --token-file")
    return url.rstrip("/")


def is_private(url: str) -> bool:
    """Return whether the host of `url` is this machine or an address of a private network."""
    host = origin(url)[1]
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost"


class Connections:
    """The open connections of one thread, one for each server. Others may only call `interrupt`."""

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self._open: dict[tuple[str, str, int | None], http.client.HTTPConnection] = {}
        self._proxies = urllib.request.getproxies()
        self._mutex = threading.Lock()
        self._closed = False

    def get(self, url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        """Return the answer to one GET; redirects are not followed. Raises Transient or NodeError."""
        key = origin(url)
        for again in (True, False):
            kept = key in self._open
            try:
                return self._ask(key, url, headers)
            except ssl.SSLCertVerificationError as error:
                self.drop(url)
                raise NodeError(
                    f"{shown(url)}: its certificate is not trusted ({error.verify_message})", reason="SOURCE_DENIED"
                ) from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.drop(url)
                # A server may close a connection while it is idle: that is no failure, and not worth a wait.
                if not (kept and again and isinstance(error, (http.client.BadStatusLine, ConnectionError))):
                    raise Transient(f"{shown(url)}: {describe(error, self.timeout_seconds)}") from None
        raise AssertionError("unreachable")

    def _ask(
        self, key: tuple[str, str, int | None], url: str, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        parts = urllib.parse.urlsplit(url)
        target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        proxy = self._proxy(key)
        if proxy is not None and key[0] == "http":
            target = url
            headers = {**headers, **_proxy_headers(proxy)}
        connection = self._open.get(key)
        if connection is None:
            connection = self._connect(key, proxy)
            with self._mutex:
                if self._closed:
                    connection.close()
                    raise ConnectionError("closed")
                self._open[key] = connection
        # identity: a compressed answer has other bytes than the ones that were hashed.
        given = {"Accept-Encoding": "identity", "User-Agent": f"judge-node/{__version__}", **headers}
        connection.request("GET", target, headers=given)
        return connection.getresponse()

    def _proxy(self, key: tuple[str, str, int | None]) -> urllib.parse.SplitResult | None:
        scheme, host, port = key
        address = self._proxies.get(scheme)
        if not address or urllib.request.proxy_bypass(f"{host}:{port}"):
            return None
        return urllib.parse.urlsplit(address if "://" in address else f"http://{address}")

    def _connect(
        self, key: tuple[str, str, int | None], proxy: urllib.parse.SplitResult | None
    ) -> http.client.HTTPConnection:
        scheme, host, port = key
        to = (host, port) if proxy is None else (proxy.hostname or "", proxy.port or 80)
        connection: http.client.HTTPConnection
        if scheme == "https":
            connection = http.client.HTTPSConnection(to[0], to[1], timeout=self.timeout_seconds, context=_tls())
            if proxy is not None:
                connection.set_tunnel(host, port, _proxy_headers(proxy))
        else:
            connection = http.client.HTTPConnection(to[0], to[1], timeout=self.timeout_seconds)
        connection.connect()
        # A request is small and waits for nothing.
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def drop(self, url: str) -> None:
        """Close the connection to the server of `url`: something of an answer may still be in it."""
        with self._mutex:
            connection = self._open.pop(origin(url), None)
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Close all connections; for the thread that uses them."""
        with self._mutex:
            self._closed = True
            connections, self._open = self._open, {}
        for connection in connections.values():
            connection.close()

    def interrupt(self) -> None:
        """Make the thread that waits for an answer wait no longer, from another thread."""
        with self._mutex:
            self._closed = True
            for connection in self._open.values():
                if connection.sock is not None:
                    with contextlib.suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)

    def follow(
        self, url: str, headers: dict[str, str], token: str | None
    ) -> tuple[http.client.HTTPResponse, str]:
        """Return the answer and the URL that gave it, after redirects: never from https to http.

        The token goes to the origin of `url` and nowhere else.
        """
        first = origin(url)
        for _ in range(_MOST_REDIRECTS + 1):
            authorized = {**headers, "Authorization": f"Bearer {token}"} if token and origin(url) == first else headers
            response = self.get(url, authorized)
            place = response.headers.get("Location")
            if response.status not in _REDIRECTS or place is None:
                return response, url
            self.finish(response, url)
            new = urllib.parse.urljoin(url, place)
            scheme = urllib.parse.urlsplit(new).scheme
            if scheme not in ("http", "https") or (first[0], scheme) == ("https", "http"):
                raise NodeError(f"{shown(url)} redirects to {shown(new)}, wanted https", reason="SOURCE_DENIED")
            url = new
        raise NodeError(f"{shown(url)}: more than {_MOST_REDIRECTS} redirects", reason="SOURCE_DENIED")

    def finish(self, response: http.client.HTTPResponse, url: str) -> None:
        """Read what is left of a short answer, so that its connection can be used again; else close it."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            if (response.length or 0) <= _DRAIN_BYTES and not response.chunked:
                response.read()
        if not response.isclosed():
            response.close()
            self.drop(url)


@functools.lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _proxy_headers(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    user, password = urllib.parse.unquote(proxy.username), urllib.parse.unquote(proxy.password or "")
    return {"Proxy-Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def of_status(response: http.client.HTTPResponse, url: str, *, redirected: bool) -> Exception:
    """Return what an HTTP status means for the run: Transient, or NodeError when another attempt changes nothing."""
    said, status = f"{shown(url)} answered {response.status}", response.status
    why = foreign(response.headers.get("X-Error-Code") or response.reason)
    asked = _retry_after(response.headers.get("Retry-After"))
    if status == 429:
        return Transient(said, wait_seconds=asked, reason="SOURCE_RATE_LIMITED")
    if status in (408, 425) or status >= 500:
        return Transient(said, wait_seconds=asked)
    if status in (401, 403):
        # A signed URL that has expired is denied, too: it is asked for anew at the source.
        return (
            Transient(f"{said} ({why})", reason="SOURCE_DENIED")
            if redirected
            else NodeError(f"{said} ({why})", reason="SOURCE_DENIED")
        )
    if status in (404, 410):
        return NodeError(f"{said} ({why})", reason="SOURCE_NOT_FOUND")
    if status < 400:
        return Transient(said)
    return NodeError(f"{said} ({why})", reason="SOURCE_UNREACHABLE")


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header (seconds or a date) asks for, or None when it is not usable."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value) if len(value.strip()) < 10 else float("inf")
    try:
        when = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    from datetime import datetime, timezone  # rarely needed

    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())


def describe(error: BaseException, timeout_seconds: float) -> str:
    """Return what a failure of the network was, in words."""
    if isinstance(error, (TimeoutError, socket.timeout)):
        return f"no answer in {timeout_seconds:.0f} seconds"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the connection was closed without an answer"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return foreign(error) or type(error).__name__
