"""The program of `isolated`'s child processes: decode images that arrive on stdin, one by one.

It imports nothing of this package, so that it starts quickly.
"""

import io
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple

_MIB: Final = 2**20
_BASE_MEMORY: Final = 1024 * _MIB  # Python and libraries, with address space that is never used
# The sensor's data, four channels of it in 16 bits, and the result. JPEG XL computes in floats.
_BYTES_PER_PIXEL: Final = 40


class _Pixels(NamedTuple):
    mode: str
    width: int
    height: int
    content: bytes
    icc_profile: bytes = b""


class _TooLargeError(Exception):
    pass


class _Limits:
    """What one image may cost."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        self._set(0)

    def allow(self, width: int, height: int) -> None:
        """Allow what an image of a size needs.

        Raises:
            _TooLargeError: it has too many pixels.
        """
        if width * height > self._request["max_pixels"]:
            raise _TooLargeError(width, height)
        self._set(width * height)

    def _set(self, num_pixels: int) -> None:
        """Limit the processor time from now on, and the memory of the process."""
        with suppress(ImportError, OSError, ValueError):  # Windows has none; a host may forbid it
            import resource

            seconds = self._request["seconds"] + num_pixels * self._request["seconds_per_pixel"]
            used = resource.getrusage(resource.RUSAGE_SELF)
            end = int(used.ru_utime + used.ru_stime + seconds) + 1
            memory = _BASE_MEMORY + _BYTES_PER_PIXEL * num_pixels + 4 * self._request["num_bytes"]
            for kind, limit in ((resource.RLIMIT_CPU, end), (resource.RLIMIT_AS, memory)):
                _, hard = resource.getrlimit(kind)
                resource.setrlimit(kind, (limit if hard < 0 else min(limit, hard), hard))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _decode_raw(data: bytes, limits: _Limits) -> _Pixels:
    """Develop a RAW file at half its size, upright, in sRGB."""
    import rawpy

    with rawpy.RawPy() as raw:
        raw.open_buffer(io.BytesIO(data))
        limits.allow(raw.sizes.raw_width, raw.sizes.raw_height)
        pixels = raw.postprocess(half_size=True, use_camera_wb=True, output_bps=8)
    mode = "L" if pixels.shape[2] == 1 else "RGB"
    return _Pixels(mode, pixels.shape[1], pixels.shape[0], pixels[:, :, :3].tobytes())


def _decode_jpeg_xl(data: bytes, limits: _Limits) -> _Pixels:
    import pylibjxl

    header = pylibjxl.probe(data)
    limits.allow(header["width"], header["height"])
    pixels, metadata = pylibjxl.decode(data, metadata=True)
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    profile = metadata.get("icc", b"")
    return _Pixels(mode, pixels.shape[1], pixels.shape[0], pixels.tobytes(), profile)


_DECODERS: Final[dict[str, Callable[[bytes, _Limits], _Pixels]]] = {
    "raw": _decode_raw,
    "jxl": _decode_jpeg_xl,
}


def _answer(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        found = _DECODERS[request["kind"]](data, _Limits(request))
    except _TooLargeError as err:
        return {"too_large": err.args}, b""
    except ImportError as err:
        return {"missing": str(err)}, b""
    except MemoryError:
        return {"error": "it needs more memory than the limit for its size"}, b""
    except Exception as err:  # noqa: BLE001 — libraries raise kinds of their own
        reason = err.args[0] if err.args else type(err).__name__
        if isinstance(reason, bytes):  # of LibRaw
            return {"error": reason.decode(errors="replace")}, b""
        return {"error": str(reason)}, b""
    reply = {"mode": found.mode, "size": (found.width, found.height)}
    content = found.content + found.icc_profile
    return {**reply, "num_bytes": len(found.content), "num_more": len(found.icc_profile)}, content


def main() -> None:
    """Answer requests until stdin ends."""
    stdin = sys.stdin.buffer
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)  # what libraries print is no reply
        sys.path[:] = json.loads(stdin.readline())
        os.environ["OMP_NUM_THREADS"] = "1"
        while line := stdin.readline():
            request = json.loads(line)
            reply, content = _answer(request, stdin.read(request["num_bytes"]))
            replies.write(json.dumps(reply).encode() + b"\n" + content)
            replies.flush()


if __name__ == "__main__":
    main()
