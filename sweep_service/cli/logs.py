"""``sweep logs``: what the code of trials has printed and logged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweep_service.cli.completion import complete_sweep
from sweep_service.cli.service import DEFAULT_SERVER, USAGE, Key, Server, connected, fail, resolve

if TYPE_CHECKING:
    from sweep_service.client import SweepClient

commands = typer.Typer()


@commands.command()
def logs(
    of: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="A sweep's id, SWEEP:NUMBER for one of its trials, or a trial's id.",
            autocompletion=complete_sweep,
        ),
    ],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the trial, or the sweep, has ended.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON document a line.")] = False,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """Print what trials' code has printed and logged, in the order in which it came in."""
    with connected(server, key) as client:
        trial_id = _trial_id(client, of)
        if trial_id is not None:
            lines = client.trial_logs(trial_id, follow=follow)
        else:
            lines = client.sweep_logs(resolve(client, of), follow=follow)
        for line in lines:
            typer.echo(json.dumps(line, ensure_ascii=False) if as_json else _shown(line, names_trial=trial_id is None))


def _trial_id(client: SweepClient, text: str) -> str | None:
    """The id of the trial that is meant; None: a sweep is."""
    from sweep_service.domain.ids import IdPrefix

    if text.lower().startswith(f"{IdPrefix.TRIAL}_"):
        return f"{IdPrefix.TRIAL}_{text[len(IdPrefix.TRIAL) + 1 :].upper()}"
    sweep, colon, number = text.partition(":")
    if not colon:
        return None
    if not number.isascii() or not number.isdigit() or len(number) > 9:
        fail(f"{text!r}: after the colon comes a trial's number, as `sweep trials {sweep}` lists it.", USAGE)
    sweep_id = resolve(client, sweep)
    found = next((trial for trial in client.trials(sweep_id) if trial["number"] == int(number)), None)
    if found is None:
        fail(f"{sweep_id} has no trial {number}; `sweep trials {sweep_id}` lists them.", USAGE)
    return found["id"]


def _shown(line: Mapping[str, Any], *, names_trial: bool) -> str:
    from sweep_service.rendering import plain

    at = plain(line["at"])[11:19]
    source = line["level"] or line["stream"]
    trial = f"trial {line['trial_number']}  " if names_trial else ""
    attempt = f"attempt {line['attempt']}  " if line["attempt"] else ""
    left_out = f"… {line['left_out']} lines are not kept …\n" if line["left_out"] else ""
    return f"{left_out}{at}  {trial}{attempt}{source:<7}  {plain(line['text'])}"
