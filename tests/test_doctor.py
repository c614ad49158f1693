"""What `hemoscan doctor` finds, says of what is broken, and keeps to itself."""

from __future__ import annotations

import getpass
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hemoscan import NOTICE, __version__, card, doctor, engines
from hemoscan.card import MODEL_NAMES, Model
from hemoscan.cli import cli
from hemoscan.doctor import Finding
from hemoscan.errors import DeviceError


def invoke(*arguments: str, color: bool = False) -> Result:
    return CliRunner().invoke(cli, ["doctor", *arguments], color=color)


@pytest.fixture
def sound(untrained: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine whose weights are one tiny installed model's, and whose decoders were found sound already."""
    for source, name in (("untrained.safetensors", "untrained.safetensors"), ("untrained.json", "densenet-bias.json")):
        shutil.copy(untrained.folder / source, tmp_path / name)
    monkeypatch.setattr(card, "builtin_folder", lambda: tmp_path)
    monkeypatch.setattr(doctor, "_codecs", lambda: iter([Finding("decoding", "RLELossless", "ok")]))
    yield tmp_path


def of_topic(content: dict[str, dict[str, str]], topic: str, name: str) -> str:
    return content[topic][name]


@pytest.mark.usefixtures("sound")
def test_a_sound_machine():
    result = invoke("--no-speed", "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["broken"] == []
    assert content["notice"] == NOTICE
    assert of_topic(content, "software", "hemoscan") == __version__
    assert of_topic(content, "software", "python").startswith(platform.python_version())
    assert set(content["models"]) == set(MODEL_NAMES)
    assert content["models"]["densenet-bias"].startswith("SHA-256 verified")
    assert {"state", "cache", "temporary", "current"} <= set(content["folders"])
    assert {"device", "engine", "precision"} == set(content["engine"])
    assert "speed" not in content


@pytest.mark.usefixtures("sound")
def test_the_text_has_what_the_json_has():
    content = json.loads(invoke("--no-speed", "--json").stdout)
    text = invoke("--no-speed").stdout
    assert text.splitlines()[-1] == "nothing is broken"
    free = {"state", "cache", "temporary", "current"}
    for topic in set(content) - {"notice", "broken"}:
        assert f"\n{topic}\n" in f"\n{text}"
        for name, value in content[topic].items():
            assert name in text
            assert name in free or value in text


@pytest.mark.usefixtures("sound")
def test_it_names_no_person_and_no_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home = tmp_path / "home" / "doe"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "scratch" / "jdoe" / "reading-room-7"))
    monkeypatch.setattr(getpass, "getuser", lambda: "jdoe")
    monkeypatch.setattr(platform, "node", lambda: "reading-room-7")
    result = invoke("--no-speed")
    assert result.exit_code == 0, result.output
    assert "~/state/hemoscan" in result.stdout
    assert "scratch/.../.../hemoscan" in result.stdout
    assert "jdoe" not in result.stdout
    assert "/doe" not in result.stdout
    assert "reading-room-7" not in result.stdout


def test_a_user_called_like_a_word_does_not_change_the_words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "state")
    assert doctor.without_names("state of /srv/state/x and /srv/states") == "state of /srv/.../x and /srv/states"


def test_changed_weights_are_broken(sound: Path):
    (sound / "untrained.safetensors").write_bytes(b"changed")
    result = invoke("--no-speed", "--json")
    assert result.exit_code == 1
    (broken,) = json.loads(result.stdout)["broken"]
    assert broken.startswith("models: densenet-bias: ")
    assert "SHA-256" in broken


def test_a_default_model_without_weights_is_broken(sound: Path):
    (sound / "densenet-bias.json").unlink()
    result = invoke("--no-speed")
    assert result.exit_code == 1
    assert "has no weights" in result.stdout
    assert result.stdout.splitlines()[-1] == "1 broken"


@pytest.mark.usefixtures("sound")
def test_a_folder_that_cannot_be_written_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file" / "state"))
    content = json.loads(invoke("--no-speed", "--json").stdout)
    assert len(content["broken"]) == 1
    assert "not writable" in of_topic(content, "folders", "state")


@pytest.mark.usefixtures("sound")
def test_a_full_disk_is_broken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 2**60)
    content = json.loads(invoke("--no-speed", "--json").stdout)
    assert len(content["broken"]) == 4


@pytest.mark.usefixtures("sound")
def test_an_engine_that_cannot_be_had_is_broken_and_the_rest_is_told(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise DeviceError("no such device")

    monkeypatch.setattr(engines, "choose_engine", refuse)
    result = invoke("--json")
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    assert content["broken"] == ["engine: engine: no such device"]
    assert "folders" in content


@pytest.mark.usefixtures("sound")
def test_decoders_that_cannot_be_imported_are_broken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "hemoscan.codecs", None)
    found = list(doctor._codecs())
    assert [finding.broken for finding in found] == [True]
    assert "ImportError" in found[0].value or "ModuleNotFoundError" in found[0].value


@pytest.mark.usefixtures("sound")
def test_the_speed_is_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "SPEED_SECONDS", 0.01)
    choice = engines.EngineChoice("torch", "cpu", "fp32")
    monkeypatch.setattr(engines, "choose_engine", lambda: choice)
    content = json.loads(invoke("--json").stdout)
    assert content["broken"] == []
    number, unit, *_ = of_topic(content, "speed", "network").split()
    assert float(number) > 0
    assert unit == "slices/s"


@pytest.mark.usefixtures("sound")
@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours_are_for_terminals_and_respect_no_color(monkeypatch: pytest.MonkeyPatch, no_color: str, coloured: bool):
    monkeypatch.setenv("NO_COLOR", no_color)
    assert ("\x1b[" in invoke("--no-speed", color=True).stdout) == coloured
    assert "\x1b[" not in invoke("--no-speed").stdout


def test_torch_is_not_imported_where_no_gpu_may_be(tmp_path: Path):
    code = """
import sys
from hemoscan import doctor, machine
import hemoscan.engines
hemoscan.engines.may_have_gpu = doctor.may_have_gpu = lambda: False
doctor._codecs = lambda: iter(())
list(doctor.examine("densenet-bias", speed=False))
print("torch" in sys.modules)
"""
    run = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120
    )
    assert run.stdout.splitlines()[-1] == "False", run.stderr
