"""Writes docs/api.md from the endpoints in web/api.py: `make api-docs`. A test holds both together.

Reads the sources, starts nothing. What an answer's fields mean stands here; which there are is read from
where they are made, so that neither is forgotten.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Answer(NamedTuple):
    """What an endpoint answers, the codes it may refuse with, and those that end its job."""

    text: str
    refuses: str = ""
    fails: str = ""


class Shape(NamedTuple):
    """`made` is file, function; `fields` what each key holds; `besides` are keys that are added elsewhere."""

    made: tuple[str, str]
    fields: dict[str, str]
    besides: tuple[str, ...] = ()


ANSWERS = {
    "submit": Answer(
        "A list of [jobs](#job), one per file, in order. A file that is refused is a failed job with its `error`; one "
        "that was submitted before is that job, with `duplicate`.",
        "no_files not_an_upload title_empty title_too_long notify_invalid webhook_private mail_sign_in address_unconfirmed disk_full",
        "empty_file file_too_large not_a_pdf strategy_unknown languages_unknown gpu_policy_unknown too_many_jobs "
        "quota_exceeded too_many_pages password_required password_wrong damaged_pdf no_pages",
    ),
    "watch": Answer("A stream of [events](#event); the last one has `status`.", "job_not_found"),
    "job": Answer("A [job](#job).", "job_not_found"),
    "jobs": Answer("A list of [jobs](#job)."),
    "cancel": Answer("The [job](#job); one that has ended is answered as it is.", "job_not_found"),
    "retry": Answer(
        "The [job](#job).",
        "job_not_found job_running job_refused pages_unknown pages_range strategy_unknown",
    ),
    "collections": Answer("A list of [collections](#collection)."),
    "create_collection": Answer(
        "The [collection](#collection).", "title_empty title_too_long title_taken"
    ),
    "delete_collection": Answer(
        "A [receipt](#receipt), with `collection`, `title`, `sources`, `records` and `bytes`.",
        "collection_not_found",
    ),
    "sources": Answer("A list of [sources](#source).", "collection_not_found"),
    "delete_source": Answer(
        "A [receipt](#receipt), with `source_id`, `filename`, `records` and `bytes`.",
        "collection_not_found source_not_found",
    ),
    "receipt": Answer("The [receipt](#receipt) as it is now.", "receipt_not_found"),
    "search": Answer(
        "A list of [hits](#hit), best first.",
        "query_empty query_too_long mode_unknown group_unknown top_k_range offset_range bad_where collection_not_found "
        "model_not_offered",
    ),
    "reembed": Answer(
        "A [job](#job).",
        "collection_not_found model_not_offered gpu_policy_unknown reembed_running",
    ),
    "status": Answer("The [status](#status)."),
    "export": Answer(
        "`job`, `name`, `bytes`, and `url`, the path from which its owner downloads the file for a day.",
        "collection_not_found format_unknown collection_empty",
    ),
    "push": Answer(
        "A [job](#job); its `result` has the dataset's address.",
        "push_sign_in collection_not_found push_name",
        "collection_empty push_public push_foreign push_refused push_token push_needs_owner",
    ),
    "import_collection": Answer(
        "A [job](#job); its `result` names the collection.",
        "not_an_upload",
        "archive_refused import_unreadable import_newer import_mixed import_model import_too_much quota_exceeded",
    ),
}
ALWAYS = (
    "argument_missing argument_unknown argument_type bad_body body_too_large body_slow sign_in token_refused "
    "not_allowed membership_old too_many_requests identity_unavailable worker_starting worker_unavailable "
    "worker_busy opening restoring database_busy"
)
SHAPES = {
    "job": Shape(
        ("pipeline/jobs/progress.py", "Standing.shown"),
        {
            "id": "of the job",
            "kind": "`ingest`, `export`, `push`, `import` or `reembed`",
            "status": "`queued`, `running`, `waiting`, `succeeded`, `partial`, `failed` or `cancelled`",
            "collection": "id of the collection",
            "source": "`id` and `sha256` (the same; null until the file was taken), `filename`, `pages`, and what the first look told",
            "stages": "by name (`probe`, `partition`, `chunk`, `embed`, `index`, `save`): `done` and `total`, in pages",
            "position": "place in your line while it is queued",
            "waits_for": "what it waits for, as a sentence",
            "retry_at": "when it is tried again (Unix seconds)",
            "eta_seconds": "seconds that are still to be expected; null when not known",
            "epoch": "grows when the job was restored from a store; event numbers begin anew then",
            "message": "the newest news",
            "created_at": "Unix seconds",
            "started_at": "Unix seconds, or null",
            "finished_at": "Unix seconds, or null",
            "saved_generation": "the generation in which its records are saved; null: not saved yet",
            "error": "`code`, `message` and `advice` of what ended it, or null",
            "pages_failed": "numbers of the pages that were not read",
            "gpu_seconds": "seconds of your GPU quota that it took",
            "notified": "what came of the mail or webhook",
            "result": "of an export, push, import or change of model",
            "target": "the format, dataset or model that such a job is for",
            "strategy": "as asked for",
            "dismissed": "whether it was taken off the list",
            "duplicate": "true when the file was submitted before (`/submit` only)",
        },
        ("duplicate",),
    ),
    "event": Shape(
        ("pipeline/ingest/workflow.py", "_Run.event"),
        {
            "seq": "its number; give the last one that you saw as `after`",
            "stage": "which part of the job it is about; `end` for the last one",
            "done": "pages done of that stage",
            "total": "pages in all",
            "message": "what happened, as a sentence",
            "time": "Unix seconds",
            "epoch": "as of a job",
            "page": "of a page that was not read",
            "reason": "why that page was not read",
            "status": "of the last event: the final status",
            "error": "of the last event: `code`, `message`, `advice`, or null",
            "code": "of what is waited for",
        },
        ("seq", "time", "epoch", "page", "reason", "status", "error", "code"),
    ),
    "hit": Shape(
        ("pipeline/search.py", "hit"),
        {
            "id": "of the record: the same for the same content of the same source",
            "text": "the passage",
            "score": "0 to 1, higher is better; 1 when it is the best by meaning and by words",
            "rank": "`dense` and `keyword`: its place in each list, or null",
            "source_id": "of the PDF",
            "filename": "of the PDF",
            "page": "from 1",
            "pages": "that page",
            "box": "the first of `boxes`",
            "boxes": "`page`, `x0`, `y0`, `x1`, `y1` in points from the upper left, and the page's size `w`, `h`",
            "element_type": "`Text`, `Table` or `Image`",
            "section_titles": "headings above it",
            "caption": "of a table or figure",
            "table_html": "of a table",
            "image_url": "path of the picture of a table or figure",
            "more": "up to two further records of its page (or document), with the same fields; their places are in `boxes`",
        },
        ("more",),
    ),
    "collection": Shape(
        ("storage/catalog/catalog.py", "Catalog.shelf"),
        {
            "id": "of the collection",
            "title": "its name",
            "sources": "how many PDFs",
            "pages": "how many pages",
            "bytes": "of the PDFs",
            "model": "the embedding model; null before the first record",
            "created_at": "Unix seconds",
            "records": "how many records",
        },
        ("records",),
    ),
    "source": Shape(
        ("storage/catalog/catalog.py", "SourceRow.shown"),
        {
            "id": "sha256 of the PDF",
            "filename": "as it was uploaded",
            "pages": "how many",
            "bytes": "of the PDF",
            "created_at": "Unix seconds",
            "partial": "whether its job was cancelled, and only a part can be searched",
        },
        ("partial",),
    ),
    "receipt": Shape(
        ("pipeline/worker/handlers.py", "Library.receipt"),
        {
            "receipt": "give it to `/receipt`",
            "deleted_at": "Unix seconds",
            "saved": "whether the deletion is in a saved generation",
            "saved_generation": "which one",
            "erased": "whether no saved generation holds it any more",
            "gone": "for each place: `where`, `by` when it is gone there (Unix seconds; null: not known yet), `reason`",
        },
    ),
    "status": Shape(
        ("pipeline/worker/handlers.py", "Library.status"),
        {
            "version": "of Quire",
            "gradio": "its version",
            "jobs": "how many of your jobs have each status",
            "models": "embedding models that a collection may have",
            "worker": "`ready`, or why not; without a worker what it tells is missing",
            "remotes": "`saved_generation`, `saved_at`, `unsaved` changes, `published_generation`, `primary`, `mirror`, `lag` of the mirror, `error`, `restoring`",
            "set_aside": "damaged databases that were set aside",
            "model": "the one of new collections",
            "model_error": "why it cannot be loaded, or null",
            "device": "`cpu`, `cuda`, `loading` or `none`",
            "gpu": "the device, where it is a GPU",
            "sandbox": "what keeps page processes from the `network` and from other `files`",
            "restart_loses": "`everything`, `changes`, `jobs`, and that as a `message`",
            "you": "`name`, `kind`, `may_push`, `expires_at`, `storage` (`bytes`, `limit_bytes`), `jobs` (`active`, `limit`)",
        },
        ("version", "gradio", "jobs", "models", "worker", "restart_loses", "you"),
    ),
}
TYPES = {"str": "text", "int": "whole number", "bool": "true or false", "dict": "object", "None": "null"}  # fmt: skip
HEAD = """# The endpoints

Written by `make api-docs` from `web/api.py`; do not edit. How to call them from Python, curl, MCP tools and a shell:
[clients.md](clients.md). Arguments without a default are needed; null stands for the default. Times are Unix seconds,
pages count from 1. The same is described by a running Quire in `/gradio_api/openapi.json`.

"""


def page() -> str:
    """All of docs/api.md."""
    declared = endpoints()
    if declared.keys() != ANSWERS.keys():
        raise ValueError(f"ANSWERS and web/api.py differ: {declared.keys() ^ ANSWERS.keys()}")
    parts = [HEAD, "## Calls\n"]
    parts += ["\n".join(_call(name, function)) for name, function in declared.items()]
    parts += [f"## Errors of every call\n\n{_codes(ALWAYS)}. What each means: [errors.md](errors.md).\n"]  # fmt: skip
    parts += ["## Answers\n"]
    parts += ["\n".join(_shape(name, shape)) for name, shape in SHAPES.items()]
    return "\n".join(parts)


def endpoints() -> dict[str, Function]:
    """The functions that `register` declares, in its order."""
    register = function("web/api.py", "register")
    inside = {n.name: n for n in register.body if isinstance(n, Function)}
    listed = next(
        n.value for n in register.body
        if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name) and n.target.id == "calls"
    )  # fmt: skip
    assert isinstance(listed, ast.Tuple)
    return {n.id: inside[n.id] for n in listed.elts if isinstance(n, ast.Name)}


def function(file: str, name: str) -> Function:
    """The function, or `Class.method`, of that file."""
    body: list[ast.stmt] = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    for part in name.split("."):
        found = [n for n in body if isinstance(n, ast.ClassDef | Function) and n.name == part]
        if not found:
            raise ValueError(
                f"There is no {name} in {file}: tell SHAPES in bin/api.py where it is."
            )
        node, body = found[0], found[0].body
    assert isinstance(node, Function)
    return node


def fields(shape: Shape) -> set[str]:
    """The keys of that answer, where it is made: of the largest dict that is written there."""
    made = [n for n in ast.walk(function(*shape.made)) if isinstance(n, ast.Dict)]
    largest = max(made, key=lambda node: len(node.keys))
    return {str(k.value) for k in largest.keys if isinstance(k, ast.Constant)}


def codes() -> set[str]:
    """Every code that this page names."""
    named = (ALWAYS, *(f"{a.refuses} {a.fails}" for a in ANSWERS.values()))
    return set(" ".join(named).split())


def _call(name: str, node: Function) -> Iterator[str]:
    said, _, rest = (ast.get_docstring(node) or "").partition("\nArgs:\n")
    told = dict(re.findall(r"^\s+(\w+): (.*)$", rest, re.M))
    answer = ANSWERS[name]
    yield f"### /{name}\n\n{' '.join(said.split())}\n"
    listed = list(_arguments(node))
    if listed:
        yield "| argument | type | default | |\n|---|---|---|---|"
        yield from (f"| `{n}` | {t} | {d} | {told.get(n, '')} |" for n, t, d in listed)
        yield ""
    yield f"Answers: {answer.text}"
    if answer.refuses:
        yield f"\nRefused with: {_codes(answer.refuses)}."
    if answer.fails:
        yield f"\nThe job may end with: {_codes(answer.fails)}, among others."
    yield ""


def _arguments(node: Function) -> Iterator[tuple[str, str, str]]:
    """Name, type, default of what a caller gives."""
    given = node.args.args[1:]
    defaults = [None] * (len(given) - len(node.args.defaults)) + list(node.args.defaults)
    for one, default in zip(given, defaults, strict=True):
        shown = "" if default is None else _value(default)
        yield one.arg, _type(ast.unparse(one.annotation or ast.Constant(None))), shown


def _value(node: ast.expr) -> str:
    value = ast.literal_eval(node)
    return {"": "empty", None: "null"}.get(value, f"`{str(value).lower() if value is True else value}`")  # fmt: skip


def _type(annotation: str) -> str:
    if annotation.endswith(" | None"):
        return _type(annotation.removesuffix(" | None"))
    if annotation.startswith("list["):
        return f"list of {_type(annotation[5:-1])}"
    return "file" if annotation == "gr.FileData" else TYPES[annotation]


def _shape(name: str, shape: Shape) -> Iterator[str]:
    yield f"### {name.capitalize()}\n\n| field | |\n|---|---|"
    yield from (f"| `{field}` | {text} |" for field, text in shape.fields.items())
    yield ""


def _codes(text: str) -> str:
    return ", ".join(f"`{code}`" for code in text.split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
