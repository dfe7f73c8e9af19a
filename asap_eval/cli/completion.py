"""``asap-eval completion``: the script that lets bash or zsh complete commands, keys and choices.

source <(asap-eval completion bash)        in ~/.bashrc
source <(asap-eval completion zsh)         in ~/.zshrc, after compinit
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from asap_eval.cli.candidates import candidates
from asap_eval.cli.words import command

BASH = r"""_asap_eval() {
    local line=${COMP_LINE:0:COMP_POINT} IFS=$'\n' word one
    word=${line##* }
    COMPREPLY=($(asap-eval completion words --line "${line}" 2>/dev/null))
    # bash takes what stands before = as a word of its own, where = parts words.
    if [[ $COMP_WORDBREAKS == *=* && $word == *=* ]]; then
        word=${word%"${word##*=}"}
        COMPREPLY=("${COMPREPLY[@]#"$word"}")
    fi
    for one in "${COMPREPLY[@]}"; do
        [[ $one == *[=.] ]] && compopt -o nospace
    done
    return 0
}
complete -o default -F _asap_eval asap-eval
"""

ZSH = r"""_asap_eval() {
    local -a found open closed
    found=("${(@f)$(asap-eval completion words --line "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    open=(${(M)found:#*[=.]})
    closed=(${found:#*[=.]})
    if (( $#open + $#closed )); then
        compadd -Q -S '' -a open
        compadd -Q -a closed
    elif compset -P '*='; then
        _files
    else
        _files
    fi
}
compdef _asap_eval asap-eval
"""


@dataclass
class Asked:
    """For which shell."""

    shell: Literal["bash", "zsh", "words"]  # bash | zsh; words: what may follow line, for them
    line: str = "asap-eval "  # a command line up to the cursor


def main(argv: Sequence[str]) -> int:
    """Print the script of a shell, or for that script one candidate a line."""
    return command(argv, Asked, "completion", str(__doc__), _printed, places=["shell"])


def _printed(asked: Asked) -> None:
    if asked.shell == "words":
        print("\n".join(candidates(asked.line)))
    else:
        print({"bash": BASH, "zsh": ZSH}[asked.shell], end="")
