"""A server of OpenAI's shape that has no model and says tokens at the pace of a card: all its streams take each step
together, as in vLLM. Started in a process of its own, for who asks what a client adds to a server's time."""

import asyncio
import multiprocessing
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from multiprocessing.connection import Connection

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

NAME = "paced"


@contextmanager
def paced(tokens_per_second: float, rows: int) -> Iterator[str]:
    """Its address. So many tokens a second in all, where `rows` are asked for at once."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_serve, args=(there, rows / tokens_per_second), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve(told: Connection, step_seconds: float) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else 40 ms an answer
    server = uvicorn.Server(uvicorn.Config(_Paced(step_seconds).app, log_level="warning"))
    told.send(listener.getsockname()[1])
    server.run(sockets=[listener])


class _Paced:
    def __init__(self, step_seconds: float) -> None:
        self._seconds = step_seconds
        self._waiting = list[asyncio.Future[None]]()
        routes = [Route("/health", self._health), Route("/v1/models", self._models)]
        self.app = Starlette(
            routes=[*routes, Route("/v1/chat/completions", self._chat, methods=["POST"])], lifespan=self._lifespan
        )

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        stepping = asyncio.create_task(self._steps())
        yield
        stepping.cancel()

    async def _steps(self) -> None:
        loop = asyncio.get_running_loop()
        when = loop.time()
        while True:
            when = max(when + self._seconds, loop.time())
            await asyncio.sleep(when - loop.time())
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                if not each.done():
                    each.set_result(None)

    async def _health(self, _request: Request) -> Response:
        return Response()

    async def _models(self, _request: Request) -> Response:
        return JSONResponse({"data": [{"id": NAME, "owned_by": "vllm", "max_model_len": 8_192}]})

    async def _chat(self, request: Request) -> Response:
        asked = orjson.loads(await request.body())
        if asked.get("stream"):
            return StreamingResponse(self._stream(asked["max_tokens"]), media_type="text/event-stream")
        tokens = sum(len(message["content"]) for message in asked["messages"]) // 4
        return JSONResponse({"choices": [], "usage": {"prompt_tokens": tokens, "completion_tokens": 0}})

    async def _stream(self, tokens: int) -> AsyncIterator[bytes]:
        said, last = _event({"content": " word"}, None), _event({}, "length")
        for _ in range(tokens):
            step: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(step)
            await step
            yield said
        yield last
        yield b"data: " + orjson.dumps({"choices": [], "usage": {"completion_tokens": tokens}}) + b"\n\n"
        yield b"data: [DONE]\n\n"


def _event(delta: dict[str, str], finish: str | None) -> bytes:
    """With all that vLLM puts into one."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "token_ids": None}
    named = {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion.chunk", "created": 1, "model": NAME}
    return b"data: " + orjson.dumps({**named, "choices": [choice]}) + b"\n\n"
