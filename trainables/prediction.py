"""A trained network that is asked about raw rows: out of a stored folder, without the data and without a pickle.

Shapes: B rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor, nn

from trainables.catalog import ParameterValue, find_trainable, load_codec
from trainables.evaluation import CHUNK_ROWS
from trainables.export import trained_model
from trainables.protocol import Problem, TableCodec

if TYPE_CHECKING:
    import pandas as pd

MODEL_FILE, ENCODING_FILE, STATE_FILE = "model.json", "encoding.json", "state_dict.pt"


class PredictionError(ValueError):
    """The model cannot be asked about a table, or not about this one. The message says why."""


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A network, on the CPU, and what leads from a table to its inputs and from its outputs to answers."""

    codec: TableCodec
    model: nn.Module
    dtype: torch.dtype

    @classmethod
    def load(cls, folder: Path) -> Predictor:
        """Read a folder that holds MODEL_FILE, ENCODING_FILE and STATE_FILE; runs no code from it.

        Raises:
            PredictionError: the problem cannot predict from a table, its package is not installed here, or the folder
                does not hold what it should.
        """
        described = _read_json(folder / MODEL_FILE)
        name, params = str(described.get("trainable")), described.get("params", {})
        try:
            trainable = find_trainable(name)
        except KeyError as error:
            raise PredictionError(f"its package is not installed here: {error.args[0]}") from error
        if not (folder / ENCODING_FILE).exists():
            raise PredictionError(described.get("no_encoding") or f"the problem {name!r} cannot predict from a table")
        try:
            codec = load_codec(trainable, params, _read_json(folder / ENCODING_FILE))
        except (ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
            raise PredictionError(f"its {ENCODING_FILE} cannot be read: {error}") from error
        if codec is None:
            raise PredictionError(f"the problem {name!r}, as installed here, cannot predict from a table")
        return cls._built(codec, str(described.get("balancer")), params, folder / STATE_FILE)

    @classmethod
    def _built(
        cls, codec: TableCodec, balancer: str, params: Mapping[str, ParameterValue], state_file: Path
    ) -> Predictor:
        try:
            state = torch.load(state_file, map_location="cpu", weights_only=True)
            model = trained_model(codec, balancer=balancer, params=params, state=state)
        except Exception as error:  # torch raises what it likes at a damaged file
            raise PredictionError(f"its network cannot be built from {state_file.name}: {error}") from error
        return cls(codec=codec, model=model, dtype=next(iter(model.parameters())).dtype)

    def read(self, file: BinaryIO, form: str) -> pd.DataFrame:
        """The table in a file, read as the training file was; ``form``: .csv, .csv.gz or .parquet.

        Raises:
            PredictionError: it cannot be read.
        """
        try:
            return self.codec.read(file, form)
        except ValueError as error:
            raise PredictionError(str(error)) from error

    def outputs(self, table: pd.DataFrame) -> Mapping[str, Tensor]:
        """The network's outputs by task, a row each, in the rows' order.

        Raises:
            PredictionError: columns are missing, or a cell is not what its column was in training; names them.
        """
        try:
            inputs = self.codec.encode(table)
        except ValueError as error:
            raise PredictionError(str(error)) from error
        inputs = tuple(tensor.to(self.dtype) if tensor.is_floating_point() else tensor for tensor in inputs)
        with torch.no_grad():
            chunks = [
                self.model(*[tensor[start : start + CHUNK_ROWS] for tensor in inputs])
                for start in range(0, max(1, len(table)), CHUNK_ROWS)
            ]
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def predict(self, table: pd.DataFrame) -> Mapping[str, Sequence[str] | Tensor]:
        """Labels and numbers by column, a row each, in the rows' order. Raises what :meth:`outputs` raises."""
        return self.codec.decode(self.outputs(table))


def codec_of(problem: Problem) -> TableCodec | None:
    """The codec of a problem that has one; a problem need not know of them."""
    return getattr(problem, "codec", None)


def encoding_hash(problem: Problem) -> str | None:
    """Of what was learnt of the data, which the hash of the data does not tell: it is over standardised numbers."""
    codec = codec_of(problem)
    if codec is None:
        return None
    return hashlib.sha256(json.dumps(codec.document(), sort_keys=True).encode()).hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PredictionError(f"it has no {path.name}, which is there where a sweep has stored a model") from error
    except (OSError, ValueError) as error:
        raise PredictionError(f"its {path.name} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise PredictionError(f"its {path.name} is no JSON object")
    return document
