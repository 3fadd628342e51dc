"""The documentation says what the program does: links lead somewhere, the reference lists what there is."""

from __future__ import annotations

import argparse
import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from transship import config, errors
from transship.api import models, problem
from transship.cli.main import _parser
from transship.daemon.activity import Activity
from transship.daemon.http.bounds import Bounds
from transship.daemon.metrics import Metrics
from transship.daemon.web.operations import OPERATIONS
from transship.engine import events, journal, progress
from transship.engine.plan import Plan
from transship.engine.records import RunRecord, RunState
from transship.engine.step import State
from transship.errors import ExitCode, TransshipError
from transship.legs.containerd import images, manifests, voyage

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("samples/*.md")]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all rows of the tables in ``text``, except the lines under headings."""
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [row for row in found if set(row[0]) - {"-", " "}]


def code(cell: str) -> list[str]:
    """Return what stands in backquotes in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def section(text: str, heading: str) -> str:
    """Return what stands below a heading, up to the next of its kind."""
    mark = heading.partition(" ")[0]
    assert f"\n{heading}\n" in text
    return re.split(rf"\n{mark} ", text.partition(f"\n{heading}\n")[2])[0]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        if page.name != "README.md":
            assert f"({page.relative_to(ROOT / 'docs')})" in index


def commands(parser: argparse.ArgumentParser | None = None) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command; a command of several is there as each of them (``config show``)."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in (parser or _parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                below = commands(command)
                found |= {f"{name} {each}": its for each, its in below.items()} or {name: command}
    return found


def options(parser: argparse.ArgumentParser) -> list[str]:
    """Return the options of a command as the reference writes them."""
    return [
        " ".join([*action.option_strings, *_argument(action)])
        for action in parser._actions
        if action.option_strings and action.dest != "help"
    ]


def _argument(action: argparse.Action) -> Iterator[str]:
    if action.nargs != 0:
        yield action.metavar if isinstance(action.metavar, str) else f"{{{','.join(action.choices or ())}}}"


def test_every_command_is_described() -> None:
    described = re.findall(r"^## (.*)$", (REFERENCE / "commands.md").read_text(), re.MULTILINE)
    assert described == list(commands())


@pytest.mark.parametrize("command", commands())
def test_every_option_is_described_and_no_other(command: str) -> None:
    text = section((REFERENCE / "commands.md").read_text(), f"## {command}")
    assert [code(row[0])[0] for row in rows(text)[1:]] == options(commands()[command])


def test_every_setting_is_described() -> None:
    table = (REFERENCE / "configuration.md").read_text().partition("\n## ")[0]
    assert [code(row[0])[0] for row in rows(table)[1:]] == [
        f"{section.encode_name}.{setting.encode_name}"
        for section in msgspec.structs.fields(config.Settings)
        for setting in msgspec.structs.fields(section.type)
    ]


def test_every_exit_code_and_error_is_described() -> None:
    table = rows((REFERENCE / "exit-codes.md").read_text())[1:]
    assert [int(row[0]) for row in table] == [int(exit_code) for exit_code in ExitCode]
    described = {name: int(row[0]) for row in table for name in code(row[2]) if name != "RunInterrupted"}
    expected = {
        name: int(kind.exit_code)
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, TransshipError) and name not in {"TransshipError", "RunInterrupted"}
    }
    assert described == expected


def test_every_event_is_described() -> None:
    text = section((REFERENCE / "json.md").read_text(), "## Events")
    described = {code(row[0])[0]: code(row[1]) for row in rows(text)[1:]}
    expected = {
        kind.type: [field.name for field in fields(kind) if field.name not in {"run", "time"}]
        for _, kind in inspect.getmembers(events, inspect.isclass)
        if issubclass(kind, events.Event) and kind is not events.Event
    }
    assert described == expected


def test_every_state_is_described() -> None:
    for page in ("json.md", "journal.md"):
        described = set(code((REFERENCE / page).read_text()))
        assert described >= {state.value for state in State}
        assert described >= {state.value for state in RunState}


def test_every_column_of_the_journal_is_described() -> None:
    described = {column for row in rows((REFERENCE / "journal.md").read_text()) for column in code(row[0])}
    columns = {
        column
        for statement in journal._SCHEMA
        for column in re.findall(r"^ +([a-z_]+) (?:TEXT|INTEGER|REAL)", statement, re.MULTILINE)
    }
    assert described == columns
    assert f"(`{journal.SCHEMA_VERSION}`)" in (REFERENCE / "journal.md").read_text()


def test_every_label_is_described() -> None:
    text = (REFERENCE / "labels.md").read_text()
    labels = [
        value
        for module in (voyage, images, manifests)
        for name, value in vars(module).items()
        if name.endswith("_LABEL") and isinstance(value, str)
    ]
    assert len(labels) >= 9
    for label in labels:
        assert label in text


def test_every_operation_of_the_service_is_described() -> None:
    text = section((REFERENCE / "api.md").read_text(), "## Operations")
    described = [(code(row[0])[0], code(row[1])[0]) for row in rows(text)[1:]]
    assert described == [(f"{each.method} {each.path}", each.right.value) for each in OPERATIONS]


def test_every_model_of_the_service_is_described() -> None:
    text = section((REFERENCE / "api.md").read_text(), "## Models")
    described = {code(row[0])[0]: code(row[1]) for row in rows(text)[1:]}
    elsewhere = {"PlanAnswer", "PlanEstimate", "PlannedImage"}  # as in the commands' JSON
    structs = [
        kind
        for module in (models, problem)
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__
        if not name.endswith("Query") and name not in elsewhere
    ]
    expected = {kind.__name__: [field.encode_name for field in msgspec.structs.fields(kind)] for kind in structs}
    for kind in (progress.Snapshot, progress.Amount, progress.RunningStep):
        expected[kind.__name__] = [field.name for field in fields(kind)]
    assert described == expected


def test_every_problem_of_the_service_is_described() -> None:
    text = section((REFERENCE / "api.md").read_text(), "## Problems")
    described = {name: int(row[1]) for row in rows(text)[1:] for name in code(row[0])}
    assert described == {kind.__name__: int(status) for kind, status in problem._STATUS.items()}


def test_every_bound_of_the_service_is_described() -> None:
    text = section((REFERENCE / "api.md").read_text(), "## Bounds")
    bounds, service = Bounds(), config.ServiceSettings()
    assert [int(re.findall(r"\d+", row[1])[0]) for row in rows(text)[1:]] == [
        bounds.connections,
        service.streams,
        bounds.head // 1024,
        bounds.body // 1024,
        1000,  # of Order
        4096,
        bounds.head_within,
        bounds.pipelined,
        bounds.idle_within,
        bounds.read_within,
    ]
    assert (bounds.connections, bounds.body_within) == (service.connections, bounds.head_within)


@pytest.mark.anyio
async def test_every_metric_is_described() -> None:
    activity = Activity(models.Phase.MIGRATING)
    activity.planned("run", 0, progress.Progress(Plan([])))
    metrics = Metrics(lambda: activity)
    ended = RunRecord("run", "leg", "scope", {}, RunState.DONE, 0.0, 1.0, 1, 1, 1)
    metrics._count(ended, {"done": 1}, activity)
    text = metrics.text().decode()
    expected = {
        name: kind for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE) if not name.endswith("_created")
    }
    described = {code(row[0])[0]: row[1] for row in rows((REFERENCE / "metrics.md").read_text())[1:]}
    assert described == expected
