"""A server that speaks S3, on a port of loopback, and the environment in which programs of AWS find it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import boto3
import pytest
from moto.server import ThreadedMotoServer

from sweep_service.checkpoint_files import checkpoint_files


@dataclass
class BucketServer:
    """Stopped and started again it has the same port, and what was in the bucket.

    Its name is nobody else's: moto keeps what is in buckets in this process, for all servers alike.
    """

    bucket: str = field(default_factory=lambda: f"sweeps-{uuid.uuid4().hex}")
    _port: int = 0
    _server: ThreadedMotoServer | None = field(default=None, repr=False)

    def start(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()
        _, self._port = self._server.get_host_and_port()
        boto3.client("s3", **self._client_settings).create_bucket(Bucket=self.bucket)

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> Mapping[str, str]:
        client = self._client_settings
        return {
            "AWS_ENDPOINT_URL": client["endpoint_url"],
            "AWS_ACCESS_KEY_ID": client["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": client["aws_secret_access_key"],
            "AWS_DEFAULT_REGION": client["region_name"],
        }

    def names(self) -> list[str]:
        """All that is in the bucket."""
        client = boto3.client("s3", **self._client_settings)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return [found["Key"] for page in pages for found in page.get("Contents", ())]

    @property
    def _client_settings(self) -> Mapping[str, str]:
        return {
            "endpoint_url": self.url,
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test-secret",
            "region_name": "us-east-1",
        }


def reach(server: BucketServer, patch: pytest.MonkeyPatch) -> None:
    """Have this process find its objects there, until the test ends."""
    for name, value in server.environment.items():
        patch.setenv(name, value)
    checkpoint_files.cache_clear()  # it knows another server


@contextmanager
def bucket_server() -> Iterator[BucketServer]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = BucketServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()
