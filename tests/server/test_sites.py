"""Which names a server answers to, and whose pages may ask it."""

import http.client
import json

import pytest
from cli.command import pe
from server.serving import image, in_base64, make_index, running
from small_models import open_tiny

from perception_encoder.server import ServerSettings, create_app
from perception_encoder.server.http.access import hash_key
from perception_encoder.server.http.sites import Sites
from perception_encoder.server.options import AccessSettings

KEY = "a-key-of-some-length"
ALLOWED = "http://pages.example:3000"
LOOPBACK = AccessSettings(host="127.0.0.1", cors_origins=(ALLOWED,))
EVERYWHERE = AccessSettings(host="0.0.0.0")
JSON = {"Content-Type": "application/json"}


def refusal(settings: AccessSettings, method="GET", path="/v1/models", **headers: str):
    """The status of the refusal of a request with those headers (their _ for -), or None."""
    pairs = {"host": "localhost:9001"} | {
        name.replace("_", "-").lower(): value for name, value in headers.items()
    }
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in pairs.items()],
    }
    found = Sites(settings).find_refusal(scope)
    return None if found is None else found.status_code


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:9001", "LOCALHOST.:80", "pe.localhost:9001", "127.0.0.1:9001",
        "127.8.9.1", "[::1]:9001", "[::1]", "192.168.1.5:9001", "10.0.0.7", "[fe80::1%25eth0]:80",
        "[2001:db8::7]:9001", "0.0.0.0:9001", "",
    ],
)  # fmt: skip
def test_addresses_and_localhost_are_always_answered(host):
    assert refusal(LOOPBACK, host=host) is None
    assert refusal(EVERYWHERE, host=host) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:9001", "127.0.0.1.evil.example", "localhost.evil.example",
        "evil-localhost", "127.0.0.1.nip.io", "0x7f.1", "127.1", "[::1].evil.example", "local host",
        "EVIL.EXAMPLE.", "xn--80ak6aa92e.com", "\xe4.example",
    ],
)  # fmt: skip
def test_other_names_are_not(host):
    assert refusal(LOOPBACK, host=host) == 403


def test_names_of_containers_and_machines_are_answered_beyond_loopback(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "box.corp.example")
    names = (
        "server:9001", "pe.default.svc.cluster.local", "host.docker.internal:9001", "box",
        "box.corp.example:9001", "nas.local", "printer.lan",
    )  # fmt: skip
    for name in names:
        assert refusal(EVERYWHERE, host=name) is None, name
        assert refusal(LOOPBACK, host=name) == 403, name
    assert refusal(EVERYWHERE, host="evil.example") == 403
    by_name = AccessSettings(host="pe.corp.example")
    assert refusal(by_name, host="PE.corp.example:9001") is None
    assert refusal(by_name, host="evil.example") == 403


def test_names_can_be_added():
    named = AccessSettings(host="127.0.0.1", allowed_hosts=("Images.Example", "b.example:9001"))
    assert refusal(named, host="images.example:8080") is None
    assert refusal(named, host="b.example") is None
    assert refusal(named, host="c.example") == 403
    assert refusal(AccessSettings(host="127.0.0.1", allowed_hosts=("*",)), host="c.example") is None


def test_who_has_a_key_may_ask_by_any_name():
    """Behind a proxy or a service's name; a page that rebinds its own name has no key."""
    keyed = {"key_hashes": (hash_key(KEY),), "host": "0.0.0.0"}
    assert refusal(AccessSettings(**keyed), host="images.example") is None
    named = AccessSettings(**keyed, allowed_hosts=("images.example",))
    assert refusal(named, host="evil.example") == 403


SAME = {"origin": "http://localhost:9001"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, None),
        ({"user_agent": "curl/8", "referer": "http://evil.example/"}, None),
        ({"sec_fetch_mode": "cors"}, None),  # Node's fetch
        (SAME, None),
        ({**SAME, "sec_fetch_site": "same-origin"}, None),
        ({"sec_fetch_site": "same-origin"}, None),
        ({"sec_fetch_site": "none"}, None),
        ({"host": "pe.localhost", "origin": "https://pe.localhost"}, None),  # TLS ended before
        ({"host": "localhost:80", "origin": "http://localhost"}, None),
        ({"origin": "https://proxied.example", "sec_fetch_site": "same-origin"}, None),
        ({"origin": ALLOWED}, None),
        ({"origin": ALLOWED, "sec_fetch_site": "cross-site"}, None),
        ({"sec_fetch_site": "cross-site", "referer": f"{ALLOWED}/a?b"}, None),  # <img>
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://localhost:9002"}, 403),
        ({"origin": "http://localhost"}, 403),
        ({"origin": "http://127.0.0.1:9001"}, 403),
        ({"origin": "http://localhost:9001.evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://pages.example"}, 403),
        ({"origin": f"{ALLOWED}1"}, 403),
        ({**SAME, "sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "unheard-of"}, 403),
        ({"sec_fetch_site": "cross-site", "referer": "http://evil.example/"}, 403),
        ({"sec_fetch_site": "cross-site", "referer": f"http://evil.example/{ALLOWED}"}, 403),
        ({"sec_fetch_site": "cross-site", "referer": "http://["}, 403),
        ({"sec_fetch_site": "cross-site", "origin": "null", "referer": f"{ALLOWED}/"}, 403),
    ],
)
def test_pages_of_other_origins_may_not_ask(headers, status):
    for method in ("GET", "POST", "DELETE"):
        assert refusal(LOOPBACK, method, **headers) == status


def test_all_pages_may_ask_where_that_is_wanted():
    anyone = AccessSettings(host="127.0.0.1", cors_origins=("*",))
    assert refusal(anyone, origin="http://evil.example", sec_fetch_site="cross-site") is None
    assert refusal(anyone, sec_fetch_site="cross-site") is None


def test_a_link_of_another_site_leads_to_the_page_and_to_nothing_else():
    visit = {
        "sec_fetch_site": "cross-site",
        "sec_fetch_mode": "navigate",
        "sec_fetch_dest": "document",
    }
    assert refusal(LOOPBACK, path="/", **visit) is None
    assert refusal(LOOPBACK, path="/v1/duplicates", **visit) == 403
    assert refusal(LOOPBACK, "POST", path="/", **visit) == 403
    assert refusal(LOOPBACK, path="/", **{**visit, "sec_fetch_dest": "iframe"}) == 403
    assert refusal(LOOPBACK, path="/", host="evil.example", **visit) == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content_type": "text/plain"}, None),  # no browser
        ({"content_type": "application/x-www-form-urlencoded"}, None),  # curl -d
        ({**SAME, "content_type": "application/json; charset=utf-8"}, None),
        ({**SAME, "content_type": "image/png"}, None),
        ({**SAME, "content_type": "multipart/form-data; boundary=b"}, None),
        ({"origin": ALLOWED, "content_type": "text/plain"}, None),  # clip-retrieval's page
        ({**SAME, "content_type": "text/plain;charset=UTF-8"}, 415),
        ({**SAME, "content_type": "TEXT/PLAIN"}, 415),
        ({**SAME, "content_type": "application/x-www-form-urlencoded"}, 415),
        ({"sec_fetch_site": "same-origin"}, 415),
    ],
)
def test_pages_say_that_they_send_json(headers, status):
    assert refusal(LOOPBACK, "POST", "/v1/embed", content_length="10", **headers) == status
    assert refusal(LOOPBACK, "POST", "/v1/embed", transfer_encoding="chunked", **headers) == status
    assert refusal(LOOPBACK, "POST", "/v1/session", content_length="0", **headers) is None


@pytest.mark.parametrize(
    "origin", ["a.example", "http://a.example/path", "*.a.example", "https://"]
)
def test_what_is_no_origin_is_refused_at_the_start(origin):
    with pytest.raises(ValueError, match="is no origin"):
        create_app(
            ServerSettings(access=AccessSettings(cors_origins=(origin,))),
            open_model=lambda _: open_tiny(),
        )


@pytest.mark.parametrize(
    "origin", [ALLOWED + "/", "HTTP://Pages.Example:3000", " http://pages.example:3000"]
)
def test_origins_are_known_however_they_are_written(origin):
    assert Sites(AccessSettings(cors_origins=(origin,))).origins == {ALLOWED}
    assert Sites(AccessSettings(cors_origins=("https://a.example:443",))).origins == {
        "https://a.example"
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sites")
    (folder / "a.png").write_bytes(image(1))
    model = open_tiny()
    make_index(folder / "t.lance", model, [folder / "a.png"])
    settings = ServerSettings(
        access=AccessSettings(host="127.0.0.1", cors_origins=(ALLOWED,)),
        indexes=(str(folder / "t.lance"),),
    )
    with running(settings, model=model) as running_server:
        yield running_server


ROUTES = (
    ("GET", "/"), ("GET", "/web/main.js"), ("GET", "/healthz"), ("GET", "/readiness"),
    ("GET", "/health"), ("GET", "/metrics"), ("GET", "/info"), ("GET", "/openapi.json"),
    ("GET", "/v1/models"), ("GET", "/v1/indexes"), ("GET", "/v1/items"), ("GET", "/v1/items/a"),
    ("GET", "/v1/items/a/image"), ("GET", "/v1/items/a/thumbnail"), ("GET", "/v1/duplicates"),
    ("GET", "/model/registry"), ("GET", "/indices-list"), ("GET", "/nowhere"), ("HEAD", "/healthz"),
    ("POST", "/v1/embed"), ("POST", "/v1/similarity"), ("POST", "/v1/classify"),
    ("POST", "/v1/search"), ("POST", "/v1/session"), ("POST", "/v1/embeddings"), ("POST", "/embed"),
    ("POST", "/"), ("POST", "/clip/embed_text"), ("POST", "/perception_encoder/compare"),
    ("POST", "/model/add"), ("POST", "/model/remove"), ("POST", "/model/clear"),
    ("POST", "/knn-service"), ("POST", "/metadata"), ("PUT", "/v1/embed"), ("OPTIONS", "/v1/embed"),
)  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_is_guarded(server, method, path):
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        reply = server.client.request(method, path, headers={**JSON, **headers}, content=b"{}")
        assert reply.status_code == 403
        assert "access-control-allow-origin" not in reply.headers
    assert server.services.served_models.states()[0].is_loaded


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/v1/search", lambda body: body["error"]["message"]),
        ("/v1/embeddings", lambda body: body["error"]["message"]),
        ("/embed", lambda body: body["error"]),
        ("/model/clear", lambda body: body["message"]),
        ("/knn-service", lambda body: body["message"]),
        ("/nowhere", lambda body: body["error"]["message"]),
    ],
)
def test_refusals_have_the_form_of_each_api_and_say_what_to_do(server, path, message):
    def refused(**headers: str) -> str:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return message(server.client.post(path, headers={**JSON, **headers}).json())

    assert "--allowed-host" in refused(Host="evil.example")
    assert "'evil.example'" in refused(Host="evil.example")
    assert "--cors" in refused(Origin="http://evil.example")
    assert "http://evil.example" in refused(Origin="http://evil.example")
    assert "application/json" in refused(
        Sec_Fetch_Site="same-origin", Content_Type="text/plain", Transfer_Encoding="chunked"
    )


def test_what_is_refused_is_counted_under_its_api(server):
    server.client.post("/model/clear", headers={"Origin": "http://evil.example"})
    counted = server.client.get("/metrics").text
    assert 'pe_errors_total{code="forbidden_origin"}' in counted
    assert 'pe_requests_total{api="roboflow",route="none",status="403"}' in counted


def test_two_hosts_are_refused(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=100)
    connection.putrequest("GET", "/v1/models", skip_host=True)
    connection.putheader("Host", "localhost")
    connection.putheader("Host", "evil.example")
    connection.endheaders()
    assert connection.getresponse().status == 400
    connection.close()


@pytest.mark.parametrize(
    "kind", ["application/json", "application/x-www-form-urlencoded", "text/plain", None]
)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embed", {"images": [in_base64(image(1))]}),
        ("/v1/embeddings", {"input": "a cat"}),
        ("/knn-service", {"text": "a cat"}),
        ("/embed", {"inputs": "a cat"}),
    ],
)
def test_curl_and_clients_that_say_nothing_of_json_are_answered(server, path, body, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    reply = server.client.post(path, content=json.dumps(body).encode(), headers=headers)
    assert reply.status_code == 200


def test_preflights_let_headers_of_any_name_pass_for_allowed_origins(server):
    asked = {
        "Origin": ALLOWED,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }
    reply = server.client.options("/v1/embeddings", headers=asked)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == ALLOWED
    assert "x-stainless-lang" in reply.headers["access-control-allow-headers"]
    reply = server.client.options(
        "/v1/embeddings", headers={**asked, "Origin": "http://evil.example"}
    )
    assert "access-control-allow-origin" not in reply.headers


def test_replies_to_an_allowed_origin_can_be_read_and_shown_there(server):
    for path in ("/v1/models", "/nowhere"):
        reply = server.client.get(path, headers={"Origin": ALLOWED})
        assert reply.headers["access-control-allow-origin"] == ALLOWED
        exposed = reply.headers["access-control-expose-headers"].lower()
        assert {"retry-after", "x-request-id"} <= set(exposed.replace(" ", "").split(","))
    plain = server.client.get("/v1/models")
    assert plain.headers["vary"] == "Origin"  # else a cache would give it to a page as it is
    assert plain.headers["cross-origin-resource-policy"] == "cross-origin"
    with running() as other:
        reply = other.client.get("/v1/models")
        assert reply.headers["cross-origin-resource-policy"] == "same-origin"


def test_the_command_takes_names_and_origins(tmp_path):
    done = pe("serve", "--cors", "example.com", folder=tmp_path)
    assert done.returncode == 1
    assert "'example.com' is no origin" in done.stderr
