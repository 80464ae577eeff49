"""Encryption at rest: values sealed with AES-256-GCM, each bound to its place and its owner."""

import base64
import binascii
import fcntl
import hashlib
import hmac
import json
import os
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

log = structlog.get_logger()

KEY_BYTES = 32
VERSION_BYTES = 8
NONCE_BYTES = 12
ADVICE = "Make one with: openssl rand -base64 32"


class BadKeys(Exception):
    """The keys cannot be used; the message names the setting or file and says what to do."""


class Unsealable(Exception):
    """A sealed value was altered, moved from its place, or sealed with a key that is gone."""


class Vault:
    """A ring of 256-bit keys, newest first: the first seals, all of them unseal.

    A sealed value is key version (8 bytes of the key's SHA-256), nonce (12 random bytes), ciphertext, tag
    (16 bytes). One key is good for 2**32 values (NIST SP 800-38D, 8.3).
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ring = {hashlib.sha256(key).digest()[:VERSION_BYTES]: AESGCM(key) for key in keys}
        self._newest = next(iter(self._ring))
        self._mark = hmac.digest(keys[-1], b"fingerprint", "sha256")  # the oldest: a new key changes nothing

    def seal(self, plaintext: bytes, *, table: str, column: str, row: UUID | str, user: str) -> bytes:
        """Encrypt a value for exactly this place and owner."""
        nonce = os.urandom(NONCE_BYTES)
        place = _place(table, column, row, user, self._newest)
        return self._newest + nonce + self._ring[self._newest].encrypt(nonce, plaintext, place)

    def fingerprint(self, data: bytes) -> str:
        """What tells equal data from other, and lets nobody without the keys guess what it was."""
        return hmac.digest(self._mark, data, "sha256").hex()

    @property
    def version(self) -> bytes:
        """How every value begins that the newest key has sealed."""
        return self._newest

    def unseal(self, sealed: bytes, *, table: str, column: str, row: UUID | str, user: str) -> bytes:
        """Decrypt a value; raises Unsealable unless it was sealed for this place and owner by a key held."""
        version, nonce = sealed[:VERSION_BYTES], sealed[VERSION_BYTES : VERSION_BYTES + NONCE_BYTES]
        if version not in self._ring:
            raise Unsealable("It was sealed with a key that is no longer among SECRET_KEYS.")
        if len(nonce) < NONCE_BYTES:
            raise Unsealable("It is cut short.")
        try:
            ciphertext = sealed[VERSION_BYTES + NONCE_BYTES :]
            return self._ring[version].decrypt(nonce, ciphertext, _place(table, column, row, user, version))
        except InvalidTag:
            raise Unsealable("It was altered, or was sealed for another place or user.") from None


def load_vault(data_dir: Path, secret_keys: Sequence[str]) -> Vault:
    """Return the vault of `secret_keys` (base64), or of `vault.key` in `data_dir`, made on the first start.

    A key file that is already there stays in the ring, so setting SECRET_KEYS later loses nothing. Raises
    BadKeys.
    """
    keys = [_decoded(key, f"Key {number} of SECRET_KEYS") for number, key in enumerate(secret_keys, 1)]
    file = data_dir / "vault.key"
    if not keys or file.exists():
        keys.append(_decoded(_key_in(file), str(file)))
    return Vault(keys)


def _place(table: str, column: str, row: UUID | str, user: str, version: bytes) -> bytes:
    return json.dumps([table, column, str(row), user, version.hex()]).encode()


def _decoded(text: str, source: str) -> bytes:
    try:
        key = base64.b64decode(text.translate(str.maketrans("-_", "+/")), validate=True)
    except (binascii.Error, ValueError):
        raise BadKeys(f"{source} is not base64. {ADVICE}") from None
    if len(key) != KEY_BYTES:
        raise BadKeys(f"{source} has {len(key)} bytes in place of {KEY_BYTES}. {ADVICE}")
    return key


def _key_in(path: Path) -> str:
    """Return the key in the file; of processes that start together, one writes it and the rest wait."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_mode & 0o077:
                log.warning("vault_key_open_to_others", path=str(path))
            if key := file.read().strip():
                return key
            key = base64.b64encode(os.urandom(KEY_BYTES)).decode()
            file.write(key + "\n")
            file.flush()
            os.fsync(file.fileno())
            log.info("vault_key_created", path=str(path))
            return key
    except OSError as error:
        raise BadKeys(
            f"The key file cannot be used: {error}. Set SECRET_KEYS, or DATA_DIR to a directory "
            "that this user may write."
        ) from error
