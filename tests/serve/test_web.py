"""Who may listen where: loopback, tokens, TLS, sockets; each refusal says what to do."""

import datetime as dt
import socket
import ssl
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from penstock.errors import Again, Halt
from penstock.serve import file_server, web
from penstock.serve.guard import Access, access_of
from penstock.settings.schema import ServeSettings
from penstock.source.directory import DirectorySource
from penstock.source.file_server import ServerSource
from penstock.source.http import HttpSite
from support.fileserver import TOKEN, source_at

NAME = "2026-11-23T06:15:00.123456.json"


@asynccontextmanager
async def serving(root: Path, **given: Any) -> AsyncGenerator[str]:
    """Serve `root`/spool, one file in it, as the settings say."""
    (root / "spool").mkdir(exist_ok=True)
    (root / "spool" / NAME).write_text("{}")
    serve = ServeSettings.model_validate(
        {"listen": "127.0.0.1:0", "token": SecretStr(TOKEN)} | given
    )
    source = DirectorySource(
        root / "spool", pattern=".*", settle_seconds=0, max_file_bytes=99,
        archive_directory=root / "a", rejects_directory=root / "r",
    )  # fmt: skip
    app = file_server.new_app(source, access_of(serve, root / "state"))
    async with web.serving(app, serve) as address:
        yield address


class Authority:
    """A certificate authority of the test's own; `file` holds its certificate.

    With `lax` it is as many private ones are: without the extensions that Python 3.13 wants.
    """

    def __init__(self, root: Path, *, lax: bool = False) -> None:
        self._root, self._lax = root, lax
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.file = self._write("ca.pem", self._certificate(self._name, self._key.public_key()))

    def certificate(self, host: str, *, days: int = 1) -> dict[str, str]:
        """Return the settings of a server with a certificate for `host`."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        certificate = self._certificate(name, key.public_key(), host, days)
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return {
            "tls_cert": self._write(f"{host}.pem", certificate),
            "tls_key": self._write(f"{host}.key", secret),
        }

    def _certificate(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, host: str = "", days: int = 1
    ) -> bytes:
        until = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(until - dt.timedelta(days=30))
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=not host, path_length=None), critical=True)
        )
        if host:
            named = x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
            certificate = certificate.add_extension(
                x509.SubjectAlternativeName([named]), critical=False
            )
        if not self._lax:
            own, its = x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier
            issuer = self._key.public_key()
            certificate = (
                certificate.add_extension(own.from_public_key(key), critical=False)
                .add_extension(its.from_issuer_public_key(issuer), critical=False)
                .add_extension(_usage(signs=not host), critical=True)
            )
        signed = certificate.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    def _write(self, name: str, data: bytes) -> str:
        (self._root / name).write_bytes(data)
        return str(self._root / name)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, key_agreement=False,
        content_commitment=False, key_encipherment=False, data_encipherment=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return an authority for these tests."""
    return Authority(tmp_path_factory.mktemp("authority"))


async def read(address: str, ca_file: str = "") -> bytes:
    """Read the file as a worker does."""
    source = ServerSource(HttpSite(address, token=TOKEN, ca_file=ca_file), max_file_bytes=99)
    try:
        (file,) = await source.read([NAME], 1)
        assert isinstance(file.data, bytes)
        return file.data
    finally:
        await source.close()


async def test_tls_with_a_certificate_that_is_trusted(tmp_path: Path, authority: Authority) -> None:
    """With the authority in source.ca_file the file is read; without it, it halts."""
    async with serving(tmp_path, **authority.certificate("127.0.0.1")) as address:
        assert address.startswith("https://127.0.0.1:")
        assert await read(address, authority.file) == b"{}"
        with pytest.raises(Halt, match="certificate is not trusted"):
            await read(address)
        with pytest.raises(Again):
            await read(address.replace("https", "http"))


async def test_an_authority_that_python_3_13_refuses(tmp_path: Path) -> None:
    """Before 3.13 it is taken; from then on the error says what to make anew."""
    authority = Authority(tmp_path, lax=True)
    async with serving(tmp_path, **authority.certificate("127.0.0.1")) as address:
        if sys.version_info < (3, 13):
            assert await read(address, authority.file) == b"{}"
            return
        with pytest.raises(Halt, match=r"Key Identifier.*subjectKeyIdentifier.*make both again"):
            await read(address, authority.file)


@pytest.mark.parametrize(
    ("host", "days"), [("other.example", 1), ("127.0.0.2", 1), ("127.0.0.1", -1)]
)
async def test_tls_with_a_certificate_of_another_host_or_time(
    tmp_path: Path, authority: Authority, host: str, days: int
) -> None:
    """Signed by whom we trust, but for somebody else, or out of date: it halts."""
    async with serving(tmp_path, **authority.certificate(host, days=days)) as address:
        with pytest.raises(Halt, match="certificate is not trusted"):
            await read(address, authority.file)


def test_old_tls_is_refused(authority: Authority) -> None:
    """The server begins with 1.2."""
    context = web._tls(ServeSettings.model_validate(authority.certificate("127.0.0.1")))
    assert context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


async def test_a_unix_socket(tmp_path: Path) -> None:
    """It needs no token by itself, is used by http+unix://, and is gone afterwards."""
    path = tmp_path / "s"
    async with serving(tmp_path, unix_socket=str(path), token=SecretStr("")) as address:
        assert address == f"http+unix://{path}"
        assert path.stat().st_mode & 0o007 == 0
        assert await read(address) == b"{}"
    assert not path.exists()


async def test_a_unix_socket_may_want_a_token_too(tmp_path: Path) -> None:
    """Where one is set, it counts there as well."""
    path = tmp_path / "s"
    async with serving(tmp_path, unix_socket=str(path), token=SecretStr(TOKEN)) as address:
        assert await read(address) == b"{}"
        source = source_at(address, "wrong")
        with pytest.raises(Halt, match="401"):
            await source.list("")
        await source.close()


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.8.9.10:0", "localhost:0"])
async def test_loopback_needs_no_tls(tmp_path: Path, listen: str) -> None:
    """Nothing of it crosses a wire."""
    async with serving(tmp_path, listen=listen) as address:
        assert await read(address) == b"{}"


async def test_elsewhere_with_token_and_insecure(tmp_path: Path) -> None:
    """Said aloud, clear text is allowed: the network may be private."""
    given = {"listen": "0.0.0.0:0", "token": SecretStr(TOKEN), "insecure": True}
    async with serving(tmp_path, **given) as address:
        assert await read(address.replace("0.0.0.0", "127.0.0.1")) == b"{}"  # noqa: S104


OUTSIDE = [
    "0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.com:0", "127.0.0.1.example.com:0",
    "localhost.example.com:0", "0177.0.0.1:0", "2130706433:0", "[::ffff:192.0.2.1]:0",
]  # fmt: skip
NONE = {"token": SecretStr("")}
MISUSES: list[tuple[dict[str, Any], str]] = [
    *(({"listen": listen, "token": SecretStr(token)}, "without TLS") for listen in OUTSIDE
      for token in ("", TOKEN)),
    ({"token": SecretStr("short")}, "shorter than 16 characters; allowed: .*openssl rand"),
    ({"token": SecretStr(f"{TOKEN} short")}, "shorter than 16"),
    ({"token": SecretStr(f"{TOKEN} {TOKEN}2 {TOKEN}3")}, "3 tokens; allowed: two"),
    ({"token": SecretStr(TOKEN), "token_file": "x"}, "both are given; allowed: one"),
    ({"read_token": SecretStr("short")}, "serve.read_token: shorter than 16 characters"),
    ({**NONE, "token_file": "/nonexistent"}, "serve.token_file: /nonexistent cannot be read"),
    ({**NONE, "token_file": "/dev/null"}, "is empty; allowed: a token"),
    ({"tls_cert": "x"}, "serve.tls_cert, serve.tls_key: one is missing; allowed: both"),
    ({"tls_key": "x"}, "one is missing"),
    ({"tls_cert": "/nonexistent", "tls_key": "/nonexistent"}, "/nonexistent cannot be used"),
    ({"tls_cert": "/dev/null", "tls_key": "/dev/null"}, "/dev/null cannot be used"),
    ({"listen": "127.0.0.1:65536"}, "127.0.0.1:65536: no such port"),
    ({"listen": "127.0.0.1:99999"}, "127.0.0.1:99999: no such port; allowed: 0 to 65535"),
    ({"unix_socket": "/nonexistent/s"}, "serve.unix_socket: cannot listen on /nonexistent/s"),
    ({"unix_socket": "/tmp/" + "s" * 200}, "serve.unix_socket: cannot listen on"),  # noqa: S108
]  # fmt: skip


@pytest.mark.parametrize(("given", "line"), MISUSES)
async def test_what_may_not_be_is_refused_with_its_remedy(
    tmp_path: Path, given: dict[str, Any], line: str
) -> None:
    """In one line, before anything listens, and without a token in it."""
    with pytest.raises(Halt, match=line) as refused:
        async with serving(tmp_path, **given):
            pytest.fail("it listens")
    assert "\n" not in str(refused.value)
    assert TOKEN not in str(refused.value)


async def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    """With its number and the cause."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Halt, match=f"cannot listen on {listen}"):
            async with serving(tmp_path, listen=listen):
                pass


async def test_tokens_come_from_a_file(tmp_path: Path) -> None:
    """One a line or side by side; the spaces around do not count."""
    (tmp_path / "t").write_text(f"\n  {TOKEN}\n{TOKEN}2  \n")
    serve = ServeSettings(token_file=str(tmp_path / "t"))
    assert access_of(serve, tmp_path) == Access((TOKEN, f"{TOKEN}2"))
