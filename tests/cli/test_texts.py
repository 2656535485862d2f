"""Values as texts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from telex import DeadReason, Message
from telex.cli.texts import content, moment, plain, plural, shorten, size, span, squeeze, words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0ms"), (0.25, "250ms"), (4.24, "4.24s"), (61, "1m01s"), (3725, "1h02m"), (90000, "1d01h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert span(seconds) == words(timedelta(seconds=seconds)) == text


def test_sizes_and_numbers() -> None:
    assert [size(n) for n in (0, 1023, 1024, 1_032_192, 5 << 30)] == ["0 B", "1023 B", "1 KiB", "1008 KiB", "5 GiB"]
    assert [plural(n, "letter") for n in (0, 1, 12_000)] == ["0 letters", "1 letter", "12,000 letters"]


@pytest.mark.parametrize("width", range(1, 12))
def test_cut_texts_fit(width: int) -> None:
    for text in ("", "a", "ab", "orders.placed/billing"):
        for cut in (shorten(text, width), squeeze(text, width)):
            assert len(cut) <= width
            assert cut == text or "…" in cut
    assert squeeze("orders.placed/billing", 11) == "order…lling"


def test_instants() -> None:
    now = datetime.now().astimezone()
    assert moment(now) == now.strftime("%H:%M:%S")
    old = now - timedelta(days=3)
    assert moment(old) == old.strftime("%Y-%m-%d %H:%M")
    zone = timezone(timedelta(hours=2))
    assert plain(datetime(2026, 1, 1, 2, tzinfo=zone)) == "2026-01-01T00:00:00+00:00"


def test_json_values() -> None:
    found = plain({"reason": DeadReason.CRASHED, "age": timedelta(minutes=1), "list": (1, None), "odd": "\ud800"})
    assert found == {"reason": "crashed", "age": 60.0, "list": [1, None], "odd": "\\ud800"}


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b'{"a": 1}', "application/json", {"body": {"a": 1}}),
        (b"{broken", "application/json", {"body": "{broken"}),
        (b"[" * 100_000, "application/json", {"body": "[" * 100_000}),
        ("ä".encode(), "application/octet-stream", {"body": "ä"}),
        (b"\xff\x00", "application/octet-stream", {"body_base64": "/wA="}),
    ],
)
def test_bodies(body: bytes, content_type: str, expected: dict[str, object]) -> None:
    message = Message(id="1", channel="c", body=body, time=datetime.now(UTC), content_type=content_type)
    assert content(message) == {"content_type": content_type, **expected}
