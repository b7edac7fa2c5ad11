"""What a stored model says of the rows of a file: read, asked, and written as CSV. Needs no service that runs."""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sweep_service.domain.errors import NotFoundError, TrackingRefusedError
from sweep_service.tracking.stored_models import StoredModels
from trainables.prediction import ENCODING_FILE, MODEL_FILE, STATE_FILE, PredictionError, Predictor
from trainables.problems.table_file import FORMS, DataError, hint_at, parse_table, table_form

if TYPE_CHECKING:
    import pandas as pd

STDIN = "-"


class CannotPredictError(Exception):
    """The model or the file is not what it should be; the message says what to do."""


def predicted_csv(*, model: str, file: str, keep: Sequence[str], tracking_uri: str) -> str:
    """The answers as CSV: a header, then a row for each row of the file, in their order.

    Raises:
        CannotPredictError: the model is not there or knows nothing of tables, or the file does not fit it.
        TrackingUnavailableError: MLflow does not answer.
    """
    name = "standard input" if file == STDIN else file
    form, content = _read(file)
    predictor = _load(model, tracking_uri)
    try:
        table = predictor.read(io.BytesIO(content), form)
        kept = _kept(keep, content, form, table)
        answers = predictor.predict(table)
    except (PredictionError, DataError) as error:
        raise CannotPredictError(f"{name}: {error}.") from error
    if clash := sorted(set(kept.columns) & set(answers)):
        raise CannotPredictError(f"--keep {clash[0]}: the answers have a column of that name themselves.")
    for column, values in answers.items():
        kept[column] = values if isinstance(values, Sequence) else values.numpy()
    return kept.to_csv(index=False, lineterminator="\n")


def _read(file: str) -> tuple[str, bytes]:
    if file == STDIN:
        return ".csv", sys.stdin.buffer.read()
    form = table_form(file)
    if form is None:
        raise CannotPredictError(f"{file} must end in {', '.join(FORMS)}; {STDIN} reads CSV from standard input.")
    try:
        return form, Path(file).read_bytes()
    except OSError as error:
        raise CannotPredictError(f"{file} cannot be read: {error.strerror}.") from error


def _load(model: str, tracking_uri: str) -> Predictor:
    models = StoredModels(tracking_uri)
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = models.find(model)
            models.fetch(found, (MODEL_FILE, ENCODING_FILE, STATE_FILE), Path(folder))
        except (NotFoundError, TrackingRefusedError) as error:
            raise CannotPredictError(str(error)) from error
        try:
            return Predictor.load(Path(folder))
        except PredictionError as error:
            raise CannotPredictError(f"{found.name} cannot be asked: {error}.") from error


def _kept(names: Sequence[str], content: bytes, form: str, table: pd.DataFrame) -> pd.DataFrame:
    """Those columns as the file has them, 007 as 007 and nothing as nothing; an empty table of as many rows if none."""
    if names and form != ".parquet":
        cells = parse_table(io.BytesIO(content), form, dtype=str, keep_default_na=False)
        table = cells if set(names) <= set(cells.columns) else table  # or it has no header, and columns by position
    for name in names:
        if name not in table.columns:
            raise DataError(f"--keep {name}: there is no such column; {hint_at(name, list(table.columns))}")
    return table.filter(items=list(dict.fromkeys(names))).copy()
