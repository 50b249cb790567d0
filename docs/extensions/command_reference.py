"""The reference of the command line on one page, made from the help texts of the commands.

`commands.md` has the line ``% commands``, which is replaced by the reference. Options are Sphinx's own objects: each
has an anchor and an entry in the index, and can be linked, as {option}`tinyres train --epochs`.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from tinyres import cli, models

PAGE, PLACE = "commands", "% commands"
FIRST = "Arguments", "Options"  # headings for parameters without a panel


def commands(command: Any = None, words: tuple[str, ...] = ("tinyres",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands in the order of --help, each with the words that call it; the whole command line is first."""
    command = get_command(cli.app) if command is None else command
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        if not below.hidden:
            yield from commands(below, (*words, name))


def reference() -> str:
    """The page's Markdown."""
    lines = ["| command | |", "|---|---|"]
    for words, command in commands():
        if len(words) > 1:
            lines.append(f"| [`{' '.join(words)}`](#{'-'.join(words)}) | {text(_paragraphs(command)[0])} |")
    for words, command in commands():
        lines += ["", *_section(words, command)]
    lines += ["", "(model-names)=", "## Names of models", "", ", ".join(f"`{name}`" for name in models.FAMILY)]
    lines += ["", "What each of them is: `tinyres summary NAME`, and {doc}`api/models`."]
    return "\n".join(lines) + "\n"


def _section(words: tuple[str, ...], command: Any) -> Iterator[str]:
    name = " ".join(words)
    with command.make_context(name, [], resilient_parsing=True) as context:
        usage = command.get_usage(context).removeprefix("Usage: ")
        yield from (f"({'-'.join(words)})=", f"{'#' * max(2, len(words))} {name}", "")
        for paragraph in _paragraphs(command):
            yield from ([f"`{paragraph}`", ""] if paragraph.startswith("tinyres ") else [text(paragraph), ""])
        yield from (f"Usage: `{usage}`", "", f"```{{program}} {name}", "```")
        panels: dict[str, list[Any]] = {heading: [] for heading in FIRST}
        for parameter in command.get_params(context):
            if not getattr(parameter, "hidden", False):
                plain = FIRST[parameter.param_type_name == "option"]
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or plain, []).append(parameter)
        for heading in (FIRST[0], *(h for h in panels if h not in FIRST), FIRST[1]):  # --help itself is last
            if panels[heading]:
                yield from ("", f"```{{rubric}} {heading}", "```")
                for parameter in panels[heading]:
                    yield from (
                        "",
                        f"````{{option}} {signature(parameter, context)}",
                        described(parameter, context),
                        "````",
                    )


def _paragraphs(command: Any) -> list[str]:
    written = command.help
    if command.callback is not None and not written:
        written = command.callback.__doc__
    return [" ".join(part.split()) for part in inspect.cleandoc(written or "").split("\n\n")]


def signature(parameter: Any, context: Any) -> str:
    """``--nesterov, --no-nesterov``; ``--epochs <int>``; ``folder``."""
    if parameter.param_type_name == "argument":
        return str(parameter.name)
    names = [*parameter.opts, *parameter.secondary_opts]
    if parameter.is_flag:
        return ", ".join(names)
    shown = parameter.get_help_record(context)[0]  # "-n, --name <int>"
    return shown if len(names) == 1 else ", ".join(names)


def described(parameter: Any, context: Any) -> str:
    """Help, choices and default of an option or argument."""
    said = text(getattr(parameter, "help", None) or "")
    parts = [said] if said else []
    choices = [item.value for item in parameter.shell_complete(context, "")]
    if choices and set(models.FAMILY) <= set(choices):
        parts.append("One of the {ref}`names of models <model-names>`.")
    elif any(not re.search(rf"(?<![\w-]){re.escape(choice)}(?![\w-])", said) for choice in choices):
        parts.append(f"One of {', '.join(f'`{choice}`' for choice in choices)}.")
    if parameter.nargs == -1 or parameter.multiple:
        parts.append("May be given several times." if parameter.multiple else "Any number of them.")
    if getattr(parameter, "min", None) is not None:
        parts.append(f"At least {parameter.min}.")
    if parameter.required:
        parts.append("Required.")
    elif (default := default_of(parameter)) is not None:
        parts.append(f"Default: `{default}`.")
    return " ".join(parts)


def default_of(parameter: Any) -> str | None:
    """The default as one types it; None if there is none, or if the help text describes it."""
    default = parameter.default
    if default is None or not parameter.show_default or callable(default):
        return None
    if getattr(parameter, "is_flag", False):  # an option without an opposite is off by default
        sides = parameter.opts if default else parameter.secondary_opts
        return sides[0] if parameter.secondary_opts else None
    return str(default)


def text(said: str) -> str:
    """Plain text with `code` in it, as Markdown. Options become code too, since their hyphens would become a dash."""
    parts = said.split("`")
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([*_<>\[\]|$\\{}])", r"\\\1", parts[i])
        parts[i] = re.sub(r"(?<![\w-])--[a-z][a-z-]*", r"`\g<0>`", parts[i])
    return "`".join(parts)


def insert(app: Any, docname: str, source: list[str]) -> None:
    """Put the reference in the place that the page has for it."""
    if docname == PAGE:
        source[0] = source[0].replace(f"\n{PLACE}\n", f"\n{reference()}\n")


def always(app: Any, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Read the page in each build, since it depends on the whole command line."""
    return [PAGE]


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", insert)
    app.connect("env-get-outdated", always)
    return {"parallel_read_safe": True}
