"""The page: a Gradio Blocks layout and its events. Asks the same functions as the endpoints.

Untrusted text becomes HTML only in the Jinja templates, which escape it. State lives in the worker
and the catalogue; a reloaded page asks again.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import nh3
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from errors import QuireError
from pipeline.jobs import STAGES
from web import api
from web.api import App

_HERE = Path(__file__).parent
_CELLS = {"table", "thead", "tbody", "tr", "td", "th"}


def safe_table(text: str) -> Markup:
    """Our own table HTML, cleaned again: table tags and spans, nothing else."""
    spans = {"td": {"colspan", "rowspan"}, "th": {"colspan", "rowspan"}}
    return Markup(nh3.clean(text, tags=_CELLS, attributes=spans))


_templates = Environment(loader=FileSystemLoader(_HERE / "templates"), autoescape=True)
_templates.filters["safe_table"] = safe_table
_templates.policies["json.dumps_kwargs"] = {"sort_keys": True}


def _html(name: str, **values: Any) -> str:
    return _templates.get_template(f"{name}.html").render(**values)


def theme() -> gr.themes.Base:
    """Orange on slate, with every text at WCAG AA contrast."""
    return gr.themes.Default(
        primary_hue="orange",
        neutral_hue="slate",
        radius_size="lg",
        font=["Inter", "system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        button_primary_background_fill="#c2410c",
        button_primary_background_fill_hover="#9a3412",
        button_primary_text_color="white",
        button_primary_background_fill_dark="#c2410c",
        button_primary_background_fill_hover_dark="#9a3412",
        button_primary_border_color="#c2410c",
        button_primary_border_color_dark="#c2410c",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        link_text_color="#9a3412",
        link_text_color_dark="#fdba74",
    )


CSS = (_HERE / "static" / "page.css").read_text(encoding="utf-8")
JS = (_HERE / "static" / "page.js").read_text(encoding="utf-8")


def build(app: App) -> Any:
    """The whole page and every endpoint."""
    with gr.Blocks(title="Quire", fill_width=True, delete_cache=(3600, 86400)) as demo:
        api.register(app)  # first: a page event of the same name would take the endpoint's
        _events(app, demo, _layout(app))
    api.hide_the_rest(demo)
    return demo


def _layout(app: App) -> dict[str, Any]:
    p: dict[str, Any] = {}
    with gr.Sidebar(width=280, elem_id="side"):
        gr.HTML("<p class='quire-title'>Quire</p><p class='quire-sub'>PDFs you can ask.</p>")
        p["collection"] = gr.Radio(label="Collection", choices=["default"], value="default",
                                   elem_id="collection")  # fmt: skip
        with gr.Accordion("Collections", open=False):
            p["title"] = gr.Textbox(label="Name", max_lines=1, elem_id="collection-title")
            p["create"] = gr.Button("Create", size="sm", variant="primary")
            p["rename"] = gr.Button("Rename the chosen one", size="sm")
            p["drop"] = gr.Button("Delete the chosen one…", size="sm")
            p["confirm"] = gr.Button("Yes, delete it and its sources", size="sm",
                                     variant="stop", visible=False)  # fmt: skip
        if app.settings.space_id:
            gr.LoginButton(size="sm")
        p["state"] = gr.Markdown("", elem_classes=["foot"], elem_id="state")
    with gr.Tabs(elem_id="tabs") as p["tabs"]:
        with gr.Tab("Add", id="add", elem_id="tab-add"):
            p["files"] = gr.File(
                label=f"PDF files, up to {app.settings.max_file_mb} MB and "
                f"{app.settings.max_pages:,} pages each",
                file_count="multiple", file_types=[".pdf"], elem_id="files",
            )  # fmt: skip
            with gr.Accordion("Options", open=False):
                p["strategy"] = gr.Dropdown(
                    ["auto", "fast", "ocr_only", "hi_res"], value="auto", label="How pages are read",
                    info="auto: each page by what is on it; hi_res: with layout and table models",
                )  # fmt: skip
                p["languages"] = gr.Textbox(label="Languages of scanned pages",
                                            placeholder="en de")  # fmt: skip
                p["password"] = gr.Textbox(label="Password of locked files", type="password")
                p["notify"] = gr.Textbox(label="Tell me when it is done",
                                         placeholder="a mail address")  # fmt: skip
                p["size"] = gr.Slider(128, 2048, 512, step=64, label="Longest chunk, characters")
            p["submit"] = gr.Button("Add to the collection", variant="primary", elem_id="submit")
        with gr.Tab("Jobs", id="jobs", elem_id="tab-jobs"):
            p["jobs"] = gr.HTML(elem_id="jobs")
            p["refresh"] = gr.Button("Refresh", size="sm", elem_id="refresh")
        with gr.Tab("Search", id="search", elem_id="tab-search"), gr.Row():
            with gr.Column(scale=3, min_width=320):
                p["query"] = gr.Textbox(label="Question", max_lines=1, elem_id="query",
                                        placeholder="What do the documents say about …?")  # fmt: skip
                with gr.Row():
                    p["mode"] = gr.Radio(["hybrid", "dense", "keyword"], value="hybrid",
                                         label="Mode", elem_id="mode")  # fmt: skip
                    p["kind"] = gr.Dropdown(["any", "Text", "Table", "Image"], value="any",
                                            label="Kind")  # fmt: skip
                with gr.Accordion("Filters", open=False):
                    p["source"] = gr.Dropdown([("all sources", "")], value="", label="Source")
                    p["first"] = gr.Number(label="From page", precision=0, minimum=1, value=None)
                    p["last"] = gr.Number(label="To page", precision=0, minimum=1, value=None)
                p["ask"] = gr.Button("Search", variant="primary", elem_id="ask")
                p["hits"] = gr.HTML(_html("hits"), elem_id="results")
            with gr.Column(scale=2, min_width=300):
                gr.HTML("<div class='place'><div class='empty'>A page opens here.</div></div>",
                        elem_id="preview")  # fmt: skip
        with gr.Tab("Gallery", id="gallery", elem_id="tab-gallery"):
            p["gallery"] = gr.HTML(elem_id="gallery")
        with gr.Tab("Sources", id="sources", elem_id="tab-sources"):
            p["sources"] = gr.HTML(elem_id="sources")
            with gr.Accordion("Delete or take away", open=False):
                p["chosen"] = gr.Dropdown([], label="Source", elem_id="chosen")
                p["remove"] = gr.Button("Delete this source…", size="sm")
                p["sure"] = gr.Button("Yes, delete it and its records", size="sm",
                                      variant="stop", visible=False)  # fmt: skip
                p["format"] = gr.Dropdown(["parquet", "chroma", "json", "markdown"],
                                          value="parquet", label="Export format")  # fmt: skip
                p["export"] = gr.Button("Export the collection", size="sm")
                p["receipt"] = gr.Markdown("", elem_id="receipt")
    return p


def _events(app: App, demo: gr.Blocks, p: dict[str, Any]) -> None:
    views = [
        p[n] for n in ("collection", "jobs", "sources", "gallery", "source", "chosen", "state")
    ]
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    view = _view(app)

    def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
        return api.coded(function)

    def load(request: gr.Request) -> list[Any]:
        asked = dict(request.query_params)
        tab = "jobs" if asked.get("job") else "search" if asked.get("q") else None
        wanted = asked.get("collection") or "default"
        return [
            *view(wanted, request),
            gr.Tabs(selected=tab) if tab else gr.skip(),
            asked.get("q", ""),
        ]

    if app.settings.zero_gpu:  # an open page keeps its owner's GPU token fresh
        gr.Timer(20).tick(
            lambda request: app.saw(app.identity.of(request).key, request), None, None, **private
        )
    demo.load(guarded(load), None, [*views, p["tabs"], p["query"]], **private)
    p["refresh"].click(guarded(view), p["collection"], views, **private)
    p["collection"].input(guarded(view), p["collection"], views, **private)

    def submit(
        files: list[str] | None, collection: str, strategy: str, languages: str, password: str,
        notify: str, size: int, request: gr.Request,
    ) -> list[Any]:  # fmt: skip
        user = app.identity.of(request).key
        given = [{"path": f, "orig_name": Path(f).name} for f in files or []]
        size = int(size)
        made = api.submit_files(
            app,
            user,
            given,
            {
                "collection": collection, "strategy": strategy, "languages": languages,
                "password": password, "notify": notify,
                "chunk": {
                    "max_characters": size,
                    "new_after_n_chars": size * 3 // 4,
                    "combine_text_under_n_chars": size // 2,
                },
            },
        )  # fmt: skip
        for one in made:
            if one.get("duplicate"):
                gr.Info(f"{one['source']['filename']} was added before; its job is shown.")
        return [*view(collection, request), gr.Tabs(selected="jobs"), None, ""]

    p["submit"].click(
        guarded(submit),
        [
            p[n]
            for n in ("files", "collection", "strategy", "languages", "password", "notify", "size")
        ],
        [*views, p["tabs"], p["files"], p["password"]],
        **private,
    )

    def ask(
        query: str, collection: str, mode: str, kind: str, source: str, first: float | None,
        last: float | None, request: gr.Request,
    ) -> str:  # fmt: skip
        where = {
            "source_id": source or None,
            "element_type": None if kind == "any" else kind,
            "pages": [int(first) if first else None, int(last) if last else None],
        }
        try:
            hits = app.link.call(
                "search", app.identity.of(request).key, query=query, collection=collection,
                top_k=20, mode=mode, where=where,
            )  # fmt: skip
        except QuireError as problem:
            return _html("hits", error=problem.as_dict())
        return _html("hits", hits=hits, asked=True, root="")

    question = [p[n] for n in ("query", "collection", "mode", "kind", "source", "first", "last")]
    for happened in (p["ask"].click, p["query"].submit):
        happened(ask, question, p["hits"], concurrency_limit=4, **private)
    _collections(app, p, views, view, private)
    _sources(app, p, views, view, private)


def _collections(app: App, p: dict[str, Any], views: list[Any], view: Any, private: Any) -> None:
    def create(title: str, request: gr.Request) -> list[Any]:
        made = app.link.call("create_collection", app.identity.of(request).key, title=title)
        return [*view(made["title"], request), ""]

    def rename(title: str, collection: str, request: gr.Request) -> list[Any]:
        user = app.identity.of(request).key
        made = app.link.call("rename_collection", user, collection=collection, title=title)
        return [*view(made["title"], request), ""]

    def drop(collection: str, request: gr.Request) -> list[Any]:
        user = app.identity.of(request).key
        receipt = app.link.call("delete_collection", user, collection=collection)
        gr.Info(f"Deleted {receipt['sources']} sources and {receipt['records']} records.")
        return [*view("default", request), gr.Button(visible=False)]

    p["create"].click(api.coded(create), p["title"], [*views, p["title"]], **private)
    p["rename"].click(
        api.coded(rename), [p["title"], p["collection"]], [*views, p["title"]], **private
    )
    p["drop"].click(lambda: gr.Button(visible=True), None, p["confirm"], **private)
    p["confirm"].click(api.coded(drop), p["collection"], [*views, p["confirm"]], **private)


def _sources(app: App, p: dict[str, Any], views: list[Any], view: Any, private: Any) -> None:
    def remove(source: str, collection: str, request: gr.Request) -> list[Any]:
        user = app.identity.of(request).key
        receipt = app.link.call("delete_source", user, collection=collection, source_id=source)
        text = (
            f"Deleted: {receipt['records']} records and {receipt['bytes'] / 1048576:.1f} MB; "
            f"{receipt['left']} records left. Saved as generation {receipt['saved_generation']}."
        )
        return [*view(collection, request), gr.Button(visible=False), text]

    def export(collection: str, kind: str, request: gr.Request) -> str:
        user = app.identity.of(request).key
        path = str(app.link.call("export", user, collection=collection, format=kind))
        name = path.rsplit("/", 1)[-1]
        return f"[Download {name}](/exports/{name})"

    p["remove"].click(lambda: gr.Button(visible=True), None, p["sure"], **private)
    p["sure"].click(
        api.coded(remove),
        [p["chosen"], p["collection"]],
        [*views, p["sure"], p["receipt"]],
        **private,
    )
    p["export"].click(api.coded(export), [p["collection"], p["format"]], p["receipt"], **private)


def _view(app: App) -> Callable[[str, gr.Request], list[Any]]:
    """What every refresh shows: the sidebar, jobs, sources, gallery."""

    def view(collection: str, request: gr.Request) -> list[Any]:
        user = app.identity.of(request).key
        jobs = app.jobs.list_jobs(user, None, 100)
        counts: dict[str, int] = {}
        for job in jobs:
            counts[job["status"]] = counts.get(job["status"], 0) + 1
        listed = _html(
            "jobs",
            jobs=jobs,
            stages=STAGES[:-1],
            counts=sorted(counts.items()),
            open=request.query_params.get("job", ""),
        )
        try:
            held = app.link.call("collections", user)
            titles = [c["title"] for c in held] or ["default"]
            chosen = collection if collection in titles else titles[0]
            sources = app.link.call("sources", user, collection=chosen) if held else []
            items = app.link.call("gallery", user, collection=chosen) if held else []
        except QuireError as problem:
            note = f"{problem.message} {problem.advice}"
            return [gr.skip(), listed, gr.skip(), gr.skip(), gr.skip(), gr.skip(), note]
        names = [(s["filename"], s["id"]) for s in sources]
        labels = [
            (f"{c['title']} ({c['sources']} PDFs, {c['records']} records)", c["title"])
            for c in held
        ] or [("default (empty)", "default")]
        return [
            gr.Radio(choices=labels, value=chosen),
            listed,
            _html("sources", sources=sources),
            _html("gallery", items=items, root=""),
            gr.Dropdown(choices=[("all sources", ""), *names], value=""),
            gr.Dropdown(choices=names, value=names[0][1] if names else None),
            _state(app, user),
        ]

    return view


def _state(app: App, user: str) -> str:
    found = api.status_of(app, user)
    remotes = found.get("remotes")
    if not remotes:
        return str(found["worker"])
    saved = f"Saved: generation {remotes['saved_generation']} on {remotes['primary']}."
    if remotes["unsaved"]:
        saved = f"{remotes['unsaved']} changes not yet saved. {saved}"
    if remotes["mirror"]:
        saved += f" Mirror {remotes['mirror']}: {remotes['lag'] or 0} generations behind."
    elif remotes["primary"] == "local":
        saved += " No remote is set up: a wiped disk loses everything."
    return f"{saved} [API](/?view=api)"
