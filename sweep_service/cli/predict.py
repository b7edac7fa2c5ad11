"""``sweep predict``: ask a stored model, without a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweep_service.cli.service import UNREACHABLE, USAGE, fail

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="NAME (of the registry; its champion), NAME@ALIAS, NAME/VERSION, or a sweep's id."
    ),
]
Table = Annotated[
    str, typer.Argument(metavar="FILE", help="Rows: .csv, .csv.gz or .parquet; - reads CSV from standard input.")
]

commands = typer.Typer()


@commands.command()
def predict(
    model: Model,
    file: Table,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="CSV file to write; printed if not given.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Column of FILE to carry along; may be repeated.")
    ] = None,
    home: Annotated[
        Path, typer.Option(envvar="SWEEP_HOME", help="Folder of the stack that trained the model; it need not run.")
    ] = Path(".sweep"),
    tracking_uri: Annotated[
        str | None, typer.Option(envvar="SWEEP_MLFLOW_TRACKING_URI", help="MLflow, where it is not in that folder.")
    ] = None,
) -> None:
    """Ask a stored model about the rows of a table.

    FILE has the columns that the model was trained on, in any order; those of the tasks may be absent, others are
    passed over. census_income also takes the original file's 42 columns without a header, or the first 41.

    For each row, in their order, the CSV has by task: binary TASK (the value) and TASK.p (the probability of the one
    that is 1); multiclass TASK and TASK.p.CLASS of each class; regression TASK in the column's unit; count TASK, the
    rate.
    """
    from sweep_service.domain.errors import TrackingUnavailableError
    from sweep_service.prediction import CannotPredictError, predicted_csv
    from sweep_service.settings import Settings

    if output is not None and output.exists() and Path(file).exists() and output.samefile(file):
        fail(f"{output} is the file that is read; choose another --output.", USAGE)
    try:
        uri = tracking_uri or Settings(home=home).tracking_uri
        text = predicted_csv(model=model, file=file, keep=keep or (), tracking_uri=uri)
    except CannotPredictError as error:
        fail(str(error), USAGE)
    except TrackingUnavailableError as error:
        fail(str(error), UNREACHABLE)
    except ValueError as error:  # of another setting in the environment
        fail(f"wrong in the environment: {error}", USAGE)
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"{output} cannot be written: {error.strerror}.", USAGE)
