"""178 wines. At import this only describes the problem; torch is imported where it is built, in a trial's process."""

from trainables.catalog import TRAINING_PARAMETERS, Parameter, TaskInfo, TaskKind, Trainable

WINE = Trainable(
    name="wine",
    summary="178 wines: cultivar, alcohol in %, proline in mg/l, from eleven other measurements.",
    factory="wine_problem:build",
    tasks=(
        TaskInfo(name="cultivar", kind=TaskKind.MULTICLASS, metrics=("accuracy",)),
        TaskInfo(name="alcohol", kind=TaskKind.REGRESSION),
        TaskInfo(name="proline", kind=TaskKind.REGRESSION),
    ),
    parameters=(Parameter(name="width", type="int", default=32, low=1, description="Neurons."), *TRAINING_PARAMETERS),
    problem_parameters=("width",),
)


def build(*, width: int):
    import torch
    from sklearn.datasets import load_wine
    from torch.nn import Flatten, Linear, ReLU, Sequential, functional

    from trainables.metrics import multiclass_accuracy
    from trainables.problems.tabular import InMemoryProblem, hash_splits, split_rows, take_rows
    from trainables.protocol import MultiTaskModel, Task

    def model() -> MultiTaskModel:
        heads = {info.name: Sequential(ReLU(), Linear(width, 1), Flatten(0)) for info in WINE.tasks[1:]}
        trunk = Sequential(Linear(11, width), ReLU())
        heads["cultivar"] = Sequential(ReLU(), Linear(width, 3))
        return MultiTaskModel(trunk=trunk, shared_layer=Linear(width, width), heads=heads)

    (measured, cultivars), rows = load_wine(return_X_y=True), split_rows(178)
    table = torch.tensor(measured, dtype=torch.float32)
    table -= table[rows[0]].mean(dim=0)  # of the training split
    targets = {"cultivar": torch.tensor(cultivars), "alcohol": table[:, 0], "proline": table[:, 12]}
    inputs = table[:, 1:12] / table[rows[0], 1:12].std(dim=0)
    train, validation, test = (take_rows((inputs,), targets, part) for part in rows)
    tasks = [Task(name=info.name, kind=info.kind, loss=functional.mse_loss) for info in WINE.tasks[1:]]
    cultivar = {"loss": functional.cross_entropy, "metrics": {"accuracy": multiclass_accuracy}, "num_classes": 3}
    tasks = [Task(name="cultivar", kind=TaskKind.MULTICLASS, **cultivar), *tasks]
    splits = {"train": train, "validation": validation, "test": test}
    return InMemoryProblem(tasks=tasks, **splits, data_hash=hash_splits([train, validation, test]), model=model)
