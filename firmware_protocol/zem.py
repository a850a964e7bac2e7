"""Packets of the remote control of ZepTools' desktop SEMs: text in UDP datagrams. No I/O.

A request is ``$Command:arguments,IP:PORT,CRC%``, an answer ``$Command:values,CRC%``. The CRC is that of Modbus over all
that precedes it, in four hexadecimal digits, low byte first. Written from the maker's open client (pyzemrpc 1.2).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PORT", "SIZES", "Answer", "crc", "decode", "encode"]

PORT = 61557
"""UDP port of the instrument."""

SIZES = {(128, 128): 3, (512, 512): 0, (1024, 1024): 2, (2048, 2048): 1, (1920, 1440): 4, (3840, 2880): 5}
"""Code of each size of frame (width, height) in a Snap request."""

_POLYNOMIAL = 0xA001
_END = b"%"


@dataclass(frozen=True, slots=True)
class Answer:
    """What an instrument answers.

    Parameters
    ----------
    command : str
        Name of the command that is answered.
    values : tuple of str
        What it reports.
    """

    command: str
    values: tuple[str, ...]

    @property
    def error(self) -> str:
        """Why the command was not carried out; an empty text where it was."""
        if self.values and self.values[0].replace(" ", "").lower() == "invalidcommand":
            return "the instrument does not know the command"
        code = next((value.partition(":")[2] for value in self.values if value.startswith("Error Code:")), "0")
        return "" if code == "0" else f"error code {code}"


def crc(data: bytes) -> int:
    """Return the CRC-16 of Modbus.

    Parameters
    ----------
    data : bytes
        Bytes to be checked.
    """
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value


def encode(command: str, arguments: str, host: str, port: int) -> bytes:
    """Return the datagram of a request.

    Parameters
    ----------
    command, arguments : str
        Such as ``"SetWD"`` and ``"12.5"``.
    host, port : str, int
        Address to which the answer is to go.
    """
    body = f"${command}:{arguments},{host}:{port},".encode("ascii")
    return body + _digits(body) + _END


def decode(datagram: bytes) -> Answer:
    """Return what a datagram answers.

    Parameters
    ----------
    datagram : bytes
        Datagram as received.

    Raises
    ------
    ValueError
        When it is no packet, or its CRC is wrong.
    """
    body, digits = datagram[:-5], datagram[-5:-1]
    if datagram[:1] != b"$" or datagram[-1:] != _END or not body.endswith(b","):
        raise ValueError(f"{datagram[:60]!r} is no packet")
    if digits.upper() != _digits(body):
        raise ValueError(f"the CRC of {datagram[:60]!r} is not {_digits(body).decode()}")
    command, _, values = body[1:-1].decode("utf-8").partition(":")
    return Answer(command, tuple(values.split(",")))


def _digits(body: bytes) -> bytes:
    value = crc(body)
    return f"{value & 0xFF:02X}{value >> 8:02X}".encode("ascii")
