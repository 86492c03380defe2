"""The plan of the study as code; `docs/study/plan.md` says why. A test compares the two."""

from dataclasses import dataclass
from functools import partial

from training.llava import FRAME, build, encode_images, tower_parameters
from training.phases import EARLY, Phase
from training.recipe import Architecture, Size

SEEDS = (0, 1, 2, 3)
FEWER_SEEDS = (0, 1)  # of what follows the core
PILOT_SEED = 100
PILOT_STEPS = (1000, 2000, 4000)  # with the language model; the pilot tries them in this order
STRIPS = 60
COUNTS_UP_TO = 0.25  # of all heads
ANSWERS = 0.9  # the share of questions about the k-th panel from which on a model counts as one that answers
TOWER_STEPS = 1000
STEPS = 1000  # of the training with the language model; less than the pilot's rule asks for: see the plan's changes
SMALL = Size(width=96, layers=4, heads=8, mlp=288)
BASE = Size(width=132)


@dataclass(frozen=True)
class Treatment:
    """What happens to the vision tower.

    pretraining: "contrast", "classify", or "" for none, before the language model is trained.
    frozen: whether it stays as it is after that.
    """

    what: str
    pretraining: str
    frozen: bool


TREATMENTS = {
    "a": Treatment("contrastive training, then trained with the language model", "contrast", frozen=False),
    "c": Treatment("contrastive training, then frozen", "contrast", frozen=True),
    "b": Treatment("classifier training, then frozen", "classify", frozen=True),
    "d": Treatment("random weights, frozen", "", frozen=True),
}  # in the order in which they are run


@dataclass(frozen=True)
class Variant:
    """What all treatments have in common; the core's values are the defaults."""

    what: str = "core"
    size: Size = SMALL
    projector: str = "gelu"
    image_penalty: float = 0.0
    steps: int = STEPS


VARIANTS = {
    "core": Variant(),
    "long": Variant("4,000 steps", steps=4000),
    "penalty": Variant("with the image-attention penalty", image_penalty=0.004),
    "base": Variant("base size", size=BASE),
    "linear": Variant("linear projector", projector="linear"),
    **{f"pilot-{steps}": Variant(f"pilot, {steps} steps", steps=steps) for steps in PILOT_STEPS},
}


@dataclass(frozen=True)
class Run:
    """One training of the study; its `name` is its folder's."""

    treatment: str
    seed: int
    variant: str = "core"

    @property
    def name(self) -> str:
        """`Run("a", 0).name` is "core-a-0"."""
        return f"{self.variant}-{self.treatment}-{self.seed}"

    @property
    def architecture(self) -> Architecture:
        """LLaVA with this variant's projector."""
        of_variant = partial(build, projector=VARIANTS[self.variant].projector)
        return Architecture("LLaVA", of_variant, FRAME, encode_images, tower_parameters)


PILOT = tuple(Run(treatment, PILOT_SEED, f"pilot-{steps}") for steps in PILOT_STEPS for treatment in ("a", "c"))
CORE = tuple(Run(treatment, seed) for seed in SEEDS for treatment in TREATMENTS)
FOLLOWING = tuple(
    Run(treatment, seed, variant)
    for variant in ("long", "penalty", "base", "linear")
    for seed in FEWER_SEEDS
    for treatment in ("a", "c")
)
RUNS = CORE + FOLLOWING


def phases(steps: int, image_penalty: float = 0.0) -> tuple[Phase, ...]:
    """The phases with the language model: a quarter of the steps "learn", the rest "practise"."""
    learn = steps // 4
    return (
        Phase("learn", learn, 4e-3, 3e-3, end=0.5, image_penalty=image_penalty, penalty_power=4, **EARLY),
        Phase("practise", steps - learn, 2.5e-3, 1.5e-3, end=0.02),
    )
