"""The house: a file imports only from lower floors."""

import ast
from pathlib import Path

import pytest

import gaze_lens

ROOT = Path(gaze_lens.__file__).parent
FLOORS = [
    {"errors", "shards"},
    {"areas", "raster", "regions", "images", "image_tokens", "heads", "journal", "head_scores", "head_statistics",
     "ranks", "verdict", "wording", "attention_hooks", "attention_call", "attention", "projections", "bridges", "cache",
     "bypass", "within", "token_texts", "value_norms", "shared_keys", "key_rows"},
    {"families", "testing", "shapes"},
    {"comics", "data", "spans", "inputs", "prefix", "joining", "collation", "preparation", "loading", "watching",
     "generation", "capabilities", "video", "wrapping", "model", "rewording"},
    {"scoring", "steering", "tracking", "patching"},
    {"distributed", "evaluation", "tiny", "show", "report"},
    {"flags", "options", "demo", "discovery", "serve", "cli"},
]  # fmt: skip


def floor_of(room):
    return next((n for n, rooms in enumerate(FLOORS) if room in rooms), None)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gaze_lens."):
            yield node.module.split(".")[1]
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[1] for name in node.names if name.name.startswith("gaze_lens."))


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_from_its_own_floor_or_lower_ones(path):
    room = room_of(path)
    assert floor_of(room) is not None, f"{room} has no floor: add it to FLOORS"
    for imported in imports(path):
        assert floor_of(imported) <= floor_of(room), f"{room} imports {imported}, which is on a higher floor"


def test_the_analyses_do_not_import_one_another():
    analyses = FLOORS[4]
    for path in FILES:
        if room_of(path) in analyses:
            assert not (set(imports(path)) & analyses - {room_of(path)}), path.name


def test_the_public_names_exist():
    for name in gaze_lens.__all__:
        assert hasattr(gaze_lens, name)
