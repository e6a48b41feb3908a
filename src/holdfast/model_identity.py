"""What of a model changes its answer: who it is, where it is asked, and with which settings.

Rules that must stay true:
- nothing is asked and no client is made: a named model is its name and the address of its server;
- of a class that is not pydantic-ai's every field counts; one without identity is an error that names it;
- no key, password or token is in any part, nor what only decides when an answer comes.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from functools import cached_property
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from holdfast.canonical import combine, digest, identity
from holdfast.pieces import Unidentified, module_of
from holdfast.providers import OFFLINE

if TYPE_CHECKING:
    from pydantic_ai.models import Model

__all__ = ["ModelIdentity", "address_of", "is_model", "public"]

_PASSING: Final = frozenset({"timeout", "request_timeout", "first_event_timeout", "max_retries"})
"""Settings that decide when an answer comes, not which."""
_SECRET: Final = re.compile(
    r"api[-_]?key|authorization|secret|password|credential|cookie|(^|[-_])(token|key)$", re.IGNORECASE
)
_ADDRESS: Final = re.compile(r"_(BASE_URL|ENDPOINT|API_VERSION|LOCATION|REGION)$")
_VARIABLES: Final = {
    "azure": ("AZURE_", "OPENAI_"),
    "bedrock": ("AWS_", "BEDROCK_"),
    "cohere": ("CO_", "COHERE_"),
    "gateway": ("PYDANTIC_AI_GATEWAY_", "PAIG_"),
}
"""What the environment variables of a provider begin with, where that is not the first word of its name."""
_OF_EVERY_MODEL: Final = frozenset({"_model_name", "_system", "_provider", "_settings", "_profile", "client"})
"""Fields that are told by properties of every model, or are the connection to the server."""
_OF_FUNCTIONS: Final = ("pydantic_ai.models.function", "pydantic_ai.models.test")
"""Modules of models whose fields are all that there is to them."""
_NOTED: Final = frozenset({"last_model_request_parameters", "models", "wrapped"})
"""Fields that say what was asked last, and those that are other models, which are identified as such."""


class ModelIdentity:
    """Identifies models for one agent.

    Args:
        name: what the agent is called, for errors.
        step: the name of the step, for errors.
        code: gives the digest of a function or class.
    """

    def __init__(self, name: str, step: str, code: Callable[[Callable[..., Any]], bytes]) -> None:
        self._name = name
        self._step = step
        self._code = code

    def of(self, model: Any, base_url: str | None) -> bytes:
        """The digest of a model: of a name, a pydantic-ai model or a function."""
        if isinstance(model, str | None):
            return self._digest(_named(model, base_url))
        return self._object(model) if is_model(model) else self._code(model)

    def _digest(self, value: Any) -> bytes:
        return digest(value, f"model of `{self._name}`", self._step)

    def _object(self, model: Model[Any]) -> bytes:
        kind = type(model)
        if hasattr(kind, "__cache_key__"):
            return self._digest(model)
        if getattr(getattr(model, "function", None), "__module__", None) == "holdfast.offline":
            return self._digest(_named(OFFLINE, None))
        facts = [module_of(kind), kind.__qualname__, model.model_name, model.system]
        fields = {name: self._field(name, value) for name, value in _fields(model).items()}
        inner = [getattr(model, "wrapped", None), *getattr(model, "models", ())]
        return combine(
            [
                self._digest([facts, fields, self._profile(model)]),
                self._code(kind),
                *(self._object(other) for other in inner if is_model(other)),
            ]
        )

    def _profile(self, model: Model[Any]) -> Any:
        """What was said of the model's abilities; the rest follows from its name."""
        profile = getattr(model, "_profile", None)
        if callable(profile):
            return self._code(profile)
        return {key: self._field(f"profile.{key}", value) for key, value in (profile or {}).items()}

    def _field(self, name: str, value: Any) -> bytes:
        if isinstance(value, FunctionType | MethodType):
            return self._code(value)
        try:
            return identity(value, f"field `{name}` of the model of `{self._name}`")
        except Unidentified as problem:
            problem.advice = "Define `__cache_key__()` in the model's class, or give the step `key=`."
            raise problem.error(self._step) from None


def _named(model: str | None, base_url: str | None) -> Any:
    if model == OFFLINE:
        return [OFFLINE, sys.modules["holdfast"].__version__]
    # With an address, a bare name and `openai-chat:` mean the same.
    return model.removeprefix("openai-chat:") if model is not None and base_url is not None else model


def _fields(model: Any) -> dict[str, Any]:
    kind = type(model)
    if not is_custom(kind) and kind.__module__ not in _OF_FUNCTIONS:
        return {}
    known = _OF_EVERY_MODEL | _NOTED
    for base in kind.__mro__:
        if not is_custom(base) and base.__module__ not in _OF_FUNCTIONS:
            known |= vars(base).get("__annotations__", {}).keys()
        # What is only remembered of something else comes and goes with use.
        known |= {name for name, value in vars(base).items() if isinstance(value, cached_property)}
    return {name: value for name, value in vars(model).items() if name not in known and not _SECRET.search(name)}


def is_custom(kind: type) -> bool:
    """Whether a class of models is not one of pydantic-ai's.

    >>> is_custom(ModelIdentity)
    True
    """
    return not kind.__module__.startswith("pydantic_ai.")


def is_model(value: object) -> bool:
    """Whether the object is a model of pydantic-ai, found out without importing it.

    >>> is_model("openai:gpt-5-mini")
    False
    """
    module = sys.modules.get("pydantic_ai.models")
    return module is not None and isinstance(value, module.Model)


def address_of(model: Any, base_url: str | None) -> Any:
    """Where a model is asked, as far as that is said: by the model, by `base_url` or in the environment.

    >>> address_of("llama3:8b", "http://me:secret@localhost:11434/v1/")
    'http://localhost:11434/v1'
    """
    if is_model(model):
        return _clean(model.base_url) if model.base_url else None
    if base_url is not None:
        return _clean(base_url)
    if not isinstance(model, str) or model == OFFLINE:
        return None
    # A name without a provider may be asked anywhere, as far as is known here.
    provider = re.split("[-/]", model.partition(":")[0])[0] if ":" in model else ""
    prefixes = _VARIABLES.get(provider, (f"{provider.upper()}_" if provider else "",))
    named = [name for name in os.environ if name.startswith(prefixes) and _ADDRESS.search(name)]
    return {name: _clean(value) for name in named if (value := os.environ.get(name))} or None


def _clean(address: str) -> str:
    """An address without the credentials that may stand in it."""
    parts = urlsplit(address)
    query = urlencode([(key, value) for key, value in parse_qsl(parts.query) if not _SECRET.search(key)])
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), query, ""))


def public(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a request that change its answer, without secrets at any depth.

    >>> public({"temperature": 0, "timeout": 60, "extra_headers": {"Authorization": "...", "X-Mode": "fast"}})
    {'temperature': 0, 'extra_headers': {'X-Mode': 'fast'}}
    """
    kept: dict[str, Any] = _without_secrets({key: value for key, value in settings.items() if key not in _PASSING})
    return kept


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        told = {key: item for key, item in value.items() if not (isinstance(key, str) and _SECRET.search(key))}
        return {key: _without_secrets(item) for key, item in told.items()}
    return [_without_secrets(item) for item in value] if isinstance(value, list) else value
