"""Messages on the wire: ours come back equal, foreign ones come whole, and copies carry what is not ours."""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from random import Random
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands
from pamqp.header import ContentHeader

from telex import InvalidMessage
from telex.engine import Channel, ChannelKind, Outgoing
from telex.engines.rabbitmq import table
from telex.engines.rabbitmq.catalog import Catalog
from telex.engines.rabbitmq.codec import WAIT, Counts, Death, Reader, encode
from telex.engines.rabbitmq.ladder import MARK, Ladder
from telex.engines.rabbitmq.names import Names
from telex.engines.rabbitmq.outbound import Outbound
from telex.message import Message

NOW = datetime(2030, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
NAMES = Names("", {})
READER = Reader(NAMES, None, Random(1), lambda: NOW)
FRAME = 131072
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def properties(payload: bytes) -> commands.Basic.Properties:
    """As any other client reads them."""
    header = ContentHeader()
    header.unmarshal(payload)
    return header.properties


def foreign(**fields: object) -> bytes:
    return ContentHeader(body_size=4, properties=commands.Basic.Properties(**fields)).marshal()  # type: ignore[arg-type]


@given(
    st.from_regex(r"[!-~]{1,100}", fullmatch=True),
    st.none() | TEXT.filter(lambda key: 0 < len(key.encode()) <= 128),
    st.dictionaries(st.from_regex(r"(?!telex-)[a-z0-9-]{1,20}", fullmatch=True), TEXT, max_size=5),
    st.none() | st.timedeltas(timedelta(0), timedelta(days=9)),
)
def test_a_message_comes_back_equal(
    id: str, key: str | None, headers: dict[str, str], expires: timedelta | None
) -> None:
    message = Message(
        id=id,
        channel="orders.placed",
        body=b"body",
        time=NOW,
        key=key,
        headers=headers,
        expires=None if expires is None else NOW + expires,
        correlation_id="c1",
        reply_to=NAMES.inbox(Random(2)),
    )
    payload = encode(message, channel=False, frame_max=FRAME)
    incoming = READER.read(b"orders.placed", payload, b"body")
    assert incoming.message == message
    assert incoming.known
    assert properties(payload).message_id == id


def test_counts_and_death_come_back() -> None:
    message = Message(id="m", channel="work", body=b"", time=NOW)
    counts = Counts(failures=3, losses=2, trial=1, redrives=4, errors=('{"number":1}', '{"number":2}'))
    death = Death("exhausted", "it failed\nthrice", "KeyError|a:1", NOW)
    payload = encode(message, channel=True, counts=counts, death=death, frame_max=FRAME)
    incoming = READER.read(b"work:dead", payload, b"")
    assert (incoming.message, incoming.counts, incoming.death) == (message, counts, death)


def test_a_history_is_cut_to_fit_the_oldest_first() -> None:
    message = Message(id="m", channel="work", body=b"", time=NOW)
    errors = tuple(f"{number}" * 4000 for number in range(9))
    payload = encode(message, channel=True, counts=Counts(errors=errors), frame_max=FRAME)
    kept = READER.read(b"", payload, b"").counts.errors
    assert kept == errors[-len(kept) :]
    assert 3 <= len(kept) < 9


def test_headers_that_do_not_fit_into_a_frame_are_refused() -> None:
    headers = {f"h{number}": "x" * 4096 for number in range(32)}
    message = Message(id="m", channel="work", body=b"", time=NOW, headers=headers)
    with pytest.raises(InvalidMessage, match="headers"):
        encode(message, channel=False, frame_max=FRAME)


def test_a_foreign_message_comes_whole_and_its_copy_keeps_the_native_types() -> None:
    headers = {
        "x-request-id": "r1",
        "Count": 7,
        "big": 2**40,
        "flag": True,
        "nested": {"a": [1, "b"]},
        "x-death": [{"queue": "q", "count": 1}],
        "x-first-death-queue": "q",
        "x-delivery-count": 3,
        "CC": ["elsewhere"],
    }
    payload = foreign(
        headers=headers,
        content_type="text/plain",
        priority=3,
        message_type="kind",
        app_id="app",
        user_id="guest",
        expiration="1000",
        reply_to="amq.rabbitmq.reply-to.g2",
        timestamp=datetime(2029, 1, 1, tzinfo=UTC),
    )
    incoming = READER.read(b"orders.placed", payload, b"body")
    message = incoming.message
    assert (message.channel, message.content_type, message.key) == ("orders.placed", "text/plain", None)
    assert message.time == datetime(2029, 1, 1, tzinfo=UTC)
    assert message.reply_to is None, "answers go to inboxes of Telex only"
    assert incoming.returns == 3
    assert not incoming.known
    assert message.headers["x-request-id"] == "r1"
    assert message.headers["count"] == "7"
    copy = properties(encode(message, channel=True, frame_max=FRAME))
    assert copy.headers is not None
    kept = {name: value for name, value in copy.headers.items() if not name.startswith("telex-")}
    assert kept == {name: headers[name] for name in ("x-request-id", "Count", "big", "flag", "nested")}
    assert (copy.priority, copy.message_type, copy.app_id) == (3, "kind", "app")
    assert (copy.user_id, copy.expiration) == (None, None)
    assert copy.reply_to == "amq.rabbitmq.reply-to.g2"
    assert copy.delivery_mode == 2


@pytest.mark.parametrize("payload", [b"", b"\0" * 5, b"\x00\x3c\x00\x00" + b"\xff" * 30, b"\xff" * 14])
def test_damaged_properties_stop_nobody(payload: bytes) -> None:
    incoming = READER.read(b"work", payload, b"body")
    assert incoming.message.body == b"body"
    assert incoming.message.id


@pytest.mark.parametrize("number", [2**62, -(2**62)])
def test_what_is_no_instant_is_left_out(number: int) -> None:
    headers = {"telex-time": number, "telex-expires": number, "telex-died": number, "telex-reason": "exhausted"}
    incoming = READER.read(b"work:dead", foreign(headers=headers), b"body")
    assert (incoming.message.time, incoming.message.expires) == (NOW, None)
    assert incoming.death == Death("exhausted", "", "", None)


@given(st.binary(max_size=200))
def test_no_properties_can_hurt(payload: bytes) -> None:
    READER.read(b"work", payload, b"body")


def largest(outbound: Outbound, to: Channel) -> Message:
    """A message with the most headers that can be published."""
    full = {f"h{number:02}": "x" * 4096 for number in range(30)}

    def message(size: int) -> Message:
        headers = {**full, "more": "x" * (size // 2), "most": "x" * (size - size // 2)}
        return Message(id="m" * 36, channel=to.name, body=b"", time=NOW, headers=headers)

    def is_refused(size: int) -> bool:
        try:
            outbound.direct(Outgoing(to=to, message=message(size)))
        except InvalidMessage:
            return True
        return False

    return message(bisect_left(range(8192), True, key=is_refused) - 1)


@pytest.mark.parametrize("kind", [ChannelKind.QUEUE, ChannelKind.TOPIC])
def test_whatever_can_be_published_can_be_tried_again_put_on_trial_and_buried(kind: ChannelKind) -> None:
    ladder = cast(Ladder, None)
    outbound = Outbound(NAMES, cast(Catalog, None), ladder, ladder, lambda: NOW, 2**24)
    message = largest(outbound, Channel("work.of.the.day" * 4, kind))
    errors = ("e" * 3000,) * 4
    waits = [table.raw_item(WAIT + str(level).encode(), MARK) for level in range(29)]
    encode(message, channel=True, counts=Counts(failures=1, errors=errors), waits=waits, frame_max=FRAME)
    outbound.to_queue("work:trial", message, Counts(failures=1, losses=2, trial=0, errors=errors))
    counts = Counts(failures=4, losses=2, trial=3, redrives=1, errors=errors)
    death = Death("exhausted", "x" * 2000, "ValueError|app:work", NOW)
    outbound.letter("work", message, counts, death)
    payload = encode(message, channel=True, counts=counts, death=death, frame_max=FRAME)
    assert READER.read(b"work:dead", payload, b"").death == death
