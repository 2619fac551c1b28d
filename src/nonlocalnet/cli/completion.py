"""Print a script that completes commands, options and files in a shell.

In ~/.bashrc, write: eval "$(nonlocalnet completion bash)"

In ~/.zshrc, write: eval "$(nonlocalnet completion zsh)"

In ~/.config/fish/config.fish, write: nonlocalnet completion fish | source
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Literal

import tyro

from nonlocalnet.cli import COMMANDS, QUIET
from nonlocalnet.cli.options import option_names, part_names

BASH = """\
_nonlocalnet() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} words=
  if [ "$COMP_CWORD" = 1 ]; then
    words="{commands}"
  else
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o bashdefault -o default -F _nonlocalnet nonlocalnet
"""
ZSH = "autoload -Uz bashcompinit && bashcompinit\n"


@dataclass(frozen=True)
class Options:
    """Options of `nonlocalnet completion`."""

    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]
    """The shell."""


def command(options: Options) -> int:
    words = {name: _words(name) for name in COMMANDS}
    if options.shell == "fish":
        print("\n".join(_fish(words)))
        return 0
    cases = "\n".join(f'      {name}) words="{" ".join(own)}" ;;' for name, own in words.items())
    script = BASH.format(commands=" ".join(words), cases=cases)
    print(ZSH + script if options.shell == "zsh" else script, end="")
    return 0


def _words(name: str) -> list[str]:
    """List what may follow a command: its parts, such as check of `data`, and its options."""
    kind = importlib.import_module(f"nonlocalnet.cli.{name}").Options
    return [*part_names(kind), *dict.fromkeys(option_names(kind)), "--help", QUIET]


def _fish(words: dict[str, list[str]]) -> list[str]:
    first = "complete -c nonlocalnet -n __fish_use_subcommand -x"
    lines = [f"{first} -a {name} -d '{text}'" for name, text in COMMANDS.items()]
    for name, own in words.items():
        after = f"complete -c nonlocalnet -n '__fish_seen_subcommand_from {name}'"
        lines += [
            f"{after} -l {word[2:]}" if word.startswith("--") else f"{after} -a {word}"
            for word in own
        ]
    return lines
