"""Downloads and sources against local servers that are laid out like the real ones, and misbehave."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.artifacts.auto import open_artifacts, upstream_refusal
from harness.artifacts.china import ChinaArtifacts
from harness.artifacts.download import Downloader, architecture, k3s_file_name
from harness.artifacts.upstream import UpstreamArtifacts, checksum_of
from harness.errors import Blame, EnvironmentProblem, UsageError
from harness.profile import load_profile
from harness.web import WebProblem

K3S = b"\x7fELF not really k3s " * 5000
DIGEST = hashlib.sha256(K3S).hexdigest()


class Site:
    """A web server: path → what to do with a request. Counts requests, notes ranges."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes | Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[tuple[str, str | None]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append((self.path, self.headers.get("Range")))
                page = site.pages.get(self.path)
                if page is None:
                    self.send_error(404)
                elif callable(page):
                    page(self)
                else:
                    send(self, page)

            do_HEAD = do_GET

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def count(self, path: str) -> int:
        return sum(1 for asked, _ in self.asked if asked == path)


def send(request: BaseHTTPRequestHandler, body: bytes, *, cut: int | None = None, etag: str = '"v1"') -> None:
    """Answer as a file server does; ``cut`` breaks off after so many bytes of the file."""
    start = 0
    wanted = request.headers.get("Range")
    if wanted and request.headers.get("If-Range") == etag:
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
    request.send_response(206 if start else 200)
    request.send_header("ETag", etag)
    request.send_header("Content-Length", str(len(body) - start))
    request.end_headers()
    request.wfile.write(body[start:cut] if cut is not None else body[start:])
    request.wfile.flush()
    if cut is not None:
        request.close_connection = True


@pytest.fixture
def site() -> Iterator[Site]:
    one = Site()
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.fixture
def downloader(tmp_path: Path) -> Downloader:
    return Downloader(tmp_path / "cache", between_attempts_s=0)


def test_fetch_verifies_caches_by_content_and_asks_once(site: Site, downloader: Downloader) -> None:
    site.pages["/k3s"] = K3S
    first = downloader.fetch(f"{site.url}/k3s", sha256=DIGEST, executable=True)
    second = downloader.fetch(f"{site.url}/elsewhere/k3s", sha256=DIGEST, executable=True)
    assert first == second
    assert first.read_bytes() == K3S
    assert first.stat().st_mode & 0o111
    assert len(site.asked) == 1


def test_damaged_cache_is_noticed_and_fetched_again(site: Site, downloader: Downloader) -> None:
    site.pages["/k3s"] = K3S
    path = downloader.fetch(f"{site.url}/k3s", sha256=DIGEST)
    path.write_bytes(b"rot")
    assert downloader.fetch(f"{site.url}/k3s", sha256=DIGEST).read_bytes() == K3S
    assert site.count("/k3s") == 2


def test_broken_download_is_resumed(site: Site, downloader: Downloader) -> None:
    cuts = [30_000, 60_000]
    site.pages["/k3s"] = lambda request: send(request, K3S, cut=cuts.pop(0) if cuts else None)
    assert downloader.fetch(f"{site.url}/k3s", sha256=DIGEST).read_bytes() == K3S
    ranges = [wanted for _, wanted in site.asked]
    assert ranges == [None, "bytes=30000-", "bytes=60000-"]


def test_file_that_changed_meanwhile_is_not_glued_together(site: Site, downloader: Downloader) -> None:
    answers = [
        lambda request: send(request, b"old" * 20_000, cut=9_000, etag='"old"'),
        lambda request: send(request, K3S, etag='"new"'),
    ]
    site.pages["/k3s"] = lambda request: answers.pop(0)(request)
    assert downloader.fetch(f"{site.url}/k3s", sha256=DIGEST).read_bytes() == K3S


def test_a_download_that_never_completes_says_how_much_came(site: Site, downloader: Downloader) -> None:
    site.pages["/k3s"] = lambda request: send(request, K3S, cut=0)
    with pytest.raises(WebProblem, match="received 0 bytes, expected 100000") as caught:
        downloader.fetch(f"{site.url}/k3s", sha256=DIGEST)
    assert "5 attempts" in caught.value.hint


def test_wrong_checksum_is_refused_and_not_kept(site: Site, downloader: Downloader, tmp_path: Path) -> None:
    site.pages["/k3s"] = b"something else"
    with pytest.raises(WebProblem, match=f"expected is {DIGEST}"):
        downloader.fetch(f"{site.url}/k3s", sha256=DIGEST)
    assert list((tmp_path / "cache" / "objects").iterdir()) == []


def test_redirect_is_followed_and_a_circle_is_named(site: Site, downloader: Downloader) -> None:
    def to(target: str) -> Callable[[BaseHTTPRequestHandler], None]:
        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(302)
            request.send_header("Location", target)
            request.send_header("Content-Length", "0")
            request.end_headers()

        return answer

    site.pages |= {"/a": to("/k3s"), "/k3s": K3S, "/circle": to("/circle")}
    assert downloader.fetch(f"{site.url}/a").read_bytes() == K3S
    with pytest.raises(WebProblem, match="circle"):
        downloader.fetch(f"{site.url}/circle")


def test_missing_release_asks_about_the_version_at_once(site: Site, downloader: Downloader) -> None:
    with pytest.raises(WebProblem, match="404") as caught:
        downloader.fetch(f"{site.url}/nowhere")
    assert "version" in caught.value.hint
    assert len(site.asked) == 1


def test_server_errors_are_tried_again(site: Site, downloader: Downloader) -> None:
    codes = [503, 429]

    def answer(request: BaseHTTPRequestHandler) -> None:
        if codes:
            request.send_error(codes.pop(0))
        else:
            send(request, K3S)

    site.pages["/k3s"] = answer
    assert downloader.fetch(f"{site.url}/k3s").read_bytes() == K3S


def test_a_web_page_in_place_of_a_file_is_refused_and_not_kept(
    site: Site, downloader: Downloader, tmp_path: Path
) -> None:
    site.pages["/cert-manager.yaml"] = b"\n<!DOCTYPE html><html>Please log in</html>"
    with pytest.raises(WebProblem, match=r"/cert-manager.yaml: .*web page"):
        downloader.fetch(f"{site.url}/cert-manager.yaml")
    assert list((tmp_path / "cache" / "objects").iterdir()) == []


def test_what_lasts_is_the_environments_fault_with_url_and_advice(site: Site, downloader: Downloader) -> None:
    site.pages["/k3s"] = lambda request: request.send_error(429)
    with pytest.raises(WebProblem, match=r"http://.*/k3s: answers 429") as caught:
        downloader.fetch(f"{site.url}/k3s")
    assert caught.value.blame is Blame.ENVIRONMENT
    assert "--registry-auth" in caught.value.hint
    assert len(site.asked) == 5


def test_progress_is_told_in_bytes(site: Site, tmp_path: Path) -> None:
    site.pages["/k3s"] = K3S
    told: list[tuple[str, int, int | None]] = []
    one = Downloader(tmp_path, transferred=lambda *args: told.append(args))
    one.fetch(f"{site.url}/k3s")
    assert told[-1] == ("k3s", len(K3S), len(K3S))


def k3s_release(site: Site, base: str, digest: str = DIGEST) -> None:
    name = k3s_file_name()
    site.pages[f"{base}/{name}"] = K3S
    sums = f"{'0' * 64}  k3s-airgap-images-amd64.tar\n{digest}  {name}\n"
    site.pages[f"{base}/sha256sum-{architecture()}.txt"] = sums.encode()


def test_upstream_layout(site: Site, downloader: Downloader) -> None:
    profile = load_profile("seed")
    k3s_release(site, "/k3s-io/k3s/releases/download/v1.28.5%2Bk3s1")
    olm = "/operator-framework/operator-lifecycle-manager/releases/download/v0.26.0"
    site.pages |= {
        "/cert-manager/cert-manager/releases/download/v1.7.1/cert-manager.yaml": b"cm",
        f"{olm}/crds.yaml": b"crds",
        f"{olm}/olm.yaml": b"olm",
        "/install/stable/gitlab-runner-operator.yaml": b"sub",
    }
    source = UpstreamArtifacts(profile, downloader, github=site.url, operatorhub=site.url)
    assert source.k3s().read_bytes() == K3S
    names = ("cert-manager.yaml", "crds.yaml", "olm.yaml", "gitlab-runner-operator.yaml")
    assert [source.manifest(name).read_bytes() for name in names] == [b"cm", b"crds", b"olm", b"sub"]
    assert source.rehearsal == ()
    assert source.versions["k3s"] == "v1.28.5+k3s1"


def test_releases_are_cached_the_subscription_is_not(site: Site, downloader: Downloader) -> None:
    release = "/cert-manager/cert-manager/releases/download/v1.7.1/cert-manager.yaml"
    mutable = "/install/stable/gitlab-runner-operator.yaml"
    site.pages |= {release: b"cm", mutable: b"old"}
    source = UpstreamArtifacts(load_profile("seed"), downloader, github=site.url, operatorhub=site.url)
    for name in ("cert-manager.yaml", "gitlab-runner-operator.yaml"):
        source.manifest(name)
    site.pages[mutable] = b"new"
    assert source.manifest("cert-manager.yaml").read_bytes() == b"cm"
    assert source.manifest("gitlab-runner-operator.yaml").read_bytes() == b"new"
    assert site.count(release) == 1


def test_china_layout_has_a_dash_for_the_plus(site: Site, downloader: Downloader) -> None:
    k3s_release(site, "/k3s/v1.28.5-k3s1")
    source = ChinaArtifacts(load_profile("seed"), downloader, rancher=site.url, github=site.url)
    assert source.k3s().read_bytes() == K3S
    assert "gcr.io" in source.registry_endpoints()


@pytest.mark.parametrize(
    "form",
    [
        "{hash}",
        "{hash}\n",
        "{hash}  asset.tar.gz\n",
        "{hash} *asset.tar.gz\r\n",
        "{other}  asset.tar.gz.asc\n{hash}  ./out/asset.tar.gz\n",
        "SHA256 (asset.tar.gz) = {hash}\n",
        "asset.tar.gz: {hash}\n",
        "SHA256(asset.tar.gz)= {upper}\n",
    ],
)
def test_a_checksum_file_in_any_usual_form(form: str) -> None:
    text = form.format(hash=DIGEST, upper=DIGEST.upper(), other="0" * 64)
    assert checksum_of("asset.tar.gz", text, "https://example.org/") == DIGEST


@pytest.mark.parametrize(
    "text", ["", "<html>", f"{DIGEST}  another.tar.gz", f"{DIGEST}\n{'0' * 64}", "asset.tar.gz"]
)
def test_a_checksum_file_that_does_not_name_the_asset_is_refused(text: str) -> None:
    with pytest.raises(WebProblem, match=r"https://example.org/: .*doesn't name asset.tar.gz"):
        checksum_of("asset.tar.gz", text, "https://example.org/")


def test_wrong_sum_of_a_release_stops_before_anything_runs(site: Site, downloader: Downloader) -> None:
    k3s_release(site, "/k3s/v1.28.5-k3s1", digest="1" * 64)
    source = ChinaArtifacts(load_profile("seed"), downloader, rancher=site.url, github=site.url)
    with pytest.raises(WebProblem, match="expected is 1111"):
        source.k3s()


def test_auto_takes_the_lab_when_upstream_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match="the lab is not installed"):
        open_artifacts("auto", load_profile("seed"), report=said.append, probe="http://127.0.0.1:9/")
    assert "out of reach" in said[0]


def test_auto_takes_upstream_when_it_answers(site: Site) -> None:
    site.pages["/releases"] = b""
    said: list[str] = []
    probe = f"{site.url}/releases"
    assert upstream_refusal(probe) is None
    assert open_artifacts("auto", load_profile("seed"), report=said.append, probe=probe).rehearsal == ()
    assert "upstream" in said[0]


def test_a_named_source_never_falls_back(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither auto, upstream, china nor a directory"):
        open_artifacts(str(tmp_path / "none"), load_profile("seed"))
