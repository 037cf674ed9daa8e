"""Who we are to a Swift cluster: credentials from the usual variables, the storage URL and token they give.

Must never: print, log or keep a secret anywhere but in the values here, which do not show it.
"""

from __future__ import annotations

import enum
import ssl
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from keystoneauth1 import exceptions as keystone
from keystoneauth1 import session
from keystoneauth1.identity import v3
from swiftclient import client

from cubefs.errors import StoreDeniedError, StoreError, StoreUnsuitableError, UsageError
from cubefs.store.swift_http import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, explain
from cubefs.visible import one_line


class Kind(enum.Enum):
    """The ways of authenticating, by the words for messages."""

    VERSION_1 = "Swift's own authentication"
    PASSWORD = "Keystone"
    APPLICATION = "Keystone with an application credential"


_TYPES = {
    "password": Kind.PASSWORD,
    "v3password": Kind.PASSWORD,
    "v3applicationcredential": Kind.APPLICATION,
    "v1password": Kind.VERSION_1,
}
_USER = ("OS_USERNAME", "OS_USER_ID")
_NEEDED = {  # one variable of each line
    Kind.VERSION_1: (("ST_AUTH", "OS_AUTH_URL"), ("ST_USER", "OS_USERNAME"), ("ST_KEY", "OS_PASSWORD")),
    Kind.PASSWORD: (
        ("OS_AUTH_URL",),
        _USER,
        ("OS_PASSWORD",),
        ("OS_PROJECT_NAME", "OS_PROJECT_ID", "OS_TENANT_NAME", "OS_TENANT_ID"),
    ),
    Kind.APPLICATION: (
        ("OS_AUTH_URL",),
        ("OS_APPLICATION_CREDENTIAL_ID", "OS_APPLICATION_CREDENTIAL_NAME"),
        ("OS_APPLICATION_CREDENTIAL_SECRET",),
    ),
}
_KEYSTONE_ADVICE = {
    Kind.PASSWORD: "check user, password, project and domains (OS_USERNAME, OS_PASSWORD, OS_PROJECT_NAME ...)",
    Kind.APPLICATION: "check OS_APPLICATION_CREDENTIAL_ID and _SECRET; the credential may have expired",
}
_EVERYTHING = (
    "ST_AUTH, ST_USER and ST_KEY (Swift's own authentication); or OS_AUTH_URL, OS_USERNAME, OS_PASSWORD and"
    " OS_PROJECT_NAME (Keystone); or OS_STORAGE_URL and OS_AUTH_TOKEN"
)
COMPLAINT_MAX_LENGTH = 300  # of what Keystone says, which is somebody else's text

# statuses of an authentication that only somebody else's server gives
_NO_SWIFT = frozenset({200, 204, 400, 404, 405, 406, 410, 411, 415, 501})


@dataclass(frozen=True)
class Access:
    """What an authentication gives."""

    storage_url: str
    token: str = field(repr=False)


class Login(Protocol):
    """A way to get an `Access`. Frozen; used by any thread."""

    @property
    def auth_url(self) -> str:
        """Where we authenticate."""

    @property
    def advice(self) -> str:
        """What to look at when we are refused."""

    @property
    def absence(self) -> str:
        """What to say when the answer names no storage URL."""

    def authenticate(self) -> tuple[str | None, str | None]:
        """Ask for a storage URL and a token; raises what the libraries raise, `explain` knows it."""


@dataclass(frozen=True)
class Version1:
    """Swift's own authentication: a GET with user and key gives storage URL and token."""

    auth_url: str
    user: str
    key: str = field(repr=False)
    storage_url: str | None = None  # used instead of the one that the answer names
    cacert: str | None = None
    advice: str = "check the user and the key (ST_USER, ST_KEY)"
    absence: str = "no Swift answers there, check the URL"

    def authenticate(self) -> tuple[str | None, str | None]:
        """See Login."""
        given: tuple[str | None, str | None] = client.get_auth(
            self.auth_url,
            self.user,
            self.key,
            auth_version="1",
            cacert=self.cacert,
            timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
            os_options={"object_storage_url": self.storage_url},
        )
        return given


@dataclass(frozen=True)
class Keystone:
    """Keystone v3, by password or by application credential.

    With a session of keystoneauth, since without one swiftclient's application credentials ignore OS_CACERT.
    """

    auth_url: str
    credential: Mapping[str, Any] = field(repr=False)  # arguments of keystoneauth's plugin
    by_password: bool = True
    region: str | None = None
    interface: str = "public"
    service_type: str = "object-store"
    storage_url: str | None = None  # used instead of the one in the catalogue
    cacert: str | None = None
    advice: str = ""

    @property
    def absence(self) -> str:
        """See Login."""
        region = f" in the region {self.region}" if self.region else ""
        return (
            f"the catalogue has no {self.interface} endpoint of the type {self.service_type}{region}: check"
            " OS_REGION_NAME and OS_INTERFACE, or set OS_STORAGE_URL"
        )

    def authenticate(self) -> tuple[str | None, str | None]:
        """See Login."""
        plugin = v3.Password if self.by_password else v3.ApplicationCredential
        given = session.Session(
            auth=plugin(auth_url=self.auth_url, **self.credential),
            verify=self.cacert or True,
            timeout=READ_TIMEOUT_S,
        )
        options = {
            "service_type": self.service_type,
            "endpoint_type": self.interface,
            "region_name": self.region,
            "object_storage_url": self.storage_url,
        }
        found: tuple[str | None, str | None] = client.get_auth(
            self.auth_url, None, None, session=given, os_options=options
        )
        return found


@dataclass(frozen=True)
class Given:
    """A storage URL and a token that somebody else has asked for."""

    storage_url: str
    token: str = field(repr=False)
    absence: str = "no storage URL"
    advice: str = "the token in OS_AUTH_TOKEN may have expired, and no credentials are there to get another"

    @property
    def auth_url(self) -> str:
        """Nobody is asked; for messages."""
        return self.storage_url

    def authenticate(self) -> tuple[str | None, str | None]:
        """See Login."""
        return self.storage_url, self.token


class Account:
    """The storage URL and token that all threads of a store share, renewed by one of them at a time."""

    def __init__(self, login: Login, *, url: str) -> None:
        """Authenticate with the first `access`. url: that of the store, for messages."""
        self.login = login
        self._url = url
        self._lock = threading.Lock()
        self._access: Access | None = None
        self._flight: Future[Access] | None = None

    def access(self) -> Access:
        """Return what is known, or authenticate; raises StoreError."""
        access = self._access
        return access if access is not None else self.renew(None)

    def renew(self, refused: Access | None) -> Access:
        """Return another access than the refused one.

        One thread asks for it; those that come meanwhile wait and get what it got, be it an error: with the
        server away, thirty threads must not wait for it one after the other. Raises StoreError.
        """
        with self._lock:
            if self._access is not None and self._access is not refused:
                return self._access
            flight, leading = self._flight, self._flight is None
            if flight is None:
                flight = self._flight = Future()
        if leading:
            try:
                access = self._authenticate()
            except BaseException as error:
                self._land(None)
                flight.set_exception(error)
                raise
            self._land(access)
            flight.set_result(access)
        return flight.result()

    def _land(self, access: Access | None) -> None:
        with self._lock:
            self._access, self._flight = access, None

    def _authenticate(self) -> Access:
        login = self.login
        what = f"{self._url}: authentication at {login.auth_url}"
        try:
            storage_url, token = login.authenticate()
        except Exception as error:  # the libraries take apart whatever came
            raise _explain_login(error, login, what=what) from error
        if not storage_url or not token or not _is_http(storage_url):
            raise StoreUnsuitableError(f"{what}: {login.absence}")
        return Access(storage_url.rstrip("/"), token)


def _explain_login(error: Exception, login: Login, *, what: str) -> StoreError:
    """Return the store's error for a failed authentication."""
    status = getattr(error, "http_status", None)
    if status in (401, 403) or isinstance(error, keystone.MissingAuthMethods):
        return StoreDeniedError(f"{what} is refused: {login.advice} ({status or 401})")
    if complaint := _find_complaint(error):
        return StoreDeniedError(f"{what} is refused: {complaint} ({status})")
    if isinstance(error, keystone.EndpointNotFound):
        return StoreUnsuitableError(f"{what}: {login.absence}")
    if status in _NO_SWIFT or isinstance(error, keystone.InvalidResponse | keystone.DiscoveryFailure):
        return StoreUnsuitableError(f"{what}: no Swift answers there, check the URL ({status or 'no JSON'})")
    return explain(error, what=what, host=urlsplit(login.auth_url).netloc, authenticating=True)


def _find_complaint(error: Exception) -> str | None:
    """Return what Keystone says against variables that make no sense to it (400)."""
    if not isinstance(error, keystone.BadRequest) or error.response is None:
        return None
    is_keystone = error.response.headers.get("Content-Type", "").startswith("application/json")
    return one_line(str(error.message))[:COMPLAINT_MAX_LENGTH] if is_keystone else None


def find_login(environ: Mapping[str, str], *, region: str | None = None) -> tuple[Login, str | None]:
    """Return the login that the variables describe, and OS_CACERT; raises UsageError.

    region: overrides OS_REGION_NAME. Full credentials win over OS_AUTH_TOKEN, for they can be renewed; where
    both ST_ and OS_ are complete and no version is given, ST_ wins as in swiftclient's own command.
    """
    given = {name: value for name, value in environ.items() if value}
    cacert = _find_cacert(given)
    storage_url, token = given.get("OS_STORAGE_URL"), given.get("OS_AUTH_TOKEN")
    if storage_url:
        storage_url = _checked_url("OS_STORAGE_URL", storage_url)
    kind = _kind(given)
    missing = _missing(given, kind)
    if kind and not missing:
        if kind is Kind.VERSION_1:
            return _version_1(given, storage_url, cacert), cacert
        return _keystone(given, kind, region or given.get("OS_REGION_NAME"), storage_url, cacert), cacert
    if storage_url and token:
        return Given(storage_url, token), cacert
    if kind:
        raise UsageError(f"incomplete credentials for Swift: {kind.value} needs {', '.join(missing)} as well")
    raise UsageError(f"no credentials for Swift: set {_EVERYTHING}")


def _kind(given: Mapping[str, str]) -> Kind | None:
    """Return which authentication is meant."""
    auth_type = given.get("OS_AUTH_TYPE")
    if auth_type is not None:
        if auth_type not in _TYPES:
            raise UsageError(f"OS_AUTH_TYPE={auth_type} is not supported; what is: {', '.join(_TYPES)}")
        return _TYPES[auth_type]
    keystone_kind = Kind.PASSWORD
    if "OS_APPLICATION_CREDENTIAL_SECRET" in given and "OS_PASSWORD" not in given:
        keystone_kind = Kind.APPLICATION
    for name in ("ST_AUTH_VERSION", "OS_AUTH_VERSION", "OS_IDENTITY_API_VERSION"):
        if name in given:
            version = given[name].lower().removeprefix("v").removesuffix(".0")
            if version not in ("1", "3"):
                raise UsageError(
                    f"{name}={given[name]} is not supported; what is: 1 (Swift's own) and 3 (Keystone)"
                )
            return Kind.VERSION_1 if version == "1" else keystone_kind
    if all(name in given for name in ("ST_AUTH", "ST_USER", "ST_KEY")):
        return Kind.VERSION_1
    if "OS_AUTH_URL" in given:
        return keystone_kind
    return Kind.VERSION_1 if any(name in given for name in ("ST_AUTH", "ST_USER", "ST_KEY")) else None


def _missing(given: Mapping[str, str], kind: Kind | None) -> list[str]:
    """Return what the chosen authentication still needs, for a message."""
    needed = [] if kind is None else list(_NEEDED[kind])
    if kind is Kind.APPLICATION and "OS_APPLICATION_CREDENTIAL_ID" not in given:
        needed.append(_USER)  # a name is one of that user's
    return [" or ".join(names) for names in needed if not any(name in given for name in names)]


def _version_1(given: Mapping[str, str], storage_url: str | None, cacert: str | None) -> Version1:
    auth, user, key = (next(name for name in names if name in given) for names in _NEEDED[Kind.VERSION_1])
    return Version1(_checked_url(auth, given[auth]), given[user], given[key], storage_url, cacert)


def _keystone(
    given: Mapping[str, str], kind: Kind, region: str | None, storage_url: str | None, cacert: str | None
) -> Keystone:
    auth_url = _checked_url("OS_AUTH_URL", given["OS_AUTH_URL"])
    if auth_url.endswith("/v2.0"):
        raise UsageError(f"OS_AUTH_URL={auth_url} is Keystone v2, which is not supported: use its /v3")
    credential = _password(given) if kind is Kind.PASSWORD else _application(given)
    return Keystone(
        auth_url if auth_url.endswith("/v3") else f"{auth_url}/v3",
        credential,
        by_password=kind is Kind.PASSWORD,
        region=region,
        interface=(given.get("OS_INTERFACE") or given.get("OS_ENDPOINT_TYPE", "public")).removesuffix("URL"),
        service_type=given.get("OS_SERVICE_TYPE", "object-store"),
        storage_url=storage_url,
        cacert=cacert,
        advice=_KEYSTONE_ADVICE[kind],
    )


def _user(given: Mapping[str, str]) -> dict[str, str]:
    """Return keystoneauth's arguments that say which user; one by name is in a domain."""
    arguments = _picked(
        given,
        user_id="OS_USER_ID",
        username="OS_USERNAME",
        user_domain_id="OS_USER_DOMAIN_ID",
        user_domain_name="OS_USER_DOMAIN_NAME",
    )
    if "username" in arguments and not arguments.keys() & {"user_domain_id", "user_domain_name"}:
        arguments["user_domain_id"] = given.get("OS_DEFAULT_DOMAIN", "default")
    return arguments


def _password(given: Mapping[str, str]) -> dict[str, str]:
    arguments = _user(given) | {"password": given["OS_PASSWORD"]}
    arguments |= _picked(given, project_id="OS_TENANT_ID", project_name="OS_TENANT_NAME")
    arguments |= _picked(
        given,
        project_id="OS_PROJECT_ID",
        project_name="OS_PROJECT_NAME",
        project_domain_id="OS_PROJECT_DOMAIN_ID",
        project_domain_name="OS_PROJECT_DOMAIN_NAME",
    )
    if "project_name" in arguments and not arguments.keys() & {"project_domain_id", "project_domain_name"}:
        arguments["project_domain_id"] = given.get("OS_DEFAULT_DOMAIN", "default")
    return arguments


def _application(given: Mapping[str, str]) -> dict[str, str]:
    arguments = _picked(
        given,
        application_credential_id="OS_APPLICATION_CREDENTIAL_ID",
        application_credential_name="OS_APPLICATION_CREDENTIAL_NAME",
        application_credential_secret="OS_APPLICATION_CREDENTIAL_SECRET",
    )
    return arguments if "application_credential_id" in arguments else arguments | _user(given)


def _picked(given: Mapping[str, str], **names: str) -> dict[str, str]:
    return {argument: given[name] for argument, name in names.items() if name in given}


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _checked_url(name: str, url: str) -> str:
    if "@" in url:
        raise UsageError(f"{name} must not contain credentials: there are variables of their own for them")
    if not _is_http(url):
        raise UsageError(f"{name}={url} is not a URL that begins with http:// or https:// and names a host")
    return url.rstrip("/")


def _find_cacert(given: Mapping[str, str]) -> str | None:
    """Return OS_CACERT, found to hold certificates; a wrong one must not look like a server's fault."""
    path = given.get("OS_CACERT")
    if path is None:
        return None
    try:
        if Path(path).is_dir():
            ssl.create_default_context(capath=path)
        else:
            ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        why = "it holds no certificates" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(f"OS_CACERT={path} cannot be used: {why}") from error
    return path
