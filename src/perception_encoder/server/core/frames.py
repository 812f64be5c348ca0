"""Lets go of what a request held, as soon as it ends.

An error keeps the frames that it passed, and their variables: the request's body among them. A
frame that keeps its error in turn (`err = …; raise err from cause`, as FastAPI does for bodies of a
wrong form) makes a ring of the two, which only the collector of cycles would find, much later.
"""


def release_frames(err: BaseException) -> None:
    """Cut an error that was dealt with, and those behind it, off from the frames they passed."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [err]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = None
        waiting += (one.__cause__, one.__context__)
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
