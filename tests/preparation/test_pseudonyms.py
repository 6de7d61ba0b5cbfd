"""Pseudonyms are HMAC-SHA256, the same for one key, and keys are for their owner alone."""

import hashlib
import hmac

import pyarrow as pa
import pytest

from codex_ray.errors import InputError
from codex_ray.preparation.pseudonyms import PseudonymKey, make_key, read_key

KEY = PseudonymKey(bytes(range(32)))


def test_a_pseudonym_is_hmac_sha256_of_domain_and_value():
    parts = (b"codex_ray pseudonym", b"patient", b"Anna")
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    by_hand = hmac.new(bytes(range(32)), message, hashlib.sha256).hexdigest()
    assert KEY.pseudonym("patient", "Anna") == by_hand[:32]


def test_pseudonyms_differ_by_value_by_domain_and_by_key():
    other = PseudonymKey(bytes(32))
    made = {
        KEY.pseudonym("patient", "Anna"),
        KEY.pseudonym("patient", "anna"),
        KEY.pseudonym("doctor", "Anna"),
        KEY.pseudonym("patientA", "nna"),
        other.pseudonym("patient", "Anna"),
    }
    assert len(made) == 5
    assert KEY.id != other.id and len(KEY.id) == 16
    assert KEY.id not in made


def test_a_column_keeps_its_order_and_its_gaps():
    made = KEY.pseudonyms("p", pa.array(["b", None, "a", "b"])).to_pylist()
    assert made == [KEY.pseudonym("p", "b"), None, KEY.pseudonym("p", "a"), made[0]]


def test_a_key_file_is_private_and_is_never_overwritten(tmp_path):
    file = tmp_path / "key"
    key = make_key(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_key(file) == key
    with pytest.raises(InputError, match="is there already"):
        make_key(file)
    file.chmod(0o640)
    with pytest.raises(InputError, match="others may read it: chmod 600"):
        read_key(file)


@pytest.mark.parametrize("content", ["", "xyz", "ab" * 31])
def test_what_is_no_key_is_refused(tmp_path, content):
    file = tmp_path / "key"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(InputError, match="key"):
        read_key(file)


def test_a_key_is_not_shown():
    assert "0102" not in repr(KEY) and "\\x01" not in repr(KEY)
    assert PseudonymKey.fresh() != PseudonymKey.fresh()
