"""``sweep export``: a sweep's trials for other tools."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweep_service.cli.service import DEFAULT_SERVER, USAGE, Key, Server, SweepId, connected, fail, resolve
from sweep_service.csv_text import csv_text

if TYPE_CHECKING:
    from sweep_service.client import SweepClient

commands = typer.Typer()

_FIXED = ("number", "id", "role", "balancer", "state", "ending", "objective", "seed", "last_step", "num_attempts")
_TIMES = ("created_at", "started_at", "ended_at", "tracking_ref", "message")


class Format(StrEnum):
    """What an export may be."""

    CSV = "csv"
    JSON = "json"
    OPTUNA = "optuna"


@commands.command()
def export(
    sweep_id: SweepId,
    form: Annotated[
        Format, typer.Option("--format", "-F", help="csv: a row a trial; json: as the API gives them; optuna: a study.")
    ] = Format.CSV,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; printed if not given. optuna needs one.")
    ] = None,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """Write a sweep's trials for other tools.

    The file of --format optuna has a study for the search (for each balancer, where each is searched by itself) and one
    for each baseline: open it with
    `optuna-dashboard sqlite:///FILE`.
    """
    if output is not None and output.exists():
        fail(f"{output} is there already; remove it, or choose another --output.", USAGE)
    if form is Format.OPTUNA and output is None:
        fail("--format optuna writes a file: name it with --output.", USAGE)
    with connected(server, key) as client:
        sweep = client.get(resolve(client, sweep_id))
        trials = client.trials(sweep["id"])
        curves = _curves(client, sweep, trials) if form is Format.OPTUNA else {}
    try:
        if form is Format.OPTUNA and output is not None:
            from sweep_service.search.export import write_studies

            try:
                names = write_studies(output, sweep=sweep, trials=trials, curves=curves)
            except FileExistsError:  # somebody else's, made a moment ago
                raise
            except BaseException:
                output.unlink(missing_ok=True)  # half a file would pass for a whole one, and keep the next try out
                raise
            for name in names:
                typer.echo(f"Study {name}", err=True)
            return
        text = _csv(trials) if form is Format.CSV else json.dumps(trials, indent=2, ensure_ascii=False) + "\n"
        if output is None:
            typer.echo(text, nl=False)
        else:
            output.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"{output} cannot be written: {error.strerror}.", USAGE)


def _curves(
    client: SweepClient, sweep: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]
) -> dict[str, dict[int, float | None]]:
    """The objective by step, of every trial that has trained; Optuna keeps such values of a single objective alone."""
    metric = sweep["spec"]["objective"]["metric"]
    return {
        trial["id"]: {point["step"]: point["metrics"][metric] for point in client.metrics(trial["id"], keys=[metric])}
        for trial in trials
        if trial["last_step"] and trial["role"] != "confirm" and not sweep["spec"]["objectives"]
    }


def _csv(trials: Sequence[Mapping[str, Any]]) -> str:
    """One column a value; ``searched.<name>`` is empty where the sampler has not chosen it."""
    rows = [
        {name: trial[name] for name in _FIXED}
        | {f"searched.{name}": value for name, value in trial["searched"].items()}
        | {f"params.{name}": _cell(value) for name, value in trial["params"].items()}
        | dict(trial["metrics"])
        | {name: trial[name] for name in _TIMES}
        for trial in trials
    ]
    return csv_text(rows, first=_FIXED, last=_TIMES)


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
