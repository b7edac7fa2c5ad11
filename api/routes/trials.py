"""Single trials: what became of one, its curves, and what it has said."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from api.dependencies import TrialId, Trials, no_query, no_repeated_query
from api.paging import CurveQuery, LogQuery
from api.schemas.logs import LogPage
from api.schemas.problems import problem_responses
from api.schemas.trials import CurvePage, CurvePoint, TrialDetail

router = APIRouter(prefix="/trials", tags=["trials"])


@router.get(
    "/{trial_id}",
    operation_id="get_trial",
    response_model=TrialDetail,
    responses=problem_responses(404, 422, 503),
    dependencies=[Depends(no_query)],
)
def get_trial(trial_id: TrialId, trials: Trials) -> TrialDetail:
    """A trial and every attempt at it."""
    return TrialDetail.of_history(trials.get(trial_id))


@router.get(
    "/{trial_id}/metrics",
    operation_id="list_metrics",
    response_model=CurvePage,
    responses=problem_responses(404, 422, 503),
    dependencies=[Depends(no_repeated_query(but=["key"]))],
)
def list_metrics(trial_id: TrialId, query: Annotated[CurveQuery, Query()], trials: Trials) -> CurvePage:
    """A trial's curves, from its reports. Ask again with `after` set to `next_after` while it trains: no report is
    missed and none comes twice.
    """
    page = trials.curves(trial_id, keys=query.key, after=query.after, limit=query.page_size)
    return CurvePage(
        points=[CurvePoint.of(report) for report in page.reports],
        next_after=page.last_seq,
        has_more=page.has_more,
    )


@router.get(
    "/{trial_id}/logs",
    operation_id="list_trial_logs",
    response_model=LogPage,
    responses=problem_responses(404, 422, 503),
    dependencies=[Depends(no_repeated_query())],
)
def list_trial_logs(trial_id: TrialId, query: Annotated[LogQuery, Query()], trials: Trials) -> LogPage:
    """What a trial's code has printed and logged, in every attempt. Ask again with `after` set to `next_after` while it
    trains: no line comes twice, and none that is kept is missed.
    """
    return LogPage.of(trials.logs(trial_id, after=query.after, limit=query.page_size), after=query.after)
