"""The server that people write first: FastAPI around open_clip, one forward pass for each request.

One at a time: on a CPU a pass takes all cores, so passes beside each other would only be slower.
"""

import base64
import io
import sys

import open_clip
import torch
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image


def create_app(name: str, weights: str) -> FastAPI:
    """Load the model; an image's bytes or a JSON text become a unit vector as base64."""
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=weights)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    app = FastAPI()

    def reply(vectors: torch.Tensor) -> dict[str, str]:
        return {"embedding": base64.b64encode(vectors[0].numpy().tobytes()).decode()}

    @app.get("/ready")
    def ready() -> dict[str, str]:
        return {}

    @app.post("/image")
    async def image(request: Request) -> dict[str, str]:
        opened = Image.open(io.BytesIO(await request.body()))
        pixels = preprocess(opened).unsqueeze(0)
        with torch.inference_mode():
            return reply(model.encode_image(pixels, normalize=True))

    @app.post("/text")
    async def text(request: Request) -> dict[str, str]:
        words = (await request.json())["texts"]
        with torch.inference_mode():
            return reply(model.encode_text(tokenizer(words), normalize=True))

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(*sys.argv[1:3]), port=int(sys.argv[3]), access_log=False)
