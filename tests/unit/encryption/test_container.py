"""The encrypted file: what goes in comes out, and nothing else does."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tpuserve import bmodel, encryption
from tpuserve.encryption import EncryptionError, KeyFileError, TamperedError, WrongKeyError
from tpuserve.encryption.container import CHUNK_BYTES, MAGIC, TAG_BYTES

ROOT = Path(__file__).resolve().parents[3]
DEMO = ROOT / "models" / "demo" / "demo_f16.bmodel"
BATCHED = ROOT / "tests" / "fixtures" / "models" / "batch4" / "demo_f16_batch4.bmodel"


@pytest.fixture
def key(tmp_path: Path) -> encryption.Key:
    encryption.write_new_key(tmp_path / "key")
    return encryption.read_key(tmp_path / "key")


@pytest.fixture
def sealed(tmp_path: Path, key: encryption.Key) -> Path:
    path = tmp_path / "sealed.bmodel"
    encryption.encrypt_file(DEMO, path, key)
    return path


def plain_of(path: Path, key: encryption.Key) -> bytes:
    opened = encryption.open_container(path).unlock(key)
    with encryption.runtime_file(opened, with_weights=True) as file:
        return Path(file.path).read_bytes()


@pytest.mark.parametrize("source", [DEMO, BATCHED], ids=lambda path: path.stem)
def test_comes_back_bit_for_bit(source: Path, tmp_path: Path, key: encryption.Key) -> None:
    before = source.read_bytes()
    path = tmp_path / "sealed.bmodel"
    encryption.encrypt_file(source, path, key)
    assert source.read_bytes() == before
    assert plain_of(path, key) == before
    opened = encryption.open_container(path).unlock(key)
    assert encryption.read_bmodel(opened) == bmodel.read(source)
    weights = sum(s.size_bytes for s in opened.sections if s.weights)
    assert weights == opened.container.public.memory["weights_bytes"]


def test_shows_nothing_of_the_plain_file(sealed: Path) -> None:
    data, plain = sealed.read_bytes(), DEMO.read_bytes()
    # Names of nets stand in the description, and weights are no zeros.
    assert b"block_cache_0" in plain
    assert b"block_cache_0" not in data
    pieces = {plain[at : at + 16] for at in range(0, len(plain) - 16, 4096)}
    assert not any(piece in data for piece in pieces if len(set(piece)) > 4)


def test_two_files_of_one_key_share_no_chunk(tmp_path: Path, key: encryption.Key) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    encryption.encrypt_file(DEMO, first, key)
    encryption.encrypt_file(DEMO, second, key)
    tail = -(1 << 20)
    assert first.read_bytes()[tail:] != second.read_bytes()[tail:]


def test_another_key_is_told_from_damage(sealed: Path, tmp_path: Path) -> None:
    encryption.write_new_key(tmp_path / "other")
    other = encryption.read_key(tmp_path / "other")
    with pytest.raises(WrongKeyError, match=r"sealed.bmodel was encrypted with another key"):
        encryption.open_container(sealed).unlock(other)


@pytest.mark.parametrize("place", [0.001, 0.01, 0.3, 0.5, 0.9, 0.999999])
def test_finds_a_changed_byte_anywhere(place: float, sealed: Path, key: encryption.Key) -> None:
    data = bytearray(sealed.read_bytes())
    data[int(place * len(data))] ^= 1
    sealed.write_bytes(data)
    with pytest.raises(EncryptionError):
        plain_of(sealed, key)


def test_finds_changed_metadata(sealed: Path, key: encryption.Key) -> None:
    data = sealed.read_bytes()
    changed = data.replace(b'"context_slots":1', b'"context_slots":2')
    assert changed != data
    sealed.write_bytes(changed)
    with pytest.raises(TamperedError, match="is not what was encrypted"):
        plain_of(sealed, key)


def swap_tails(data: bytes) -> bytes:
    """The last two chunks of equal size change places."""
    length = CHUNK_BYTES + TAG_BYTES
    if len(data) < 3 * length:
        length = 1000 + TAG_BYTES
    return data[: -2 * length] + data[-length:] + data[-2 * length : -length]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], r"has \d+ bytes, its header promises \d+"),
        (lambda data: data + b"\0", r"has \d+ bytes, its header promises \d+"),
        (lambda data: data[:10], "is cut short: it has 10 bytes"),
        (lambda data: data[:200], "the header is damaged"),
        (lambda data: data[:8] + struct.pack("<I", 1 << 30) + data[12:], "a header of 1073741824"),
        (lambda data: data.replace(b'"chunk_bytes":1', b'"chunk_bytes":0'), "header is damaged"),
        (swap_tails, "is not what was encrypted"),
    ],
)
def test_names_what_is_wrong(
    change: Callable[[bytes], bytes], message: str, sealed: Path, key: encryption.Key
) -> None:
    sealed.write_bytes(change(sealed.read_bytes()))
    with pytest.raises(TamperedError, match=message):
        plain_of(sealed, key)


def test_the_runtime_gets_tokens_in_the_place_of_weights(sealed: Path, key: encryption.Key) -> None:
    opened = encryption.open_container(sealed).unlock(key)
    plain = bmodel.read(DEMO)
    with encryption.runtime_file(opened, with_weights=False) as file:
        shown = bmodel.read(file.path)
        data = Path(file.path).read_bytes()
        assert data.count(file.token_prefix) == len(file.block_bytes) == 4
        block = bytearray(file.block_bytes[2])
        file.read(2, memoryview(block))
    assert bytes(block) in DEMO.read_bytes()
    assert bytes(block[:64]) not in data
    for before, after in zip(plain.nets, shown.nets, strict=True):
        assert before.name == after.name
        for old, new in zip(before.variants, after.variants, strict=True):
            assert (old.inputs, old.outputs, old.neuron_bytes, old.io_bytes) == (
                (new.inputs, new.outputs, new.neuron_bytes, new.io_bytes)
            )
            assert (old.weights is None) == (new.weights is None)
            if old.weights is not None and new.weights is not None:
                assert old.weights.sha256 == new.weights.sha256
                assert new.weights.size_bytes == len(file.token_prefix) + 8


def test_keys_are_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    encryption.write_new_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_text()
    with pytest.raises(KeyFileError, match="a key is never overwritten"):
        encryption.write_new_key(path)
    assert path.read_text() == before
    assert before.strip() not in repr(encryption.read_key(path))


@pytest.mark.parametrize("text", ["", "12", "g" * 64, "a" * 63, "a" * 66, "a" * 5000])
def test_refuses_what_is_no_key_without_quoting_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    with pytest.raises(KeyFileError, match="holds no key: 64 hexadecimal digits") as caught:
        encryption.read_key(path)
    assert len(text) < 10 or text[:10] not in str(caught.value)


def test_names_a_missing_key(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TPUSERVE_KEY_FILE", raising=False)
    with pytest.raises(KeyFileError, match="is encrypted: name its key with --key-file FILE or"):
        encryption.unlock(sealed, None)
    with pytest.raises(KeyFileError, match="key file /nowhere: No such file"):
        encryption.unlock(sealed, Path("/nowhere"))


def test_takes_the_key_that_the_environment_names(
    sealed: Path, key: encryption.Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPUSERVE_KEY_FILE", str(tmp_path / "key"))
    assert encryption.unlock(sealed, None) is not None
    assert encryption.unlock(DEMO, None) is None


def test_a_failed_encryption_leaves_nothing(tmp_path: Path, key: encryption.Key) -> None:
    broken = tmp_path / "broken.bmodel"
    broken.write_bytes(DEMO.read_bytes()[:-1])
    with pytest.raises(bmodel.BmodelFileError, match="is truncated"):
        encryption.encrypt_file(broken, tmp_path / "sealed.bmodel", key)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.bmodel", "key"]


def test_an_encrypted_file_starts_with_its_own_magic(sealed: Path) -> None:
    assert sealed.read_bytes().startswith(MAGIC)
    with pytest.raises(bmodel.BmodelFileError, match="is not a bmodel"):
        bmodel.read(sealed)
    with pytest.raises(EncryptionError, match="is not an encrypted bmodel"):
        encryption.open_container(DEMO)
