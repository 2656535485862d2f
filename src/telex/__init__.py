"""Telex: reliable messaging for Python."""

from .app import Telex
from .channels import Procedure, Queue, Topic
from .deadletters import Cause, DeadLetter, DeadLetters
from .deadreason import DeadReason
from .delivery.attempt import Attempt
from .delivery.context import Delivery, Middleware
from .engine import EngineSettings, SourceStats
from .errors import (
    AccessDenied,
    Closed,
    ConfigError,
    Disconnected,
    HandlerTimeout,
    InvalidMessage,
    LeaseLost,
    MessageTooLarge,
    PublishFailed,
    PublishUncertain,
    RemoteError,
    RequestTimeout,
    StoreDamaged,
    TelexError,
    Undecodable,
    UnknownChannel,
    Unsupported,
)
from .features import Features
from .handlers import Handlers
from .idempotency import IdempotencyStore, idempotent
from .message import Message
from .policy import Batch, Discard, Reject, Retry, RetryAfter, Verdict
from .publishing import PublishMiddleware
from .stats import Stats

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "Attempt",
    "Batch",
    "Cause",
    "Closed",
    "ConfigError",
    "DeadLetter",
    "DeadLetters",
    "DeadReason",
    "Delivery",
    "Discard",
    "Disconnected",
    "EngineSettings",
    "Features",
    "HandlerTimeout",
    "Handlers",
    "IdempotencyStore",
    "InvalidMessage",
    "LeaseLost",
    "Message",
    "MessageTooLarge",
    "Middleware",
    "Procedure",
    "PublishFailed",
    "PublishMiddleware",
    "PublishUncertain",
    "Queue",
    "Reject",
    "RemoteError",
    "RequestTimeout",
    "Retry",
    "RetryAfter",
    "SourceStats",
    "Stats",
    "StoreDamaged",
    "Telex",
    "TelexError",
    "Topic",
    "Undecodable",
    "UnknownChannel",
    "Unsupported",
    "Verdict",
    "idempotent",
]
