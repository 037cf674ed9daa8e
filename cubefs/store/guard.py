"""The last net under a driver: whatever goes wrong inside, only what the contract names comes out.

Must never: stand in for a driver's own translation, which knows what an error means; here it is only caught.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from cubefs.errors import CubefsError, StoreError
from cubefs.store.base import GivenUpError, ObjectInfo, Store
from cubefs.visible import one_line

TEXT_MAX = 200  # characters of the inner error's text in the message

_METHODS = ("put", "put_new", "get", "get_range", "head", "delete", "delete_many", "now_ns", "free_bytes")

S = TypeVar("S", bound=Store)


def guarded(driver: type[S]) -> type[S]:
    """Decorate a driver's class: its calls raise StoreError for every Exception that is not meant to come out.

    That is a fault of ours or of a library, not of the store's: not retryable, and the message says so.
    """
    for name in _METHODS:
        setattr(driver, name, _guarded_call(getattr(driver, name)))
    setattr(driver, "list", _guarded_listing(driver.list))  # noqa: B010 - mypy takes no assignment to a method
    return driver


def _guarded_call(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(store: Store, *arguments: Any, **options: Any) -> Any:
        with _net(store, method.__name__, arguments):
            return method(store, *arguments, **options)

    return call


def _guarded_listing(method: Callable[..., Iterator[ObjectInfo]]) -> Callable[..., Iterator[ObjectInfo]]:
    @functools.wraps(method)
    def listing(store: Store, *arguments: Any, **options: Any) -> Iterator[ObjectInfo]:
        with _net(store, method.__name__, arguments):
            yield from method(store, *arguments, **options)

    return listing


@contextlib.contextmanager
def _net(store: Store, verb: str, arguments: tuple[Any, ...]) -> Iterator[None]:
    try:
        yield
    except (CubefsError, GivenUpError):
        raise
    except Exception as error:
        what = f"{arguments[0]} in " if arguments and isinstance(arguments[0], str) else ""
        text = one_line(f"{type(error).__name__}: {error}")[:TEXT_MAX].rstrip(": ")
        raise StoreError(
            f"{what}{store.describe()}: unexpected fault of {verb}: {text}; please report it"
        ) from error
