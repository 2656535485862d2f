"""The type variables of the public face, with their defaults."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypeVar

T = TypeVar("T", default=Any)
"""A body."""
Q = TypeVar("Q", default=Any)
"""A request."""
A = TypeVar("A", default=Any)
"""An answer."""
