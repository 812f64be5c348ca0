"""`pe serve --alias`: what it cannot make sense of it says before it listens."""

import pytest
from cli.command import pe_ending


@pytest.mark.parametrize(
    ("alias", "returns", "words"),
    [
        ("PE-Core-L14-336", 2, "NAME=MODEL"),
        ("=pe-nano", 2, "NAME=MODEL"),
        ("PE-Core-L14-336=nothing", 1, "cannot stand for 'nothing'"),
        ("pe-nano=pe-nano", 1, "the name of a model already"),
    ],
)
def test_an_alias_that_leads_nowhere_is_refused(tmp_path, alias, returns, words):
    done = pe_ending("serve", "--alias", alias, folder=tmp_path, returns=returns)
    assert words in done.stderr
