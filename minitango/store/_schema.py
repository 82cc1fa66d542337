"""The SQLite store's tables, and how an older file becomes a current one.

One script a version; a script that was released is never edited. `user_version` counts those applied, and
`application_id` tells our files from other programs'.
"""

from __future__ import annotations

from typing import Final

APPLICATION_ID: Final = 0x6D54616E
"""`mTan`, in the header of each file that is ours."""

_FIRST: Final = (
    # The hot row: what claiming and listing need. Each field of `Job` is a column of its name.
    """
    CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        queue TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'dead', 'cancelled')),
        priority INTEGER NOT NULL,
        rank INTEGER NOT NULL,
        lane TEXT NOT NULL,
        solo INTEGER NOT NULL DEFAULT 0,        -- Job.solo, for the index
        due REAL,                               -- set while the time has not come; a claim clears it when it has
        due_since REAL NOT NULL,                -- when it became, or becomes, due
        attempt INTEGER NOT NULL DEFAULT 0,
        token TEXT,                             -- of the current lease; NULL unless running
        expires REAL,
        solo_lease INTEGER NOT NULL DEFAULT 0,  -- the current lease was claimed to be run alone
        node TEXT,
        cancel_requested INTEGER NOT NULL DEFAULT 0,
        failures INTEGER NOT NULL DEFAULT 0,
        interruptions INTEGER NOT NULL DEFAULT 0,
        solo_deaths INTEGER NOT NULL DEFAULT 0,
        submitted REAL NOT NULL,
        started REAL,
        ended REAL,
        ended_seq INTEGER,
        assignment TEXT NOT NULL,
        student TEXT NOT NULL,
        course TEXT NOT NULL,
        title TEXT NOT NULL,
        spec TEXT NOT NULL,
        inputs TEXT NOT NULL,
        key TEXT,
        supersedes TEXT,
        labels TEXT,                            -- JSON; NULL: none
        outcome TEXT,
        score REAL,
        max_score REAL,
        trust TEXT,
        reason TEXT NOT NULL DEFAULT '',
        wall REAL,
        warnings INTEGER NOT NULL DEFAULT 0,
        failure TEXT                            -- JSON
    )
    """,
    # Partial, so that each holds the few rows that its question is about, however long the history is.
    """
    CREATE INDEX jobs_ready ON jobs (queue, solo, priority DESC, rank, seq) WHERE state = 'queued' AND due IS NULL
    """,
    "CREATE INDEX jobs_due ON jobs (queue, due) WHERE state = 'queued' AND due IS NOT NULL",
    "CREATE INDEX jobs_solo ON jobs (queue, due_since) WHERE state = 'queued' AND solo = 1",
    "CREATE INDEX jobs_running ON jobs (queue, expires) WHERE state = 'running'",
    "CREATE INDEX jobs_to_cancel ON jobs (queue) WHERE state = 'running' AND cancel_requested = 1",
    "CREATE INDEX jobs_ended ON jobs (queue, ended_seq) WHERE ended_seq IS NOT NULL",
    # The latest job of each key. Whether it still holds the key is for `submit` to say.
    """
    CREATE TABLE keys (
        queue TEXT NOT NULL, key TEXT NOT NULL, job INTEGER NOT NULL,
        PRIMARY KEY (queue, key)
    ) WITHOUT ROWID
    """,
    # Blobs that a job needs: position 0 is its spec, 1 its inputs, the others its refs in their order.
    """
    CREATE TABLE blob_refs (
        job INTEGER NOT NULL, position INTEGER NOT NULL, digest TEXT NOT NULL,
        PRIMARY KEY (job, position)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX blob_refs_digest ON blob_refs (digest)",
    """
    CREATE TABLE attempts (
        job INTEGER NOT NULL, number INTEGER NOT NULL,
        node TEXT NOT NULL, started REAL NOT NULL, ended REAL, ended_by TEXT, failure TEXT,
        PRIMARY KEY (job, number)
    ) WITHOUT ROWID
    """,
    "CREATE TABLE results (job INTEGER PRIMARY KEY, result BLOB NOT NULL)",
    """
    CREATE TABLE outputs (
        job INTEGER NOT NULL, position INTEGER NOT NULL,
        step TEXT NOT NULL, head BLOB NOT NULL, tail BLOB NOT NULL, elided INTEGER NOT NULL,
        PRIMARY KEY (job, position)
    )
    """,
    # Kept by every transaction that moves a job, so that neither is ever counted anew.
    """
    CREATE TABLE counts (
        queue TEXT NOT NULL, state TEXT NOT NULL, n INTEGER NOT NULL,
        PRIMARY KEY (queue, state)
    ) WITHOUT ROWID
    """,
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO meta (name, value) VALUES ('ended_seq', 0)",
)

_HOLDS: Final = (
    # A job's uncharged failures in a row: `job.Hold`, with when the latest was, and the last `ended_seq` at that time.
    # `late` is `Hold.late`, for the index.
    "ALTER TABLE jobs ADD COLUMN held INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN held_since REAL",
    "ALTER TABLE jobs ADD COLUMN held_at REAL",
    "ALTER TABLE jobs ADD COLUMN held_mark INTEGER",
    "ALTER TABLE jobs ADD COLUMN held_alone INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN late INTEGER NOT NULL DEFAULT 0",
    "CREATE INDEX jobs_held ON jobs (queue, spec, held) WHERE state = 'queued' AND held > 0",
    "DROP INDEX jobs_ready",
    """
    CREATE INDEX jobs_ready ON jobs (queue, solo, late, priority DESC, rank, seq)
    WHERE state = 'queued' AND due IS NULL
    """,
)

_SEVERAL: Final = (
    # What a node must offer decides who may claim a job: each lane is a queue of its own to the index.
    "CREATE TABLE lanes (queue TEXT NOT NULL, lane TEXT NOT NULL, PRIMARY KEY (queue, lane)) WITHOUT ROWID",
    "INSERT INTO lanes SELECT DISTINCT queue, lane FROM jobs",
    "DROP INDEX jobs_ready",
    """
    CREATE INDEX jobs_ready ON jobs (queue, solo, lane, late, priority DESC, rank, seq)
    WHERE state = 'queued' AND due IS NULL
    """,
    # The jobs of a key by their numbers, once there are two: who holds it when the latest has another.
    """
    CREATE TABLE key_jobs (
        queue TEXT NOT NULL, key TEXT NOT NULL, job INTEGER NOT NULL,
        PRIMARY KEY (queue, key, job)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX key_jobs_job ON key_jobs (job)",
    """
    INSERT INTO key_jobs SELECT queue, key, seq FROM jobs
    WHERE (queue, key) IN (SELECT queue, key FROM jobs WHERE key IS NOT NULL GROUP BY queue, key HAVING count(*) > 1)
    """,
    # Who grades here, as JSON, and when it was last heard of. A node that is to take no more is noted by its name.
    """
    CREATE TABLE nodes (
        queue TEXT NOT NULL, name TEXT NOT NULL, record TEXT NOT NULL, seen REAL NOT NULL,
        PRIMARY KEY (queue, name)
    ) WITHOUT ROWID
    """,
    "CREATE TABLE drained (queue TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (queue, name)) WITHOUT ROWID",
    # A job whose work was handed in again: when, and a number of the row of `seq`.
    "ALTER TABLE jobs ADD COLUMN handed REAL",
    "ALTER TABLE jobs ADD COLUMN handed_seq INTEGER",
)

_CALLBACKS: Final = (
    "ALTER TABLE jobs ADD COLUMN callback TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE jobs ADD COLUMN delivery TEXT",
    # Callbacks of jobs that ended. `due`: when the next try is, or when the one under way, which `token` is of, lapses.
    """
    CREATE TABLE outbox (
        job INTEGER PRIMARY KEY,
        queue TEXT NOT NULL,
        due REAL,                               -- NULL unless pending
        since REAL NOT NULL,
        tries INTEGER NOT NULL DEFAULT 0,
        token TEXT,
        settled REAL,
        error TEXT NOT NULL DEFAULT ''
    )
    """,
    "CREATE INDEX outbox_due ON outbox (queue, due) WHERE due IS NOT NULL",
)

_BLOBS: Final = (
    # Small blobs, by the SHA-256 of their data; others are files. `put`: when it was last put, before the data, so that
    # a new mark changes one page.
    """
    CREATE TABLE blobs (
        seq INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, put REAL NOT NULL, data BLOB NOT NULL
    )
    """,
)

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (_FIRST, _HOLDS, _SEVERAL, _CALLBACKS, _BLOBS)
"""Statements that lead from version n to n + 1. Each tuple is applied in one transaction."""
BLOBS_SINCE: Final = 5
"""The version in which a file first had blobs in it."""

FORGET: Final = (
    "DELETE FROM blob_refs WHERE job = ?",
    "DELETE FROM attempts WHERE job = ?",
    "DELETE FROM results WHERE job = ?",
    "DELETE FROM outputs WHERE job = ?",
    "DELETE FROM key_jobs WHERE job = ?",
    "DELETE FROM outbox WHERE job = ?",
)
"""Empties the tables whose rows belong to one job, by its seq."""
