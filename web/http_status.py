"""An error as an HTTP answer. Each class has one status; a code has another one only where HTTP has a word
of its own for it. Knows nothing of routes.
"""

from starlette.responses import JSONResponse, Response

from errors import (
    Cancelled,
    Conflict,
    Corrupt,
    InputError,
    NotFound,
    PageProcessDied,
    QuireError,
    Refused,
    Unavailable,
)

OF_KIND: dict[type[QuireError], int] = {
    InputError: 400, NotFound: 404, Refused: 403, Unavailable: 503, Conflict: 409, Corrupt: 500,
    PageProcessDied: 422, Cancelled: 409, QuireError: 500,
}  # fmt: skip
OF_CODE = {
    "sign_in": 401, "token_refused": 401, "membership_old": 401, "body_slow": 408,
    "tools_by_post": 405, "model_mismatch": 409, "body_too_large": 413, "file_too_large": 413, "media_type": 415,
    "too_many_requests": 429, "too_many_jobs": 429, "too_many_codes": 429, "quota_exceeded": 507, "disk_full": 507,
}  # fmt: skip


def http_status(problem: QuireError) -> int:
    by_kind = next(OF_KIND[kind] for kind in type(problem).__mro__ if kind in OF_KIND)
    return OF_CODE.get(problem.code, by_kind)


def refusal(problem: QuireError) -> Response:
    """What every route of ours answers with; `Retry-After` is whole seconds."""
    headers = {"Cache-Control": "no-store"}
    if problem.code == "tools_by_post":
        headers["Allow"] = "POST"
    after = problem.details.get("wait") or getattr(problem, "retry_after", None)
    if after:
        headers["Retry-After"] = str(int(after) + 1)
    return JSONResponse({"error": problem.as_dict()}, http_status(problem), headers)
