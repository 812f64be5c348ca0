"""POST /v1/embeddings: OpenAI's own client, and the ways in which others send images."""

import base64

import numpy as np
import openai
import pytest
from server.serving import data_uri, encoded, image, in_base64, running
from small_models import drawing

from perception_encoder.server import ServerSettings
from perception_encoder.server.http.access import hash_key
from perception_encoder.server.options import AccessSettings, ModelSettings
from perception_encoder.vectors import normalize_rows

KEY = "a-key-of-some-length"
FILES = [image(1), encoded(drawing(2, 25, 50), "JPEG"), image(3, 64, 48)]
TEXTS = ["a cat", "", "a very long text " * 20]
CLOSE = 2e-5  # the same in any batch, within fp32's rounding


@pytest.fixture(scope="module")
def server():
    settings = ServerSettings(
        models=ModelSettings(aliases=(("text-embedding-3-small", "pe-nano"),)),
        access=AccessSettings(key_hashes=(hash_key(KEY),), max_items=20),
    )
    with running(settings) as running_server:
        running_server.client.headers["Authorization"] = f"Bearer {KEY}"
        yield running_server


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as one:
        yield one


def vectors(reply):
    assert [one.index for one in reply.data] == list(range(len(reply.data)))
    return np.array([one.embedding for one in reply.data])


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_the_client_embeds_texts(server, client, encoding):
    wanted = {} if encoding is None else {"encoding_format": encoding}
    reply = client.embeddings.create(model="pe-nano", input=TEXTS, **wanted)
    if encoding == "base64":
        got = [np.frombuffer(base64.b64decode(one.embedding), "<f4") for one in reply.data]
    else:
        got = vectors(reply)
    assert np.allclose(got, server.model.embed_text(TEXTS), atol=CLOSE)
    assert reply.model == "pe-nano"
    assert reply.object == "list"


def test_one_text_may_stand_alone(server, client):
    reply = client.embeddings.create(model="pe-nano", input="a cat")
    assert np.allclose(vectors(reply), server.model.embed_text("a cat"), atol=CLOSE)


async def embedded_async(url, inputs):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY) as client:
        return await client.embeddings.create(model="pe-nano", input=inputs)


def test_the_asynchronous_client(server):
    import asyncio

    reply = asyncio.run(embedded_async(server.url, ["a cat", data_uri(FILES[0])]))
    expected = [server.model.embed_text("a cat")[0], server.model.embed_images(FILES[:1])[0]]
    assert np.allclose(vectors(reply), expected, atol=CLOSE)


def test_tokens_are_counted_as_far_as_the_model_reads(server, client):
    tokenizer = server.model.tokenizer
    read = [min(len(row), tokenizer.context_length) for row in tokenizer.encode(TEXTS)]
    usage = client.embeddings.create(model="pe-nano", input=[*TEXTS, data_uri(FILES[0])]).usage
    assert usage.prompt_tokens == usage.total_tokens == sum(read)
    assert tokenizer.context_length in read


@pytest.mark.parametrize("dimensions", [1, 7, 24])
def test_shorter_vectors_have_unit_length(server, client, dimensions):
    reply = client.embeddings.create(model="pe-nano", input=TEXTS[:1], dimensions=dimensions)
    whole = server.model.embed_text(TEXTS[:1])
    assert np.allclose(vectors(reply), normalize_rows(whole[:, :dimensions]), atol=10 * CLOSE)


@pytest.mark.parametrize(
    ("form", "modality"),
    [
        (data_uri, None),
        (data_uri, "image"),
        (in_base64, "image"),
        (lambda file: {"image": in_base64(file)}, None),
        (lambda file: {"image": data_uri(file)}, None),
        (lambda file: {"type": "image_url", "image_url": {"url": data_uri(file)}}, None),
        (lambda file: {"type": "image_url", "image_url": data_uri(file)}, None),
    ],
)
def test_every_way_of_sending_images(server, client, form, modality):
    extra = {} if modality is None else {"modality": modality}
    sent = [form(file) for file in FILES]
    reply = client.embeddings.create(model="pe-nano", input=sent, extra_body=extra)
    assert np.allclose(vectors(reply), server.model.embed_images(FILES), atol=CLOSE)


def test_texts_and_images_may_be_mixed(server, client):
    sent = [{"text": "a cat"}, data_uri(FILES[0]), "a dog", {"type": "text", "text": "data:"}]
    reply = client.embeddings.create(model="pe-nano", input=sent)
    texts = server.model.embed_text(["a cat", "a dog", "data:"])
    expected = [texts[0], server.model.embed_images(FILES[:1])[0], texts[1], texts[2]]
    assert np.allclose(vectors(reply), expected, atol=CLOSE)


def posted(server, status=200, **body):
    reply = server.client.post("/v1/embeddings", json=body)
    assert reply.status_code == status, reply.text
    return reply.json()


def test_messages_hold_one_image_or_text(server):
    image = {"type": "image_url", "image_url": {"url": data_uri(FILES[0])}}
    expected = server.model.embed_images(FILES[:1])
    for content in ([image], [image, {"type": "text", "text": " "}]):
        reply = posted(server, messages=[{"role": "user", "content": content}])
        assert np.allclose(reply["data"][0]["embedding"], expected, atol=CLOSE)
    reply = posted(server, messages=[{"role": "user", "content": "a cat"}])
    assert np.allclose(reply["data"][0]["embedding"], server.model.embed_text("a cat"), atol=CLOSE)
    both = [image, {"type": "text", "text": "what is this?"}]
    error = posted(server, 400, messages=[{"role": "user", "content": both}])["error"]
    assert "holds 2 images and texts" in error["message"]


IMAGE = {"type": "image_url", "image_url": {"url": data_uri(FILES[0])}}
CONVERSATIONS = [
    [{"role": "user", "content": "a cat"}],
    [{"role": "system", "content": ""}, {"role": "user", "content": [IMAGE]}],
    [{"role": "user", "content": [{"type": "text", "text": "a dog"}]}],
    [
        {
            "role": "user",
            "content": [{"type": "text", "text": ""}, {"image_url": data_uri(FILES[1])}],
        },
        {"role": "assistant", "content": None},
    ],
    [{"role": "user", "content": [{"type": "input_image", "image_url": data_uri(FILES[2])}]}],
    [{"role": "user", "content": ""}],
]


def embedded_conversations(model):
    a_cat, a_dog, empty = model.embed_text(["a cat", "a dog", ""])
    images = model.embed_images(FILES)
    return np.array([a_cat, images[0], a_dog, images[1], images[2], empty])


@pytest.mark.parametrize("field", ["messages", "input"])
def test_a_list_of_conversations_gives_an_embedding_each(server, field):
    reply = posted(server, model="pe-nano", encoding_format="float", **{field: CONVERSATIONS})
    got = [one["embedding"] for one in reply["data"]]
    assert [one["index"] for one in reply["data"]] == list(range(len(CONVERSATIONS)))
    assert np.allclose(got, embedded_conversations(server.model), atol=CLOSE)
    one = posted(server, **{field: CONVERSATIONS[:1]})["data"]
    assert np.allclose([each["embedding"] for each in one], got[:1], atol=CLOSE)


@pytest.mark.parametrize("field", ["messages", "input"])
def test_a_conversation_gives_one_embedding(server, field):
    expected = embedded_conversations(server.model)
    for conversation, embedding in zip(CONVERSATIONS, expected, strict=True):
        reply = posted(server, **{field: conversation})
        assert len(reply["data"]) == 1
        assert np.allclose(reply["data"][0]["embedding"], embedding, atol=CLOSE)


def test_a_clients_null_for_the_other_field_is_nothing(server):
    assert posted(server, messages=CONVERSATIONS[0], input=None)["data"]
    assert posted(server, input="a cat", messages=None)["data"]


TWO = [{"role": "user", "content": [IMAGE, {"type": "text", "text": "what is this?"}]}]
BAD_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"messages": []}, 400, "messages"),
        ({"messages": [[]]}, 400, "messages[0]"),
        ({"messages": [CONVERSATIONS[0], CONVERSATIONS[0][0]]}, 400, "messages"),
        ({"messages": [*CONVERSATIONS[:2], TWO]}, 400, "messages[2]"),
        ({"messages": TWO}, 400, "messages"),
        ({"input": [TWO]}, 400, "input[0]"),
        ({"messages": [{"role": "user", "content": []}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": 3}]}, 422, "messages[0].content"),
        ({"messages": [[{"role": "user", "content": 3}]]}, 422, "messages[0][0].content"),
        ({"input": [{"role": "user", "content": [3]}]}, 422, "input[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "audio_url", "audio_url": "x"}]}]},
            400, "messages[0].content[0]",
        ),
        (
            {"messages": [CONVERSATIONS[0], [{"role": "user", "content": [BAD_IMAGE]}]]},
            400, "messages[1][0].content[0]",
        ),
        ({"input": ["a", {"text": "b"}, {"image": "AAAA"}]}, 400, "input[2]"),
        ({"input": ["a", data_uri(b"no image"), data_uri(b"none either")]}, 400, "input[1]"),
        ({"input": data_uri(b"no image")}, 400, "input"),
        ({"input": ["a", {"text": 3}]}, 400, "input[1]"),
        ({"input": ["a", data_uri(FILES[0])[:-90]]}, 400, "input[1]"),
        ({"input": "a", "dimensions": -1}, 422, "dimensions"),
        ({"input": "a", "dimensions": [2]}, 422, "dimensions"),
        ({"input": "a", "encoding_format": "bytes"}, 422, "encoding_format"),
        ({"input": [[{"role": "user", "content": "a"}], "b"]}, 400, "input"),
    ],
)  # fmt: skip
def test_the_message_and_the_param_name_the_same_place(server, body, status, param):
    error = posted(server, status, **body)["error"]
    assert error["param"] == param
    if error["code"] != "invalid_input" or "[" in param:
        assert error["message"].startswith(f"{param}: ")


def test_conversations_are_counted_as_inputs(server):
    error = posted(server, 400, messages=[CONVERSATIONS[0]] * 21)["error"]
    assert error["code"] == "too_many_items"


def test_an_alias_answers_and_says_who_it_is(client):
    reply = client.embeddings.create(model="text-embedding-3-small", input="a cat")
    assert reply.model == "pe-nano"


def test_the_client_lists_the_models(client):
    listed = client.models.list().data
    assert [one.id for one in listed] == ["pe-nano", "text-embedding-3-small"]
    assert [one.root for one in listed] == ["pe-nano", "pe-nano"]
    assert client.models.retrieve("pe-nano").owned_by == "perception-encoder"
    assert listed[0].aliases == ["text-embedding-3-small"]


@pytest.mark.parametrize(
    ("wanted", "kind", "code", "param"),
    [
        ({"model": "nothing", "input": "a"}, openai.NotFoundError, "model_not_found", "model"),
        ({"input": [1, 2, 3]}, openai.BadRequestError, "invalid_input", "input"),
        ({"input": [[1, 2], [3]]}, openai.BadRequestError, "invalid_input", "input"),
        ({"input": []}, openai.BadRequestError, "invalid_input", "input"),
        ({"input": ["a"] * 21}, openai.BadRequestError, "too_many_items", None),
        (
            {"input": ["a", data_uri(b"no image")]},
            openai.BadRequestError, "invalid_image", "input[1]",
        ),
        ({"input": [{"audio": "x"}]}, openai.BadRequestError, "invalid_input", "input[0]"),
        ({"input": "a", "dimensions": 25}, openai.BadRequestError, "too_many_dimensions", None),
        (
            {"input": "a", "extra_body": {"modality": "audio"}},
            openai.UnprocessableEntityError, "invalid_request", "modality",
        ),
    ],
)  # fmt: skip
def test_the_client_raises_its_own_errors(client, wanted, kind, code, param):
    with pytest.raises(kind) as raised:
        client.embeddings.create(**{"model": "pe-nano", **wanted})
    assert raised.value.code == code
    assert raised.value.param == param
    assert raised.value.type == "invalid_request_error"
    assert raised.value.body["message"]


def test_a_wrong_key_is_an_authentication_error(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as raised:
            client.embeddings.create(model="pe-nano", input="a")
        assert raised.value.code == "invalid_api_key"


def test_whoever_asks_too_often_gets_a_rate_limit_error():
    access = AccessSettings(requests_per_minute=1)
    with (
        running(ServerSettings(access=access)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client,
    ):
        client.embeddings.create(model="pe-nano", input="a")
        with pytest.raises(openai.RateLimitError) as raised:
            client.embeddings.create(model="pe-nano", input="a")
    assert raised.value.type == "rate_limit_error"
