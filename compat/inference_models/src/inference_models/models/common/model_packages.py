"""The files of a model's folder."""

import os

from inference_models.errors import CorruptedModelPackageError


def get_model_package_contents(
    model_package_dir: str | os.PathLike[str], elements: list[str]
) -> dict[str, str]:
    """Return the path of each element of a folder, by its name.

    Raises:
        CorruptedModelPackageError: an element is not there.
    """
    paths = {element: os.path.join(model_package_dir, element) for element in elements}
    for element, path in paths.items():
        if not os.path.exists(path):
            raise CorruptedModelPackageError(
                f"Model package is incomplete. Could not find element {element} in "
                f"{os.fspath(model_package_dir)}: fetch or copy the folder again"
            )
    return paths
