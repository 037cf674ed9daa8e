"""The metadata log in the store: writing bases and log objects, and rebuilding the database from them.

Must never: know what a changeset or a database page means (db/image.py does), or run on the event loop.

Synchronous, for worker threads. The chain: chain_hash(0) is the BLAKE3 of the superblock object, chain_hash(n)
that of the object meta/<n>, and meta/<n> holds chain_hash(n - 1), authenticated. A base holds the state as of
one seq and the chain hash of that seq.

What a crash leaves:
- chunks of a base without its manifest: nobody reads them; the next base of that seq replaces them;
- meta/<n> put, its success not noted locally: the retry sends the same bytes and finds them there;
- `<target>.partial` of a rebuild: the next rebuild starts afresh.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from cubefs.db import image as database_image
from cubefs.errors import (
    IntegrityError,
    LocalDiskError,
    LocalDiskFullError,
    ObjectMissingError,
    UnsupportedVersionError,
)
from cubefs.format import envelope, log, names
from cubefs.format.envelope import ObjectKind
from cubefs.format.keys import Keyring, object_hash
from cubefs.store.base import Store
from cubefs.store.verify import put_new_verified, put_verified

LISTINGS_MAX = 3  # before it is believed that there is no base: a byte of a listing may be wrong, too
FETCH_AHEAD = 4  # objects on their way at once: hides round trips, bounds memory

Progress = Callable[[str, int], None]  # (name of the object just processed, its stored bytes)


class Head(NamedTuple):
    """A position in the log."""

    seq: int
    chain_hash: bytes  # of the object meta/<seq>, or of the superblock for 0
    log_bytes: int  # stored size of the log objects since the newest base
    base_bytes: int  # stored size of the newest base


class LogObject(NamedTuple):
    """One log object, verified, and the position behind it."""

    head: Head
    records: Sequence[log.Record]


# -- bases ----------------------------------------------------------------------------------------------------


def seal_base(
    image: Path, *, log_key: bytes, uuid: bytes, seq: int, chain_hash: bytes
) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each object of a base: the chunks in order, then the manifest.

    `image` is the database as db/image.py takes it: the state as of exactly `seq`.
    """
    chunks: list[log.BaseChunk] = []
    with _local_disk(image), image.open("rb") as file:
        while plain := file.read(log.BASE_CHUNK_MAX_BYTES):
            sealed = envelope.seal(
                plain,
                log_key=log_key,
                uuid=uuid,
                kind=ObjectKind.BASE_CHUNK,
                seq=seq,
                number=len(chunks),
                previous=chain_hash,
            )
            yield names.base_chunk(seq, len(chunks)), sealed
            chunks.append(log.BaseChunk(object_hash(sealed), len(plain)))
    manifest = log.BaseManifest(seq, chain_hash, tuple(chunks))
    yield (
        names.base_manifest(seq),
        envelope.seal(
            log.encode_manifest(manifest),
            log_key=log_key,
            uuid=uuid,
            kind=ObjectKind.BASE_MANIFEST,
            seq=seq,
            previous=chain_hash,
        ),
    )


def write_base(store: Store, *, log_key: bytes, uuid: bytes, seq: int, chain_hash: bytes, image: Path) -> int:
    """Write a base and return its stored size. On return it is in the store, read back, and counts.

    A complete base of this seq that is there already, from an attempt whose success was not noted, is kept:
    its chunks must not be replaced under its manifest. Raises IntegrityError if that one is of another chain.
    """
    try:
        manifest, manifest_bytes = _read_manifest(store, seq, log_key=log_key, uuid=uuid)
    except ObjectMissingError:
        pass
    else:
        if manifest.chain_hash != chain_hash:
            raise IntegrityError(f"{names.base_manifest(seq)} belongs to another line of the metadata log")
        chunk_names = [names.base_chunk(seq, number) for number in range(len(manifest.chunks))]
        return manifest_bytes + sum(store.head(name).size_bytes for name in chunk_names)
    stored_bytes = 0
    for name, sealed in seal_base(image, log_key=log_key, uuid=uuid, seq=seq, chain_hash=chain_hash):
        if name == names.base_manifest(seq):
            put_new_verified(store, name, sealed)  # from here on the base counts
        else:
            put_verified(store, name, sealed)
        stored_bytes += len(sealed)
    return stored_bytes


def newest_base(store: Store) -> int | None:
    """Return the seq of the newest complete base (one with a manifest), or None."""
    seqs = (names.parse_base_manifest(info.name) for info in store.list(names.BASE))
    return max((seq for seq in seqs if seq is not None), default=None)


# -- log objects ----------------------------------------------------------------------------------------------


def seal_next(head: Head, records: Sequence[log.Record], *, log_key: bytes, uuid: bytes) -> bytes:
    """Return the bytes of the log object behind `head`. Keep them locally before `ship`: never the same twice."""
    return envelope.seal(
        log.encode_records(records),
        log_key=log_key,
        uuid=uuid,
        kind=ObjectKind.META,
        seq=head.seq + 1,
        previous=head.chain_hash,
    )


def after(head: Head, body: bytes) -> Head:
    """Return the position behind the log object with the bytes `body`."""
    return head._replace(seq=head.seq + 1, chain_hash=object_hash(body), log_bytes=head.log_bytes + len(body))


def tail(store: Store, head: Head, *, log_key: bytes, uuid: bytes) -> Iterator[LogObject]:
    """Yield the log objects behind `head`, in order, up to the last; none when `head` is the last.

    Raises IntegrityError, naming the object, for one that is damaged, foreign, or does not continue the
    chain, and for one that is missing though later ones exist.
    """
    while True:
        upcoming = (names.meta(seq) for seq in itertools.count(head.seq + 1))
        with contextlib.closing(_fetch_ahead(store, upcoming)) as bodies:
            try:
                for _, body in bodies:
                    log_object = open_log_object(body, head, log_key=log_key, uuid=uuid)
                    head = log_object.head
                    yield log_object
            except ObjectMissingError:
                pass
        if not _is_gap(store, head.seq + 1):
            return


def open_log_object(body: bytes, head: Head, *, log_key: bytes, uuid: bytes) -> LogObject:
    """Verify and decode the log object that must stand right behind `head`."""
    seq = head.seq + 1
    with _named(names.meta(seq)):
        opened = envelope.open_sealed(body, log_key=log_key, uuid=uuid, kind=ObjectKind.META, seq=seq)
        if opened.previous != head.chain_hash:
            raise IntegrityError("the object does not continue the metadata log that precedes it")
        return LogObject(after(head, body), log.decode_records(opened.body))


# -- rebuilding -----------------------------------------------------------------------------------------------


def rebuild(
    store: Store,
    *,
    keyring: Keyring,
    superblock_bytes: bytes,
    uuid: bytes,
    target: Path,
    progress: Progress | None = None,
) -> Head:
    """Rebuild the database at `target` (must not exist) from the newest base and the log behind it.

    Returns the position it stands at. On return the file is complete and durable, its local tables empty; an
    interrupted rebuild leaves no `target`. Raises IntegrityError naming the object that is damaged, swapped
    or missing, UnsupportedVersionError, LocalDiskError.
    """
    for path in (target, target.with_name(target.name + "-wal")):
        if path.exists():  # a new database under an old WAL would be corrupted by it
            raise LocalDiskError(f"{path} exists already")
    seq = _find_base(store)
    partial = target.with_name(target.name + ".partial")
    _remove_database(partial)
    report = progress or (lambda name, stored_bytes: None)
    try:
        head = _fetch_base(store, seq, log_key=keyring.log_key, uuid=uuid, target=partial, report=report)
        if seq == 0 and head.chain_hash != object_hash(superblock_bytes):
            raise IntegrityError(f"{names.base_manifest(0)} was not made for the superblock `{names.SUPERBLOCK}`")
        with _named(names.base_manifest(seq)):
            database_image.check_version(partial)
        head = _replay(store, head, log_key=keyring.log_key, uuid=uuid, target=partial, report=report)
        with _local_disk(target):
            _publish(partial, target)
    finally:
        _remove_database(partial)
    return head


def _find_base(store: Store) -> int:
    """Return the seq of the newest base. A listing has no checksum: what it says is believed when it is there."""
    for _ in range(LISTINGS_MAX):
        seq = newest_base(store)
        if seq is not None:
            with contextlib.suppress(ObjectMissingError):
                store.head(names.base_manifest(seq))
                return seq
    raise IntegrityError(
        f"{store.describe()} holds no complete base ({names.BASE}*/manifest): its metadata was removed"
    )


def _fetch_base(store: Store, seq: int, *, log_key: bytes, uuid: bytes, target: Path, report: Progress) -> Head:
    """Write the database of a base to `target`; return its position. Not durable yet."""
    try:
        manifest, stored_bytes = _read_manifest(store, seq, log_key=log_key, uuid=uuid)
        report(names.base_manifest(seq), stored_bytes)
        chunk_names = [names.base_chunk(seq, number) for number in range(len(manifest.chunks))]
        with (
            _local_disk(target),
            target.open("xb") as file,
            contextlib.closing(_fetch_ahead(store, chunk_names)) as objects,
        ):
            for number, (name, sealed) in enumerate(objects):
                with _named(name):
                    plain = _open_chunk(sealed, manifest, number, log_key=log_key, uuid=uuid)
                file.write(plain)
                stored_bytes += len(sealed)
                report(name, len(sealed))
    except ObjectMissingError as error:
        raise IntegrityError(f"the newest base is incomplete: {error}") from error
    return Head(seq, manifest.chain_hash, log_bytes=0, base_bytes=stored_bytes)


def _open_chunk(sealed: bytes, manifest: log.BaseManifest, number: int, *, log_key: bytes, uuid: bytes) -> bytes:
    expected = manifest.chunks[number]
    if object_hash(sealed) != expected.object_hash:
        raise IntegrityError("the object is not the one that the base's manifest names")
    opened = envelope.open_sealed(
        sealed, log_key=log_key, uuid=uuid, kind=ObjectKind.BASE_CHUNK, seq=manifest.seq, number=number
    )
    if opened.previous != manifest.chain_hash or len(opened.body) != expected.plain_bytes:
        raise IntegrityError("the object's contents are not what the base's manifest says")
    return opened.body


def _read_manifest(store: Store, seq: int, *, log_key: bytes, uuid: bytes) -> tuple[log.BaseManifest, int]:
    """Return a base's manifest and its stored size."""
    name = names.base_manifest(seq)
    sealed = store.get(name)
    with _named(name):
        opened = envelope.open_sealed(sealed, log_key=log_key, uuid=uuid, kind=ObjectKind.BASE_MANIFEST, seq=seq)
        manifest = log.decode_manifest(opened.body)
        if (manifest.seq, manifest.chain_hash) != (seq, opened.previous):
            raise IntegrityError("the base manifest contradicts its own header")
    return manifest, len(sealed)


def _replay(store: Store, head: Head, *, log_key: bytes, uuid: bytes, target: Path, report: Progress) -> Head:
    """Apply everything behind `head` to `target`; return the last position. Not durable yet."""

    applying = ""

    def changesets() -> Generator[bytes, None, None]:
        nonlocal head, applying
        for log_object in tail(store, head, log_key=log_key, uuid=uuid):
            name = names.meta(log_object.head.seq)
            for record in log_object.records:
                if isinstance(record, log.Changes):
                    applying = name
                    yield record.changeset
            applying = ""
            report(name, log_object.head.log_bytes - head.log_bytes)
            head = log_object.head

    with contextlib.closing(changesets()) as stream:
        try:
            database_image.apply_changesets(target, stream)
        except IntegrityError as error:
            if not applying:  # the log itself, which has named its object
                raise
            raise IntegrityError(f"{applying}: {error}") from error
    return head


# -- below ----------------------------------------------------------------------------------------------------


def _fetch_ahead(store: Store, object_names: Iterable[str]) -> Generator[tuple[str, bytes], None, None]:
    """Yield the objects in the order of their names, several being fetched at once.

    ObjectMissingError comes in its turn, when all before it have been yielded.
    """
    rest = iter(object_names)
    pool = ThreadPoolExecutor(FETCH_AHEAD, thread_name_prefix="cubefs-log")
    waiting: deque[tuple[str, Future[bytes]]] = deque()
    try:
        while True:
            for name in itertools.islice(rest, FETCH_AHEAD - len(waiting)):
                waiting.append((name, pool.submit(store.get, name)))
            if not waiting:
                return
            name, future = waiting.popleft()
            yield name, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _is_gap(store: Store, missing_seq: int) -> bool:
    """Find out what it means that meta/<missing_seq> was not there: False, the log ends; True, go on.

    True when it has come meanwhile. Raises IntegrityError when it is missing and a later one exists.
    """
    name = names.meta(missing_seq)
    later = (info.name for info in store.list(names.META, start_after=name))
    found = next((other for other in later if names.parse_meta(other) is not None), None)
    if found is None:
        return False
    try:
        store.head(name)  # listed later than asked for: a writer may have put both in between
    except ObjectMissingError as error:
        raise IntegrityError(f"{name} is missing from {store.describe()}, though {found} exists") from error
    return True


def _publish(partial: Path, target: Path) -> None:
    """Make the finished file durable, then give it its name, durably."""
    for path, flags in ((partial, os.O_RDONLY), (target.parent, os.O_RDONLY | os.O_DIRECTORY)):
        descriptor = os.open(path, flags | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if path is partial:
            partial.rename(target)


def _remove_database(path: Path) -> None:
    for suffix in ("", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the object's name before what is wrong with it."""
    try:
        yield
    except (IntegrityError, UnsupportedVersionError) as error:
        raise type(error)(f"{name}: {error}") from error


@contextlib.contextmanager
def _local_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        failure = LocalDiskFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else LocalDiskError
        raise failure(f"{path}: {error.strerror}") from error
