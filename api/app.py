"""The application: routes, middleware and the translation of errors, around one service."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware import Middleware

from api import errors
from api.access import are_keys_required
from api.event_feed import EventFeed
from api.key_check import KeyCheck, KeyLimit
from api.metrics import ServiceMetrics
from api.middleware import AllowedHosts, CheckedBody, ErrorBoundary, HeadAsGet
from api.mlflow_gate import MlflowGate
from api.openapi import DescribedApplication
from api.readiness import Readiness
from api.request_log import RequestLog
from api.request_metrics import RequestMetrics
from api.routes import audit, health, keys, schemas, sweeps, trainables, trials
from api.routes import metrics as metrics_route
from api.schemas.sweeps import PREFIX
from sweep_service.clock import SystemClock
from sweep_service.ports import SweepStore
from sweep_service.services.keys import KeyRing, KeyService
from sweep_service.services.reports import ReportService
from sweep_service.services.sweeps import SweepService
from sweep_service.services.trials import TrialService
from sweep_service.settings import Settings


def create_app(settings: Settings, store: SweepStore) -> FastAPI:
    """The API over that store. Neither migrates nor closes it.

    Raises:
        OpenToOthersError: the settings would let everybody do everything.
    """
    clock = SystemClock()
    ring = KeyRing(store=store, clock=clock)
    metrics = ServiceMetrics(store)
    app = DescribedApplication(
        title="GradNorm sweeps",
        summary="Sweeps of multi-task networks trained with GradNorm.",
        version="1",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url="/docs",
        redoc_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(RequestLog),
            Middleware(RequestMetrics, metrics=metrics),
            Middleware(ErrorBoundary),
            Middleware(AllowedHosts, allowed=settings.allowed_hosts),
            Middleware(HeadAsGet),
            Middleware(KeyCheck, ring=ring, is_required=are_keys_required(settings), rate=settings.rate_limit),
            Middleware(MlflowGate, prefix=settings.mlflow_prefix, rate=settings.rate_limit),
            Middleware(CheckedBody, max_bytes=settings.max_body_bytes, timeout=settings.body_timeout),
            Middleware(KeyLimit, rate=settings.rate_limit),
        ],
    )
    app.state.ring = ring
    app.state.keys = KeyService(store=store, clock=clock)
    app.state.service = SweepService(store=store, clock=clock, project=settings.project)
    app.state.readiness = Readiness(app.state.service)
    app.state.feed = EventFeed(
        app.state.service, poll_interval=settings.event_poll_interval, heartbeat=settings.event_heartbeat
    )
    app.state.metrics = metrics
    app.state.trials = TrialService(store=store)
    app.state.reports = ReportService(store=store, clock=clock)
    errors.install(app)
    app.include_router(health.router)
    app.include_router(metrics_route.router)
    app.include_router(sweeps.router, prefix=PREFIX)
    app.include_router(trials.router, prefix=PREFIX)
    app.include_router(trainables.router, prefix=PREFIX)
    app.include_router(schemas.router, prefix=PREFIX)
    app.include_router(keys.router, prefix=PREFIX)
    app.include_router(audit.router, prefix=PREFIX)
    return app
