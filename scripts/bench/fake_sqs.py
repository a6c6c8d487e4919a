"""Starts sqs_server.c, which is compiled when it has changed, with TLS certificates made for the occasion. Linux."""

import http.client
import json
import os
import ssl
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

_SOURCE: Final = Path(__file__).with_name("sqs_server.c")
_QUEUE: Final = "000000000000/bench"

_CA_EXTENSIONS: Final = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\n"
_SERVER_EXTENSIONS: Final = (
    "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"
    "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\nsubjectAltName=IP:127.0.0.1,DNS:localhost\n"
)


@dataclass(frozen=True)
class Certificates:
    """PEM files: an authority's certificate, and the certificate and key of a server on this machine."""

    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class FakeSqs:
    """A running server.

    Args:
        queue_url: Of a queue; any other name would do as well.
        authority: The certificate to trust; None where it speaks plain HTTP.
    """

    queue_url: str
    authority: Path | None

    @property
    def endpoint_url(self) -> str:
        """The server's address."""
        url = urlsplit(self.queue_url)
        return f"{url.scheme}://{url.netloc}"

    def stats(self) -> dict[str, Any]:
        """What the server counted, and the CPU seconds it took."""
        address = urlsplit(self.queue_url).netloc
        connection = (
            http.client.HTTPSConnection(address, context=ssl.create_default_context(cafile=self.authority))
            if self.authority
            else http.client.HTTPConnection(address)
        )
        try:
            connection.request("GET", "/_stats")
            stats: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return stats


@contextmanager
def fake_sqs(
    folder: Path, options: Sequence[str] = (), *, tls: bool = True, launcher: Sequence[str] = ()
) -> Iterator[FakeSqs]:
    """Runs the server, and stops it at the end; then what it recorded is complete.

    Args:
        folder: For the program.
        options: Of the server, as its source tells them.
        tls: Whether it speaks TLS or plain HTTP.
        launcher: A command that starts the server's command: taskset, for example.

    Raises:
        RuntimeError: The server ended with an error, or by itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [*launcher, str(compiled(folder)), *options]
    with tempfile.TemporaryDirectory() as temporary:
        authority = None
        if tls:
            certificates = make_certificates(Path(temporary))
            authority = certificates.authority
            command += ["--cert", str(certificates.certificate), "--key", str(certificates.key)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own server
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            port = process.stdout.readline().strip()
            try:
                if not port:
                    raise RuntimeError(f"{_SOURCE.stem} didn't start")
                yield FakeSqs(f"{'https' if tls else 'http'}://127.0.0.1:{port}/{_QUEUE}", authority)
            finally:
                process.terminate()
    if process.returncode:
        raise RuntimeError(f"{_SOURCE.stem} ended with {process.returncode}")


def compiled(folder: Path) -> Path:
    """The server's program, which is built where it's older than its source."""
    program = folder / _SOURCE.stem
    if not program.exists() or program.stat().st_mtime < _SOURCE.stat().st_mtime:
        begun = program.with_suffix(f".{os.getpid()}")
        _run("cc", "-std=gnu11", "-O2", "-o", str(begun), str(_SOURCE), "-lssl", "-lcrypto")
        begun.rename(program)
    return program


def make_certificates(folder: Path) -> Certificates:
    """An authority of our own, and a server's certificate from it."""
    for name, extensions in (("authority", _CA_EXTENSIONS), ("server", _SERVER_EXTENSIONS)):
        key, request, made, signer = (folder / f"{name}{suffix}" for suffix in (".key", ".csr", ".pem", ".ext"))
        signer.write_text(extensions, encoding="ascii")
        _run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key))
        _run("openssl", "req", "-new", "-key", str(key), "-subj", f"/CN=bench {name}", "-out", str(request))
        issued_by = (
            ("-signkey", str(key))
            if name == "authority"
            else ("-CA", str(folder / "authority.pem"), "-CAkey", str(folder / "authority.key"), "-CAcreateserial")
        )
        sign = ["openssl", "x509", "-req", "-days", "30", "-in", str(request), "-extfile", str(signer)]
        _run(*sign, *issued_by, "-out", str(made))
    return Certificates(folder / "authority.pem", folder / "server.pem", folder / "server.key")


def _run(*command: str) -> None:
    """Runs a command to its end; says what it said where it failed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - cc and openssl, as above
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{done.stderr}")
