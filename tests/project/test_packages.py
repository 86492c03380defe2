"""Packages in layers, as CONTRIBUTING.md lists them; names of modules; the public names."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import gaze_lens

ROOT = Path(gaze_lens.__file__).parent
TABLE = ROOT.parent / "CONTRIBUTING.md"
ANALYSES = {"scoring/", "tracking/", "patching/", "tiny/"}
FILES = sorted(ROOT.rglob("*.py"))


def package_of(path, root=ROOT):
    """`show/interactive/` of a file two or more folders deep, `show/` of one in `show`, `errors.py` of one in none."""
    *folders, name = path.relative_to(root).parts
    return "/".join([*folders[:2], ""]) if folders else name


def layers_of(text):
    """{package: layer} from the table of layers in a Markdown text."""
    rows = re.findall(r"^\| (\d+) \| ([^|]*) \|", text, flags=re.MULTILINE)
    places = [(name, int(layer)) for layer, names in rows for name in re.findall(r"`([^`]+)`", names)]
    names = [name for name, _ in places]
    assert len(set(names)) == len(names), f"named twice: {sorted(name for name in names if names.count(name) > 1)}"
    return dict(places)


def modules_of(node):
    """The dotted names, below `gaze_lens`, of what an import statement may import."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert not node.level, "write imports in full"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def file_of(name, root=ROOT):
    """The file that holds a dotted name, the longest part of which is a module; None for another library's."""
    first, *parts = name.split(".")
    if first != "gaze_lens":
        return None
    for end in range(len(parts), 0, -1):
        path = root.joinpath(*parts[:end])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    return root / "__init__.py"


def nodes_that_run(tree):
    """The nodes of a module, without those that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from nodes_that_run(node)


def imports_of(path, root=ROOT):
    """The packages that a file imports from, its own left out; an `__init__.py` may import from those inside it."""
    own = package_of(path, root)
    for node in nodes_that_run(ast.parse(path.read_text(encoding="utf-8"))):
        for file in filter(None, (file_of(name, root) for name in modules_of(node))):
            package = package_of(file, root)
            inside = path.name == "__init__.py" and package.startswith(own)
            if package != own and not inside:
                yield package


LAYERS = layers_of(TABLE.read_text(encoding="utf-8"))


def test_every_package_is_in_the_table_once():
    assert set(LAYERS) == {package_of(path) for path in FILES}


@pytest.mark.parametrize("package", sorted(LAYERS))
def test_a_package_imports_only_from_lower_layers(package):
    for path in (path for path in FILES if package_of(path) == package):
        for imported in imports_of(path):
            assert LAYERS[imported] < LAYERS[package], f"{path} imports from {imported}, which is not on a lower layer"


def test_the_analyses_are_in_one_layer_and_so_do_not_import_one_another():
    assert len({LAYERS[package] for package in ANALYSES}) == 1


def test_layers_and_imports_are_read(tmp_path):
    table = "| layer | packages |\n|---|---|\n| 0 | `errors.py` |\n| 1 | `show/`, `show/live/`: figures |\n"
    assert layers_of(table) == {"errors.py": 0, "show/": 1, "show/live/": 1}
    with pytest.raises(AssertionError, match="named twice"):
        layers_of(table + "| 2 | `show/` |\n")
    (tmp_path / "show" / "live" / "page").mkdir(parents=True)
    sources = {
        "__init__.py": "from gaze_lens.show import figure",
        "errors.py": "def late():\n    import gaze_lens.show.live",
        "show/__init__.py": "from gaze_lens.show.live import Widget\nfrom gaze_lens.errors import Error",
        "show/plot.py": "from gaze_lens.show import live\nfrom gaze_lens import Picture, errors\nimport torch",
        "show/live/__init__.py": "",
        "show/live/page/__init__.py": "from gaze_lens.show.live import Widget",
    }
    for name, source in sources.items():
        (tmp_path / name).write_text(source)
    found = {name: set(imports_of(tmp_path / name, tmp_path)) for name in sources}
    assert found == {
        "__init__.py": {"show/"},
        "errors.py": {"show/live/"},
        "show/__init__.py": {"errors.py"},
        "show/plot.py": {"show/live/", "__init__.py", "errors.py"},
        "show/live/__init__.py": set(),
        "show/live/page/__init__.py": set(),
    }


def hidden_modules(package):
    """The modules of a package that cannot be reached as its attributes, as something else bears their name."""
    for path in sorted(Path(package.__file__).parent.iterdir()):
        name = path.stem
        if (path.suffix == ".py" or (path / "__init__.py").is_file()) and not name.startswith("__"):
            value = vars(package).get(name)
            if name in getattr(package, "__all__", ()):
                value = getattr(package, name)
            if value is not None and not (isinstance(value, ModuleType) and value.__name__.endswith(f".{name}")):
                yield name


PACKAGES = [".".join(["gaze_lens", *path.parent.relative_to(ROOT).parts]) for path in FILES if path.stem == "__init__"]


@pytest.mark.parametrize("name", PACKAGES)
def test_no_module_bears_the_name_of_something_that_its_package_exports(name):
    assert not list(hidden_modules(import_module(name)))


def test_a_hidden_module_is_seen(tmp_path):
    for name in ("track", "metrics", "late"):
        (tmp_path / f"{name}.py").touch()
    package = ModuleType("tracking")
    vars(package).update(
        __file__=str(tmp_path / "__init__.py"), track=len, metrics=ModuleType("tracking.metrics"), __all__=["late"],
        __getattr__={"late": len}.__getitem__,
    )  # fmt: skip
    assert list(hidden_modules(package)) == ["late", "track"]


def test_the_public_names_exist_and_are_all_that_completion_shows():
    for name in gaze_lens.__all__:
        assert hasattr(gaze_lens, name)
    assert dir(gaze_lens) == gaze_lens.__all__
    stub = ast.parse((ROOT / "__init__.pyi").read_text(encoding="utf-8"))
    [listed] = [node.value for node in stub.body if isinstance(node, ast.Assign)]
    assert sorted(ast.literal_eval(listed)) == gaze_lens.__all__
    assert gaze_lens.errors.InputError.__name__ == "InputError"  # a module that is no public name is imported, too
    with pytest.raises(AttributeError, match="module 'gaze_lens' has no attribute 'steeer'"):
        gaze_lens.steeer  # noqa: B018


HEAVY = {"torch", "transformers", "transformer_lens", "numpy", "pandas", "PIL", "matplotlib", "pydantic"}


@pytest.mark.parametrize(
    "start", ["import gaze_lens", "from gaze_lens.cli import app", "from gaze_lens.cli.commands import main"]
)
def test_nothing_heavy_is_imported_before_it_is_used(start):
    """So that the command line helps, and notebooks begin, at once."""
    code = f"import sys; {start}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY.intersection(loaded)
