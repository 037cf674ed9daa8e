"""Takes the contenders through the rounds, one after the other, so that a busy minute hits all of them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from contrib.demo.scratch import Scratch, StepError
from tests.bench.floor import Floor
from tests.bench.flows import Places, Round, empty, mounted_round, program_round
from tests.bench.ours import Cubefs
from tests.bench.peers import BORG, RESTIC, Peer
from tests.bench.rows import Results, Row
from tests.bench.trees import Inputs, Sizes, make_inputs

MEMORY = Path("/dev/shm")
# Source, the floor's copy and a restore of the big file at once, and as much again to breathe.
MEMORY_NEEDED_FACTOR = 5


class Contender(NamedTuple):
    """A name, the rows that apply to it, and what measures them."""

    name: str
    rows: tuple[Row, ...]
    measure: Callable[[Round], None]


class Grounds(NamedTuple):
    """Where contenders work, on the disk and in memory, and what they copy."""

    work: Path
    memory: Path
    inputs: Inputs


class Measured(NamedTuple):
    """The outcome of all rounds."""

    inputs: Inputs
    contenders: list[str]
    results: Results


def prepare_grounds(scratch: Scratch, *, disk: Path, sizes: Sizes) -> Grounds:
    """Make directories on `disk` and in memory, and the inputs."""
    work = scratch.directory(disk)
    memory = scratch.directory(_memory_place(sizes, otherwise=work))
    (memory / "source").mkdir()
    return Grounds(work, memory, make_inputs(memory / "source", sizes))


def measure_contenders(scratch: Scratch, grounds: Grounds, *, disk: Path, rounds: int) -> Measured:
    """Alternate the contenders over the rounds; on `disk` lies the source of the floor."""
    work, memory, inputs = grounds
    contenders = _contenders(scratch, inputs, source_directory=disk)
    results = Results()
    for round_number in range(1, rounds + 1):
        for contender in contenders:
            print(f"round {round_number} of {rounds}: {contender.name}", file=sys.stderr, flush=True)
            places = Places(work / contender.name, memory / contender.name)
            for place in places:
                place.mkdir()
            reason = "not reached"
            try:
                contender.measure(Round(scratch, inputs, places, results))
            except (StepError, OSError) as error:
                reason = str(error)
            results.fail(contender.name, contender.rows, round_number=round_number, reason=reason)
            scratch.undo_mounts(places.disk)
            empty(places)
    return Measured(inputs, [contender.name for contender in contenders], results)


def _contenders(scratch: Scratch, inputs: Inputs, *, source_directory: Path) -> Sequence[Contender]:
    """Return those that CONTENDERS names, all by default."""
    floor = Floor(scratch, source_directory, entries=inputs.tree_entries)
    ours = Cubefs(scratch)
    peers = [Peer(scratch, dialect) for dialect in (RESTIC, BORG)]
    known = [
        Contender(ours.name, ours.rows, partial(mounted_round, ours)),
        Contender(floor.name, floor.rows, partial(mounted_round, floor)),
        *(Contender(peer.name, peer.rows, partial(program_round, peer)) for peer in peers),
    ]
    wanted = os.environ.get("CONTENDERS", "").split() or [contender.name for contender in known]
    return [contender for contender in known if contender.name in wanted]


def _memory_place(sizes: Sizes, *, otherwise: Path) -> Path:
    """Return a tmpfs with room for source and restores, or say that the disk serves."""
    needed_bytes = (sizes.tree_files * sizes.file_mean_bytes + sizes.file_bytes) * MEMORY_NEEDED_FACTOR
    if MEMORY.is_dir() and min(shutil.disk_usage(MEMORY).free, _available_bytes()) >= needed_bytes:
        return MEMORY
    print("too little memory for source and restores: they lie on the disk", file=sys.stderr)
    return otherwise


def _available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
