"""Every error Yiwen raises on purpose. Each says what is wrong, how much, and what to do; knows no layer.

YiwenError
├── RequestError          the caller can mend it              400
│   ├── EmptyText                                             400
│   ├── UnknownLanguage                                       400
│   ├── SameLanguage                                          400
│   ├── DuplicateRun      a WebSocket run with an id in use   400
│   ├── NoSuchDocument    deleted, or never there             404
│   ├── DocumentNotReady  its result was asked for too early  409
│   ├── BenchmarkRunning  one at a time                       409
│   ├── NotSupported      an option that others have          400
│   ├── Unauthorized      no key, or one that is not known    401
│   ├── BrokenMarkup      XML that is not well formed         400
│   ├── TextTooLong                                           413
│   ├── UnsupportedMedia  not JSON and not a form             415
│   ├── BadDocument       a file that is not what it should be 422
│   ├── NoSuchGlossary    deleted, or never there             404
│   ├── TooManyGlossaries                                     409
│   ├── GlossaryError     a file of terms that is of no use   422
│   │   ├── EmptyGlossary                                     422
│   │   ├── GlossaryTooLarge                                  413
│   │   └── UnsupportedGlossary                               415
│   └── InvalidRequest    the shape of the request is off     422
├── NotStored             the disk refused                    507
├── TryLater                                                  + Retry-After
│   ├── TooManyRequests   of one client                       429
│   └── Overloaded        of all                              503
│       ├── Loading       the model is not there yet          503
│       └── Stopping      the program is about to end         503
├── BackendError          the model or its host failed        503
│   └── DeviceLost        for good, in this process           exit status 75
└── StartupError          the program cannot start            exit status 2
    ├── ConfigError       a flag, a variable, a port
    ├── ModelNotFound
    ├── UnsupportedModel
    └── NotThereYet       a server elsewhere; it is waited for
"""

from typing import ClassVar


class YiwenError(Exception):
    """The root. `str(error)` is the sentence a user reads; `code` is what a program switches on."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"


class RequestError(YiwenError):
    status = 400
    code = "bad_request"


class EmptyText(RequestError):
    code = "empty_text"


class UnknownLanguage(RequestError):
    code = "unknown_language"


class SameLanguage(RequestError):
    code = "same_language"


class DuplicateRun(RequestError):
    code = "duplicate_run"


class BrokenMarkup(RequestError):
    """XML that is not well formed."""

    code = "broken_markup"


class TextTooLong(RequestError):
    status = 413
    code = "text_too_long"


class UnsupportedMedia(RequestError):
    status = 415
    code = "unsupported_media"


class NoSuchDocument(RequestError):
    status = 404
    code = "no_such_document"


class DocumentNotReady(RequestError):
    status = 409
    code = "document_not_ready"


class BadDocument(RequestError):
    status = 422
    code = "bad_document"


class BenchmarkRunning(RequestError):
    status = 409
    code = "benchmark_running"


class GlossaryError(RequestError):
    """A file of terms of which nothing can be used."""

    status = 422
    code = "bad_glossary"


class EmptyGlossary(GlossaryError):
    """It holds no term at all, or none that is good."""

    code = "empty_glossary"


class GlossaryTooLarge(GlossaryError):
    status = 413
    code = "glossary_too_large"


class UnsupportedGlossary(GlossaryError):
    """A file of a kind that holds no terms."""

    status = 415
    code = "unsupported_glossary"


class NoSuchGlossary(RequestError):
    status = 404
    code = "no_such_glossary"


class TooManyGlossaries(RequestError):
    status = 409
    code = "too_many_glossaries"


class InvalidRequest(RequestError):
    status = 422
    code = "invalid_request"


class NotStored(YiwenError):
    """The disk refused."""

    status = 507
    code = "not_stored"


class NotSupported(RequestError):
    """Something that another service of the same shape does and we do not."""

    code = "not_supported"


class Unauthorized(RequestError):
    """No key came, or one that is not known."""

    status = 401
    code = "unauthorized"


class TryLater(YiwenError):
    """Refused before any work was done."""

    def __init__(self, message: str, retry_after_seconds: int = 5) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class TooManyRequests(TryLater):
    """This client has asked as much as it may."""

    status = 429
    code = "too_many_requests"


class Overloaded(TryLater):
    """All clients together have asked as much as can be done."""

    status = 503
    code = "overloaded"


class Loading(Overloaded):
    """The model is not there yet; in a while it is."""

    code = "loading"


class Stopping(Overloaded):
    """The program is about to end, and takes nothing new."""

    code = "stopping"


class BackendError(YiwenError):
    status = 503
    code = "backend_failed"


class DeviceLost(BackendError):
    """A card refuses whatever this process asks of it; a new process may have it."""

    code = "device_lost"


class StartupError(YiwenError):
    status = 503
    code = "startup_failed"


class ConfigError(StartupError):
    code = "bad_config"


class ModelNotFound(StartupError):
    code = "model_not_found"


class UnsupportedModel(StartupError):
    code = "unsupported_model"


class NotThereYet(StartupError):
    """A server on another machine that may come up later: no reason to end the program."""

    code = "not_there_yet"
