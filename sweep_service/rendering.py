"""How a sweep looks in a terminal: its progress while it runs, its leaderboard and verdict when it has ended.

Everything here takes the sweep as the API gives it and bears with parts that are missing. Text from outside (names,
messages) is printed as it is, never as markup, without control characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweep_service.rendering_text import Document, as_mapping, as_rows, number, parameters, plain, shown

_STATE_STYLES = {
    "completed": "green",
    "stopped": "yellow",
    "stopping": "yellow",
    "paused": "yellow",
    "pausing": "yellow",
    "cancelled": "red",
    "cancelling": "red",
    "failed": "bold red",
    "running": "cyan",
    "starting": "cyan",
}
_OUTCOME_STYLES = {"helped": "bold green", "hurt": "bold red", "equivalent": "bold", "inconclusive": "yellow"}
_MAX_ROWS = 15
_PIPE_WIDTH = 160


def state_text(state: object, reason: object = None) -> Text:
    """The state, coloured, with its reason."""
    text = Text(plain(state or "unknown"), style=_STATE_STYLES.get(str(state), ""))
    if reason:
        text.append(f" ({plain(reason)})", style="dim")
    return text


def standing_text(sweep: Document) -> Text:
    """The state, coloured, with its reason or its place in the queue."""
    place = sweep.get("position")
    return state_text(sweep.get("state"), sweep.get("reason") if place is None else f"{number(place)} in the queue")


def progress_line(sweep: Document) -> str:
    """Where the sweep stands, on one line without colours: for logs and pipes."""
    progress = as_mapping(sweep.get("progress"))
    parts = [standing_text(sweep).plain if sweep.get("state") == "queued" else plain(sweep.get("state", "unknown"))]
    parts.append(f"search {progress.get('used_trials', 0)}/{progress.get('budget_trials', '?')}")
    for role, states in as_mapping(progress.get("trials")).items():
        counts = _counts(states)
        if counts:
            parts.append(f"{role}: {counts}")
    for place, leader in enumerate(as_rows(sweep.get("leaders"))):
        is_best = place == 0 and leader.get("role") == "search"
        label = f"best{_of_balancer(sweep, leader)}" if is_best else plain(leader.get("balancer"))
        shown = f"{label} {number(leader.get('objective'))}"
        if is_best:
            shown += f" at {parameters(leader.get('searched'))}"
        parts.append(shown)
    if sweep.get("state") == "queued" and sweep.get("message"):  # what it waits for; how it ended is shown then
        parts.append(plain(sweep["message"]))
    return " | ".join(parts)


def live_view(sweep: Document) -> RenderableType:
    """Where the sweep stands, to be drawn again and again: bar, counts, best so far, baselines."""
    progress = as_mapping(sweep.get("progress"))
    total, used = progress.get("budget_trials") or 1, progress.get("used_trials") or 0
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        Text(plain(sweep.get("name", "")), style="bold"),
        standing_text(sweep),
        ProgressBar(total=total, completed=used, width=30),
        Text(f"{used}/{total} search trials"),
    )
    if used_hours := _gpu_hours(sweep):
        bar.add_row("", "", "", Text(used_hours))
    lines: list[RenderableType] = [bar]
    for role, states in as_mapping(progress.get("trials")).items():
        if counts := _counts(states):
            lines.append(Text.assemble((f"  {plain(role):<9}", "dim"), counts))
    if leaders := as_rows(sweep.get("leaders")):
        lines.append(_leaders_table(sweep, leaders, _objective_name(sweep)))
    if message := sweep.get("message"):
        lines.append(Text(plain(message), style="dim"))
    return Group(*lines)


def results_view(sweep: Document) -> RenderableType:
    """How the sweep ended: leaderboard and verdict."""
    head = Text.assemble((plain(sweep.get("name", "")), "bold"), " ")
    head.append_text(state_text(sweep.get("state"), sweep.get("reason")))
    lines: list[RenderableType] = [head]
    if message := sweep.get("message"):
        lines.append(Text(plain(message)))
    results = as_mapping(sweep.get("results"))
    if rows := _shown_rows(results):
        lines += [leaderboard_table(rows, _objective_name(sweep))]
        if hidden := len(as_rows(results.get("leaderboard"))) - len(rows):
            lines.append(Text(f"… and {hidden} more trials", style="dim"))
    else:
        lines.append(Text("No trial completed: there is no leaderboard.", style="yellow"))
    if len(methods := as_rows(results.get("methods"))) > 1:
        lines.append(methods_table(methods))
    if front := as_rows(results.get("front")):
        lines.append(front_table(front))
    lines.append(verdict_view(results.get("verdict")))
    return Group(*lines)


def leaderboard_table(rows: Sequence[Document], objective: str) -> Table:
    """Trials by rank, with each task's loss; the baselines stand out."""
    tasks = list(dict.fromkeys(task for row in rows for task in as_mapping(row.get("tasks"))))
    table = Table(title=f"Leaderboard by {plain(objective)}", title_justify="left", title_style="bold")
    for heading in ("#", "balancer", "trial"):
        table.add_column(heading, no_wrap=True)
    table.add_column(Text(plain(objective)), justify="right")
    table.add_column("parameters", overflow="fold")
    for task in tasks:
        table.add_column(Text(f"loss {plain(task)}"), justify="right")
    has_delta = any(row.get("delta_m") is not None for row in rows)
    if has_delta:
        table.add_column("Δm %", justify="right")
    for row in rows:
        losses = [number(as_mapping(as_mapping(row.get("tasks")).get(task)).get("loss")) for task in tasks]
        cells = [number(row.get("rank")), plain(row.get("label", "")), number(row.get("number"))]
        cells += [number(row.get("objective")), parameters(row.get("params")), *losses]
        cells += [number(row.get("delta_m"), sign=True)] if has_delta else []
        table.add_row(*(Text(cell) for cell in cells), style="" if row.get("role") == "search" else "magenta")
    return table


def methods_table(methods: Sequence[Document]) -> Table:
    """The balancers and the baselines by rank, with what fresh seeds made of the best of each; baselines stand out."""
    fresh = next((found for row in methods if (found := as_mapping(row.get("confirmed")))), None)
    table = Table(title="Methods", title_justify="left", title_style="bold")
    for heading in ("#", "method"):
        table.add_column(heading, no_wrap=True)
    for heading in ("trials", "tuned", "best"):
        table.add_column(heading, justify="right")
    if fresh is not None:
        table.add_column(Text(f"{plain(fresh.get('metric', ''))}, fresh seeds"), justify="right")
        table.add_column("diverged", justify="right")
    table.add_column("parameters", overflow="fold")
    for row in methods:
        again = as_mapping(row.get("confirmed"))
        cells = [number(row.get("rank")), plain(row.get("balancer", "")), number(row.get("trials"))]
        cells += [number(row.get("parameters")), number(row.get("objective"))]
        if fresh is not None:
            cells += [f"{number(again.get('mean'))} ± {number(again.get('std'))}" if again else "–"]
            cells += [f"{number(again.get('diverged'))} of {number(again.get('seeds'))}" if again else "–"]
        cells.append(parameters(row.get("params")))
        table.add_row(*(Text(cell) for cell in cells), style="" if row.get("role") == "search" else "magenta")
    return table


def front_table(trials: Sequence[Document]) -> RenderableType:
    """The trials that none other beats in one objective without losing in another, with their values of each: as /best
    lists them, or as the results do.
    """
    shown = trials[:_MAX_ROWS]
    table = Table(title="Pareto front", title_justify="left", title_style="bold")
    table.add_column("trial", no_wrap=True)
    metrics = list(dict.fromkeys(metric for trial in shown for metric in as_mapping(trial.get("values"))))
    for metric in metrics:
        table.add_column(Text(plain(metric)), justify="right")
    table.add_column("parameters", overflow="fold")
    for trial in shown:
        values = [number(as_mapping(trial.get("values")).get(metric)) for metric in metrics]
        chosen = trial["searched"] if "searched" in trial else trial.get("params")
        table.add_row(*(Text(cell) for cell in (number(trial.get("number")), *values, parameters(chosen))))
    hidden = len(trials) - len(shown)
    return Group(table, Text(f"… and {hidden} more trials", style="dim")) if hidden else table


def verdict_view(verdict: object) -> RenderableType:
    """Whether the search's best beat each baseline, with the intervals that say so."""
    found = as_mapping(verdict)
    if not found:
        return Text(
            "No verdict: the sweep has compared nothing (confirm was not asked for, or did not run).", style="dim"
        )
    lines: list[RenderableType] = [Text.assemble(("Verdict: ", "bold"), plain(found.get("summary", "")))]
    rows = as_rows(found.get("against"))
    if rows:
        lines.append(_verdict_table(found, rows))
    notes = f"Difference: best minus other in {plain(found.get('metric', ''))}; below 0 is better."
    notes += f" Equivalent: the whole interval within ±{number(found.get('margin'))}."
    if any(row.get("tasks") for row in rows):
        notes += " A task's row: in its own test loss, with that share of the other's loss as margin."
    if covers := found.get("covers"):
        notes += f" {plain(covers)}"
    lines.append(Text(notes, style="dim"))
    return Group(*lines)


def console_for(file: IO[str] | None = None) -> Console:
    """A console on that file (standard output if none), wide enough for tables where nobody looks: a pipe, a log."""
    console = Console(file=file)
    return console if console.is_terminal else Console(file=file, width=max(console.width, _PIPE_WIDTH))


@contextmanager
def shown_updates(console: Console) -> Iterator[Callable[[Document], None]]:
    """What shows a sweep each time that it has been looked at: a live view, or a line per change where nobody looks."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield lambda sweep: live.update(live_view(sweep), refresh=True)
        return
    last = ""

    def print_change(sweep: Document) -> None:
        nonlocal last
        line = progress_line(sweep)
        if line != last:
            console.print(Text(line), soft_wrap=True)
        last = line

    yield print_change


def print_results(console: Console, sweep: Document) -> None:
    """Print how the sweep ended: leaderboard and verdict."""
    console.print(results_view(sweep))


def sweeps_table(sweeps: Iterable[Document]) -> Table:
    """Sweeps of a list."""
    table = Table()
    for heading in ("id", "name", "trainable", "state", "trials", "submitted", "message"):
        table.add_column(heading, no_wrap=heading == "id", overflow="fold")
    for sweep in sweeps:
        table.add_row(
            Text(plain(sweep.get("id", ""))),
            Text(plain(sweep.get("name", ""))),
            Text(plain(sweep.get("trainable", ""))),
            standing_text(sweep),
            Text(number(sweep.get("budget_trials"))),
            Text(plain(sweep.get("created_at", ""))[:19].replace("T", " ")),
            Text(plain(sweep.get("message", ""))),
        )
    return table


def trials_table(trials: Iterable[Document]) -> Table:
    """Trials of a sweep, by number."""
    table = Table()
    for heading in ("#", "role", "balancer", "state"):
        table.add_column(heading, no_wrap=True)
    table.add_column("objective", justify="right")
    table.add_column("parameters", overflow="fold")
    table.add_column("seed", justify="right")
    table.add_column("steps", justify="right")
    table.add_column("attempts", justify="right")
    table.add_column("message", overflow="fold")
    for trial in trials:
        cells = [number(trial.get("number")), plain(trial.get("role", "")), plain(trial.get("balancer", ""))]
        row = [Text(cell) for cell in cells]
        row.append(Text(plain(trial.get("state", "")), style=_STATE_STYLES.get(str(trial.get("state")), "")))
        row.append(Text(number(trial.get("objective"))))
        row.append(Text(parameters(trial.get("searched"))))
        row += [Text(number(trial.get(name))) for name in ("seed", "last_step", "num_attempts")]
        row.append(Text(plain(trial.get("message", ""))))
        table.add_row(*row)
    return table


def preview_view(preview: Document) -> RenderableType:
    """What would come of a spec."""
    trials = as_mapping(preview.get("trials"))
    counts = ", ".join(f"{number(count)} {plain(role)}" for role, count in trials.items() if count)
    lines: list[RenderableType] = [Text.assemble(("Valid. ", "bold green"), f"At most so many trials: {counts}.")]
    if shares := as_mapping(preview.get("shares")):
        told = ", ".join(f"{plain(name)} {number(count)}" for name, count in shares.items())
        lines.append(Text(f"search trials of each balancer: {told}"))
    if adoption := as_mapping(preview.get("adoption")):
        for line in as_rows(adoption.get("lines")):
            found = f"{number(line.get('adopted'))} of {number(line.get('considered'))} trials"
            who = " ".join(plain(word) for word in (line.get("role"), line.get("balancer")) if word)
            lines.append(Text(f"{who}: begins with {found} of {plain(adoption.get('from_sweep'))}"))
            lines += [
                Text(f"  left out, {number(one.get('trials'))}: {plain(one.get('reason'))}", style="dim")
                for one in as_rows(line.get("left_out"))
            ]
    samples = [as_mapping(sample.get("searched")) for sample in as_rows(preview.get("samples"))]
    names = list(dict.fromkeys(name for sample in samples for name in sample))
    table = Table(title="Uniform draws of the space; the sampler chooses otherwise", title_justify="left")
    for name in names:
        table.add_column(Text(plain(name)), justify="right")
    for sample in samples:
        table.add_row(*(Text(shown(sample[name]) if name in sample else "–") for name in names))
    return Group(*lines, table)


def event_line(event: Document) -> str:
    """One event on one line: when, what, of which trial, and what it says."""
    data = " ".join(f"{plain(k)}={plain(v)}" for k, v in as_mapping(event.get("data")).items() if v not in (None, ""))
    if event.get("kind") == "sweep.verdict":
        data = plain(as_mapping(event.get("data")).get("summary", ""))
    at = plain(event.get("at", ""))[:19].replace("T", " ")
    parts = [
        at,
        plain(event.get("kind", "")),
        plain(event.get("trial_id") or ""),
        data,
        plain(event.get("message", "")),
    ]
    return "  ".join(part for part in parts if part)


def _verdict_table(verdict: Document, rows: Sequence[Document]) -> Table:
    table = Table()
    table.add_column("against", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    table.add_column("difference", justify="right", no_wrap=True)
    confidence = verdict.get("confidence")
    share = f"{100 * confidence:g} % interval" if isinstance(confidence, int | float) else "interval"
    table.add_column(share, no_wrap=True)
    table.add_column("p (Holm)", justify="right", no_wrap=True)
    table.add_column("seeds", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_comparison_cells(Text(plain(row.get("baseline", "")), style="bold"), row))
        for task, of_task in as_mapping(row.get("tasks")).items():
            table.add_row(*_comparison_cells(Text(f"  {plain(task)}", style="dim"), as_mapping(of_task)))
    return table


def _comparison_cells(label: Text, row: Document) -> list[Text]:
    interval = row.get("interval")
    bounds = list(interval) if isinstance(interval, list | tuple) and len(interval) == 2 else [None, None]
    outcome = plain(row.get("outcome") or "–")
    return [
        label,
        Text(outcome, style=_OUTCOME_STYLES.get(outcome, "")),
        Text(number(row.get("mean_difference"), sign=True)),
        Text(f"{number(bounds[0], sign=True)} to {number(bounds[1], sign=True)}"),
        Text(number(row.get("p_value_holm"))),
        Text(number(row.get("num_pairs"))),
    ]


def _shown_rows(results: Document) -> list[Document]:
    """The first of the leaderboard, and the best of each baseline wherever it ranks."""
    rows = as_rows(results.get("leaderboard"))
    baselines = {row.get("trial_id") for row in as_rows(results.get("baselines"))}
    return [row for place, row in enumerate(rows) if place < _MAX_ROWS or row.get("trial_id") in baselines]


def _of_balancer(sweep: Document, leader: Document) -> str:
    """Which balancer a leader has, where that is searched and not among what the sampler chose."""
    search = as_mapping(as_mapping(sweep.get("spec")).get("search"))
    return f" ({plain(leader.get('balancer'))})" if search.get("balancers") == "equal_effort" else ""


def _leaders_table(sweep: Document, leaders: Sequence[Document], objective: str) -> Table:
    table = Table.grid(padding=(0, 2))
    for place, leader in enumerate(leaders):
        is_search = leader.get("role") == "search"
        is_best = is_search and place == 0
        name = f"best so far{_of_balancer(sweep, leader)}" if is_best else plain(leader.get("balancer", ""))
        table.add_row(
            Text(f"  {name}", style="bold" if is_best else "" if is_search else "magenta"),
            Text(f"{plain(objective)} {number(leader.get('objective'))}"),
            Text(parameters(leader.get("searched")), style="dim"),
        )
    return table


def _objective_name(sweep: Document) -> str:
    return str(as_mapping(as_mapping(sweep.get("spec")).get("objective")).get("metric", "objective"))


def _gpu_hours(sweep: Document) -> str:
    """What has been used of GPUs, and of how much where that is bounded; empty: the sweep asks for none."""
    used = as_mapping(sweep.get("progress")).get("used_gpu_hours")
    bound = as_mapping(as_mapping(sweep.get("spec")).get("budget")).get("gpu_hours")
    if used is None:
        return ""
    return f"{number(used)} GPU-hours" if bound is None else f"{number(used)}/{number(bound)} GPU-hours"


def _counts(states: object) -> str:
    return ", ".join(f"{count} {plain(state)}" for state, count in as_mapping(states).items() if count)
