"""Runs in the environment of other people's clients: clip-retrieval's `ClipClient`.

    python clip_client.py FILE URL KEY IMAGE

FILE is the package's clip_client.py: the module is taken alone, as the package's own imports want
torch, autofaiss and more. Prints one JSON object: what each query returned.
"""

import importlib.util
import json
import sys

import numpy as np


def main(file: str, url: str, key: str, image: str) -> None:
    spec = importlib.util.spec_from_file_location("clip_client", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    service = f"{url}/knn-service?api_key={key}"
    client = module.ClipClient(url=service, indice_name="drawings", num_images=5)
    every = module.ClipClient(url=service, indice_name="drawings", num_images=40, deduplicate=False)
    vector = np.random.default_rng(0).normal(size=24).tolist()
    texts = module.ClipClient(url=service, indice_name="drawings", modality=module.Modality.TEXT)
    other = module.ClipClient(url=service, indice_name="no-such-index")
    stranger = module.ClipClient(url=f"{url}/knn-service", indice_name="drawings")
    sys.stdout.write(
        json.dumps(
            {
                "text": client.query(text="a cat"),
                "image": client.query(image=image),
                "url": client.query(image="https://example.com/a.png"),
                "vector": client.query(embedding_input=vector),
                "given": vector,
                "every": every.query(image=image),
                "texts": texts.query(text="a cat"),
                "unknown": other.query(text="a cat"),
                "stranger": stranger.query(text="a cat"),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
