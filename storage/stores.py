"""Everything below one data directory, put together: what the worker and the commands use."""

from dataclasses import dataclass

from storage.catalog.catalog import Catalog
from storage.generations.committer import UNLIMITED, Committer, Pace
from storage.generations.replication import Replication
from storage.generations.restore import Restore
from storage.live.open_stores import Workspaces
from storage.paths import Paths
from storage.remotes.remote import Remote


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """One of each, over the same primary and mirror."""

    replication: Replication
    restore: Restore
    workspaces: Workspaces
    committer: Committer


def open_stores(
    paths: Paths,
    catalog: Catalog,
    primary: Remote,
    mirror: Remote | None = None,
    *,
    pace: Pace | None = None,
    patience: float = 3.0,
) -> Stores:
    """A directory as the primary is saved to without a pace."""
    replication = Replication(paths, catalog, primary, mirror)
    restore = Restore(paths, replication)
    workspaces = Workspaces(paths, restore, patience=patience)
    chosen = pace or (UNLIMITED if primary.name == "local" else Pace())
    committer = Committer(replication, workspaces, chosen)
    workspaces.changed = committer.touch
    replication.went_on = workspaces.went_on
    return Stores(
        replication=replication, restore=restore, workspaces=workspaces, committer=committer
    )
