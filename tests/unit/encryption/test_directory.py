"""`tpuserve encrypt` and `inspect` on directories."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tpuserve import encryption, model_dir
from tpuserve.cli.__main__ import main
from tpuserve.encryption import EncryptionError

ROOT = Path(__file__).resolve().parents[3]
DEMO = ROOT / "models" / "demo"
STATIC = ROOT / "tests" / "fixtures" / "models" / "static"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    encryption.write_new_key(path)
    return path


def test_makes_a_model_directory(key_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["encrypt", str(DEMO), "-o", str(out), "--key-file", str(key_file)]) == 0
    before, after = model_dir.load(DEMO), model_dir.load(out)
    assert (after.name, after.slots, after.sha256) == (before.name, before.slots, before.sha256)
    assert encryption.is_encrypted(after.bmodel)
    for file in before.config.iterdir():
        assert (after.config / file.name).read_bytes() == file.read_bytes()


def test_brings_a_configuration_inside(key_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    encryption.encrypt_directory(STATIC, out, encryption.read_key(key_file))
    after = model_dir.load(out)
    assert after.config == out / "config"
    assert after.name == model_dir.load(STATIC).name


def test_leaves_weights_in_other_forms_out(key_file: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(DEMO / "config", model / "config")
    shutil.copyfile(DEMO / "demo_f16.bmodel", model / "demo_f16.bmodel")
    (model / "config" / "model.safetensors").write_bytes(b"weights")
    made = encryption.encrypt_directory(model, tmp_path / "out", encryption.read_key(key_file))
    assert [path.name for path in made.left_out] == ["model.safetensors"]
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    (model / "embedding.bin").write_bytes(b"weights")
    with pytest.raises(EncryptionError, match=r"embedding.bin would stay readable"):
        encryption.encrypt_directory(model, tmp_path / "again", encryption.read_key(key_file))
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}"], "name the model directory, -o OUT and --key-file FILE"),
        (["{model}", "-o", "{tmp}/key", "--key-file", "{tmp}/key"], "exists; name a directory"),
        (["{tmp}", "-o", "{tmp}/out", "--key-file", "{tmp}/key"], "holds 0 bmodels"),
        (["{model}", "-o", "{tmp}/out", "--key-file", "{tmp}/no"], "no: No such file"),
        (["{model}", "-o", "{tmp}/no/out", "--key-file", "{tmp}/key"], "out: No such file"),
        (["{model}", "--new-key", "{tmp}/other"], "--new-key stands alone"),
    ],
)
def test_says_what_is_wrong(
    arguments: list[str],
    message: str,
    key_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = [text.format(model=DEMO, tmp=tmp_path) for text in arguments]
    assert main(["encrypt", *named]) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_inspect_shows_what_it_may(
    key_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    encryption.encrypt_directory(DEMO, out, encryption.read_key(key_file))
    assert main(["inspect", str(DEMO), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main(["inspect", str(out), "--json"]) == 0
    public = json.loads(capsys.readouterr().out)
    assert public["encrypted"] is True
    assert public["sha256"] == model_dir.bmodel_sha256(model_dir.load(DEMO))
    for name in ("weights_bytes", "neuron_bytes", "context_io_bytes"):
        assert public["memory"][name] == plain["memory"][0][name]
    assert "nets" not in public
    assert main(["inspect", str(out)]) == 0
    assert "encrypted (AES-256-GCM)" in capsys.readouterr().out
    assert main(["inspect", str(out), "--key-file", str(key_file), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    del plain["paths"], shown["paths"]
    assert shown == plain
