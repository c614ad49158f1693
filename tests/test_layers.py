"""Which module may import which: the cli on top, the errors at the bottom, no cycles, no network."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

import hemoscan

PACKAGE = Path(hemoscan.__file__).parent
# The way of one slice, from the top down: a module imports only from layers below its own.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"__main__"}),
    frozenset({"cli"}),
    frozenset({"doctor_cli"}),
    frozenset({"console", "doctor"}),
    frozenset({"ray_cluster"}),
    frozenset({"ray_worker"}),
    frozenset({"scan", "report", "codecs", "objects"}),
    frozenset({"finding", "redraw", "reread"}),
    frozenset({"ahead"}),
    frozenset({"isolation"}),
    frozenset({"results", "decode", "engines", "state", "selection"}),
    frozenset({"engine", "openvino_engine", "exporting", "origin", "page"}),
    frozenset(
        {
            "aggregate",
            "sources",
            "networks",
            "devices",
            "graphs",
            "phantom",
            "pictures",
            "ir_cache",
            "openvino_runtime",
            "schema",
            "codec_samples",
            "identifiers",
        }
    ),
    frozenset({"dicom", "raster", "preprocess", "series", "content", "intended"}),
    frozenset({"ray_runtime"}),
    frozenset({"bounds", "card", "head", "slices", "sniff", "outputs", "machine"}),
    frozenset({"chart", "config", "heatmap", "lazy", "located", "lock", "logs", "operating", "stopping", "text"}),
    frozenset({"resilient"}),
    frozenset({"errors"}),
)
CLICK_MAY_BE_USED_IN = {
    "cli",
    "console",
    "doctor_cli",
    "trainer.cli",
    "trainer.command",
    "trainer.console",
    "trainer.session",
    "trainer.side_by_side",
}
NETWORK = {
    "socket",
    "ssl",
    "requests",
    "urllib",
    "urllib3",
    "http",
    "httpx",
    "aiohttp",
    "ftplib",
    "smtplib",
    "socketserver",
}


def module_name(path: Path) -> str:
    """Return a name such as `card` or `trainer.train`, and the empty one for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(module: str) -> set[str]:
    """Return what a module imports, anywhere in it, with full names."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def own_imports(module: str) -> set[str]:
    """Return the modules of the package that a module imports, by their short names."""
    found = set()
    for name in imported(module):
        if name == "hemoscan" or name.startswith("hemoscan."):
            short = name.removeprefix("hemoscan").removeprefix(".")
            found.add(short if short in MODULES else short.rpartition(".")[0])
    return found - {""}


def roots(module: str) -> set[str]:
    return {name.partition(".")[0] for name in imported(module)}


def test_the_modules_are_found():
    assert {"cli", "errors", "scan", "trainer.train", "weights", ""} <= set(MODULES)
    assert "scan" in own_imports("cli")
    assert "dicom" in own_imports("sources"), "imports inside functions count"


def test_the_layers_name_modules_that_exist():
    assert set().union(*LAYERS) <= set(MODULES)


@pytest.mark.parametrize("level", range(len(LAYERS)))
def test_a_module_imports_from_lower_layers_only(level: int):
    same_or_above = frozenset().union(*LAYERS[: level + 1])
    wrong = {module: sorted(own_imports(module) & same_or_above) for module in LAYERS[level]}
    assert {module: names for module, names in wrong.items() if names} == {}


def test_errors_import_nothing():
    assert imported("errors") == {"__future__.annotations"}


def test_nothing_but_main_imports_the_cli():
    assert [module for module in MODULES if own_imports(module) & {"cli", "trainer.cli"}] == ["__main__"]


def test_the_scanner_never_imports_the_trainer():
    scanner = [module for module in MODULES if not module.startswith("trainer")]
    assert [module for module in scanner if any(name.startswith("trainer") for name in own_imports(module))] == []


def test_there_are_no_cycles():
    sorter = graphlib.TopologicalSorter({module: own_imports(module) for module in MODULES})
    sorter.prepare()


def test_click_is_for_commands_only():
    assert {module for module in MODULES if "click" in roots(module)} <= CLICK_MAY_BE_USED_IN


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_what_reaches_a_network(module: str):
    assert roots(module) & NETWORK == set()


def test_openvino_is_imported_only_where_its_telemetry_is_kept_out():
    assert [module for module in MODULES if "openvino" in roots(module)] == ["openvino_runtime"]
    assert [module for module in MODULES if "openvino_telemetry" in roots(module)] == []


def test_nothing_is_imported_by_the_name_of_its_folder():
    assert [module for module in MODULES if roots(module) & {"scanner", "trainer", "weights", "tests"}] == []
