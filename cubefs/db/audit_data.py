"""Checks of file contents: bodies, extents, blocks, frames, packs and their counts.

Must never: do anything but build `CHECKS`.
"""

from __future__ import annotations

from cubefs.db.audit_check import Check, Scope, view_range
from cubefs.db.audit_history import EPOCH
from cubefs.format.keys import HASH_BYTES, TAG_BYTES
from cubefs.format.pack import FOOTER_BYTES, FRAME_OVERHEAD_BYTES, HEADER_BYTES
from cubefs.model import FRAME_MAX_BYTES, PACK_MAX_BYTES

_VIEWS = "(SELECT count(*) FROM view)"
# of a pack's index: two counts, a tag, three numbers per frame (docs/FORMAT.md); its blocks come on top
_INDEX_MIN_BYTES = f"({8 + TAG_BYTES} + 12 * count(*))"

_BODIES: tuple[Check, ...] = (
    Check(
        "body-shared",
        "a body belongs to two inodes",
        "inode",
        """SELECT body, min(id) AS inode, max(id) AS other FROM inode_version WHERE body <> 0
        GROUP BY body HAVING min(id) <> max(id)""",
        Scope.BODY,
    ),
    Check(
        "body-detached",
        "a body is to be retired although an inode has it, or as of an epoch that has not come",
        "detached",
        f"""SELECT d.body, d.since, i.id AS inode FROM inode i JOIN detached d ON d.body = i.body
        UNION ALL SELECT body, since, NULL FROM detached WHERE since < 1 OR since > {EPOCH}""",
        Scope.BODY,
    ),
    Check(
        "inode-allocated",
        "a file's allocated bytes are not the sum of its extents",
        "inode",
        f"""WITH surpluses AS (
            SELECT body, at AS lo, lead(at, 1, {_VIEWS}) OVER w AS hi, sum(change) OVER w AS surplus FROM (
                SELECT body, at, sum(change) AS change FROM (
                    SELECT body, lo AS at, length AS change FROM extent_version
                    UNION ALL SELECT body, hi, -length FROM extent_version WHERE hi < {_VIEWS}
                    UNION ALL SELECT body, lo, -allocated_bytes FROM inode_version WHERE body <> 0
                    UNION ALL SELECT body, hi, allocated_bytes FROM inode_version WHERE body <> 0 AND hi < {_VIEWS})
                GROUP BY body, at HAVING sum(change) <> 0)
            WINDOW w AS (PARTITION BY body ORDER BY at))
        SELECT i.id AS inode, s.body, i.allocated_bytes, i.allocated_bytes + s.surplus AS extent_bytes,
            {view_range("max(s.lo, i.lo)", "min(s.hi, i.hi)")} AS views
        FROM inode_version i JOIN surpluses s ON s.body = i.body AND i.lo < s.hi AND s.lo < i.hi
        WHERE i.body <> 0 AND s.surplus <> 0""",
        Scope.INODE,
    ),
)

_EXTENTS: tuple[Check, ...] = (
    Check(
        "extent-body",
        "an extent belongs to no inode in some view",
        "extent",
        f"""SELECT x.body, x.file_offset, x.length, x.block, {view_range("x.lo", "x.hi")} AS views
        FROM extent_version x WHERE NOT EXISTS (
            SELECT 1 FROM body_run r WHERE r.body = x.body AND r.lo <= x.lo AND r.hi >= x.hi)""",
        Scope.BODY,
    ),
    Check(
        "extent-crossing",
        "two extents of a file cover the same bytes in one view",
        "extent",
        f"""SELECT body, f ->> 0 AS file_offset, f ->> 1 AS other, {view_range("f ->> 2", "f ->> 3")} AS views
        FROM (SELECT body, first_overlap(file_offset, length, lo, hi) AS f FROM (
            SELECT body, file_offset, length, lo, hi FROM extent_version ORDER BY body, file_offset)
        GROUP BY body) WHERE f IS NOT NULL""",
        Scope.BODY,
    ),
    Check(
        "extent-beyond-size",
        "an extent reaches beyond the end of its file",
        "extent",
        f"""SELECT x.body, x.file_offset, x.length, i.id AS inode, i.size_bytes,
            {view_range("max(x.lo, i.lo)", "min(x.hi, i.hi)")} AS views
        FROM (
            SELECT a.body FROM (SELECT body, min(size_bytes) AS size_bytes FROM inode_version WHERE body <> 0
                GROUP BY body) a
            JOIN (SELECT body, max(file_offset + length) AS stop FROM extent_version GROUP BY body) b
            ON b.body = a.body WHERE b.stop > a.size_bytes) suspect
        CROSS JOIN extent_version x ON x.body = suspect.body
        CROSS JOIN inode_version i ON i.body = x.body AND i.lo < x.hi AND x.lo < i.hi
        WHERE x.file_offset + x.length > i.size_bytes""",
        Scope.BODY,
    ),
    Check(
        "extent-block",
        "extents name a block that is not there",
        "extent",
        """SELECT u.block, u.refs FROM block_use u LEFT JOIN block b ON b.id = u.block WHERE b.id IS NULL""",
        Scope.BLOCK,
    ),
    Check(
        "extent-range",
        "an extent reaches beyond the end of its block",
        "extent",
        f"""SELECT e.body, e.file_offset, e.length, e.block, e.block_offset, b.length AS block_length,
            {view_range("view_at(e.since)", _VIEWS)} AS views
        FROM extent e JOIN block b ON b.id = e.block WHERE e.block_offset + e.length > b.length
        UNION ALL
        SELECT e.body, e.file_offset, e.length, e.block, e.block_offset, b.length,
            {view_range("view_at(e.since)", "view_at(e.until)")}
        FROM extent_history e JOIN block b ON b.id = e.block WHERE e.block_offset + e.length > b.length""",
        Scope.BODY,
    ),
)

_BLOCKS: tuple[Check, ...] = (
    Check(
        "block-refs",
        "a block's reference count is not the number of its extents",
        "block",
        """SELECT b.id AS block, b.refs, coalesce(u.refs, 0) AS extents FROM block b
        LEFT JOIN block_use u ON u.block = b.id WHERE b.refs <> coalesce(u.refs, 0)""",
        Scope.BLOCK,
    ),
    Check(
        "block-place",
        "a block is placed where there is no pack or frame, or not within its frames",
        "block",
        f"""SELECT b.id AS block, b.pack, b.frame, b.frame_offset, b.length FROM block b
        LEFT JOIN pack p ON p.id = b.pack LEFT JOIN frame f ON f.pack = b.pack AND f.number = b.frame
        WHERE p.id IS NULL OR f.number IS NULL OR b.frame_offset < 0 OR CASE
            WHEN b.length <= {FRAME_MAX_BYTES} THEN b.frame_offset + b.length > f.plain_bytes
            ELSE b.frame_offset <> 0 OR (b.length + {FRAME_MAX_BYTES - 1}) / {FRAME_MAX_BYTES} <> (
                SELECT count(*) FROM frame s WHERE s.pack = b.pack AND s.number >= b.frame
                AND s.plain_bytes = min({FRAME_MAX_BYTES}, b.length - (s.number - b.frame) * {FRAME_MAX_BYTES}))
            END""",
        Scope.BLOCK,
    ),
    Check(
        "block-overlap",
        "two blocks share plaintext of a pack",
        "block",
        """SELECT block, pack, frame FROM (
            SELECT block, pack, frame, start, max(stop) OVER (PARTITION BY pack ORDER BY start, stop, block
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reached FROM block_span)
        WHERE reached > start""",
        Scope.BLOCK,
    ),
    Check(
        "block-hash-taken",
        "two blocks have the same hash",
        "block",
        """SELECT min(id) AS block, max(id) AS other, hex(hash) AS hash FROM block
        GROUP BY hash HAVING count(*) > 1""",
        Scope.BLOCK,
    ),
    Check(
        "block-damaged",
        "a block that files need is known to be damaged",
        "block",
        "SELECT id AS block, pack, frame, length FROM block WHERE damaged = 1 AND refs > 0",
        Scope.BLOCK,
    ),
)

_PACKS: tuple[Check, ...] = (
    Check(
        "frame-pack",
        "a frame belongs to no pack",
        "frame",
        """SELECT f.pack, f.number AS frame FROM frame f LEFT JOIN pack p ON p.id = f.pack WHERE p.id IS NULL""",
        Scope.FRAME,
    ),
    Check(
        "frame-order",
        "a pack's frames do not follow each other, or one has an impossible size",
        "frame",
        f"""SELECT pack, number AS frame, pack_offset, stored_bytes, plain_bytes FROM (
            SELECT *, coalesce(lag(number) OVER w + 1, 0) AS next,
                coalesce(lag(pack_offset + stored_bytes) OVER w, {HEADER_BYTES}) AS free
            FROM frame WINDOW w AS (PARTITION BY pack ORDER BY number))
        WHERE number <> next OR pack_offset <> free
        OR stored_bytes NOT BETWEEN {FRAME_OVERHEAD_BYTES + 1} AND {FRAME_OVERHEAD_BYTES} + plain_bytes""",
        Scope.FRAME,
    ),
    Check(
        "frame-live-bytes",
        "a frame's live bytes are not the bytes of its blocks in use",
        "frame",
        """SELECT f.pack, f.number AS frame, f.live_bytes, coalesce(s.live_bytes, 0) AS block_bytes FROM frame f
        LEFT JOIN (
            SELECT n.pack, n.number, sum(min(n.stop, b.stop) - max(n.start, b.start)) AS live_bytes
            FROM block_span b JOIN frame_span n ON n.pack = b.pack AND n.number >= b.frame
                AND n.start < b.stop AND b.start < n.stop
            WHERE b.refs > 0 GROUP BY n.pack, n.number) s
        ON s.pack = f.pack AND s.number = f.number WHERE f.live_bytes <> coalesce(s.live_bytes, 0)""",
        Scope.FRAME,
    ),
    Check(
        "pack-size",
        "a pack is too short for its frames, or longer than a pack may be",
        "pack",
        f"""SELECT p.id AS pack, lower(hex(p.name)) AS name, p.size_bytes, f.least_bytes FROM pack p
        LEFT JOIN (
            SELECT pack, max(pack_offset + stored_bytes) + {_INDEX_MIN_BYTES} + {FOOTER_BYTES} AS least_bytes
            FROM frame GROUP BY pack) f ON f.pack = p.id
        WHERE p.name IS NOT NULL AND p.size_bytes NOT BETWEEN f.least_bytes AND {PACK_MAX_BYTES}""",
        Scope.PACK,
    ),
    Check(
        "pack-name",
        "a pack's name is missing or no hash",
        "pack",
        f"SELECT id AS pack, hex(name) AS name FROM pack WHERE length(name) IS NOT {HASH_BYTES}",
        Scope.PACK,
        shipped_only=True,
    ),
    Check(
        "pack-name-taken",
        "two packs have the same name",
        "pack",
        """SELECT min(id) AS pack, max(id) AS other, lower(hex(name)) AS name FROM pack WHERE name IS NOT NULL
        GROUP BY name HAVING count(*) > 1""",
        Scope.PACK,
    ),
    Check(
        "pack-salt-taken",
        "two packs have the same salt, which must never happen to a cipher's key",
        "pack",
        """SELECT min(id) AS pack, max(id) AS other FROM pack GROUP BY salt HAVING count(*) > 1""",
        Scope.PACK,
    ),
    Check(
        "pack-doomed",
        "a pack is to be deleted although files need it",
        "pack",
        """SELECT p.id AS pack, lower(hex(p.name)) AS name, p.doomed_commit, count(*) AS blocks FROM pack p
        JOIN block b ON b.pack = p.id WHERE p.doomed_commit IS NOT NULL AND b.refs > 0 GROUP BY p.id""",
        Scope.PACK,
    ),
)

CHECKS: tuple[Check, ...] = (*_BODIES, *_EXTENTS, *_BLOCKS, *_PACKS)
