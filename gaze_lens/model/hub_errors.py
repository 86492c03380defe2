"""Errors of Hugging Face's hub in one line that says what to do."""

from collections.abc import Iterator

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
ADVICE: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((GatedRepoError,), f"it is gated: accept its conditions on its page of the hub, then {LOG_IN}"),
    ((HFValidationError,), "there is no such folder here, and models of the hub are named owner/name"),
    ((RevisionNotFoundError,), "it has no such revision: give a branch, a tag or a commit of it"),
    (
        (RepositoryNotFoundError,),
        f"the hub has no such model, or it is private: check the spelling, or {LOG_IN}; or give a folder that exists",
    ),
    (
        (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, TimeoutError, HfHubHTTPError),
        "the hub cannot be reached, and the files are not on this machine: connect, or give a folder that holds them",
    ),
)


def reason(error: BaseException) -> str:
    """Why something could not be loaded, in one line: what to do about the hub, or the first line of the error."""
    for one in _chain(error):
        for kinds, advice in ADVICE:
            if isinstance(one, kinds):
                return advice
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, and so on."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
