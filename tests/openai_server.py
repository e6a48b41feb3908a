"""A server on this machine that speaks OpenAI's chat-completions protocol, for tests of the real client over real HTTP.

It answers what `answer(request)` returns, and by default repeats the user's last message.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

PATIENCE = 20
"""Seconds after which a hanging answer gives up, so that a failing test ends."""


@dataclass
class Answer:
    """What the server says to one request."""

    text: str = ""
    tool_calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    status: int = 200
    code: str | None = None
    """OpenAI's machine-readable code of an error."""
    hang: bool = False
    """Send half of a stream, or nothing, then wait until the client goes away."""
    usage: tuple[int, int] = (11, 7)
    """Tokens of the prompt and of the completion."""


class OpenAIServer:
    """A server that runs while its block does.

    Attributes:
        requests: the bodies that it was sent.
        keys: the `Authorization` headers that it was sent.
        kept: models of a test, which must live until their clients are closed.
        hanging: set when an answer that hangs has begun to.
        left: set when the client of a hanging answer went away.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], Answer] | None = None) -> None:
        self.answer = answer or (lambda request: Answer(text=f"You said: {last_user_message(request)}"))
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.kept: list[object] = []
        self.hanging = threading.Event()
        self.left = threading.Event()
        owner = self

        class Handler(_Handler):
            server_of_test = owner

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # Connections are joined on close, so that no socket outlives the test.
        self._http.daemon_threads = False
        self.base_url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE
    server_of_test: OpenAIServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Tests are quiet."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server_of_test
        server.keys.append(self.headers.get("Authorization"))
        if self.path != "/v1/chat/completions":
            self.send_json(404, {"detail": "Not Found"})
            return
        server.requests.append(request)
        answer = server.answer(request)
        if answer.status != 200:
            error = {"message": "as the test wants it", "type": "error", "code": answer.code}
            self.send_json(answer.status, {"error": error})
        elif request.get("stream"):
            self.send_stream(request, answer)
        elif answer.hang:
            self.wait_for_the_client_to_leave()
        else:
            self.send_json(200, completion(request, answer))

    def send_json(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data)

    def send_stream(self, request: dict[str, Any], answer: Answer) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        chunks = list(stream_chunks(request, answer))
        for chunk in chunks[: len(chunks) // 2] if answer.hang else chunks:
            self.send_event(json.dumps(chunk))
        if answer.hang:
            self.wait_for_the_client_to_leave()
            return
        self.send_event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def send_event(self, data: str) -> None:
        line = f"data: {data}\n\n".encode()
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()

    def wait_for_the_client_to_leave(self) -> None:
        self.close_connection = True
        self.server_of_test.hanging.set()
        try:
            left = self.connection.recv(1) == b""
        except ConnectionError:
            left = True
        except TimeoutError:
            left = False
        if left:
            self.server_of_test.left.set()


def last_user_message(request: dict[str, Any]) -> str:
    content = [message["content"] for message in request["messages"] if message["role"] == "user"][-1]
    return content if isinstance(content, str) else " ".join(part["text"] for part in content)


def tool_results(request: dict[str, Any]) -> list[str]:
    return [message["content"] for message in request["messages"] if message["role"] == "tool"]


def completion(request: dict[str, Any], answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None}
    if answer.tool_calls:
        message["tool_calls"] = tool_call_parts(answer)
    return {
        "id": "completion-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish(answer)}],
        "usage": usage(answer),
    }


def stream_chunks(request: dict[str, Any], answer: Answer) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": piece} for piece in words(answer.text)]
    if answer.tool_calls:
        deltas.append({"tool_calls": tool_call_parts(answer)})
    choices = [[{"index": 0, "delta": delta, "finish_reason": None}] for delta in deltas]
    choices.append([{"index": 0, "delta": {}, "finish_reason": finish(answer)}])
    common = {"id": "completion-1", "object": "chat.completion.chunk", "created": 1_700_000_000}
    chunks = [{**common, "model": request["model"], "choices": choice} for choice in choices]
    if request.get("stream_options", {}).get("include_usage"):
        chunks.append({**common, "model": request["model"], "choices": [], "usage": usage(answer)})
    return chunks


def words(text: str) -> list[str]:
    return re.findall(r"\S+\s*", text)


def finish(answer: Answer) -> str:
    return "tool_calls" if answer.tool_calls else "stop"


def tool_call_parts(answer: Answer) -> list[dict[str, Any]]:
    return [
        {
            "index": index,
            "id": f"call-{index}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for index, (name, arguments) in enumerate(answer.tool_calls)
    ]


def usage(answer: Answer) -> dict[str, int]:
    prompt, completed = answer.usage
    return {"prompt_tokens": prompt, "completion_tokens": completed, "total_tokens": prompt + completed}
