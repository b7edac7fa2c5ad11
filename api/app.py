"""The application: routes, middleware and the translation of errors, around one service."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware import Middleware

from api import errors
from api.event_feed import EventFeed
from api.metrics import ServiceMetrics
from api.middleware import AllowedHosts, CheckedBody, ErrorBoundary, HeadAsGet
from api.openapi import DescribedApplication
from api.request_log import RequestLog
from api.request_metrics import RequestMetrics
from api.routes import health, schemas, sweeps, trainables, trials
from api.routes import metrics as metrics_route
from api.schemas.sweeps import PREFIX
from sweep_service.clock import SystemClock
from sweep_service.ports import SweepStore
from sweep_service.services.reports import ReportService
from sweep_service.services.sweeps import SweepService
from sweep_service.services.trials import TrialService
from sweep_service.settings import Settings


def create_app(settings: Settings, store: SweepStore) -> FastAPI:
    """The API over that store. Neither migrates nor closes it."""
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
            Middleware(CheckedBody, max_bytes=settings.max_body_bytes),
        ],
    )
    clock = SystemClock()
    app.state.service = SweepService(store=store, clock=clock, project=settings.project)
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
    return app
