"""TransformerLens' own tests with our model in place of theirs: `make peers`, or

    python benchmarks/peers/run.py --page docs/peers.md [--source transformer_lens-4.3.0.tar.gz]

Downloads the source distribution of the installed TransformerLens, and runs those of its tests that use a text model of
any kind: first with the embedded model under the plain bridge, then those that used it under `HookedVLM`, with text and
with prompts about a picture. Ends with 1 where a test fails with ours alone and `explanations.py` does not say why, or
a limit on time left tests out; and with 2 where nothing could be downloaded.
"""

import argparse
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from comparison import compare, page, summary

HERE = Path(__file__).parent
USES_A_MODEL = re.compile(r"boot_transformers\(|\b(distil)?gpt2_bridge")
NOT_OURS = re.compile(r"_adapter\.py$|/(mps|benchmarks)/|multi_gpu")  # one architecture, other devices, their own speed
MINUTES = 30  # of the processor, for one pass over the tests
KINDS = ("plain", "ours", "image")


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, help="the Markdown file to write")
    parser.add_argument("--source", type=Path, help="a source distribution, instead of downloading it")
    parser.add_argument("--outcomes", type=Path, help="a folder to keep each test's outcome in")
    args = parser.parse_args()
    version = importlib.metadata.version("transformer-lens")
    with tempfile.TemporaryDirectory() as folder:
        source = args.source or download(version, Path(folder))
        if source is None:
            print(f"make peers downloads the source of transformer-lens {version} with pip, and could not.")  # noqa: T201
            return 2
        outcomes = run_all(source, Path(folder), args.outcomes or Path(folder))
    compared = compare(*(outcomes[kind] for kind in KINDS))
    print(summary(compared))  # noqa: T201
    if args.page:
        args.page.write_text(page(compared, version))
    return 1 if compared.cut_short or any(row.reason is None for row in compared.alone) else 0


def download(version: str, folder: Path) -> Path | None:
    """The source distribution of a version of TransformerLens; None where pip does not get it."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "transformer-lens", "--quiet"]
    pip = [*command, "--retries", "1", "--dest", str(folder), f"transformer-lens=={version}"]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    return next(folder.glob("transformer_lens-*.tar.gz"), None) if done.returncode == 0 else None


def run_all(source: Path, folder: Path, kept: Path) -> dict[str, dict[str, dict]]:
    """For each kind of model, the outcomes of the tests that used it."""
    with tarfile.open(source) as archive:
        members = [member for member in archive if "/tests/" in member.name]
        archive.extractall(folder, members=members, filter="data")
    root = next(folder.glob("transformer_lens-*/tests")).parent
    (root / "pytest.ini").write_text("[pytest]\n")
    selected = [str(path.relative_to(root)) for path in sorted((root / "tests").rglob("test_*.py")) if _wanted(path)]
    outcomes: dict[str, dict[str, dict]] = {}
    for kind in KINDS:
        file = (kept / f"{kind}.json").resolve()
        _run(root, kind, selected, file)
        outcomes[kind] = json.loads(file.read_text())
        selected = list(outcomes["plain"])
    return outcomes


def _wanted(path: Path) -> bool:
    """Whether a file has tests that use a model which stands for any."""
    from stand_in import ANY_MODEL

    text = path.read_text()
    named = "gpt2_bridge" in text or any(f'"{name}"' in text for name in ANY_MODEL)
    return named and USES_A_MODEL.search(text) is not None and NOT_OURS.search(path.as_posix()) is None


def _run(root: Path, kind: str, tests: list[str], file: Path) -> None:
    """One pass of pytest over files or tests, without the network; what it writes is `file`."""
    (root / "selected").write_text("\n".join(tests))
    options = ["-q", "-W", "ignore", "-p", "no:cacheprovider", "--tb=no", "--continue-on-collection-errors"]
    plugin = ["-p", "stand_in", "--stand-in", kind, "--outcomes", str(file), "--minutes", str(MINUTES)]
    path = os.pathsep.join([str(HERE), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    print(f"{kind}:", flush=True)  # noqa: T201
    command = [sys.executable, "-m", "pytest", *options, *plugin, "@selected"]
    subprocess.run(command, cwd=root, env=environment, check=False)
    if not file.exists():
        raise SystemExit(f"pytest wrote no outcomes with {kind}; what it printed above says why.")


if __name__ == "__main__":
    sys.exit(main())
