"""How a client asks, and when it asks again. Sends nothing itself."""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    import httpx2

Outcome: TypeAlias = "httpx2.Response | httpx2.TransportError"
"""What became of one try."""

_BUSY: Final = frozenset((429, 502, 503, 504))
_FIRST_WAIT: Final = 0.25  # seconds; doubles each time
_LONGEST_WAIT: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """How a client asks.

    Attributes:
        model: one of the server's; None takes its first.
        api_key: sent as a bearer token.
        batch_size: pictures or texts of one request.
        num_connections: requests on their way at once.
        timeout_seconds: for one try of one request.
        num_retries: further tries where the server is busy or cannot be reached.
    """

    model: str | None = None
    api_key: str | None = None
    batch_size: int = 32
    num_connections: int = 4
    timeout_seconds: float = 60.0
    num_retries: int = 3

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_connections < 1 or self.num_retries < 0:
            raise ValueError(
                "batch_size and num_connections must be at least 1, num_retries at least 0"
            )

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers of every request."""
        return {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}


def seconds_until_retry(options: ClientOptions, attempt: int, outcome: Outcome) -> float | None:
    """Return how long to wait before asking again; None not to.

    The wait doubles each time, with some chance in it, and is at least what `Retry-After` says.

    Args:
        options: of the client.
        attempt: how many tries there were, from 1.
        outcome: of the last.
    """
    told: str = ""
    if not isinstance(outcome, Exception):
        if outcome.status_code not in _BUSY:
            return None
        told = outcome.headers.get("retry-after", "")
    if attempt > options.num_retries:
        return None
    wait = _FIRST_WAIT * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.5)
    return min(max(wait, float(told) if told.isdecimal() else 0.0), _LONGEST_WAIT)
