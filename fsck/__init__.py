"""fsck: the audit of a store that nobody needs to have mounted. `run.audit` is the way in.

    run         the order of things: rebuild, tables, packs, contents, cache
    inventory   what the store lists
    packs       packs in the store against packs in the database
    packdata    the bytes of one pack
    logobjects  key slots, and the part of the log that rebuilding does not read
    localcache  what this machine's cache knows
    report      findings, counts, verdict; text and JSON
    progress    the bar
    catalogue   every check by name: the table in docs/FSCK.md

The checks of the database are in `cubefs.db.audit`.
"""
