"""The shape of the house: imports point one way, each library has one home, one reader of the
environment."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted([
    *(ROOT / n for n in ("app.py", "errors.py", "settings.py")),
    *(p for folder in ("web", "pipeline", "storage") for p in (ROOT / folder).rglob("*.py")),
])
MAY_IMPORT = {
    "app": {"web", "pipeline", "storage", "settings", "errors"},
    "web": {"web", "pipeline", "storage", "settings", "errors"},
    "pipeline": {"pipeline", "storage", "settings", "errors"},
    "storage": {"storage", "errors"},
    "settings": {"errors"},
    "errors": set(),
}
WEB_SEES = {
    "pipeline.ingest.chunk", "pipeline.jobs.health", "pipeline.jobs.notify", "pipeline.jobs.service", "pipeline.jobs.uploads", "pipeline.models.gpu",
    "pipeline.options", "pipeline.processes.channel", "pipeline.processes.rpc", "pipeline.transfers.push_tokens",
    "storage.catalog.catalog", "storage.catalog.tokens", "storage.files", "storage.paths",
}  # fmt: skip
HOMES = {
    "gradio": {
        "web/page.py",
        "web/api.py",
        "web/uploads.py",
        "web/body.py",
        "web/gpu_broker.py",
        "web/serve.py",
    },
    "spaces": {"web/gpu_broker.py"},
    "torch": {
        "pipeline/models/batching.py",
        "pipeline/models/embedding.py",
        "pipeline/models/detection.py",
    },
    "sentence_transformers": {"pipeline/models/embedding.py"},
    "transformers": {"pipeline/models/embedding.py", "pipeline/models/detection.py"},
    "boto3": {"storage/remotes/s3.py", "pipeline/jobs/notify.py"},
    "chromadb": {"storage/live/chroma.py"},
    "dbos": {
        "pipeline/jobs/queue.py",
        "pipeline/ingest/workflow.py",
        "pipeline/jobs/queues.py",
        "pipeline/transfers/workflow.py",
        "pipeline/jobs/recovery.py",
        "pipeline/worker/__main__.py",
    },
    "pyarrow": {"storage/live/segments.py", "storage/live/parquet_shards.py"},
    "sqlalchemy": {
        "storage/catalog/schema.py",
        "storage/catalog/sqlite_file.py",
        "storage/catalog/catalog.py",
        "storage/catalog/heartbeats.py",
        "storage/catalog/tokens.py",
    },
    "cryptography": {"pipeline/jobs/notify.py"},
    "pypdfium2": {
        "pipeline/pdf/annotations.py",
        "pipeline/pdf/glyphs.py",
        "pipeline/pdf/pdfium.py",
        "pipeline/pdf/text_layer.py",
    },
    "pypdfium2_raw": {"pipeline/pdf/pdfium.py"},
    "pikepdf": {"pipeline/pdf/probe.py", "pipeline/ingest/reference.py"},
    "fasttext": {"pipeline/pdf/language.py"},
    "tesserocr": {"pipeline/pdf/ocr/tesseract.py"},
    "tablers": {"pipeline/pdf/tables/ruled.py"},
    "huggingface_hub": {
        "web/identity.py",
        "pipeline/models/weights.py",
        "storage/remotes/hub.py",
        "storage/remotes/push.py",
    },
}
UNPICKLE = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
READS_ENVIRONMENT = {
    "app.py",
    "pipeline/__main__.py",
    "pipeline/worker/__main__.py",
    "pipeline/processes/environment.py",
    "pipeline/processes/pool.py",
    "pipeline/admin.py",
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_point_one_way(path: Path) -> None:
    layer = name(path).split("/")[0].removesuffix(".py")
    ours = {m.split(".")[0] for m in imports(path)} & set(MAY_IMPORT)
    assert ours <= MAY_IMPORT[layer]


def test_web_sees_the_seam_only() -> None:
    modules = {
        ".".join(p.with_suffix("").relative_to(ROOT).parts).removesuffix(".__init__") for p in FILES
    }
    seen = {
        module
        for path in FILES
        if name(path).startswith("web/")
        for module in imports(path)
        if module.startswith(("pipeline.", "storage.")) and module in modules
    } - {"pipeline.ingest", "pipeline.jobs", "pipeline.models", "pipeline.processes", "pipeline.transfers", "storage.catalog"}  # fmt: skip
    assert seen <= WEB_SEES


@pytest.mark.parametrize("library", HOMES)
def test_a_library_has_one_home(library: str) -> None:
    used = {name(p) for p in FILES if any(m.split(".")[0] == library for m in imports(p))}
    assert used
    assert used <= HOMES[library]


def test_settings_are_the_only_reader_of_the_environment() -> None:
    readers = {
        name(p)
        for p in FILES
        for node in ast.walk(ast.parse(p.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
    }
    assert readers == READS_ENVIRONMENT  # they hand it to Settings, or set a child's


def test_nothing_is_unpickled() -> None:
    """What another process, a file or a store says is data; `Connection.recv` would unpickle it."""
    taken = {m for p in FILES for m in imports(p) if m.split(".")[0] in UNPICKLE}
    assert taken <= {"pickle", "pickle.PicklingError"}
    read = {
        f"{name(p)}: {ast.unparse(node.func)}"
        for p in FILES
        for node in ast.walk(ast.parse(p.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr == "recv" and not node.args
    }
    assert not read


def test_broad_excepts_stand_at_the_boundary_of_a_call_only() -> None:
    broad = {
        name(p)
        for p in FILES
        for node in ast.walk(ast.parse(p.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in
             {"Exception", "BaseException"}))
    }  # fmt: skip
    assert broad == {
        "pipeline/worker/__main__.py",
        "pipeline/ingest/stages.py",
        "pipeline/transfers/workflow.py",
    }
