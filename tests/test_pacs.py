"""The objects in a real PACS, and studies from real senders, by the commands of docs/pacs.md, on loopback.

Run by `pytest -m pacs`; needs Debian's dcmtk, dicom3tools and orthanc.
"""

from __future__ import annotations

import contextlib
import csv
import http.client
import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from command_line import invoke
from PIL import Image
from test_objects import PATIENT, make, study  # noqa: F401 - a fixture

from hemoscan.phantom import make_phantom, write_dicom

PROGRAMS = {name: shutil.which(name) for name in ("dciodvfy", "dsrdump", "storescp", "storescu", "findscu", "Orthanc")}
LACKING = [name for name, path in PROGRAMS.items() if path is None]
DOCUMENT = Path(__file__).parents[1] / "docs" / "pacs.md"
SECONDS = 60.0

pytestmark = [
    pytest.mark.pacs,
    pytest.mark.usefixtures("mapping_engine"),
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]


@pytest.fixture(autouse=True)
def no_network() -> None:
    """Let the tests, in place of the rule for all others, talk to programs on this machine."""


def documented(program: str, **replaced: object) -> list[str]:
    """Return a command of the documentation as arguments, its paths and ports replaced by the test's."""
    lines = re.findall(rf"^{program} .*$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) == 1, program
    arguments = shlex.split(lines[0])
    known = {"inbox": "/srv/hemoscan/inbox", "outgoing": "/srv/hemoscan/outgoing", "flags": "/srv/hemoscan/flags.csv"}
    known |= {"listen": "11112", "port": "104"}
    for name, value in replaced.items():
        assert known[name] in arguments, f"{program}: {name}"
        arguments = [str(value) if each == known[name] else each for each in arguments]
    return arguments


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(*command: str | Path, port: int) -> Iterator[None]:
    """Run a server until the end of the block, which begins when its port answers."""
    process = start(*command)
    try:
        wait_for(lambda: _answers(port) or process.poll() is not None)
        assert process.poll() is None, f"{command[0]} ended"
        yield
    finally:
        process.terminate()
        process.wait(SECONDS)


def start(*command: str | Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    arguments = list(map(str, command))
    return subprocess.run(arguments, capture_output=True, text=True, timeout=SECONDS, check=False)  # noqa: S603


class Pacs:
    """Debian's Orthanc."""

    def __init__(self, rest: int, dicom: int) -> None:
        self.rest, self.dicom = rest, dicom

    def get(self, path: str, **headers: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.rest, timeout=SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers)
            reply = connection.getresponse()
            assert reply.status == 200, path
            return reply.read()

    def list(self, path: str) -> list[Any]:
        found: list[Any] = json.loads(self.get(path))
        return found


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Pacs]:
    found = Pacs(free_port(), free_port())
    config = {
        "StorageDirectory": str(tmp_path / "orthanc"),
        "IndexDirectory": str(tmp_path / "orthanc"),
        "HttpPort": found.rest,
        "DicomPort": found.dicom,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "OverwriteInstances": False,
        "Plugins": [],
    }
    path = tmp_path / "orthanc.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    with running("Orthanc", path, port=found.dicom):
        wait_for(lambda: _answers(found.rest))
        yield found


class Cut:
    """Hands a connection on to a port, and cuts it after so many bytes from its client."""

    def __init__(self, port: int, after: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, args=(port, after))
        self._thread.start()

    def close(self) -> None:
        self._listener.close()
        self._thread.join(SECONDS)

    def _serve(self, port: int, after: int) -> None:
        client, _ = self._listener.accept()
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            back = threading.Thread(target=_pump, args=(server, client, None))
            back.start()
            _pump(client, server, after)
            for end in (client, server):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            back.join(SECONDS)


def _pump(source: socket.socket, target: socket.socket, limit: int | None) -> None:
    with contextlib.suppress(OSError):
        while (limit is None or limit > 0) and (part := source.recv(4096 if limit is None else min(limit, 4096))):
            target.sendall(part)
            limit = None if limit is None else limit - len(part)


def size_of(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def test_validators_accept_the_objects(study: Path, card_path: Path, tmp_path: Path):  # noqa: F811
    assert make(study, card_path, tmp_path / "out").exit_code == 0
    found = sorted((tmp_path / "out").glob("*/*.dcm"))
    assert len(found) > 2
    for path in found:
        checked = run("dciodvfy", path)
        said = checked.stdout + checked.stderr
        assert re.search(r"^(SCImage|ComprehensiveSR)$", said, re.MULTILINE), "the checker knows what it is"
        assert not [line for line in said.splitlines() if line.startswith("Error")], path.name
    (report,) = (tmp_path / "out").glob("*/SR.*.dcm")
    dumped = run("dsrdump", report)
    assert dumped.returncode == 0, dumped.stderr
    assert "Verification Flag   : UNVERIFIED" in dumped.stdout
    assert '(1386000,SCT,"Intracranial hemorrhage")' in dumped.stdout
    complaints = [line for line in dumped.stderr.splitlines() if "The VR checker does not support" not in line]
    assert not complaints, "but that dcmtk 3.6.7 does not check texts in UTF-8"


def test_a_pacs_files_finds_and_shows_the_objects(study: Path, card_path: Path, tmp_path: Path, pacs: Pacs):  # noqa: F811
    out = tmp_path / "out"
    make(study, card_path, out)
    made = {path.name.partition(".")[2][:-4]: path.read_bytes() for path in out.glob("*/*.dcm")}
    assert run("storescu", "+sd", "127.0.0.1", str(pacs.dicom), study).returncode == 0
    send = documented("storescu", port=pacs.dicom, outgoing=out)
    sent = run(*send)
    assert sent.returncode == 0, sent.stderr
    assert {path.suffix for path in out.glob("*/*")} == {".done"}

    assert len(pacs.list("/patients")) == len(pacs.list("/studies")) == 1
    assert len(pacs.list("/series")) == 3
    instances = [json.loads(pacs.get(f"/instances/{each}")) for each in pacs.list("/instances")]
    assert len(instances) == 8 + len(made)
    for instance in instances:
        uid = instance["MainDicomTags"]["SOPInstanceUID"]
        if uid in made:
            stored = pydicom.dcmread(io.BytesIO(pacs.get(f"/instances/{instance['ID']}/file")))
            assert stored == pydicom.dcmread(io.BytesIO(made[uid]))
            if stored.Modality == "OT":
                preview = pacs.get(f"/instances/{instance['ID']}/preview", Accept="image/png")
                with Image.open(io.BytesIO(preview)) as image:
                    assert image.size == (stored.Columns, stored.Rows)

    keys = ("QueryRetrieveLevel=SERIES", f"PatientID={PATIENT['PatientID']}", "SeriesDescription", "Modality")
    asked = [part for key in keys for part in ("-k", key)]
    answer = run("findscu", "-S", *asked, "127.0.0.1", str(pacs.dicom))
    assert answer.returncode == 0
    text = answer.stdout + answer.stderr
    assert text.count("FOR RESEARCH USE ONLY, NOT FOR DIAGNOSIS") == 2
    assert set(re.findall(r"CS \[(CT|OT|SR) ?\]", text)) == {"CT", "OT", "SR"}

    # A second round makes nothing and doubles nothing, even if all were sent again.
    assert invoke("objects", tmp_path / "flags.csv", "-o", out).exit_code == 0
    assert not list(out.glob("*/*.dcm"))
    shutil.rmtree(out)
    assert invoke("objects", tmp_path / "flags.csv", "-o", out).exit_code == 0
    run(*send)
    assert len(pacs.list("/instances")) == len(instances)


def test_results_whose_sending_breaks_off_arrive_by_the_next_run(
    study: Path,  # noqa: F811
    card_path: Path,
    tmp_path: Path,
    pacs: Pacs,
):
    out = tmp_path / "out"
    make(study, card_path, out)
    made = sorted(out.glob("*/*.dcm"))
    cut = Cut(pacs.dicom, size_of(made) // 2)
    try:
        assert run(*documented("storescu", port=cut.port, outgoing=out)).returncode != 0
    finally:
        cut.close()
    arrived = len(pacs.list("/instances"))
    assert 0 < arrived < len(made)

    assert invoke("objects", tmp_path / "flags.csv", "-o", out).exit_code == 0
    sent = run(*documented("storescu", port=pacs.dicom, outgoing=out))
    assert sent.returncode == 0, sent.stderr
    assert len(pacs.list("/instances")) == len(made)
    assert {path.name for path in out.glob("*/*.done")} == {f"{path.name}.done" for path in made}


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_an_inbox_loses_nothing(card_path: Path, tmp_path: Path):
    studies = [tmp_path / f"study{seed}" for seed in range(4)]
    for seed, folder in enumerate(studies):
        write_dicom(make_phantom("epidural", size=64, slices=8, seed=seed), folder, seed=seed)
    inbox, flags, port = tmp_path / "inbox", tmp_path / "flags.csv", free_port()
    inbox.mkdir()
    scan = documented("hemoscan scan", inbox=inbox, flags=flags)[1:]
    settle = scan.index("--settle") + 1
    scan += ["-m", str(card_path), "-d", "cpu", "-j", "0", "--threshold", "0.4"]

    with running(*documented("storescp", listen=port, inbox=inbox), port=port):
        cut = Cut(port, size_of(list(studies[3].iterdir())) // 2)
        try:
            ports = [port, port, port, cut.port]
            senders = [
                start("storescu", "+sd", "127.0.0.1", str(to), folder)
                for to, folder in zip(ports, studies, strict=True)
            ]
            codes = [sender.wait(SECONDS) for sender in senders]
        finally:
            cut.close()
        assert codes[:3] == [0, 0, 0]
        assert codes[3] != 0
        received = [path for path in inbox.rglob("*") if path.is_file()]
        assert 24 < len(received) < 32
        assert all(pydicom.dcmread(path).pixel_array.shape == (64, 64) for path in received)

        # The studies came just now: they are left alone.
        assert invoke(*scan).exit_code == 3
        assert all("not settled" in row["reason"] for row in read_rows(flags))

        assert run("storescu", "+sd", "127.0.0.1", str(port), studies[3]).returncode == 0
        wait_for(lambda: sum(path.is_file() for path in inbox.rglob("*")) == 32)

    earlier = time.time() - 1 - float(scan[settle])
    for path in inbox.rglob("*"):
        os.utime(path, (earlier, earlier))
    assert invoke(*scan).exit_code == 0
    rows = read_rows(flags)
    sent = {str(pydicom.dcmread(path).SOPInstanceUID) for folder in studies for path in folder.iterdir()}
    assert sorted(row["sop_uid"] for row in rows) == sorted(sent)
    assert {row["status"] for row in rows} == {"ok"}
    assert len(read_rows(flags.with_suffix(".studies.csv"))) == 4
