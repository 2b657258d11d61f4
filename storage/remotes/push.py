"""A folder into a private dataset of somebody's own, with their token, which is kept nowhere.

Large files go first, in parts that are counted; then one commit names everything and takes away what
an earlier push had left. A file that the Hub has is not sent again. Knows nothing of collections.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from errors import QuireError, Refused
from storage.remotes.hub import connect, translated

MARK = "quire.json"  # a dataset that has it was pushed before, and may be renewed
_OWN = {"README.md", ".gitattributes"}
_AT_ONCE = 50  # files between two reports


class Pushed(NamedTuple):
    """Where it is: the page of the dataset, and the commit."""

    url: str
    commit: str


def push(folder: Path, repo: str, token: str, report: Callable[[int, int], None]) -> Pushed:
    """Make `repo` hold what the folder holds; `report(done, total)` counts files."""
    api = connect(repo, token).api
    with _worded(repo):
        api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
        there = api.dataset_info(repo)
        if not there.private:
            raise Refused(
                "push_public",
                f"The dataset {repo} is public; documents would be readable by anybody.",
                "Make it private, or push under another name.",
            )
        held = {s.rfilename for s in there.siblings or ()}
        if held - _OWN and MARK not in held:
            raise Refused(
                "push_foreign",
                f"The dataset {repo} holds something else.",
                "Push under another name; nothing was changed.",
            )
        adds = [
            CommitOperationAdd(p.relative_to(folder).as_posix(), p)
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        ]
        _send(api, repo, adds, report)
        gone = held - {a.path_in_repo for a in adds} - _OWN
        made = api.create_commit(
            repo,
            [*adds, *map(CommitOperationDelete, sorted(gone))],
            commit_message="Push a collection of Quire",
            repo_type="dataset",
            parent_commit=there.sha,
        )
    return Pushed(f"{api.endpoint}/datasets/{repo}", str(made.oid))


def _send(
    api: HfApi,
    repo: str,
    adds: list[CommitOperationAdd],
    report: Callable[[int, int], None],
) -> None:
    for start in range(0, len(adds), _AT_ONCE):
        api.preupload_lfs_files(repo, adds[start : start + _AT_ONCE], repo_type="dataset")
        report(min(start + _AT_ONCE, len(adds)), len(adds))


@contextmanager
def _worded(repo: str) -> Iterator[None]:
    """What the Hub refuses, said to the owner of the token, not to the operator."""
    try:
        with translated(repo):
            yield
    except QuireError as problem:
        if problem.code == "hub_token":
            raise Refused(
                "push_token", "The Hub no longer accepts your sign-in.", "Sign in again and push."
            ) from problem
        if problem.code in {"hub_refused", "hub_no_dataset"}:
            raise Refused(
                "push_refused",
                f"The Hub does not let you write {repo}.",
                "Use a dataset of your own, and sign in with the right to make repositories.",
            ) from problem
        raise
