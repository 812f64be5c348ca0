"""Reads a picture again from what its row in a table says, wherever it lies."""

from perception_encoder.errors import ImageUnreadableError
from perception_encoder.index import item_name
from perception_encoder.pipeline.sources.access import access_by
from perception_encoder.pipeline.sources.files import StoredImage, open_image
from perception_encoder.pipeline.sources.names import is_table, is_tar, scheme
from perception_encoder.pipeline.sources.options import SourceOptions
from perception_encoder.pipeline.sources.tables import read_row
from perception_encoder.pipeline.sources.tars import read_member, size_at


def read_picture(
    uri: str,
    member: str | None = None,
    offset: int | None = None,
    num_bytes: int | None = None,
    *,
    allow_network: bool = True,
) -> bytes:
    """Return the encoded picture of a row.

    Args:
        uri: of the row.
        member: of the row.
        offset: of the row; with it a member of a tar is read without looking for it.
        num_bytes: of the row; it saves a question to a store.
        allow_network: whether a picture may be brought over a network.

    Raises:
        ImageNotFoundError: the file is gone, or has no such member any more.
        ImageError: it cannot be read.
    """
    access = access_by(SourceOptions(allow_network=allow_network))
    if member is None:
        return access.read(uri, num_bytes)
    if is_tar(uri):
        return read_member(access, uri, member, offset)
    if is_table(uri):
        return read_row(access, uri, member)
    item = item_name(uri, member)
    raise ImageUnreadableError(f"{item}: neither a tar archive nor a table", item=item)


def open_picture(uri: str, member: str | None, offset: int | None) -> StoredImage | None:
    """Open the encoded image of a row, to read it part by part; arguments as of `read_picture`.

    Returns:
        None where it can only be read whole: behind a network, in a table, in a packed archive, or
        in an archive that was written anew.

    Raises:
        ImageNotFoundError: the file is gone.
        ImageError: it cannot be read.
    """
    if scheme(uri):
        return None
    if member is None:
        return open_image(uri, item=uri)
    if not is_tar(uri) or offset is None:
        return None
    num_bytes = size_at(access_by(SourceOptions(allow_network=False)), uri, member, offset)
    if num_bytes is None:
        return None
    return open_image(uri, item=item_name(uri, member), part=(offset, num_bytes))
