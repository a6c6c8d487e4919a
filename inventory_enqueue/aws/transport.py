"""Many signed requests in flight from one thread, over libcurl's multi interface.

Connections are kept alive; credentials, endpoint, certificates and proxies are those that botocore found (session.py).
"""

import select
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import sha256
from select import POLLIN, POLLOUT
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import pycurl
from botocore.exceptions import BotoCoreError

from inventory_enqueue.aws.session import Endpoint
from inventory_enqueue.aws.signing import SignedRequest, Signer, Signing, SigningCredentials
from inventory_enqueue.version import __version__

_CREDENTIALS_FOR: Final = 10.0
"""Seconds after which botocore is asked again: it refreshes temporary credentials minutes before they expire."""
_MAX_SKEW: Final = 30.0
"""Seconds. A clock that differs less isn't why a signature was refused."""
_OK: Final = 200
_REFUSED: Final = frozenset({400, 401, 403})
"""Statuses with which a signature is refused."""
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_NO_EXPECT: Final = ("Expect:",)
"""libcurl would wait for a go-ahead before a larger body."""
_ACTIONS: Final = {POLLIN: pycurl.CSELECT_IN, POLLOUT: pycurl.CSELECT_OUT}
_EVENTS: Final = {pycurl.POLL_IN: POLLIN, pycurl.POLL_OUT: POLLOUT, pycurl.POLL_INOUT: POLLIN | POLLOUT}


@dataclass(frozen=True)
class Request:
    """What is asked of the endpoint."""

    method: str = "POST"
    path: str = "/"
    """Percent-encoded."""
    query: str = ""
    """Without "?": sorted by name, percent-encoded."""
    headers: tuple[tuple[str, str], ...] = ()
    """Names in lower case; the signature's come by themselves."""


class Answer(NamedTuple):
    """How a request ended."""

    token: object
    """What begin() was given."""
    began: float
    """In seconds of time.monotonic()."""
    seconds: float
    status: int = 0
    """HTTP's; 0 where no answer came."""
    body: bytes = b""
    headers: Mapping[str, str] = _NO_HEADERS
    """Names in lower case. Only of answers that aren't 200."""
    error: str = ""
    """Why there is no answer."""
    signed_by: SigningCredentials | None = None


class _Exchange:
    """One handle of libcurl, for one request after the other."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.curl = curl = pycurl.Curl()
        self.token: object = None
        self.signed_by: SigningCredentials | None = None
        self.began = 0.0
        self.method = ""
        self.url = ""
        self.lines: list[bytes] = []
        self.chunks: list[bytes] = []
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.TCP_KEEPALIVE, 1)
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.CONNECTTIMEOUT, endpoint.connect_timeout)
        curl.setopt(pycurl.TIMEOUT, endpoint.connect_timeout + endpoint.read_timeout)
        curl.setopt(pycurl.HEADERFUNCTION, self.lines.append)
        curl.setopt(pycurl.WRITEFUNCTION, self.chunks.append)
        curl.setopt(pycurl.USERAGENT, f"inventory-enqueue/{__version__}")
        # An empty proxy keeps libcurl from looking for one by itself: botocore did.
        curl.setopt(pycurl.PROXY, endpoint.proxy or "")
        if endpoint.ca_bundle is None:
            curl.setopt(pycurl.SSL_VERIFYPEER, 0)
            curl.setopt(pycurl.SSL_VERIFYHOST, 0)
        else:
            curl.setopt(pycurl.CAINFO, endpoint.ca_bundle)

    def prepare(self, token: object, method: str, url: str, headers: list[str], body: bytes | None) -> None:
        self.token = token
        self.lines.clear()
        self.chunks.clear()
        curl = self.curl
        if url != self.url:
            self.url = url
            curl.setopt(pycurl.URL, url)
        if method != self.method:
            self.method = method
            curl.setopt(pycurl.HTTPGET if method == "GET" else pycurl.POST, 1)
        curl.setopt(pycurl.HTTPHEADER, headers)
        if body is not None:
            curl.setopt(pycurl.POSTFIELDS, body)
        self.began = time.monotonic()

    def answer(self, error: str = "") -> Answer:
        status = 0 if error else self.curl.getinfo(pycurl.RESPONSE_CODE)
        headers = _NO_HEADERS if status == _OK else _headers(self.lines)
        seconds = time.monotonic() - self.began
        return Answer(self.token, self.began, seconds, status, b"".join(self.chunks), headers, error, self.signed_by)


class Transport:
    """Requests to one endpoint. Not to be used by two threads at a time."""

    def __init__(self, endpoint: Endpoint, *, connections: int) -> None:
        """Makes it; connections are opened when they are first used.

        Args:
            endpoint: Where to, and how.
            connections: Requests in flight, at most.
        """
        self._endpoint = endpoint
        url = urlsplit(endpoint.url)
        # As libcurl sends it, and it is signed.
        self._host = url.netloc.removesuffix({"http": ":80", "https": ":443"}[url.scheme])
        self._base = endpoint.url.rstrip("/")
        self._path = url.path.rstrip("/")
        """Of an endpoint that isn't a host's root: it is signed, too."""
        self._signer = Signer(endpoint.service, endpoint.region, encodes_path_again=endpoint.service != "s3")
        self._clock_offset = 0.0
        self._second: tuple[int, SigningCredentials | None] = (0, None)
        self._request: Request | None = None
        self._signing: Signing | None = None
        self._fixed: list[str] = []
        self._clock_set = float("-inf")
        self._credentials: SigningCredentials | None = None
        self._credentials_until = 0.0
        self._exchanges = [_Exchange(endpoint) for _ in range(connections)]
        self._idle = list(self._exchanges)
        self._by_curl = {exchange.curl: exchange for exchange in self._exchanges}
        # Cheaper than epoll here: libcurl changes what it waits for twice a request, which costs no system call.
        self._poll = select.poll()
        self._watched: set[int] = set()
        self._timer: float | None = None
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, connections)

    def begin(self, request: Request, body: bytes | None, token: object) -> None:
        """Begins a request; poll() tells how it ended. At most `connections` are in flight.

        Args:
            request: What is asked.
            body: Of a POST.
            token: Comes back with the answer.

        Raises:
            BotoCoreError: There are no credentials any more.
        """
        credentials = self._current_credentials()
        exchange = self._idle.pop()
        path = f"{request.path}?{request.query}" if request.query else request.path
        exchange.signed_by = credentials
        headers = self._headers(request, body or b"", credentials)
        exchange.prepare(token, request.method, self._base + path, headers, body)
        self._multi.add_handle(exchange.curl)

    def _headers(self, request: Request, body: bytes, credentials: SigningCredentials | None) -> list[str]:
        """The request's headers, with its signature: all but that is the same for the requests of a second."""
        second = int(time.time() + self._clock_offset)
        if (second, credentials) != self._second or request is not self._request:
            self._second, self._request = (second, credentials), request
            fixed = [*(f"{name}: {value}" for name, value in request.headers), *_NO_EXPECT]
            self._signing = None
            if credentials is not None:
                path = self._path + request.path
                signed = SignedRequest(request.method, self._host, path, request.query, request.headers)
                self._signing = self._signer.begin(signed, credentials, datetime.fromtimestamp(second, tz=UTC))
                fixed += [f"{name}: {value}" for name, value in self._signing.headers]
            self._fixed = fixed
        if self._signing is None:
            return self._fixed
        return [*self._fixed, f"authorization: {self._signing.authorization(sha256(body).hexdigest())}"]

    def _current_credentials(self) -> SigningCredentials | None:
        now = time.monotonic()
        if now >= self._credentials_until:
            self._credentials = self._endpoint.credentials()
            self._credentials_until = now + _CREDENTIALS_FOR
        return self._credentials

    def poll(self, timeout: float) -> list[Answer]:
        """Waits until requests end.

        Args:
            timeout: Seconds, at most.

        Returns:
            Those that ended; none after the timeout, or where nothing is in flight.
        """
        deadline = time.monotonic() + timeout
        while True:
            now = time.monotonic()
            until = deadline if self._timer is None else min(deadline, self._timer)
            for descriptor, events in self._poll.poll(max(0.0, until - now) * 1000):
                if descriptor in self._watched:
                    self._multi.socket_action(descriptor, _ACTIONS.get(events, pycurl.CSELECT_IN | pycurl.CSELECT_OUT))
            now = time.monotonic()
            if self._timer is not None and self._timer <= now:
                self._timer = None
                self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
            answers = self._ended()
            if answers or now >= deadline:
                return answers

    def _ended(self) -> list[Answer]:
        answers: list[Answer] = []
        queued = 1
        while queued:
            queued, done, failed = self._multi.info_read()
            answers += [self._take(curl, "") for curl in done]
            answers += [self._take(curl, message or "the connection failed") for curl, _, message in failed]
        return answers

    def _take(self, curl: Any, error: str) -> Answer:  # noqa: ANN401 - pycurl has no types
        exchange = self._by_curl[curl]
        self._multi.remove_handle(curl)
        self._idle.append(exchange)
        answer = exchange.answer(error)
        # An idle exchange would keep the whole chunk that its last request belonged to.
        exchange.token = None
        if answer.status in _REFUSED:
            self._mind_the_clock(answer)
        return answer

    def _mind_the_clock(self, answer: Answer) -> None:
        """A signature is refused where our clock is wrong: the answer's Date tells the server's.

        https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html
        """
        try:
            offset = parsedate_to_datetime(answer.headers["date"]).timestamp() - time.time()
        except (KeyError, ValueError, TypeError):
            return
        if abs(offset - self._clock_offset) > _MAX_SKEW:
            self._clock_offset = offset
            self._clock_set = time.monotonic()

    def clock_was_wrong(self, answer: Answer) -> bool:
        """Whether the request was signed with a time that has been corrected since."""
        return answer.began < self._clock_set

    def credentials_changed(self, answer: Answer) -> bool:
        """Whether others are to be had by now than those that the request was signed with."""
        self._credentials_until = float("-inf")
        try:
            return self._current_credentials() != answer.signed_by
        except (BotoCoreError, RuntimeError):
            return False

    def close(self) -> None:
        """Ends what is in flight, and closes the connections."""
        for exchange in self._exchanges:
            if exchange not in self._idle:
                self._multi.remove_handle(exchange.curl)
            exchange.curl.close()
        self._multi.close()

    def _watch(self, what: int, descriptor: int, _multi: object, _data: object) -> None:
        """Libcurl's word on what it waits for."""
        if what == pycurl.POLL_REMOVE:
            self._watched.discard(descriptor)
            self._poll.unregister(descriptor)
        else:
            self._watched.add(descriptor)
            self._poll.register(descriptor, _EVENTS[what])

    def _set_timer(self, milliseconds: int) -> None:
        """Libcurl's word on when it wants to be called at the latest."""
        self._timer = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000


def _headers(lines: list[bytes]) -> dict[str, str]:
    """Headers by name in lower case: servers write them as they like."""
    pairs = (line.decode("iso-8859-1").partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, colon, value in pairs if colon}
