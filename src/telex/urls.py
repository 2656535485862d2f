"""URLs, without their secrets."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(://[^/?#@]*?:)[^/?#]*(?=@)")
_SECRET = re.compile(r"([?&][^=&#]*(?:password|secret|token|key)[^=&#]*=)[^&#]*", re.IGNORECASE)


def redact(url: str) -> str:
    """The URL as it may be shown: passwords and secret parameters become ``***``."""
    return _SECRET.sub(r"\1***", _PASSWORD.sub(r"\1***", url))
