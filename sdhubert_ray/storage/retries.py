"""Which errors of a store pass, how often they are waited out, and what the others are called."""

import errno
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

ATTEMPTS = 6
"""How often a request is made. With 30 % of all requests failing, 7 in 10,000 fail so often in a row."""
FIRST_PAUSE = 0.5
"""The longest pause after the first attempt, seconds; it doubles from one to the next. Each pause is drawn between 0
and its longest (full jitter), so that workers that were refused together do not come back together."""
LONGEST_PAUSE = 8.0
"""Where the doubling ends, seconds: all pauses together take 7.8 s on average and 15.5 s at most."""
PATIENCE = 30.0
"""After so many seconds no attempt begins any more, but for the second."""

# Processes that were started together must not draw the same pauses, whatever their seed.
_jitter = random.SystemRandom()

# Errors are recognised by the types of those client libraries that are loaded: one that is not has raised nothing.
_Types = Mapping[str, tuple[str, ...]]
_CLIENT_ERRORS: _Types = {
    "aiohttp": ("ClientError",),
    "azure.core.exceptions": ("AzureError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "botocore.parsers": ("ResponseParserError",),
    "gcsfs.retry": ("ChecksumError", "HttpError"),
    "google.auth.exceptions": ("GoogleAuthError",),
    "http.client": ("HTTPException",),
    "httpx": ("HTTPError",),
    "httpx2": ("HTTPError",),
    "huggingface_hub.errors": ("EntryNotFoundError", "XetDownloadError"),
    "paramiko.ssh_exception": ("SSHException",),
    "urllib3.exceptions": ("HTTPError",),
}
_TRANSIENT: _Types = {
    "aiohttp": ("ClientConnectionError", "ClientPayloadError"),
    "azure.core.exceptions": ("IncompleteReadError", "ServiceRequestError", "ServiceResponseError"),
    # The last three: an answer that arrived damaged, and a role's token that could not be had just then.
    "botocore.exceptions": (
        "ConnectionError",
        "HTTPClientError",
        "IncompleteReadError",
        "ChecksumError",
        "FlexibleChecksumError",
        "CredentialRetrievalError",
    ),
    "botocore.parsers": ("ResponseParserError",),  # a 503 whose body is no XML
    "gcsfs.retry": ("ChecksumError",),
    "google.auth.exceptions": ("TransportError",),
    "http.client": ("HTTPException",),
    "httpx": ("TransportError",),
    "httpx2": ("TransportError",),
    "huggingface_hub.errors": ("XetDownloadError",),
    "requests.exceptions": ("ConnectionError", "Timeout", "ChunkedEncodingError"),
    "urllib3.exceptions": ("ProtocolError", "TimeoutError"),
}
# Which errors tell an HTTP status, and as what; others have a `code` that is none.
_WITH_STATUS = (
    ("aiohttp", "ClientResponseError", "status"),
    ("azure.core.exceptions", "HttpResponseError", "status_code"),
    ("gcsfs.retry", "HttpError", "code"),
)
_NO_CREDENTIALS: _Types = {
    "botocore.exceptions": (
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "SSOError",
        "TokenRetrievalError",
    ),
    "google.auth.exceptions": ("DefaultCredentialsError",),
}
# That somebody does not want to ask does not pass.
_FINAL: _Types = {"huggingface_hub.errors": ("OfflineModeIsEnabled",)}
# Two commits at once: the second is refused, and may come again.
_OF_COMMITS: _Types = {"huggingface_hub.errors": ("HfHubHTTPError",)}
_COMMIT_STATUSES = frozenset({409, 412})
_TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 509})
# These count whatever status they come with: S3 says 400 to a body that arrived cut, 409 to two writers at once, and
# 200 before a multipart upload fails.
_TRANSIENT_CODES = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "XAmzContentSHA256Mismatch",
    }
)
_TRANSIENT_ERRNOS = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENETUNREACH,
    }
)
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE with ~/.aws/credentials, "
    "or run where a role is attached",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, run `gcloud auth application-default login`, "
    "or run where a service account is attached",
}
_MISSING = {"hf": "does not exist, or is private: correct the name, make the repository, or set HF_TOKEN"}
_CREDENTIALS.update(s3a=_CREDENTIALS["s3"], gcs=_CREDENTIALS["gs"])


class TransientError(OSError):
    """A store that could not be reached, or refused, as often as it was asked; later it may be back."""


def retrying(uri: str, call: Callable[[], T]) -> T:
    """Make a request of a store, again if it fails in a way that may pass.

    Args:
        uri: what it is about, for messages.
        call: the request; harmless if made twice, and ended by itself in some time.

    Raises:
        TransientError: the last attempt failed as those before it.
        FileNotFoundError, PermissionError, FileExistsError, OSError: it failed for good. Every message begins with the
            URI; none holds credentials.
    """
    begun = time.monotonic()
    attempt = 1
    while True:
        try:
            return call()
        # A client says ValueError to a name that no file of its store can have.
        except _loaded(_CLIENT_ERRORS, OSError, ValueError) as error:
            if not _is_transient(error):
                raise _translated(error, uri) from None  # a cause that is printed may hold a signed URL
            seconds = time.monotonic() - begun
            if attempt >= ATTEMPTS or (attempt > 1 and seconds > PATIENCE):
                message = f"{shown(uri)}: {_reason(error)} (attempt {attempt}, after {seconds:.0f} s)"
                raise TransientError(message) from None
        time.sleep(_jitter.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1))))
        attempt += 1


def shown(text: str) -> str:
    """A URI, or a sentence that holds one, without what may be secret: user and password, and the query."""
    return re.sub(r"(://[^\s'\"?]*)\?[^\s'\")]*", r"\1", re.sub(r"://[^/@\s'\"]*:[^/@\s'\"]*@", "://", text))


def _is_transient(error: Exception) -> bool:
    links = list(_chain(error))
    if any(isinstance(link, _loaded({**_NO_CREDENTIALS, **_FINAL})) for link in links):
        return False
    status, code = _answer(error)
    if status in _COMMIT_STATUSES and isinstance(error, _loaded(_OF_COMMITS)):
        return True
    if code in _TRANSIENT_CODES or status in _TRANSIENT_STATUSES:
        return True
    if status is not None:
        return False
    passing = _loaded(_TRANSIENT, ConnectionError, TimeoutError)
    return any(
        isinstance(link, passing) or (isinstance(link, OSError) and link.errno in _TRANSIENT_ERRNOS) for link in links
    )


def _translated(error: Exception, uri: str) -> OSError:
    status, code = _answer(error)
    name = shown(uri)
    if any(isinstance(link, _loaded(_NO_CREDENTIALS)) for link in _chain(error)):
        advice = _CREDENTIALS.get(uri.partition("://")[0], "see the documentation of its fsspec package")
        return PermissionError(f"{name}: no credentials were found; {advice}")
    if code == "NoSuchBucket":
        return FileNotFoundError(f"{name}: there is no such bucket")
    missing = _MISSING.get(uri.partition("://")[0])
    # The HTTP filesystem says "not found" to every refusal; the status tells. The hub says 401 to what is not there.
    if status in (404, 410) or (isinstance(error, FileNotFoundError) and (status is None or missing)):
        return FileNotFoundError(f"{name}: {missing or 'does not exist'}")
    if isinstance(error, FileExistsError) or status == 412:
        return FileExistsError(f"{name}: exists already")
    reason = f"{name}: {_reason(error)}"
    if isinstance(error, PermissionError) or status in (401, 403) or str(error).startswith("Forbidden"):
        return PermissionError(reason)
    if isinstance(error, (IsADirectoryError, NotADirectoryError)):
        return type(error)(reason)
    return OSError(reason)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it says it was caused by: s3fs and the HTTP filesystem hide theirs there."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def _answer(error: Exception) -> tuple[int | None, str | None]:
    """The HTTP status and the code of the store's answer, if an error tells them."""
    for link in _chain(error):
        response: Any = getattr(link, "response", None)
        if isinstance(response, dict):  # botocore
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return found, str(response.get("Error", {}).get("Code"))
        if hasattr(response, "status_code"):  # requests
            return int(response.status_code), None
        for module, kind, attribute in _WITH_STATUS:
            if isinstance(link, _loaded({module: (kind,)})):
                status = str(getattr(link, attribute))
                return (int(status) if status.isdigit() else None), None
    return None, None


def _reason(error: Exception) -> str:
    """What an error says, on one line."""
    status, code = _answer(error)
    told = code if code is not None and not code.isdigit() else status
    source = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ is not None else error
    text = getattr(source, "strerror", None) or str(source) or type(source).__name__
    if told is not None and str(told) not in text:
        text = f"{told}: {text}"
    return shown(" ".join(text.split()))


def _loaded(types: _Types, *always: type[Exception]) -> tuple[type[Exception], ...]:
    """Those of these exceptions whose modules are loaded, and some more."""
    modules = ((sys.modules[module], names) for module, names in types.items() if module in sys.modules)
    found = (getattr(module, name, None) for module, names in modules for name in names)
    return (*always, *(kind for kind in found if kind is not None))
