"""The page: a Gradio Blocks that holds the place, the sign-in button and every named endpoint.

What people see is in `static/`: small scripts without a build step that ask the app's own routes
(`web/views`). The server keeps no page state; a reloaded page asks again.
"""

import html
import json
from typing import Any

import gradio as gr

from web import api, assets
from web.api import App
from web.identity import PUSH_SCOPES

HEAD = (
    f'<link rel="stylesheet" href="{assets.url("page.css")}">'
    f'<script type="module" src="{assets.url("app.js")}"></script>'
)


def build(app: App) -> Any:
    """The whole page and every endpoint."""

    def here(request: gr.Request) -> None:
        app.caller(request)

    with gr.Blocks(title="Quire", fill_width=True, delete_cache=(3600, 86400)) as demo:
        api.register(app)
        settings = app.settings
        told = {
            "max_file_mb": settings.max_file_mb,
            "max_pages": settings.max_pages,
            "version": api.VERSION,
            "may_ask_to_push": bool(PUSH_SCOPES & set(settings.oauth_scopes)),
        }
        place = f'<div id="quire" data-told="{html.escape(json.dumps(told))}">'
        gr.HTML(f"{place}<noscript>Quire needs JavaScript.</noscript></div>", padding=False)
        if settings.space_id:
            gr.LoginButton(elem_id="sign-in")
        if settings.zero_gpu:  # an open page keeps its owner's GPU token fresh
            gr.Timer(20).tick(
                here,
                None,
                None,
                api_visibility="private",
                show_progress="hidden",
            )
    api.hide_the_rest(demo)
    return demo


def theme() -> gr.themes.Base:
    """Gradio's own parts, such as the API page, in the page's colours."""
    return gr.themes.Default(primary_hue="orange", neutral_hue="stone").set(
        body_background_fill="#faf9f7",
        body_background_fill_dark="#161412",
        body_text_color="#1c1917",
        body_text_color_dark="#f5f5f4",
    )
