"""`/v1/chat/completions`, `/v1/responses` and `/v1/models`: what speaks to OpenAI's models can be translated by ours.

What translators wrap around a text is taken off and the door asked for a translation; under the name of the model with
`:raw` a message goes to it word for word. A stream cannot take back what it has said, so it says a segment once that is
settled. Knows the shapes of OpenAI and the door; what others wrap around a text is in `wrappers`.
"""

import asyncio
import time
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import count
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from engine.errors import InvalidRequest, NotSupported, RequestError
from engine.metrics import Metrics
from engine.server import answers, incoming, questions, runs
from engine.server.errors import as_openai, describe
from engine.server.layouts import Wrapped
from engine.server.questions import JsonObject
from engine.server.wrappers import Message, unwrap
from engine.termbase.store import Glossaries
from engine.translator import Translator, refuse_halves
from engine.types import (
    Finished,
    Queued,
    Sampling,
    SegmentDone,
    Started,
    TextDelta,
    TextReplaced,
    TranslationEvent,
    TranslationRequest,
    new_id,
)

MAX_MESSAGES = 1_000
MAX_PARTS = 256  # of one message
MAX_STOPS = 16
RAW = ":raw"  # after the name of the model
LONG_CHARACTERS = 20_000  # of a message that is unwrapped in a thread, or of an answer that is counted in one
MOST_OF_A_TOKEN = 64  # characters

_OURS = ("source_lang", "target_lang", "glossary", "glossary_id", "context", "context_mode", "format")
_SAMPLING = tuple(questions.SamplingFields.model_fields)

AnyFields = TypeVar("AnyFields", bound="_Fields")


class NoTarget(RequestError):
    code = "no_target_lang"


class NoSuchModel(RequestError):
    status = 404
    code = "model_not_found"


class _Part(BaseModel):
    type: str = "text"
    text: str = ""


class _MessageFields(BaseModel):
    role: str = ""
    content: str | Annotated[list[_Part], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None


_Messages = Annotated[list[_MessageFields], Field(max_length=MAX_MESSAGES, fail_fast=True)]
_Stop = Annotated[str, Field(min_length=1, max_length=200)]


class _Fields(BaseModel):
    """What is read of a request; all else is passed over, as servers of this shape do. A description ends the sentence
    'the field must be …' in an error."""

    model: str = Field(default="", description="a string")
    stream: bool = Field(default=False, description="true or false")
    n: int = Field(default=1, ge=1, le=1, description="1: a request has one answer")
    stop: _Stop | Annotated[list[_Stop], Field(max_length=MAX_STOPS, fail_fast=True)] = Field(
        default_factory=list, description=f"a string of 1 to 200 characters, or a list of at most {MAX_STOPS}"
    )
    raw: bool = Field(default=False, description="true or false")


class ChatFields(_Fields):
    messages: _Messages = Field(
        min_length=1, description=f"a list of 1 to {MAX_MESSAGES:,} objects {{role, content}}, their content a string"
    )
    stream_options: dict[str, Any] = Field(default_factory=dict, description="an object")
    max_tokens: int | None = Field(default=None, ge=1, description="a whole number above 0")
    max_completion_tokens: int | None = Field(default=None, ge=1, description="a whole number above 0")


class ResponseFields(_Fields):
    instructions: str = Field(default="", description="a string")
    input: str | _Messages = Field(
        description=f"a string, or a list of at most {MAX_MESSAGES:,} objects {{role, content}}"
    )
    max_output_tokens: int | None = Field(default=None, ge=1, description="a whole number above 0")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is to be answered: texts that were wrapped, or a `prompt` for the model as it stands."""

    model: str  # as it is called in the answer
    stops: tuple[str, ...]
    max_tokens: int | None
    sampling: Sampling
    prompt: str = ""
    wrapped: Wrapped | None = None
    requests: tuple[TranslationRequest, ...] = ()


@dataclass(frozen=True, slots=True)
class _End:
    """What stands at the end of an answer; `is_whole` where neither a limit nor the model cut it off."""

    input_tokens: int
    output_tokens: int
    is_whole: bool


class _Face:
    def __init__(self, translator: Translator, metrics: Metrics, glossaries: Glossaries) -> None:
        self._translator, self._metrics, self._glossaries = translator, metrics, glossaries

    async def asked(self, fields: _Fields, data: JsonObject, messages: list[Message], limit: int | None) -> _Asked:
        """Raises `RequestError` for what cannot be answered."""
        while messages and messages[-1].role == "assistant":
            messages.pop()  # the beginning of an answer, which our model would not go on with
        for message in messages:
            refuse_halves(message.text)
        users = [message.text for message in messages if message.role == "user"]
        if not users:
            raise InvalidRequest("No message is a user's; send the text as the last message, with the role user.")
        is_raw = fields.raw or fields.model.endswith(RAW)
        sampling = _sampling(data)
        asked = _Asked(
            model=self._translator.info.name + (RAW if is_raw else ""),
            stops=(fields.stop,) if isinstance(fields.stop, str) else tuple(fields.stop),
            max_tokens=limit,
            sampling=sampling,
        )
        if is_raw:
            rules = [message.text for message in messages if message.role in ("system", "developer")]
            return replace(asked, prompt="\n\n".join((*rules, users[-1])))
        ours = {name: data[name] for name in _OURS if data.get(name) not in (None, "")}
        return await self._translation(asked, ours, messages, users[-1])

    async def _translation(self, asked: _Asked, ours: JsonObject, messages: list[Message], last: str) -> _Asked:
        wrapped: Wrapped | None
        if "target_lang" in ours:
            wrapped = Wrapped((last,), target="")
        elif len(last) < LONG_CHARACTERS:
            wrapped = unwrap(messages)
        else:
            wrapped = await asyncio.to_thread(unwrap, messages)
        if wrapped is None:
            raise NoTarget(
                "No message says which language to translate into; say it before the text, such as 'Translate into "
                "French:', or send target_lang. To be answered by the model itself, add ':raw' to its name."
            )
        refuse_halves(wrapped.answer([""] * len(wrapped.texts)))  # JSON in a message may have escaped one
        named = wrapped.source if wrapped.source in self._translator.info.languages else None
        fields = questions.read_fields(
            {
                "target_lang": wrapped.target,
                "source_lang": named if named != wrapped.target else None,
                "context": wrapped.context,
                "glossary": {term.source: term.target for term in wrapped.terms},
                **ours,
                "text": list(wrapped.texts) or "",
            },
            questions.TranslateFields,
        )
        first = await questions.to_request(fields, "", new_id(), self._glossaries)
        requests = tuple(replace(first, text=text, sampling=asked.sampling) for text in wrapped.texts)
        return replace(asked, wrapped=wrapped, requests=requests)

    async def whole(self, asked: _Asked) -> tuple[str, _End]:
        """The answer at once, with all that the checks found better."""
        if asked.wrapped is None:
            return await self._joined(asked)
        limits = _Limits(asked, self._translator.count_tokens)
        finished = await runs.translate_all(self._translator, self._metrics, asked.requests)
        answer = asked.wrapped.answer([each.text for each in finished])
        is_long = asked.max_tokens is not None and len(answer) > LONG_CHARACTERS  # to count its tokens takes a while
        text = await asyncio.to_thread(limits.cut, answer) if is_long else limits.cut(answer)
        return text, self._end(asked, limits, text, finished)

    async def _joined(self, asked: _Asked) -> tuple[str, _End]:
        said = list[str]()
        async with aclosing(self.said(asked)) as parts:
            async for part in parts:
                if isinstance(part, _End):
                    return "".join(said), part
                said.append(part)
        raise AssertionError("an answer has an end")

    async def said(self, asked: _Asked) -> AsyncGenerator[str | _End, None]:
        """The answer as it comes, an empty text first. What was said stays."""
        limits = _Limits(asked, self._translator.count_tokens)
        said, finished = list[str](), list[Finished]()
        async with aclosing(self._deltas(asked)) as deltas:
            async for delta in deltas:
                if isinstance(delta, Finished):
                    finished.append(delta)
                    continue
                said.append(limits.feed(delta))
                if said[-1] or len(said) == 1:
                    yield said[-1]
                if limits.reached:
                    break
        if rest := limits.rest():
            said.append(rest)
            yield rest
        yield self._end(asked, limits, "".join(said), finished)

    async def _deltas(self, asked: _Asked) -> AsyncGenerator[str | Finished, None]:
        wrapped = asked.wrapped
        if wrapped is None:
            completion = self._metrics.observe(
                self._translator.complete(asked.prompt, asked.sampling, asked.max_tokens)
            )
            async with aclosing(completion):
                async for event in completion:
                    yield event.text if isinstance(event, TextDelta) else event if isinstance(event, Finished) else ""
        elif len(wrapped.texts) == 1 and wrapped.spell is str:
            before, after = ("".join(map(str, half)) for half in _halves(wrapped.skeleton))
            events = self._metrics.observe(self._translator.stream(asked.requests[0]))
            async with aclosing(settled(events)) as translation:
                async for delta in translation:
                    if isinstance(delta, Finished):
                        yield after
                    yield delta if isinstance(delta, Finished) else before + delta
                    before = ""
        else:
            finished = await runs.translate_all(self._translator, self._metrics, asked.requests)
            yield wrapped.answer([each.text for each in finished])
            for each in finished:
                yield each

    def _end(self, asked: _Asked, limits: "_Limits", text: str, finished: Sequence[Finished]) -> _End:
        """In real tokens; of an answer that was left early as many as it has."""
        is_whole = not limits.is_full and not any(
            warning.code == "truncated" for each in finished for warning in each.warnings
        )
        if finished:
            return _End(sum(f.input_tokens for f in finished), sum(f.output_tokens for f in finished), is_whole)
        tokens = self._translator.count_tokens
        asking = asked.wrapped.texts if asked.wrapped else (asked.prompt,)
        return _End(sum(map(tokens, asking)), tokens(text), is_whole)


class _Limits:
    """Where an answer is to end before its end: at a stop, or after so many tokens."""

    def __init__(self, asked: _Asked, count_tokens: Callable[[str], int]) -> None:
        self.reached = self.is_full = False
        self._stops, self._count = asked.stops, count_tokens
        self._left = asked.max_tokens if asked.wrapped else None  # the model itself counts those of a prompt
        self._held = ""

    def cut(self, text: str) -> str:
        return self.feed(text) + self.rest()

    def feed(self, text: str) -> str:
        """What of it may be said now: the beginning of a stop is held back."""
        if self.reached:
            return ""
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.reached = True
            ready, self._held = self._held[: min(places)], ""
        else:
            most = max((_overlap(self._held, stop) for stop in self._stops), default=0)
            ready, self._held = self._held[: len(self._held) - most], self._held[len(self._held) - most :]
        return self._within(ready)

    def rest(self) -> str:
        held, self._held = self._held, ""
        return "" if self.reached else self._within(held)

    def _within(self, text: str) -> str:
        if self._left is None or not text:
            return text
        tokens = self._count(text)
        if tokens > self._left:
            self.reached = self.is_full = True
            fits = range(1, min(len(text), self._left * MOST_OF_A_TOKEN) + 1)
            return text[: bisect_right(fits, self._left, key=lambda end: self._count(text[:end]))]
        self._left -= tokens
        return text


def _overlap(text: str, stop: str) -> int:
    """How much of the end of a text is the beginning of a stop."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)


def _halves(skeleton: Sequence[str | int]) -> tuple[Sequence[str | int], Sequence[str | int]]:
    place = skeleton.index(0)
    return skeleton[:place], skeleton[place + 1 :]


async def settled(events: AsyncGenerator[TranslationEvent, None]) -> AsyncGenerator[str | Finished, None]:
    """The text of each segment once the checks have looked at it. Where its whole paragraph is written otherwise after
    that, what was said stays, and the segments to come are as they were then."""
    texts, done, is_late = dict[int, str](), -1, False
    async with aclosing(events) as passing:
        async for event in passing:
            match event:
                case Queued() | Started():
                    yield ""
                case TextDelta() if event.segment <= done:
                    yield event.text
                case TextDelta():
                    texts[event.segment] = texts.get(event.segment, "") + event.text
                case TextReplaced():
                    is_late = is_late or event.segment <= done
                    if not is_late:
                        texts[event.segment] = event.text
                case SegmentDone():
                    done, is_late = event.segment, False
                    yield texts.pop(done, "")
                case Finished():
                    yield "".join(texts.values())
                    yield event


def router(translator: Translator, metrics: Metrics, glossaries: Glossaries) -> APIRouter:
    api = APIRouter()
    face = _Face(translator, metrics, glossaries)
    born = int(time.time())

    @api.post("/v1/chat/completions", include_in_schema=False)
    async def chat(request: Request) -> Response:
        data, fields = _read(await incoming.read(request), ChatFields)
        limit = fields.max_completion_tokens or fields.max_tokens
        asked = await face.asked(fields, data, messages_of(fields), limit)
        shape = {"id": f"chatcmpl-{new_id()}", "created": int(time.time()), "model": asked.model}
        if fields.stream:
            counted = bool(fields.stream_options.get("include_usage"))
            return runs.EventStream(_chat_chunks(face.said(asked), shape, counted), _failed, last="[DONE]")
        text, end = await incoming.while_connected(request.receive, face.whole(asked))
        return _json(_chat_answer(shape, text, end))

    @api.post("/v1/responses", include_in_schema=False)
    async def respond(request: Request) -> Response:
        data, fields = _read(await incoming.read(request), ResponseFields)
        asked = await face.asked(fields, data, messages_of(fields), fields.max_output_tokens)
        shape = _response_shape(asked, fields, data)
        if fields.stream:
            return runs.EventStream(_response_events(face.said(asked), shape), _failed, named=True)
        text, end = await incoming.while_connected(request.receive, face.whole(asked))
        return _json(_response_answer(shape, text, end))

    @api.get("/v1/models", include_in_schema=False)
    async def models() -> JsonObject:
        return {"object": "list", "data": [_model(name, born) for name in names()]}

    @api.get("/v1/models/{name:path}", include_in_schema=False)
    async def model(name: str) -> JsonObject:
        if name not in names():
            raise NoSuchModel(f"There is no model {name[:80]!r} here; choose one of: {', '.join(names())}.")
        return _model(name, born)

    def names() -> list[str]:
        return [translator.info.name, translator.info.name + RAW]

    return api


def _read(data: object, model: type[AnyFields]) -> tuple[JsonObject, AnyFields]:
    if not isinstance(data, dict):
        return {}, questions.read_fields(data, model, strict=False)
    known = {name: data[name] for name in model.model_fields if name in data}
    return data, questions.read_fields(known, model, strict=False)


def _sampling(data: JsonObject) -> Sampling:
    given = {name: data[name] for name in _SAMPLING if data.get(name) is not None}
    if isinstance(seed := given.get("seed"), int):
        given["seed"] = seed % 2**53  # theirs may be below zero, and larger
    return Sampling(**questions.read_fields(given, questions.SamplingFields, strict=False).model_dump())


def messages_of(fields: ChatFields | ResponseFields) -> list[Message]:
    if isinstance(fields, ChatFields):
        given, above = fields.messages, ""
    else:
        above = fields.instructions
        given = [_MessageFields(role="user", content=fields.input)] if isinstance(fields.input, str) else fields.input
    messages = [Message(message.role.lower(), _text(message)) for message in given]
    return [Message("system", above), *messages] if above else messages


def _text(message: _MessageFields) -> str:
    if isinstance(message.content, str) or message.content is None:
        return message.content or ""
    for part in message.content:
        if part.type not in ("text", "input_text", "output_text", "refusal"):
            raise NotSupported(
                f"A part of the type {part.type[:40]!r} cannot be translated; send parts of the type text."
            )
    return "".join(part.text for part in message.content)


def _json(content: JsonObject) -> Response:
    return Response(answers.to_json(content), media_type="application/json")


def _failed(error: Exception) -> JsonObject:
    wrong, _ = as_openai(describe(error), getattr(error, "status", 500))
    return {
        "type": "error",
        **wrong,
        "code": wrong["error"]["code"],
        "message": wrong["error"]["message"],
        "param": None,
    }


def _model(name: str, created: int) -> JsonObject:
    return {"id": name, "object": "model", "created": created, "owned_by": "yiwen"}


def _chat_usage(end: _End) -> JsonObject:
    return {
        "prompt_tokens": end.input_tokens,
        "completion_tokens": end.output_tokens,
        "total_tokens": end.input_tokens + end.output_tokens,
    }


def _finish_reason(end: _End) -> str:
    return "stop" if end.is_whole else "length"


def _chat_answer(shape: JsonObject, text: str, end: _End) -> JsonObject:
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(end)}
    return {**shape, "object": "chat.completion", "choices": [choice], "usage": _chat_usage(end)}


async def _chat_chunks(
    said: AsyncGenerator[str | _End, None], shape: JsonObject, is_counted: bool
) -> AsyncGenerator[JsonObject, None]:
    def chunk(delta: JsonObject, finish_reason: str | None = None) -> JsonObject:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {
            **shape,
            "object": "chat.completion.chunk",
            "choices": [choice],
            **({"usage": None} if is_counted else {}),
        }

    begun = False
    async with aclosing(said) as parts:
        async for part in parts:
            if isinstance(part, _End):
                yield chunk({}, _finish_reason(part))
                if is_counted:
                    yield {**shape, "object": "chat.completion.chunk", "choices": [], "usage": _chat_usage(part)}
            else:
                yield chunk({"content": part} if begun else {"role": "assistant", "content": part})
                begun = True


def _response_shape(asked: _Asked, fields: ResponseFields, data: JsonObject) -> JsonObject:
    return {
        "id": f"resp_{new_id()}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": fields.instructions or None,
        "max_output_tokens": fields.max_output_tokens,
        "metadata": {},
        "model": asked.model,
        "output": [],
        "parallel_tool_calls": False,
        "temperature": data.get("temperature"),
        "text": {"format": {"type": "text"}},
        "tool_choice": "none",
        "tools": [],
        "top_p": data.get("top_p"),
        "truncation": "disabled",
        "usage": None,
    }


def _item(shape: JsonObject, status: str, content: list[JsonObject]) -> JsonObject:
    key = str(shape["id"]).replace("resp_", "msg_")
    return {"id": key, "type": "message", "status": status, "role": "assistant", "content": content}


def _output_text(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _response_answer(shape: JsonObject, text: str, end: _End) -> JsonObject:
    status = "completed" if end.is_whole else "incomplete"
    return {
        **shape,
        "status": status,
        "incomplete_details": None if end.is_whole else {"reason": "max_output_tokens"},
        "output": [_item(shape, status, [_output_text(text)])],
        "usage": {
            "input_tokens": end.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": end.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": end.input_tokens + end.output_tokens,
        },
    }


async def _response_events(
    said: AsyncGenerator[str | _End, None], shape: JsonObject
) -> AsyncGenerator[JsonObject, None]:
    numbers = count()

    def numbered(kind: str, **fields: Any) -> JsonObject:
        return {"type": kind, "sequence_number": next(numbers), **fields}

    place = {"item_id": _item(shape, "", [])["id"], "output_index": 0, "content_index": 0}
    texts = list[str]()
    async with aclosing(said) as parts:
        async for part in parts:
            if isinstance(part, _End):
                text = "".join(texts)
                whole = _response_answer(shape, text, part)
                yield numbered("response.output_text.done", **place, text=text, logprobs=[])
                yield numbered("response.content_part.done", **place, part=_output_text(text))
                yield numbered("response.output_item.done", output_index=0, item=whole["output"][0])
                yield numbered(f"response.{whole['status']}", response=whole)
                continue
            if not texts:
                yield numbered("response.created", response=shape)
                yield numbered("response.in_progress", response=shape)
                yield numbered("response.output_item.added", output_index=0, item=_item(shape, "in_progress", []))
                yield numbered("response.content_part.added", **place, part=_output_text(""))
            texts.append(part)
            if part:
                yield numbered("response.output_text.delta", **place, delta=part, logprobs=[])
