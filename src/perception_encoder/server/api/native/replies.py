"""What native replies look like, for the OpenAPI document; the routes write plain dicts."""

from typing import Any, Literal

from pydantic import BaseModel, Field
from typing_extensions import TypeAliasType

from perception_encoder.index.optimize import SearchKind
from perception_encoder.server.api.common import Dtype, Fit, Modality
from perception_encoder.server.core.filters import Kind


class ItemError(BaseModel):
    """Why one image or text could not be used."""

    code: str
    message: str


class EmbeddedItem(BaseModel):
    """One embedding, images first; an image that cannot be used has an error instead."""

    type: Modality
    index: int = Field(description="Among the request's images, or its texts.")
    embedding: list[float] | str | None
    error: ItemError | None = None


class EmbedReply(BaseModel):
    """Embeddings of unit length."""

    model: str
    dimensions: int
    dtype: Dtype
    data: list[EmbeddedItem]


class SimilarityReply(BaseModel):
    """Cosines: a row for each of a, a column for each of b."""

    model: str
    similarity: list[list[float]]


class LabelShare(BaseModel):
    """How well a label fits an image."""

    label: str
    score: float = Field(description="Cosine; a classifier's logit.")
    probability: float = Field(description="Softmax over the labels; a classifier's own.")
    fit: Fit | None = Field(
        description="Whether the label fits the image, whatever the other labels; null: unknown."
    )
    applies: bool | None = Field(
        default=None, description="Whether the classifier gives the label; null: there is none."
    )


class ClassifiedImage(BaseModel):
    """The labels of an image, best first."""

    index: int
    labels: list[LabelShare]
    error: ItemError | None = None


class ClassifyReply(BaseModel):
    """The labels of each image."""

    model: str
    results: list[ClassifiedImage]


class Explanation(BaseModel):
    """What the patches of an image add to its cosine with a text."""

    text: str
    score: float = Field(description="Cosine: the sum of the map, and rest.")
    rest: float = Field(description="What no patch adds.")
    map: list[list[float]] = Field(description="Rows of patches, from the top.")


class ExplainReply(BaseModel):
    """A map for each text."""

    model: str
    region: tuple[float, float, float, float] = Field(
        description="What the maps cover, as fractions of the image: left, top, right, bottom."
    )
    explanations: list[Explanation]


class ServedClassifier(BaseModel):
    """A classifier that requests may name."""

    name: str
    labels: list[str]
    model: str
    is_multi_label: bool = Field(description="Images may have several labels.")
    cutoff: float = Field(description="The lowest probability of a label that an image gets.")
    quality: dict[str, Any] | None = Field(description="Cross-validated scores of `pe teach`.")


class ClassifiersReply(BaseModel):
    """The classifiers that the server was started with."""

    classifiers: list[ServedClassifier]


class MomentReply(BaseModel):
    """The times of a segment of a video, seconds."""

    start: float
    end: float
    frame_time: float = Field(description="Of the frame that stands for the segment.")


class ItemReply(BaseModel):
    """A row of an index without its embedding."""

    id: str
    name: str
    uri: str
    member: str | None = Field(description="Where the image is in the archive or index at uri.")
    width: int | None
    height: int | None
    bytes: int | None
    modified: str | None = Field(description="ISO 8601.")
    sha256: str | None
    moment: MomentReply | None = Field(description="null for images.")
    metadata: dict[str, Any]


class SegmentsReply(BaseModel):
    """The segments of one video."""

    index: str
    uri: str
    duration: float = Field(description="Seconds.")
    segments: list[ItemReply]


class ScoredItem(ItemReply):
    """A row and its score: a cosine, or what `query.score` of a search says."""

    score: float | None


class BoxReply(BaseModel):
    """A part of an image, in pixels of the image as shown, from its upper left corner."""

    x: int
    y: int
    width: int
    height: int


class HitReply(ScoredItem):
    """A hit, and the hits of nearly the same image that were folded under it."""

    label: Fit | None
    cosine: float | None = Field(description="null for a search by text alone.")
    text_score: float | None = Field(description="BM25; null where no text was found.")
    box: BoxReply | None = Field(
        description="The part of the image that was found; null for all of it."
    )
    also: list[ScoredItem]


class ScoreCutoffs(BaseModel):
    """The cosines from which on hits are strong and weak."""

    strong: float
    weak: float


class RerankReply(BaseModel):
    """What reranking did."""

    model: str
    candidates: int = Field(description="Hits of the index's model, which were reranked.")
    cached: int = Field(description="Of them, those whose embeddings were stored.")
    embedded: int
    failed: int = Field(description="Images that cannot be read; these hits come last.")
    failures: list[str] = Field(description="Why, of some of them.")


class SearchedQuery(BaseModel):
    """The query's embedding, for the next page, and what its scores mean."""

    vector: str | None = Field(
        description="Base64 of float32, little endian; null for a search by text alone."
    )
    score: Literal["cosine", "bm25", "fusion", "rerank"]
    cutoffs: ScoreCutoffs | None


class SearchReply(BaseModel):
    """A page of hits, best first."""

    index: str
    query: SearchedQuery
    reranked: RerankReply | None = Field(description="null without `rerank`.")
    hits: list[HitReply]
    offset: int
    next_offset: int | None


class SavedSearchReply(BaseModel):
    """A saved search."""

    name: str
    query: str = Field(description="In a few words, to show.")
    terms: list[dict[str, Any]]
    text: str | None
    text_weight: float
    options: dict[str, Any] = Field(description="Those that differ from the defaults.")
    page: str = Field(description="What the page shows: the query string of its address, or empty.")
    saved_at: str = Field(description="ISO 8601.")
    last_run_at: str | None


class SavedSearchesReply(BaseModel):
    """The saved searches of an index, by name."""

    index: str
    data: list[SavedSearchReply]


class ListedItem(ItemReply):
    """A row of a listing."""

    num_moments: int | None = Field(
        default=None,
        description="With `videos=whole` and a video: how many moments it has.",
    )


class ItemsReply(BaseModel):
    """A page of rows."""

    index: str
    items: list[ListedItem]
    total: int = Field(description="Rows on all pages.")
    offset: int
    next_offset: int | None


class IndexSummary(BaseModel):
    """An index in short."""

    name: str
    path: str = Field(description="On the server.")
    rows: int | None = Field(description="null where the index cannot be read.")
    model: str
    dimensions: int
    error: str | None = Field(description="Why the index cannot be read, where it cannot.")
    text_model: str | None = Field(
        description="The model that embeds texts for searches; null: images only."
    )
    text_twin: str | None = Field(
        description="The model that would, of an index of a vision-only model."
    )


class IndexesReply(BaseModel):
    """The indexes of a server, the default first."""

    data: list[IndexSummary]


class IndexColumn(BaseModel):
    """A column of an index."""

    name: str
    type: str
    metadata: bool = Field(description="Whether it came with the images.")
    filter: Kind | None = Field(description="What filters compare it with.")


class IndexReply(BaseModel):
    """An index: its model, size, versions and columns."""

    name: str
    path: str = Field(description="On the server.")
    rows: int
    model: str
    dimensions: int
    fingerprint: str
    preprocess: str
    vector_dtype: str
    made_by: str | None
    bytes: int | None
    search: SearchKind = Field(
        description="none: each query reads every embedding of the index. exact: compares every "
        "embedding in a cache of this machine. approximate: looks into some lists of that cache. "
        "vector-index: uses Lance's vector index, which indexes in buckets have."
    )
    searcher_bytes: int | None = Field(description="Of the cache or the vector index.")
    recall: float | None = Field(
        description="Measured share of the true best 10 that approximate search finds."
    )
    version: int
    versions_kept: int
    reads_metadata: bool = Field(
        description="Whether runs store the metadata of photos; false: pe index --no-metadata."
    )
    tiles: str | None = Field(
        description="How images are divided for searches: pe index --tiles; null: not at all."
    )
    columns: list[IndexColumn]
    text_model: str | None = Field(
        description="The model that embeds texts for searches; null: images only."
    )
    text_twin: str | None = Field(
        description="The model that would, of an index of a vision-only model."
    )


class IndexFailure(BaseModel):
    """An item that a run could not embed."""

    uri: str
    member: str | None
    reason: str | None
    message: str | None


class IndexStatusReply(BaseModel):
    """What is being done to an index."""

    index: str
    rows: int
    is_being_written: bool | None
    outcomes: dict[str, int]
    failures: list[IndexFailure]


class FacetsReply(BaseModel):
    """What each column holds: the range of numbers and times, the values of others."""

    index: str
    columns: dict[str, dict[str, Any]]


class FolderFilter(BaseModel):
    """A filter as in POST /v1/search."""

    column: str
    op: str
    value: str


class Folder(BaseModel):
    """A folder or an archive."""

    path: str
    images: int = Field(description="In it and below it.")
    filter: FolderFilter


class FoldersReply(BaseModel):
    """The folders of an index, by path."""

    index: str
    folders: list[Folder]
    has_more: bool


class Period(BaseModel):
    """A day, month or year with photos."""

    period: str = Field(description="2023-05-04, 2023-05 or 2023.")
    count: int


class TimelineReply(BaseModel):
    """Photos by the time at which they were taken, the earliest first."""

    index: str
    unit: Literal["day", "month", "year"]
    periods: list[Period]
    total: int = Field(description="Photos that meet the filters.")
    undated: int = Field(description="Those of them without a time.")


class MapPoint(BaseModel):
    """Photos of one cell of the grid."""

    latitude: float = Field(description="Their mean.")
    longitude: float
    count: int
    item: str = Field(description="The id of one of them.")


class LocationsReply(BaseModel):
    """Where photos were taken, the fullest cells first."""

    index: str
    cell: float = Field(description="Degrees, the side of a cell.")
    total: int = Field(description="Photos with coordinates that meet the filters.")
    points: list[MapPoint]
    has_more: bool


class DuplicateItem(ScoredItem):
    """An image of which another one is kept."""

    tier: str


class DuplicateGroupReply(BaseModel):
    """Images of which one is enough."""

    tier: str
    keep: ItemReply
    others: list[DuplicateItem]


class JobProgressReply(BaseModel):
    """What a job is doing."""

    stage: str
    share: float | None = Field(description="Of the stage, from 0 to 1; null: unknown.")
    seconds: float


JobState = TypeAliasType("JobState", Literal["running", "done"])


class JobReply(BaseModel):
    """The state of a job; the other fields are there once it is done."""

    index: str
    state: JobState
    progress: JobProgressReply | None = None


class LeftOutImage(BaseModel):
    """An image that cannot be compared."""

    name: str
    reason: str


class DuplicatesReply(JobReply):
    """Groups of duplicates."""

    num_images: int = 0
    num_groups: int = 0
    num_redundant: int = 0
    redundant_bytes: int = 0
    num_left_out: int = Field(default=0, description="Images that cannot be compared.")
    left_out: list[LeftOutImage] = Field(default=[], description="Some of them, and why.")
    groups: list[DuplicateGroupReply] = []
    offset: int = 0
    next_offset: int | None = None


class ClusterSummary(BaseModel):
    """Images that look alike."""

    name: str | None = Field(description="Everyday words; null where they are not known.")
    size: int
    tightness: float = Field(description="Mean cosine with the center.")


class ClusterWithExamples(ClusterSummary):
    """A cluster and some of its images."""

    examples: list[ItemReply]


class ClustersReply(JobReply):
    """Clusters, the largest first."""

    num_images: int = 0
    num_damaged: int = Field(default=0, description="Left out: their vectors are damaged.")
    silhouette: float | None = Field(
        default=None, description="How distinct they are, from -1 to 1; null where k was given."
    )
    clusters: list[ClusterWithExamples] = []


class ClusterItemsReply(JobReply):
    """A page of a cluster's images."""

    items: list[ItemReply] = []
    total: int = 0
    offset: int = 0
    next_offset: int | None = None


class MapReply(JobReply):
    """Places of images, from -1 to 1; x to the right, y upwards."""

    num_images: int = 0
    ids: list[str] = []
    x: list[float] = []
    y: list[float] = []
    clusters: list[int] = Field(default=[], description="Of each image, the place in groups.")
    groups: list[ClusterSummary] = []


class ModelReply(BaseModel):
    """A model of the server: more is known of it once it is loaded."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str = Field(description="The model's own name; an entry for an alias has another id.")
    aliases: list[str] = Field(description="Other names that requests may use.")
    loaded: bool
    load_seconds: float | None
    bytes: int | None
    error: str | None
    dimensions: int | None = None
    image_size: int | None = None
    context_length: int | None = None
    reads_text: bool | None = Field(default=None, description="null before it is known.")
    text_twin: str | None = Field(
        default=None, description="Of a vision-only model: the one with its text tower."
    )
    license: str | None = None
    backend: str | None = None
    device: str | None = None
    precision: str | None = None
    waiting: dict[str, int] | None = None


class ModelsReply(BaseModel):
    """The models of a server, the default first, then an entry for each alias."""

    object: Literal["list"]
    data: list[ModelReply]
