"""Metrics, for Prometheus. Not in the API's description: its reader knows their format, which is not JSON."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.metrics import ServiceMetrics

router = APIRouter(tags=["health"])


@router.get("/metrics", include_in_schema=False)
async def read_metrics(request: Request) -> Response:
    """How the service stands, and what this process is asked. Answers also where the store does not."""
    metrics: ServiceMetrics = request.app.state.metrics
    content, media_type = await metrics.exposition(request.headers.get("accept", ""))
    return Response(content, media_type=media_type, headers={"Cache-Control": "no-store"})
