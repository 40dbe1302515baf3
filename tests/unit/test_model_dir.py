from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tpuserve import model_dir
from tpuserve.model_dir import ModelDirError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "config").mkdir()
    (tmp_path / "a.bmodel").write_bytes(b"bmodel")
    return tmp_path


def test_defaults_come_from_the_layout(root: Path) -> None:
    model = model_dir.load(root)
    assert model.name == root.name
    assert model.bmodel == root / "a.bmodel"
    assert model.config == root / "config"
    assert model.slots is None
    assert (model.tool_parser, model.reasoning_parser) == (None, None)


def test_the_table_overrides_the_defaults(root: Path) -> None:
    (root / "b.bmodel").write_bytes(b"other")
    (root / "tpuserve.toml").write_text('[model]\nname = "m"\nbmodel = "b.bmodel"\nslots = 3\n')
    model = model_dir.load(root)
    assert (model.name, model.bmodel.name, model.slots) == ("m", "b.bmodel", 3)


def test_the_parsers_are_named_in_the_table(root: Path) -> None:
    toml = '[model]\ntool_parser = "qwen"\nreasoning_parser = "none"\n'
    (root / "tpuserve.toml").write_text(toml)
    model = model_dir.load(root)
    assert (model.tool_parser, model.reasoning_parser) == ("qwen", "none")


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[model]\nslots = 0\n", "slots is 0, must be at least 1"),
        ("[model]\nslots = true\n", "slots is True, must be of type int"),
        ("[model]\nslot = 1\n", "unknown key slot"),
        ("[modell]\n", r"unknown section \[modell\]"),
        ("[model\n", "tpuserve.toml"),
        ('[model]\nbmodel = "no.bmodel"\n', "no.bmodel does not exist"),
        ("[model]\nbmodel = []\n", "bmodel is .., must be a string or a list of strings"),
        ("[model]\nbmodel = 1\n", "bmodel is 1, must be of type str or list"),
        ('[model]\nconfig = "no"\n', "no is not a directory"),
        ("model = 1\n", "must be a table"),
    ],
)
def test_a_bad_table_is_refused(root: Path, toml: str, says: str) -> None:
    (root / "tpuserve.toml").write_text(toml)
    with pytest.raises(ModelDirError, match=says):
        model_dir.load(root)


def test_the_number_of_bmodels_is_named(root: Path) -> None:
    (root / "b.bmodel").write_bytes(b"")
    with pytest.raises(ModelDirError, match="holds 2 bmodels"):
        model_dir.load(root)
    for path in root.glob("*.bmodel"):
        path.unlink()
    with pytest.raises(ModelDirError, match="holds 0 bmodels"):
        model_dir.load(root)


def test_a_model_for_two_chips_has_lists(root: Path) -> None:
    (root / "b.bmodel").write_bytes(b"second")
    hashes = [hashlib.sha256(data).hexdigest() for data in (b"bmodel", b"second")]
    table = '[model]\nbmodel = ["a.bmodel", "b.bmodel"]\nsha256 = ["{}", "{}"]\n'
    (root / "tpuserve.toml").write_text(table.format(*hashes))
    model = model_dir.load(root)
    assert model.bmodels == (root / "a.bmodel", root / "b.bmodel")
    assert model_dir.bmodel_sha256(model) == model.sha256
    assert model.sha256 == hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    with pytest.raises(ModelDirError, match="for 2 chips, not 1"):
        _ = model.bmodel
    (root / "b.bmodel").write_bytes(b"other")
    with pytest.raises(ModelDirError, match=r"b\.bmodel is corrupt"):
        model_dir.bmodel_sha256(model)
    (root / "tpuserve.toml").write_text(table.format(*hashes).replace('"a.bmodel", ', ""))
    with pytest.raises(ModelDirError, match="2 sha256 for 1 bmodels"):
        model_dir.load(root)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelDirError, match="nowhere is not a directory"):
        model_dir.load(tmp_path / "nowhere")


def test_a_corrupt_bmodel_is_caught_by_its_hash(root: Path) -> None:
    right = hashlib.sha256(b"bmodel").hexdigest()
    (root / "tpuserve.toml").write_text(f'[model]\nsha256 = "{right}"\n')
    assert model_dir.bmodel_sha256(model_dir.load(root)) == right
    (root / "a.bmodel").write_bytes(b"bmodeL")
    with pytest.raises(ModelDirError, match="is corrupt"):
        model_dir.bmodel_sha256(model_dir.load(root))


def test_the_embedding_beside_the_bmodel_is_part_of_the_model(root: Path) -> None:
    alone = model_dir.bmodel_sha256(model_dir.load(root))
    (root / "embedding.bin").write_bytes(b"rows")
    hashes = [hashlib.sha256(data).hexdigest() for data in (b"bmodel", b"rows")]
    toml = f'[model]\nsha256 = "{hashes[0]}"\n'
    (root / "tpuserve.toml").write_text(toml)
    model = model_dir.load(root)
    assert (model.embedding, model.sha256) == (root / "embedding.bin", None)
    (root / "tpuserve.toml").write_text(f'{toml}embedding_sha256 = "{hashes[1]}"\n')
    model = model_dir.load(root)
    assert model_dir.bmodel_sha256(model) == model.sha256 != alone
    (root / "embedding.bin").write_bytes(b"rots")
    with pytest.raises(ModelDirError, match=r"embedding.bin is corrupt: its SHA-256 is"):
        model_dir.bmodel_sha256(model)


def test_the_vendors_converter_leaves_the_embedding_in_config(root: Path) -> None:
    (root / "config" / "embedding.bin").write_bytes(b"rows")
    assert model_dir.load(root).embedding == root / "config" / "embedding.bin"


def test_an_embedding_that_the_table_knows_must_be_there(root: Path) -> None:
    (root / "tpuserve.toml").write_text('[model]\nembedding_sha256 = "00"\n')
    with pytest.raises(ModelDirError, match=r"embedding.bin does not exist"):
        model_dir.load(root)
