"""Embeds and searches with the client that openapi-python-client generated.

Usage: generated_python.py URL KEY
"""

import json
import sys

from generated_client import AuthenticatedClient, Client
from generated_client.api.native import embed, get_thumbnail, list_indexes, search
from generated_client.models import (
    EmbedReply,
    Encoding,
    ErrorReply,
    IndexesReply,
    NativeEmbedBody,
    NativeEmbedForm,
    SearchBody,
    SearchReply,
    TermBody,
)
from generated_client.types import File

url, key = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=key, timeout=60)
indexes = list_indexes.sync(client=client)
assert isinstance(indexes, IndexesReply)
hits = search.sync(client=client, body=SearchBody(terms=[TermBody(text="a red heart")], k=2))
assert isinstance(hits, SearchReply)
thumbnail = get_thumbnail.sync(hits.hits[0].id, client=client)
assert isinstance(thumbnail, File)
image = thumbnail.payload.read()
embedded = embed.sync(
    client=client, body=NativeEmbedBody(texts=["a red heart"], encoding=Encoding.FLOAT)
)
assert isinstance(embedded, EmbedReply)
uploaded = embed.sync(
    client=client, body=NativeEmbedForm(images=[File(thumbnail.payload, "a.jpg", "image/jpeg")])
)
refused = embed.sync(client=client, body=NativeEmbedBody(images=["AAAA"]))
assert isinstance(refused, ErrorReply)
unknown = list_indexes.sync(client=Client(base_url=url))
sys.stdout.write(
    json.dumps(
        {
            "indexes": [one.name for one in indexes.data],
            "hits": [[hit.name, hit.score] for hit in hits.hits],
            "is_jpeg": image.startswith(b"\xff\xd8"),
            "embedding": embedded.data[0].embedding,
            "uploaded": uploaded.to_dict() if uploaded else None,
            "refused": refused.to_dict(),
            "without_key": unknown.to_dict() if unknown else None,
        }
    )
)
