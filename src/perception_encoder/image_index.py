"""`ImageIndex`: the object that most Python users need.

It is a facade: its methods call functions of `indexing`, `search`, `analysis` and `index`, as the
command line does.
"""

from __future__ import annotations

import datetime
import html
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Self

from perception_encoder.analysis.classifiers import (
    DEFAULT_TEMPLATE,
    ImageClassifier,
    ZeroShotClassifier,
)
from perception_encoder.analysis.cleaning import (
    CleaningOptions,
    CleaningReport,
    Kind,
    clean_index,
)
from perception_encoder.analysis.cluster_names import read_words
from perception_encoder.analysis.clusters import NamedClusters, cluster_index
from perception_encoder.analysis.duplicates import Duplicates, find_duplicates
from perception_encoder.analysis.few_shot import FewShotClassifier
from perception_encoder.analysis.ranked_images import read_blocks
from perception_encoder.analysis.selection import (
    SelectBy,
    Selection,
    SelectOptions,
    select_images,
)
from perception_encoder.auto import AutoModel
from perception_encoder.backends import ComputeOptions
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import IndexNotFoundError, QueryError
from perception_encoder.index import Index, Outcome, OutcomeLog, Row
from perception_encoder.index.full_text import TextQuery
from perception_encoder.index.tiles import TileGrid
from perception_encoder.results import (
    AddReport,
    ClassifiedImage,
    ClassifiedImages,
    ReembedReport,
    RefreshReport,
    SearchHits,
    thumbnails_html,
)
from perception_encoder.search.calibration import (
    Label,
    ensure_calibration,
    fit_labels,
)
from perception_encoder.search.feedback import refine_query
from perception_encoder.search.folding import BURST_SECONDS
from perception_encoder.search.fusion import DEFAULT_TEXT_WEIGHT, search
from perception_encoder.search.grammar import parse_image
from perception_encoder.search.null_distribution import SAME, load_prompts
from perception_encoder.search.photo_filters import TAKEN_AT, PhotoFilter, check_column
from perception_encoder.search.queries import (
    Query,
    QueryInput,
    crop_terms,
    find_item,
    read_queries,
    read_query,
)
from perception_encoder.search.query_model import match_model, open_index_model, refuse_another
from perception_encoder.search.ranking import SearchOptions
from perception_encoder.search.reranking import (
    DEFAULT_CANDIDATES,
    Reranking,
    RerankProgress,
    check_reranking,
    rerank_search,
)
from perception_encoder.search.upkeep import finish_reembedding, prepare_for_search, remove_rows
from perception_encoder.sources import read_image

if TYPE_CHECKING:
    from perception_encoder.analysis.duplicates import Tier
    from perception_encoder.analysis.index_map import WrittenMap
    from perception_encoder.analysis.ranked_images import Keep
    from perception_encoder.index.exchange import Layout
    from perception_encoder.indexing import Reembedding, Run
    from perception_encoder.preprocess.crops import CropInput
    from perception_encoder.types import BackendName, ColorFormat, Precision, PreprocessName

_NUM_SHOWN: Final = 12  # thumbnails of an index in a notebook


class ImageIndex:
    """An index of images: a folder (a Lance dataset) with one embedding for each image.

        index = ImageIndex("photos.lance", model="PE-Core-S16-384")
        index.add("~/Photos")
        index.search("a dog on the beach", k=5)

    The index is created with its first image. An object sees the rows that were there when it was
    opened, and those that it added; `refresh` shows what other processes have added since.

    Args:
        path: a folder, or a URI such as `s3://bucket/photos.lance`.
        model: the model that embeds images and queries: a name as for `AutoModel`, or an open
            model. It may be left out for an index that exists.
        device: where the model computes, if it is given by name.
        backend: likewise.
        precision: likewise.
        preprocess: likewise.

    Raises:
        IndexNotFoundError: there is no index at the path, and no model to create one.
        IndexMismatchError: the index holds images of another model.
        IndexStorageError: the index cannot be read.
        UnknownModelError, CheckpointError, DownloadError, BackendUnavailableError: as
            `AutoModel.from_pretrained`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: str | os.PathLike[str] | EmbeddingModel | None = None,
        *,
        device: str = "auto",
        backend: BackendName | Literal["auto"] = "auto",
        precision: Precision | Literal["auto"] = "auto",
        preprocess: PreprocessName | None = None,
    ) -> None:
        location = os.fspath(path)
        if "://" not in location:
            location = os.path.expanduser(location)
        self._options = ComputeOptions(device=device, backend=backend, precision=precision)
        self._preprocess = preprocess
        self._lock = threading.Lock()
        self._model, self._name = None, None
        self._reranker: tuple[str, EmbeddingModel] | None = None
        if isinstance(model, EmbeddingModel):
            self._model = model
        elif model is not None:
            self._name = os.fspath(model)
        self._is_own = self._model is None
        self._index = self._opened(location)

    @property
    def path(self) -> str:
        """Where the index is stored."""
        return self._index.path

    @property
    def model(self) -> EmbeddingModel:
        """The model; it is opened when it is needed.

        Raises:
            IndexMismatchError: it is not the index's.
            UnknownModelError, CheckpointError, DownloadError, BackendUnavailableError: as
                `AutoModel.from_pretrained`.
        """
        with self._lock:
            if self._model is None:
                self._model = open_index_model(
                    self._index, self._name, self._options, preprocess=self._preprocess
                )
            return self._model

    def add(  # noqa: PLR0913  one parameter for each option
        self,
        *sources: str | os.PathLike[str],
        exclude: Sequence[str] = (),
        include_hidden: bool = False,
        column: str | None = None,
        prune: bool = False,
        retry_failed: bool = False,
        metadata: bool | None = None,
        tiles: str | None = None,
        wait: bool = False,
        batch_size: int = 32,
        show_progress: bool | None = None,
    ) -> AddReport:
        """Embed images and store them. Images that are in the index and unchanged are skipped.

        An interrupted call loses at most the last uncommitted batch; the next call goes on there.

        Args:
            *sources: folders, image files, globs, tars (`shards/{00..12}.tar`), tables (.csv,
                .jsonl, .parquet), URLs such as `s3://bucket/folder`.
            exclude: names and paths to leave out, as in .gitignore.
            include_hidden: also take names that begin with a dot.
            column: a table's column of images, paths or URLs.
            prune: remove the rows of images that are gone from their source.
            retry_failed: try again what failed before; just that, if there are no sources.
            metadata: store what files and sidecars say of photos: date, place, camera and so on.
                The index remembers the choice, which None keeps; a new index stores it.
            tiles: embed parts of each image, too: "2x2", "3x3", columns and rows. Searches then
                find an image by its best part, and `hit.box` tells which. None keeps what the index
                remembers; only an index without images takes another choice.
            wait: for another process that is writing to the index to end.
            batch_size: images computed at once.
            show_progress: draw a progress bar; None draws one on a terminal and in a notebook.

        Returns:
            How many images were embedded, skipped and so on, and which failed.

        Raises:
            SourceError: a source does not exist or cannot be used.
            IndexBusyError: another process is writing to the index.
            IndexStorageError: the index cannot be written; what was committed is kept.
            IndexMismatchError: the images of the index were divided into other tiles.
            ValueError: no sources, and nothing to retry; or no grid of tiles.
        """
        from perception_encoder.indexing import FailedItems, Run, RunOptions
        from perception_encoder.sources import SourceOptions, open_sources

        if not sources and not retry_failed:
            raise ValueError("name a source: a folder, a file, a glob, a table or a URL")
        options = SourceOptions(
            exclude=tuple(exclude), include_hidden=include_hidden, column=column, videos=True
        )
        names = [_expanded(os.fspath(source)) for source in sources]
        opened = open_sources(names, options) if names else [FailedItems(self.errors())]
        run = Run(
            self.model,
            self._index,
            opened,
            RunOptions(
                batch_size=batch_size,
                prune=prune,
                wait=wait,
                retries_failures=retry_failed,
                metadata=metadata,
                tiles=None if tiles is None else TileGrid.parse(tiles),
            ),
        )
        started = time.monotonic()
        failed = [one for one in _shown(run, show_progress) if one.status == "failed"]
        counts = Counter(run.progress.counts)
        prepare_for_search(
            self._index,
            self.model,
            num_changed=counts["embedded"] + counts["reused"] + counts["pruned"],
        )
        return AddReport(counts, failed, run.progress.notes, time.monotonic() - started)

    def search(  # noqa: PLR0913  one parameter for each option
        self,
        query: QueryInput | None = None,
        k: int = 10,
        *,
        text: str | None = None,
        mode: Literal["image", "text", "hybrid"] | None = None,
        text_weight: float = DEFAULT_TEXT_WEIGHT,
        like: Sequence[QueryInput] = (),
        unlike: Sequence[QueryInput] = (),
        where: str | None = None,
        since: str | datetime.date | None = None,
        until: str | datetime.date | None = None,
        near: str | tuple[float, float, float] | None = None,
        camera: str | None = None,
        sort: Literal["score", "taken_at"] = "score",
        unique: float | bool | None = None,
        bursts: float | bool | None = None,
        pairs: bool = True,
        threshold: float | Literal["strong", "weak"] | None = None,
        offset: int = 0,
        exact: bool = False,
        crop: CropInput | None = None,
        rerank: str | os.PathLike[str] | EmbeddingModel | None = None,
        candidates: int = DEFAULT_CANDIDATES,
        input_color_format: ColorFormat = "bgr",
        show_progress: bool | None = None,
    ) -> SearchHits:
        """Find the images that fit a query best.

        Args:
            query: a text; a path or URL of an image; "@name" of an indexed image; a sum such as
                "@dog.jpg + snow - grass" or "2:sunset + beach.jpg"; a `Path`; a PIL image, array
                or tensor; an (E,) embedding; or a list of (weight, query) pairs of these.
            k: how many hits, at most.
            text: words, and phrases in double quotes, to find in names and metadata. Alone, no
                model is used. With a query, the ranks of both are fused.
            mode: "hybrid" or "text" take the query for the text as well, or instead; None decides
                by what is given.
            text_weight: share of the text in a fused score, from 0 to 1.
            like: images that hits should be like: "@name", a path, or an image in memory. They are
                no hits themselves.
            unlike: images that hits should not be like.
            where: an SQL condition on the columns, such as "width > 800".
            since: only photos taken from then on; see `photo_condition`.
            until: only photos taken until then.
            near: only photos taken there.
            camera: only photos of cameras with this in their name.
            sort: "taken_at" orders the k best hits by their time, the newest first; hits without
                one come last.
            unique: fold near-duplicates under the best hit of them: True, or their lowest cosine.
            bursts: fold photos of one burst: True, or the most seconds between two that follow each
                other (2).
            pairs: fold the files that a camera writes of one shot under the photo: its RAW file,
                and the clip of a Live Photo.
            threshold: the lowest cosine of a hit, or its lowest label.
            offset: how many of the best hits to leave out, for the pages after the first.
            exact: compare with every embedding, also where the index has a faster way.
            crop: the part of the query's image that counts: (x, y, width, height) in pixels of the
                image as a viewer shows it, or "percent:25,25,50,50".
            rerank: another model, by name or open, that orders the best hits anew by its own
                cosine. It reads their images; see `search.reranking`. `hits.reranked` reports
                images that could not be read, which come last.
            candidates: how many hits `rerank` orders.
            input_color_format: channel order of arrays ("bgr" is what OpenCV gives).
            show_progress: draw a progress bar of `rerank`; None draws one on a terminal and in a
                notebook.

        Raises:
            QueryError: the query or the condition is wrong, an item is not in the index, or the
                search cannot be reranked.
            ImageError: the image cannot be used.
            ValueError: k, offset, threshold, unique or text_weight is out of range, there is
                neither a query nor a text nor a mark, or the mode needs a text.
        """
        where = self.photo_condition(where, since=since, until=until, near=near, camera=camera)
        if sort == TAKEN_AT:
            check_column(self._index.schema, TAKEN_AT, self.path)
        folding = _Folding(unique, bursts, pairs)
        options = _search_options(k, where, folding, threshold, offset, exact=exact, sort=sort)
        query, text = _split_by_mode(query, text, mode)
        words = None if text is None else TextQuery.parse(text)
        marks = [*like, *unlike]
        if query is None and words is None and not marks:
            raise ValueError("give a query, a text, or images to be like")

        def read(model: EmbeddingModel | None = None) -> Query | None:
            """Read the query; with a model that is not the index's for that."""
            found = None
            if query is not None:
                found = self._read(query, input_color_format, crop, model)
            if marks:
                images = [self._read_image(mark, input_color_format, None, model) for mark in marks]
                found = refine_query(found, images[: len(like)], images[len(like) :])
            return found

        if rerank is not None and words is not None:
            raise QueryError(
                "rerank orders hits by their images alone; leave the text out, or filter by where"
            )
        embedded = read()
        if rerank is None or embedded is None:
            return self._answer(
                embedded, options, text=words, text_weight=text_weight, leave_out_own=bool(marks)
            )
        model = self._reranking_model(rerank)
        check_reranking(self._index, model.identity, options, candidates)
        second = read(model)
        assert second is not None  # as the first
        return self._rerank(
            embedded,
            Reranking(model, second, candidates),
            options,
            leave_out_own=bool(marks),
            show_progress=show_progress,
        )

    def similar(  # noqa: PLR0913  one parameter for each option
        self,
        image: QueryInput,
        k: int = 10,
        *,
        where: str | None = None,
        since: str | datetime.date | None = None,
        until: str | datetime.date | None = None,
        near: str | tuple[float, float, float] | None = None,
        camera: str | None = None,
        unique: float | bool | None = None,
        bursts: float | bool | None = None,
        pairs: bool = True,
        threshold: float | Literal["strong", "weak"] | None = None,
        crop: CropInput | None = None,
        input_color_format: ColorFormat = "bgr",
    ) -> SearchHits:
        """Find the images that look like one, which is itself left out.

        The arguments and errors are those of `search`, but `image` is the path or URL of an image,
        "@name" of an indexed image, or an image in memory.
        """
        where = self.photo_condition(where, since=since, until=until, near=near, camera=camera)
        options = _search_options(k, where, _Folding(unique, bursts, pairs), threshold)
        query = self._read_image(image, input_color_format, crop)
        return self._answer(query, options, leave_out_own=True)

    def photo_condition(
        self,
        where: str | None = None,
        *,
        since: str | datetime.date | None = None,
        until: str | datetime.date | None = None,
        near: str | tuple[float, float, float] | None = None,
        camera: str | None = None,
    ) -> str | None:
        """Return the SQL condition that photos were taken then, there and with that camera.

        It is the `where` of every other method:
        `index.cluster(where=index.photo_condition(since="2023"))`.

        Args:
            where: a condition that must be met, too.
            since: from then on: "2023", "2023-05", "2023-05-04", "yesterday", "2 weeks ago", a date
                or a time at the camera.
            until: likewise; the whole year, month or day is included.
            near: "LATITUDE,LONGITUDE,RADIUS" with a radius such as 5km or 300m; the name of a town,
                with the extra `places`; or degrees, degrees and metres.
            camera: a part of the camera's name, in any case.

        Returns:
            The condition; None if nothing is asked.

        Raises:
            QueryError: a value cannot be understood, or the index lacks its column.
        """
        photos = PhotoFilter.parse(since=since, until=until, near=near, camera=camera)
        return photos.where(where, self._index.schema, self.path)

    def refresh_metadata(
        self, *, wait: bool = False, show_progress: bool | None = None
    ) -> RefreshReport:
        """Read what files and sidecars say of the photos again, without embedding anything.

        It fills the columns of an index that was made before, and sees changed sidecars. An
        interrupted call goes on with the next one.

        Args:
            wait: for another process that is writing to the index to end.
            show_progress: draw a progress bar; None draws one on a terminal and in a notebook.

        Raises:
            IndexBusyError: another process is writing to the index.
            IndexStorageError: the index cannot be written; what was committed is kept.
        """
        from tqdm.auto import tqdm

        from perception_encoder.indexing import MetadataRefresh

        refresh, started = MetadataRefresh(self._index, wait=wait), time.monotonic()
        progress, failed = refresh.progress, []
        disable = None if show_progress is None else not show_progress
        with tqdm(unit=" images", disable=disable, leave=False) as bar:
            for unread in refresh.unread():
                failed += [one.message for one in unread]
                bar.total, bar.n = progress.num_rows, progress.num_done
                bar.update(0)
        return RefreshReport(
            progress.num_rows,
            progress.num_changed,
            failed,
            progress.notes(),
            time.monotonic() - started,
        )

    def reembed(
        self,
        model: str | os.PathLike[str] | EmbeddingModel,
        *,
        leave_missing: str | os.PathLike[str] | None = None,
        preprocess: PreprocessName | None = None,
        wait: bool = False,
        batch_size: int = 32,
        show_progress: bool | None = None,
    ) -> ReembedReport:
        """Change the model of the index: open its images again, and embed them by another model.

        Metadata, tiles, segments of videos and saved searches stay. Other objects and programs find
        the old embeddings until all new ones are there, and this object has the new model then. An
        interrupted call goes on with the next one.

        Args:
            model: a name as for `AutoModel`, or an open model.
            leave_missing: leave out images that cannot be read any more, and list them in this file
                as JSON lines; None ends with the index as it was.
            preprocess: of a model given by name; None takes the index's.
            wait: for another process that is writing to the index to end.
            batch_size: images computed at once.
            show_progress: draw a progress bar; None draws one on a terminal and in a notebook.

        Raises:
            ImagesMissingError: images cannot be read any more; the index is as before.
            IndexMismatchError: an interrupted change to another model is not finished.
            IndexBusyError: another process is writing to the index, or did so meanwhile.
            IndexStorageError: the index cannot be written, or the disk cannot hold the old and the
                new embeddings at once.
            UnknownModelError, CheckpointError, DownloadError, BackendUnavailableError: as
                `AutoModel.from_pretrained`.
        """
        from perception_encoder.indexing import Reembedding, ReembedOptions

        is_own = not isinstance(model, EmbeddingModel)
        opened = (
            model
            if isinstance(model, EmbeddingModel)
            else AutoModel.from_pretrained(
                os.fspath(model),
                device=self._options.device,
                backend=self._options.backend,
                precision=self._options.precision,
                preprocess=preprocess or self._index.identity.preprocess,
            )
        )
        file = None if leave_missing is None else Path(leave_missing).expanduser()
        work = Reembedding(self._index, opened, ReembedOptions(batch_size, wait, file))
        started = time.monotonic()
        failed = [one for one in _shown(work, show_progress) if one.status == "failed"]
        result, notes = work.result, list[str]()
        if result is not None:
            self.close()
            with self._lock:
                self._model, self._name, self._is_own = opened, None, is_own
                self._preprocess = None
                self._index = Index.open(self.path)
            notes = finish_reembedding(self._index, opened, num_rows=result.num_rows)
        elif is_own:
            opened.close()
        return ReembedReport(
            Counter(work.progress.counts),
            len(self),
            0 if result is None else result.num_left,
            0 if result is None else result.num_changed,
            failed,
            notes,
            time.monotonic() - started,
        )

    def duplicates(
        self,
        tier: Tier = "near duplicate",
        *,
        threshold: float | None = None,
        keep: Keep = "resolution",
        where: str | None = None,
    ) -> Duplicates:
        """Find images of which one is enough; nothing is deleted.

        Args:
            tier: how far to go: "identical bytes", "identical pixels", "near duplicate", "similar".
            threshold: the lowest cosine of near duplicates (0.98) or similar images (0.9).
            keep: which image of a group is kept.
            where: an SQL condition; other rows do not take part.

        Raises:
            QueryError: the condition is wrong.
            ValueError: the threshold is out of range.
        """
        return find_duplicates(
            self._index, _read, tier=tier, threshold=threshold, keep=keep, where=where
        )

    def clean(
        self,
        *,
        kinds: Sequence[Kind] | None = None,
        label_column: str | None = None,
        label_folders: bool = False,
        split_column: str | None = None,
        threshold: float | None = None,
        outlier_rate: float | None = None,
        where: str | None = None,
    ) -> CleaningReport:
        """Find leaks, wrong labels, outliers, and images with bad pixels; nothing is changed.

            report = index.clean(label_column="species")
            report.save("report.html")

        Args:
            kinds: what to look for, such as ["blurry", "dark"]; None is everything. Pixels are read
                only where a kind needs them, and remembered in the index's folder.
            label_column: the column of the labels; None takes `label`, or else folders, where these
                also name splits.
            label_folders: take the names of the images' folders as labels.
            split_column: the column of the splits; None takes `split`, or else folders named
                `train`, `val`, `test`.
            threshold: the lowest cosine of near-duplicates across splits (0.98).
            outlier_rate: the share of ordinary images that may be called outliers (0.001).
            where: an SQL condition; other rows do not take part.

        Raises:
            QueryError: the condition or a column is wrong.
            ValueError: an unknown kind, or a number out of range.
        """
        usual = CleaningOptions()
        options = CleaningOptions(
            kinds=usual.kinds if kinds is None else kinds,
            label_column=label_column,
            label_folders=label_folders,
            split_column=split_column,
            threshold=usual.threshold if threshold is None else threshold,
            outlier_rate=usual.outlier_rate if outlier_rate is None else outlier_rate,
        )
        return clean_index(self._index, _read, options, where=where)

    def select(
        self,
        n: int,
        by: SelectBy = "diverse",
        *,
        labels: Sequence[str] | Mapping[str, Sequence[str]] | ImageClassifier | None = None,
        label_column: str | None = None,
        label_folders: bool = False,
        per_class: bool = False,
        where: str | None = None,
        seed: int = 0,
    ) -> Selection:
        """Choose some images, to look at, to label or to train on.

        Args:
            n: how many; with `per_class`, of each class.
            by: "diverse" covers everything, "representative" takes what is typical, "uncertain"
                what a classifier cannot tell.
            labels: of "uncertain": names, texts by label, or a classifier; None trains one with the
                labels of the index.
            label_column: the column of the labels; None takes `label`, see `clean`.
            label_folders: take the names of the images' folders as labels.
            per_class: choose from each class.
            where: an SQL condition; other rows are left out.
            seed: another seed can give other images.

        Raises:
            QueryError: the condition or a column is wrong, or there are no labels.
            ValueError: n below 1, or an unknown `by`.
        """
        options = SelectOptions(n, by, label_column, label_folders, per_class, seed)
        classifier = labels
        if classifier is not None and not isinstance(classifier, ImageClassifier):
            classifier = ZeroShotClassifier.from_model(self.model, classifier)
        return select_images(self._index, options, classifier=classifier, where=where)

    def classify(
        self,
        labels: Sequence[str] | Mapping[str, Sequence[str]] | ImageClassifier,
        templates: Iterable[str] = (DEFAULT_TEMPLATE,),
        *,
        where: str | None = None,
    ) -> ClassifiedImages:
        """Give each image the label that fits it best. No image is read.

        Args:
            labels: names; for each label the texts that stand for it; or a classifier, such as a
                `FewShotClassifier`, whose results have no `fit`, and no label where it abstains.
            templates: sentences with {} where a label goes, such as "a photo of a {}".
            where: an SQL condition; other rows are left out.

        Returns:
            The images in the order of the index. Those with a damaged embedding are left out.

        Raises:
            ClassifierError: the classifier is of another model.
            QueryError: the condition is wrong.
            ValueError: no labels, or a template without {}.
        """
        classifier, prompts = labels, None
        if isinstance(classifier, FewShotClassifier):
            classifier.check(self._index.identity)
        if not isinstance(classifier, ImageClassifier):
            classifier = ZeroShotClassifier.from_model(self.model, classifier, templates)
            prompts = load_prompts(self.model, self._index)
        images: list[ClassifiedImage] = []
        for block in read_blocks(self._index, where):
            scores = classifier.classify(block.vectors)
            best = [label for (label,) in scores.best()]
            fits: Sequence[Label | None] = [None] * len(best)
            if prompts is not None:
                cosines = scores.scores.max(axis=1, keepdims=True, initial=-1)
                fits = [fit for (fit,) in fit_labels(cosines, block.vectors, prompts)]
            images += [
                ClassifiedImage(row, given[0] if given else None, *label[1:], fit, given)
                for row, label, fit, given in zip(
                    block.rows, best, fits, scores.given(), strict=True
                )
            ]
        return ClassifiedImages(images)

    def cluster(
        self,
        k: int | None = None,
        *,
        names: str | Sequence[str] | None = None,
        where: str | None = None,
    ) -> NamedClusters:
        """Divide the images into groups that look alike.

        Args:
            k: how many groups; None chooses the number that sets them apart best.
            names: words to name the groups by: "everyday" for about 350 of this package,
                "column:NAME" for the words of a column, or a list.
            where: an SQL condition; other rows do not take part.

        Raises:
            QueryError: the condition is wrong, or there is no such column.
            ValueError: k below 1.
        """
        return cluster_index(
            self._index,
            self._open_model,
            num_clusters=k,
            words=read_words(self._index, names, where),
            where=where,
        )

    def map(
        self,
        path: str | os.PathLike[str],
        *,
        k: int | None = None,
        names: str | Sequence[str] | None = None,
        where: str | None = None,
        seed: int = 0,
    ) -> WrittenMap:
        """Write a map on which images that look alike are near each other.

        Args:
            path: an .html page to zoom and click in, a .png (or .jpg, .webp) of the images, or a
                .parquet table of positions and clusters.
            k: number of clusters, as in `cluster`.
            names: names of clusters, as in `cluster`.
            where: an SQL condition; other rows are left out.
            seed: another seed gives another map.

        Raises:
            BackendUnavailableError: the extra `map` is not installed.
            ImageWriteError, ExchangeError: the file cannot be written.
            QueryError: as `cluster`.
            ValueError: as `cluster`, or another suffix.
        """
        from perception_encoder.analysis.index_map import (
            check_suffix,
            map_index,
            require_projection,
            write_map,
        )

        check_suffix(path)
        require_projection()
        clusters = self.cluster(k, names=names, where=where)
        placed = map_index(self._index, clusters.found.images, where=clusters.where, seed=seed)
        return write_map(path, self._index, clusters, placed)

    def export(
        self, path: str | os.PathLike[str], layout: Layout = "parquet", *, where: str | None = None
    ) -> int:
        """Write embeddings and rows for other programs.

        Args:
            path: a new file for "parquet", a new folder for the others.
            layout: "parquet", "npy", "faiss" or "clip-retrieval".
            where: an SQL condition; other rows are left out.

        Returns:
            How many rows were written.

        Raises:
            ExchangeError: something is there already, or it cannot be written.
            QueryError: the condition is wrong.
        """
        from perception_encoder.index.exchange import export_index

        return export_index(self._index, path, layout, where=where)

    def remove(self, *items: str | os.PathLike[str], where: str | None = None) -> int:
        """Remove images from the index; the files stay.

        Args:
            *items: ids, names, paths, or unique ends of names, with or without an @.
            where: an SQL condition: all rows that meet it are removed too.

        Returns:
            How many rows were removed.

        Raises:
            QueryError: an item is not in the index, or the condition is wrong.
            IndexBusyError: another process is writing to the index.
            IndexStorageError: the index cannot be written.
        """
        names = [os.fspath(item).removeprefix("@") for item in items]
        ids = [find_item(self._index, name)[0].id for name in names]
        return remove_rows(self._index, ids, where)

    def errors(self) -> list[Outcome]:
        """Return the images that could not be indexed, with `uri`, `reason` and `message`."""
        return list(OutcomeLog(self.path).latest(["failed"]))

    def refresh(self) -> None:
        """See the rows that other processes have added or removed."""
        self._index.refresh()

    def rows(self, *, where: str | None = None) -> Iterator[Row]:
        """Yield the rows that meet an SQL condition.

        Raises:
            QueryError: the condition is wrong.
        """
        return self._index.rows(where=where)

    def close(self) -> None:
        """Free the memory of models, unless they were given open."""
        with self._lock:
            if self._reranker is not None:
                self._reranker[1].close()
                self._reranker = None
            if self._is_own and self._model is not None:
                self._model.close()
                self._model = None

    def __len__(self) -> int:
        return self._index.count()

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Row]:
        return self._index.rows()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        model_id = self._index.identity.model_id
        return f"ImageIndex({self.path!r}, model={model_id!r}, {len(self):,} images)"

    def _repr_html_(self) -> str:
        rows = list(islice(self, _NUM_SHOWN))
        names = [os.path.basename(row.member or row.uri) for row in rows]
        return f"<p>{html.escape(repr(self))}</p>{thumbnails_html(rows, names)}"

    def _opened(self, path: str) -> Index:
        """Open the index, or prepare one that the first image creates."""
        try:
            index = Index.open(path)
        except IndexNotFoundError as err:
            if self._model is None and self._name is None:
                raise IndexNotFoundError(
                    f"there is no index at {path}; name a model to create one: "
                    f'ImageIndex({path!r}, model="PE-Core-S16-384")'
                ) from err
        else:
            if index.count() or (self._model is None and self._name is None):
                if self._model is not None:
                    self._model = match_model(index, self._model)
                elif self._name is not None:
                    refuse_another(index, self._name)
                preprocess = self._preprocess or index.identity.preprocess
                index.check(replace(index.identity, preprocess=preprocess))
                return index
        if self._model is None:
            assert self._name is not None
            self._model = AutoModel.from_pretrained(
                self._name,
                device=self._options.device,
                backend=self._options.backend,
                precision=self._options.precision,
                preprocess=self._preprocess,
            )
            self._model.attaches_text_tower = True
        return Index.open_or_prepare(path, self._model.identity)

    def _open_model(self) -> EmbeddingModel:
        return self.model

    def _reranking_model(self, model: str | os.PathLike[str] | EmbeddingModel) -> EmbeddingModel:
        """Return a model for `rerank`; the last one that was opened by name stays open."""
        if isinstance(model, EmbeddingModel):
            return model
        name = os.fspath(model)
        with self._lock:
            if self._reranker is None or self._reranker[0] != name:
                opened = AutoModel.from_pretrained(
                    name,
                    device=self._options.device,
                    backend=self._options.backend,
                    precision=self._options.precision,
                )
                if self._reranker is not None:
                    self._reranker[1].close()
                self._reranker = name, opened
            return self._reranker[1]

    def _rerank(
        self,
        query: Query,
        reranking: Reranking,
        options: SearchOptions,
        *,
        leave_out_own: bool,
        show_progress: bool | None,
    ) -> SearchHits:
        from tqdm.auto import tqdm

        calibration = None
        if isinstance(options.threshold, str):
            calibration = ensure_calibration(self._index, [query], self._open_model)
        disable = None if show_progress is None else not show_progress
        with tqdm(unit=" images", disable=disable, leave=False) as bar:

            def show(progress: RerankProgress) -> None:
                bar.total, bar.n = progress.num_images, progress.num_done
                bar.update(0)

            found, report = rerank_search(
                self._index,
                query,
                replace(reranking, on_progress=show),
                options,
                calibration=calibration,
                leave_out_own=leave_out_own,
            )
        return SearchHits(found, query, report)

    def _read(
        self,
        query: QueryInput,
        color_format: ColorFormat,
        crop: CropInput | None = None,
        model: EmbeddingModel | None = None,
    ) -> Query:
        return read_query(
            self._index,
            query,
            self._open_model if model is None else lambda: model,
            input_color_format=color_format,
            crop=crop,
            by_index_model=model is None,
        )

    def _read_image(
        self,
        image: QueryInput,
        color_format: ColorFormat,
        crop: CropInput | None = None,
        model: EmbeddingModel | None = None,
    ) -> Query:
        """Read a query that is one image: a string is a name, whatever signs it has."""
        if not isinstance(image, str | os.PathLike):
            return self._read(image, color_format, crop, model)
        terms = crop_terms([parse_image(os.fspath(image))], crop)
        open_model = self._open_model if model is None else lambda: model
        return read_queries(self._index, [terms], open_model, by_index_model=model is None)[0]

    def _answer(
        self,
        query: Query | None,
        options: SearchOptions,
        *,
        text: TextQuery | None = None,
        text_weight: float = DEFAULT_TEXT_WEIGHT,
        leave_out_own: bool = False,
    ) -> SearchHits:
        calibration = None
        if query is not None and query.terms:  # an embedding may stand for a text or an image
            calibration = ensure_calibration(self._index, [query], self._open_model)
        found = search(
            self._index,
            query,
            options,
            text=text,
            text_weight=text_weight,
            calibration=calibration,
            leave_out_own=leave_out_own,
        )
        return SearchHits(found, query)


def _split_by_mode(
    query: QueryInput | None, text: str | None, mode: Literal["image", "text", "hybrid"] | None
) -> tuple[QueryInput | None, str | None]:
    """Return what images should be near to, and the text to find."""
    if mode not in (None, "image", "text", "hybrid"):
        raise ValueError(f'the mode is "image", "text" or "hybrid", got {mode!r}')
    if mode is None:
        return query, text
    if mode == "image":
        if text is not None:
            raise ValueError('mode "image" searches for no text; use "hybrid", or leave text out')
        return query, None
    if text is None:
        if not isinstance(query, str):
            raise ValueError(f"mode {mode!r} needs a text: give text=")
        text = query
    return (query if mode == "hybrid" else None), text


class _Folding(NamedTuple):
    unique: float | bool | None
    bursts: float | bool | None
    pairs: bool


def _search_options(
    k: int,
    where: str | None,
    folding: _Folding,
    threshold: float | Literal["strong", "weak"] | None,
    offset: int = 0,
    *,
    exact: bool = False,
    sort: Literal["score", "taken_at"] = "score",
) -> SearchOptions:
    unique, bursts, pairs = folding
    cosine = {True: SAME, False: None}[unique] if isinstance(unique, bool) else unique
    seconds = {True: BURST_SECONDS, False: None}[bursts] if isinstance(bursts, bool) else bursts
    return SearchOptions(
        k=k,
        offset=offset,
        threshold=threshold,
        where=where,
        exact=exact,
        unique=cosine,
        bursts=seconds,
        pairs=pairs,
        sort=sort,
    )


def _shown(run: Run | Reembedding, show_progress: bool | None) -> Iterator[Outcome]:
    """Do a run and draw its progress."""
    from tqdm.auto import tqdm  # a widget in notebooks, else a line on stderr

    disable = None if show_progress is None else not show_progress
    with (
        closing(run.outcomes()) as outcomes,
        tqdm(unit=" images", disable=disable, leave=False) as bar,
    ):
        for outcome in outcomes:
            bar.total = run.progress.num_listed
            bar.n = run.progress.num_done
            bar.update(0)
            yield outcome


def _read(row: Row) -> bytes:
    return read_image(row.uri, row.member, row.offset)


def _expanded(source: str) -> str:
    return os.path.expanduser(source) if source.startswith("~") else source
