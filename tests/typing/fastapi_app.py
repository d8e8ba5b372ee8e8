"""FastAPI."""

from __future__ import annotations

from fastapi import Depends, FastAPI, Request

from litefs_watch import Settings, Watcher
from litefs_watch.asgi import LiteFSMiddleware, Redirect, mark_written
from litefs_watch.fastapi import LiteFS, ensure_instance, ensure_primary

watcher = Watcher(Settings(standalone=True))
app = FastAPI(lifespan=watcher.lifespan)
app.add_middleware(
    LiteFSMiddleware, watcher=watcher, replay=Redirect("https://{hostname}.example.com"), secret=["new", "old"]
)


@app.post("/orders", dependencies=[Depends(ensure_primary)])
async def order(request: Request, litefs: LiteFS) -> int:
    mark_written(request)
    return litefs.tx_number()


@app.get("/cache", dependencies=[Depends(ensure_instance("node-a"))])
async def cache(litefs: LiteFS) -> str | None:
    return litefs.primary
