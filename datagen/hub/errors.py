"""What may go wrong between us and the Hugging Face Hub: tried again where that helps, or said in one sentence."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from datagen.common.errors import UserError, strip_secrets
from datagen.common.proxies import client_problem

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")
RESUMED = " (r1vlm-train with --resume)"
PASSING = (408, 412, 429, 500, 502, 503, 504)  # a later try may end otherwise; 412: another commit came in between
WAITS = (1.0, 4.0)  # seconds before each further try; for uploads the client itself tries for half a minute


def with_retries(action: Callable[[], T]) -> T:
    """What `action` returns; tried again, with a line on stderr, where the Hub was busy or the connection broke."""
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_chain, wait_fixed

    retrying = Retrying(
        retry=retry_if_exception(lambda error: _passing(error) is not None),
        wait=wait_chain(*map(wait_fixed, WAITS)),
        stop=stop_after_attempt(len(WAITS) + 1),
        before_sleep=_report_retry,
        reraise=True,
    )
    return retrying(action)


def _report_retry(state: RetryCallState) -> None:
    error = state.outcome and state.outcome.exception()
    if error and state.next_action:
        wait = state.next_action.sleep
        print(f"the Hub did not do it ({_passing(error)}): trying again in {wait:.0f} s", file=sys.stderr, flush=True)


def _passing(error: BaseException) -> str | None:
    """What went wrong, where a later try may end otherwise.

    No connection at all is no such case (nothing was begun), nor is what hf_xet says, which has tried for minutes.
    """
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx  # the client that it uses: httpx2 since version 2

    for cause in causes_of(error):
        if isinstance(cause, HfHubHTTPError):
            return f"answer {cause.response.status_code}" if cause.response.status_code in PASSING else None
        if isinstance(cause, httpx.ConnectError | httpx.UnsupportedProtocol):
            return None
        if isinstance(cause, httpx.TransportError):
            return "the connection broke"
        if isinstance(cause, json.JSONDecodeError):  # a gateway's page
            return "an answer that is none"
        if isinstance(cause, OSError) and "Consistency check failed" in str(cause):
            return "a file came with another length"
    return None


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, the one that caused it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


class _WithoutAddresses(logging.Filter):
    """Takes addresses out: those of uploads and downloads are signed, and a log is no place for them."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = re.sub(r"\w+://\S+", "...", record.getMessage()), ()
        return True


@contextmanager
def hub_errors_explained(repo: str, kind: str, revision: str | None = None) -> Iterator[None]:
    """Turn what may go wrong between us and the Hub into a `UserError`; other exceptions pass."""
    from huggingface_hub.utils import logging as hub_logging

    handlers, without = hub_logging.get_logger("huggingface_hub").handlers, _WithoutAddresses()
    for handler in handlers:
        handler.addFilter(without)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        sentence = _sentence(error, repo, kind, revision)
        if sentence is None:
            raise
        raise UserError(sentence) from error
    finally:
        for handler in handlers:
            handler.removeFilter(without)


def endpoint() -> str:
    """The Hub's address, without a password."""
    from huggingface_hub.constants import ENDPOINT

    scheme, _, rest = ENDPOINT.rpartition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if scheme else rest


def _sentence(error: BaseException, repo: str, kind: str, revision: str | None) -> str | None:
    """What to tell the user; None for an error that isn't the Hub's."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    causes = list(causes_of(error))

    def among(*kinds: type[BaseException]) -> Any:
        return next((cause for cause in causes if isinstance(cause, kinds)), None)

    if answer := among(errors.HfHubHTTPError):
        return _refusal(answer, repo, kind, revision)
    again = f"run the same command again{RESUMED if kind == 'model' else ''}"
    unreachable = f"can't reach {endpoint()}: check the network, then {again}"
    known: list[tuple[type[BaseException], str]] = [
        (errors.LocalTokenNotFoundError, "you are not logged in: run  hf auth login  or set HF_TOKEN"),
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set: unset it to publish"),
        (httpx.UnsupportedProtocol, f"{endpoint()} is no address: HF_ENDPOINT begins with https:// (or http://)"),
        (httpx.TransportError, unreachable),
        (json.JSONDecodeError, f"{endpoint()} does not answer as a Hub does: check HF_ENDPOINT and the network"),
        (
            errors.LocalEntryNotFoundError,
            f"there is no folder {repo} here, and no {kind} of that name has been downloaded: check the name, or "
            "unset HF_HUB_OFFLINE",
        ),
        (errors.HFValidationError, f"{repo} is no repository: write USER/NAME"),
        (
            UnicodeEncodeError,
            "your token is none (it is not ASCII): log in with  hf auth login  or set HF_TOKEN",
        ),
    ]
    if (xet := among(ConnectionError)) and not among(errors.OfflineModeIsEnabled):  # hf_xet's own, with a text alone
        return _xet_refusal(str(xet), repo) or unreachable
    sentence = next((sentence for kind_of_error, sentence in known if among(kind_of_error)), None)
    return sentence or (client_problem() if among(ImportError, OSError, ValueError, httpx.InvalidURL) else None)


def _xet_refusal(message: str, repo: str) -> str | None:
    if "(404" in message:
        return f"{endpoint()} has no Xet storage: set HF_HUB_DISABLE_XET=1, then run the same command again"
    if "(401" in message or "(403" in message:
        return f"your token may not do this with {repo}: take one that may (hf auth login), or another repository"
    return None


def _refusal(error: Any, repo: str, kind: str, revision: str | None) -> str:
    """What to tell the user of an answer that is not what was asked for."""
    from huggingface_hub import errors, get_token

    status = error.response.status_code
    message = " ".join(strip_secrets(error.server_message or "", get_token() or "").split())[:300]
    if status in PASSING:
        again = f"run the same command again later{RESUMED if kind == 'model' else ''}"
        return f"{endpoint()} is busy (answer {status}): {again}"
    known: list[tuple[bool, str]] = [
        (
            isinstance(error, errors.GatedRepoError),
            f"{repo} is gated: ask for access on its page, and log in with  hf auth login",
        ),
        (
            isinstance(error, errors.RevisionNotFoundError),
            f"{repo} has no revision {revision}: name a branch, a tag or a commit behind the @",
        ),
        (
            isinstance(error, errors.RepositoryNotFoundError) or status == 404,
            f"there is no folder {repo} here, and no {kind} of that name on {endpoint()} that you may read: check the "
            "name, or log in with  hf auth login",
        ),
        (status == 401, f"{endpoint()} does not accept your token: log in again with  hf auth login  or set HF_TOKEN"),
        (
            status == 403,
            f"your token may not do this with {repo}: take one that may (hf auth login), or another repository",
        ),
    ]
    refused = f"{endpoint()} refuses {repo} (answer {status}{': ' + message if message else ''})"
    return next((sentence for applies, sentence in known if applies), refused)
