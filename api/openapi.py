"""The API's description: what FastAPI finds by itself, and what it does not see.

``python -m api.openapi`` prints it; `make openapi` keeps it in the repository, where a change of it shows.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from fastapi import FastAPI

from api.schemas import sweep_patch
from api.schemas.problems import ProblemDocument
from sweep_service.domain.spec import SweepSpec

_KEY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key, where the service requires them. To read, it may be a password (Basic) as well.",
}
_REF = "#/components/schemas/{model}"


class DescribedApplication(FastAPI):
    """Describes also the bodies that FastAPI does not parse: specs, patches and problems."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            document["components"]["securitySchemes"] = {"key": _KEY_SCHEME}
            document["security"] = [{"key": []}, {}]
            schemas = document["components"]["schemas"]
            for model in (SweepSpec, ProblemDocument):
                schema = model.model_json_schema(ref_template=_REF)
                schemas.update(schema.pop("$defs", {}))
                schemas[schema["title"]] = schema
            schemas[sweep_patch.NAME] = sweep_patch.patch_schema(schemas)
            for view in ("SweepView", "PreviewView"):
                properties = schemas[view]["properties"]
                described = properties["spec"]["description"]
                properties["spec"] = {"$ref": _REF.format(model="SweepSpec"), "description": described}
        return super().openapi()


def _main() -> None:
    from api.app import create_app
    from sweep_service.settings import Settings
    from sweep_service.storage.memory import MemorySweepStore

    document = create_app(Settings(), MemorySweepStore()).openapi()
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    _main()
