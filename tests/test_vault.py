"""Encryption at rest: what opens, what must not, and where keys come from."""

import base64
import fcntl
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from infra.vault import BadKeys, Unsealable, Vault, load_vault

OLD, NEW = b"o" * 32, b"n" * 32
PLACE = {"table": "secrets", "column": "value", "row": "1", "user": "clerk|alice"}


def as_setting(key: bytes) -> str:
    return base64.b64encode(key).decode()


@given(st.binary(max_size=2000))
def test_what_was_sealed_unseals_and_is_not_to_be_seen(plaintext: bytes) -> None:
    vault = Vault([NEW])
    sealed = vault.seal(plaintext, **PLACE)
    assert vault.unseal(sealed, **PLACE) == plaintext
    assert len(sealed) == len(plaintext) + 8 + 12 + 16
    assert len(plaintext) < 8 or plaintext not in sealed
    assert vault.seal(plaintext, **PLACE) != sealed


def test_a_row_is_named_by_its_uuid_or_its_text() -> None:
    vault, row = Vault([NEW]), uuid4()
    sealed = vault.seal(b"x", table="t", column="c", row=row, user="u")
    assert vault.unseal(sealed, table="t", column="c", row=str(row), user="u") == b"x"


@pytest.mark.parametrize(
    "other",
    [
        {"table": "profiles"},
        {"column": "state"},
        {"row": "2"},
        {"user": "clerk|bob"},
        {"row": "1|clerk", "user": "alice"},
        {"table": "secrets|value", "column": "1", "row": "clerk"},
    ],
)
def test_a_value_moved_to_another_place_or_user_does_not_unseal(other: dict[str, str]) -> None:
    sealed = Vault([NEW]).seal(b"hunter2", **PLACE)
    with pytest.raises(Unsealable, match="another place or user"):
        Vault([NEW]).unseal(sealed, **PLACE | other)


def test_every_altered_byte_and_every_cut_is_noticed() -> None:
    vault = Vault([NEW])
    sealed = vault.seal(b"hunter2", **PLACE)
    for index in range(len(sealed)):
        altered = bytearray(sealed)
        altered[index] ^= 1
        for hostile in (bytes(altered), sealed[:index]):
            with pytest.raises(Unsealable):
                vault.unseal(hostile, **PLACE)


def test_a_new_first_key_seals_and_the_old_one_still_opens() -> None:
    sealed = Vault([OLD]).seal(b"hunter2", **PLACE)
    rotated = Vault([NEW, OLD])
    assert rotated.unseal(sealed, **PLACE) == b"hunter2"
    assert Vault([NEW]).unseal(rotated.seal(b"hunter3", **PLACE), **PLACE) == b"hunter3"
    with pytest.raises(Unsealable, match="no longer among SECRET_KEYS"):
        Vault([NEW]).unseal(sealed, **PLACE)


def test_the_key_version_is_authenticated() -> None:
    vault = Vault([NEW])
    sealed = vault.seal(b"hunter2", **PLACE)
    without_version = b'["secrets", "value", "1", "clerk|alice"]'
    forged = sealed[:20] + AESGCM(NEW).encrypt(sealed[8:20], b"hunter2", without_version)
    with pytest.raises(Unsealable):
        vault.unseal(forged, **PLACE)


def test_keys_come_from_the_setting_in_either_base64(tmp_path: Path) -> None:
    key = b"\xff\xfe" * 16
    sealed = load_vault(tmp_path, [as_setting(key)]).seal(b"x", **PLACE)
    assert load_vault(tmp_path, [base64.urlsafe_b64encode(key).decode()]).unseal(sealed, **PLACE) == b"x"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("not base64!", r"Key 2 of SECRET_KEYS is not base64\. .*openssl"),
        ("ünïcode", r"Key 2 of SECRET_KEYS is not base64"),
        (as_setting(b"short"), r"Key 2 of SECRET_KEYS has 5 bytes in place of 32"),
        ("", r"Key 2 of SECRET_KEYS has 0 bytes"),
    ],
)
def test_a_bad_key_is_named_and_never_shown(tmp_path: Path, key: str, sentence: str) -> None:
    with pytest.raises(BadKeys, match=sentence) as caught:
        load_vault(tmp_path, [as_setting(NEW), key])
    assert not key or key not in str(caught.value)


def test_without_the_setting_a_private_key_file_is_made_once(tmp_path: Path) -> None:
    sealed = load_vault(tmp_path / "data", ()).seal(b"x", **PLACE)
    assert stat.S_IMODE((tmp_path / "data/vault.key").stat().st_mode) == 0o600
    assert load_vault(tmp_path / "data", ()).unseal(sealed, **PLACE) == b"x"


def test_setting_keys_later_still_opens_what_the_key_file_sealed(tmp_path: Path) -> None:
    sealed = load_vault(tmp_path, ()).seal(b"x", **PLACE)
    later = load_vault(tmp_path, [as_setting(NEW)])
    assert later.unseal(sealed, **PLACE) == b"x"
    assert Vault([NEW]).unseal(later.seal(b"y", **PLACE), **PLACE) == b"y"


def test_a_process_waits_for_the_key_that_another_is_writing(tmp_path: Path) -> None:
    with (tmp_path / "vault.key").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with ThreadPoolExecutor() as pool:
            loading = pool.submit(load_vault, tmp_path, ())
            with pytest.raises(TimeoutError):
                loading.result(timeout=0.3)
            other.write(as_setting(NEW))
            other.flush()
            fcntl.flock(other, fcntl.LOCK_UN)
            assert loading.result(timeout=10).unseal(Vault([NEW]).seal(b"x", **PLACE), **PLACE) == b"x"


def test_a_damaged_key_file_is_named_and_kept(tmp_path: Path) -> None:
    (tmp_path / "vault.key").write_text("AAAA\n")
    with pytest.raises(BadKeys, match=r"vault\.key has 3 bytes"):
        load_vault(tmp_path, ())
    assert (tmp_path / "vault.key").read_text() == "AAAA\n"


def test_a_key_file_that_cannot_be_made_names_the_settings(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadKeys, match="Set SECRET_KEYS, or DATA_DIR"):
        load_vault(tmp_path / "file", ())


def test_a_key_file_open_to_others_is_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_vault(tmp_path, ())
    (tmp_path / "vault.key").chmod(0o644)
    load_vault(tmp_path, ())
    assert "vault_key_open_to_others" in capsys.readouterr().out


def test_a_fingerprint_is_the_same_beside_a_newer_key_and_another_under_other_keys() -> None:
    told = Vault([OLD]).fingerprint(b"x")
    assert Vault([NEW, OLD]).fingerprint(b"x") == told
    assert len({told, Vault([OLD]).fingerprint(b"y"), Vault([NEW]).fingerprint(b"x")}) == 3
