"""Ray is imported with its usage statistics off, and said to lack where it does."""

from __future__ import annotations

import os
import signal
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hemoscan import ray_runtime
from hemoscan.cli import cli
from hemoscan.errors import ClusterError, ExtraError, OptionError
from hemoscan.phantom import make_phantom, write_dicom
from hemoscan.ray_runtime import LOCAL, import_ray, running_ray


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))


class FakeRay(types.ModuleType):
    """Takes the place of Ray; `init` notes what it was told, and takes over a signal as Ray does."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__("ray")
        self.error = error
        self.told: dict[str, Any] = {}
        self.down = False

    def init(self, address: str, **options: Any) -> None:
        self.told = {"address": address, **options}
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.error is not None:
            raise self.error

    def shutdown(self) -> None:
        self.down = True


def test_without_ray_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExtraError, match=r"pip install 'hemoscan\[ray\]'"):
        import_ray()


def test_statistics_are_off_before_ray_is_imported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    monkeypatch.setitem(os.environ, "RAY_USAGE_STATS_ENABLED", "1")
    import_ray("head:6379")
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ, "a cluster is no business of the loopback"
    import_ray(LOCAL)
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


def test_a_cluster_of_its_own_has_no_dashboard_and_a_private_folder(monkeypatch: pytest.MonkeyPatch):
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    before = signal.getsignal(signal.SIGTERM)
    with running_ray(LOCAL) as found:
        assert found is ray
        folder = Path(ray.told["_temp_dir"])
        assert folder.stat().st_mode & 0o077 == 0
        assert signal.getsignal(signal.SIGTERM) == before
    assert ray.down
    assert not folder.exists()
    assert ray.told["include_dashboard"] is False
    assert ray.told["_node_ip_address"] == ray_runtime.LOOPBACK
    assert ray.told["log_to_driver"] is False


def test_a_cluster_at_an_address_is_joined_as_it_is(monkeypatch: pytest.MonkeyPatch):
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    with running_ray("head:6379"):
        assert ray.told["address"] == "head:6379"
    assert not {"include_dashboard", "num_cpus", "_temp_dir", "object_store_memory"} & set(ray.told)


@pytest.mark.parametrize(("address", "text"), [(LOCAL, "cannot be started here"), ("h:1", "h:1: no cluster that can")])
def test_what_goes_wrong_is_one_line(monkeypatch: pytest.MonkeyPatch, address: str, text: str):
    monkeypatch.setitem(sys.modules, "ray", FakeRay(ConnectionError("no way\nand more")))
    with pytest.raises(ClusterError, match=text) as caught, running_ray(address):
        pass
    assert "no way" in str(caught.value)
    assert "and more" not in str(caught.value)


def test_the_command_leaves_the_precision_to_the_nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def lacking(name: str) -> str:
        raise OptionError(f"--precision {name}: this processor does not compute in bf16")

    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("hemoscan.openvino_engine.pick_precision", lacking)
    monkeypatch.setattr("hemoscan.engines.told_of_bf16", lambda: False)
    options = ["-o", str(tmp_path / "o.csv"), "--precision", "bf16", "--ray", "local"]
    with pytest.raises(ExtraError):
        CliRunner().invoke(cli, ["scan", str(tmp_path), *options], catch_exceptions=False)


def test_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "ray", None)
    write_dicom(make_phantom("epidural", size=64, slices=8), tmp_path / "in")
    with pytest.raises(ExtraError, match=r"hemoscan\[ray\]"):
        CliRunner().invoke(
            cli, ["scan", str(tmp_path / "in"), "-o", str(tmp_path / "o.csv"), "--ray"], catch_exceptions=False
        )
