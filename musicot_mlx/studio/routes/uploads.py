"""Files of the user: taken, decoded, heard."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from musicot_mlx.studio import bodies
from musicot_mlx.studio.answers import Answer, FileAnswer, Use, checked_id

router = APIRouter(tags=["uploads"])
AUDIO = {200: {"content": {"audio/flac": {}}}, 206: {"content": {"audio/flac": {}}}}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post("/uploads", status_code=201, responses={201: {"model": bodies.Upload}},
             openapi_extra=_BODY)  # fmt: skip
async def upload(
    request: Request, studio: Use, name: Annotated[str, Query(max_length=400)] = "audio"
) -> Answer:
    """Take an audio file: its bytes are the body."""
    length = request.headers.get("content-length")
    size = int(length) if length is not None else None
    return Answer(await studio.uploads.take(request.stream(), name, size), status_code=201)


@router.get("/uploads", responses={200: {"model": bodies.Uploads}})
def list_uploads(studio: Use, limit: Annotated[int, Query(ge=1, le=500)] = 100) -> Answer:
    """The newest files."""
    return Answer({"uploads": studio.store.uploads(limit)})


@router.get("/uploads/{upload}/audio", responses=AUDIO, response_class=Response)
def audio(upload: str, studio: Use) -> Response:
    """What a file holds."""
    studio.store.upload(checked_id("upload", upload))
    headers = {"cache-control": "private, no-cache"}
    return FileAnswer(studio.files.upload(upload), media_type="audio/flac", headers=headers)


@router.delete("/uploads/{upload}", status_code=204, response_class=Response)
def delete(upload: str, studio: Use) -> Response:
    """Forget a file."""
    studio.store.delete_upload(checked_id("upload", upload))
    studio.files.upload(upload).unlink(missing_ok=True)
    return Response(status_code=204)
