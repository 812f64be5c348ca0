"""A progress bar for long work, silent where nobody looks."""

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from tqdm import tqdm

_QUIET_SECONDS = 2.0  # work shorter than this shows no bar


def progress_bar(total: int, unit_name: str, show_progress: bool | None) -> "tqdm[NoReturn]":
    """Return a bar on stderr with rate and time left.

    Args:
        total: how many items there are.
        unit_name: what they are called.
        show_progress: None shows the bar on a terminal, once the work has taken two seconds.
    """
    from tqdm import tqdm

    return tqdm(
        total=total,
        unit=f" {unit_name}",
        disable=None if show_progress is None else not show_progress,  # None: on a terminal only
        delay=_QUIET_SECONDS if show_progress is None else 0.0,
        leave=False,
    )
