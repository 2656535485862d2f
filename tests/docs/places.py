"""What must be there before a page can be followed: the page for a person on call begins in the middle of trouble."""

from __future__ import annotations

from .blocks import Reader


def prepare(page: str, reader: Reader) -> None:
    """Makes the place that a page takes for granted."""
