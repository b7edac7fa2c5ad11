"""Everything that is set from outside, read once and passed on as a value: from ``SWEEP_*`` environment variables, and
from files of their names, in small letters, in the folder that ``SWEEP_SECRETS_DIR`` names. A password in such a file
is in nobody's list of processes or environments.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SecretsSettingsSource, SettingsConfigDict

from sweep_service.domain.limits import PackLimit


def _folder_or_bucket(location: str) -> str:
    scheme, is_url, rest = location.partition("://")
    if is_url and (scheme != "s3" or not rest.partition("/")[0]):
        raise ValueError(f"{location!r} is neither a folder nor s3://bucket/prefix; other schemes are not known")
    return location


_NOTHING_IF_EMPTY = BeforeValidator(lambda value: None if value == "" else value)  # as compose passes on what is unset


class Settings(BaseSettings):
    """The settings of every process; each reads those that it needs. Relative paths are made absolute."""

    model_config = SettingsConfigDict(env_prefix="SWEEP_", frozen=True, extra="ignore")

    home: Path = Field(default=Path(".sweep"), description="Folder of everything that the one-machine stack keeps.")
    database_url: str = Field(default="", description="SQLAlchemy URL of the store; a SQLite file under home if empty.")
    mlflow_tracking_uri: str = Field(default="", description="MLflow's URI; a SQLite file under home if empty.")
    mlflow_artifacts: str = Field(
        default="",
        description="Where new experiments keep artifacts: a folder under home if empty and MLflow is SQLite.",
    )
    checkpoints: Annotated[str, AfterValidator(_folder_or_bucket)] = Field(
        default="",
        description="What all nodes share: a folder, or s3://bucket/prefix; a folder under home if empty.",
    )
    ray_address: str = Field(default="auto", description="host:port of the Ray head, or auto.")
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    allowed_hosts: tuple[str, ...] = Field(
        default=("127.0.0.1", "localhost", "[::1]"), description="Values of the Host header that are answered."
    )
    max_body_bytes: int = Field(default=1_000_000, description="Largest request body.")
    body_timeout: timedelta = Field(default=timedelta(seconds=30), description="A body that takes longer is refused.")
    require_keys: Annotated[bool | None, _NOTHING_IF_EMPTY] = Field(
        default=None,
        description="Whether requests need an API key; if not given, exactly when the host is not loopback. False with "
        "another host: the API does not start.",
    )
    rate_limit: Annotated[float, Field(gt=0)] = Field(
        default=50.0,
        description="Requests a second of one key, and of all who show none at one address; those of two seconds may "
        "come at once. Each API process counts for itself. Requests to MLflow are counted apart: four times as many.",
    )
    admin_key_file: Annotated[Path | None, _NOTHING_IF_EMPTY] = Field(
        default=None, description="File with the text of the first admin key; sweep_service.setup stores it."
    )
    metrics_key_file: Annotated[Path | None, _NOTHING_IF_EMPTY] = Field(
        default=None, description="File with the text of a key that may only read, for Prometheus; stored likewise."
    )
    mlflow_prefix: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9_-]+)*$")] = Field(
        default="", description="What paths of MLflow's page begin with at the gateway, such as /mlflow."
    )
    project: str = "default"
    lease_ttl: timedelta = Field(default=timedelta(seconds=15), description="A dead conductor is replaced after this.")
    start_grace: timedelta = Field(
        default=timedelta(seconds=60), description="Time for a conductor to come up, until it renews its lease itself."
    )
    unschedulable_after: timedelta = Field(
        default=timedelta(seconds=30),
        description="A sweep that no node could ever hold says so after this, and waits on in the queue; one that has "
        "been started fails. Until then, nodes may be joining.",
    )
    drain_grace: timedelta = Field(
        default=timedelta(seconds=10),
        description="When the dispatcher is told to end, running trials have so long to come to a report and leave a "
        "checkpoint.",
    )
    poll_interval: timedelta = Field(default=timedelta(seconds=0.5), description="Pause between looks into the store.")
    event_poll_interval: timedelta = Field(
        default=timedelta(seconds=1),
        description="Pause between looks for events, of each client that follows a sweep.",
    )
    event_heartbeat: timedelta = Field(
        default=timedelta(seconds=15), description="A stream of events that has nothing to say says so after this."
    )
    max_running_sweeps: Annotated[int, Field(ge=1)] = Field(
        default=4, description="Sweeps that run at once in the cluster; each conductor holds about 0.5 GB."
    )
    limits: tuple[PackLimit, ...] = Field(
        default=(),
        description='Packs that may run at once over all sweeps, as JSON: [{"label": "team:ads", "packs": 4}, '
        '{"project": "default", "packs": 8}]. The same for every process that has a conductor.',
    )
    log_level: str = "INFO"
    log_format: Literal["text", "json"] = Field(
        default="text", description="json: each line of a log is an object, which tells also of which sweep it is."
    )
    log_file: Path | None = Field(
        default=None,
        description="Where conductors log; logs/conductors.log under home if not given. /proc/1/fd/1 is the output "
        "of a container's first process.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Where they are read from, the first that has one before the others."""
        folder = os.environ.get("SWEEP_SECRETS_DIR")
        files = (SecretsSettingsSource(settings_cls, secrets_dir=folder),) if folder else ()
        return init_settings, env_settings, *files

    @property
    def root(self) -> Path:
        """``home``, absolute."""
        return self.home.expanduser().resolve()

    @property
    def store_url(self) -> str:
        return self.database_url or f"sqlite:///{self.root / 'sweeps.db'}"

    @property
    def tracking_uri(self) -> str:
        return self.mlflow_tracking_uri or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifact_location(self) -> str | None:
        """Artifact root for new experiments; None leaves it to the MLflow server."""
        if self.mlflow_artifacts:
            return self.mlflow_artifacts
        return (self.root / "mlflow-artifacts").as_uri() if self.tracking_uri.startswith("sqlite:") else None

    @property
    def conductor_log(self) -> Path:
        """Not resolved: what a link stands for is the business of whoever has put it there."""
        return self.log_file.expanduser().absolute() if self.log_file else self.root / "logs" / "conductors.log"

    @property
    def checkpoint_root(self) -> str:
        """An absolute path, or ``s3://bucket/prefix``; does not end with a slash."""
        if "://" in self.checkpoints:
            return self.checkpoints.rstrip("/")
        return str(Path(self.checkpoints or self.root / "checkpoints").expanduser().resolve())
