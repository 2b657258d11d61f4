"""The page: a Gradio Blocks that holds the place, the sign-in button and every named endpoint.

What people see is in `static/`: small scripts without a build step that ask the app's own routes
(`web/routes`). The server keeps no page state; a reloaded page asks again.
"""

import html
import json
from typing import Any

import gradio as gr

from settings import Settings
from web import api, assets
from web.api import App
from web.identity import PUSH_SCOPES


def build(app: App) -> Any:
    """The whole page and every endpoint."""

    def here(request: gr.Request) -> None:
        app.caller(request)

    # Made outside of the page it has no script of its own; that it is there opens the sign-in's routes.
    sign_in = gr.LoginButton(visible=False) if app.settings.space_id else None
    with gr.Blocks(title="Quire", fill_width=True, delete_cache=(3600, 86400)) as demo:
        api.register(app)
        gr.Column(elem_id="place")  # which the page's script fills; gr.HTML would need `eval`
        if sign_in:
            sign_in.render()  # type: ignore[no-untyped-call]
        if app.settings.zero_gpu:  # an open page keeps its owner's GPU token fresh
            gr.Timer(20).tick(
                here,
                None,
                None,
                api_visibility="private",
                show_progress="hidden",
            )
    api.hide_the_rest(demo)
    return demo


def head(settings: Settings) -> str:
    """The page's scripts and styles, and what they are told."""
    told = {
        "max_file_mb": settings.max_file_mb,
        "max_pages": settings.max_pages,
        "version": api.VERSION,
        "asks_password": settings.asks_password,
        "may_ask_to_push": bool(PUSH_SCOPES & set(settings.oauth_scopes)),
    }
    return (
        f'<meta name="quire" content="{html.escape(json.dumps(told))}">'
        f'<link rel="stylesheet" href="{assets.url("page.css")}">'
        f'<script type="module" src="{assets.url("app.js")}"></script>'
    )


def theme() -> gr.themes.Base:
    """Gradio's own parts in the page's colours."""
    return gr.themes.Default(primary_hue="orange", neutral_hue="stone").set(
        body_background_fill="#faf9f7",
        body_background_fill_dark="#161412",
        body_text_color="#1c1917",
        body_text_color_dark="#f5f5f4",
    )
