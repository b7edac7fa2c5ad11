"""From what the service and the framework raise to problem documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from api.event_feed import NoSuchEventError
from api.json_document import InvalidJsonError
from api.problems import Problem, ProblemResponse, error_items
from sweep_service.domain.errors import (
    CatalogMissingError,
    Finding,
    IllegalMoveError,
    InvalidKeyError,
    InvalidSpecError,
    KeyNameTakenError,
    KeyReusedError,
    LastAdminKeyError,
    NotFoundError,
    SchemaOutdatedError,
    SpecChangedError,
    StoreUnavailableError,
)

_RETRY_AFTER = {"Retry-After": "2"}
KEY_HEADER = "Idempotency-Key"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True, kw_only=True)
class ParameterFault:
    """What is wrong with one parameter, of the query or a header."""

    parameter: str
    code: str
    detail: str


class InvalidParametersError(Exception):
    """Parameters that cannot be used."""

    def __init__(self, faults: Sequence[ParameterFault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{fault.parameter}: {fault.detail}" for fault in self.faults))


class UnexpectedBodyError(Exception):
    """A body where none is taken: what is ignored would be taken for obeyed."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("; ".join(f"{f.pointer or '/'}: {f.detail}" for f in self.findings))


def install(app: FastAPI) -> None:
    """Answer every refusal of the app with a problem document."""
    app.add_exception_handler(InvalidSpecError, _invalid_spec)
    app.add_exception_handler(InvalidJsonError, _invalid_json)
    app.add_exception_handler(InvalidParametersError, _invalid_parameters)
    app.add_exception_handler(UnexpectedBodyError, _unexpected_body)
    app.add_exception_handler(NoSuchEventError, _no_such_event)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(NotFoundError, _not_found)
    app.add_exception_handler(InvalidKeyError, _invalid_key)
    app.add_exception_handler(KeyNameTakenError, _key_name_taken)
    app.add_exception_handler(LastAdminKeyError, _last_admin_key)
    app.add_exception_handler(KeyReusedError, _key_reused)
    app.add_exception_handler(IllegalMoveError, _illegal_move)
    app.add_exception_handler(SpecChangedError, _spec_changed)
    app.add_exception_handler(CatalogMissingError, _catalog_missing)
    app.add_exception_handler(StoreUnavailableError, _store_unavailable)
    app.add_exception_handler(SchemaOutdatedError, _schema_outdated)
    app.add_exception_handler(HTTPException, _framework_refusal)


async def _invalid_spec(request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidSpecError)
    what, where = ("changed", "patch") if request.method == "PATCH" else ("queued", "spec")
    problem = Problem(
        status=HTTPStatus.UNPROCESSABLE_ENTITY,
        kind="invalid-spec",
        title="Invalid sweep spec",
        detail=f"Nothing was {what}: {_count(len(error.findings))} in the {where}.",
        errors=error_items(error.findings),
    )
    return ProblemResponse(problem, request.scope)


async def _invalid_json(request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidJsonError)
    problem = Problem(
        status=HTTPStatus.BAD_REQUEST,
        kind="invalid-json",
        title="Invalid JSON",
        detail=error.findings[0].detail if len(error.findings) == 1 else f"{_count(len(error.findings))} in the body.",
        errors=error_items(error.findings),
    )
    return ProblemResponse(problem, request.scope)


async def _unexpected_body(request: Request, error: Exception) -> Response:
    assert isinstance(error, UnexpectedBodyError)
    problem = Problem(
        status=HTTPStatus.UNPROCESSABLE_ENTITY,
        kind="unexpected-body",
        title="Unexpected body",
        detail="Nothing was done: this takes no body. Send none, or an empty object.",
        errors=error_items(error.findings),
    )
    return ProblemResponse(problem, request.scope)


async def _invalid_parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidParametersError)
    items = [{"pointer": "", "parameter": f.parameter, "code": f.code, "detail": f.detail} for f in error.faults]
    return ProblemResponse(_parameters_problem(items), request.scope)


async def _no_such_event(request: Request, _error: Exception) -> Response:
    name = "Last-Event-ID" if "Last-Event-ID" in request.headers else "after"
    detail = "The sweep has no event of that number yet; give the seq of the last one that you have."
    item = {"pointer": "", "parameter": name, "code": "no_such_event", "detail": detail}
    return ProblemResponse(_parameters_problem([item]), request.scope)


async def _invalid_request(request: Request, error: Exception) -> Response:
    """What FastAPI itself checks: only parameters, since bodies are read by our own strict reader."""
    assert isinstance(error, RequestValidationError)
    items: list[dict[str, str]] = []
    for fault in error.errors():
        name = str(fault["loc"][1])  # after "query"; a list's index may follow
        unknown = fault["type"] == "extra_forbidden"
        message = str(fault["msg"]).removeprefix("Value error, ")
        detail = f"There is no query parameter {name!r} here; remove it." if unknown else f"{message}."
        code = "unknown_parameter" if unknown else str(fault["type"])
        items.append({"pointer": "", "parameter": name, "code": code, "detail": detail})
    return ProblemResponse(_parameters_problem(items), request.scope)


def _parameters_problem(items: list[dict[str, str]]) -> Problem:
    names = ", ".join(sorted({item["parameter"] for item in items}))
    return Problem(
        status=HTTPStatus.UNPROCESSABLE_ENTITY,
        kind="invalid-parameter",
        title="Invalid parameter",
        detail=f"Wrong in the request: {names}.",
        errors=items,
    )


async def _not_found(request: Request, error: Exception) -> Response:
    problem = Problem(status=HTTPStatus.NOT_FOUND, kind="not-found", title="Not found", detail=str(error))
    return ProblemResponse(problem, request.scope)


async def _invalid_key(request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidKeyError)
    problem = Problem(
        status=HTTPStatus.UNPROCESSABLE_ENTITY,
        kind="invalid-key",
        title="Invalid key",
        detail=f"No key was made: {_count(len(error.findings))} in what it is to be.",
        errors=error_items(error.findings),
    )
    return ProblemResponse(problem, request.scope)


async def _key_name_taken(request: Request, error: Exception) -> Response:
    finding = Finding(pointer="/name", code="name_taken", detail=str(error))
    problem = Problem(
        status=HTTPStatus.CONFLICT,
        kind="key-name-taken",
        title="Name taken",
        detail=f"No key was made. {error}",
        errors=error_items([finding]),
    )
    return ProblemResponse(problem, request.scope)


async def _last_admin_key(request: Request, error: Exception) -> Response:
    finding = Finding(pointer="", code="last_admin_key", detail=str(error))
    problem = Problem(
        status=HTTPStatus.CONFLICT,
        kind="last-admin-key",
        title="Last admin key",
        detail=f"Nothing was revoked. {error}",
        errors=error_items([finding]),
    )
    return ProblemResponse(problem, request.scope)


async def _key_reused(request: Request, error: Exception) -> Response:
    item = {"pointer": "", "parameter": KEY_HEADER, "code": "reused_key", "detail": str(error)}
    problem = Problem(
        status=HTTPStatus.UNPROCESSABLE_ENTITY,
        kind="idempotency-key-reused",
        title="Idempotency key reused",
        detail=f"Nothing was queued. {error}",
        errors=[item],
    )
    return ProblemResponse(problem, request.scope)


async def _illegal_move(request: Request, error: Exception) -> Response:
    assert isinstance(error, IllegalMoveError)
    choices = ", ".join(error.allowed) or "nothing"
    detail = f"The sweep is {error.current}: {error.target} is not possible. Possible now: {choices}."
    problem = Problem(
        status=HTTPStatus.CONFLICT,
        kind="illegal-move",
        title="Not possible in this state",
        detail=detail,
        errors=error_items([Finding(pointer="", code="illegal_move", detail=detail)]),
        extra={"state": error.current, "allowed": list(error.allowed)},
    )
    return ProblemResponse(problem, request.scope)


async def _spec_changed(request: Request, _error: Exception) -> Response:
    detail = "Nothing was changed: others have changed the sweep meanwhile, again and again. Look at it, and try again."
    problem = Problem(status=HTTPStatus.CONFLICT, kind="changed-meanwhile", title="Changed meanwhile", detail=detail)
    return ProblemResponse(problem, request.scope)


async def _catalog_missing(request: Request, _error: Exception) -> Response:
    detail = "What can be trained is not known yet: no dispatcher has published it. Start one, or try again soon."
    return ProblemResponse(_unavailable("catalog-missing", "Catalogue missing", detail), request.scope)


async def _store_unavailable(request: Request, _error: Exception) -> Response:
    way_out = "Try again soon."
    if request.method != "GET":  # the connection may have died while it committed
        way_out = "What you asked for may or may not have happened; look before you send it again."
        if KEY_HEADER in request.headers and request.method == "POST":
            way_out = f"What you asked for may or may not have happened; send it again under the same {KEY_HEADER}."
    detail = f"The database does not answer. {way_out}"
    return ProblemResponse(_unavailable("store-unavailable", "Store unavailable", detail), request.scope)


async def _schema_outdated(request: Request, error: Exception) -> Response:
    return ProblemResponse(_unavailable("schema-outdated", "Database not migrated", str(error)), request.scope)


def _unavailable(kind: str, title: str, detail: str) -> Problem:
    return Problem(
        status=HTTPStatus.SERVICE_UNAVAILABLE, kind=kind, title=title, detail=detail, headers=dict(_RETRY_AFTER)
    )


async def _framework_refusal(request: Request, error: Exception) -> Response:
    """What the router refuses: an unknown path, a method that the path does not have."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    path = request.scope["path"]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = _allowed_methods(request)
        problem = Problem(
            status=status,
            kind="method-not-allowed",
            title="Method not allowed",
            detail=f"{path} answers {', '.join(allowed)}, not {request.method}.",
            headers={"Allow": ", ".join(allowed)},
        )
    elif status is HTTPStatus.NOT_FOUND:
        problem = Problem(status=status, kind="not-found", title="Not found", detail=f"There is no {path} here.")
    else:
        problem = Problem(
            status=status,
            kind=status.phrase.lower().replace(" ", "-"),
            title=status.phrase,
            detail=str(error.detail),
            headers=dict(error.headers or {}),
        )
    return ProblemResponse(problem, request.scope)


def _allowed_methods(request: Request) -> list[str]:
    """Every method that some route has for the path: the router itself names those of one route alone. HEAD has no
    routes: it is answered wherever GET is.
    """
    app: FastAPI = request.app
    scopes = ({**request.scope, "method": "GET" if method == "HEAD" else method} for method in _METHODS)
    matches = (any(route.matches(scope)[0] is Match.FULL for route in app.router.routes) for scope in scopes)
    return [method for method, is_there in zip(_METHODS, matches, strict=True) if is_there]


def _count(number: int) -> str:
    return "1 error" if number == 1 else f"{number} errors"
