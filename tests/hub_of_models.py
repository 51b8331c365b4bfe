"""As much of the Hugging Face hub as a search asks for: lists of models by words, and who holds a token."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

MODELS = [
    ("Qwen/Qwen2.5-Coder-7B-Instruct", 7_615_616_512, 1_234_567, "apache-2.0", False),
    ("Qwen/Qwen2.5-Coder-0.5B-Instruct", 494_032_768, 98_765, "apache-2.0", False),
    ("meta-llama/Llama-3.2-1B", 1_235_814_400, 2_000_000, "llama3.2", "manual"),
    ("<img src=x onerror=alert(1)>/coder", None, 3, "", False),
]


class HubOfModels(http.server.BaseHTTPRequestHandler):
    """Answers by words: `slow` takes long, `busy` is refused, `odd` is no list; all others are looked for in names."""

    asked: list[dict[str, str]] = []
    tokens: list[str] = []
    slow_s = 0.5

    def log_message(self, *_):
        """Say nothing."""

    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def do_GET(self):
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        type(self).tokens.append(self.headers.get("Authorization", ""))
        if url.path == "/api/whoami-v2":
            return self.send(200, {"name": "ada", "type": "user", "auth": {"accessToken": {"displayName": "t"}}})
        type(self).asked.append(query)
        words = query.get("search", "").lower()
        if words == "slow":
            time.sleep(type(self).slow_s)
        if words == "busy":
            return self.send(429, {"error": "too many requests"})
        if words == "odd":
            return self.send(200, {"not": "a list"})
        found = [model for model in MODELS if all(word in model[0].lower() for word in words.split())]
        self.send(200, [self.entry(*model) for model in found])

    @staticmethod
    def entry(name, weights, downloads, licence, gated):
        tags = ["text-generation", *([f"license:{licence}"] if licence else [])]
        held = {"safetensors": {"parameters": {"BF16": weights}, "total": weights}} if weights else {}
        return {"_id": "0" * 24, "id": name, "downloads": downloads, "tags": tags, "gated": gated, **held}

    def send(self, code, value):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def hub_of_models() -> Iterator[str]:
    """Run it on loopback; gives its address."""
    HubOfModels.asked, HubOfModels.tokens = [], []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), HubOfModels)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
