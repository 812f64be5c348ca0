"""The classifiers of a server: files that it was started with, and what marks in the page teach."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from perception_encoder.analysis.classifier_file import dump_classifier, load_classifier
from perception_encoder.analysis.few_shot import FewShotClassifier, as_text
from perception_encoder.errors import ClassifierError, QueryError
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.core.pools import WorkPool
from perception_encoder.server.core.served_models import ServedModels
from perception_encoder.types import Embeddings


class ServedClassifiers:
    """Classifiers by the names of their files, without the suffix; they are read once.

    Args:
        paths: of their files.

    Raises:
        ClassifierError: one cannot be read, or two have one name.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._served: dict[str, FewShotClassifier] = {}
        for path in paths:
            name = Path(path).stem
            if name in self._served:
                raise ClassifierError(f"two classifiers are called {name!r}; rename {path}")
            self._served[name] = load_classifier(path)

    def __iter__(self) -> Iterator[tuple[str, FewShotClassifier]]:
        return iter(self._served.items())

    def get(self, name: str) -> FewShotClassifier:
        """Return a classifier.

        Raises:
            ClassifierError: there is none of that name.
        """
        if name not in self._served:
            known = ", ".join(self._served) or "none; start it with --classifier"
            raise ClassifierError(f"this server has no classifier {name[:100]!r}; it has: {known}")
        return self._served[name]


async def teach(
    served: ServedIndex,
    examples: Mapping[str, Sequence[str]],
    none: Sequence[str],
    *,
    searches: WorkPool,
    served_models: ServedModels,
) -> bytes:
    """Learn labels from items of an index.

    Args:
        served: the index.
        examples: ids of items by label.
        none: ids of items that have none of the labels.
        searches: the threads that compute it.
        served_models: where the index's model embeds the labels, if it reads texts.

    Returns:
        The content of the classifier's file.

    Raises:
        QueryError: an item is not in the index, is marked twice, or there is nothing to tell apart.
    """
    ids = [key for some in examples.values() for key in some] + list(none)
    if len(set(ids)) < len(ids):
        raise QueryError("an item is an example twice; give it one label, or none of them")
    prompts: Embeddings | None = None
    async with served_models.use(served.identity.model_id) as worker:
        served.index.check(worker.prepared_by(served.identity.preprocess).identity)
        if worker.model.reads_text:
            prompts = await worker.embed_texts([as_text(label) for label in examples])
    return await searches.run(_teach, served, examples, none, prompts)


def _teach(
    served: ServedIndex,
    examples: Mapping[str, Sequence[str]],
    none: Sequence[str],
    prompts: Embeddings | None,
) -> bytes:
    pairs: list[tuple[str, tuple[str, ...]]] = [
        (key, (label,)) for label, some in examples.items() for key in some
    ]
    pairs += [(key, ()) for key in none]
    found = served.fresh().by_ids([key for key, _ in pairs])
    missing = [key for key, _ in pairs if key not in found]
    if missing:
        raise QueryError(f"the index {served.name} has no item {missing[0][:64]!r}")
    try:
        classifier = FewShotClassifier.fit(
            np.stack([found[key][1] for key, _ in pairs]),
            [labels for _, labels in pairs],
            identity=served.identity,
            contents=[found[key][0].sha256 for key, _ in pairs],
            embed_text=None if prompts is None else lambda _: prompts,
        )
    except ValueError as err:
        raise QueryError(str(err)) from err
    return dump_classifier(classifier)
