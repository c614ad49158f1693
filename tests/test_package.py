"""The installed package holds what the checkout holds: an unlisted folder or file would be missing from the wheel."""

from __future__ import annotations

import configparser
from importlib import metadata
from pathlib import Path

import pytest

import hemoscan

ROOT = Path(__file__).parents[1]
FOLDERS = {"hemoscan": "scanner", "hemoscan.trainer": "trainer", "hemoscan.weights": "weights"}
DATA = ("*.py", "py.typed", "*.json", "*.safetensors", "NOTICE.md")

pytestmark = pytest.mark.skipif(
    not all((ROOT / folder).is_dir() for folder in FOLDERS.values()), reason="needs the checkout"
)


@pytest.fixture(scope="module")
def options() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


@pytest.fixture(scope="module")
def installed() -> set[str]:
    # Beside the imported package: what a build leaves in the checkout calls itself hemoscan, too.
    (found,) = metadata.distributions(name="hemoscan", path=[str(Path(hemoscan.__file__).parents[1])])
    return {file.as_posix() for file in found.files or ()}


def test_every_folder_of_sources_is_a_listed_package(options: configparser.ConfigParser):
    assert set(options["options"]["packages"].split()) == set(FOLDERS)
    lines = options["options"]["package_dir"].strip().splitlines()
    assert dict(tuple(part.strip() for part in line.split("=")) for line in lines) == FOLDERS
    nested = [
        path for folder in FOLDERS.values() for path in (ROOT / folder).rglob("*.py") if path.parent.parent != ROOT
    ]
    assert nested == [], "folders are kept flat: a nested one would need a line of its own in setup.cfg"


@pytest.mark.parametrize("package", FOLDERS)
def test_every_file_of_a_package_is_installed(installed: set[str], package: str):
    folder = ROOT / FOLDERS[package]
    expected = {f"{package.replace('.', '/')}/{path.name}" for pattern in DATA for path in folder.glob(pattern)}
    assert f"{package.replace('.', '/')}/__init__.py" in expected
    assert expected - installed == set()


@pytest.mark.parametrize("package", ["hemoscan", "hemoscan.trainer"])
def test_the_package_is_typed(installed: set[str], package: str):
    assert f"{package.replace('.', '/')}/py.typed" in installed


def test_every_card_is_installed_with_its_weights(installed: set[str]):
    cards = {name for name in installed if name.startswith("hemoscan/weights/") and name.endswith(".json")}
    weights = {name for name in installed if name.endswith(".safetensors")}
    assert {name.removesuffix(".json") for name in cards} == {name.removesuffix(".safetensors") for name in weights}


def test_nothing_else_is_installed(installed: set[str]):
    files = [Path(name) for name in installed if not name.startswith("..")]
    assert {path.parts[0].partition("-")[0] for path in files} == {"hemoscan"}
    assert [path for path in files if "tests" in path.parts or path.name.startswith(("test_", "conftest"))] == []
    assert {path.parts[1] for path in files if path.parts[0] == "hemoscan" and len(path.parts) == 3} <= {
        "trainer",
        "weights",
        "__pycache__",
    }


def test_the_version_is_that_of_the_package():
    import hemoscan

    assert metadata.version("hemoscan") == hemoscan.__version__
