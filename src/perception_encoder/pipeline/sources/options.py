"""How sources are read: plain settings."""

from dataclasses import dataclass
from typing import Final

_MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Settings of `open_sources`; each source takes what concerns it.

    Attributes:
        exclude: patterns of files and folders to leave out, as in .gitignore: one without a slash
            meets a name at any depth (`node_modules`, `*.tmp.jpg`), one with a slash a path below
            the folder that is searched (`raw/**`), one with a slash at its end only folders.
        include_hidden: list files and folders whose names begin with a dot, and the folders that
            systems keep beside images (`select.SYSTEM_FOLDERS`).
        null_separated: names on standard input end with NUL instead of a newline.
        column: the column of a table that holds the pictures, their paths or URLs.
        timeout_seconds: of one wait for an answer from a network.
        max_bytes: size above which a picture is not brought over a network.
        allow_network: False refuses every read that would need a network.
    """

    exclude: tuple[str, ...] = ()
    include_hidden: bool = False
    null_separated: bool = False
    column: str | None = None
    timeout_seconds: float = 20.0
    max_bytes: int = 128 * _MIB
    allow_network: bool = True
