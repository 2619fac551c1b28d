"""The seams of docs/architecture.md in numbers: no import circles, and detection is reached by name
in few places."""

import ast
import re
import subprocess
import sys
from pathlib import Path

HOUSE = Path(__file__).parents[3] / "src" / "nonlocalnet"
MOST = 6


def imports_at_start(module: str, path: Path, modules: dict[str, Path]) -> set[str]:
    """Modules of the house that `import module` imports: not in functions, not for types alone."""
    found = set()
    todo = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                found.add(below if below in modules else str(node.module))
        else:
            todo += ast.iter_child_nodes(node)
    return (found & modules.keys()) - {module}


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """The first circle that a walk in depth meets, or nothing."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph[name]):
            if circle := walk(other, [*path, name]):
                return circle
        done.add(name)
        return []

    sys.setrecursionlimit(max(sys.getrecursionlimit(), 10 * len(graph)))
    return next((circle for name in graph if (circle := walk(name, []))), [])


def read_house(root: Path) -> dict[str, Path]:
    modules = {}
    for path in sorted(root.rglob("*.py")):
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
        modules[".".join(part for part in parts if part != "__init__")] = path
    return modules


def names_detection(path: Path) -> bool:
    """Whether code, not prose, knows the room: imports it, or tells its networks from others."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    said = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            said += [f"{alias.name}." for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            said += [f"{node.module}.{alias.name}." for alias in node.names]
        elif isinstance(node, ast.Constant) and id(node) not in prose:
            said.append(str(node.value))
        elif isinstance(node, ast.Name | ast.Attribute):
            said.append(node.id if isinstance(node, ast.Name) else node.attr)
    return any(re.search(r"\.detection\b|\bis_detector\b|\broi_heads\b", text) for text in said)


def test_no_module_imports_itself_by_way_of_others():
    modules = read_house(HOUSE)
    graph = {name: imports_at_start(name, path, modules) for name, path in modules.items()}
    assert len(graph) > 100
    assert graph["nonlocalnet.ops.dispatch"], "no imports are seen"
    assert find_circle(graph) == []


def test_a_circle_is_seen(tmp_path):
    root = tmp_path / "house"
    root.mkdir()
    (root / "__init__.py").touch()
    (root / "a.py").write_text("from house import b\n")
    (root / "b.py").write_text("import house.c\n")
    (root / "c.py").write_text("def f():\n    from house import a\n")
    modules = read_house(root)

    def circle() -> list[str]:
        return find_circle({n: imports_at_start(n, p, modules) for n, p in modules.items()})

    assert circle() == []
    (root / "c.py").write_text("try:\n    from house.a import x\nexcept ImportError:\n    x = 1\n")
    assert circle() == ["house.a", "house.b", "house.c", "house.a"]


def test_detection_is_known_by_name_in_few_places():
    outside = [
        str(path.relative_to(HOUSE))
        for path in sorted(HOUSE.rglob("*.py"))
        if path.relative_to(HOUSE).parts[0] != "detection" and names_detection(path)
    ]
    assert "networks/registry.py" in outside  # which lists the room's rows
    assert len(outside) <= MOST, outside


def test_names_are_checked_without_torch():
    code = (
        "import sys\n"
        "from nonlocalnet.networks.registry import family_of, list_models\n"
        "assert {family_of(name).takes for name in list_models()} == {'videos', 'images'}\n"
        "heavy = {'torch', 'numpy', 'torchvision', 'av', 'PIL', 'matplotlib', 'rich'}\n"
        "sys.exit(', '.join(sorted(heavy & sys.modules.keys())) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
