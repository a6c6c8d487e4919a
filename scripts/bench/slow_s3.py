"""A tiny S3 in a process of its own, which takes its time before each answer. It only knows GET of whole objects."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

_ABSENT: Final = b"<Error><Code>NoSuchKey</Code><Message>It isn't here.</Message></Error>"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, latency: float, *arguments: object) -> None:
        self._folder = folder
        self._latency = latency
        super().__init__(*arguments)  # type: ignore[arg-type]  # the server's own three

    def do_GET(self) -> None:
        """Answers with an object: the path is /BUCKET/KEY."""
        time.sleep(self._latency)
        _, _, key = unquote(urlsplit(self.path).path)[1:].partition("/")
        path = self._folder / key
        if not key or not path.is_file():
            self._begin(404, len(_ABSENT))
            self.wfile.write(_ABSENT)
            return
        self._begin(200, path.stat().st_size)
        with path.open("rb") as file:
            self.connection.sendfile(file)

    def do_HEAD(self) -> None:
        """Nothing can be asked but with GET."""
        self._begin(404, 0)

    def _begin(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""


def _serve(folder: Path, latency: float, started: Connection) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, folder, latency))
    started.send(server.server_port)
    server.serve_forever()


@contextmanager
def slow_s3(folder: Path, latency: float) -> Iterator[str]:
    """Serves a folder as any bucket; gives the endpoint's URL.

    Args:
        folder: What is below it are the keys.
        latency: Seconds before each answer.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(folder, latency, sender), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{receiver.recv()}"
    finally:
        process.terminate()
        process.join()
