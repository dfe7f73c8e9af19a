"""Nothing of the package writes a file under its final name but the one writer, `placed`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from project import ROOT

PACKAGE = ROOT / "asap_eval"

RENAMES = {
    *("os.replace", "os.rename", "os.renames", "os.link", "os.symlink"),
    *("shutil.move", "shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree"),
}
OF_PATHS = {"rename", "replace", "hardlink_to", "symlink_to"}
WRITERS = {
    *("write_text", "write_bytes", "save_file", "serialize_file", "savez", "tofile", "dump_file"),
    *("to_csv", "to_json", "to_parquet", "write_table", "save_to_disk", "save_pretrained"),
}
SAVED = {"torch.save", "numpy.save", "np.save"}
PICTURES = {"save", "savefig"}
"""Methods that write a file where a module draws (imports PIL or matplotlib)."""

ELSEWHERE = {
    "files/placed.py": "the one writer",
    "record/journal.py Journal.resume": "cuts a torn end off what it appends to",
    "record/journal.py Journal.append": "appends, and syncs each batch",
    "runner/lock.py locks_hold": "an empty file, on which locks are tried",
    "launch/local.py _errors_to": "a log, appended to by the processes that are started",
    "cli/front.py main": "opens what swallows the rest where a pipe was closed",
    "data/decoded.py": "pictures into their places of a file that counts once it is whole",
    "data/named.py OpenSet.fetched": "puts an unpacked folder in place",
    "data/shards/fetched.py _download": "writes the part that its caller puts in place",
}
"""What may write by itself, and why: a room, a file, or a function of it."""


class Writing(ast.NodeVisitor):
    """Calls of a module that write a file under its final name, or rename one.

    Attributes:
        found: the function and the source of each.
    """

    def __init__(self, source: str) -> None:
        self.found: list[tuple[str, str]] = []
        self._within: list[str] = []
        self._safe: set[str] = set()
        tree = ast.parse(source)
        tops = {name.split(".")[0] for name in _imported(tree)}
        self._draws = bool(tops & {"PIL", "matplotlib"})
        self.visit(tree)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._inside(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._inside(node)

    def _inside(self, node: ast.ClassDef | ast.FunctionDef) -> None:
        before = set(self._safe)
        self._within.append(node.name)
        self.generic_visit(node)
        self._within.pop()
        self._safe = before

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            self._note(item.context_expr, item.optional_vars, {"placed", "part_of"})
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Buffers: ``a = BytesIO()``, and ``a, b = BytesIO(), BytesIO()``."""
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for one, value in zip(target.elts, node.value.elts, strict=True):
                    self._note(value, one, {"BytesIO", "StringIO"})
            self._note(node.value, target, {"BytesIO", "StringIO"})
        self.generic_visit(node)

    def _note(self, value: ast.expr, target: ast.expr | None, makers: set[str]) -> None:
        made = isinstance(value, ast.Call) and _dotted(value.func).split(".")[-1] in makers
        if isinstance(target, ast.Name):
            (self._safe.add if made else self._safe.discard)(target.id)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """``from os import replace`` would hide a renaming."""
        if {f"{node.module}.{name.name}" for name in node.names} & RENAMES:
            self._add(node)

    def visit_Call(self, node: ast.Call) -> None:
        parts = [node.func.value] if isinstance(node.func, ast.Attribute) else []
        named = {one.id for one in (*parts, *node.args) if isinstance(one, ast.Name)}
        if _renames(node) or (self._writes(node) and not named & self._safe):
            self._add(node)
        self.generic_visit(node)

    def _writes(self, node: ast.Call) -> bool:
        name = _dotted(node.func)
        last = name.split(".")[-1]
        if name == "os.open":
            return "O_RDONLY" not in ast.unparse(node)
        if last == "open":
            return any(map(_is_writing, (*node.args, *(word.value for word in node.keywords))))
        if last == "to_csv" and not node.args and "path_or_buf" not in _keywords(node):
            return False  # pandas gives the text
        return last in WRITERS or name in SAVED or (self._draws and last in PICTURES)

    def _add(self, node: ast.AST) -> None:
        self.found.append((".".join(self._within), ast.unparse(node)))


def _keywords(node: ast.Call) -> set[str | None]:
    return {word.arg for word in node.keywords}


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def _dotted(function: ast.expr) -> str:
    """The name that is called; of a method of an expression, a dot and the method's name."""
    if isinstance(function, ast.Attribute):
        return f"{_dotted(function.value)}.{function.attr}"
    return function.id if isinstance(function, ast.Name) else ""


def _renames(node: ast.Call) -> bool:
    """`str.replace` takes two arguments, and dates take keywords."""
    name = _dotted(node.func)
    alone = len(node.args) == 1 and not node.keywords and name != "dataclasses.replace"
    _, dot, last = name.rpartition(".")
    return name in RENAMES or (bool(dot) and last in OF_PATHS and alone)


def _is_writing(value: ast.expr) -> bool:
    """Whether an argument is a mode that writes."""
    mode = value.value if isinstance(value, ast.Constant) else None
    return isinstance(mode, str) and bool(re.fullmatch(r"(?=.*[wax+])[rwaxbt+]{1,4}", mode))


@pytest.mark.parametrize(
    "line",
    [
        "os.replace(a, b)", "from os import rename", "a.rename(b)", "a.replace(b)",
        "Path(a).replace(b)", "shutil.move(a, b)", "a.write_text('x')", "Path(a).write_bytes(b'x')",
        "open(a, 'w')", "open(a, mode='xb')", "a.open('r+')", "a.open('ab', buffering=0)",
        "gzip.open(a, 'wb')", "os.open(a, os.O_WRONLY | os.O_CREAT)", "torch.save(a, b)",
        "save_file(a, b)", "safetensors.torch.save_file(a, b)", "a.to_parquet(b)",
        "a.to_csv(b)", "a.to_csv(path_or_buf=b)",
        "import PIL\na.save(b)", "from matplotlib.figure import Figure\na.savefig(b)",
        "with placed(a) as part:\n part.rename(a)", "with placed(a) as part:\n a.write_text(b)",
        "with TemporaryDirectory() as a:\n Path(a).write_text(b)",
        "def f():\n with placed(a) as part: pass\ndef g():\n part.write_text(b)",
    ],
)  # fmt: skip
def test_a_writer_is_seen(line: str) -> None:
    assert len(Writing(line).found) == 1


@pytest.mark.parametrize(
    "line",
    [
        "a.replace('x', 'y')", "replace(a, b=1)", "when.replace(year=1)", "dataclasses.replace(a)",
        "open(a)", "open(a, 'rb')", "a.open()", "a.open('rb')", "Image.open(a)",
        "bench.open(a, loaded, limit=1)", "os.open(a, os.O_RDONLY)", "state.save(a, b)",
        "a.to_csv(index=False)",
        "with placed(a) as part:\n part.write_text(b)",
        "with placed(a) as part, part.open('w') as file:\n json.dump(b, file)",
        "with placed(a) as part:\n torch.save(b, part)",
        "import PIL\na = BytesIO()\nb.save(a, 'PNG')",
        "import PIL\na, b = BytesIO(), BytesIO()\nc.save(b, 'PNG')",
    ],
)  # fmt: skip
def test_a_reader_is_left_alone(line: str) -> None:
    assert Writing(line).found == []


def test_nothing_else_writes_files() -> None:
    used = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        for function, line in Writing(path.read_text()).found:
            places = (f"{name.split('/')[0]}/", name, f"{name} {function}")
            allowed = [place for place in places if place in ELSEWHERE]
            assert allowed, f"{name} {function}: `{line}` should write through `placed`"
            used.update(allowed)
    assert used == set(ELSEWHERE), "what writes no more has no place in ELSEWHERE"
