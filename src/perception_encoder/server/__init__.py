"""HTTP: one batching core, several APIs over it. Needs the extra `server`.

    core       queues, served_models, images, indexes: knows no HTTP framework
    APIs   what requests and replies look like, one module or folder for each
    app        joins them; `services` is what an API is given

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
