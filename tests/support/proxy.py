"""A proxy that injects faults in front of a real S3 and SQS server.

What the server does is real, what goes wrong isn't:

    with FaultProxy(roto.endpoint_url) as proxy:
        proxy.rules.append(fail_entries(is_odd, "InternalError", sender_fault=False))
        ...  # a client of proxy.endpoint_url sends ten messages
        assert proxy.log == [("SendMessageBatch", 10)]

A rule is a callable that looks at a Request and returns a Fault or None. The first fault found decides; where it
forwards the request, the rules after it are asked about what is forwarded, so faults add up. SQS is understood in the
AWS JSON protocol alone. A fault that takes entries out changes a body that was signed: the server behind it must be one
that verifies no signatures.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from email.message import Message
    from types import TracebackType

Entry = Mapping[str, Any]
Predicate = Callable[[Entry], bool]


@dataclass(frozen=True)
class Request:
    """A request as the client sent it; `action` is the SQS operation, or None for S3."""

    method: str
    path: str
    headers: Message
    body: bytes
    action: str | None

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The entries of a batch; none for any other request."""
        return tuple(json.loads(self.body).get("Entries", ())) if self.action else ()

    def with_entries(self, entries: list[Entry]) -> Request:
        """Make the same request with other entries."""
        return replace(self, body=json.dumps(json.loads(self.body) | {"Entries": entries}).encode())


@dataclass(frozen=True)
class Answer:
    """An answer; as a fault, it is given without asking the server. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def apply(self, _request: Request, _forward: Forward) -> Answer:
        return self


Forward = Callable[[Request], Answer]


class Fault(Protocol):
    """What goes wrong with a request, on its way to the server or back."""

    def apply(self, request: Request, forward: Forward, /) -> Answer:
        """Answer the request, forwarding what shall reach the server; ConnectionDropped leaves it unanswered."""


Rule = Callable[[Request], Fault | None]


class ConnectionDropped(ConnectionError):  # noqa: N818 - a fault's wish, no error
    """Close the client's connection without an answer."""


class Logged(NamedTuple):
    """A request that arrived: equal to the plain tuple."""

    action: str | None
    entries: int


# ---- Faults


@dataclass(frozen=True)
class Reset:
    """Close the connection; the server never sees the request."""

    def apply(self, _request: Request, _forward: Forward) -> Answer:
        raise ConnectionDropped


@dataclass(frozen=True)
class LoseAnswer:
    """Let the server do its work, then close the connection without an answer."""

    def apply(self, request: Request, forward: Forward) -> Answer:
        forward(request)
        raise ConnectionDropped


@dataclass(frozen=True)
class Delay:
    """Wait, then forward."""

    seconds: float

    def apply(self, request: Request, forward: Forward) -> Answer:
        time.sleep(self.seconds)
        return forward(request)


@dataclass(frozen=True)
class CorruptBody:
    """Change the body of the answer; its Content-Length is that of the changed body."""

    change: Callable[[bytes], bytes]

    def apply(self, request: Request, forward: Forward) -> Answer:
        answer = forward(request)
        return replace(answer, body=self.change(answer.body))


@dataclass(frozen=True)
class Fail:
    """A real partial failure of SendMessageBatch: these entries never reach the queue, the answer says so."""

    entries: Predicate
    code: str
    sender_fault: bool
    message: str = "injected"

    def apply(self, request: Request, forward: Forward) -> Answer:
        failing, others = _split(request.entries, self.entries)
        answer = _forward_entries(request, others, forward)
        if answer.status != HTTPStatus.OK:
            return answer
        content = json.loads(answer.body)
        content["Failed"] = content.get("Failed", []) + [self._failed(entry) for entry in failing]
        return replace(answer, body=json.dumps(content).encode())

    def _failed(self, entry: Entry) -> dict[str, str | bool]:
        return {"Id": entry["Id"], "Code": self.code, "SenderFault": self.sender_fault, "Message": self.message}


@dataclass(frozen=True)
class OmitFromAnswer:
    """Leave entries out of both lists of the answer, whether they reached the queue (`enqueue`) or not."""

    entries: Predicate
    enqueue: bool

    def apply(self, request: Request, forward: Forward) -> Answer:
        omitted, others = _split(request.entries, self.entries)
        answer = forward(request) if self.enqueue else _forward_entries(request, others, forward)
        if answer.status != HTTPStatus.OK:
            return answer
        ids = {entry["Id"] for entry in omitted}
        content = json.loads(answer.body)
        kept = {name: [result for result in results if result["Id"] not in ids] for name, results in content.items()}
        return replace(answer, body=json.dumps(kept).encode())


def sqs_error(status: int, query_error: str, **content: str) -> Answer:
    """Make an error answer of SQS.

    The body names the error's shape; the header x-amzn-query-error keeps the code of the older query protocol
    ("AccessDenied;Sender"), and that is the one which boto3 reports.
    """
    return Answer(status, _json_headers() | {"x-amzn-query-error": query_error}, json.dumps(content).encode())


def _split(entries: tuple[Entry, ...], predicate: Predicate) -> tuple[list[Entry], list[Entry]]:
    chosen: list[Entry] = []
    others: list[Entry] = []
    for entry in entries:
        (chosen if predicate(entry) else others).append(entry)
    return chosen, others


def _forward_entries(request: Request, entries: list[Entry], forward: Forward) -> Answer:
    if len(entries) == len(request.entries):
        return forward(request)
    if not entries:  # SQS refuses an empty batch
        return Answer(HTTPStatus.OK, _json_headers(), b"{}")
    return forward(request.with_entries(entries))


def _json_headers() -> dict[str, str]:
    return {"content-type": "application/x-amz-json-1.0", "x-amzn-requestid": str(uuid.uuid4())}


# ---- Rules, for any number of threads; `fired` says how often each one struck


class RequestRule:
    """One fault for the first `times` requests that `when` chooses, or for all of them."""

    def __init__(self, fault: Fault, when: Callable[[Request], bool], times: int | None = None) -> None:
        self.fired = 0
        self._fault = fault
        self._when = when
        self._times = times
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Fault | None:
        if not self._when(request):
            return None
        with self._lock:
            if self.fired == self._times:
                return None
            self.fired += 1
        return self._fault


class EntryRule:
    """A fault for chosen entries of SendMessageBatch, at the first `times` attempts of each message (by its body)."""

    def __init__(self, fault: Callable[[Predicate], Fault], predicate: Predicate, times: int | None = None) -> None:
        self.fired = 0
        self._fault = fault
        self._predicate = predicate
        self._times = times
        self._attempts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Fault | None:
        if request.action != "SendMessageBatch":
            return None
        with self._lock:
            ids = {entry["Id"] for entry in request.entries if self._strikes(entry)}
            self.fired += len(ids)
        return self._fault(lambda entry: entry["Id"] in ids) if ids else None

    def _strikes(self, entry: Entry) -> bool:
        body = entry["MessageBody"]
        if not self._predicate(entry) or self._attempts[body] == self._times:
            return False
        self._attempts[body] += 1
        return True


def deny(action: str) -> RequestRule:
    """No permission for this action, in AWS's words."""
    permission = f"sqs:{action.removesuffix('Batch').lower()}"
    message = (
        f"User: arn:aws:iam::123456789012:user/test is not authorized to perform: {permission} "
        f"because no identity-based policy allows the {permission} action"
    )
    shape = "com.amazon.coral.service#AccessDeniedException"
    error = sqs_error(403, "AccessDenied;Sender", __type=shape, Message=message)
    return RequestRule(error, _is(action))


def throttle(action: str, times: int | None = None) -> RequestRule:
    """Too many requests: SQS says that with status 403."""
    shape = "com.amazonaws.sqs#RequestThrottled"
    error = sqs_error(403, "RequestThrottled;Sender", __type=shape, message="Request is throttled.")
    return RequestRule(error, _is(action), times)


def server_error(action: str, times: int | None = None) -> RequestRule:
    """The service is unavailable."""
    shape = "com.amazon.coral.service#ServiceUnavailableException"
    error = sqs_error(503, "ServiceUnavailable;Receiver", __type=shape, message="Service is unavailable.")
    return RequestRule(error, _is(action), times)


def lose_answers(action: str | None, times: int | None = None) -> RequestRule:
    """The server does its work, but its answer gets lost."""
    return RequestRule(LoseAnswer(), _is(action), times)


def reset_connections(action: str | None, times: int | None = None) -> RequestRule:
    """The connection closes before the request reaches the server."""
    return RequestRule(Reset(), _is(action), times)


def delay(action: str | None, seconds: float, times: int | None = None) -> RequestRule:
    """The server takes its time."""
    return RequestRule(Delay(seconds), _is(action), times)


def corrupt_answers(action: str | None, change: Callable[[bytes], bytes], times: int | None = None) -> RequestRule:
    """The answer's body arrives changed."""
    return RequestRule(CorruptBody(change), _is(action), times)


def fail_entries(predicate: Predicate, code: str, *, sender_fault: bool, times: int | None = None) -> EntryRule:
    """These entries fail, at the first `times` attempts of each message or always."""
    return EntryRule(lambda chosen: Fail(chosen, code, sender_fault), predicate, times)


def omit_entries(predicate: Predicate, *, enqueue: bool, times: int | None = None) -> EntryRule:
    """These entries are in neither list of the answer, enqueued or not."""
    return EntryRule(lambda chosen: OmitFromAnswer(chosen, enqueue), predicate, times)


def _is(action: str | None) -> Callable[[Request], bool]:
    return lambda request: request.action == action


# ---- The proxy


class FaultProxy(ThreadingTCPServer):
    """An HTTP/1.1 server at `endpoint_url` that forwards to `upstream_url` what its `rules` let through.

    Requests go on as they came, the Host header included. Each client connection has an upstream connection of its own,
    and ends when that one does: a server that is killed looks to the client as it would without the proxy.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream_url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rules: list[Rule] = []
        self.log: list[Logged] = []
        self.upstream = urlsplit(upstream_url).netloc
        self.endpoint_url = f"http://127.0.0.1:{self.server_address[1]}"
        self.connections: set[socket.socket] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()
        for connection in tuple(self.connections):
            with suppress(OSError):  # closed by its client just now
                connection.shutdown(socket.SHUT_RDWR)
        super().__exit__(kind, error, traceback)

    def answer(self, request: Request, upstream: Forward) -> Answer:
        """Ask the rules, and the server unless they forbid it."""
        self.log.append(Logged(request.action, len(request.entries)))
        return _through(tuple(self.rules), upstream)(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as in socketserver
        """Print what a rule raised; that a connection ended, on either side, is what this proxy is for."""
        if not isinstance(sys.exception(), OSError | HTTPException):
            super().handle_error(request, client_address)


def _through(rules: tuple[Rule, ...], upstream: Forward) -> Forward:
    if not rules:
        return upstream
    first, *others = rules
    forward = _through(tuple(others), upstream)

    def answer(request: Request) -> Answer:
        fault = first(request)
        return fault.apply(request, forward) if fault else forward(request)

    return answer


class _Handler(BaseHTTPRequestHandler):
    """One client connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultProxy

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)
        self.upstream = HTTPConnection(self.server.upstream)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        self.upstream.close()
        super().finish()

    def do_POST(self) -> None:
        if "transfer-encoding" in self.headers:  # no client here sends chunks
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
            return
        self._send(self.server.answer(self._request(), self._forward))

    do_DELETE = do_GET = do_HEAD = do_PUT = do_POST  # noqa: N815 - the names that http.server looks for

    def log_message(self, *_args: object) -> None:
        """Stay quiet: the log is in `FaultProxy.log`."""

    def _request(self) -> Request:
        _, _, action = self.headers.get("x-amz-target", "").partition(".")
        length = int(self.headers.get("content-length", 0))
        body = self.rfile.read(length)
        if len(body) < length:  # the client died while it sent
            raise ConnectionDropped
        path = self.requestline.split()[1]  # self.path has lost leading slashes
        return Request(self.command, path, self.headers, body, action or None)

    def _forward(self, request: Request) -> Answer:
        self.upstream.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            self.upstream.putheader(name, str(len(request.body)) if name.lower() == "content-length" else value)
        self.upstream.endheaders(request.body)
        response = self.upstream.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())

    def _send(self, answer: Answer) -> None:
        headers = dict(answer.headers)
        headers.pop("transfer-encoding", None)
        if self.command != "HEAD" and answer.status not in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
            headers["content-length"] = str(len(answer.body))
        self.send_response_only(answer.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)
