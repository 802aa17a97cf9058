"""Azure Functions' requests and answers, and ours: the only importer of ``azure.functions`` in ``shared``.

The host and the library change what passes through them; ``messages`` and ``cookies`` make sure that nothing of ours is lost.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import azure.functions as func

from shared.web.messages import Request, Response

HttpFunction = Callable[[func.HttpRequest], func.HttpResponse]


def request_of(req: func.HttpRequest) -> Request:
    """What the host handed over, with the query parsed anew from the URL: the host joins repeats and drops blanks."""
    return Request.of(req.method, req.url, dict(req.headers.items()), req.get_body())


def http_response(response: Response) -> func.HttpResponse:
    """Our answer as the library's; several cookies stay several headers."""
    answer = func.HttpResponse(response.body, status_code=response.status, mimetype=None, charset="utf-8")
    answer.headers.add("Content-Type", response.content_type)
    for name, value in response.headers:
        answer.headers.add(name, value)
    for cookie in response.cookies:
        answer.headers.add("Set-Cookie", cookie.header)
    return answer


def add_headers(answer: func.HttpResponse, response: Response, names: Sequence[str]) -> func.HttpResponse:
    """Adds some of a response's headers to an answer that a function gave, where the function did not set them itself."""
    for name, value in response.headers:
        if name.lower() in names and name not in answer.headers:
            answer.headers.add(name, value)
    return answer


def shown_as(function: Callable[..., Any], inner: Callable[[func.HttpRequest], Any]) -> Any:
    """``inner`` under the name of ``function``, and with a signature that shows ``req`` alone.

    The worker passes arguments by the signature, and ``functools.wraps`` would show it the original one (FACTS of the worker:
    it looks through ``__wrapped__``).
    """
    functools.update_wrapper(inner, function, assigned=("__module__", "__name__", "__qualname__", "__doc__"), updated=())
    del inner.__wrapped__  # type: ignore[attr-defined]
    inner.__annotations__ = {"req": func.HttpRequest}
    inner.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter("req", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=func.HttpRequest)]
    )
    return inner


HttpRequest = func.HttpRequest
HttpResponse = func.HttpResponse
