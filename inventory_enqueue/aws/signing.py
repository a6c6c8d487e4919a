"""Signature Version 4, fast: the signing key of a day and the head of equal requests are kept. Pure.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

import hmac
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Final
from urllib.parse import quote

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_INNER_PAD: Final = 0x36
_OUTER_PAD: Final = 0x5C


@dataclass(frozen=True, repr=False)
class SigningCredentials:
    """What requests are signed with. Never shown."""

    access_key: str
    secret_key: str
    token: str | None = None


@dataclass(frozen=True)
class SignedRequest:
    """The parts of a request that a signature covers, without its body."""

    method: str
    host: str
    path: str = "/"
    """As it is sent: percent-encoded."""
    query: str = ""
    """As it is sent, without "?": sorted by name, percent-encoded."""
    headers: tuple[tuple[str, str], ...] = ()
    """Names in lower case; host and those of the signature come by themselves."""


class Signer:
    """Signs requests to one service in one region."""

    def __init__(self, service: str, region: str, *, encodes_path_again: bool = True) -> None:
        """Makes it.

        Args:
            service: The signing name: sqs, s3.
            region: Of the endpoint.
            encodes_path_again: As all services but S3 have it.
        """
        self._service = service
        self._region = region
        self._encodes_path_again = encodes_path_again
        self._key = lru_cache(maxsize=4)(self._make_key)

    def begin(self, request: SignedRequest, credentials: SigningCredentials, now: datetime) -> "Signing":
        """Does all of a signature that doesn't depend on the body.

        Args:
            request: What is signed.
            credentials: Whose signature.
            now: In UTC, by the server's clock.
        """
        timestamp = now.strftime("%Y%m%dT%H%M%SZ")
        headers = [("x-amz-date", timestamp)]
        if credentials.token is not None:
            headers.append(("x-amz-security-token", credentials.token))
        signed = {"host": request.host, **dict(request.headers), **dict(headers)}
        names = sorted(signed)
        lines = "".join(f"{name}:{' '.join(signed[name].split())}\n" for name in names)
        path = quote(request.path, safe="/~") if self._encodes_path_again else request.path
        signed_names = ";".join(names)
        scope = f"{timestamp[:8]}/{self._region}/{self._service}/aws4_request"
        return Signing(
            headers=headers,
            canonical=f"{request.method}\n{path}\n{request.query}\n{lines}\n{signed_names}\n",
            to_sign=f"{_ALGORITHM}\n{timestamp}\n{scope}\n",
            key=self._key(credentials.secret_key, timestamp[:8]),
            before=(
                f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, SignedHeaders={signed_names}, Signature="
            ),
        )

    def _make_key(self, secret_key: str, day: str) -> bytes:
        key = f"AWS4{secret_key}".encode()
        for part in (day, self._region, self._service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return key


class Signing:
    """Signatures of requests that differ in nothing but their bodies."""

    def __init__(
        self, *, headers: list[tuple[str, str]], canonical: str, to_sign: str, key: bytes, before: str
    ) -> None:
        """Takes what Signer.begin() made, and hashes what comes before that by which requests differ."""
        self.headers = headers
        """To send, beside the request's own and Host: names in lower case."""
        self._canonical = sha256(canonical.encode())
        # HMAC as RFC 2104 has it, of a key that is shorter than a block: hmac.digest() would hash the pads each time.
        padded = key.ljust(sha256().block_size, b"\0")
        self._inner = sha256(bytes(byte ^ _INNER_PAD for byte in padded) + to_sign.encode())
        self._outer = sha256(bytes(byte ^ _OUTER_PAD for byte in padded))
        self._before = before

    def authorization(self, body_sha256: str) -> str:
        """The Authorization header.

        Args:
            body_sha256: In hexadecimal.
        """
        canonical, inner, outer = self._canonical.copy(), self._inner.copy(), self._outer.copy()
        canonical.update(body_sha256.encode())
        inner.update(canonical.hexdigest().encode())
        outer.update(inner.digest())
        return self._before + outer.hexdigest()
