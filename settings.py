"""Every environment variable of the server, typed, with its default."""

import re
import sys
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Names = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """Read once from the environment and from `.env`; a wrong value stops the start with its name."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", env_ignore_empty=True, frozen=True)

    host: str = Field(
        "127.0.0.1",
        description="Address the server listens on: `make run` and the image do as it says, another command "
        "has to say the same.",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port the server listens on, likewise.")
    web_port: int = Field(
        3000, ge=1, le=65_535, description="Port of the web app that `make run` puts beside the server."
    )
    public_url: str = Field("", description="Address people use; default is built from host and port.")
    environment: Literal["development", "production"] = Field(
        "development", description="`production` refuses the conveniences of a laptop."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level logged.")
    cors_origins: Names = Field(
        (),
        description="Exact web origins that may call the API, comma-separated.",
    )
    allowed_hosts: Names = Field(
        (),
        description="Values of `Host` that are served; default is any, on a laptop only its own names.",
    )
    docs: Literal["", "on", "off"] = Field(
        "", description="`/docs` and `/openapi.json`; default is on in development, off in production."
    )
    metrics_token: str = Field("", description="Bearer that reads `/metrics` from other machines.")
    rate_limit: str = Field("600/minute", description="Requests of one user or API key; `off` for no limit.")
    sign_in_limit: str = Field(
        "20/minute", description="Sign-in requests of one address, password changes of one user, or `off`."
    )
    refresh_limit: str = Field("300/minute", description="Renewals of sign-ins of one address, or `off`.")
    auth_failure_limit: str = Field("60/minute", description="Refused credentials of one address, or `off`.")

    data_dir: Path = Field(Path("data"), description="Directory of the embedded database, files and keys.")
    database_url: str = Field("", description="External PostgreSQL 15+; empty starts the embedded one.")
    database_pool: int = Field(8, ge=2, le=200, description="Connections of one process to PostgreSQL.")
    database_wait_seconds: float = Field(5, gt=0, description="Longest wait for a connection.")
    postgres_bin: str = Field("", description="Directory of PostgreSQL's programs for the embedded database.")
    redis_url: str = Field("", description="Redis that carries hints, frames and input between processes.")
    files_url: str = Field(
        "",
        description="Where files are kept: `s3://bucket/prefix` or `file:///path`; default is in `DATA_DIR`.",
    )
    s3_endpoint: str = Field("", description="Address of an S3-compatible store; default is AWS's.")
    s3_region: str = Field("", description="Region of the bucket; default is `AWS_REGION`, else `us-east-1`.")
    aws_access_key_id: str = Field(
        "", description="Key of the object store; default is the role that the machine has."
    )
    aws_secret_access_key: str = Field("", description="Secret of that key.")
    secret_keys: Names = Field((), description="Base64 256-bit keys that encrypt at rest, newest first.")

    clerk_publishable_key: str = Field("", description="Clerk's publishable key; names the issuer.")
    clerk_issuer: str = Field("", description="Clerk's Frontend API URL, in place of the publishable key.")
    clerk_jwks_url: str = Field("", description="Key set of Clerk; default is the issuer's own.")
    clerk_jwt_key: str = Field("", description="Clerk's PEM public key: verification without network.")
    clerk_authorized_parties: Names = Field((), description="Accepted `azp` values; empty accepts any.")
    clerk_webhook_signing_secret: str = Field(
        "", description="Secret of Clerk's webhook to `/webhooks/clerk`; empty takes none in."
    )
    supabase_url: str = Field("", description="Supabase project whose users sign in here.")
    supabase_publishable_key: str = Field("", description="Supabase's publishable key, told to web clients.")
    supabase_allow_anonymous: bool = Field(False, description="Accept Supabase's anonymous sign-ins.")
    oidc_issuers: Names = Field(
        (), description="OpenID providers as `name=https://issuer;audience`, comma-separated; see sign-in.md."
    )
    registration: Literal["", "open", "closed"] = Field(
        "", description="Sign-up at the embedded issuer; default is open on loopback, else closed."
    )
    admin_emails: Names = Field(
        (), description="Addresses whose users are administrators, once the issuer has verified them."
    )
    smtp_url: str = Field(
        "", description="Mail server, `smtps://user:password@host`; empty keeps mail in files."
    )
    mail_from: str = Field("", description="Address that mail comes from.")
    access_token_seconds: int = Field(300, ge=60, le=3600, description="Life of an embedded access token.")
    session_days: int = Field(30, ge=1, le=365, description="Life of an unused embedded sign-in.")

    worker: Literal["", "on", "off"] = Field(
        "",
        description="Whether the web process does a worker's work too: runs, schedules, webhooks, upkeep; "
        "default is on unless `REDIS_URL` is set.",
    )
    max_runs: int = Field(4, ge=1, le=1000, description="Runs that one process drives at once.")
    max_runs_per_user: int = Field(2, ge=1, le=1000, description="Runs of one user that go on at once.")
    run_timeout_seconds: int = Field(3600, ge=1, le=86400, description="Longest run when it names no limit.")
    lease_seconds: float = Field(15, ge=2, le=300, description="How long a silent worker keeps its runs.")
    park_seconds: float = Field(600, ge=1, description="How long a waiting run keeps its browser.")
    control_seconds: float = Field(60, ge=2, le=3600, description="How long control lasts without input.")

    model: str = Field(
        "",
        description="Model of runs that name none, such as `anthropic:claude-sonnet-5-5`; default is one "
        "whose key is set, else `demo`.",
    )
    anthropic_api_key: str = Field("", description="Key of Anthropic's models, for all users.")
    anthropic_base_url: str = Field("", description="Where Anthropic's API is; default is Anthropic's own.")
    openai_api_key: str = Field("", description="Key of OpenAI's models, for all users.")
    openai_base_url: str = Field("", description="Where OpenAI's API is; default is OpenAI's own.")
    model_base_url: str = Field(
        "", description="OpenAI-compatible server of `openai-compatible:` models, such as Ollama's or vLLM's."
    )
    model_api_key: str = Field("", description="Key of that server, if it asks for one.")
    max_agent_steps: int = Field(
        200, ge=1, le=10_000, description="Actions of an agent at which a run pauses that names no number."
    )
    agent_context_tokens: int = Field(
        150_000,
        ge=1_000,
        le=10_000_000,
        description="Tokens of a request to a model from which on it is told less of what is past.",
    )

    chromium_path: str = Field("", description="Chromium program; default is Playwright's or the system's.")
    chromium_sandbox: Literal["auto", "off"] = Field("auto", description="`off` gives up Chromium's sandbox.")
    max_computers: int = Field(0, ge=0, description="Browsers of one process; 0 means one per 512 MiB free.")
    browser_memory_mb: int = Field(
        0,
        ge=0,
        description="Memory of one user's browser that ends it, in MiB; 0 means half of all, at most 4096.",
    )
    max_computers_per_user: int = Field(3, ge=1, description="Open computers of one user.")
    computer_idle_seconds: float = Field(600, ge=5, description="How long an unused computer stays open.")
    allow_private_network: bool = Field(
        False,
        description="Let browsers and webhooks reach private addresses; webhooks also go over plain http and "
        "to any port.",
    )
    max_storage_mb_per_user: int = Field(
        10_240, ge=0, description="All files of one user, in MiB; 0 is no limit."
    )
    recording: Literal["on", "off"] = Field("on", description="Whether runs keep pictures of what they do.")
    recording_mb: int = Field(200, ge=1, description="Size at which one run's recording ends, in MiB.")
    recording_days: int | None = Field(
        None,
        ge=0,
        le=36_500,
        description="How long recordings are kept after their run's end; empty is as long as the run, 0 "
        "until the next hourly round.",
    )
    max_upload_mb: int = Field(100, ge=1, le=10_000, description="Largest upload or download, in MiB.")
    retention_days: int = Field(
        30,
        ge=0,
        le=36_500,
        description="How long events, ended runs and their files are kept; 0 is for ever.",
    )

    @property
    def address(self) -> str:
        """The address people use, no slash at its end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_url.rstrip("/") or f"http://{host}:{self.port}"

    @property
    def web_app(self) -> str:
        """`host:port` of the web app where it is not this server itself, else nothing."""
        parts = urlsplit(self.public_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{host}:{port}" if host and port != self.port else ""

    @property
    def web_works(self) -> bool:
        """Whether the web process does a worker's work too."""
        return self.worker == "on" or not (self.worker or self.redis_url)

    @property
    def docs_shown(self) -> bool:
        """Whether the API describes itself to anybody who asks."""
        return (self.docs or ("on" if self.environment == "development" else "off")) == "on"

    @field_validator("rate_limit", "sign_in_limit", "refresh_limit", "auth_failure_limit")
    @classmethod
    def _is_limit(cls, value: str) -> str:
        if value != "off" and not re.fullmatch(
            r"[1-9]\d{0,8}/([1-9]\d{0,3} ?)?(second|minute|hour|day)s?", value
        ):
            raise ValueError("write it like 600/minute, or off")
        return value

    @field_validator("metrics_token")
    @classmethod
    def _is_long(cls, value: str) -> str:
        if value and not re.fullmatch(r"[A-Za-z0-9._~+/=-]{16,}", value):
            raise ValueError("takes at least 16 letters, digits and -._~+/= (RFC 6750)")
        return value

    @field_validator(
        "admin_emails",
        "allowed_hosts",
        "clerk_authorized_parties",
        "cors_origins",
        "oidc_issuers",
        "secret_keys",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )


def _load() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        wrong = (
            f"{str(item['loc'][0]).upper()}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        )
        sys.exit("A setting is wrong. " + "; ".join(wrong))


settings = _load()
