"""All settings, in one typed place.

Read once by the command line: flags win over the environment (`RELAY_…`, and the SDKs' own names for keys and base
URLs), the environment over the defaults here. Parts get the settings they need, never the environment.
docs/settings.md shows this table; a test compares the two.
"""

from __future__ import annotations

import json
import os
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from relay.errors import SettingsError
from relay.failure_messages import ENGLISH, FailureMessages, check_sentence, check_sentences, with_operator_messages
from relay.origins import check_origins
from relay.unknown_settings import PREFIX
from relay.validation_messages import shown, spelled_as, validation_message

ProviderName = Literal["anthropic", "openai", "agent", "app", "demo"]
PROVIDERS: tuple[ProviderName, ...] = get_args(ProviderName)


def _named(name: str, default: Any, description: str, **bounds: Any) -> Any:
    """A setting whose environment variable has a name that others chose."""
    return Field(default, validation_alias=AliasChoices(name), description=description, **bounds)


def _read_sentences(given: Any) -> dict[str, str]:
    """From JSON, as in the environment, or from a map. Raises ValueError."""
    if isinstance(given, str):
        try:
            given = json.loads(given or "{}")
        except (ValueError, RecursionError):
            raise ValueError("it must be JSON") from None
    return check_sentences(given)


_OWN_PATHS = r"(?:v1|healthz|readyz|metrics|relay-client\.js)"
_ROOT_PATH = re.compile(rf"(?!/{_OWN_PATHS}(?:/|$))(?:/(?!\.{{1,2}}(?:/|$))[A-Za-z0-9._~-]+)+")


def _check_root_path(given: str) -> str:
    """The path without a slash at its end. Raises ValueError."""
    path = given.rstrip("/")
    if path and not _ROOT_PATH.fullmatch(path):
        raise ValueError(
            "it must be a path such as /relay or /chat/relay, of A-Z a-z 0-9 . _ ~ - between its slashes, "
            "and not begin as an address of the gateway's own does, such as /v1"
        )
    return path


class Settings(BaseSettings):
    """Units are in the names: `_s` seconds, `_ms` milliseconds, `_bytes` bytes of encoded JSON."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", populate_by_name=True, allow_inf_nan=False)

    # Redis
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", description="Redis or Valkey, 6.2 or newer; also a Cluster (7.0), Sentinels, TLS"
    )
    prefix: Annotated[
        str, spelled_as(r"[A-Za-z0-9_.-]{1,32}", "1 to 32 letters (a to z), digits, dots, hyphens and underscores")
    ] = Field("relay", description="First part of every key")

    # Gateway
    host: str = Field("127.0.0.1", description="Address that the gateway listens on")
    port: int = Field(8080, description="Port that the gateway listens on; 0 takes a free one", ge=0, le=65535)
    processes: int = Field(1, description="Gateway processes behind the one port", ge=1, le=256)
    loop: Literal["asyncio", "uvloop"] = Field(
        "asyncio", description="Event loop of a gateway: asyncio, or uvloop where that package is installed"
    )
    allowed_origins: Annotated[str, AfterValidator(check_origins)] = Field(
        "",
        description="Other origins whose pages may use the gateway, and hosts it is reached by; with commas",
    )
    root_path: Annotated[str, AfterValidator(_check_root_path)] = Field(
        "", description="Path under which a proxy serves the gateway, where it passes that path on, such as /relay"
    )
    queues: str = Field("", description="Queues that a submit may name, with commas; empty: any")
    heartbeat_s: float = Field(15, description="A heartbeat after this long without a frame", gt=0, le=3600)
    stall_s: float = Field(60, description="A viewer that takes nothing for this long is closed", gt=0)
    viewer_buffer_bytes: int = Field(
        65536, description="Unsent bytes of one viewer above which its events are merged instead", ge=1024
    )
    window_bytes: int = Field(262144, description="Recent events of a followed session kept at hand", ge=0)
    replay_bytes: int = Field(
        33554432, description="Pages of logs kept at hand for viewers that catch up together, of all sessions", ge=0
    )
    follower_linger_s: float = Field(10, description="A session is followed this much longer than viewed", ge=0)
    max_command_bytes: int = Field(1048576, description="Largest command", ge=1024)
    max_content_bytes: int = Field(131072, description="Largest user turn", ge=16, le=131072)
    max_frame_bytes: int = Field(262144, description="Largest frame to a client", ge=262144, le=16777216)
    max_subscriptions: int = Field(100, description="Sessions that one connection may follow", ge=1)

    # Auth
    auth_secret: str = Field(
        "",
        description="Secret that tokens are signed with (HS256), of at least 32 bytes; two with a comma while one is "
        "being replaced",
        repr=False,
    )
    auth_key_file: str = Field(
        "", description="PEM file with the public key of those who sign tokens (RS256, ES256, EdDSA), or with several"
    )
    auth_jwks_url: str = Field("", description="URL where such public keys are served as a JWKS; https")
    auth_audience: str = Field("", description="What `aud` of a token must contain; empty: it must have none")
    auth_issuer: str = Field("", description="What `iss` of a token must be; empty: anything")
    token_max_s: int = Field(
        86400, description="Longest life of a token: its `exp` lies at most this far ahead", ge=60, le=2592000
    )
    metrics_token: Annotated[
        str, spelled_as(r"|[!-~]{16,}", "at least 16 letters, digits and signs of ASCII, without blanks")
    ] = Field("", description="What opens /metrics besides a token of scope admin", repr=False)
    open_to_everybody: bool = Field(
        False, description="Without any of these keys, listen where others can reach the gateway"
    )

    # Stored
    session_ttl_s: int = Field(604800, description="A session is kept this long after its last event", ge=60)
    max_generations: int = Field(200, description="Generations kept of a session, the newest", ge=1, le=1000)
    trim_after_s: float = Field(
        600, description="Batches of an ended answer are merged in its log after this", ge=1, le=86400
    )
    max_requests: int = Field(1000, description="Request ids remembered of a session", ge=1, le=10000)
    max_backlog: int = Field(10000, description="Jobs that may wait or run in one queue", ge=1)
    max_answer_bytes: int = Field(
        4194304, description="Longest answer with its reasoning (UTF-8); beyond it ends too_long", ge=1024
    )
    lost_after_s: float = Field(
        60, description="An interrupted answer that is not back after this has failed; announced to clients", gt=0
    )

    # Worker
    queue: Annotated[
        str, spelled_as(r"[A-Za-z0-9_-]{1,64}", "1 to 64 letters (a to z), digits, hyphens and underscores")
    ] = Field("default", description="Queue that a worker serves")
    provider: str = Field(
        "",
        description=f"{', '.join(PROVIDERS)}, or several with commas, asked in this order; empty: app if "
        "it is set, else the first of the first three whose key or URL is set, else demo",
    )
    app: str = Field("", description="Your own model, as module:function or file.py:function; an async generator")
    concurrency: int = Field(32, description="Answers that one worker process makes at a time", ge=1, le=10000)
    model: str = Field(
        "",
        description="Model asked for where a submit names none; empty: the provider's default. "
        "Of several providers: anthropic:MODEL,openai:MODEL",
    )
    models: str = Field(
        "", description="Further models that a submit may name, with commas, each as for RELAY_MODEL; empty: any"
    )
    options: str = Field(
        "",
        description="Options of a submit where it names none, per provider, as JSON: "
        '{"openai": {"temperature": 0.2, "effort": "low"}}',
    )
    failover: Literal["restart", "end"] = Field(
        "restart",
        description="When a provider fails after its first token and another one is left: "
        "restart (a new attempt there) or end (failed)",
    )
    provider_retries: int = Field(
        2, description="Before the first token: further rounds along the providers that may recover", ge=0, le=10
    )
    provider_retry_ms: float = Field(
        250, description="Pause before the first of these; each later one is twice as long", ge=1, le=60000
    )
    breaker_failures: int = Field(
        5, description="Failures in a row after which a provider is asked only if no other is left", ge=1, le=1000
    )
    breaker_open_s: float = Field(15, description="It is tried again after this", gt=0, le=3600)
    tokens_per_second: float = Field(30, description="Pace of the demo provider", gt=0, le=100000)
    reasoning: bool = Field(True, description="Pass on the model's reasoning where it is streamed")
    openai_background: bool = Field(
        False,
        description="Ask OpenAI for background responses: another worker goes on with the same answer "
        "(Responses API only)",
    )
    openai_done_ends: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="Whether a stream with [DONE] and no finish_reason is whole: yes, no, or auto: unless the server "
        "is OpenAI's or Azure's",
    )
    openai_limit: Literal["auto", "max_tokens", "max_completion_tokens"] = Field(
        "auto",
        description="Parameter that limits an answer: max_tokens, max_completion_tokens, or auto: by host and model",
    )
    openai_stream_usage: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="Whether to ask for the usage of a stream (stream_options): yes, no, or auto: unless the host is "
        "known to refuse that",
    )
    batch_size: int = Field(20, description="Tokens per batch", ge=1, le=10000)
    batch_linger_ms: float = Field(50, description="A token waits at most this long for its batch", ge=0, le=10000)
    flush_retries: int = Field(3, description="A flush that failed is tried again this often", ge=0, le=10)
    flush_retry_ms: float = Field(
        100, description="Pause before the first retry of a flush; each later one is twice as long", ge=1, le=15000
    )
    retry_max_ms: float = Field(15000, description="Longest pause before a retry of a flush", ge=1, le=60000)
    spill_bytes: int = Field(
        1048576, description="Text of one answer that may wait for Redis; beyond it ends storage", ge=1024
    )
    lease_s: float = Field(10, description="A worker unheard of for this long has lost its jobs", ge=0.2, le=600)
    max_takeovers: int = Field(3, description="Workers that an answer may lose before it fails", ge=1, le=100)
    queue_timeout_s: float = Field(60, description="An answer that nobody claims fails after this", gt=0)
    connect_timeout_s: float = Field(5, description="Deadline for connecting to the provider", gt=0)
    agent_timeout_s: float = Field(60, description="Deadline for an agent's answer, which comes whole", gt=0)
    agent_check_timeout_s: float = Field(10, description="Deadline for an agent's capability check", gt=0)
    first_token_timeout_s: float = Field(30, description="Deadline for the first token", gt=0)
    token_timeout_s: float = Field(30, description="Deadline between two tokens", gt=0)
    answer_timeout_s: float = Field(600, description="Deadline for the whole answer", gt=0)
    grace_s: float = Field(25, description="At shutdown, running answers may take this long to finish", ge=0)
    metrics_port: int = Field(0, description="A worker's metrics are served on this port; 0: nowhere", ge=0, le=65535)
    metrics_host: str = Field("127.0.0.1", description="Address of that port")
    history_turns: int = Field(40, description="Turns of the transcript that the model is given", ge=0, le=1000)
    history_tokens: int = Field(
        32000, description="Tokens of the transcript that the model is given, counted as four bytes each", ge=0
    )
    max_tokens: int = Field(
        0, description="Longest answer, in the model's tokens, where a submit names none; 0: the provider's own", ge=0
    )
    max_tokens_cap: int = Field(0, description="Longest answer that a submit may ask for; 0: no cap", ge=0)
    failure_message: Annotated[str, AfterValidator(check_sentence)] = Field(
        ENGLISH, description="What a person reads if it fails, where no language of theirs has a sentence"
    )
    # NoDecode: so that malformed JSON is reported like any other mistake
    failure_messages: Annotated[dict[str, str], NoDecode, BeforeValidator(_read_sentences)] = Field(
        {}, description='The sentences by language, as JSON: {"de": "…", "pt-BR": "…"}'
    )

    # Everybody
    url: Annotated[
        str, spelled_as(r"(http|ws)s?://[^/\s].*", "http://, https://, ws:// or wss://, and then a host")
    ] = Field("http://127.0.0.1:8080", description="Gateway that relay send and relay tail talk to")
    token: str = Field("", description="Token that relay send, tail and bench show to the gateway", repr=False)
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error")

    # The SDKs' own names
    anthropic_api_key: str = _named("ANTHROPIC_API_KEY", "", "Key of the Anthropic-compatible server", repr=False)
    anthropic_base_url: str = _named("ANTHROPIC_BASE_URL", "", "Its base URL, without /v1")
    openai_api_key: str = _named("OPENAI_API_KEY", "", "Key of the OpenAI-compatible server", repr=False)
    openai_base_url: str = _named("OPENAI_BASE_URL", "", "Its base URL, with /v1")

    # The agent's
    agent_api_url: str = _named("AGENT_API_URL", "", "URL that an agent over HTTP takes its questions at")
    agent_api_key: str = _named("AGENT_API_KEY", "", "Key of the agent, if it wants one", repr=False)

    @property
    def localized_messages(self) -> FailureMessages:
        """What a person reads if it fails."""
        return with_operator_messages(self.failure_message, self.failure_messages)

    @property
    def limits(self) -> dict[str, float]:
        """The limits that `welcome` announces to a client."""
        names = (
            "max_command_bytes", "max_content_bytes", "max_frame_bytes", "max_answer_bytes", "max_subscriptions",
            "stall_s", "lost_after_s", "session_ttl_s",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


def load(**flags: Any) -> Settings:
    """Settings from flags (None = not given) and environment. Raises SettingsError that names each bad one."""
    return _load(flags, {})


def load_for_gateway(**flags: Any) -> Settings:
    """The same; PORT, which Procfile runners set, counts if neither a flag nor our own variable names a port."""
    port = os.environ.get("PORT")
    if not port or flags.get("port") is not None or is_in_environment("port"):
        return load(**flags)
    return _load({**flags, "port": port}, {"port": "PORT"})


def _load(flags: dict[str, Any], named: dict[str, str]) -> Settings:
    """`named`: flag → the variable that its value came from, if that is not one of ours."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        lines = []
        for item in error.errors():
            name = str(item["loc"][0])
            lines.append(f"{named.get(name) or _spelled(name)}: {validation_message(item)}{_quoted(name, item)}")
        raise SettingsError("; ".join(lines)) from None


def _quoted(name: str, item: ErrorDetails) -> str:
    """The value that was given, unless it is a secret. `name`: a setting's, or that of its variable."""
    secrets = [field for field, info in Settings.model_fields.items() if not info.repr]
    is_secret = name in secrets or any(name in variables()[secret] for secret in secrets)
    return "" if is_secret else f" (got {shown(item['input'])})"


def variables() -> dict[str, list[str]]:
    """Every setting's variables, first the one to name in messages. Settings with an SDK's name also have ours."""
    return {
        name: [*_aliases(field.validation_alias), f"{PREFIX}{name.upper()}"]
        for name, field in Settings.model_fields.items()
    }


def is_in_environment(name: str) -> bool:
    """Whether a variable of this setting is set, in upper or lower case, as pydantic-settings reads them."""
    given = {variable.upper() for variable in os.environ}
    return not given.isdisjoint(variables()[name])


def _aliases(alias: Any) -> list[str]:
    return [str(choice) for choice in alias.choices] if alias else []


_FLAGS = {
    "host": "--host", "port": "--port", "processes": "--processes", "redis_url": "--redis",
    "provider": "--provider", "app": "--app", "queue": "--queue", "concurrency": "--concurrency", "model": "--model",
    "tokens_per_second": "--tokens-per-second", "metrics_port": "--metrics-port", "url": "--url",
    "open_to_everybody": "--open-to-everybody",
}  # fmt: skip


def _spelled(name: str) -> str:
    if name.isupper():
        return name
    return f"{_FLAGS[name]} / RELAY_{name.upper()}" if name in _FLAGS else f"RELAY_{name.upper()}"
