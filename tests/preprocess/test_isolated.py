"""What is decoded in a child process: JPEG XL, and whatever a decoder does there."""

import io
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pylibjxl
import pytest
from PIL import Image
from preprocess import camera_files
from preprocess.preprocess_images import encode, scene

from perception_encoder.errors import ImageDecodeError, ImageTooLargeError
from perception_encoder.preprocess import ImageProcessor, decode_image, isolated, limits
from perception_encoder.preprocess.transforms import to_rgb
from perception_encoder.registry import ImageConfig

SCENE = scene(96, 64)
PROCESSOR = ImageProcessor(ImageConfig(), 32)


def jxl(image: Image.Image, **options: object) -> bytes:
    return pylibjxl.encode(np.asarray(image), lossless=True, **options)


@pytest.fixture
def no_children():
    isolated.close_children()
    yield
    isolated.close_children()


# Lossless, of 16 bits with alpha, as cjxl writes them: a ramp, opaque in its upper half.
DEEP_RGBA = bytes.fromhex(
    "0000000c4a584c200d0a870a00000014667479706a786c20000000006a786c20000000096a786c6c0a000001"
    "1b6a786c63ff0a47f0a3a0b8100808100014044b38c16237ee55d67bfbfd0a0fce4441414141c92718191917"
    "fc8fa6c3a818837d04620c262a0643e8378c318631d809623091e82c8c31b82e0c630c6630066b5c4080806b"
    "e008805c2b0810204080000102040810204080000404010204081020408000010204081020843541800001c2"
    "ff7f40ecf3e0c183070fd2af1f3c78f0e0c1831ed2070f1e3cf84057f8830f3ef8e0032db70f3ef8e0830f3e"
    "785cfce0830f04039b1b778db590ec9c0f8c1c040810204080d0d50d0102040810eebb63e4ffffffbfbffbff"
    "ffffffbfbffbffffffffbfbffbffffffffbfbffbffffffffbfbffbffffffffbfbffbffffffffdfc6fcffffff"
    "ffdf21fbbbbbeebaf5ed133b9d7e0c02"
)
DEEP_GRAY = bytes.fromhex(
    "0000000c4a584c200d0a870a00000014667479706a786c20000000006a786c20000000096a786c6c0a000000"
    "be6a786c63ff0a47f0a3282e0408081000a0024b3841d92d2f340eb6bbef5750505050728282911166660508"
    "a2a3408cc17d8ac1a4408c7a6d4722788103004000c22c2200040824e210204080000102040898ee10204080"
    "000102040808af10204080000102841a5108102040800081fde33ff88ffea3ffc87af93ffa8ffea3ffe83ffa"
    "8ffea3ff4879f93ffa8ffea3ffe83ffa8ffea3ff680af33ffa8ffea3ffe83ffa8ffea3ffa8dde73ffa8ffea3"
    "4f9e00f1c1f4001e1ed71e"
)


@pytest.mark.usefixtures("no_children")
class TestJpegXl:
    @pytest.mark.parametrize("is_gray", [False, True])
    def test_sixteen_bits_and_transparency(self, is_gray):
        image = decode_image(DEEP_GRAY if is_gray else DEEP_RGBA)
        assert (image.mode, image.size) == ("LA" if is_gray else "RGBA", (32, 32))
        shown = np.asarray(to_rgb(image, item="it")).astype(int)
        ramp = np.rint(np.arange(32) * 2080 / 257)
        rest = [ramp, ramp] if is_gray else [255 - ramp, np.full(32, 100)]
        expected = np.stack([ramp, *rest], axis=-1)
        assert np.abs(shown[:16] - expected).max() <= 1
        assert (shown[16:] == 255).all()  # transparent, over white

    @pytest.mark.parametrize("mode", ["RGB", "RGBA"])
    def test_lossless_images_have_the_same_pixels(self, mode):
        image = SCENE.convert(mode)
        if mode == "RGBA":
            image.putalpha(SCENE.convert("L"))
        assert np.array_equal(PROCESSOR(jxl(image)), PROCESSOR(encode(image, "PNG")))

    def test_a_path_may_be_given_and_a_bare_stream(self, tmp_path):
        path = tmp_path / "a.jxl"
        path.write_bytes(jxl(SCENE))
        assert path.read_bytes().startswith((b"\xff\x0a", b"\0\0\0\x0cJXL "))
        assert np.array_equal(PROCESSOR(path), PROCESSOR(SCENE))

    def test_a_recompressed_jpeg_is_turned_once(self):
        tags = Image.Exif()
        tags[0x0112] = 6
        turned = camera_files.jpeg(SCENE, exif=tags.tobytes())
        measured = PROCESSOR.resize_measured(pylibjxl.jpeg_to_jxl(turned))
        assert (measured.width, measured.height) == (64, 96)
        difference = measured.pixels.astype(int) - PROCESSOR(turned)
        assert np.abs(difference).mean() < 2

    def test_too_many_pixels_are_refused_by_the_header(self):
        with pytest.raises(ImageTooLargeError, match=r"a\.jxl: 96 × 64 = 6144 pixels"):
            decode_image(jxl(SCENE), max_pixels=6143, item="a.jxl")

    @pytest.mark.parametrize("damage", [slice(0, 200), slice(0, 13), slice(0, 2)])
    def test_damaged_data_says_so(self, damage):
        with pytest.raises(ImageDecodeError, match=r"a\.jxl: the data is damaged"):
            decode_image(jxl(SCENE)[damage], item="a.jxl")

    def test_without_the_extra_the_error_names_it(self, monkeypatch):
        monkeypatch.setattr("sys.path", [one for one in sys.path if "site-packages" not in one])
        with pytest.raises(ImageDecodeError, match=r"pip install 'perception-encoder\[jxl\]'"):
            decode_image(jxl(SCENE))


@pytest.mark.usefixtures("no_children")
class TestChildren:
    def test_one_child_decodes_image_after_image(self):
        for _ in range(3):
            decode_image(jxl(SCENE))
        with pytest.raises(ImageDecodeError):
            decode_image(jxl(SCENE)[:200])
        assert len(isolated._IDLE) == 1

    def test_threads_have_children_of_their_own(self):
        images: list[Image.Image] = []
        data = jxl(SCENE)
        threads = [
            threading.Thread(target=lambda: images.append(decode_image(data))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [image.tobytes() for image in images] == [SCENE.tobytes()] * 4

    def test_a_child_that_crashed_costs_one_image(self, tmp_path, monkeypatch):
        crashing = tmp_path / "pylibjxl.py"
        crashing.write_text("import os\nos.abort()\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        with pytest.raises(ImageDecodeError, match=r"a\.jxl: the decoder crashed"):
            decode_image(jxl(SCENE), item="a.jxl")
        crashing.unlink()
        assert decode_image(jxl(SCENE)).size == SCENE.size

    @pytest.mark.skipif(not hasattr(signal, "SIGXCPU"), reason="needs limits of processor time")
    def test_one_that_never_ends_is_ended(self, tmp_path, monkeypatch):
        (tmp_path / "pylibjxl.py").write_text("while True:\n    pass\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(limits, "_BASE_SECONDS", 0.0)
        with pytest.raises(ImageTooLargeError, match=r"a\.jxl: decoding takes more time"):
            decode_image(jxl(SCENE), item="a.jxl")

    @pytest.mark.skipif(sys.platform != "linux", reason="needs limits of memory")
    def test_one_that_takes_all_memory_is_refused(self, tmp_path, monkeypatch):
        (tmp_path / "pylibjxl.py").write_text("bytearray(2**34)\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        with pytest.raises(ImageDecodeError, match="more memory than the limit"):
            decode_image(jxl(SCENE))

    def test_one_that_waits_is_ended_too(self, tmp_path, monkeypatch):
        (tmp_path / "pylibjxl.py").write_text("import time\ntime.sleep(600)\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(isolated, "_WALL_FACTOR", 0.01)
        with pytest.raises(ImageTooLargeError, match="more time than the limit"):
            decode_image(jxl(SCENE))

    def test_what_a_decoder_prints_is_no_reply(self, tmp_path, monkeypatch):
        (tmp_path / "pylibjxl.py").write_text(
            "import os\nprint('hello', flush=True)\nos.write(1, b'hello')\nraise ValueError('no')\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        with pytest.raises(ImageDecodeError, match=r"damaged .*\(no\)"):
            decode_image(jxl(SCENE))

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    @pytest.mark.filterwarnings(
        "ignore:lance is not fork-safe", "ignore::pytest.PytestUnraisableExceptionWarning"
    )
    def test_a_forked_process_starts_its_own(self):
        data = jxl(SCENE)
        decode_image(data)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writer, b"y" if decode_image(data).tobytes() == SCENE.tobytes() else b"n")
            isolated.close_children()
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as answer:
            assert answer.read() == b"y"
        os.waitpid(pid, 0)
        assert decode_image(data).tobytes() == SCENE.tobytes()

    def test_a_folder_with_modules_of_its_own_is_not_searched(self, tmp_path):
        """`python -m` would import a `json.py` of the folder it is called in."""
        (tmp_path / "json.py").write_text("import os\nos.abort()\n")
        (tmp_path / "a.jxl").write_bytes(jxl(SCENE))
        program = (
            "from perception_encoder.preprocess import decode_image;"
            "print(decode_image('a.jxl').size)"
        )
        done = subprocess.run(
            [sys.executable, "-P", "-c", program],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.split() == ["(96,", "64)"]
        assert done.stderr == ""


def test_a_stream_and_bytes_give_the_same():
    data = jxl(SCENE)
    assert decode_image(bytearray(data)).tobytes() == decode_image(data).tobytes()
    assert Image.open(io.BytesIO(encode(SCENE, "PNG"))).tobytes() == decode_image(data).tobytes()
