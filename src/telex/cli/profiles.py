"""Profiles: named targets in ``telex.toml``, so that no URL stands on a command line.

default = "local"

[profiles.local]
app = "shop:app"

[profiles.production]
app = "shop:app"
url_env = "SHOP_URL"          # or url = "…", or url_file = "…" for one that holds a password
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .output import Exit, Failure

FILE = "telex.toml"
_POSITION = re.compile(r"^(.*) \(at (?:line (\d+), column (\d+)|end of document)\)$", re.DOTALL)


class Profile(NamedTuple):
    """A named target.

    Attributes:
        name: Its name.
        app: ``MODULE:APP``, or None.
        url: Where messages live, or None: the application's own.
        file: Where it is written.
    """

    name: str
    app: str | None
    url: str | None
    file: Path


def find_profile(name: str | None) -> Profile | None:
    """The profile of a name; for None the default one, if there is one.

    Raises:
        Failure: There is no such profile, or the file has a mistake.
    """
    path = config_path()
    if path is None:
        if name is None:
            return None
        raise Failure(Exit.USAGE, f"profile {name!r}: there is no {FILE} here, nor in {_home()}")
    config = _Config(path)
    if name is None and (name := config.default) is None:
        return None
    return config.profile(name)


def profile_names() -> list[str]:
    """The names of all profiles.

    Raises:
        Failure: The file has a mistake.
    """
    path = config_path()
    return [] if path is None else _Config(path).names


def config_path() -> Path | None:
    """The file that counts: in the working directory, else the user's own."""
    for folder in (Path.cwd(), _home()):
        if (path := folder / FILE).is_file():
            return path
    return None


def _home() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "telex"


class _Config:
    """A read file; every mistake in it is reported with its line and column."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(Exit.USAGE, f"{path}: it cannot be read: {error}") from error
        try:
            self._data = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            raise self._unreadable(str(error)) from error
        for key in self._data:
            if key not in ("default", "profiles"):
                raise self._wrong((), key, f"unknown key {key!r}; known are default and profiles")
        profiles = self._data.get("profiles", {})
        if not isinstance(profiles, dict):
            raise self._wrong((), "profiles", "profiles is no table: write [profiles.NAME]")
        self._profiles: Mapping[str, Any] = profiles

    @property
    def default(self) -> str | None:
        """The name of the profile that is used without ``-p``."""
        name = self._data.get("default")
        if name is not None and (not isinstance(name, str) or name not in self._profiles):
            raise self._wrong((), "default", f"default = {name!r}: {self._known()}")
        return name

    @property
    def names(self) -> list[str]:
        return list(self._profiles)

    def profile(self, name: str) -> Profile:
        values = self._profiles.get(name)
        if values is None:
            raise Failure(Exit.USAGE, f"{self._path}: profile {name!r}: {self._known()}")
        where = ("profiles", name)
        if not isinstance(values, dict):
            raise self._wrong(("profiles",), name, f"profile {name!r} is no table: write [profiles.{name}]")
        for key, value in values.items():
            if key not in ("app", "url", "url_env", "url_file"):
                raise self._wrong(where, key, f"unknown key {key!r}; known are app, url, url_env and url_file")
            if not isinstance(value, str) or not value:
                raise self._wrong(where, key, f"{key} must be a text")
        given = [key for key in ("url", "url_env", "url_file") if key in values]
        if len(given) > 1:
            raise self._wrong(where, given[1], f"{' and '.join(given)} say the same thing: keep one")
        if not values:
            raise self._wrong(("profiles",), name, f"profile {name!r} is empty: give it an app, a url or both")
        url = self._url(where, given[0], values[given[0]]) if given else None
        return Profile(name, values.get("app"), url, self._path)

    def _url(self, where: tuple[str, ...], key: str, value: str) -> str:
        if key == "url":
            return value
        if key == "url_env":
            if url := os.environ.get(value):
                return url
            raise self._wrong(where, key, f"the environment variable {value} is not set")
        try:
            url = (self._path.parent / value).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise self._wrong(where, key, f"{value} cannot be read: {error}") from error
        if not url:
            raise self._wrong(where, key, f"{value} is empty")
        return url

    def _known(self) -> str:
        return f"there are {', '.join(self._profiles)}" if self._profiles else "there are no profiles in it"

    def _unreadable(self, text: str) -> Failure:
        line, column = len(self._text.splitlines()), 1
        if match := _POSITION.match(text):
            text = match[1]
            if match[2]:
                line, column = int(match[2]), int(match[3])
        return Failure(Exit.USAGE, f"{self._path}, line {line}, column {column}: {text}")

    def _wrong(self, table: tuple[str, ...], key: str, text: str) -> Failure:
        line, column = self._position(table, key)
        return Failure(Exit.USAGE, f"{self._path}, line {line}, column {column}: {text}")

    def _position(self, table: tuple[str, ...], key: str) -> tuple[int, int]:
        """Where a key stands: the parser does not say for a file that it could read."""
        here: tuple[str, ...] = ()
        for number, line in enumerate(self._text.splitlines(), 1):
            if header := re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line):
                here = _parts(header[1])
                if here[: len(table) + 1] == (*table, key):
                    return number, line.index("[") + 1
            elif (entry := re.match(r"(\s*)([^=#]+?)\s*=", line)) and (*here, *_parts(entry[2])) == (*table, key):
                return number, len(entry[1]) + 1
        return 1, 1


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
