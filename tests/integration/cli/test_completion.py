"""What a shell offers after `nonlocalnet`."""

import shutil
import subprocess

import pytest

from nonlocalnet.cli import COMMANDS, main, zoo
from nonlocalnet.runtime.log import status


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_parts_and_options(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    for words, expected in {
        "nonlocalnet |": {*COMMANDS},
        "nonlocalnet pr|": {"predict"},
        "nonlocalnet data |": {"check", "resize", "pack"},
        "nonlocalnet train --lr|": {"--lr", "--lr-steps"},
        "nonlocalnet zoo --|": {"--mirror", "--folder", "--help", "--quiet"},
    }.items():
        typed = words.rstrip("|").split(" ")
        line = " ".join(f'"{word}"' for word in typed)
        script += f"\nCOMP_WORDS=({line}) COMP_CWORD={len(typed) - 1}; _nonlocalnet\n"
        script += 'echo "${COMPREPLY[@]}"'
        run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        found = run.stdout.splitlines()[-1].split()
        assert expected <= set(found), words
        assert all(word.startswith(typed[-1]) for word in found)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_the_same_words(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert [name for name in COMMANDS if name not in script] == []
    assert "lr-steps" in script


def test_quiet_leaves_out_messages_and_keeps_results_and_errors(monkeypatch, capsys):
    def list_and_tell(options):
        status.print("a message")
        print("a result")
        raise ValueError("an error")

    monkeypatch.setattr(zoo, "command", list_and_tell)
    for more, message in (([], "a message\n"), (["--quiet"], ""), ([], "a message\n")):
        assert main(["zoo", *more]) == 2
        assert capsys.readouterr() == ("a result\n", f"{message}nonlocalnet: an error\n")
