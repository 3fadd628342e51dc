"""Makes what is in this directory from the program itself: man page, completions for shells, the service's interface (OpenAPI).

Run by ``make generated``; ``tests/test_generated.py`` finds what is not up to date. The same at all times, on all machines.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from transship import __version__, config
from transship.cli.main import _EXIT_CODES, _parser
from transship.daemon.web import openapi
from transship.daemon.web.operations import OPERATIONS

_HERE = Path(__file__).resolve().parent
_COMPLETED = {"FILE": shtab.FILE, "PATH": shtab.FILE, "DIR": shtab.DIRECTORY}
"""By what an option takes, as its help calls it."""
_SECTIONS = {
    "EXIT STATUS": _EXIT_CODES.partition("\n")[2],
    "FILES": f"""\
{config.DEFAULT_FILE}
{config.DEFAULT_FILE.parent}/conf.d/*.toml
    the configuration
/run/transship/transship.sock
    the service's socket; members of the group transship may ask how it goes
/var/lib/transship
    the journal of all runs
/var/lib/transship/armed
    what the next boot migrates
""",
    "SEE ALSO": "systemctl(1), containerd(8), dockerd(8), transship.service, transship-boot.service\n",
}
_ONE_LINE = "moves the images of a Docker host to the containerd image store"


def generate() -> dict[str, str]:
    """Return the contents of each file, by its path below this directory."""
    os.environ["COLUMNS"] = "80"
    return {
        "man/transship.1": _man_page(),
        **{f"completions/transship.{shell}": _completion(shell) for shell in ("bash", "zsh", "fish")},
        "openapi.json": json.dumps(openapi.document(OPERATIONS), indent=2) + "\n",
    }


def _man_page() -> str:
    parser = _parser()
    parser._positionals.title = "commands"
    for each in _all_parsers(parser):
        each.epilog = None  # once, at the end, is enough
        positionals = [str(action.metavar or action.dest) for action in each._get_positional_actions()]
        each.usage = " ".join([each.prog, "[OPTION ...]", *positionals])  # the options follow, each with what it is for
    page = Manpage(
        parser,
        format="single-commands-section",
        _data={"project_name": "transship", "version": __version__, "description": _ONE_LINE, "manual_title": "User commands"},
    )
    page.date = ""  # that of the file is as good
    sections = [f".SH {title}\n.nf\n{_escaped(text)}.fi\n" for title, text in _SECTIONS.items()]
    return f"{page}{''.join(sections)}"


def _escaped(text: str) -> str:
    return re.sub(r"^([.'])", r"\\&\1", text.replace("\\", r"\e").replace("-", r"\-"), flags=re.MULTILINE)


def _completion(shell: str) -> str:
    parser = _parser()
    for each in _all_parsers(parser):
        each.epilog = None
        for action in each._actions:
            if action.metavar in _COMPLETED:
                action.complete = _COMPLETED[action.metavar]  # type: ignore[attr-defined]
            if isinstance(action, argparse._SubParsersAction):
                for choice in action._choices_actions:
                    action.choices[choice.dest].description = choice.help  # what fits beside a command's name
    text: str = shtab.complete(parser, shell=shell)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _all_parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Return a parser and those of all commands below it."""
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                found += _all_parsers(below)
    return found


def main() -> None:
    """Write the files."""
    for name, text in generate().items():
        path = _HERE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
