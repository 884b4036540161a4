"""What the lab's small HTTP servers share: threads, a port of their own, a clean end."""

from __future__ import annotations

import json
import signal
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import Any, Self


class Handler(BaseHTTPRequestHandler):
    """Request handler of a stand-in: HTTP/1.1, no request log, and answers with their exact length."""

    protocol_version = "HTTP/1.1"
    # Head and body are two writes: on a connection that stays open, Nagle's algorithm holds the second back for 40 ms.
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a lab that prints each request hides what matters."""

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Send one whole answer; a HEAD request gets the headers alone."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, status: int, document: object, headers: dict[str, str] | None = None) -> None:
        """Send `document` as JSON."""
        self.answer(status, json.dumps(document).encode(), {"Content-Type": "application/json", **(headers or {})})

    def hang_up(self) -> None:
        """Close the connection without an answer, as a server that dies does."""
        self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A burst of a few hundred connections (a batch of judgements, eight nodes that sync) must queue, not be reset.
    request_queue_size = 512

    def server_bind(self) -> None:
        # HTTPServer would look up the host's full name, which takes seconds where there is no name server.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that goes away in mid-answer is an everyday event here (kill -9 tests); anything else is a defect.
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class StandIn:
    """One HTTP server in a thread of this process; a context manager.

    Port 0 takes any free port. Raises OSError when the address cannot be bound.
    """

    def __init__(self, handler: type[Handler], host: str = "127.0.0.1", port: int = 0) -> None:
        self._server = _Server((host, port), handler)
        self.host = host
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """The server's base URL, without a slash at the end."""
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        """Serve in the background from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and free the port; answers under way are cut."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def wait_for_end(line: str) -> None:
    """Say `line` on stderr (the server is ready), then wait for TERM or INT."""
    ended = threading.Event()

    def end(signum: int, frame: FrameType | None) -> None:
        ended.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
    ended.wait()
