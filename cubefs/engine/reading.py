"""Reading blocks: decoded frames in memory, local packs, and fetching packs from the store.

Concurrent readers of one frame or pack share one decode or fetch. Reading in the order in which packs were
written (which is the order of a tree walk or of a large file) is noticed and the next frames and packs are got
ahead. Must never: serve a byte that was not authenticated.
"""

from __future__ import annotations

import logging
import math
import random
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import trio

from cubefs.db.blocks import Blocks
from cubefs.db.database import Database
from cubefs.db.extents import Piece
from cubefs.engine.localpacks import LocalPacks
from cubefs.engine.trouble import Trouble
from cubefs.errors import (
    CubefsError,
    IntegrityError,
    LocalDiskError,
    ObjectMissingError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
)
from cubefs.format import names
from cubefs.format.keys import Keyring, object_hash
from cubefs.format.pack import PackCipher
from cubefs.model import FRAME_MAX_BYTES, MIB, FrameInfo, PackState
from cubefs.store.base import Store
from cubefs.store.retry import Backoff

log = logging.getLogger(__name__)

FRAME_CACHE_BYTES = 64 * MIB
_PACKS_KNOWN = 4096  # frame tables kept in memory: some kB each
_FRAMES_AHEAD = 3
_PACKS_AHEAD = 2
_DECODERS = 2
_FETCHERS = 8
_FETCH_ATTEMPTS = 3  # what arrives with wrong bytes, or is missing, may be right a moment later
_FETCH_AGAIN_S = 0.5
_BAD_S = 300.0  # so long a pack found missing or damaged is not asked for as a whole again: others would wait
_PAUSE_FIRST_S = 0.2
_PAUSE_MAX_S = 5.0  # between attempts for a reader who waits for the store


class ReadStatistics(NamedTuple):
    """Counters since the mount."""

    frames_decoded: int
    frame_hits: int
    packs_fetched: int
    bytes_fetched: int
    damaged_count: int


class _Pack:
    """What is needed to read from one pack."""

    __slots__ = ("bad_until_s", "cipher", "fetch_count", "frames", "id", "is_missing", "name", "salt")

    def __init__(
        self, id: int, salt: bytes, name: bytes | None, cipher: PackCipher, frames: dict[int, FrameInfo]
    ) -> None:
        self.id = id
        self.salt = salt
        self.name = name
        self.cipher = cipher
        self.frames = frames
        self.fetch_count = 0  # local copies made: what one reader found wrong may have been replaced by another
        # the store's copy is not what was written: until then only frames that authenticate serve
        self.bad_until_s = -math.inf
        self.is_missing = False  # as of then

    @property
    def is_damaged(self) -> bool:
        """Whether the whole object need not be asked for."""
        return trio.current_time() < self.bad_until_s


class _Flight:
    """Work that several readers wait for."""

    __slots__ = ("data", "done", "error")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.data: bytes | None = None
        self.error: Exception | None = None


class BlockReader:
    """Gets plaintext of blocks."""

    def __init__(
        self,
        *,
        database: Database,
        blocks: Blocks,
        local: LocalPacks,
        store: Store,
        keyring: Keyring,
        uuid: bytes,
        nursery: trio.Nursery,
        clock_ns: Callable[[], int],
        timeout_s: float = math.inf,
    ) -> None:
        self._db = database
        self._blocks = blocks
        self._local = local
        self._store = store
        self._keyring = keyring
        self._uuid = uuid
        self._nursery = nursery
        self._clock_ns = clock_ns
        self._timeout_s = timeout_s
        self._packs: OrderedDict[int, _Pack] = OrderedDict()
        self._cache: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._cache_bytes = 0
        self._decoding: dict[tuple[int, int], _Flight] = {}
        self._fetching: dict[int, _Flight] = {}
        self._decoders = trio.CapacityLimiter(_DECODERS)
        self._fetchers = trio.CapacityLimiter(_FETCHERS)
        self._decoded = self._hits = self._fetched = self._fetched_bytes = self._damaged = 0
        self._rng = random.Random()
        self.waiting_count = 0  # readers who wait because the store fails
        self.trouble = Trouble(log, work="reading from the store", clock_ns=clock_ns)

    def statistics(self) -> ReadStatistics:
        """Return the counters."""
        return ReadStatistics(self._decoded, self._hits, self._fetched, self._fetched_bytes, self._damaged)

    def spans(self, piece: Piece, *, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Return (frame, first, last) of the frames' bytes that hold [start, stop) of a piece's block.

        start, stop: offsets in the block.
        """
        if piece.block_length <= FRAME_MAX_BYTES:
            return [(piece.frame, piece.frame_offset + start, piece.frame_offset + stop)]
        spans = []
        while start < stop:
            index, first = divmod(start, FRAME_MAX_BYTES)
            last = min(FRAME_MAX_BYTES, first + stop - start)
            spans.append((piece.frame + index, first, last))
            start += last - first
        return spans

    def find_frame(self, pack: int, number: int) -> bytes | None:
        """Return a frame's plaintext if it is in memory. Does not yield."""
        key = (pack, number)
        data = self._cache.get(key)
        if data is not None:
            self._cache.move_to_end(key)
            self._hits += 1
        return data

    async def get_frame(self, pack: int, number: int, *, block: int | None = None) -> bytes:
        """Return a frame's plaintext.

        Raises IntegrityError naming the object when it is damaged (`block`, if given, is then no longer a target
        for deduplication), or StoreError when the store did not deliver in time.
        """
        data = self.find_frame(pack, number)
        if data is None:
            self._look_ahead(pack, number)
            try:
                with trio.fail_after(self._timeout_s):
                    data = await self._wait_decode(pack, number)
            except trio.TooSlowError:
                why = self.trouble.last_error or "no answer"
                store = self._store.describe()
                raise StoreUnavailableError(f"{store} did not deliver in {self._timeout_s:.0f} s: {why}") from None
            except IntegrityError:
                if block is not None:
                    with self._db.operation():
                        self._blocks.mark_damaged(block)
                raise
        return data

    # -- decoding ----------

    async def _wait_decode(self, pack: int, number: int) -> bytes:
        """Get a frame; while the store fails in a way that may pass, go on asking (the caller has a deadline)."""
        backoff = Backoff(_PAUSE_FIRST_S, _PAUSE_MAX_S, self._rng)
        waits = False
        try:
            while True:
                try:
                    return await self._share_decode(pack, number)
                except StoreError as error:
                    if not (error.retryable or isinstance(error, StoreDeniedError)):
                        raise
                    self.waiting_count += not waits
                    waits = True
                    await trio.sleep(backoff.next_s())
        finally:
            self.waiting_count -= waits

    async def _share_decode(self, pack: int, number: int) -> bytes:
        key = (pack, number)
        flight = self._decoding.get(key)
        if flight is None:
            flight = self._decoding[key] = _Flight()
            self._nursery.start_soon(self._decode, key, flight)
        await flight.done.wait()
        if flight.error is not None:
            raise flight.error
        assert flight.data is not None
        return flight.data

    async def _decode(self, key: tuple[int, int], flight: _Flight) -> None:
        try:
            flight.data = await self._load_frame(*key)
            self._decoded += 1
            self._cache[key] = flight.data
            self._cache_bytes += len(flight.data)
            while self._cache_bytes > FRAME_CACHE_BYTES and len(self._cache) > 1:
                _, old = self._cache.popitem(last=False)
                self._cache_bytes -= len(old)
        except CubefsError as error:
            flight.error = error
        except Exception as error:
            log.exception("reading frame %d of pack %d failed", key[1], key[0])
            flight.error = CubefsError(f"reading failed: {error!r}")
        finally:
            del self._decoding[key]
            flight.done.set()

    async def _load_frame(self, pack_id: int, number: int) -> bytes:
        pack = self._get_pack(pack_id, number)
        frame = pack.frames[number]
        if self._local.has(pack.salt) and not pack.is_damaged:
            self._local.touch(pack.salt)
            copy = pack.fetch_count
            try:
                data = await trio.to_thread.run_sync(self._read_local, pack, number, frame, limiter=self._decoders)
                if data is not None:
                    return data
                if self._local.has(pack.salt):  # not evicted meanwhile
                    log.warning("local copy of pack %s is gone", pack.salt.hex())
                problem: CubefsError = IntegrityError("the file is gone")
            except (LocalDiskError, IntegrityError) as error:
                log.warning("local copy of pack %s cannot be used: %s", pack.salt.hex(), error)
                problem = error
            if self._local.has(pack.salt) and not self._local.is_stored(pack.salt):
                self._damaged += 1
                raise IntegrityError(f"local pack {self._local.files.path(pack.salt)}: {problem}") from problem
            if pack.fetch_count == copy:
                await self._forget_local(pack)
        if pack.name is None:
            raise IntegrityError(f"pack {pack.salt.hex()} was never completed and its local file is gone")
        if pack.is_damaged and pack.is_missing:
            raise IntegrityError(f"{names.pack(pack.name)} is missing from {self._store.describe()}")
        if not pack.is_damaged:
            if not self._local.has(pack.salt):
                await self._share_fetch(pack)
            if self._local.has(pack.salt):
                data = await trio.to_thread.run_sync(self._read_local, pack, number, frame, limiter=self._decoders)
                if data is not None:
                    return data
        return await trio.to_thread.run_sync(
            self._read_store, pack, number, frame, limiter=self._fetchers, abandon_on_cancel=True
        )

    def _read_local(self, pack: _Pack, number: int, frame: FrameInfo) -> bytes | None:
        stored = self._local.files.read(pack.salt, start=frame.pack_offset, length=frame.stored_bytes)
        if stored is None:
            return None
        return pack.cipher.open_frame(number, stored, plain_bytes=frame.plain_bytes)

    def _read_store(self, pack: _Pack, number: int, frame: FrameInfo) -> bytes:
        """Read one frame from the store's copy, which is damaged or could not be kept locally."""
        assert pack.name is not None
        name = names.pack(pack.name)
        for attempt in range(_FETCH_ATTEMPTS):
            try:
                return self._read_range(name, pack.cipher, number, frame)
            except IntegrityError as error:
                if attempt == _FETCH_ATTEMPTS - 1:
                    self._damaged += 1
                    log.error("%s in %s is damaged: frame %d: %s", name, self._store.describe(), number, error)
                    raise IntegrityError(f"{name}: frame {number}: {error}") from error
        raise AssertionError("unreachable")

    def _read_range(self, name: str, cipher: PackCipher, number: int, frame: FrameInfo) -> bytes:
        try:
            stored = self._store.get_range(name, start=frame.pack_offset, length=frame.stored_bytes)
        except ObjectMissingError as error:
            raise IntegrityError(str(error)) from error
        except StoreError as error:
            if error.retryable:
                raise
            if self._store.head(name).size_bytes < frame.pack_offset + frame.stored_bytes:
                raise IntegrityError("the object ends before it") from error
            raise
        return cipher.open_frame(number, stored, plain_bytes=frame.plain_bytes)

    def _get_pack(self, pack_id: int, number: int) -> _Pack:
        pack = self._packs.get(pack_id)
        if pack is None or number not in pack.frames or pack.name is None:
            row = self._blocks.get_pack(pack_id)
            cipher = pack.cipher if pack else PackCipher(self._keyring.pack_key, salt=row.salt, uuid=self._uuid)
            pack = _Pack(row.id, row.salt, row.name, cipher, self._blocks.frames(pack_id))
            self._packs[pack_id] = pack
            while len(self._packs) > _PACKS_KNOWN:
                self._packs.popitem(last=False)
        if number not in pack.frames:
            raise IntegrityError(f"frame {number} of pack {pack_id} is referred to but not there")
        return pack

    async def _forget_local(self, pack: _Pack) -> None:
        self._local.remove(pack.salt)
        with self._db.operation():
            self._blocks.delete_local(pack.salt)
        await trio.to_thread.run_sync(self._local.files.delete, pack.salt)

    # -- fetching ----------

    async def _share_fetch(self, pack: _Pack) -> None:
        flight = self._fetching.get(pack.id)
        if flight is None:
            flight = self._fetching[pack.id] = _Flight()
            self._nursery.start_soon(self._fetch, pack, flight)
        await flight.done.wait()
        if flight.error is not None:
            raise flight.error

    async def _fetch(self, pack: _Pack, flight: _Flight) -> None:
        """Bring a whole pack into the local cache; a damaged one is noted instead."""
        assert pack.name is not None
        name = names.pack(pack.name)
        try:
            data = await self._fetch_patiently(pack, name)
            if data is not None:
                await self._keep(pack, name, data)
        except ObjectMissingError as error:
            log.error("%s is missing from %s", name, self._store.describe())
            self._damaged += 1
            pack.is_missing = True
            pack.bad_until_s = trio.current_time() + _BAD_S
            flight.error = IntegrityError(str(error))
        except CubefsError as error:
            self.trouble.failed(error)
            flight.error = error
        except Exception as error:
            log.exception("fetching %s failed", name)
            flight.error = CubefsError(f"fetching {name} failed: {error!r}")
        finally:
            del self._fetching[pack.id]
            flight.done.set()

    async def _fetch_patiently(self, pack: _Pack, name: str) -> bytes | None:
        """Return the pack as it was written; None when its bytes are wrong again and again."""
        for attempt in range(_FETCH_ATTEMPTS):
            is_last = attempt == _FETCH_ATTEMPTS - 1
            try:
                data = await trio.to_thread.run_sync(
                    self._store.get, name, limiter=self._fetchers, abandon_on_cancel=True
                )
            except ObjectMissingError:  # a store that is consistent only eventually
                if is_last:
                    raise
            else:
                self._fetched += 1
                self._fetched_bytes += len(data)
                if await trio.to_thread.run_sync(object_hash, data, limiter=self._decoders) == pack.name:
                    self.trouble.worked()
                    return data
                del data
            if not is_last:
                await trio.sleep(_FETCH_AGAIN_S)
        log.error("%s in %s is damaged: its bytes do not match its name", name, self._store.describe())
        pack.is_missing = False
        pack.bad_until_s = trio.current_time() + _BAD_S
        return None

    async def _keep(self, pack: _Pack, name: str, data: bytes) -> None:
        try:
            await trio.to_thread.run_sync(self._local.files.write_fetched, pack.salt, data, limiter=self._decoders)
        except LocalDiskError as error:
            log.warning("cannot keep %s in the local cache: %s", name, error)
            return
        with self._db.operation():
            self._blocks.insert_local(pack.salt, size_bytes=len(data), now_ns=self._clock_ns())
        self._local.add(pack.salt, PackState.STORED, len(data))
        pack.fetch_count += 1
        if self._local.total_bytes > self._local.limit_bytes:
            await self._local.evict()

    # -- ahead of the reader ----------

    def _look_ahead(self, pack_id: int, number: int) -> None:
        """When the frame before this one was just read, get the next frames, and the next packs, too."""
        if number and (pack_id, number - 1) not in self._cache and (pack_id, number - 1) not in self._decoding:
            return
        try:
            pack = self._get_pack(pack_id, number)
        except IntegrityError:
            return  # whoever needs it gets the error
        for following in range(number + 1, min(number + 1 + _FRAMES_AHEAD, len(pack.frames))):
            key = (pack_id, following)
            if key not in self._cache and key not in self._decoding:
                flight = self._decoding[key] = _Flight()
                self._nursery.start_soon(self._decode, key, flight)
        for following in range(pack_id + 1, pack_id + 1 + _PACKS_AHEAD):
            self._fetch_ahead(following)

    def _fetch_ahead(self, pack_id: int) -> None:
        if pack_id in self._fetching or pack_id > self._db.last_id("pack"):
            return
        try:
            pack = self._get_pack(pack_id, 0)
        except IntegrityError:
            return  # no such pack
        if pack.name is not None and not pack.is_damaged and not self._local.has(pack.salt):
            flight = self._fetching[pack_id] = _Flight()
            self._nursery.start_soon(self._fetch, pack, flight)
