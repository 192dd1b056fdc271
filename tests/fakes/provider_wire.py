"""HTTP/1.1 by hand: a server that keeps connections, and breaks them at the byte when it is told to."""

import asyncio
import socket
import ssl
import struct
import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Headers = list[tuple[str, str]]

LONGEST = 64 * 1024 * 1024


class Broken(Exception):
    """The connection is of no more use: it was broken on purpose, or the client went away."""


class Wire:
    """One connection. `read` gives the next request, the rest writes its answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> tuple[str, str, Headers, bytes] | None:
        """Method, target, headers, body; None when the client has hung up. Raises `Broken` for TLS."""
        first = await self._reader.read(1)
        if not first:
            return None
        if not first.isalpha():
            await self._refuse_noise()
        head = first + await self._reader.readuntil(b"\r\n\r\n")
        line, *rest = head[:-4].decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ")
        headers = [
            (name.strip().lower(), value.strip()) for name, _, value in (h.partition(":") for h in rest)
        ]
        return method, target, headers, await self._body(dict(headers))

    async def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("expect", "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return await self._reader.readexactly(int(headers.get("content-length", 0)))
        body = b""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            body += (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readuntil(b"\r\n")
        return body

    async def _refuse_noise(self) -> None:
        """What a plain HTTP port says to somebody who speaks TLS."""
        self._writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        await self._drain()
        raise Broken

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer."""
        await self.head(status, [*headers, ("Content-Length", str(len(body)))])
        await self.raw(body)

    async def head(self, status: int, headers: Headers, pause: float = 0) -> None:
        """The beginning of an answer; with a pause, a few bytes at a time."""
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = "Overloaded"
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers)]
        data = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        step = 16 if pause else len(data)
        for start in range(0, len(data), step):
            await self.raw(data[start : start + step])
            await asyncio.sleep(pause)

    async def chunk(self, data: bytes) -> None:
        await self.raw(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def end(self) -> None:
        """After the last chunk."""
        await self.raw(b"0\r\n\r\n")

    async def raw(self, data: bytes) -> None:
        """Raises `Broken` when the client has gone."""
        self._writer.write(data)
        await self._drain()

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except OSError as error:
            raise Broken from error
        if self._writer.transport.is_closing():
            raise Broken

    def reset(self) -> None:
        """Break the connection as a crashed machine does. Raises `Broken`."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()
        raise Broken

    async def gone(self) -> None:
        """Wait until the client hangs up. Raises `Broken`, always."""
        try:
            while await self._reader.read(65536):
                pass
        except OSError as error:
            raise Broken from error
        raise Broken

    def abort(self) -> None:
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


def self_signed() -> ssl.SSLContext:
    """A server's side of TLS that nobody has a reason to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "provider.invalid")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "both.pem"
        file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
        context.load_cert_chain(file)
    return context
