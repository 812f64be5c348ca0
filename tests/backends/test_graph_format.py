"""Cached graphs are built again when the code that builds them changes."""

import ast
import hashlib
import io
import tokenize
from importlib.resources import files

from perception_encoder.backends.graph_cache import GRAPH_FORMAT

# What decides a graph, beside versions of packages.
SOURCES = (
    "model/blocks.py",
    "model/dual_encoder.py",
    "model/vision.py",
    "backends/onnx_write.py",
    "backends/openvino_dense.py",
    "backends/openvino_write.py",
    "backends/samples.py",
)
KNOWN = (3, "30dec008bfc8dcdb")  # GRAPH_FORMAT and the digest of the sources


def code_of(source: str) -> str:
    """A module's code without comments, docstrings, blank lines and line breaks."""
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            docstrings.add(node.body[0].lineno)
    skipped = (tokenize.COMMENT, tokenize.NL)
    return " ".join(
        token.string.strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in skipped
        and not (token.type == tokenize.STRING and token.start[0] in docstrings)
    )


def test_the_code_that_builds_graphs_changes_with_their_format_only():
    package = files("perception_encoder")
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update(code_of(package.joinpath(name).read_text(encoding="utf-8")).encode())
    found = (GRAPH_FORMAT, digest.hexdigest()[:16])
    assert found == KNOWN, (
        "the code that builds graphs has changed: raise GRAPH_FORMAT in backends/graph_cache.py if "
        f"graphs differ, and set KNOWN to {found} here"
    )
