"""A sheet as a table of LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence

from asap_eval.report.sheet import Sheet

LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "—": "---",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "→": r"$\rightarrow$",
    "Δ": r"$\Delta$",
    "†": r"\dag{}",
    "▼": r"$\triangledown$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "…": r"\ldots{}",
}
"""Signs that LaTeX reads otherwise, or does not have in its text fonts."""


def latex(sheet: Sheet) -> str:
    """A ``table*`` with booktabs rules; it needs the packages booktabs, textcomp and amssymb."""
    count = len(sheet.columns)
    shape = "".join("r" if head.kind == "number" else "l" for head in sheet.columns)
    title = ". ".join(part for part in (sheet.title, sheet.caption) if part)
    lines = [
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{_tex(title)}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9-]', '-', sheet.name)}}}",
        rf"\begin{{tabular}}{{{shape}}}",
        r"\toprule",
        *_tex_heads(sheet),
        r"\midrule",
    ]
    for at, (section, rows) in enumerate(sheet.sections()):
        if section:
            lines += [r"\midrule"] * (at > 0)
            lines.append(rf"\multicolumn{{{count}}}{{l}}{{\emph{{{_tex(section)}}}}} \\")
        lines += [_tex_row([_tex(cell.text) for cell in row.cells]) for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\smallskip{{\footnotesize {_tex(note)}\par}}" for note in sheet.notes()]
    lines.append(r"\end{table*}")
    commands = [command for row in sheet.rows for command in row.commands]
    commands += [command for _, command in sheet.commands]
    lines += [f"% {' '.join(command.split())}" for command in commands]
    return "\n".join(lines) + "\n"


def _tex_heads(sheet: Sheet) -> list[str]:
    """One line of heads, and one of groups above it where there are any."""
    heads = [_tex_row([_tex(head.text) for head in sheet.columns])]
    groups: list[tuple[str, int, int]] = []
    for at, head in enumerate(sheet.columns):
        if groups and head.group and groups[-1][0] == head.group:
            groups[-1] = (head.group, groups[-1][1], at)
        else:
            groups.append((head.group, at, at))
    if not any(group for group, _, _ in groups):
        return heads
    over = [
        rf"\multicolumn{{{last - first + 1}}}{{c}}{{{_tex(group)}}}" if group else ""
        for group, first, last in groups
    ]
    rules = [rf"\cmidrule(lr){{{a + 1}-{b + 1}}}" for group, a, b in groups if group]
    return [_tex_row(over), " ".join(rules), *heads]


def _tex_row(cells: Sequence[str]) -> str:
    """A cell that begins with ``[`` would be read as an argument of the line break before it."""
    safe = [f"{{{cell}}}" if cell.startswith("[") else cell for cell in cells]
    return " & ".join(safe) + r" \\"


def _tex(text: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in " ".join(text.split()))
