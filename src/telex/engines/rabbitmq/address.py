"""The URL: which broker, which virtual host, how; and what a refusal means, without secrets."""

from __future__ import annotations

from collections.abc import Mapping
from ssl import SSLError

import msgspec
from aiormq.exceptions import AuthenticationError, ProbableAuthenticationError
from yarl import URL

from ...errors import AccessDenied, ConfigError, Disconnected
from ...urls import redact

HEARTBEAT = 15
"""Seconds. A connection that is silent for two of these is dead: broken cables are noticed within half a minute."""
SETTINGS = frozenset(
    ("heartbeat", "cafile", "capath", "cadata", "certfile", "keyfile", "no_verify_ssl", "name", "auth")
)
ACCESS_REFUSED, NOT_ALLOWED = 403, 530
PORTS = {"amqp": 5672, "amqps": 5671}


class Address(msgspec.Struct, frozen=True):
    """Where the broker is.

    Attributes:
        url: For the client library; secret.
        place: Host, port and virtual host, for people.
        heartbeat: Seconds.
    """

    url: URL
    place: str
    heartbeat: int

    def __repr__(self) -> str:
        return f"Address({self.place!r})"


def parse(text: str, app: str) -> Address:
    """Takes a URL apart.

    Raises:
        ConfigError: It is no AMQP URL, or has a setting that there is not. The text shows no password.
    """
    shown = redact(text)
    try:
        url = URL(text)
        port = url.port or PORTS.get(url.scheme)
    except ValueError:
        raise ConfigError(f"URL {shown}: it is no URL; write amqp://user:password@host:port/vhost") from None
    if url.scheme not in PORTS or not url.host or port is None:
        raise ConfigError(f"URL {shown}: write amqp://user:password@host:port/vhost, or amqps:// for TLS")
    unknown = sorted(set(url.query) - SETTINGS)
    if unknown:
        raise ConfigError(
            f"URL {shown}: there is no setting {', '.join(unknown)}; known are {', '.join(sorted(SETTINGS))}"
        )
    beat = _heartbeat(url.query, shown)
    url = url.with_port(port)
    query = {"name": f"telex {app}", **url.query, "heartbeat": str(beat)}
    vhost = url.path[1:].replace("%2F", "/") if url.path not in ("", "/") else "/"
    return Address(url.with_query(query), f"{url.host}:{port} (virtual host {vhost!r})", beat)


def _heartbeat(query: Mapping[str, str], shown: str) -> int:
    text = query.get("heartbeat", str(HEARTBEAT))
    if not text.isdecimal() or not 1 <= int(text) <= 3600:
        raise ConfigError(f"URL {shown}: heartbeat={text!r} must be a whole number of seconds from 1 to 3600")
    return int(text)


def refusal(error: BaseException, goodbye: tuple[int, str] | None, address: Address) -> Disconnected:
    """What it means that a connection was not opened. The broker's texts name users, never passwords.

    Args:
        error: What the client library raised.
        goodbye: What the broker said: a code of AMQP 0-9-1 and a text.
        address: Where.
    """
    if isinstance(error, AuthenticationError | ProbableAuthenticationError):
        return AccessDenied(f"the broker at {address.place} refuses the user or the password")
    if goodbye is not None:
        code, text = goodbye
        kind = AccessDenied if code in (ACCESS_REFUSED, NOT_ALLOWED) else Disconnected
        return kind(f"the broker at {address.place} refuses the connection: {text}")
    cause = error.__cause__ if isinstance(error.__cause__, SSLError) else error
    why = str(cause) or type(cause).__name__
    return Disconnected(f"the broker at {address.place} cannot be reached: {why}")
