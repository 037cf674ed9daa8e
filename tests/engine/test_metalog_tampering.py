"""A hostile store: every object of the metadata that is changed, swapped, foreign or missing is refused by name."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from cubefs.engine import logend, metalog
from cubefs.errors import IntegrityError, UnsupportedVersionError
from cubefs.format import envelope, names
from cubefs.format.keys import Keyring
from cubefs.store import Store, open_store
from tests.support.log_machine import LogMachine, make

Refused = (IntegrityError, UnsupportedVersionError)


class Scene(NamedTuple):
    """A file system of a base and a log behind it, and what opens it."""

    path: Path
    keyring: Keyring
    superblock_bytes: bytes
    uuid: bytes

    def rebuild(self, target: Path) -> metalog.Head:
        return metalog.rebuild(
            self.store,
            keyring=self.keyring,
            superblock_bytes=self.superblock_bytes,
            uuid=self.uuid,
            target=target,
        )

    @property
    def store(self) -> Store:
        return open_store(f"local://{self.path}")


BASE_SEQ, LAST_SEQ = 2, 6


def build(path: Path) -> Scene:
    store = open_store(f"local://{path}/store", create=True)
    make(store)
    machine = LogMachine(store, path)
    for number in range(1, LAST_SEQ + 1):
        machine.add_file(number)
        if number == BASE_SEQ:
            machine.write_base()
    machine.close()
    return Scene(path / "store", machine.keyring, machine.superblock_bytes, machine.uuid)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, Scene]:
    """Two file systems of the same shape."""
    return build(tmp_path_factory.mktemp("ours")), build(tmp_path_factory.mktemp("theirs"))


@pytest.fixture
def scene(originals: tuple[Scene, Scene], tmp_path: Path) -> Scene:
    shutil.copytree(originals[0].path, tmp_path / "store")
    return originals[0]._replace(path=tmp_path / "store")


@pytest.fixture
def theirs(originals: tuple[Scene, Scene]) -> Scene:
    return originals[1]


NEEDED = [
    names.base_manifest(BASE_SEQ),
    names.base_chunk(BASE_SEQ, 0),
    *(names.meta(seq) for seq in range(BASE_SEQ + 1, LAST_SEQ + 1)),
]
needed = pytest.mark.parametrize("name", NEEDED)


def assert_refused(scene: Scene, name: str) -> None:
    target = scene.path.parent / "rebuilt"
    with pytest.raises(Refused, match=name) as caught:
        scene.rebuild(target)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_untouched_it_opens(scene: Scene, tmp_path: Path) -> None:
    assert scene.rebuild(tmp_path / "rebuilt").seq == LAST_SEQ


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "one byte more": lambda data: data + b"\0",
    "twice": lambda data: data * 2,
    "zeros": lambda data: bytes(len(data)),
    "another magic": lambda data: b"X" + data[1:],
}


@needed
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_object(scene: Scene, name: str, change: Callable[[bytes], bytes]) -> None:
    scene.store.put(name, change(scene.store.get(name)))
    assert_refused(scene, name)


@needed
def test_a_flipped_bit_anywhere(scene: Scene, name: str) -> None:
    whole = scene.store.get(name)
    positions = {*range(0, envelope.HEADER_BYTES, 5), *range(8, 16), envelope.HEADER_BYTES, len(whole) - 1}
    for position in sorted(positions):
        scene.store.put(name, whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        assert_refused(scene, name)


@needed
def test_the_same_object_of_another_file_system(scene: Scene, theirs: Scene, name: str) -> None:
    scene.store.put(name, theirs.store.get(name))
    assert_refused(scene, name)


@pytest.mark.parametrize(("name", "source"), list(itertools.permutations(NEEDED, 2)))
def test_an_object_under_anothers_name(scene: Scene, name: str, source: str) -> None:
    scene.store.put(name, scene.store.get(source))
    assert_refused(scene, name)


@pytest.mark.parametrize("name", NEEDED[1:-1])
def test_a_missing_object(scene: Scene, name: str) -> None:
    scene.store.delete(name)
    assert_refused(scene, name)


def test_a_chunk_of_another_attempt_at_the_same_base(scene: Scene, tmp_path: Path) -> None:
    """Authentic, with the right name, number and chain: only its hash in the manifest tells."""
    scene.rebuild(tmp_path / "image")
    manifest = envelope.open_sealed(
        scene.store.get(names.base_manifest(BASE_SEQ)),
        log_key=scene.keyring.log_key,
        uuid=scene.uuid,
        kind=envelope.ObjectKind.BASE_MANIFEST,
        seq=BASE_SEQ,
    )
    attempt = metalog.seal_base(
        tmp_path / "image",
        log_key=scene.keyring.log_key,
        uuid=scene.uuid,
        seq=BASE_SEQ,
        chain_hash=manifest.previous,
    )
    name, sealed = next(attempt)
    scene.store.put(name, sealed)
    assert_refused(scene, name)


def test_a_gap_of_several(scene: Scene) -> None:
    scene.store.delete(names.meta(3))
    scene.store.delete(names.meta(4))
    assert_refused(scene, names.meta(3))
    scene.store.delete(names.meta(5))
    assert_refused(scene, names.meta(3))


def test_no_base_at_all(scene: Scene) -> None:
    for info in scene.store.list(names.BASE):
        scene.store.delete(info.name)
    assert_refused(scene, "base/")


def test_a_base_withheld_gives_the_same_state(scene: Scene, tmp_path: Path) -> None:
    """Hiding a base hides nothing: the one before it leads to the same place."""
    scene.store.delete(names.base_manifest(BASE_SEQ))
    assert scene.rebuild(tmp_path / "rebuilt").seq == LAST_SEQ


def test_a_rollback_is_seen_by_a_machine_that_knows_better(scene: Scene, tmp_path: Path) -> None:
    """To one that does not, the shortened log looks whole: SECURITY of a store alone ends here."""
    newest = scene.rebuild(tmp_path / "newest")
    scene.store.delete(names.meta(LAST_SEQ))
    assert scene.rebuild(tmp_path / "older").seq == LAST_SEQ - 1
    with pytest.raises(IntegrityError, match=names.meta(LAST_SEQ)):
        logend.check_head(scene.store, newest)


def test_an_exchanged_superblock(scene: Scene, theirs: Scene) -> None:
    scene.store.delete(names.base_manifest(BASE_SEQ))
    assert_refused(scene._replace(superblock_bytes=theirs.superblock_bytes), names.base_manifest(0))


def test_another_line_of_the_same_file_system(scene: Scene, tmp_path: Path) -> None:
    """Authentic, of the right number, but sealed behind another predecessor: only the chain tells."""
    old = {info.name: scene.store.get(info.name) for info in scene.store.list(names.META)}
    for seq in range(4, LAST_SEQ + 1):
        scene.store.delete(names.meta(seq))
    head = scene.rebuild(tmp_path / "head")
    key = {"log_key": scene.keyring.log_key, "uuid": scene.uuid}
    for seq in range(4, LAST_SEQ + 1):
        body = metalog.seal_next(head, [], **key)  # type: ignore[arg-type]
        logend.ship(scene.store, seq=seq, body=body, log_key=scene.keyring.log_key, uuid=scene.uuid)
        head = metalog.after(head, body)
    assert scene.rebuild(tmp_path / "forked") == head
    scene.store.put(names.meta(5), old[names.meta(5)])
    assert_refused(scene, names.meta(5))


def test_an_authentic_object_that_does_not_fit(scene: Scene, tmp_path: Path) -> None:
    """A writer of our own gone wrong: the conflict names the object whose changes do not apply."""
    (tmp_path / "elsewhere").mkdir()
    machine = LogMachine(scene.store, tmp_path / "elsewhere")
    machine.connection.execute("DELETE FROM dentry WHERE id = 3")  # changed behind the log's back
    machine.add_file(3)
    machine.add_file(50)
    machine.close()
    assert_refused(scene, names.meta(LAST_SEQ + 1))
    with pytest.raises(IntegrityError, match="INSERT in 'dentry'"):
        scene.rebuild(tmp_path / "rebuilt")
