"""``sweep up`` and ``sweep demo``: a whole stack on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweep_service.cli.service import FAILED, fail

commands = typer.Typer()

Home = Annotated[Path, typer.Option(help="Folder for everything that the stack keeps.")]


@commands.command()
def up(
    home: Home = Path(".sweep"),
    port: Annotated[int, typer.Option(help="Port of the API.", min=0, max=65535)] = 8000,
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow's page.", min=0, max=65535)] = 5000,
    cpus: Annotated[int | None, typer.Option(help="CPUs to give to trials; all of them if not given.", min=1)] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs to give to trials; all of them if not given.", min=0)] = None,
) -> None:
    """Start the whole stack on this machine; Ctrl-C ends it."""
    from sweep_service.launcher import LaunchError, StackOptions
    from sweep_service.launcher import up as start
    from sweep_service.supervisor import ChildFailedError

    options = StackOptions(home=home, port=port, mlflow_port=mlflow_port, num_cpus=cpus, num_gpus=gpus)
    try:
        code = start(options)
    except (LaunchError, ChildFailedError) as error:
        fail(str(error), FAILED)
    raise typer.Exit(code)


@commands.command()
def demo(
    home: Home = Path(".sweep-demo"),
    output: Annotated[Path, typer.Option(help="Where to write the results.")] = Path("demo-result.json"),
) -> None:
    """Start a stack, sweep the census data over REST, print and write what came out, end the stack."""
    from sweep_service.demo import run

    raise typer.Exit(run(home=home, output=output))
