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
A_co = TypeVar("A_co", default=Any, covariant=True)
"""An answer, of a procedure: one that answers ints may stand where any object would do, as in ``print(await …)``."""
