"""Strings that hold an encoded image are told from texts, and decoded however they were written."""

import base64
import urllib.parse

import pytest
from server.serving import encoded
from small_models import drawing

from perception_encoder.preprocess.image_strings import (
    decode_base64,
    decode_data_uri,
    image_in_text,
)

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000")
FILES = {form: encoded(drawing(1).convert("RGB"), form) for form in FORMATS}


def in_base64(data):
    return base64.b64encode(data).decode()


def url_safe(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def in_lines(data):
    return base64.encodebytes(data).decode()


def percent(data):
    return urllib.parse.quote_from_bytes(data, safe="")


WRITTEN = (
    lambda d: "data:image/png;base64," + in_base64(d),
    lambda d: "data:;base64," + in_base64(d),
    lambda d: "data:application/octet-stream;base64," + in_base64(d),
    lambda d: "data:text/plain;base64," + in_base64(d),
    lambda d: "data:nonsense;base64," + in_base64(d),
    lambda d: "data:@@@;base64," + in_base64(d),
    lambda d: "data:image;base64," + in_base64(d),
    lambda d: "data:base64," + in_base64(d),
    lambda d: " data:image/png;base64," + in_base64(d),
    lambda d: "\ufeff\n\u200bdata:;base64," + in_base64(d),
    lambda d: "data: image/png;base64," + in_base64(d),
    lambda d: "data:image/png; base64 ," + in_base64(d),
    lambda d: "DATA:IMAGE/PNG;BASE64," + in_base64(d),
    lambda d: "data:image/png;charset=utf-8;base64," + url_safe(d),
    lambda d: 'data:image/png;name="a.png";base64,\r\n' + in_lines(d),
    lambda d: "data:image/png;base64;charset=utf-8," + in_base64(d),
    lambda d: "data:image/png;base64," + percent(in_base64(d).encode()),
    lambda d: "data:image/png," + percent(d),
    lambda d: "data:foo/bar," + percent(d),
    lambda d: "data:," + percent(d),
    lambda d: "data:;charset=latin-1," + percent(d),
    lambda d: "data:nonsense," + percent(d),
)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("written", WRITTEN)
def test_every_data_uri_is_recognized_and_decoded(form, written):
    text = written(FILES[form])
    assert image_in_text(text) == "data URI"
    assert decode_data_uri(text, item="x") == FILES[form]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "written", [in_base64, url_safe, in_lines, lambda d: "\n " + in_base64(d) + " "]
)
def test_base64_of_an_image_is_recognized_and_decoded(form, written):
    text = written(FILES[form])
    assert image_in_text(text) == "base64"
    assert decode_base64(text.strip(), item="x") == FILES[form]


@pytest.mark.parametrize(
    "text",
    [
        "data:,hello", "data:;base64,", "data:image/png;base64", "data:;base64;iVBORw0KGgo",
        "data:image/svg+xml,%3Csvg%3E", "data:text/html,<b>", "data:;charset=utf-8,abc",
        '"data:image/png;base64,iVBOR"', "url(data:image/png;base64,iVBOR)", "data:image/,",
        "data:nonsense," + base64.b64encode(FILES["PNG"]).decode(),
    ],
)  # fmt: skip
def test_what_has_the_shape_of_a_data_uri_is_no_text(text):
    assert image_in_text(text) == "data URI"


@pytest.mark.parametrize(
    "text",
    [
        "", "data", "data:", "data: a graph", "Data: one, two", "data:yes,no", "data:2019,2020",
        "data: input/output, explained", "data: image/text pairs, many of them", "database, sql",
        "data: base64, hex and binary", "the data:image/png;base64, scheme", "data:foo,bar",
        "iVBORw0KGgo", "/9j/ is how a JPEG begins in base64, GIFs begin with R0lGOD", "BM" * 40,
        "a" * 1000, "http://example.com/a.png", "P6 600 is a number plate that nobody has seen",
        "data : of the year, 2020", "\ud800" * 50, "data:\ud800,\ud800",
    ],
)  # fmt: skip
def test_texts_stay_texts(text):
    assert image_in_text(text) is None
