"""What can be trained, as the API shows it."""

from __future__ import annotations

from pydantic import BaseModel, Field

from trainables.catalog import Parameter, TaskInfo, Trainable


class TrainableView(BaseModel):
    """A problem that a sweep can name as its `trainable`."""

    name: str
    summary: str
    tasks: list[TaskInfo]
    metrics: list[str] = Field(description="What `objective.metric` can be.")
    default_objective: str
    parameters: list[Parameter] = Field(description="What `params` can fix and, where searchable, `space` can search.")
    task_parameters: list[Parameter] = Field(
        description="What each task may have for itself besides: `weight` is named `weight/income` for the task "
        "`income`."
    )

    @classmethod
    def of(cls, trainable: Trainable) -> TrainableView:
        return cls(
            name=trainable.name,
            summary=trainable.summary,
            tasks=list(trainable.tasks),
            metrics=list(trainable.metrics),
            default_objective=trainable.default_objective,
            parameters=list(trainable.parameters),
            task_parameters=list(trainable.task_parameters),
        )


class TrainableList(BaseModel):
    """Everything that can be trained here."""

    trainables: list[TrainableView]
