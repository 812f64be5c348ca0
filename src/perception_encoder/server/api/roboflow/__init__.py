"""What `inference-sdk` and Roboflow's Workflows ask an inference server for, as far as it is ours.

Paths, fields, replies and messages are those of `roboflow/inference` 1.5 to 1.8; where that answers
a caller's mistake with 500, this answers 400 and says what was wrong. docs/guides/apis.md has
the list of differences.
"""

from typing import Final

from perception_encoder.server.api.base import Api, ApiRoutes, Services
from perception_encoder.server.api.roboflow import embed, models
from perception_encoder.server.api.roboflow.models import CLIP, PERCEPTION_ENCODER, error_body
from perception_encoder.server.api.roboflow.schemas import RoboflowError


def _build(services: Services) -> ApiRoutes:
    routes = API.routes(services)
    for kind in (PERCEPTION_ENCODER, CLIP):
        embed.add_routes(routes, services, kind)
        embed.add_compare_route(routes, services, kind)
    models.add_routes(routes, services)
    return routes


API: Final = Api(
    "roboflow",
    _build,
    error_body=error_body,
    error_model=RoboflowError,
    description="inference-sdk and Workflows of Roboflow.",
    key_in_query=True,
    key_in_body=True,
)
