"""What the tracker needs and takes seconds to load: the stores when a sweep starts, the rest when it ends."""

from __future__ import annotations

import contextlib
import importlib
from io import BytesIO

_OF_RESULTS = (
    "mlflow.pytorch",
    "mlflow.pyfunc",
    "sweep_service.report.page",
    "trainables.export",
    "trainables.prediction",
    "trainables.problems.table_codec",
)
_OF_DATABASES = ("mlflow.store.model_registry.sqlalchemy_store", "mlflow.store.tracking.sqlalchemy_store")


def load_libraries(tracking_uri: str) -> None:
    """Load them, while nobody waits."""
    is_server = tracking_uri.startswith(("http://", "https://"))
    for name in (*_OF_RESULTS, *(() if is_server else _OF_DATABASES)):
        importlib.import_module(name)
    _load_figures()
    # What installed packages are called when they are imported: found out once a process, for a second or more. Not
    # there in another version of MLflow, it is found out when a model is stored.
    with contextlib.suppress(AttributeError):
        from mlflow.utils import requirements_utils

        requirements_utils._init_packages_to_modules_map()


def _load_figures() -> None:
    """Plotly and Matplotlib load much of themselves only when they draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from plotly import graph_objects

    figure = Figure()
    FigureCanvasAgg(figure)
    figure.add_subplot().plot([0, 1], label="line")
    figure.legend()
    figure.savefig(BytesIO())
    traces = [graph_objects.Scatter(x=[0], y=[0]), graph_objects.Parcoords(dimensions=[{"values": [0]}])]
    graph_objects.Figure(traces, layout={"title": {"text": ""}, "xaxis": {"type": "log"}}).to_json()
