"""Sweeps: submit, look, change, end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import HTMLResponse
from fastapi.sse import EventSourceResponse

from api.dependencies import (
    Body,
    Feed,
    IdempotencyKey,
    IsLetIn,
    LastEventId,
    Reports,
    Service,
    SweepId,
    WantsStream,
    Who,
    no_body,
    no_query,
    no_repeated_key,
    no_repeated_query,
)
from api.json_document import parse_document
from api.paging import (
    EventQuery,
    LogQuery,
    PageQuery,
    SubmitQuery,
    SweepQuery,
    sweep_key,
    sweep_token,
    trial_key,
    trial_token,
)
from api.schemas.events import EventPage, EventView
from api.schemas.logs import LogPage
from api.schemas.problems import problem_responses
from api.schemas.sweeps import EXAMPLE_SPEC, PreviewView, SweepPage, SweepSummary, SweepView
from api.schemas.trials import BestView, TrialPage, TrialView
from sweep_service.domain.states import Verb

router = APIRouter(prefix="/sweeps", tags=["sweeps"])

REPLAYED_HEADER = "Idempotent-Replayed"
# The page holds what users wrote: should a script of theirs ever run in it, it has no part in this address.
_PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "sandbox allow-scripts allow-downloads allow-popups",
    "X-Content-Type-Options": "nosniff",
}
_SPEC_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/SweepSpec"}, "example": EXAMPLE_SPEC}
        },
    }
}
_PATCH_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            media_type: {
                "schema": {"$ref": "#/components/schemas/SweepPatch"},
                "example": {"budget": {"trials": 64}, "resources": {"parallel": 4}},
            }
            for media_type in ("application/merge-patch+json", "application/json")
        },
    }
}


@router.post(
    "",
    operation_id="submit_sweep",
    status_code=201,
    response_model=SweepView,
    response_description="Queued",
    responses={200: {"model": PreviewView, "description": "Checked only"}} | problem_responses(400, 413, 415, 422, 503),
    openapi_extra=_SPEC_BODY,
    dependencies=[Depends(no_repeated_query()), Depends(no_repeated_key)],
)
def submit_sweep(
    body: Body,
    query: Annotated[SubmitQuery, Query()],
    service: Service,
    who: Who,
    response: Response,
    key: IdempotencyKey = None,
) -> SweepView | Response:
    """Check a spec and queue the sweep that it describes. Nothing is queued if anything is wrong with it.

    The same body under the same `Idempotency-Key` is queued once; the answer is then the sweep as it stands, with
    `Idempotent-Replayed: true`. What was refused is not remembered.

    With `validate_only=true` nothing is queued at all: the answer is the spec with every default filled in and what
    would be made of it.
    """
    document = parse_document(body)
    if query.validate_only:
        preview = PreviewView.of(service.preview(document))
        return Response(preview.model_dump_json(), media_type="application/json")
    submission = service.submit(document, key=key, by=who)
    view = SweepView.of(submission.overview)
    if submission.is_replay:
        response.headers[REPLAYED_HEADER] = "true"
    response.headers["Location"] = view.links.self
    return view


@router.get(
    "",
    operation_id="list_sweeps",
    response_model=SweepPage,
    responses=problem_responses(422, 503),
    dependencies=[Depends(no_repeated_query(but=["state", "label"]))],
)
def list_sweeps(query: Annotated[SweepQuery, Query()], service: Service) -> SweepPage:
    """Sweeps, newest first; a page token goes with the filters and the order that gave it."""
    page = service.list_sweeps(
        beyond=sweep_key(query), only=query.only, oldest_first=query.oldest_first, limit=query.page_size
    )
    token = sweep_token(query, page.items[-1].id) if page.has_more else None
    places = service.places(page.items)
    summaries = [SweepSummary.of(sweep, place=places.get(sweep.id)) for sweep in page.items]
    return SweepPage(sweeps=summaries, next_page_token=token)


@router.get(
    "/{sweep_id}",
    operation_id="get_sweep",
    response_model=SweepView,
    responses=problem_responses(404, 422, 503),
    dependencies=[Depends(no_query)],
)
def get_sweep(sweep_id: SweepId, service: Service) -> SweepView:
    """A sweep, its progress and, once it has ended, its results."""
    return SweepView.of(service.get(sweep_id))


@router.patch(
    "/{sweep_id}",
    operation_id="amend_sweep",
    response_model=SweepView,
    responses=problem_responses(400, 404, 409, 413, 415, 422, 503),
    openapi_extra=_PATCH_BODY,
    dependencies=[Depends(no_query)],
)
def amend_sweep(sweep_id: SweepId, body: Body, service: Service, who: Who) -> SweepView:
    """Change what a sweep is to do: its budget, `resources.parallel`, `early_stopping` or `priority`, as a JSON merge
    patch: what it names is set, `null` removes, the rest stays. It is checked as a spec is, and nothing is changed if
    anything is wrong.

    A sweep that runs goes on under it at once; fewer packs let the newest go with a checkpoint. One that has ended, but
    for a cancelled one, is queued again, and goes on where it had ended. The same patch again changes nothing.
    """
    return SweepView.of(service.amend(sweep_id, parse_document(body), by=who))


@router.delete(
    "/{sweep_id}",
    operation_id="delete_sweep",
    status_code=204,
    responses={204: {"description": "Forgotten"}} | problem_responses(400, 404, 409, 413, 415, 422, 503),
    dependencies=[Depends(no_query), Depends(no_body)],
)
def delete_sweep(sweep_id: SweepId, service: Service, who: Who) -> None:
    """Forget a sweep that has ended, with its trials, curves and events. What lies elsewhere stays: its runs and its
    model in MLflow, and the best trial's checkpoint.
    """
    service.delete(sweep_id, by=who)


@router.get(
    "/{sweep_id}/trials",
    operation_id="list_trials",
    response_model=TrialPage,
    responses=problem_responses(404, 422, 503),
    dependencies=[Depends(no_repeated_query())],
)
def list_trials(sweep_id: SweepId, query: Annotated[PageQuery, Query()], service: Service) -> TrialPage:
    """A sweep's trials, by number."""
    page = service.list_trials(sweep_id, after=trial_key(sweep_id, query.page_token), limit=query.page_size)
    token = trial_token(sweep_id, page.items[-1].number) if page.has_more else None
    return TrialPage(trials=[TrialView.of(trial) for trial in page.items], next_page_token=token)


@router.get(
    "/{sweep_id}/best",
    operation_id="get_best_trial",
    response_model=BestView,
    responses=problem_responses(404, 422, 503),
    dependencies=[Depends(no_query)],
)
def get_best_trial(sweep_id: SweepId, service: Service) -> BestView:
    """The best completed search trial so far and, where the spec has several objectives, the Pareto front."""
    return BestView.of(service.best(sweep_id))


@router.get(
    "/{sweep_id}/events",
    operation_id="list_events",
    response_model=EventPage,
    responses={
        200: {"content": {EventSourceResponse.media_type: {"schema": {"type": "string"}}}},
        204: {"description": "A stream with nothing to come: the sweep has ended, and the caller has all its events"},
    }
    | problem_responses(404, 422, 503),
    dependencies=[Depends(no_repeated_query())],
)
def list_events(
    sweep_id: SweepId,
    query: Annotated[EventQuery, Query()],
    wants_stream: WantsStream,
    service: Service,
    feed: Feed,
    is_let_in: IsLetIn,
    last_event_id: LastEventId = None,
) -> EventPage | Response:
    """What happened to a sweep, in order: a page of it, or with `Accept: text/event-stream` all of it as it happens.

    In a stream, each event's `data` is the event as in a page, and its `id` is its `seq`; after a lost connection it is
    taken up with `Last-Event-ID`. It ends after the event that ends the sweep. A key has up to 20 streams open at once.
    """
    after = query.after if last_event_id is None else last_event_id
    if wants_stream:
        place = feed.open(sweep_id, after=after)
        if place.is_over and place.is_at_end:
            return Response(status_code=204)  # tells a browser not to come back
        return feed.stream(place, is_let_in=is_let_in)
    page = service.list_events(sweep_id, after=after, limit=query.page_size)
    return EventPage(
        events=[EventView.of(event) for event in page.items],
        next_after=page.items[-1].seq if page.items else after,
        has_more=page.has_more,
    )


@router.get(
    "/{sweep_id}/logs",
    operation_id="list_sweep_logs",
    response_model=LogPage,
    responses=problem_responses(404, 422, 503),
    dependencies=[Depends(no_repeated_query())],
)
def list_sweep_logs(sweep_id: SweepId, query: Annotated[LogQuery, Query()], service: Service) -> LogPage:
    """What the code of all its trials has printed and logged. Read on as for one trial."""
    return LogPage.of(service.list_logs(sweep_id, after=query.after, limit=query.page_size), after=query.after)


@router.get(
    "/{sweep_id}/report",
    operation_id="get_report",
    response_class=HTMLResponse,
    response_description="The page",
    responses=problem_responses(404, 422, 503),
    dependencies=[Depends(no_query)],
)
def get_report(sweep_id: SweepId, service: Reports) -> HTMLResponse:
    """A sweep as one page to look at, which needs nothing else: verdict, curves, what the search found where. That of a
    sweep that still runs shows how it stands.
    """
    return HTMLResponse(service.html(sweep_id), headers=_PAGE_HEADERS)


def _add_route_of(verb: Verb, description: str) -> None:
    def ask(sweep_id: SweepId, service: Service, who: Who) -> SweepView:
        return SweepView.of(service.control(sweep_id, verb, by=who))

    router.add_api_route(
        f"/{{sweep_id}}/{verb}",
        ask,
        methods=["POST"],
        operation_id=f"{verb}_sweep",
        summary=f"{verb.title()} Sweep",
        description=description,
        response_model=SweepView,
        responses=problem_responses(400, 404, 409, 413, 415, 422, 503),
        dependencies=[Depends(no_query), Depends(no_body)],
    )


_VERBS: Mapping[Verb, str] = {
    Verb.PAUSE: """No new trials start; running ones leave a checkpoint at their next report and rest. The sweep is
`pausing` until they all do, then `paused`. Asked again, it changes nothing.""",
    Verb.RESUME: """A paused sweep goes on: it is queued, and its trials train on from their checkpoints. Asked again,
it changes nothing.""",
    Verb.RETRY: """Try the trials again that have `failed`: they are `pending`, and train on from their last
checkpoints, with as many retries as at first. A sweep that has ended, but for a cancelled one, is queued again for it;
one that has `failed` also where no trial has. Where there is nothing to retry it changes nothing.""",
    Verb.STOP: """Running trials finish, no new ones start; those that rest are cancelled. Asked again, it changes
nothing.""",
    Verb.CANCEL: "Kill what runs and start nothing. Asked again, it changes nothing.",
}
for _verb in Verb:
    _add_route_of(_verb, _VERBS[_verb])
