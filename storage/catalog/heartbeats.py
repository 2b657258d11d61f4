"""Which workers gave a sign of life, by the database's clock where there are several machines."""

import time

from sqlalchemy import Connection, Engine, delete, func, select

from storage.catalog import schema

_CLOCK = func.extract("epoch", func.clock_timestamp())


class Workers:
    """Their rows behind one engine."""

    def __init__(self, engine: Engine) -> None:
        self._sqlite = engine.dialect.name == "sqlite"
        self._engine = engine

    def beat(self, worker: str, role: str) -> None:
        with self._engine.begin() as db:
            values = {"role": role, "beat": self._now(db)}
            schema.upsert(db, schema.workers, {"id": worker}, values)

    def alive(self, seconds: float) -> set[str]:
        """Workers that gave a sign of life within that time."""
        with self._engine.connect() as db:
            recent = schema.workers.c.beat >= self._now(db) - seconds
            return {r.id for r in db.execute(select(schema.workers.c.id).where(recent))}

    def bury(self, seconds: float) -> None:
        """Forget workers that have been silent for that long."""
        with self._engine.begin() as db:
            db.execute(
                delete(schema.workers).where(schema.workers.c.beat < self._now(db) - seconds)
            )

    def silence(self, role: str) -> float | None:
        """Seconds since a worker of that role gave a sign of life; None when none ever did."""
        query = select(func.max(schema.workers.c.beat)).where(schema.workers.c.role == role)
        with self._engine.connect() as db:
            last = db.execute(query).scalar()
            return None if last is None else max(0.0, self._now(db) - float(last))

    def _now(self, db: Connection) -> float:
        return time.time() if self._sqlite else float(db.execute(select(_CLOCK)).scalar_one())
