"""URLs: what is wrong is said, and no password with it."""

from __future__ import annotations

import pytest

from telex import AccessDenied, ConfigError, Disconnected
from telex.engines.rabbitmq.address import parse, refusal

SECRET = "s3cret-w0rd"


@pytest.mark.parametrize(
    "url",
    [
        f"amqp://user:{SECRET}@",
        f"http://user:{SECRET}@host/",
        f"amqp://user:{SECRET}@host:port/",
        f"amqp://user:{SECRET}@host/?heartbeat=0",
        f"amqp://user:{SECRET}@host/?heartbeat=often",
        f"amqp://user:{SECRET}@host/?hartbeat=10",
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(url, "app")
    assert SECRET not in str(caught.value)
    assert "amqp" in str(caught.value)


def test_defaults() -> None:
    address = parse(f"amqps://user:{SECRET}@host/shop", "app")
    assert address.place == "host:5671 (virtual host 'shop')"
    assert address.url.query["heartbeat"] == "15"
    assert "no_verify_ssl" not in address.url.query, "certificates are verified unless the URL says otherwise"
    assert SECRET not in repr(address)
    assert parse("amqp://host", "app").place == "host:5672 (virtual host '/')"


@pytest.mark.parametrize(
    ("goodbye", "kind"),
    [
        ((403, "ACCESS_REFUSED - Login was refused"), AccessDenied),
        ((530, "NOT_ALLOWED - vhost shop not found"), AccessDenied),
        ((541, "INTERNAL_ERROR - vhost is down"), Disconnected),
        ((320, "CONNECTION_FORCED - shutdown"), Disconnected),
        (None, Disconnected),
    ],
)
def test_what_a_refusal_means(goodbye: tuple[int, str] | None, kind: type[Disconnected]) -> None:
    error = refusal(OSError("no"), goodbye, parse("amqp://host", "app"))
    assert type(error) is kind
    assert "host:5672" in str(error)
