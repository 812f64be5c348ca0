"""Files of keys as people write them."""

import os

import pytest
from cli.command import pe

from perception_encoder.server.http.access import generate_key, hash_key, read_keys

FIRST, SECOND = generate_key(), generate_key()
BOTH = (hash_key(FIRST), hash_key(SECOND))


@pytest.mark.parametrize(
    "content",
    [
        f"{FIRST}\n{SECOND}\n",
        f"# of the office\n   # {generate_key()}\n\t#{generate_key()}\n{FIRST}\n\n  {SECOND}",
        f"{FIRST} # of the laptop\nsha256:{hash_key(SECOND)}\t# another\n",
        f"{FIRST}\r\n{SECOND}\r\n   \r\n",
        f"\ufeff{FIRST}\n{SECOND}\n",
        f"\ufeff# first a comment\n{FIRST}\n{SECOND}\n",
        f"{FIRST}\n{SECOND}\n{FIRST}\nsha256:{hash_key(FIRST).upper()}\nSHA256: {hash_key(SECOND)}",
    ],
    ids=["plain", "comments", "comments behind", "CRLF", "BOM", "BOM, comment", "twice"],
)
def test_the_keys_of_a_file_are_read(tmp_path, content):
    file = tmp_path / "keys"
    file.write_bytes(content.encode())
    assert read_keys(file, None) == BOTH
    assert read_keys(file, f" {SECOND},, sha256:{hash_key(FIRST)} ") == BOTH


def test_keys_of_a_variable_have_commas_between():
    assert read_keys(None, f"{FIRST}, sha256:{hash_key(SECOND)},") == BOTH
    assert read_keys(None, "") == read_keys(None, None) == ()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("short", "at least 16 characters"),
        ("x" * 15, "at least 16 characters"),
        ("two words of a sentence", "without spaces"),
        ("schlüssel-von-einiger-länge", "ASCII"),
        ("a\x1bkey-of-some-length", "ASCII"),
        ("sha256:12", "64 hexadecimal digits"),
        (f"sha256:{'0' * 65}", "64 hexadecimal digits"),
    ],
)
def test_a_line_that_is_no_key_is_named_but_not_quoted(tmp_path, line, message):
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{FIRST}\n{line}\n")
    with pytest.raises(ValueError, match=rf"keys, line 3: .*{message}") as caught:
        read_keys(file, None)
    assert line not in str(caught.value)
    with pytest.raises(ValueError, match=rf"PE_KEYS, key 2: .*{message}"):
        read_keys(None, f"{FIRST},{line}")


@pytest.mark.parametrize("content", [b"", b"# none\n   # none\n", b"\xef\xbb\xbf\r\n"])
def test_a_file_without_keys_is_refused(tmp_path, content):
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"holds no key.*--new-key"):
        read_keys(file, None)


def test_a_file_of_another_encoding_is_refused(tmp_path):
    file = tmp_path / "keys"
    file.write_bytes(FIRST.encode("utf-16"))
    with pytest.raises(ValueError, match="UTF-8"):
        read_keys(file, None)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(OSError, match=r"the key file .*missing cannot be read: No such file"):
        read_keys(tmp_path / "missing", None)
    with pytest.raises(OSError, match="cannot be read"):
        read_keys(tmp_path, None)
    if os.geteuid():  # root may read everything
        file = tmp_path / "keys"
        file.write_text(FIRST)
        file.chmod(0)
        with pytest.raises(OSError, match="Permission denied"):
            read_keys(file, None)


def test_a_server_with_a_short_key_does_not_start(tmp_path):
    (tmp_path / "keys").write_text(f"{FIRST}\nsecret\n")
    done = pe("serve", "--key-file", "keys", folder=tmp_path)
    assert done.returncode == 2
    assert "keys, line 2" in done.stderr
    assert "at least 16 characters" in " ".join(done.stderr.split())
    assert "secret" not in done.stderr
