"""Commands in README and docs: those that need no data are run, all others parsed, and nothing is undocumented."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from hemoscan import doctor, engines
from hemoscan.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
COMMANDS = {name: cli.get_command(click.Context(cli), name) for name in cli.list_commands(click.Context(cli))}
CALL = re.compile(rf"(?:^|[\s/\\`\"])hemoscan(?:\.exe)?[ ]+({'|'.join(COMMANDS)})\b([^\n\"`&;|]*)", re.MULTILINE)
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Pages whose blocks marked `sh` are run from top to bottom, in one folder.
RUN = ("start.md", "models.md")
# What start.md says that a command prints, the last time that it is called.
SHOWN = {
    ("doctor",): "nothing is broken",
    ("phantom", "phantom"): "24 slices in phantom, 7 with blood (intraparenchymal)",
    ("scan", "phantom/dicom", "-o", "flags.csv"): "24 files known from earlier runs, 0 slices scored now",
}
# Options in the text that are other programs', or one of ours twice.
OTHERS = {
    "-vv",
    "--gpus",
    "--extra-index-url",
    "--nproc-per-node",
    "--network",
    "--user",
    "--dist",
    "--num-cpus",
    "--num-gpus",
}
DCMTK = {"--accept-all", "--fork", "--rename", "--sort-on-study-uid", "--unique-filenames"}


@dataclass(frozen=True)
class Call:
    """A command as documented."""

    page: str
    language: str
    """Of the block that it stands in; `inline` in the text."""
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.arguments)}"


def calls() -> Iterator[Call]:
    for page, text in PAGES.items():
        blocks = [(language, block) for language, block in FENCE.findall(text) if language != "{eval-rst}"]
        inline = "\n".join(f"`{code}`" for code in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)))
        for language, block in [*blocks, ("inline", inline)]:
            joined = re.sub(r"[\\^]\n", " ", block)
            for name, rest in CALL.findall(joined):
                yield Call(page, language, (name, *shlex.split(rest, comments=True)))


CALLS = list(dict.fromkeys(calls()))
WHOLE = [call for call in CALLS if call.language != "inline"]
TO_RUN = [call for page in RUN for call in calls() if call.page == page and call.language == "sh"]


def options_of(command: click.Command) -> set[str]:
    return {name for param in command.params for name in (*param.opts, *param.secondary_opts) if name.startswith("-")}


ALL_OPTIONS = set().union(*(options_of(command) for command in COMMANDS.values() if command)) | {
    *("--help", "-h", "--version"),
}


def test_the_commands_are_found():
    assert len(WHOLE) > 15
    assert {call.arguments[0] for call in CALLS} == set(COMMANDS), "each command is called somewhere"
    assert {"start.md", "README.md", "deploy.md", "training.md"} <= {call.page for call in WHOLE}


@pytest.mark.parametrize("call", WHOLE, ids=str)
def test_a_documented_command_is_legal(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        click.Path, "convert", lambda self, value, param, ctx: Path(value)
    )  # documented files lack here
    name, *arguments = call.arguments
    if "--config" in arguments:  # read while parsing; tests/test_deploy.py reads the documented one
        at = arguments.index("--config")
        arguments[at : at + 2] = ["PATH"]
    command = COMMANDS[name]
    assert command is not None
    command.make_context(name, arguments)


@pytest.mark.parametrize("call", [call for call in CALLS if call.language == "inline"], ids=str)
def test_options_of_commands_in_the_text_exist(call: Call):
    name, *arguments = call.arguments
    command = COMMANDS[name]
    assert command is not None
    used = {argument.partition("=")[0] for argument in arguments if re.fullmatch(r"-{1,2}[a-z].*", argument)}
    assert used <= options_of(command) | {"--help"}


@pytest.mark.parametrize("page", PAGES)
def test_options_in_the_text_exist(page: str):
    inline = re.findall(r"`(-[^`\n]+)`", FENCE.sub("", PAGES[page]))
    used = {name for code in inline for name in re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", code)}
    assert used - ALL_OPTIONS - OTHERS - DCMTK == set()


def test_every_command_is_in_the_readme():
    assert [name for name in COMMANDS if f"`hemoscan {name}" not in PAGES["README.md"]] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained_by_its_help_or_in_the_text(name: str):
    command = COMMANDS[name]
    assert command is not None
    text = "\n".join(PAGES.values())
    unexplained = [
        option.opts
        for option in command.params
        if isinstance(option, click.Option) and not option.help and not option.hidden
        if not any(re.search(rf"(?<![\w-]){flag}(?![\w-])", text) for flag in option.opts)
    ]
    assert unexplained == []


def test_the_command_reference_has_every_command():
    runpy.run_path(str(ROOT / "docs" / "conf.py"))
    assert set(cli.commands) == set(COMMANDS)
    page = PAGES["commands.md"]
    assert ".. click:: hemoscan.cli:cli" in page
    assert ":nested: full" in page


def test_every_page_is_in_the_table_of_contents():
    listed = set(re.findall(r"^([\w-]+)$", "\n".join(block for _, block in FENCE.findall(PAGES["index.md"])), re.M))
    assert {name.removesuffix(".md") for name in PAGES} - {"README", "index"} == listed


class MeanEngine:
    """Scores by the mean: the commands are what is tried here, not the network."""

    def describe(self) -> dict[str, str]:
        return {"name": "torch", "device": "cpu", "precision": "fp32"}  # what was chosen

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        means: NDArray[np.float64] = images.mean(axis=(1, 2)) / 255 - 0.1
        return means


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("documented")


@pytest.fixture
def fast(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "states"))
    monkeypatch.setattr(engines, "choose_engine", lambda *_: engines.EngineChoice("torch", "cpu", "fp32"))
    monkeypatch.setattr(engines.EngineChoice, "load", lambda *_: MeanEngine())
    monkeypatch.setattr(doctor, "SPEED_SECONDS", 0.01)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_run(page: str):
    outputs = {}
    for call in TO_RUN:
        if call.page == page:
            result = CliRunner().invoke(cli, list(call.arguments))
            assert result.exit_code == 0, f"{call}\n{result.output}"
            outputs[call.arguments] = result.output  # of the last, if a page repeats itself
    for arguments, text in SHOWN.items():
        assert text in PAGES["start.md"]
        assert text in outputs.get(arguments, text)
    if page == "start.md":
        assert set(SHOWN) <= set(outputs)
