"""The command `hemoscan doctor`."""

from __future__ import annotations

import json
import sys
from itertools import groupby
from typing import TYPE_CHECKING

import click

from hemoscan import NOTICE
from hemoscan.console import model_option, paint

if TYPE_CHECKING:
    from hemoscan.doctor import Finding


@click.command()
@model_option("The model whose speed is measured: a name, or a card (.json).")
@click.option("--no-speed", is_flag=True, help="Measure no speed: for machines that are busy.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a ticket or a monitor.")
def doctor(model: str, no_speed: bool, as_json: bool) -> None:
    """Print what this machine has: versions, device, engine, decoders, weights, folders, speed.

    Nothing of a patient, no user's and no machine's name is in it: it can be sent to support. Exit code 1 if something
    is broken.
    """
    from hemoscan.doctor import examine  # noqa: PLC0415

    findings = []
    shown = None
    for finding in examine(model, speed=not no_speed, say=lambda text: click.echo(text, err=True)):
        findings.append(finding)
        if not as_json:
            if finding.topic != shown:
                shown = finding.topic
                click.echo(paint(shown, bold=True))
            click.echo(_line(finding))
    broken = sum(finding.broken for finding in findings)
    if as_json:
        click.echo(json.dumps(_as_json(findings), indent=2, ensure_ascii=False))
    else:
        click.echo(paint(f"{broken} broken", fg="red") if broken else "nothing is broken")
    sys.exit(int(broken > 0))


def _line(finding: Finding) -> str:
    mark = paint("  BROKEN", fg="red", bold=True) if finding.broken else ""
    return f"  {finding.name:<30}  {finding.value}{mark}"


def _as_json(findings: list[Finding]) -> dict[str, object]:
    topics = {
        topic: {finding.name: finding.value for finding in group}
        for topic, group in groupby(findings, lambda finding: finding.topic)
    }
    broken = [f"{finding.topic}: {finding.name}: {finding.value}" for finding in findings if finding.broken]
    return {"notice": NOTICE, **topics, "broken": broken}
