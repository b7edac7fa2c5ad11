"""The Python client of the REST API."""

from sweep_service.client.errors import (
    ApiError,
    ClientError,
    ConflictError,
    InvalidRequestError,
    MissingError,
    UnavailableError,
    UnreachableError,
    WaitTimeoutError,
)
from sweep_service.client.sweep_client import ENDED_STATES, SweepClient

__all__ = [
    "ENDED_STATES",
    "ApiError",
    "ClientError",
    "ConflictError",
    "InvalidRequestError",
    "MissingError",
    "SweepClient",
    "UnavailableError",
    "UnreachableError",
    "WaitTimeoutError",
]
