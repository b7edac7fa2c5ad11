"""The catalogue's entry of a problem that fails as it is told: a package of a user's own, as the service sees it."""

from trainables.catalog import TRAINING_PARAMETERS, Parameter, TaskInfo, TaskKind, Trainable

_OWN = (
    Parameter(name="fault", type="categorical", default="none", choices=("none", "nan", "raise", "kill"),
              description="What goes wrong in the middle of training."),
    Parameter(name="at_step", type="int", default=10, low=0, high=1000, description="Forward pass at which it does."),
    Parameter(name="delay_ms", type="float", default=0.0, low=0.0, high=1.2e5, description="Sleep in each forward."),
)  # fmt: skip

FAULTY = Trainable(
    name="faulty",
    summary="Two regressions that fail on request.",
    factory="faulty_problems:faulty",
    tasks=(TaskInfo(name="near", kind=TaskKind.REGRESSION), TaskInfo(name="far", kind=TaskKind.REGRESSION)),
    parameters=(*_OWN, *TRAINING_PARAMETERS),
    problem_parameters=tuple(parameter.name for parameter in _OWN),
)

NORMALISED = Trainable(
    name="normalised",
    summary="Two regressions by a network with running statistics.",
    factory="faulty_problems:normalised",
    tasks=(TaskInfo(name="near", kind=TaskKind.REGRESSION), TaskInfo(name="far", kind=TaskKind.REGRESSION)),
    parameters=TRAINING_PARAMETERS,
    problem_parameters=(),
)
