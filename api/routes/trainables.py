"""What can be trained."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from api.dependencies import Service, no_query
from api.schemas.problems import problem_responses
from api.schemas.trainables import TrainableList, TrainableView

router = APIRouter(tags=["trainables"])


@router.get(
    "/trainables",
    operation_id="list_trainables",
    response_model=TrainableList,
    responses=problem_responses(422, 503),
    dependencies=[Depends(no_query)],
)
def list_trainables(service: Service) -> TrainableList:
    """Every problem that a sweep can train, with its parameters, tasks and metrics."""
    return TrainableList(trainables=[TrainableView.of(trainable) for trainable in service.trainables()])
