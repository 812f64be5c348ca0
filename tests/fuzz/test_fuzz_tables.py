"""CSV and JSON lines against a simple model: rows read and rows reported are the rows written."""

import csv
import io
import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.errors import ImageUnreadableError
from perception_encoder.sources import Item, SourceOptions, open_sources
from perception_encoder.sources.text_rows import parse_number

_ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])
_TEXTS = st.text(
    st.sampled_from("abc\"',;\t\n\r\\ 0.1é日\U0001f469\0")
    | st.characters(exclude_categories=["Cs"]),
    max_size=12,
)
_ROWS = st.lists(st.tuples(_TEXTS, _TEXTS), max_size=8)


def listed(path: Path) -> list[Item]:
    (source,) = open_sources([str(path)], SourceOptions())
    return list(source.items())


def error(item: Item) -> str | None:
    """Why a row was refused; None of one that was read: there is no file of its name."""
    try:
        item.read()
    except ImageUnreadableError as err:
        return str(err)
    except FileNotFoundError:
        return None
    raise AssertionError("there is no such file")


@given(
    rows=_ROWS,
    encoding=_ENCODINGS,
    separator=st.sampled_from(",;\t"),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_csv_as_the_csv_module_writes_it_comes_back(
    tmp_path_factory, rows: list[tuple[str, str]], encoding: str, separator: str, end: str
) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(["path", "first", "second"])
    writer.writerows([f"/no/{n}.png", *row] for n, row in enumerate(rows))
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(out.getvalue().encode(encoding))
    items = listed(path)
    assert [item.uri for item in items] == [f"/no/{n}.png" for n in range(len(rows))]
    for place, name in enumerate(("first", "second")):
        cells = [row[place] for row in rows]
        numbers = [parse_number(cell) for cell in cells if cell]
        is_text = any(isinstance(number, str) for number in numbers)
        for item, cell in zip(items, cells, strict=True):
            value = item.metadata[name]
            expected = (cell if is_text else parse_number(cell)) if cell else None
            assert value == expected


# One line each: good, or bad in a way that a reader must notice.
_GOOD_CELLS = st.text("abcé 0", max_size=5)
_SHORT_OR_LONG = st.sampled_from(["one", ",,,", "a,b,c", ",x"])
_QUOTED = st.sampled_from(['"', 'x,"never', '"a"b,c', '"x",y"z","', '"" ,x', 'x,"a""'])


@given(
    lines=st.lists(_GOOD_CELLS | _SHORT_OR_LONG.map(lambda bad: ("bad", bad)), max_size=10),
    quoted=_QUOTED | st.none(),
    data=st.data(),
    encoding=_ENCODINGS,
)
def test_bad_lines_cost_themselves_and_are_told_with_their_number(
    tmp_path_factory,
    lines: list[str | tuple[str, str]],
    quoted: str | None,
    data: st.DataObject,
    encoding: str,
) -> None:
    """One line at most has quotes: two of them may well be a cell of several lines."""
    if quoted is not None:
        lines.insert(data.draw(st.integers(0, len(lines))), ("bad", quoted))
    text, good, bad = ["path,note"], [], []
    for number, line in enumerate(lines):
        if isinstance(line, str):
            good.append((f"/no/{number}.png", line or None))
            text.append(f"/no/{number}.png,{line}")
        else:
            bad.append(number)
            text.append(line[1])
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes("\n".join(text).encode(encoding))
    items = listed(path)
    problems = [error(item) for item in items]
    assert [place for place, why in enumerate(problems) if why is not None] == bad
    values = {item.uri: item.metadata["note"] for item in items if item.uri.startswith("/no/")}
    # A 0 may be a number, if all cells are.
    assert {uri: value if value is None else str(value) for uri, value in values.items()} == dict(
        good
    )
    for place, why in zip(bad, filter(None, problems), strict=True):
        assert f"(line {place + 2})" in why or "holds no path" in why


_KEYS = st.text(max_size=4).filter(lambda key: key != "path")
_VALUES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=6)
_GOOD = st.dictionaries(_KEYS, _VALUES, max_size=3)
_DAMAGED = st.sampled_from(
    [b"{", b"[]", b"1", b"null", b'{"path": 1}', b'{"path": "/x", "path": "/y"}', b'{"a": "\xff"}',
     b'{"path": "\\ud800"}', b"\xff\xfe", b'{"path": "' + b"9" * 70_000 + b'"}', b"{" * 2000]
)  # fmt: skip


@given(lines=st.lists(_GOOD | _DAMAGED, max_size=8))
def test_each_json_line_is_a_row_or_reported(
    tmp_path_factory, lines: list[dict[str, object] | bytes]
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "t.jsonl"
    head = json.dumps({"path": "/no/head.png"}).encode()
    data = [head]
    for number, line in enumerate(lines):
        if isinstance(line, bytes):
            data.append(line)
        else:
            row = {"path": f"/no/{number}.png", **line}
            data.append(json.dumps(row, ensure_ascii=bool(number % 2)).encode())
    path.write_bytes(b"\n".join(data))
    items = listed(path)
    assert len(items) == len(data)
    for number, (line, item) in enumerate(zip([{}, *lines], items, strict=True)):
        why = error(item)
        assert (why is not None) == isinstance(line, bytes)
        if not isinstance(line, bytes) and number:
            assert item.uri == f"/no/{number - 1}.png"
            values = [value for value in line.values() if value not in (None, "")]
            kept = [value for value in item.metadata.values() if value not in (None, "")]
            assert len(kept) == len(values)
            assert sorted(map(str, kept)) == sorted(map(str, values)) or any(
                isinstance(value, bool | int) for value in values
            )
