"""Forks: what belongs to the parent is not the child's, though its memory is a copy."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable


def watch(
    *,
    in_child: Callable[[], object],
    before: Callable[[], object] | None = None,
    in_parent: Callable[[], object] | None = None,
) -> None:
    """Calls methods at every fork of this process, for as long as their objects live (`os.register_at_fork`)."""
    os.register_at_fork(
        before=_weakly(before or _nothing),
        after_in_parent=_weakly(in_parent or _nothing),
        after_in_child=_weakly(in_child),
    )


def _weakly(method: Callable[[], object]) -> Callable[[], None]:
    reference = weakref.WeakMethod(method) if hasattr(method, "__self__") else lambda: method

    def call() -> None:
        if (there := reference()) is not None:
            there()

    return call


def _nothing() -> None:
    return None
