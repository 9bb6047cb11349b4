"""Scripts by which bash, zsh and fish complete a command line; made from its parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from .parser import FILES, Parser

SHELLS = ("bash", "zsh", "fish")

Suggestions = Mapping[str, Sequence[str]]
"""Words that may follow an option, for options whose parser does not know them."""


class Option(NamedTuple):
    """An option as a shell sees it.

    Attributes
    ----------
    names : tuple of str
    help : str
    takes : str
        What follows: "" for nothing, or "file", "words" or "text".
    words : tuple of str
        What to choose from.
    """

    names: tuple[str, ...]
    help: str
    takes: str
    words: tuple[str, ...] = ()


class Command(NamedTuple):
    """A command as a shell sees it.

    Attributes
    ----------
    help : str
    options : list of Option
    files : bool
        Whether the arguments are files.
    words : tuple of str
        What the arguments are chosen from.
    """

    help: str
    options: list[Option]
    files: bool
    words: tuple[str, ...]


def script(shell: str, parser: Parser, suggestions: Suggestions) -> str:
    """Return the script for a shell.

    Parameters
    ----------
    shell : str
        One of `SHELLS`.
    parser : Parser
        With its `commands`.
    suggestions : mapping of str to sequence of str
    """
    commands = {"": _command(parser, suggestions)}
    commands |= {name: _command(one, suggestions) for name, one in parser.commands.items()}
    write = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]
    return "\n".join(write(parser.prog, commands)) + "\n"


def _command(parser: Parser, suggestions: Suggestions) -> Command:
    options: list[Option] = []
    words: tuple[str, ...] = ()
    files = False
    for action in parser.arguments():
        if action.option_strings:
            options.append(_option(action, parser.help_of(action), suggestions))
        else:
            files |= action.metavar in FILES
            words += tuple(map(str, action.choices or ()))
    return Command(parser.description or "", options, files, words)


def _option(action: argparse.Action, about: str, suggestions: Suggestions) -> Option:
    names = tuple(action.option_strings)
    words = tuple(map(str, action.choices or suggestions.get(names[-1], ())))
    takes = "words" if words else "file" if action.metavar in FILES else "text"
    return Option(names, about, "" if action.nargs == 0 else takes, words)


def _function(prog: str) -> str:
    return "_" + prog.replace("-", "_")


# bash


_BASH = """\
# Completion of {prog} in bash: source this file, or put it where bash-completion looks:
# ~/.local/share/bash-completion/completions/{prog}
{function}() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command= words=
    if [[ $current == = ]]; then
        current=
    elif [[ $before == = ]]; then
        before=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    if ((COMP_CWORD > 1)); then
        case ${{COMP_WORDS[1]}} in
            {commands}) command=${{COMP_WORDS[1]}} ;;
        esac
    fi
    case "$command $before" in"""

_BASH_END = """\
        *)
            case "$command $current" in
{otherwise}
            esac ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F {function} {prog}"""


def _bash(prog: str, commands: Mapping[str, Command]) -> Iterator[str]:
    names = "|".join(name for name in commands if name)
    yield _BASH.format(prog=prog, function=_function(prog), commands=names)
    otherwise = []
    for name, command in commands.items():
        for option in command.options:
            patterns = "|".join(f'"{name} {given}"' for given in option.names)
            if option.takes == "file":
                yield f"        {patterns}) return ;;"  # readline completes files
            elif option.takes:
                yield f'        {patterns}) compopt +o default; words="{" ".join(option.words)}" ;;'
        every = " ".join(given for option in command.options for given in option.names)
        otherwise.append(f'                "{name} -"*) words="{every}" ;;')
        words = list(commands)[1:] if not name else command.words
        if words and command.files:  # files may follow too, so nothing is proposed for nothing
            otherwise.append(f'                "{name} "?*) words="{" ".join(words)}" ;;')
        elif words or not command.files:
            words_only = f'compopt +o default; words="{" ".join(words)}"'
            otherwise.append(f'                "{name} "*) {words_only} ;;')
    yield _BASH_END.format(prog=prog, function=_function(prog), otherwise="\n".join(otherwise))


# zsh


def _zsh(prog: str, commands: Mapping[str, Command]) -> Iterator[str]:
    function = _function(prog)
    yield f"#compdef {prog}"
    yield f"# Completion of {prog} in zsh: put this file into a folder of $fpath as {function}."
    yield f"{function}() {{"
    yield "    local -a commands"
    yield "    commands=("
    for name, command in commands.items():
        if name:
            yield f"        {_quoted(name + ':' + command.help.rstrip('.'))}"
    yield "    )"
    yield "    local command="
    yield "    if ((CURRENT > 2 && ${+commands[(r)${words[2]}:*]})); then"
    yield "        command=${words[2]}"
    yield "        shift words; ((CURRENT--))"
    yield "    elif ((CURRENT == 2)) && [[ ${words[2]} != -* ]]; then"
    yield "        _describe command commands"
    yield "    fi"
    yield '    case "$command" in'
    for name, command in commands.items():
        lines = [_zsh_option(option) for option in command.options]
        if command.files:
            lines.append("'*:file:_files'")
        elif command.words:
            lines.append(f"'1:word:({' '.join(command.words)})'")
        yield f'        "{name}") _arguments -s {" ".join(lines)} ;;'
    yield "    esac"
    yield "}"
    yield f'if [[ $funcstack[1] == {function} ]]; then {function} "$@"; fi'
    yield f"compdef {function} {prog}"


def _zsh_option(option: Option) -> str:
    about = option.help.translate(str.maketrans("[]:", "();"))
    actions = {"": "", "file": ":file:_files", "text": ":value: "}
    action = actions.get(option.takes, f":value:({' '.join(option.words)})")
    names = option.names
    if len(names) == 1:
        return _quoted(f"{names[0]}[{about}]{action}")
    return f"'({' '.join(names)})'{{{','.join(names)}}}" + _quoted(f"[{about}]{action}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# fish


def _fish(prog: str, commands: Mapping[str, Command]) -> Iterator[str]:
    yield f"# Completion of {prog} in fish: put it into ~/.config/fish/completions/{prog}.fish"
    yield f"complete -c {prog} -f"
    for name, command in commands.items():
        where = f"-n '__fish_seen_subcommand_from {name}'"
        if not name:
            where = "-n __fish_use_subcommand"
            for one, about in commands.items():
                if one:
                    help = _fish_quoted(about.help.rstrip("."))
                    yield f"complete -c {prog} {where} -a {one} -d {help}"
        if command.files:
            yield f"complete -c {prog} {where} -F"
        elif command.words:
            yield f"complete -c {prog} {where} -a '{' '.join(command.words)}'"
        for option in command.options:
            yield f"complete -c {prog} {where} {' '.join(_fish_option(option))}"


def _fish_option(option: Option) -> Iterable[str]:
    for name in option.names:
        yield f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
    takes = {"": "", "file": "-r -F", "text": "-x"}
    yield takes.get(option.takes, f"-x -a '{' '.join(option.words)}'")
    yield f"-d {_fish_quoted(option.help)}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
