"""Object stores, tested with a server that speaks S3 and with fsspec's store in memory."""

import builtins
import io
import logging
import tarfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import boto3
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer
from sources.source_samples import open_one, write_tar

from perception_encoder.errors import (
    ImageNotFoundError,
    ImageTruncatedError,
    ImageUnreadableError,
    SourceError,
    SourceNotFoundError,
)
from perception_encoder.sources import SourceOptions, open_sources, read_image
from perception_encoder.sources.network import modified_time

BUCKET = "images"


@pytest.fixture(scope="module")
def s3():
    """A client of a server on loopback, which the environment's variables lead to as well."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield client
        client.close()
    server.stop()


@pytest.fixture
def put(s3):
    """Puts objects into the bucket, which begins empty."""
    found = s3.list_objects_v2(Bucket=BUCKET).get("Contents", ())
    if found:
        keys = [{"Key": entry["Key"]} for entry in found]
        s3.delete_objects(Bucket=BUCKET, Delete={"Objects": keys})

    def put(**objects):
        for key, data in objects.items():
            s3.put_object(Bucket=BUCKET, Key=key, Body=data)

    return put


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


def uris(source):
    return [item.uri for item in source.items()]


def test_a_prefix_lists_its_images_with_size_and_time(put, s3):
    put(
        **{
            "a/2.jpg": b"22", "a/1.jpg": b"1", "a/in/3.PNG": b"333", "a/.h.jpg": b"",
            "a/x.txt": b"", "a/": b"", "ab/4.jpg": b"4444", "a/raw/5.jpg": b"5",
        }
    )  # fmt: skip
    source = open_one(f"s3://{BUCKET}/a", exclude=("raw",))
    items = list(source.items())
    assert [item.uri for item in items] == [
        f"s3://{BUCKET}/a/1.jpg",
        f"s3://{BUCKET}/a/2.jpg",
        f"s3://{BUCKET}/a/in/3.PNG",
    ]
    assert [item.bytes for item in items] == [1, 2, 3]
    assert [item.read() for item in items] == [b"1", b"22", b"333"]
    changed = s3.head_object(Bucket=BUCKET, Key="a/1.jpg")["LastModified"]
    assert items[0].mtime == int(changed.timestamp()) * 10**9
    assert all(item.is_remote for item in items)
    for item in items:
        assert read_image(item.uri, item.member, item.offset, item.bytes) == item.read()
    assert source.covers(f"s3://{BUCKET}/a/in/gone.jpg", None)
    for name in ("a/raw/gone.jpg", "ab/gone.jpg", "a/gone.txt"):
        assert not source.covers(f"s3://{BUCKET}/{name}", None)


def test_what_is_new_on_a_store_is_listed_in_the_same_process(put):
    put(**{"a/1.jpg": b"1"})
    source = open_one(f"s3://{BUCKET}/a/")
    assert len(uris(source)) == 1
    put(**{"a/2.jpg": b"2"})
    assert len(uris(source)) == 2


def test_more_objects_than_one_answer_lists(put, monkeypatch):
    put(**{f"many/{number}.jpg": b"" for number in range(8)})
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
    expected = [f"s3://{BUCKET}/many/{number}.jpg" for number in range(8)]
    assert uris(open_one(f"s3://{BUCKET}/many")) == expected


def test_globs_braces_and_single_images_on_a_store(put):
    put(**{"a/1.jpg": b"1", "a/in/2.jpg": b"2", "a/in/3.png": b"3", "b/4.dat": b"4"})
    source = open_one(f"s3://{BUCKET}/a/**/*.jpg")
    assert uris(source) == [f"s3://{BUCKET}/a/1.jpg", f"s3://{BUCKET}/a/in/2.jpg"]
    assert source.covers(f"s3://{BUCKET}/a/gone.jpg", None)
    (source,) = open_sources([f"s3://{BUCKET}/{{a/1.jpg,b/4.dat}}"], SourceOptions())
    assert [(item.read(), item.bytes) for item in source.items()] == [(b"1", 1), (b"4", 1)]


def test_what_is_not_on_the_store_is_named(put):
    put(**{"a/1.jpg": b"1"})
    for name in ("a/2.jpg", "nothing/"):
        with pytest.raises(SourceNotFoundError, match=f"s3://{BUCKET}/{name}: there is none"):
            open_one(f"s3://{BUCKET}/{name}")
    with pytest.raises(SourceNotFoundError, match="s3://no-such-bucket"):
        open_one("s3://no-such-bucket")


def test_an_object_that_goes_away_is_an_error_of_its_image(put, s3):
    put(**{"a/1.jpg": b"1"})
    (item,) = open_one(f"s3://{BUCKET}/a").items()
    s3.delete_object(Bucket=BUCKET, Key="a/1.jpg")
    with pytest.raises(ImageNotFoundError, match=r"a/1\.jpg: there is none; check the URL"):
        item.read()
    with pytest.raises(ImageNotFoundError):
        read_image(item.uri)


def test_images_above_the_limit_stay_where_they_are(put):
    put(**{"a/1.jpg": b"1" * 1000})
    url = f"s3://{BUCKET}/a/1.jpg"
    for name in (f"s3://{BUCKET}/a", url):
        (item,) = open_one(name, max_bytes=999).items()
        with pytest.raises(ImageUnreadableError, match="larger than the limit of 999 bytes"):
            item.read()
    (item,) = open_one(url, max_bytes=1000).items()
    assert len(item.read()) == 1000


def test_archives_on_a_store_are_read_member_by_member(put, tmp_path):
    data = {f"{number:03}.jpg": bytes([number]) * 700 for number in range(40)}
    plain = write_tar(tmp_path / "x.tar", data | {"000.txt": b"words"}).read_bytes()
    packed = write_tar(tmp_path / "x.tar.gz", data, mode="w:gz").read_bytes()
    put(**{"t/x.tar": plain, "t/x.tar.gz": packed})
    items = list(open_one(f"s3://{BUCKET}/t/x.tar").items())
    assert {item.mtime for item in items} == {items[0].mtime} != {None}
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda item: item.read(), items)) == list(data.values())
    item = items[7]
    assert read_image(item.uri, item.member, item.offset) == data["007.jpg"]
    assert read_image(item.uri, item.member) == data["007.jpg"]
    packed_items = list(open_one(f"s3://{BUCKET}/t/*.tar.gz").items())
    assert [item.read() for item in packed_items] == list(data.values())
    put(**{"t/x.tar": plain[: items[7].offset + 100]})
    with pytest.raises(ImageTruncatedError, match=r"x\.tar/007\.jpg: the file ends"):
        items[7].read()
    put(**{"t/x.tar": write_tar(tmp_path / "y.tar", {"new.jpg": b"x"}).read_bytes()})
    with pytest.raises(ImageNotFoundError, match=r"x\.tar/039\.jpg: the archive has no such"):
        read_image(items[39].uri, items[39].member, items[39].offset)


def test_tables_on_a_store_name_images_beside_them(put, tmp_path):
    table = pa.table({"path": ["in/1.jpg", f"s3://{BUCKET}/t/in/1.jpg"], "n": [1, 2]})
    pq.write_table(table, tmp_path / "t.parquet")
    put(**{"t/in/1.jpg": b"one", "t/t.parquet": (tmp_path / "t.parquet").read_bytes(),
           "t/t.csv": b"path\nin/1.jpg\n"})  # fmt: skip
    items = list(open_one(f"s3://{BUCKET}/t/t.parquet").items())
    assert {item.uri for item in items} == {f"s3://{BUCKET}/t/in/1.jpg"}
    assert [(item.read(), item.metadata) for item in items] == [
        (b"one", {"n": 1}),
        (b"one", {"n": 2}),
    ]
    (item,) = open_one(f"s3://{BUCKET}/t/t.csv").items()
    assert item.read() == b"one"


def test_bytes_in_a_parquet_file_on_a_store(put, tmp_path):
    pq.write_table(pa.table({"image": [b"one", b"two"]}), tmp_path / "t.parquet")
    put(**{"t.parquet": (tmp_path / "t.parquet").read_bytes()})
    items = list(open_one(f"s3://{BUCKET}/t.parquet").items())
    assert [item.read() for item in items] == [b"one", b"two"]
    assert read_image(items[1].uri, items[1].member) == b"two"


def test_a_store_that_cannot_be_reached_is_told_and_nothing_is_taken_for_gone(put, monkeypatch):
    put(**{"a/1.jpg": b"1"})
    source = open_one(f"s3://{BUCKET}/a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(SourceError, match=rf"s3://{BUCKET}/a: cannot be read: .*127\.0\.0\.1:9"):
        open_one(f"s3://{BUCKET}/a")
    assert len(uris(source)) == 1  # it keeps the connection that it has


def test_a_folder_that_cannot_be_listed_is_one_item(memory, monkeypatch):
    for name in ("a/1.jpg", "a/b/2.jpg", "a/c/3.jpg"):
        memory.pipe(f"/{name}", b"x")
    source = open_one("memory://a")
    real = type(memory).ls

    def ls(self, path, detail=True, **options):
        if path.endswith("/b"):
            raise PermissionError("Access Denied")
        return real(self, path, detail=detail, **options)

    monkeypatch.setattr(type(memory), "ls", ls)
    first, denied, last = source.items()
    assert [first.uri, last.uri] == ["memory:///a/1.jpg", "memory:///a/c/3.jpg"]
    with pytest.raises(ImageUnreadableError, match=r"a/b/: the folder cannot be listed: .*Denied"):
        denied.read()
    assert not source.covers("memory:///a/b/gone.jpg", None)
    assert source.covers("memory:///a/c/gone.jpg", None)


def test_any_store_that_fsspec_knows(memory):
    memory.pipe("/images/in/a.png", b"12345")
    (item,) = open_one("memory://images").items()
    assert (item.bytes, item.is_remote, item.read()) == (5, True, b"12345")
    now = datetime.now(UTC).timestamp() * 1e9
    assert abs(item.mtime - now) < 60e9
    assert read_image(item.uri) == b"12345"


def test_names_of_objects_in_lists(memory):
    memory.pipe("/a.png", b"12")
    (source,) = open_sources(
        ["-"], SourceOptions(max_bytes=2), io.BytesIO(b"memory://a.png\nnope://y")
    )
    first, unknown = source.items()
    assert first.read() == b"12"
    with pytest.raises(ImageUnreadableError, match="nope://y: Protocol not known: nope"):
        unknown.read()
    memory.pipe("/a.png", b"123")
    with pytest.raises(ImageUnreadableError, match="larger than the limit"):
        first.read()


def test_protocols_that_cannot_be_spoken_are_named_with_their_package(monkeypatch):
    with pytest.raises(SourceError, match="Protocol not known: nonsense"):
        open_one("nonsense://x/y.png")
    with pytest.raises(SourceError, match="chained URLs are not supported"):
        open_one("simplecache::s3://x/y.png")
    real = builtins.__import__

    def without_gcsfs(name, *args, **options):
        if name.startswith("gcsfs"):
            raise ModuleNotFoundError("No module named 'gcsfs'", name="gcsfs")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_gcsfs)
    with pytest.raises(
        SourceError, match=r"gs:// needs a package that is missing: pip install gcsfs"
    ):
        open_one("gs://bucket/a.png")


def test_no_network_means_no_request(put):
    put(**{"a/1.jpg": b"1"})
    for name in (f"s3://{BUCKET}/a", f"s3://{BUCKET}/a/1.jpg"):
        with pytest.raises(SourceError, match="on a network, which may not be used"):
            open_one(name, allow_network=False)
    with pytest.raises(ImageUnreadableError, match="on a network"):
        read_image(f"s3://{BUCKET}/a/1.jpg", allow_network=False)
    with pytest.raises(ImageUnreadableError, match="on a network"):
        read_image(f"s3://{BUCKET}/a.tar", "1.jpg", 512, allow_network=False)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"LastModified": datetime(2024, 1, 1, 0, 0, 0, 5, tzinfo=UTC)}, 1704067200_000005_000),
        ({"mtime": 1704067200.5}, 1704067200_500000_000),
        ({"updated": "2024-01-01T00:00:00.000Z"}, 1704067200_000000_000),
        ({"last_modified": datetime(2024, 1, 1)}, 1704067200_000000_000),
        ({"created": "yesterday"}, None),
        ({"LastModified": None}, None),
        ({}, None),
    ],
)
def test_times_are_understood_however_a_store_tells_them(info, expected):
    assert modified_time(info) == expected


def test_an_archive_without_end_marker_is_whole(memory, tmp_path):
    data = write_tar(tmp_path / "x.tar", {"a.jpg": b"A" * 512}, format=tarfile.GNU_FORMAT)
    memory.pipe("/x.tar", data.read_bytes()[:1024])
    assert [item.read() for item in open_one("memory://x.tar").items()] == [b"A" * 512]
