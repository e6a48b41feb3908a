"""From a model's name to the model that answers, and from a provider's error to what to do about it.

Rules that must stay true:
- names are pydantic-ai's and are passed through; ours are only `offline`, `HOLDFAST_MODEL` for no name at all, and
  a bare name with a `base_url`, which means an OpenAI-compatible server;
- one name has one client per process, shared by every agent and thread, used on the background loop only and closed
  there at exit;
- an error keeps its class and text; a note is added, and no note holds a key or an address.
"""

from __future__ import annotations

import os
import re
import threading
import weakref
from typing import TYPE_CHECKING, Any, TypeAlias

from holdfast.errors import AgentError, InvalidInput

if TYPE_CHECKING:
    from pydantic_ai.models import Model
    from pydantic_ai.providers import Provider

__all__ = ["OFFLINE", "explain", "is_known", "resolve"]

OFFLINE = "offline"
"""The name of the built-in model that needs no key and no network."""

_RESPONSES_PREFIXES = ("openai:", "openai-responses:")
_NOTE = "Holdfast: "
_ADDRESS = re.compile(r"\b[A-Z_]+_(BASE_URL|ENDPOINT)\b")
_CREDENTIALS = re.compile(r"API_KEY|api_key|credential", re.IGNORECASE)
_Key: TypeAlias = tuple[str, str | None, tuple[tuple[str, str], ...]]


class _Clients:
    """The models that were made or met, so that their clients can be closed on the loop that used them."""

    def __init__(self) -> None:
        self.inherited: list[Any] = []
        self._empty()

    def _empty(self) -> None:
        self.lock = threading.Lock()
        self.made: dict[_Key, Model[Any]] = {}
        self.met: weakref.WeakValueDictionary[int, Model[Any]] = weakref.WeakValueDictionary()
        self.registered = False

    def forget_in_child(self) -> None:
        # Kept, because finalizing a client would close connections that the parent is using.
        self.inherited.append((self.made, dict(self.met)))
        self._empty()

    async def close(self) -> None:
        models = {id(model): model for model in (*self.made.values(), *self.met.values())}
        self._empty()
        for model in models.values():
            # Entering and leaving a model is pydantic-ai's way of closing the client that its provider owns.
            async with model:
                pass


_clients = _Clients()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_clients.forget_in_child)


def resolve(model: str | Model[Any] | None, base_url: str | None = None) -> Model[Any]:
    """The model to ask.

    Args:
        model: a name such as `"openai-chat:gpt-5-mini"`, a pydantic-ai model, or None for `HOLDFAST_MODEL` and,
            when that is not set, the offline model.
        base_url: address of an OpenAI-compatible server (or of another server for that provider), up to and with
            its `/v1`.

    Raises:
        InvalidInput: a `base_url` without a model's name.
        AgentError: the provider takes no `base_url`.
        pydantic_ai.UserError: an unknown name, or a missing key; with a note.
        ImportError: the provider's package is not installed; with a note.

    >>> resolve("offline").model_name
    'offline'
    """
    name = os.environ.get("HOLDFAST_MODEL") or OFFLINE if model is None else model
    if base_url is not None and (not isinstance(name, str) or name == OFFLINE):
        raise InvalidInput(
            "base_url needs the name of a model on that server: Agent('name', base_url=...) or set HOLDFAST_MODEL."
        )
    with _clients.lock:
        if not isinstance(name, str):
            _clients.met[id(name)] = name
            found = name
        else:
            found = _named(name, base_url)
        if not _clients.registered:
            from holdfast import agent_loop  # it needs asyncio, and the keys of steps need only names from here

            agent_loop.add_closer(_clients.close)
            _clients.registered = True
    return found


def _named(name: str, base_url: str | None) -> Model[Any]:
    # A key or an address that changes in the environment makes another client.
    settings = tuple(sorted((k, v) for k, v in os.environ.items() if "API_KEY" in k or k.endswith("_BASE_URL")))
    key = (name, base_url, settings)
    if key not in _clients.made:
        try:
            _clients.made[key] = _make(name, base_url)
        except Exception as error:
            _explain_setup(error, name)
            raise
    return _clients.made[key]


def _make(name: str, base_url: str | None) -> Model[Any]:
    if name == OFFLINE:
        from holdfast.offline import offline_model

        return offline_model()
    from pydantic_ai.models import infer_model

    if base_url is None:
        return infer_model(name)
    provider, _, _ = name.partition(":")
    if provider == "openai-chat" or not _is_provider(provider, name):
        return _compatible(name.removeprefix("openai-chat:"), base_url)
    return infer_model(name, provider_factory=lambda kind: _at(kind, base_url))


def _is_provider(prefix: str, name: str) -> bool:
    """Whether `prefix:` names a provider: local servers have models such as `llama3:8b`."""
    from pydantic_ai.providers import infer_provider_class

    if ":" not in name:
        return False
    try:
        infer_provider_class(prefix)
    except ValueError:
        return False
    return True


def is_known(name: str) -> bool:
    """Whether a model's name says which provider has it, be its package installed or not.

    >>> is_known("anthropic:claude-sonnet-4-5"), is_known("offline"), is_known("gpt-5-mini"), is_known("llama3:8b")
    (True, True, False, False)
    """
    from pydantic_ai.models import parse_model_id

    if name in (OFFLINE, "test"):
        return True
    provider, model = parse_model_id(name)
    if not provider or not model:
        return False
    try:
        return _is_provider(provider, name)
    except ImportError:
        return True  # it is the provider's own package that is missing


def _compatible(name: str, base_url: str) -> Model[Any]:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    key = os.environ.get("OPENAI_API_KEY") or None
    return OpenAIChatModel(name, provider=OpenAICompatibleProvider("openai-compatible", base_url=base_url, api_key=key))


def _at(kind: str, base_url: str) -> Provider[Any]:
    from pydantic_ai.providers import infer_provider_class

    provider_class: Any = infer_provider_class(kind)
    try:
        provider: Provider[Any] = provider_class(base_url=base_url)
    except TypeError:
        raise AgentError(
            f"The provider {kind!r} takes no base_url. For an OpenAI-compatible server name the model "
            f"'openai-chat:...'; otherwise make a pydantic-ai model and give it to Agent(model)."
        ) from None
    return provider


def _explain_setup(error: Exception, name: str) -> None:
    """Add a note to an error of a model that cannot be made; providers' own packages raise errors of their own."""
    provider = name.partition(":")[0]
    address = _ADDRESS.search(str(error))
    if isinstance(error, ImportError):
        extra = {"openai-chat": "openai", "openai-responses": "openai", "google-cloud": "google"}.get(
            provider, provider
        )
        known = extra in {"openai", "anthropic", "google"}
        package = f"holdfast[{extra}]" if known else f"pydantic-ai-slim[{extra}]"
        _note(error, f"the package for {name!r} is not installed: pip install '{package}'")
    elif "Unknown model" in str(error):
        _note(
            error,
            "a model is named 'provider:model', for example 'openai:gpt-5-mini' or 'anthropic:claude-sonnet-4-5'; "
            "with base_url=... a bare name is a model of that OpenAI-compatible server; 'offline' needs nothing.",
        )
    elif address:
        _note(
            error,
            f"{name!r} needs the address of its server: set {address[0]}, or give Agent(..., base_url=...) where the "
            "provider takes one; model='offline' needs none.",
        )
    elif isinstance(error, RuntimeError) or _CREDENTIALS.search(str(error)):
        _note(
            error,
            f"{name!r} needs the key of its provider in the environment, and it is not set or empty. A local server "
            "needs base_url=... and no key; model='offline' needs neither.",
        )


def explain(error: Exception, model: str, base_url: str | None) -> None:
    """Add a note to an error of a provider that says what to do. Other errors are left as they are.

    Args:
        error: what the run raised.
        model: the model's name, as it was given.
        base_url: whether and where another server than the provider's own was asked; it is not shown.
    """
    from pydantic_ai import exceptions

    if not isinstance(error, exceptions.ModelAPIError):
        return
    elsewhere = base_url is not None or "OPENAI_BASE_URL" in os.environ
    if isinstance(error, exceptions.ModelNotFoundError) and elsewhere and model.startswith(_RESPONSES_PREFIXES):
        bare = model.partition(":")[2]
        _note(
            error,
            f"{model!r} uses OpenAI's Responses API, which this server does not seem to have. For an OpenAI-compatible "
            f"server use 'openai-chat:{bare}'.",
        )
        return
    for kind, advice in _advice().items():
        if isinstance(error, kind):
            _note(error, advice.format(model=repr(model)))
            return


def _advice() -> dict[type[Exception], str]:
    """What to do, by the class of the error; the first that fits."""
    from pydantic_ai import exceptions

    return {
        exceptions.ModelNotFoundError: "the server knows no model {model}, or its base_url is wrong (most end in /v1). "
        "Check the spelling, and that your key may use that model.",
        exceptions.ModelAuthenticationError: "the server refused the key for {model}. Check the provider's key in the "
        "environment (OPENAI_API_KEY, ANTHROPIC_API_KEY, ...) and that it belongs to this server.",
        exceptions.ModelQuotaExceededError: "the account behind the key for {model} has no credit left; waiting does "
        "not help.",
        exceptions.ModelRateLimitError: "the rate limit for {model} was still reached after the client's own retries. "
        "Wait and run again, or allow more of them: model_settings={{'max_retries': 5}}.",
        exceptions.ModelContextWindowExceededError: "the input is longer than {model} takes: shorten the message or "
        "its history.",
        exceptions.ModelConnectionError: "no answer from the server of {model}. Is it running, and are base_url and "
        "the network right?",
        exceptions.ModelServerError: "the server of {model} failed, also on the client's own retries. Run again later: "
        "what the session has stored is kept.",
        exceptions.ModelUnavailableError: "the server of {model} is not available, also on the client's own retries. "
        "Run again later: what the session has stored is kept.",
    }


def _note(error: Exception, text: str) -> None:
    # An agent that is a tool of another agent explained its error already.
    if not any(note.startswith(_NOTE) for note in getattr(error, "__notes__", ())):
        error.add_note(_NOTE + text)
