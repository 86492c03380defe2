"""`hf:owner/name/heads.json`: a file of a repository on Hugging Face's hub."""

import os

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

from gaze_lens.errors import HeadError

PREFIX = "hf:"
FORM = "hf:owner/name/path/in/it, or hf:owner/name@revision/path/in/it"


def local_file(path: str | os.PathLike[str]) -> str:
    """The path as it is, or where the hub's file lies once it has been fetched.

    Raises HeadError where a hub's file is not there, or cannot be fetched.
    """
    text = os.fspath(path)
    if not text.startswith(PREFIX):
        return text
    owner, _, rest = text.removeprefix(PREFIX).partition("/")
    name, _, file = rest.partition("/")
    name, _, revision = name.partition("@")
    if not (owner and name and file):
        raise HeadError(f"{text} names no file of the hub: expected {FORM}.")
    try:
        return hf_hub_download(f"{owner}/{name}", file, revision=revision or None)
    except LocalEntryNotFoundError as error:
        raise HeadError(f"{text} cannot be fetched: the hub cannot be reached; connect, or give a file.") from error
    except EntryNotFoundError as error:
        raise HeadError(f"{text}: {owner}/{name} has no file {file}; look at its page on the hub.") from error
    except (OSError, HFValidationError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise HeadError(f"{text} cannot be fetched ({reason}); expected {FORM}.") from error
