"""Who grades a queue, as the SQLite store keeps it."""

from __future__ import annotations

from collections.abc import Collection

from minitango.store import UNHEARD, Node, node_taken
from minitango.store import _rows as rows
from minitango.store._database import Database, Transaction


class SqliteNodes:
    """`Nodes` over one queue of an open file."""

    queue: str
    _db: Database

    def beat(self, node: Node, *, after: Collection[str] = (), now: float | None = None) -> bool:
        def body(tx: Transaction) -> bool:
            for record, seen in tx.execute(
                "SELECT record, seen FROM nodes WHERE queue = ? AND name = ?", (self.queue, node.name)
            ).fetchall():
                other = rows.node_of(record, seen, False)
                if other.instance not in (node.instance, *after) and tx.now - seen < other.good_for:
                    raise node_taken(other)
            tx.execute("DELETE FROM nodes WHERE queue = ? AND seen < ?", (self.queue, tx.now - UNHEARD))
            tx.execute(
                "INSERT OR REPLACE INTO nodes (queue, name, record, seen) VALUES (?, ?, ?, ?)",
                (self.queue, node.name, rows.to_text(node), tx.now),
            )
            drained = tx.execute("SELECT 1 FROM drained WHERE queue = ? AND name = ?", (self.queue, node.name))
            return drained.fetchone() is not None

        return self._db.transact("beat", body, now)

    def leave(self, name: str, instance: str | None = None) -> bool:
        def body(tx: Transaction) -> bool:
            gone = tx.execute(
                "DELETE FROM nodes WHERE name = ? AND queue = ? "
                "AND (? IS NULL OR json_extract(record, '$.instance') = ?)",
                (name, self.queue, instance, instance),
            )
            return gone.rowcount > 0

        return self._db.transact("leave", body)

    def drain(self, name: str, on: bool = True) -> bool:
        def body(tx: Transaction) -> bool:
            found = tx.execute(
                "SELECT 1 FROM nodes WHERE queue = ?1 AND name = ?2 "
                "UNION ALL SELECT 1 FROM drained WHERE queue = ?1 AND name = ?2",
                (self.queue, name),
            ).fetchone()
            if found is None:
                return False
            if on:
                tx.execute("INSERT OR IGNORE INTO drained (queue, name) VALUES (?, ?)", (self.queue, name))
            else:
                tx.execute("DELETE FROM drained WHERE queue = ? AND name = ?", (self.queue, name))
            return True

        return self._db.transact("drain", body)

    def nodes(self) -> list[Node]:
        found = self._db.read(
            "SELECT record, seen, drained.name IS NOT NULL FROM nodes LEFT JOIN drained USING (queue, name) "
            "WHERE queue = ? ORDER BY nodes.name",
            self.queue,
        )
        return [rows.node_of(*row) for row in found]
