"""The peers: restic and borg by their own commands, encrypted and compressed as cubefs is."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from contrib.demo.scratch import Scratch, StepError
from tests.bench.flows import Places, Where, used_bytes
from tests.bench.rows import Row

PASSPHRASE = "not a secret: the repository lives for a minute"


class Dialect(NamedTuple):
    """How a program wants to be asked. The words are templates: {repository} {cache} {name} {source} {target}."""

    program: str
    environment: Mapping[str, str]
    create: Sequence[str]
    back_up: Sequence[str]  # run in the directory that holds {source}
    restore: Sequence[str]  # run in {target}


RESTIC = Dialect(
    program="restic",
    environment={
        "RESTIC_REPOSITORY": "{repository}",
        "RESTIC_CACHE_DIR": "{cache}",
        "RESTIC_PASSWORD": PASSPHRASE,
    },
    create=["init"],
    back_up=["backup", "--quiet", "--tag", "{name}", "{source}"],
    restore=["restore", "latest", "--quiet", "--tag", "{name}", "--target", "{target}"],
)

# zstd,3 is what restic and cubefs do by default; borg's own default (lz4) stores more and is faster.
BORG = Dialect(
    program="borg",
    environment={
        "BORG_REPO": "{repository}",
        "BORG_BASE_DIR": "{cache}",
        "BORG_PASSPHRASE": PASSPHRASE,
        "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    },
    create=["init", "--encryption", "repokey-blake2"],
    back_up=["create", "--compression", "zstd,3", "::{name}", "{source}"],
    restore=["extract", "::{name}"],
)


class Peer:
    """A backup program as a contender, its cache and (unless told otherwise) its repository on the disk."""

    rows: tuple[Row, ...] = (
        Row.TREE_IN,
        Row.TREE_AGAIN,
        Row.STORED,
        Row.TREE_OUT,
        Row.FILE_IN,
        Row.FILE_OUT,
        Row.PEAK,
    )

    def __init__(self, scratch: Scratch, dialect: Dialect, *, where: Where | None = None) -> None:
        """Store in `where` instead of a directory on the disk."""
        self._where = where
        self.name = dialect.program
        self._scratch = scratch
        self._dialect = dialect
        self._peak_bytes = 0

    def create(self, places: Places) -> None:
        """Make an empty repository."""
        if shutil.which(self.name) is None:
            raise StepError(f"{self.name} is not installed")
        self._repository = places.disk / "repository"
        self._cache = places.disk / "cache"
        self._cache.mkdir()
        self._peak_bytes = 0
        self._run(self._dialect.create, directory=places.disk)

    def back_up(self, name: str, source: Path) -> float:
        """Back up one file or directory under `name`; return the seconds."""
        return self._run(self._dialect.back_up, directory=source.parent, name=name, source=source.name)

    def forget_cache(self) -> None:
        """Remove what the program keeps outside the repository."""
        shutil.rmtree(self._cache)
        self._cache.mkdir()

    def restore(self, name: str, target: Path) -> float:
        """Restore into `target` what was backed up under `name`; return the seconds."""
        return self._run(self._dialect.restore, directory=target, name=name, target=str(target))

    def stored_bytes(self) -> int:
        """Return the disk use of the repository, which must be a directory."""
        return used_bytes(self._repository)

    def peak_bytes(self) -> int:
        """Return the highest resident memory of this round's processes."""
        return self._peak_bytes

    def _run(self, words: Sequence[str], *, directory: Path, **values: str) -> float:
        repository = self._where.address if self._where else str(self._repository)
        values |= {"repository": repository, "cache": str(self._cache)}
        environment = {key: text.format_map(values) for key, text in self._dialect.environment.items()}
        done = self._scratch.run(
            [self._dialect.program, *(word.format_map(values) for word in words)],
            environment={**environment, **(self._where.environment if self._where else {})},
            directory=directory,
        )
        self._peak_bytes = max(self._peak_bytes, done.peak_rss_bytes)
        return done.seconds
