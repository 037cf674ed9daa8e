"""Store URLs: what `s3://bucket/prefix?option=value` says, checked before anything is tried.

Must never: connect to anything, carry a secret, or repeat one in a message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote, urlencode, urlsplit

from cubefs.errors import StoreError, UsageError
from cubefs.store.base import NAME_MAX_BYTES, check_name

PREFIX_MAX_BYTES = 1024 - NAME_MAX_BYTES - 1  # S3 allows 1024 bytes of key in all, Swift too by default

# S3's rules, and what older buckets and containers may be called; never a path, a port or a user
_PLACES = {
    "s3": ("bucket", re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}", re.ASCII)),
    "swift": ("container", re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,255}", re.ASCII)),
}
_VALUE = re.compile(r"[^\x00-\x1f\x7f]+")


class ObjectUrl(NamedTuple):
    """The URL of a store in a bucket or container."""

    scheme: str
    place: str  # the bucket or container
    prefix: str  # "" or names joined by "/", without one at either end
    options: Mapping[str, str]

    def __str__(self) -> str:
        """Return the one spelling of this URL: understood again, it is the same."""
        words = urlencode(sorted(self.options.items()), safe=":/", quote_via=quote)
        return f"{self.scheme}://{self.place}{'/' if self.prefix else ''}{self.prefix}{words and '?'}{words}"

    def key(self, name: str) -> str:
        """Return the full name, in the bucket or container, of the object `name`."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def name(self, key: str) -> str:
        """Return the object's name for a full name that a listing of our prefix gave."""
        return key[len(self.prefix) + 1 :] if self.prefix else key


def parse_object_url(url: str, *, options: Mapping[str, str]) -> ObjectUrl:
    """Understand `scheme://place/prefix?option=value&...`; raises UsageError.

    options: what may stand behind the question mark, name to an example of a value (for messages).
    """
    scheme, _, rest = url.partition("://")
    path, _, query = rest.partition("?")
    place, _, prefix = path.partition("/")
    what, pattern = _PLACES[scheme]
    example = f"{scheme}://{what}/prefix"
    # names have no "@": whatever stands before one, with or without slashes, is a password
    if "@" in path:
        raise UsageError(
            f"a store URL must not contain credentials; write {example} and give them as the documentation says"
        )
    shown = f"{scheme}://{path}"
    if not place:
        raise UsageError(f"no {what} in {shown!r}; write it as {example}")
    if not pattern.fullmatch(place):
        raise UsageError(f"{place!r} in {shown!r} cannot be the name of a {what}; write the URL as {example}")
    prefix = prefix.strip("/")
    _check_prefix(prefix, shown)
    return ObjectUrl(scheme, place, prefix, _parse_options(query, shown, options))


def parse_endpoint(value: str, *, option: str) -> str:
    """Return the one spelling of a server's address `http(s)://host[:port][/path]`; raises UsageError."""
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
        user = parts.username is not None or parts.password is not None
    except ValueError:
        host, port, user = None, None, "@" in value
    if user:
        raise UsageError(f"the {option} must not contain credentials; give them as the documentation says")
    bad = parts.scheme not in ("http", "https") or parts.query or parts.fragment if host else True
    if bad or not host or re.search(r"\s", value):
        raise UsageError(f"the {option} {value!r} is no address of a server; write {option}=https://host:port")
    if ":" in host:
        host = f"[{host}]"
    usual = {"http": 80, "https": 443}[parts.scheme]
    where = host if port in (None, usual) else f"{host}:{port}"
    return f"{parts.scheme}://{where}{parts.path.rstrip('/')}"


def _check_prefix(prefix: str, shown: str) -> None:
    if not prefix:
        return
    if len(prefix) > PREFIX_MAX_BYTES:
        raise UsageError(f"the prefix in {shown!r} is longer than {PREFIX_MAX_BYTES} characters")
    try:
        check_name(prefix)
    except StoreError:
        raise UsageError(
            f"unusable prefix {prefix!r} in {shown!r}: letters, digits and `-_.` only, no part may begin with"
            " a dot, no two slashes in a row"
        ) from None


def _parse_options(query: str, shown: str, options: Mapping[str, str]) -> dict[str, str]:
    """Understand what stands behind the `?`. Its values stay out of messages: they may be misplaced secrets."""
    given: dict[str, str] = {}
    for word in query.split("&"):
        if not word:
            continue
        name, separator, value = word.partition("=")
        if name not in options:
            known = ", ".join(options)
            raise UsageError(f"unknown option {name!r} of {shown!r}; behind the `?` may stand {known}")
        value = _unquote(value)
        if not separator or not _VALUE.fullmatch(value):
            raise UsageError(f"the option {name} of {shown!r} needs a value, as in {name}={options[name]}")
        if name in given:
            raise UsageError(f"the option {name} of {shown!r} stands twice")
        given[name] = value
    return given


def _unquote(value: str) -> str:
    """Undo %xx; what is then no text counts as nothing."""
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        return ""
