"""Replies of language models on disk, so that no question is sent, and paid for, twice."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from gaze_lens.errors import InputError
from gaze_lens.runs.digests import digest
from gaze_lens.runs.files import writing

TABLE = "create table if not exists replies (key text primary key, reply text not null)"
TIMEOUT = 60.0  # seconds to wait for another process that writes


def key_of(request: Any) -> str:
    """The key of a request that JSON can hold. It does not depend on the order of the names in it."""
    return digest(json.dumps(request, sort_keys=True))


class ReplyCache:
    """`ReplyCache("judge.sqlite")`: replies by key. Threads and processes may share a file; None stores nothing.

    Raises InputError if the file exists and is no such cache.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = None if path is None else Path(path)
        if self.path is not None:
            with writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._run(TABLE)

    def get(self, key: str) -> dict[str, Any] | None:
        """The reply of that key, or None."""
        rows = self._run("select reply from replies where key = ?", key)
        return json.loads(rows[0][0]) if rows else None

    def put(self, key: str, reply: dict[str, Any]) -> None:
        """Store a reply; it is on disk when this returns."""
        self._run("insert or replace into replies values (?, ?)", key, json.dumps(reply))

    def _run(self, statement: str, *values: str) -> list[tuple]:
        if self.path is None:
            return []
        try:
            with closing(sqlite3.connect(self.path, timeout=TIMEOUT)) as file, file:
                return file.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"{self.path} cannot be used for replies ({error}): expected a file that a judge made, or none. Give "
                "another path, or delete it."
            ) from error
