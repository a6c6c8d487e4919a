"""Signatures: those that botocore makes, for any request."""

from __future__ import annotations

import random
import re
import string
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from inventory_enqueue.aws.signing import SignedRequest, Signer, SigningCredentials

CASES: Final = 3000
EXAMPLE: Final = SigningCredentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
CHARACTERS: Final = string.ascii_letters + string.digits + " %+~*'()!/?#[]@&=;:,$\"\\<>{}|^`-._" + "\x00\x7fé€\u2028😀"
KEY_CHARACTERS: Final = string.ascii_letters + string.digits + "/+="
SPACES: Final = ("", " ", "  ", "\t", " \t ")


def botocore_authorization(  # noqa: PLR0913 - what a signature depends on
    monkeypatch: pytest.MonkeyPatch,
    request: SignedRequest,
    body: bytes,
    credentials: SigningCredentials,
    now: datetime,
    *,
    service: str,
    region: str,
) -> str:
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: now.replace(tzinfo=None))
    query = f"?{request.query}" if request.query else ""
    theirs = AWSRequest(
        method=request.method,
        url=f"https://{request.host}{request.path}{query}",
        headers=dict(request.headers),
        data=body,
    )
    kind = S3SigV4Auth if service == "s3" else SigV4Auth
    kind(Credentials(credentials.access_key, credentials.secret_key, credentials.token), service, region).add_auth(
        theirs
    )
    assert theirs.headers["X-Amz-Date"] == now.strftime("%Y%m%dT%H%M%SZ")
    return str(theirs.headers["Authorization"])


def text(chance: random.Random, characters: str, most: int, *, least: int = 0) -> str:
    return "".join(chance.choices(characters, k=chance.randint(least, most)))


def path(chance: random.Random, service: str) -> str:
    if service != "s3":
        # botocore takes dots and empty segments out of other services' paths; ours has none of them.
        segments = (text(chance, CHARACTERS.replace(".", ""), 8, least=1) for _ in range(chance.randint(0, 3)))
        return "/" + "/".join(quote(segment, safe="~") for segment in segments)
    return "/" + quote(text(chance, CHARACTERS, 30), safe="/~")


def query(chance: random.Random) -> str:
    names = {text(chance, CHARACTERS, 6, least=1) for _ in range(chance.randint(0, 4))}
    pairs = sorted((quote(name, safe="~"), quote(text(chance, CHARACTERS, 8), safe="~")) for name in names)
    return "&".join(f"{name}={value}" for name, value in pairs)


def headers(chance: random.Random) -> tuple[tuple[str, str], ...]:
    names = {f"x-{text(chance, string.ascii_lowercase + string.digits + '-', 8, least=1)}" for _ in range(3)}
    names |= set(chance.sample(["content-type", "x-amz-target", "accept", "range"], chance.randint(0, 4)))
    found = []
    for name in chance.sample(sorted(names), len(names)):
        words = [text(chance, string.ascii_letters + "/.;=,", 6) for _ in range(chance.randint(0, 3))]
        value = "".join(f"{chance.choice(SPACES)}{word}{chance.choice(SPACES)}" for word in words)
        found.append((name, value))
    return tuple(found)


@pytest.mark.parametrize("service", ["sqs", "s3", "execute-api"])
def test_thousands_of_requests_are_signed_as_botocore_signs_them(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One signer a region signs them all, so that what it keeps must never be that of another day or credentials."""
    chance = random.Random(service)  # noqa: S311 - a test's cases
    regions = ("us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1")
    signers = {region: Signer(service, region, encodes_path_again=service != "s3") for region in regions}
    everybody = [
        SigningCredentials(
            text(chance, string.ascii_uppercase, 20, least=16),
            text(chance, KEY_CHARACTERS, 40, least=1),
            text(chance, KEY_CHARACTERS, 400, least=1) if chance.random() < 0.5 else None,
        )
        for _ in range(5)
    ]
    for _ in range(CASES):
        region = chance.choice(regions)
        body = chance.randbytes(chance.choice([0, 1, 100]))
        digest = sha256(body).hexdigest()
        beside = (("x-amz-content-sha256", digest),) if service == "s3" else ()
        request = SignedRequest(
            method=chance.choice(["GET", "POST", "PUT", "HEAD"]),
            host=chance.choice(["sqs.us-east-1.amazonaws.com", "127.0.0.1:4566", "[::1]:4566", "a-b.vpce.example"]),
            path=path(chance, service),
            query=query(chance),
            headers=(*headers(chance), *beside),
        )
        now = datetime(2026, 2, 27, 23, 59, 58, tzinfo=UTC) + timedelta(seconds=chance.choice([0, 1, 2, 86_400, 10**8]))
        credentials = chance.choice(everybody)
        signing = signers[region].begin(request, credentials, now)
        theirs = botocore_authorization(monkeypatch, request, body, credentials, now, service=service, region=region)
        assert signing.authorization(digest) == theirs, request
        token = [] if credentials.token is None else [("x-amz-security-token", credentials.token)]
        assert signing.headers == [("x-amz-date", now.strftime("%Y%m%dT%H%M%SZ")), *token]


def test_requests_of_one_second_that_differ_in_their_bodies_have_signatures_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = SignedRequest("POST", "sqs.eu-west-1.amazonaws.com", headers=(("x-amz-target", "AmazonSQS.SendMessage"),))
    now = datetime(2026, 11, 24, 1, 2, 3, 999_999, tzinfo=UTC)
    signing = Signer("sqs", "eu-west-1").begin(request, EXAMPLE, now)
    bodies = [f"body {number}".encode() for number in range(100)]
    signatures = [signing.authorization(sha256(body).hexdigest()) for body in bodies]
    assert len(set(signatures)) == 100
    for body, signature in zip(bodies, signatures, strict=True):
        assert signature == botocore_authorization(
            monkeypatch, request, body, EXAMPLE, now, service="sqs", region="eu-west-1"
        )


def test_only_s3_takes_the_path_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    request = SignedRequest("GET", "h", "/a%20b/../c//d")
    now = datetime(2026, 11, 24, tzinfo=UTC)
    empty = sha256(b"").hexdigest()
    hashed = replace(request, headers=(("x-amz-content-sha256", empty),))
    ours = Signer("s3", "us-east-1", encodes_path_again=False).begin(hashed, EXAMPLE, now).authorization(empty)
    assert ours == botocore_authorization(monkeypatch, hashed, b"", EXAMPLE, now, service="s3", region="us-east-1")
    assert ours != Signer("s3", "us-east-1").begin(hashed, EXAMPLE, now).authorization(empty)


def test_secrets_never_appear_where_credentials_are_shown() -> None:
    credentials = SigningCredentials("AKIDEXAMPLE", "a-secret", "a-token")
    signing = Signer("sqs", "us-east-1").begin(
        SignedRequest("POST", "h"), credentials, datetime(2026, 1, 1, tzinfo=UTC)
    )
    for shown in (repr(credentials), str(credentials), f"{[credentials]}", repr(signing), repr(signing.__dict__)):
        assert not re.search("a-secret", shown)
    assert "a-token" not in repr(credentials)
    assert "a-secret" not in signing.authorization(sha256(b"").hexdigest())
