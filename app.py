"""Quire's composition root: settings, the worker's supervisor, the page, launch.

Everything else can be used without it: `python -m pipeline` is the command line.
"""

import fcntl
import importlib
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from errors import QuireError, Refused
from pipeline.jobs.health import Health
from pipeline.jobs.queue import catalog_url
from pipeline.jobs.service import Jobs
from pipeline.processes import environment, logs
from pipeline.processes.rpc import Link
from settings import Settings, at_start
from storage import disk_reserve
from storage.catalog.catalog import Catalog
from storage.catalog.tokens import Accounts
from storage.paths import Paths
from storage.usage import drop_unfinished

if TYPE_CHECKING:
    from web.serve import Server

log = logging.getLogger(__name__)
_PATIENCE = 5.0  # seconds that a call of a person waits for a lock of the database


def prepare(settings: Settings) -> None:
    """What Gradio reads when it is imported: no analytics, uploads beside the data."""
    uploads = settings.data_dir / "uploads"
    uploads.mkdir(parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)  # an owner's uploads are counted there
    for name, value in (
        ("GRADIO_ANALYTICS_ENABLED", "False"),
        ("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000"),
        ("GRADIO_ANALYTICS_MAX_EVENTS", "200"),
    ):
        os.environ.setdefault(name, value)


def no_worker(paths: Paths) -> bool:
    """False while one of an earlier app still ends."""
    paths.run.mkdir(parents=True, exist_ok=True)
    with (paths.run / "jobs.lock").open("a", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def borrow_gpu(paths: Paths) -> Any:
    """The broker of a ZeroGPU Space, listening. The heavy imports are done here, before launch:
    in a call they would be paid from somebody's quota."""
    from web.gpu_broker import Broker

    embedding = importlib.import_module("pipeline.models.embedding")
    detection = importlib.import_module("pipeline.models.detection")
    # Gradio imports it in the first call, and it starts programs then; a fork would hang on those.
    importlib.import_module("matplotlib.pyplot")

    def load(step: str, names: tuple[str, ...]) -> Any:
        if step == "embed":
            return embedding.load_encoder(*names).encode
        return detection.load_detector(*names).detect

    broker = Broker(paths, load=load)
    broker.listen()
    return broker


def listening(settings: Settings) -> socket.socket:
    """On the asked-for port, 7860 on a Space, else the first free one from 7860; Refused when there is
    none. Whoever connects from now on is answered once the page's server has started."""
    host, asked = settings.host, settings.port or (7860 if settings.space_id else None)
    tried = []
    for port in [asked] if asked else range(7860, 7960):
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, port), family=family, backlog=2048)
        except OSError as problem:
            tried.append(f"{port}: {problem.strerror}")
    raise Refused(
        "port_taken",
        f"Quire cannot listen at {host} ({'; '.join(tried[:3])}).",
        "End what listens there, or set QUIRE_PORT or QUIRE_HOST.",
    )


def attend(
    stop: threading.Event, worker: "subprocess.Popen[bytes]", server: "Server", health: Health
) -> str | None:
    """Until this process is told to stop, or the reason why it cannot go on: nothing is started after
    launch, so whoever started the container starts it again."""
    while not stop.wait(0.5):
        if worker.poll() is not None:
            return f"The worker's supervisor is gone (it ended with {worker.returncode})."
        if not server.alive:
            return "The page's server has ended."
        health.look()
    return None


def main() -> int:
    logs.configure()
    given = environment.take()
    settings = at_start(given, serves=True)
    environment.own(settings.data_dir)
    prepare(settings)
    paths = Paths(settings.data_dir)
    disk_reserve.tend(paths)
    drop_unfinished(paths)
    catalog = Catalog(catalog_url(settings, paths), _PATIENCE, alone=no_worker(paths))
    port = listening(settings)
    worker = environment.start(
        [sys.executable, "-m", "pipeline.processes.supervisor"], environment.for_worker(given)
    )
    # Gradio reads its environment on import, and ZeroGPU wants everything else to have started.
    from starlette.middleware import Middleware

    from web import page
    from web.api import App, calls
    from web.guard import Guard
    from web.identity import Identity
    from web.job_feed import Hub
    from web.routes.files import routes
    from web.serve import Server

    broker = borrow_gpu(paths) if settings.zero_gpu else None
    jobs = Jobs(settings, paths, catalog)
    identity = Identity(settings, Accounts(catalog_url(settings, paths), _PATIENCE))
    link = Link(paths)
    app = App(
        settings=settings,
        identity=identity,
        jobs=jobs,
        link=link,
        hub=Hub(jobs),
        health=Health(link),
        **({"saw": broker.saw} if broker else {}),
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    demo = page.build(app)
    demo.queue(default_concurrency_limit=8, max_size=512, api_open=False)
    server = Server(port, local_proxy=not settings.space_id)
    with server.instead():
        _, url, _ = demo.launch(
            server_name=settings.host,
            max_threads=512,  # which are calls at once; what takes a thread waits for its turn
            state_session_capacity=1000,
            max_file_size=f"{settings.max_file_mb}mb",
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            show_error=False,
            footer_links=[],
            mcp_server=True,
            quiet=True,
            theme=page.theme(),
            head=page.head(settings),
            prevent_thread_lock=True,
            _frontend=False,  # else it is asked for its page five times, and is to answer within seconds
            app_kwargs={
                "routes": routes(app),
                "middleware": [
                    Middleware(Guard, settings=settings, identity=identity, calls=calls(demo))
                ],
                "lifespan": server.lifespan,
            },
        )
    log.info("Quire is at %s", url)
    reason = attend(stop, worker, server, app.health)
    if reason:
        log.critical("%s Quire ends, to be started again.", reason)
    worker.terminate()  # it saves what is unsaved meanwhile
    if server.loop:
        server.loop.call_soon_threadsafe(app.hub.close)
    demo.close(verbose=False)
    for fork in multiprocessing.active_children():  # GPU calls outlive their caller otherwise
        fork.kill()
    try:
        worker.wait(22)
    except subprocess.TimeoutExpired:
        worker.kill()
    identity.accounts.close()
    jobs.close()
    return 1 if reason else 0


if __name__ == "__main__":
    code = 1
    try:
        code = main()
    except QuireError as problem:
        log.critical("%s", problem, extra={"code": problem.code})
    except SystemExit as problem:  # with a line on what it cannot read
        log.critical("%s", problem)
    finally:
        if sys.exception() is not None:
            log.critical("Quire cannot start.", exc_info=True)
        logging.shutdown()
        os._exit(code)  # threads that are left would keep half of it alive
