"""Every error Telex raises, and what each says about the outcome.

    TelexError
    ├── ConfigError (ValueError)          the program asks for something that cannot be
    │   └── Unsupported                   this engine cannot do it; says why and what to do instead
    ├── PublishFailed                     certainly stored nowhere
    │   ├── InvalidMessage (ValueError)   refused before any I/O
    │   │   └── MessageTooLarge
    │   └── UnknownChannel                the queue, procedure or topic does not exist
    ├── PublishUncertain                  may be stored; publish again with the same id
    ├── RequestTimeout (TimeoutError)     no answer in time; the request may still run until it expires
    ├── RemoteError                       the procedure's handler raised
    ├── LeaseLost                         another worker may have this message now
    ├── Undecodable                       the body does not fit the handler's type
    ├── HandlerTimeout (TimeoutError)     the handler ran longer than its ``timeout``
    ├── Closed                            you closed it, or never opened it
    ├── Disconnected (ConnectionError)    the world broke it
    │   └── AccessDenied                  credentials or rights are refused
    └── StoreDamaged                      the embedded store is damaged, foreign or was replaced

``Reject``, ``RetryAfter`` and ``Discard`` (in `telex.policy`) are verdicts of a handler, not
errors, and stand outside this tree so that ``except TelexError`` never swallows one.
"""

from __future__ import annotations


class TelexError(Exception):
    """Base of every error that Telex raises."""


class ConfigError(TelexError, ValueError):
    """The application is declared wrongly. Raised at import or at open, before any message moves."""


class Unsupported(ConfigError):
    """The engine cannot do what the application asks.

    Attributes:
        feature: What was asked for, for example ``"replay"``.
        engine: The engine that refuses, for example ``"memory"``.
        because: Why it cannot.
        instead: What to do instead.
    """

    def __init__(self, feature: str, engine: str, because: str, instead: str) -> None:
        super().__init__(f"{feature} is not supported by the {engine} engine: {because}. Instead: {instead}.")
        self.feature = feature
        self.engine = engine
        self.because = because
        self.instead = instead


class PublishFailed(TelexError):
    """The message is certainly stored nowhere; publishing again cannot make a duplicate.

    Attributes:
        id: The message's id (of the first message not stored, for ``publish_many``).
        stored: For ``publish_many`` and ``send_many``, how many messages from the start are certainly stored.
    """

    def __init__(self, text: str, *, id: str = "", stored: int = 0) -> None:
        super().__init__(text)
        self.id = id
        self.stored = stored


class InvalidMessage(PublishFailed, ValueError):
    """The message breaks a rule (key, headers, id, delay, a body that is not JSON). Raised before any I/O."""


class MessageTooLarge(InvalidMessage):
    """The encoded message is larger than the engine takes. Raised before any I/O.

    Attributes:
        size: Encoded size in bytes.
        limit: The largest size allowed, in bytes.
    """

    def __init__(self, size: int, limit: int, *, id: str = "") -> None:
        super().__init__(
            f"the message is {size} bytes and this engine takes at most {limit}: "
            "store the content elsewhere and send a reference to it",
            id=id,
        )
        self.size = size
        self.limit = limit


class UnknownChannel(PublishFailed):
    """The queue, procedure or (with ``topology="verify"``) topic does not exist. Nothing was stored."""


class PublishUncertain(TelexError):
    """The message may or may not be stored. Publish it again with the same id.

    Attributes:
        id: The id to publish again with (of the first uncertain message, for ``publish_many``).
        stored: For ``publish_many`` and ``send_many``, how many messages from the start are certainly stored.
    """

    def __init__(self, text: str, *, id: str = "", stored: int = 0) -> None:
        super().__init__(text)
        self.id = id
        self.stored = stored


class RequestTimeout(TelexError, TimeoutError):
    """No answer came in time. The request itself expires then too; a late answer is dropped."""


class RemoteError(TelexError):
    """The procedure's handler raised; error details are data, never turned back into a class.

    Attributes:
        type: Name of the class raised on the other side, for example ``"ValueError"``.
        text: Its text.
    """

    def __init__(self, type: str, text: str) -> None:
        super().__init__(f"{type}: {text}" if text else type)
        self.type = type
        self.text = text


class LeaseLost(TelexError):
    """This worker's right to settle the delivery is gone; another worker may have the message."""


class Undecodable(TelexError):
    """The body cannot be decoded into the handler's type. The message goes to dead letters as it is."""


class HandlerTimeout(TelexError, TimeoutError):
    """The handler ran longer than its ``timeout``; the attempt counts as a failure."""


class Closed(TelexError):
    """The application is not open: it was closed, or never opened."""


class Disconnected(TelexError, ConnectionError):
    """The engine cannot reach its broker or file."""


class AccessDenied(Disconnected):
    """The broker or the file system refuses these credentials or this user."""


class StoreDamaged(TelexError):
    """The embedded store is damaged, was made by another program, or was replaced while open."""
