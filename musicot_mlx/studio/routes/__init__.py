"""The routes of the API, a file a resource, and the pages beside it."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter

from musicot_mlx.studio.answers import ERRORS
from musicot_mlx.studio.routes import (
    events,
    generations,
    library,
    models,
    plans,
    sidecars,
    songs,
    uploads,
)

router = APIRouter(prefix="/v1", responses=ERRORS)
for _part in (models, plans, songs, sidecars, events, uploads, library, generations):
    router.include_router(_part.router)


def add_pages(app: Any, static: Path, *, page: bool) -> None:
    """The page at / if it is wanted, its files, and the documents of the API at /docs."""
    from starlette.responses import FileResponse
    from starlette.staticfiles import StaticFiles

    fresh = {"cache-control": "no-cache"}  # asked for anew, answered by 304 where nothing changed

    def shown(name: str) -> Any:
        async def answer(request: Any) -> FileResponse:
            return FileResponse(static / name, headers=fresh)

        return answer

    class Fresh(StaticFiles):
        """Files that browsers ask for anew, so that an update is seen."""

        def file_response(self, *given: Any, **options: Any) -> Any:
            response = super().file_response(*given, **options)
            response.headers.update(fresh)
            return response

    app.mount("/static", Fresh(directory=static), name="static")
    app.add_route("/docs", shown("docs.html"), methods=["GET"], include_in_schema=False)
    if page:
        app.add_route("/", shown("index.html"), methods=["GET"], include_in_schema=False)
