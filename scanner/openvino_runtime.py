"""OpenVINO without its telemetry."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from hemoscan.errors import EngineError


def import_openvino() -> Any:
    """Import OpenVINO so that it sends nothing.

    Importing it, and converting a model, would report the use to its makers unless the user opted out. With the
    package that sends kept from being imported, OpenVINO's own stand-in takes its place.

    Raises
    ------
    EngineError
        If OpenVINO is not installed.
    """
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    modules["openvino_telemetry"] = None
    try:
        import openvino  # noqa: PLC0415
    except ImportError as error:
        raise EngineError(f"OpenVINO cannot be imported ({error}); legal: --engine torch") from error
    return openvino
