"""Ray without its usage statistics; on its own it listens on the loopback alone and leaves nothing behind."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

from hemoscan.errors import ClusterError, ExtraError
from hemoscan.machine import usable_cores

LOOPBACK = "127.0.0.1"
LOCAL = "local"
# Ray's store of objects passed between processes: what is passed here is small, and Ray would take a third of memory.
STORE_BYTES = 128 * 2**20
# Read by Ray when it is imported, and by the processes it starts. An actor without GPU is to see none.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # Of an address at which nobody answers: Ray would try for many minutes.
    "RAY_py_gcs_connect_timeout_s": "10",
    "RAY_NUM_REDIS_GET_RETRIES": "2",
}
# Of a cluster that is started here. The first has it keep to the loopback, as Ray does by itself on macOS and Windows;
# the second has workers compute with the priority of the scan, not behind all else that runs.
LOCAL_SETTINGS = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0"}


def import_ray(address: str = LOCAL) -> Any:
    """Import Ray, its usage statistics off, to be connected to a cluster or started here.

    Raises
    ------
    ExtraError
        If it is not installed.
    """
    os.environ.update(SETTINGS | (LOCAL_SETTINGS if address == LOCAL else {}))
    try:
        import ray  # noqa: PLC0415
    except ImportError as error:
        raise ExtraError(
            f"--ray: Ray is not installed ({error}): install it with `pip install 'hemoscan[ray]'`"
        ) from error
    return ray


@contextlib.contextmanager
def running_ray(address: str) -> Iterator[Any]:
    """Yield Ray, connected to the cluster at an address, or started here for `local` and stopped at the end.

    Raises
    ------
    ExtraError
        If Ray is not installed.
    ClusterError
        If there is no cluster at the address, this machine is none of its nodes, or Ray cannot be started.
    """
    ray = import_ray(address)
    options: dict[str, Any] = {
        "logging_level": logging.CRITICAL,
        "log_to_driver": False,
        "configure_logging": True,
        "include_dashboard": False if address == LOCAL else None,
    }
    with contextlib.ExitStack() as stack:
        if address == LOCAL:
            folder = tempfile.mkdtemp(prefix="hsray-")  # 0700; short: names of sockets are bounded
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            options |= {
                "num_cpus": usable_cores(),
                "object_store_memory": STORE_BYTES,
                "_node_ip_address": LOOPBACK,
                "_temp_dir": folder,
            }
        _connect(ray, address, options)
        stack.callback(ray.shutdown)
        yield ray


def _connect(ray: Any, address: str, options: dict[str, Any]) -> None:
    """Connect; what Ray makes of signals is undone, since a scan has its own way to end."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = os.environ.get("TMPDIR")
    if "_temp_dir" in options:  # of what a worker that is killed leaves behind
        os.environ["TMPDIR"] = options["_temp_dir"]
    given = {name: value for name, value in options.items() if value is not None}
    try:
        try:
            ray.init(address, **given)
        except Exception:
            if address != LOCAL:
                raise
            ray.shutdown()
            ray.init(address, **given)  # a busy machine may take longer than Ray waits
    except Exception as error:  # of many kinds, by what is amiss
        where = "Ray cannot be started here" if address == LOCAL else f"--ray {address}: no cluster that can be joined"
        cause = (str(error).strip().splitlines() or [""])[0]
        advice = (
            "" if address == LOCAL else "; legal: HOST:PORT of a head node, from a machine that is one of its nodes"
        )
        raise ClusterError(f"{where} ({type(error).__name__}: {cause}){advice}") from error
    finally:
        os.environ.pop("TMPDIR", None)
        os.environ |= {} if before is None else {"TMPDIR": before}
        with contextlib.suppress(ValueError):  # signals belong to the main thread
            for number, handler in handlers.items():
                signal.signal(number, handler)
