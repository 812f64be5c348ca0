"""The block `pe_search@v1`: what an index has that is like an image or a text."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from perception_encoder.integrations.workflows.block import (
    FLOAT_KIND,
    IMAGE_KIND,
    INTEGER_KIND,
    LIST_OF_VALUES_KIND,
    STRING_KIND,
    Manifest,
    ModelBlock,
    OutputDefinition,
    Selector,
    as_given,
    listed,
    vectors_of,
)
from perception_encoder.search.calibration import can_be_calibrated, read_calibration
from perception_encoder.search.grammar import QueryTerm
from perception_encoder.search.queries import Query
from perception_encoder.search.ranking import SearchOptions, SearchResult, search


class SearchManifest(Manifest):
    """What a workflow writes for this block."""

    model_config = ConfigDict(
        json_schema_extra={
            "name": "Perception Encoder: search",
            "version": "v1",
            "short_description": "What an index has that is like an image or a text.",
            "long_description": "Searches an index that `pe index` or the block `pe_index_add` "
            "filled. The index's own model embeds the query. Each hit has its uri, its score (a "
            "cosine), its metadata, and its label where the index is calibrated.",
            "license": "Apache-2.0",
            "block_type": "model",
        }
    )
    type: Literal["perception_encoder/pe_search@v1", "pe_search@v1"]
    data: Selector(kind=[IMAGE_KIND, STRING_KIND]) | str = Field(
        description="The image or the text to search with.",
        examples=["$inputs.image", "a red car"],
    )
    index: Selector(kind=[STRING_KIND]) | str = Field(
        description="The index: a folder, or a URI.", examples=["images.lance"]
    )
    k: Selector(kind=[INTEGER_KIND]) | int = Field(
        default=10, description="How many hits, at most.", examples=[10, "$inputs.k"]
    )
    threshold: Selector(kind=[FLOAT_KIND]) | float | None = Field(
        default=None, description="The lowest cosine of a hit.", examples=[0.3]
    )
    where: Selector(kind=[STRING_KIND]) | str | None = Field(
        default=None,
        description="An SQL condition on the index's columns.",
        examples=["width > 800"],
    )
    model: Selector(kind=[STRING_KIND]) | str | None = Field(
        default=None,
        description="The path of the index's model, where it was opened from a path.",
        examples=["$inputs.model"],
    )

    @classmethod
    def get_parameters_accepting_batches_and_scalars(cls) -> list[str]:
        """Name the fields that come as batches, or as single values."""
        return ["data"]

    @classmethod
    def describe_outputs(cls) -> list[OutputDefinition]:
        """Say what the block gives."""
        return [
            OutputDefinition(name="hits", kind=[LIST_OF_VALUES_KIND]),
            OutputDefinition(name="best_uri", kind=[STRING_KIND]),
            OutputDefinition(name="best_score", kind=[FLOAT_KIND]),
        ]


class SearchBlock(ModelBlock):
    """Searches once for a whole batch of queries."""

    manifest = SearchManifest

    def run(
        self,
        data: Any,
        index: str,
        k: int,
        threshold: float | None,
        where: str | None,
        model: str | None,
    ) -> Any:
        """Return the `hits` of each query, best first; where there are none, the best is None."""
        opened_index = self._indexes.open(index)
        opened = self._models.of_index(opened_index, model)
        items = listed(data)
        vectors = vectors_of(self._models, opened, items)
        queries = [
            Query(terms=(_term(item),), vector=vector)
            for item, vector in zip(items, vectors, strict=True)
        ]
        known = read_calibration(opened_index, queries) if can_be_calibrated(opened_index) else None
        options = SearchOptions(k=k, threshold=threshold, where=where)
        found = search(opened_index, queries, options, calibration=known)
        return as_given([_result(hits) for hits in found], data)


def _term(item: Any) -> QueryTerm:
    if isinstance(item, str):
        return QueryTerm(1.0, "text", item)
    return QueryTerm(1.0, "image", "")


def _result(found: list[SearchResult]) -> dict[str, Any]:
    best = found[0].hit if found else None
    return {
        "hits": [_hit(one) for one in found],
        "best_uri": None if best is None else best.uri,
        "best_score": None if best is None else best.score,
    }


def _hit(found: SearchResult) -> dict[str, Any]:
    """Return a hit without what is not known of it."""
    hit = found.hit
    fields = {
        "id": hit.id,
        "uri": hit.uri,
        "member": hit.member,
        "score": hit.score,
        "label": found.label,
        "width": hit.width,
        "height": hit.height,
        "metadata": dict(hit.metadata),
    }
    return {name: value for name, value in fields.items() if value is not None}
