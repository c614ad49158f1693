"""The command line. Torch and pydicom are imported inside the commands, so that `--help` is instant."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import math
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from hemoscan import DEFAULT_MODEL, NOTICE, __version__
from hemoscan.console import (
    complete_model,
    device_option,
    model_option,
    paint,
    parse_window,
    png_window_option,
    precision_option,
    show_progress,
)
from hemoscan.errors import CardError, HemoscanError, LockedError, OptionError, OutputError

if TYPE_CHECKING:
    from hemoscan.card import Model
    from hemoscan.operating import Operating
    from hemoscan.page import Page
    from hemoscan.pictures import Pictures
    from hemoscan.reread import Reread
    from hemoscan.resilient import Engine
    from hemoscan.results import Results
    from hemoscan.scan import Elsewhere, Report, ScanOptions

EXIT_FAILED = 1
EXIT_LOCKED = 75  # EX_TEMPFAIL: worth another try
DEFAULT_OUTPUT = "hemoscan.csv"


class Terminated(SystemExit):
    """SIGTERM came."""


class LazyGroup(click.Group):
    """A group whose commands live in modules that are imported when they are called."""

    lazy = {  # noqa: RUF012 - read only
        "calibrate": "hemoscan.trainer.cli:calibrate",
        "doctor": "hemoscan.doctor_cli:doctor",
        "evaluate": "hemoscan.trainer.cli:evaluate",
        "experiments": "hemoscan.trainer.cli:experiments",
        "train": "hemoscan.trainer.cli:train",
    }

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a wrong option that only the command can tell is wrong usage like any other."""
        try:
            return super().invoke(ctx)
        except OptionError as error:
            raise click.UsageError(str(error)) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted([*super().list_commands(ctx), *self.lazy])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, importing its module if need be."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, _, name = self.lazy[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hemoscan")
def cli() -> None:
    """Flag likely hemorrhages in folders of head CT slices, so that those are read first.

    Research use only, not for diagnosis: an unflagged study is not a normal study.
    """
    click.echo(NOTICE, err=True)


def main() -> NoReturn:
    """Run the command line; docs/outputs.md has the exit codes."""
    _quiet_libraries()
    _escape_letters()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        sys.exit(cli.main(standalone_mode=False))
    except Terminated as error:
        _fail("terminated; what was saved is kept", int(str(error)))
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted; what was saved is kept", 130)
    except LockedError as error:
        _fail(str(error), EXIT_LOCKED)
    except HemoscanError as error:
        _fail(str(error), EXIT_FAILED)
    except BrokenPipeError:
        sys.exit(EXIT_FAILED)
    except Exception as error:  # the last resort: no traceback ever reaches a user
        if os.environ.get("HEMOSCAN_DEBUG"):
            raise
        # The text of an error may quote a header, so a patient; its place says enough to find it.
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        advice = "please report it; HEMOSCAN_DEBUG=1 shows more"
        _fail(f"unexpected {type(error).__name__} in {where} ({advice})", EXIT_FAILED)


def _fail(text: str, code: int) -> NoReturn:
    click.echo(f"{paint('hemoscan:', fg='red')} {text}", err=True)
    sys.exit(code)


def _terminate(signum: int, _frame: FrameType | None) -> NoReturn:
    """Leave through the same doors as an error would, so that what was done is kept."""
    raise Terminated(128 + signum)


def _escape_letters() -> None:
    """Let stdout escape what it has no letters for, such as a site's name, as stderr does: that must end no command."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # None under pythonw
        sys.stdout.reconfigure(errors="backslashreplace")


def _quiet_libraries() -> None:
    """Keep libraries' remarks off stderr: they quote values of headers, which may name a patient."""
    for name in ("pydicom", "PIL", "highdicom"):
        logger = logging.getLogger(name)
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")
    warnings.filterwarnings("ignore", module=r"hemoscan(\.|$)")


def check_finite(_ctx: click.Context, _param: click.Parameter, value: float | None) -> float | None:
    """Refuse NaN, which click's ranges let through."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not in the range 0<=x<=1.")
    return value


def check_seconds(_ctx: click.Context, _param: click.Parameter, value: float | None) -> float | None:
    """Refuse what is no time that passes."""
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise click.BadParameter(f"{value}; legal: seconds, 0 or more.")
    return value


def check_hours(_ctx: click.Context, _param: click.Parameter, value: float) -> float:
    """Refuse what is no age."""
    if not (math.isfinite(value) and value > 0):
        raise click.BadParameter(f"{value}; legal: hours, above 0.")
    return value


def load_config(ctx: click.Context, _param: click.Parameter, path: Path | None) -> Path | None:
    """Take the values of a config file as defaults of the command's options."""
    if path is None:
        return None
    from hemoscan.config import read_config  # noqa: PLC0415

    names = {name.lstrip("-") for param in ctx.command.params for name in param.opts + param.secondary_opts}
    legal = {name for name in names if len(name) > 1} - {"help", "config"}
    values = read_config(path, legal)
    for param in ctx.command.params:  # a switch's other name, such as resume for rescan, is its opposite
        for opposite in (name.lstrip("-").replace("-", "_") for name in param.secondary_opts):
            if opposite in values:
                values[str(param.name)] = not values.pop(opposite)
    ctx.default_map = {name: _as_typed(name, value) for name, value in values.items()}
    return path


def _as_typed(name: str, value: object) -> object:
    """Return a value as the command line would have it, so that it is checked as there."""
    if name == "paths":
        return [str(each) for each in value] if isinstance(value, list) else [str(value)]
    if isinstance(value, list):
        return ",".join(str(each) for each in value)
    return str(value)


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_OUTPUT,
    show_default=True,
    help="CSV of slices; beside it NAME.studies.csv (worklist) and NAME.run.json.",
)
@model_option("A name from `hemoscan models`, or a card (.json).")
@device_option
@click.option(
    "--engine",
    type=click.Choice(["auto", "torch", "openvino"]),
    default="auto",
    show_default=True,
    help="auto: OpenVINO on a CPU, PyTorch on a GPU.",
)
@precision_option
@click.option(
    "-b", "--batch-size", type=click.IntRange(1, 4096), help="Slices at a time.  [default: 16 on a CPU, 128 on a GPU]"
)
@click.option(
    "-j",
    "--workers",
    type=click.IntRange(0, 256),
    help="Processes that read and decode; 0: none, a file that crashes its decoder ends the run."
    "  [default: one a core, 2 to 16]",
)
@click.option(
    "--file-timeout",
    type=click.FloatRange(0.1, 86400),
    default=60.0,
    show_default=True,
    callback=check_finite,
    metavar="SECONDS",
    help="What decoding a file may take, and again for each 64 MiB of it, before it is given up.",
)
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads of the network on a CPU.  [default: all cores]")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    callback=check_finite,
    help="Probability from which a slice is flagged.  [default: the card's]",
)
@click.option(
    "--operating-point",
    type=click.Choice(["balanced", "sensitive", "specific"]),
    help="Take the threshold of this name from the card, or from --calibration.  [default: balanced]",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A site's own, from `hemoscan calibrate`, instead of the card's.",
)
@click.option(
    "--window", type=parse_window, metavar="C,W", help="Clip HU to this window instead of the card's: for experiments."
)
@png_window_option
@click.option(
    "--repair-12bit/--no-repair-12bit",
    default=True,
    show_default=True,
    help="Unwrap wrapped 12-bit values (RSNA's defect).",
)
@click.option(
    "--ray",
    is_flag=False,
    flag_value="local",
    metavar="[ADDRESS]",
    help="Score on the nodes of the Ray cluster at HOST:PORT, which see the same PATHs; without ADDRESS on one that is"
    " started here and stopped at the end. After the PATHs, or with ADDRESS.",
)
@click.option("--limit", type=click.IntRange(1), help="Stop after so many files: for a trial.")
@click.option(
    "--rescan/--resume",
    default=False,
    help="Score everything again / only what is new, changed, or scored by other means.  [default: resume]",
)
@click.option(
    "--settle",
    type=float,
    default=0,
    metavar="SECONDS",
    callback=check_seconds,
    help="Leave studies whose newest file is younger: they are still arriving.",
)
@click.option(
    "--order", type=click.Choice(["name", "newest"]), default="name", show_default=True, help="Which files come first."
)
@click.option(
    "--time-budget",
    type=float,
    metavar="SECONDS",
    callback=check_seconds,
    help="Begin no batch after so long; the next run goes on from there.",
)
@click.option("--prune", is_flag=True, help="Forget files that are gone.")
@click.option("--identifiers", is_flag=True, help="Add patient_id, accession_number, study_date to the worklist.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Database of what was scanned.  [default: in the user's state folder, one an output]",
)
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the worklist as a page for a browser, with the flagged slices' pictures.",
)
@click.option(
    "--heatmaps",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Also write each flagged slice with its heatmap, as PNG.",
)
@click.option(
    "--jsonl", type=click.Path(path_type=Path, dir_okay=False), help="Also write the CSV's rows as JSON lines."
)
@click.option(
    "--stale-after",
    type=float,
    default=1.0,
    show_default=True,
    metavar="HOURS",
    callback=check_hours,
    help="Age from which the page raises an alarm.",
)
@click.option("--log-file", type=click.Path(path_type=Path, dir_okay=False), help="Append a log to this file.")
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Of the log's lines."
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    is_eager=True,
    callback=load_config,
    help="TOML file of these options by their long names, and paths; the command line wins.",
)
@click.option("-v", "--verbose", count=True, help="Log to stderr, too: -v what happens, -vv all.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no summary; notice and errors only.")
def scan(paths: tuple[Path, ...], output: Path, **options: Any) -> None:
    """Score every CT slice under PATH... (folders, DICOM, PNG, JPEG, zips, DICOMDIRs) and flag likely hemorrhages.

    Exit codes: 0 done; 1 failed; 2 usage; 3 nothing to score was found; 4 done, with files that cannot be read;
    75 another run holds the lock; 130/143 interrupted, what was done is kept.
    """
    from hemoscan.card import find_model  # noqa: PLC0415
    from hemoscan.lock import lock_paths, locked  # noqa: PLC0415
    from hemoscan.logs import logging_to  # noqa: PLC0415
    from hemoscan.state import default_path  # noqa: PLC0415

    options["state"] = options["state"] or default_path(output)
    files = (*lock_paths(options["state"]), options["log_file"])
    own = {os.path.abspath(path) for path in files if path is not None}  # noqa: PTH100 - links stay as found
    verbosity = -1 if options["quiet"] else options["verbose"]
    with logging_to(options["log_file"], options["log_format"], verbosity):
        model = find_model(options["model"])
        with locked(options["state"]):
            code = _scan_locked(paths, output, model, frozenset(own), options)
    sys.exit(code)


def _scan_locked(
    paths: tuple[Path, ...], output: Path, model: Model, own: frozenset[str], options: dict[str, Any]
) -> int:
    """Scan while the state's lock is held; return the exit code."""
    from hemoscan.engines import choose_engine  # noqa: PLC0415
    from hemoscan.results import Results  # noqa: PLC0415
    from hemoscan.scan import Job  # noqa: PLC0415
    from hemoscan.scan import scan as run_scan  # noqa: PLC0415
    from hemoscan.state import State  # noqa: PLC0415
    from hemoscan.stopping import graceful  # noqa: PLC0415

    # On a cluster the nodes choose; the engine here is for pictures alone, by whatever this machine has.
    here = options if options["ray"] is None else {"engine": "auto", "device": "cpu", "precision": "auto"}
    choice = choose_engine(here["engine"], here["device"], here["precision"], options["threads"])
    settings = _settings(model, choice.batch_size, options)
    arguments = {"paths": [str(path) for path in paths], "output": str(output), **_as_json(options)}
    log = logging.getLogger(__name__)

    def say(text: str) -> None:
        log.info("%s", text, extra={"shown": True})
        if not options["quiet"]:
            click.echo(text, err=True)

    with (
        State(options["state"]) as state,
        _pictures(model, settings, paths, options) as pictures,
        _elsewhere(model, settings, paths, options) as elsewhere,
    ):
        page = _page(model, settings, pictures, options)
        results = Results(
            output,
            identifiers=options["identifiers"],
            study_threshold=settings.study_threshold,
            jsonl=options["jsonl"],
            page=page,
        )
        first, engine = choice.make_resilient(model, say)
        engines = [first.describe()] if elsewhere is None else elsewhere.engines()
        where = ", ".join(f"{each['device']} in {each['precision']} ({each['name']})" for each in engines)
        where += "" if elsewhere is None else f" by Ray, {elsewhere.describe()['nodes']} nodes"
        log.info("%s on %s, state %s, output %s", model.card.name, where, state.path, output, extra={"shown": True})
        if not options["quiet"]:
            click.echo(f"{model.card.name} on {where}, flags from {settings.threshold:.4f}", err=True)
        job = Job(paths, model, engine, settings, arguments, own, pictures, first.load, elsewhere)
        with graceful() as stop, show_progress(options["quiet"], paths, settings.limit) as progress:
            report = run_scan(job, results, state, progress, stop)
    for line in (summary := _summary(report, results)).splitlines():
        log.info("%s", line, extra={"shown": True})
    if not options["quiet"]:
        click.echo(summary, err=True)
    if stop.signal is None:
        return report.return_code
    raise KeyboardInterrupt if stop.signal == signal.SIGINT else Terminated(128 + stop.signal)


@contextlib.contextmanager
def _elsewhere(
    model: Model, settings: ScanOptions, paths: tuple[Path, ...], options: dict[str, Any]
) -> Iterator[Elsewhere | None]:
    """Yield the cluster that scores, None if this machine does."""
    if options["ray"] is None:
        yield None
        return
    from hemoscan.ray_cluster import ray_cluster  # noqa: PLC0415
    from hemoscan.ray_worker import Wish, Work  # noqa: PLC0415

    name = str(options["model"])
    work = Work(
        model=os.path.abspath(name) if name.endswith(".json") else name,  # noqa: PTH100 - links stay as found
        card=model.card,
        wish=Wish(options["engine"], options["device"], options["precision"]),
        decoding=settings.decoding,
        batch_size=options["batch_size"],
        decoders=options["workers"],
        file_timeout=settings.file_timeout,
        threshold=settings.threshold,
        calibration=settings.calibration,
        pictures=options["heatmaps"] is not None or options["html"] is not None,
    )
    with ray_cluster(options["ray"], work, paths, options["threads"]) as cluster:
        yield cluster


@contextlib.contextmanager
def _pictures(
    model: Model, settings: ScanOptions, paths: tuple[Path, ...], options: dict[str, Any]
) -> Iterator[Pictures | None]:
    """Yield what takes the pictures, None if none are wanted."""
    folder: Path | None = options["heatmaps"]
    if folder is None and options["html"] is None:
        yield None
        return
    if folder is not None and any(folder.resolve().is_relative_to(path.resolve()) for path in paths):
        raise OptionError(
            f"--heatmaps {folder}: lies in what is scanned, so would be scanned; legal: a folder elsewhere"
        )
    from hemoscan.pictures import Pictures  # noqa: PLC0415

    pictures = Pictures(model.card, settings.decoding.spec, heatmaps=folder, page=options["html"])
    with contextlib.closing(pictures):
        yield pictures


def _page(model: Model, settings: ScanOptions, pictures: Pictures | None, options: dict[str, Any]) -> Page | None:
    if options["html"] is None or pictures is None:
        return None
    from hemoscan.page import Page  # noqa: PLC0415

    return Page(
        options["html"],
        model.card,
        settings.threshold,
        pictures,
        stale_after=options["stale_after"],
        study_threshold=settings.study_threshold,
    )


def _as_json(options: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


def _loader(options: dict[str, Any]) -> Callable[[Model], Engine]:
    """Return what loads a model for a few slices of a scan that is over."""
    from hemoscan.engines import choose_engine  # noqa: PLC0415

    def load(model: Model) -> Engine:
        choice = choose_engine(device=options["device"], precision=options["precision"])
        return choice.make_resilient(model, lambda text: click.echo(text, err=True))[1]

    return load


def _settings(model: Model, batch_size: int, options: dict[str, Any]) -> ScanOptions:
    """Fill in the defaults that depend on the card and the machine."""
    from dataclasses import replace  # noqa: PLC0415

    from hemoscan.decode import DecodeOptions  # noqa: PLC0415
    from hemoscan.machine import usable_cores  # noqa: PLC0415
    from hemoscan.scan import ScanOptions  # noqa: PLC0415

    spec = model.card.input
    if options["window"] is not None:
        try:
            spec = replace(spec, window=options["window"])
        except CardError as error:
            raise OptionError(f"--window: {error}") from error
    operating = _operating(model, options)
    return ScanOptions(
        decoding=DecodeOptions(spec, options["png_window"], options["repair_12bit"]),
        threshold=_threshold(model, operating, options),
        calibration=operating.calibration,
        study_threshold=operating.study_threshold,
        batch_size=options["batch_size"] or batch_size,
        workers=min(max(usable_cores(), 2), 16) if options["workers"] is None else options["workers"],
        file_timeout=options["file_timeout"],
        limit=options["limit"],
        rescan=options["rescan"],
        settle=options["settle"],
        newest_first=options["order"] == "newest",
        time_budget=options["time_budget"],
        prune=options["prune"],
    )


def _operating(model: Model, options: dict[str, Any]) -> Operating:
    """Return how logits are read: by the site's file, or by the card."""
    from hemoscan.operating import read_site  # noqa: PLC0415

    path, card = options["calibration"], model.card
    return card.operating if path is None else read_site(path, card.name, card.sha256)


def _threshold(model: Model, operating: Operating, options: dict[str, Any]) -> float:
    given, point = options["threshold"], options["operating_point"]
    if given is not None and point is not None:
        raise OptionError("--threshold and --operating-point both name a threshold; legal: one of them")
    if given is not None:
        return float(given)
    if point is None and options["calibration"] is None:
        return model.card.threshold
    return operating.threshold_of(point or "balanced")


def _summary(report: Report, results: Results) -> str:
    """Return what was done, in at most 80 columns."""
    counts = report.counts
    rate = report.scored / report.seconds if report.seconds else 0.0
    known = [f"{report.known} files known from earlier runs, {report.scored} slices scored now"] if report.known else []
    extras = [f"page      {results.page.path}"] if results.page else []
    return "\n".join(
        (
            f"{counts['ok']} slices scored, {report.flagged} flagged, in {len(results.studies)} studies",
            f"{counts['skipped']} skipped, {counts['error']} unreadable, of {report.files} files",
            *known,
            f"{report.seconds:.1f} s, {rate:.1f} slices/s",
            f"slices    {results.slices_path}",
            f"worklist  {results.studies_path}",
            f"record    {results.record_path}",
            *extras,
        )
    )


_REREAD_OPTIONS = (
    click.option(
        "--state",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Take what this database of a scan knows, in place of a CSV.",
    ),
    click.option(
        "-m", "--model", help="A name from `hemoscan models`, or a card (.json).  [default: that of the scan]"
    ),
    click.option(
        "--threshold",
        type=click.FloatRange(0, 1),
        callback=check_finite,
        help="With --state: probability from which a slice is flagged.  [default: the card's]",
    ),
    click.option(
        "--operating-point",
        type=click.Choice(["balanced", "sensitive", "specific"]),
        help="With --state: the threshold of this name.  [default: balanced]",
    ),
    click.option(
        "--calibration",
        type=click.Path(path_type=Path, dir_okay=False),
        help="With --state: a site's own, as the scan was given.  [default: the card's]",
    ),
)


def reread_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that name a scan which is over, and its model: see `_reread`."""
    for option in reversed(_REREAD_OPTIONS):
        command = option(command)
    return command


@cli.command()
@click.argument("results", required=False, type=click.Path(path_type=Path, dir_okay=False), metavar="[RESULTS.csv]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page.  [default: RESULTS.html]",
)
@reread_options
@click.option(
    "--pictures/--no-pictures", default=True, help="Score flagged slices again for pictures that are lacking."
)
@click.option(
    "--stale-after",
    type=float,
    default=1.0,
    show_default=True,
    metavar="HOURS",
    callback=check_hours,
    help="Age of the results from which the page raises an alarm.",
)
@device_option
@precision_option
def report(results: Path | None, output: Path | None, state: Path | None, **options: Any) -> None:
    """Write the worklist as a page for a browser, from the RESULTS.csv of a scan (hemoscan.csv) or from its state."""
    from hemoscan.report import write_report  # noqa: PLC0415
    from hemoscan.results import check_output  # noqa: PLC0415

    output = output or (results or Path(DEFAULT_OUTPUT)).with_suffix(".html")
    check_output(output)

    with _reread(results, state, options) as (model, found):
        studies = write_report(
            found,
            model,
            output,
            stale_after=options["stale_after"],
            load=_loader(options) if options["pictures"] else None,
        )
    click.echo(f"{len(studies)} studies, {sum(study.flag is True for study in studies)} flagged: {output}", err=True)


@cli.command()
@click.argument("results", required=False, type=click.Path(path_type=Path, dir_okay=False), metavar="[RESULTS.csv]")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of the objects; each study has one in it.",
)
@reread_options
@device_option
@precision_option
def objects(results: Path | None, output: Path, state: Path | None, **options: Any) -> None:
    """Make DICOM objects of the studies flagged in RESULTS.csv (hemoscan.csv), or by its state, for a PACS.

    A Structured Report a study, and a Secondary Capture with heatmap a flagged slice. They hold patient and study as
    the slices do. What is in the folder, or was sent by `storescu --rename`, is not made again.

    Exit codes: 0 done; 1 failed; 2 usage; 4 done, with a flagged study or slice that has no object.
    """
    from hemoscan.objects import check_extra, write_objects  # noqa: PLC0415

    check_extra()

    with _reread(results, state, options) as (model, found):
        written = write_objects(found, model, output, load=_loader(options))
    click.echo(
        f"{written.studies} flagged studies in {output}: {written.reports} new reports, {written.captures} new"
        f" captures; {written.refused} flagged studies without objects, {written.lacking} slices without capture",
        err=True,
    )
    sys.exit(written.return_code)


@contextlib.contextmanager
def _reread(results: Path | None, state: Path | None, options: dict[str, Any]) -> Iterator[tuple[Model, Reread]]:
    """Yield what a scan left behind, and the model that it was scored by."""
    if results is not None and state is not None:
        raise OptionError("RESULTS.csv and --state both name a scan; legal: one of them")
    for name in ("threshold", "operating_point", "calibration"):
        if state is None and options[name] is not None:
            raise OptionError(f"--{name.replace('_', '-')}: a CSV has its flags; legal: with --state")
    from hemoscan import reread  # noqa: PLC0415
    from hemoscan.card import find_model  # noqa: PLC0415
    from hemoscan.lock import locked  # noqa: PLC0415
    from hemoscan.state import State  # noqa: PLC0415

    if state is None:
        results = results or Path(DEFAULT_OUTPUT)
        record = reread.read_record(results)
        model = find_model(options["model"] or str(record["arguments"].get("model", record["model"])))
        if model.card.sha256 != record["sha256"]:
            raise OptionError(
                f"{results}: was scored by other weights than those of {model.card.name}; name its --model"
            )
        yield model, reread.read_results(results, record, model)
        return
    as_of = reread.time_of(state)
    model = find_model(options["model"] or DEFAULT_MODEL)
    operating = _operating(model, options)
    threshold = _threshold(model, operating, options)
    with locked(state), State(state) as opened:
        yield model, reread.read_state(opened, as_of, model, operating, threshold)


@cli.command()
@click.argument("name", required=False, shell_complete=complete_model)
@click.option("--verify", is_flag=True, help="Check every weight file against its card's SHA-256.")
def models(name: str | None, verify: bool) -> None:
    """List the models, or show the card of NAME (a model's name, or a card's path)."""
    from hemoscan.card import MODEL_NAMES, find_model  # noqa: PLC0415

    if name is not None:
        model = find_model(name)
        click.echo(model.card.to_json(), nl=False)
        if verify:
            model.read_weights()
            click.echo(f"{model.weights_path}: verified", err=True)
        return
    click.echo(f"{'MODEL':<22}{'WEIGHTS':<10}{'RECIPE':<8}{'EPOCHS':>6}{'AUC':>8}{'BALANCED':>10}{'THRESHOLD':>11}")
    damaged = []
    for known in MODEL_NAMES:
        try:
            click.echo(_model_line(known, verify=verify))
        except CardError as error:
            damaged.append(str(error))
            click.echo(f"{known:<22}damaged")
    click.echo(
        "\nAUC on the validation split; BALANCED: with every site's share of positives made equal.\n"
        "A model without weights is made by `hemoscan train --experiments MODEL`."
    )
    if damaged:
        raise CardError("; ".join(damaged))


def _model_line(name: str, *, verify: bool) -> str:
    from hemoscan.card import find_model, has_weights  # noqa: PLC0415

    if not has_weights(name):
        return f"{name:<22}{'-':<10}"
    model = find_model(name)
    if verify:
        model.read_weights()
    card = model.card
    auc, balanced = (card.metrics.get(key) for key in ("auc", "auc_group_balanced"))
    figures = "".join(
        f"{'-' if value is None else format(value, '.3f'):>{width}}" for value, width in ((auc, 8), (balanced, 10))
    )
    state = "verified" if verify else "yes"
    recipe, epochs = (card.training.get(key, "-") for key in ("recipe", "epochs"))
    return f"{name:<22}{state:<10}{recipe!s:<8}{epochs!s:>6}{figures}{card.threshold:>11.4f}"


@cli.command()
@click.argument("name", metavar="MODEL", shell_complete=complete_model)
@click.option(
    "-f",
    "--format",
    "kind",
    type=click.Choice(["onnx", "openvino"]),
    default="onnx",
    show_default=True,
    help="openvino: IR, a .xml and a .bin.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.  [default: MODEL.onnx, .xml]",
)
def export(name: str, kind: str, output: Path | None) -> None:
    """Write MODEL (a model's name, or a card's path) as a file for another runtime, checked against PyTorch.

    Input: uint8 (n, size, size), made of HU by the card's whole `input`: window, size, tissue, crop; normalisation is
    in the file. Outputs: the logit and the class activation map. The probability, which the card's thresholds are
    compared with, is sigmoid(slope * logit + intercept), of the card's `calibration`; of a card without one
    sigmoid(logit). The file carries the card and the notice.
    """
    from hemoscan.card import find_model  # noqa: PLC0415

    suffix = {"onnx": ".onnx", "openvino": ".xml"}[kind]
    model = find_model(name)
    path = output or Path(f"{Path(name).stem}{suffix}")
    if path.suffix.lower() != suffix:
        raise click.BadParameter(f"{path}; legal for {kind}: a name that ends in {suffix}", param_hint="--output")
    from hemoscan.exporting import export as write  # noqa: PLC0415

    difference = write(model, path, kind)
    click.echo(f"{path}: {kind}, probabilities within {difference:.1g} of PyTorch's on a sample", err=True)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--bleed",
    default="intraparenchymal",
    show_default=True,
    type=click.Choice(["none", "intraparenchymal", "subdural", "epidural", "subarachnoid", "intraventricular"]),
    help="Kind of bleed.",
)
@click.option(
    "--slices", type=click.IntRange(8, 240), default=24, show_default=True, help="Slices that 120 mm are cut into."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Another seed, another head."
)
def phantom(folder: Path, bleed: str, slices: int, seed: int) -> None:
    """Make a synthetic head-CT study in FOLDER/dicom and FOLDER/png, to try hemoscan without patient data.

    FOLDER/labels.csv says which slices hold blood.
    """
    from hemoscan.phantom import write_phantom  # noqa: PLC0415

    try:
        folder.mkdir(parents=True, exist_ok=True)
        bleeding = write_phantom(folder, bleed, slices=slices, seed=seed)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error
    click.echo(f"{slices} slices in {folder}, {bleeding} with blood ({bleed})", err=True)
