"""Our own transport against small real servers: each request ends with an answer, or with the reason why there is none.

The endpoint it talks to is the one that botocore would choose.
"""

from __future__ import annotations

import email.utils
import gc
import re
import shutil
import socket
import socketserver
import ssl
import struct
import subprocess
import threading
import time
import weakref
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import NoCredentialsError

from inventory_enqueue.aws.session import Endpoint, sqs_client, sqs_endpoint
from inventory_enqueue.aws.signing import SigningCredentials
from inventory_enqueue.aws.transport import Answer, Request, Transport
from inventory_enqueue.config import AwsSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET: Final = SigningCredentials("AKIDEXAMPLE", "a-secret")
REQUEST: Final = Request(
    headers=(("content-type", "application/x-amz-json-1.0"), ("x-amz-target", "AmazonSQS.SendMessageBatch"))
)
QUEUE: Final = "https://sqs.eu-west-1.amazonaws.com/123456789012/a-queue"
HOUR: Final = 3600


@dataclass(frozen=True)
class Received:
    """A request as a server got it."""

    connection: int
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    def is_signed_by(self, credentials: SigningCredentials) -> bool:
        """Whether the signature is the one that botocore makes of what has arrived."""
        scope = re.search(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/aws4_request", self.headers["authorization"])
        assert scope is not None
        key, region, service = scope.groups()
        names = re.findall(r"SignedHeaders=([^,]+)", self.headers["authorization"])[0].split(";")
        path = re.sub(r"^http://[^/]+", "", self.target)
        theirs = AWSRequest(self.method, f"http://{self.headers['host']}{path}", data=self.body)
        for name in set(names) - {"host", "x-amz-date", "x-amz-security-token"}:
            theirs.headers[name] = self.headers[name]
        auth = SigV4Auth(Credentials(key, credentials.secret_key, credentials.token), service, region)
        theirs.context["timestamp"] = self.headers["x-amz-date"]
        theirs.headers["X-Amz-Date"] = self.headers["x-amz-date"]
        theirs.headers["Host"] = self.headers["host"]
        if credentials.token is not None:
            theirs.headers["X-Amz-Security-Token"] = credentials.token
        signature = auth.signature(auth.string_to_sign(theirs, auth.canonical_request(theirs)), theirs)
        return key == credentials.access_key and self.headers["authorization"].endswith(f"Signature={signature}")

    @property
    def signed_at(self) -> datetime:
        return datetime.strptime(self.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def ok(body: bytes = b"fine", *, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


CLOSE: Final = b""
"""As an answer: the connection is closed without one."""


@dataclass
class Server:
    """A server on loopback that answers as it is told, byte by byte; it may be a proxy, too."""

    answer: Callable[[Received], bytes] = lambda _: ok()
    closes: Callable[[Received], bool] = lambda _: False
    """Whether the connection is closed after an answer."""
    tls: ssl.SSLContext | None = None
    tunnels_to: Server | None = None
    """Where a proxy's CONNECT leads, whatever the host's name is."""
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: list[socket.socket] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def serve(self, connection: socket.socket) -> None:
        with self._lock:
            self.connections += 1
            number = self.connections
            self._open.append(connection)
        with suppress(OSError, ValueError):
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            self._exchanges(connection, number)
        with suppress(OSError):
            connection.close()

    def _exchanges(self, connection: socket.socket, number: int) -> None:
        stream = connection.makefile("rb")
        while line := stream.readline():
            method, target, _ = line.decode().split(" ", 2)
            pairs = iter(lambda: stream.readline().decode().strip(), "")
            headers = {name.lower(): value.strip() for name, _, value in (pair.partition(":") for pair in pairs)}
            request = Received(number, method, target, headers, stream.read(int(headers.get("content-length", "0"))))
            with self._lock:
                self.received.append(request)
            if method == "CONNECT" and self.tunnels_to is not None:
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                tunnel(connection, self.tunnels_to.port)
                return
            answer = self.answer(request)
            connection.sendall(answer)
            if answer == CLOSE or self.closes(request):
                return

    def hang_up(self) -> None:
        """Close all connections."""
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._open.clear()


def tunnel(client: socket.socket, port: int) -> None:
    def copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    with socket.create_connection(("127.0.0.1", port)) as server:
        back = threading.Thread(target=copy, args=(server, client))
        back.start()
        copy(client, server)
        back.join()


@contextmanager
def running(server: Server) -> Iterator[Server]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            server.serve(self.request)

    class Listener(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 256

    with Listener(("127.0.0.1", 0), Handler) as listener:
        server.port = listener.server_address[1]
        thread = threading.Thread(target=listener.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()
            server.hang_up()


def endpoint(url: str, credentials: Callable[[], SigningCredentials | None] = lambda: SECRET) -> Endpoint:
    return Endpoint(
        url=url,
        service="sqs",
        region="eu-west-1",
        credentials=credentials,
        ca_bundle=None,
        proxy=None,
        connect_timeout=1,
        read_timeout=1,
    )


@contextmanager
def transport(to: Endpoint, *, connections: int = 1) -> Iterator[Transport]:
    opened = Transport(to, connections=connections)
    try:
        yield opened
    finally:
        opened.close()


def answers(sender: Transport, count: int = 1, *, seconds: float = 10) -> list[Answer]:
    """So many answers, as they come."""
    found: list[Answer] = []
    until = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < until:
        found += sender.poll(0.1)
    assert len(found) == count
    return found


def ask(sender: Transport, body: bytes | None = b"{}", request: Request = REQUEST) -> Answer:
    sender.begin(request, body, REQUEST)
    (answer,) = answers(sender)
    assert answer.token is REQUEST
    return answer


# ---- Requests and answers


def test_a_request_arrives_as_it_was_meant_and_signed_as_botocore_would() -> None:
    with running(Server()) as server, transport(endpoint(server.url)) as sender:
        body = bytes(range(256)) * 5000
        answer = ask(sender, body)
        assert (answer.status, answer.body, answer.error, dict(answer.headers)) == (200, b"fine", "", {})
        assert answer.signed_by == SECRET
        assert 0 <= answer.seconds < 5
        (received,) = server.received
    assert (received.method, received.target, received.body) == ("POST", "/", body)
    assert received.headers["host"] == f"127.0.0.1:{server.port}"
    assert dict(REQUEST.headers).items() <= received.headers.items()
    assert "expect" not in received.headers
    assert received.is_signed_by(SECRET)
    assert not received.is_signed_by(SigningCredentials("AKIDEXAMPLE", "another"))
    assert abs((received.signed_at - datetime.now(tz=UTC)).total_seconds()) < 10


def test_a_get_follows_a_post_with_its_path_and_query_and_no_body() -> None:
    request = Request("GET", "/a/b", "prefix=c%20d&x=", (("accept", "*/*"),))
    with running(Server()) as server, transport(endpoint(server.url)) as sender:
        assert ask(sender).status == 200
        assert ask(sender, None, request).status == 200
        assert ask(sender, b"again").status == 200
        first, second, third = server.received
    assert (first.method, third.method, third.body) == ("POST", "POST", b"again")
    assert (second.method, second.target, second.body) == ("GET", "/a/b?prefix=c%20d&x=", b"")
    assert "x-amz-target" not in second.headers
    assert all(received.is_signed_by(SECRET) for received in server.received)


def test_many_requests_in_flight_are_all_answered_each_with_its_own_answer_over_as_many_connections() -> None:
    def answer(request: Received) -> bytes:
        time.sleep(0.002)
        return ok(b"answer to " + request.body)

    with running(Server(answer)) as server, transport(endpoint(server.url), connections=64) as sender:
        found: dict[object, bytes] = {}
        begun, in_flight = 0, 0
        until = time.monotonic() + 20
        while len(found) < 2000 and time.monotonic() < until:
            while in_flight < 64 and begun < 2000:
                sender.begin(REQUEST, f"{begun}".encode(), begun)
                begun, in_flight = begun + 1, in_flight + 1
            for one in sender.poll(1):
                in_flight -= 1
                found[one.token] = one.body
    assert found == {number: f"answer to {number}".encode() for number in range(2000)}
    assert server.connections == 64
    assert all(received.is_signed_by(SECRET) for received in server.received[::50])


def test_a_connection_is_kept_for_the_requests_that_follow() -> None:
    with running(Server()) as server, transport(endpoint(server.url), connections=8) as sender:
        for _ in range(50):
            assert ask(sender).status == 200
        assert server.connections == 1


def test_headers_of_an_error_are_found_whatever_their_case() -> None:
    refusal = ok(
        b'{"message":"no"}',
        status="400 Bad Request",
        headers="X-AMZN-Query-Error: QueueDoesNotExist;Sender\r\nx-aMZn-RequestID:abc \r\nDate: x\r\n",
    )
    with running(Server(lambda _: refusal)) as server, transport(endpoint(server.url)) as sender:
        answer = ask(sender)
    assert (answer.status, answer.body, answer.error) == (400, b'{"message":"no"}', "")
    assert answer.headers["x-amzn-query-error"] == "QueueDoesNotExist;Sender"
    assert answer.headers["x-amzn-requestid"] == "abc"


def test_headers_are_those_of_the_last_answer_on_a_connection() -> None:
    texts = iter(["1", "2", "3"])

    def answer(_: Received) -> bytes:
        number = next(texts)
        return ok(number.encode(), status="500 Oops", headers=f"x-{number}: {number}\r\n")

    with running(Server(answer)) as server, transport(endpoint(server.url)) as sender:
        for number in ("1", "2", "3"):
            found = ask(sender)
            assert found.body == number.encode()
            assert {name for name in found.headers if name.startswith("x-")} == {f"x-{number}"}


def test_a_chunked_answer_is_put_together() -> None:
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n10;x=y\r\n0123456789abcdef\r\n0\r\n\r\n"
    )
    with running(Server(lambda _: chunked)) as server, transport(endpoint(server.url)) as sender:
        for _ in range(2):
            assert ask(sender).body == b"abc0123456789abcdef"
        assert server.connections == 1


def test_a_large_answer_comes_whole() -> None:
    body = bytes(range(256)) * 20_000
    with running(Server(lambda _: ok(body))) as server, transport(endpoint(server.url)) as sender:
        assert ask(sender).body == body


def test_continue_before_an_answer_is_no_answer() -> None:
    both = b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"no", status="403 Forbidden", headers="x-a: b\r\n")
    with running(Server(lambda _: both)) as server, transport(endpoint(server.url)) as sender:
        answer = ask(sender)
    assert (answer.status, answer.body, answer.headers["x-a"]) == (403, b"no", "b")


# ---- Connections that end


@pytest.mark.parametrize("says_so", [True, False])
def test_a_server_that_closes_the_connection_after_each_answer_gets_all_requests(*, says_so: bool) -> None:
    answer = ok(headers="Connection: close\r\n" if says_so else "")
    server = Server(lambda _: answer, closes=lambda _: True)
    with running(server), transport(endpoint(server.url), connections=4) as sender:
        for number in range(40):
            sender.begin(REQUEST, f"{number}".encode(), number)
            if number % 4 == 3:
                assert {one.status for one in answers(sender, 4)} == {200}
                time.sleep(0.005)
        assert {received.body for received in server.received} == {f"{number}".encode() for number in range(40)}


def test_a_server_that_closes_idle_connections_is_reached_again() -> None:
    with running(Server()) as server, transport(endpoint(server.url)) as sender:
        for _ in range(5):
            assert ask(sender).status == 200
            server.hang_up()
        assert server.connections == 5


def test_a_server_that_closes_before_its_answer_makes_an_error_and_the_next_request_goes_on() -> None:
    replies = iter([CLOSE, CLOSE, ok()])
    with running(Server(lambda _: next(replies))) as server, transport(endpoint(server.url)) as sender:
        for _ in range(2):
            answer = ask(sender)
            assert answer.status == 0
            assert answer.error
            assert answer.body == b""
        assert ask(sender).status == 200


def test_an_answer_that_is_cut_short_is_an_error() -> None:
    server = Server(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", closes=lambda _: True)
    with running(server), transport(endpoint(server.url)) as sender:
        answer = ask(sender)
    assert answer.status == 0
    assert answer.error


@pytest.mark.parametrize("garbage", [b"\x00\xff" * 100, b"220 smtp.example ready\r\n", b"HTTP/1.1 200"])
def test_what_isnt_http_is_an_error(garbage: bytes) -> None:
    server = Server(lambda _: garbage, closes=lambda _: True)
    with running(server), transport(endpoint(server.url)) as sender:
        answer = ask(sender)
    assert answer.status == 0
    assert answer.error


def test_connections_that_are_refused_are_errors_for_each_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with transport(endpoint(f"http://127.0.0.1:{port}"), connections=8) as sender:
        for _ in range(2):
            for number in range(8):
                sender.begin(REQUEST, b"{}", number)
            found = answers(sender, 8)
            assert {one.token for one in found} == set(range(8))
            assert all("connect" in one.error.lower() for one in found)
            assert {one.status for one in found} == {0}


def test_a_host_that_doesnt_exist_is_an_error() -> None:
    with transport(endpoint("http://queue.invalid")) as sender:
        answer = ask(sender)
    assert answer.status == 0
    assert "queue.invalid" in answer.error


def test_connections_that_are_reset_are_errors_for_each_request() -> None:
    class Reset(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(10)
            # Closing without lingering sends RST.
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.request.close()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Reset) as listener:
        thread = threading.Thread(target=listener.serve_forever, args=(0.05,))
        thread.start()
        with transport(endpoint(f"http://127.0.0.1:{listener.server_address[1]}"), connections=4) as sender:
            for number in range(4):
                sender.begin(REQUEST, b"x" * 100_000, number)
            found = answers(sender, 4)
        listener.shutdown()
        thread.join()
    assert {one.token for one in found} == set(range(4))
    assert all(one.error and one.status == 0 for one in found)


def test_an_answer_that_doesnt_come_is_an_error_in_time_and_the_others_come() -> None:
    def answer(request: Received) -> bytes:
        if request.body == b"slow":
            time.sleep(4)
        return ok()

    with running(Server(answer)) as server, transport(endpoint(server.url), connections=2) as sender:
        began = time.monotonic()
        sender.begin(REQUEST, b"slow", "slow")
        sender.begin(REQUEST, b"fast", "fast")
        first, second = answers(sender, 2)
        assert (first.token, first.status) == ("fast", 200)
        assert (second.token, second.status) == ("slow", 0)
        assert "timed out" in second.error.lower()
        assert time.monotonic() - began < 3
        assert ask(sender, b"fast").status == 200


def test_without_anything_to_wait_for_a_poll_ends_with_its_timeout() -> None:
    with running(Server()) as server, transport(endpoint(server.url)) as sender:
        began = time.monotonic()
        assert sender.poll(0.1) == []
        assert 0.09 < time.monotonic() - began < 1
        assert sender.poll(0) == []


def test_a_transport_may_be_closed_with_requests_in_flight() -> None:
    def answer(_: Received) -> bytes:
        time.sleep(0.5)
        return ok()

    with running(Server(answer)) as server, transport(endpoint(server.url), connections=4) as sender:
        for number in range(3):
            sender.begin(REQUEST, b"{}", number)
        sender.poll(0.05)


# ---- Clock and credentials


@pytest.mark.parametrize("status", ["403 Forbidden", "400 Bad Request"])
@pytest.mark.parametrize("hours", [-1, 1, 30])
def test_a_clock_that_is_wrong_is_corrected_by_the_date_of_the_refusal(hours: int, status: str) -> None:
    theirs = time.time() + hours * HOUR

    def answer(request: Received) -> bytes:
        date = f"Date: {email.utils.formatdate(theirs, usegmt=True)}\r\n"
        is_right = abs(request.signed_at.timestamp() - theirs) < 300
        return ok(headers=date) if is_right else ok(b"{}", status=status, headers=date)

    with running(Server(answer)) as server, transport(endpoint(server.url), connections=2) as sender:
        sender.begin(REQUEST, b"1", 1)
        sender.begin(REQUEST, b"2", 2)
        for refused in answers(sender, 2):
            assert refused.status == int(status[:3])
            assert sender.clock_was_wrong(refused)
        again = ask(sender)
        assert again.status == 200
        assert not sender.clock_was_wrong(again)
        assert all(received.is_signed_by(SECRET) for received in server.received)


@pytest.mark.parametrize("date", ["", "Date: nonsense\r\n", "Date: \r\n", "now"])
def test_a_refusal_with_no_other_time_leaves_the_clock(date: str) -> None:
    def answer(_: Received) -> bytes:
        headers = f"Date: {email.utils.formatdate(usegmt=True)}\r\n" if date == "now" else date
        return ok(b"{}", status="403 Forbidden", headers=headers)

    with running(Server(answer)) as server, transport(endpoint(server.url)) as sender:
        for _ in range(2):
            refused = ask(sender)
            assert refused.status == 403
            assert not sender.clock_was_wrong(refused)
        assert abs(server.received[-1].signed_at.timestamp() - time.time()) < 30


def test_temporary_credentials_that_rotate_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inventory_enqueue.aws.transport._CREDENTIALS_FOR", 0.0)
    issued: list[SigningCredentials] = []

    def credentials() -> SigningCredentials:
        number = len(issued)
        issued.append(SigningCredentials(f"ASIA{number}", f"secret-{number}", f"token-{number}"))
        return issued[-1]

    with running(Server()) as server, transport(endpoint(server.url, credentials)) as sender:
        signers = [ask(sender).signed_by for _ in range(10)]
    assert len(set(signers)) == 10
    for signer, received in zip(signers, server.received, strict=True):
        assert signer is not None
        assert received.headers["x-amz-security-token"] == signer.token
        assert received.is_signed_by(signer)


def test_credentials_are_asked_for_again_when_they_are_refused() -> None:
    current = SigningCredentials("ASIA1", "secret-1", "token-1")
    asked = 0

    def credentials() -> SigningCredentials:
        nonlocal asked
        asked += 1
        return current

    def answer(request: Received) -> bytes:
        return ok() if "ASIA2" in request.headers["authorization"] else ok(b"{}", status="403 Forbidden")

    with running(Server(answer)) as server, transport(endpoint(server.url, credentials)) as sender:
        refused = ask(sender)
        assert ask(sender).status == 403
        assert asked == 1, "they are kept for a while"
        assert not sender.credentials_changed(refused)
        current = SigningCredentials("ASIA2", "secret-2")
        assert sender.credentials_changed(refused)
        accepted = ask(sender)
        assert accepted.status == 200
        assert not sender.credentials_changed(accepted)
        assert server.received[-1].is_signed_by(current)
        assert "x-amz-security-token" not in server.received[-1].headers


def test_without_credentials_a_request_raises_and_the_transport_goes_on() -> None:
    known: list[SigningCredentials] = []

    def credentials() -> SigningCredentials:
        if not known:
            raise NoCredentialsError
        return known[0]

    with running(Server()) as server, transport(endpoint(server.url, credentials)) as sender:
        for _ in range(3):
            with pytest.raises(NoCredentialsError):
                sender.begin(REQUEST, b"{}", 1)
        known.append(SECRET)
        assert ask(sender).status == 200


def test_credentials_that_cannot_be_had_again_count_as_unchanged() -> None:
    """An answer that says they have expired is still an answer: nobody must lose it."""
    known: list[SigningCredentials] = [SECRET]

    def credentials() -> SigningCredentials:
        if not known:
            raise RuntimeError("Credentials were refreshed, but the refreshed credentials are still expired.")
        return known[0]

    expired = ok(b"{}", status="403 Forbidden")
    with running(Server(lambda _: expired)) as server, transport(endpoint(server.url, credentials)) as sender:
        refused = ask(sender)
        known.clear()
        assert not sender.credentials_changed(refused)


@pytest.mark.parametrize("path", ["/queues", "/a/b/"])
def test_an_endpoint_with_a_path_is_signed_with_it(path: str) -> None:
    with running(Server()) as server, transport(endpoint(server.url + path)) as sender:
        assert ask(sender).status == 200
    (received,) = server.received
    assert received.target == path.rstrip("/") + "/"
    assert received.is_signed_by(SECRET)


def test_an_idle_connection_keeps_nothing_of_the_last_request() -> None:
    class Token:
        """What a request is about."""

    with running(Server()) as server, transport(endpoint(server.url)) as sender:
        token = Token()
        kept = weakref.ref(token)
        sender.begin(REQUEST, b"{}", token)
        del token
        (answer,) = answers(sender, 1)
        assert answer.token is kept()
        del answer
        gc.collect()
        assert kept() is None


def test_requests_that_need_no_signature_have_none() -> None:
    with running(Server()) as server, transport(endpoint(server.url, lambda: None)) as sender:
        assert ask(sender).signed_by is None
    assert not {"authorization", "x-amz-date"} & server.received[0].headers.keys()


# ---- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 and queue.test that nobody trusts, and what a server with it needs."""
    folder = tmp_path_factory.mktemp("tls")
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", folder / "key.pem", "-out", folder / "certificate.pem", "-days", "2", "-subj", "/CN=test"),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:queue.test,DNS:sqs.eu-west-1.amazonaws.com"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return folder / "certificate.pem", context


def test_a_certificate_that_isnt_trusted_is_an_error(certificate: tuple[Path, ssl.SSLContext]) -> None:
    trusted = sqs_endpoint(AwsSettings(), QUEUE).ca_bundle
    with running(Server(tls=certificate[1])) as server:
        with transport(replace(endpoint(server.url), ca_bundle=trusted)) as sender:
            answer = ask(sender)
        assert answer.status == 0
        assert "certificate" in answer.error.lower()
        assert server.received == []


def test_a_certificate_of_the_bundle_is_trusted(certificate: tuple[Path, ssl.SSLContext]) -> None:
    bundle, context = certificate
    with (
        running(Server(tls=context)) as server,
        transport(replace(endpoint(server.url), ca_bundle=str(bundle)), connections=4) as sender,
    ):
        for number in range(4):
            sender.begin(REQUEST, b"{}", number)
        assert {one.status for one in answers(sender, 4)} == {200}
        assert ask(sender).status == 200
        assert server.connections == 4
        assert server.received[0].is_signed_by(SECRET)


def test_a_certificate_for_another_host_is_an_error(certificate: tuple[Path, ssl.SSLContext]) -> None:
    bundle, context = certificate
    with running(Server(tls=context)) as server:
        other = f"https://localhost:{server.port}"
        with transport(replace(endpoint(other), ca_bundle=str(bundle))) as sender:
            answer = ask(sender)
    assert answer.status == 0
    assert server.received == []


# ---- The endpoint, as botocore finds it


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


def quick(found: Endpoint) -> Endpoint:
    return replace(found, connect_timeout=2, read_timeout=2)


def test_requests_go_through_the_proxy_of_the_environment(no_proxies: pytest.MonkeyPatch) -> None:
    with running(Server()) as proxy:
        no_proxies.setenv("HTTP_PROXY", proxy.url)
        with transport(quick(sqs_endpoint(AwsSettings(), "http://queue.test:4566/1/q"))) as sender:
            assert ask(sender).status == 200
        (received,) = proxy.received
        assert received.target == "http://queue.test:4566/"
        assert received.headers["host"] == "queue.test:4566"
        assert received.is_signed_by(SigningCredentials("test", "test"))


@pytest.mark.parametrize(
    ("queue_url", "host"),
    [
        ("http://queue.test:80/1/q", "queue.test"),
        ("http://Queue.TEST/1/q", "queue.test"),
    ],
)
def test_the_host_is_signed_as_it_is_sent(queue_url: str, host: str, no_proxies: pytest.MonkeyPatch) -> None:
    with running(Server()) as proxy:
        no_proxies.setenv("http_proxy", proxy.url)
        with transport(quick(sqs_endpoint(AwsSettings(), queue_url))) as sender:
            assert ask(sender).status == 200
        assert proxy.received[0].headers["host"].lower() == host
        assert proxy.received[0].is_signed_by(SigningCredentials("test", "test"))


def test_tls_goes_through_a_tunnel_of_the_proxy(
    no_proxies: pytest.MonkeyPatch, certificate: tuple[Path, ssl.SSLContext]
) -> None:
    bundle, context = certificate
    with running(Server(tls=context)) as server, running(Server(tunnels_to=server)) as proxy:
        no_proxies.setenv("HTTPS_PROXY", proxy.url.removeprefix("http://"))
        no_proxies.setenv("AWS_CA_BUNDLE", str(bundle))
        with transport(quick(sqs_endpoint(AwsSettings(), QUEUE))) as sender:
            for _ in range(3):
                assert ask(sender).status == 200
        assert [(one.method, one.target) for one in proxy.received] == [("CONNECT", "sqs.eu-west-1.amazonaws.com:443")]
        assert "authorization" not in proxy.received[0].headers
        assert [one.headers["host"] for one in server.received] == ["sqs.eu-west-1.amazonaws.com"] * 3
        assert server.received[0].is_signed_by(SigningCredentials("test", "test"))


def test_a_proxy_that_refuses_is_an_error(no_proxies: pytest.MonkeyPatch) -> None:
    with running(Server(lambda _: ok(b"no", status="407 Proxy Authentication Required"))) as proxy:
        no_proxies.setenv("HTTPS_PROXY", proxy.url)
        with transport(quick(sqs_endpoint(AwsSettings(), QUEUE))) as sender:
            answer = ask(sender)
        assert answer.status == 0
        assert answer.error


def test_a_host_of_no_proxy_is_reached_without_one(no_proxies: pytest.MonkeyPatch) -> None:
    with running(Server()) as server, running(Server()) as proxy:
        no_proxies.setenv("HTTP_PROXY", proxy.url)
        no_proxies.setenv("NO_PROXY", "127.0.0.1,.internal")
        with transport(quick(sqs_endpoint(AwsSettings(), f"{server.url}/1/q"))) as sender:
            assert ask(sender).status == 200
        assert (len(server.received), len(proxy.received)) == (1, 0)
        assert sqs_endpoint(AwsSettings(), "http://queue.internal/1/q").proxy is None
        assert sqs_endpoint(AwsSettings(), "http://queue.test/1/q").proxy == proxy.url
        assert sqs_endpoint(AwsSettings(), "https://queue.test/1/q").proxy is None


def test_the_certificates_of_the_environment_and_of_the_profile_are_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    usual = sqs_endpoint(AwsSettings(), QUEUE).ca_bundle
    assert usual is not None
    assert Path(usual).is_file()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/requests.pem")
    assert sqs_endpoint(AwsSettings(), QUEUE).ca_bundle == "/requests.pem"
    config = tmp_path / "config"
    config.write_text("[default]\nca_bundle = /profile.pem\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    assert sqs_endpoint(AwsSettings(), QUEUE).ca_bundle == "/profile.pem"
    monkeypatch.setenv("AWS_CA_BUNDLE", "/aws.pem")
    assert sqs_endpoint(AwsSettings(), QUEUE).ca_bundle == "/aws.pem"


VPC: Final = "https://vpce-0123456789abcdef0-01234567.sqs.eu-west-1.vpce.amazonaws.com"


@pytest.mark.parametrize(
    ("queue_url", "aws", "url", "region"),
    [
        (QUEUE, AwsSettings(), "https://sqs.eu-west-1.amazonaws.com", "eu-west-1"),
        (QUEUE, AwsSettings(region="us-west-2"), "https://sqs.eu-west-1.amazonaws.com", "eu-west-1"),
        (QUEUE, AwsSettings(sqs_region="us-west-2"), "https://sqs.us-west-2.amazonaws.com", "us-west-2"),
        (QUEUE, AwsSettings(sqs_endpoint_url="http://127.0.0.1:4566"), "http://127.0.0.1:4566", "eu-west-1"),
        (
            "https://sqs.cn-north-1.amazonaws.com.cn/1/q",
            AwsSettings(),
            "https://sqs.cn-north-1.amazonaws.com.cn",
            "cn-north-1",
        ),
        (f"{VPC}/123456789012/q", AwsSettings(), VPC, "eu-west-1"),
        (
            "https://eu-west-1.queue.amazonaws.com/1/q",
            AwsSettings(),
            "https://sqs.eu-west-1.amazonaws.com",
            "eu-west-1",
        ),
        ("https://queue.amazonaws.com/1/q", AwsSettings(), "https://sqs.us-east-1.amazonaws.com", "us-east-1"),
        ("http://localhost:4566/0/q", AwsSettings(), "http://localhost:4566", "us-east-1"),
        ("http://localhost:4566/0/q", AwsSettings(region="eu-north-1"), "http://localhost:4566", "eu-north-1"),
    ],
)
def test_the_endpoint_is_the_one_that_boto3s_client_has(
    queue_url: str, aws: AwsSettings, url: str, region: str
) -> None:
    found = sqs_endpoint(aws, queue_url)
    assert (found.url, found.region, found.service) == (url, region, "sqs")
    client = sqs_client(aws, queue_url)
    assert (client.meta.endpoint_url, client.meta.region_name) == (url, region)


def test_a_fips_endpoint_is_used_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    found = sqs_endpoint(AwsSettings(), "https://sqs.us-west-2.amazonaws.com/123456789012/q")
    assert (found.url, found.region) == ("https://sqs-fips.us-west-2.amazonaws.com", "us-west-2")


def test_an_endpoint_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:1234")
    assert sqs_endpoint(AwsSettings(), QUEUE).url == "http://127.0.0.1:1234"


def test_a_profile_gives_credentials_and_the_region(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        "[profile other]\nregion = eu-south-2\n"
        "aws_access_key_id = ASIAOTHER\naws_secret_access_key = other-secret\naws_session_token = other-token\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with running(Server()) as server:
        found = sqs_endpoint(AwsSettings(profile="other"), f"{server.url}/1/q")
        assert found.region == "eu-south-2"
        assert found.credentials() == SigningCredentials("ASIAOTHER", "other-secret", "other-token")
        with transport(quick(found)) as sender:
            assert ask(sender).status == 200
        assert server.received[0].is_signed_by(SigningCredentials("ASIAOTHER", "other-secret", "other-token"))
        assert "/eu-south-2/sqs/aws4_request" in server.received[0].headers["authorization"]


def test_an_endpoint_without_credentials_says_so_when_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    found = sqs_endpoint(AwsSettings(), QUEUE)
    with pytest.raises(NoCredentialsError):
        found.credentials()
