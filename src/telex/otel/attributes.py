"""The words of OpenTelemetry's messaging conventions, and the few of our own (``telex.…``)."""

from __future__ import annotations

from ..engine import Address, Channel, Fetched, Source
from ..message import Message

SCHEMA = "https://opentelemetry.io/schemas/1.37.0"
"""The version of the conventions that the names below are of."""

SYSTEM = "messaging.system"
OPERATION = "messaging.operation.name"
TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
TEMPORARY = "messaging.destination.temporary"
PARTITION = "messaging.destination.partition.id"
GROUP = "messaging.consumer.group.name"
MESSAGE = "messaging.message.id"
CONVERSATION = "messaging.message.conversation_id"
COUNT = "messaging.batch.message_count"
ERROR = "error.type"

SOURCE = "telex.source"
ATTEMPT = "telex.attempt"
OUTCOME = "telex.outcome"
NEXT = "telex.next_attempt"
REASON = "telex.reason"
REDRIVES = "telex.redrives"

Value = str | int
Attributes = dict[str, Value]


def operation(system: str, verb: str, type: str, destination: str) -> Attributes:
    """What every span says, from its start, so that samplers may look at it."""
    return {SYSTEM: system, OPERATION: verb, TYPE: type, DESTINATION: destination}


def of_source(source: Source, name: str) -> Attributes:
    """Where something is consumed."""
    found: Attributes = {SOURCE: name}
    if source.group is not None:
        found[GROUP] = source.group
    return found


def of_message(message: Message) -> Attributes:
    """Which message; nothing of what is in it."""
    found: Attributes = {MESSAGE: message.id}
    if message.correlation_id is not None:
        found[CONVERSATION] = message.correlation_id
    return found


def of_delivery(fetched: Fetched, source: Source) -> Attributes:
    """Which delivery of it."""
    found = of_message(fetched.message)
    found[ATTEMPT] = fetched.failures + fetched.losses + 1
    if source.ordered:
        found[PARTITION] = str(fetched.lane)
    return found


def destination(to: Address, message: Message) -> str:
    """The name of where a message goes: for a reply, of the procedure that answers."""
    return to.name if isinstance(to, Channel) else message.channel
