"""The tools over stdin and stdout, and over streamable HTTP at /mcp."""

import asyncio
import base64
import logging
import os
import signal
from types import FrameType
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request, Response
from mcp.server import Server
from mcp.server.context import ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ContentBlock,
    ImageContent,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)
from starlette.types import Receive, Scope, Send

from perception_encoder._version import __version__
from perception_encoder.server.api.base import Api, ApiRoutes, Services
from perception_encoder.server.core.pools import release_frames
from perception_encoder.server.http.errors import convert_error
from perception_encoder.server.http.replies import json_reply
from perception_encoder.server.http.requests import validate
from perception_encoder.server.mcp.arguments import schema_of
from perception_encoder.server.mcp.results import Result
from perception_encoder.server.mcp.tools import TOOLS, McpTool

logger = logging.getLogger(__name__)

_INSTRUCTIONS: Final = (
    "Semantic search in the user's own image collection. `search` finds images by what they show; "
    "`get_thumbnail` shows one; `describe_index` lists what can be filtered."
)
_SHOWN: Final = 100  # characters of an unknown tool's name


def build_server(services: Services) -> Server:
    """Return the MCP server; it has no transport yet."""
    tools = {tool.name: tool for tool in TOOLS}
    listed = ListToolsResult(tools=[_describe(tool) for tool in TOOLS])

    async def list_tools(
        _context: ServerRequestContext, _params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return listed

    async def call_tool(
        _context: ServerRequestContext, params: CallToolRequestParams
    ) -> CallToolResult:
        tool = tools.get(params.name)
        if tool is None:
            message = f"there is no tool {params.name[:_SHOWN]!r}; there are {', '.join(tools)}"
            raise MCPError(INVALID_PARAMS, message)
        try:
            return await _call(services, tool, params)
        except Exception as err:  # noqa: BLE001  every error is a result that the model reads
            return _report(tool, err)

    return Server(
        "perception-encoder",
        version=__version__,
        title="Perception Encoder",
        instructions=_INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def _describe(tool: McpTool) -> Tool:
    return Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=schema_of(tool.arguments),
        output_schema=tool.result.model_json_schema(),
        annotations=ToolAnnotations(
            read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
        ),
    )


async def _call(services: Services, tool: McpTool, params: CallToolRequestParams) -> CallToolResult:
    arguments = validate(tool.arguments.model_validate, params.arguments or {})
    found = await tool.run(services, arguments)
    content: list[ContentBlock] = [_text(found.result.text())]
    if found.jpeg is not None:
        data = base64.b64encode(found.jpeg).decode("ascii")
        content.append(ImageContent(data=data, mime_type="image/jpeg"))
    return CallToolResult(
        content=content,
        structured_content=_json_values(found.result),
    )


def _text(text: str) -> TextContent:
    # Halves of surrogate pairs, which names of files may hold, would end the connection.
    return TextContent(text=text.encode("utf-8", "backslashreplace").decode())


def _json_values(result: Result) -> Any:
    """Return a result as values of strict JSON, as the native API's replies are."""
    return orjson.loads(bytes(json_reply(result.model_dump(exclude_none=True)).body))


def _report(tool: McpTool, err: Exception) -> CallToolResult:
    """Return an error as the model reads it: what happened and what to do, nothing else."""
    answer = convert_error(err)
    if answer.code == "internal":
        logger.error("tool %s: %s", tool.name, err, exc_info=err)
    message = tool.rename_terms(answer.message)
    if answer.code == "internal":
        message = "the server failed; its log says more"
    release_frames(err)
    return CallToolResult(content=[_text(message)], is_error=True)


async def _answer_stdio(app: FastAPI) -> None:
    # Inside, file descriptor 1 is stderr: what libraries print while models load stays out of the
    # protocol.
    async with stdio_server() as (read, write), app.router.lifespan_context(app):
        server = build_server(app.state.services)
        await server.run(read, write, server.create_initialization_options())


def run_stdio(app: FastAPI) -> None:
    """Answer the client at stdin and stdout until stdin ends or a signal comes.

    Args:
        app: of `create_app`; its services are used, its routes are not.
    """
    before = {number: signal.signal(number, _end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(_answer_stdio(app))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """End at once: a thread reads stdin, and an orderly end would wait for its next line."""
    os._exit(128 + number)


class _Exchange(Response):
    """The reply of the protocol's own ASGI app."""

    def __init__(self, manager: StreamableHTTPSessionManager) -> None:
        super().__init__()
        self._manager = manager

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let it read the request and answer."""
        await self._manager.handle_request(scope, receive, send)


def _build(services: Services) -> ApiRoutes:
    routes = API.routes(services)
    # Without sessions and streams there is nothing to limit but requests. Host and Origin are
    # checked by `http.sites`, keys by the route.
    manager = StreamableHTTPSessionManager(
        build_server(services),
        json_response=True,
        stateless=True,
        max_request_body_size=services.settings.access.max_body_bytes,
    )
    routes.lifespan = manager.run

    @routes.post("/mcp", summary="The Model Context Protocol", include_in_schema=False)
    async def answer(request: Request) -> Response:  # noqa: ARG001
        return _Exchange(manager)

    return routes


API: Final = Api("mcp", _build, description="Language models, over the Model Context Protocol.")
