"""The bytes of everything in the store: pure functions between bytes and values.

Must never: do I/O, keep state beyond per-thread compression contexts, or let key material into a message, a
log line or a repr. This package is the only door to `cryptography`, `blake3` and `zstandard`; docs/FORMAT.md
says the same in prose and tables, tests/vectors/ holds frozen examples with their verdicts.

    version       the format version and cipher suite that this code writes, and the refusal of others
    names         object names in the store
    superblock    the plaintext identification object
    keys          key hierarchy, key slots, recovery key, the two kinds of BLAKE3
    compression   zstd contexts, bounded decompression
    pack          packs: frames, index, footer
    envelope      sealed log and base objects
    log           what is inside them: records of the metadata log, base manifests

Rules that hold for every parser here: it takes one whole object, bounds every count before allocating for
it, authenticates before it believes, and refuses anything it would not have written itself: truncated,
extended, of another file system, kind or number. Integers are unsigned and big-endian.
"""
