"""The HTTP server: one batching core and several APIs over it. Needs the extra `server`.

    core   models, queues, images, indexes and jobs, without HTTP
    http   connections, middleware, bodies, replies, keys, metrics and logs
    api    one module or folder for each API; they do not know each other
    mcp    tools for language models, over the native API
    app    joins them

Importing this loads no web framework; `create_app` does.
"""

from typing import TYPE_CHECKING

from perception_encoder._lazy import lazily

if TYPE_CHECKING:
    from perception_encoder.server.app import create_app
    from perception_encoder.server.options import ServerSettings

__getattr__ = lazily(
    __name__,
    {
        "ServerSettings": "perception_encoder.server.options",
        "create_app": "perception_encoder.server.app",
    },
)

__all__ = ["ServerSettings", "create_app"]
