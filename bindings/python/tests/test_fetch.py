"""Resources by address, from a server on loopback, as far as the operator allows."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernlet_accel import DeniedError, InvalidError, NotFoundError, Resource


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path == "/open/labels.txt"
        self.send_response(200 if found else 404)
        body = b"tench" if found else b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_resource_is_fetched_where_the_operator_allows_it_and_nowhere_else(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DeniedError, match="fetch.allow"):
        Resource.from_url(f"{server}/open/labels.txt")
    config = tmp_path / "accel.toml"
    config.write_text(f'[fetch]\nallow = ["{server}/open/"]\n')
    resource = Resource.from_url(f"{server}/open/labels.txt", config=config)
    assert resource.files == [("labels.txt", 5)] and resource.kind == "data"
    monkeypatch.setenv("KERNLET_ACCEL_CONFIG", str(config))
    assert Resource.from_url(f"{server}/open/labels.txt", kind="model").kind == "model"
    with pytest.raises(NotFoundError, match="404"):
        Resource.from_url(f"{server}/open/missing")
    with pytest.raises(PermissionError):
        Resource.from_url(f"{server}/closed/labels.txt")
    with pytest.raises(InvalidError, match="no address"):
        Resource.from_url("file:///etc/passwd")
