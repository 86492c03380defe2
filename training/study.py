"""Does a frozen encoder prevent gaze heads? `python -m training.study --out docs/study`, as `docs/study/plan.md` says.

Runs are trained and measured in the plan's order, two at a time; `--out` gets a folder for each with its `log.jsonl`
and `figures.json`. States and checkpoints go to `--states`. If the command is stopped, the same command continues, and
repeats nothing but the steps since the last state (every 100). Started twice, it shares the runs. At the end, or with
`--report` at any time, it writes the page's table and pictures from the runs' files alone.

A run takes about ten minutes of one core, those of 4,000 steps half an hour.
"""

import copy
import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from filelock import FileLock, Timeout

import gaze_lens as gl
from gaze_lens import comics
from gaze_lens.evaluation import Condition, asking, question
from gaze_lens.evaluation.judges import ExactDescription
from gaze_lens.model.hooked_vlm import HookedVLM
from gaze_lens.runs.files import write_whole
from training import study_plan as plan
from training.evaluate import SEED
from training.packed_forward import use_plain_attention
from training.readout import readout
from training.study_plan import PILOT, RUNS, TREATMENTS, VARIANTS, Run
from training.tower import TowerTrainer
from training.train import DivergedError, Trainer, train
from training.zoo import measure_model

OBSERVED_STRIPS = 10
OBSERVED_COUNTS = (1, 2, 4)
FORMATION_SEED = SEED + 2  # of strips to find heads on; those that are asked about and steered have the next


def pretrained_tower(run: Run, states: Path) -> dict[str, Any] | None:
    """The tower's weights that the run starts from; None for random ones. Runs that share a tower train it once."""
    kind = TREATMENTS[run.treatment].pretraining
    if not kind:
        return None
    size = VARIANTS[run.variant].size
    folder = states / f"tower-{kind}-{size.vision_width}-{plan.TOWER_STEPS}-{run.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        trainer = TowerTrainer(kind, seed=run.seed, size=size, steps=plan.TOWER_STEPS)
        train(trainer, folder)
    weights: dict[str, Any] = trainer.model.model.vision_tower.state_dict()
    return weights


def language_trainer(run: Run, tower: dict[str, Any] | None) -> Trainer:
    """The run's trainer of the whole model, before the first step."""
    variant = VARIANTS[run.variant]
    trainer = Trainer(
        seed=run.seed,
        size=variant.size,
        phases=plan.phases(variant.steps, variant.image_penalty),
        architecture=run.architecture,
        frozen=TREATMENTS[run.treatment].frozen,
        auxiliary=0.0,
    )
    if tower is not None:
        trainer.model.model.vision_tower.load_state_dict(tower)
    return trainer


@torch.no_grad()
def observe(trainer: Trainer) -> dict[str, Any]:
    """Scores along a run: answering, the largest contrasts, and steering, on a few strips."""
    # Copies of both: a tokenizer that has padded once pads the batches of training, too.
    hf_model, processor = copy.deepcopy(trainer.model).eval(), copy.deepcopy(trainer.processor)
    use_plain_attention(hf_model)
    model = HookedVLM.wrap(hf_model, processor)
    others = comics.synthetic(OBSERVED_STRIPS, seed=FORMATION_SEED)
    strips = comics.synthetic(OBSERVED_STRIPS, seed=FORMATION_SEED + 1)
    scores = gl.score_heads(model, others, batch_size=8, progress=False)
    answer = gl.score_heads(model, others, at="answer", batch_size=8, progress=False)
    options: dict[str, Any] = {"batch_size": 60, "progress": False}
    asked = gl.evaluate(model, strips, [Condition("none")], protocol=asking(), **options)
    exact = gl.rejudge(asked.generations, ExactDescription(), progress=False)
    conditions = [Condition(str(k), scores.top(k), gl.boost_and_suppress()) for k in OBSERVED_COUNTS]
    steered = gl.evaluate(model, strips, conditions, protocol=question(), **options)
    return {
        "answered": round(exact.accuracy("none").value, 4),
        "contrast": round(float(scores.contrast.max()), 4),
        "contrast at the answer": round(float(answer.contrast.max()), 4),
        "steered": {str(k): round(steered.accuracy(str(k)).value, 4) for k in OBSERVED_COUNTS},
    }


def measure(checkpoint: Path, *, strips: int) -> dict[str, Any]:
    """All outcomes of the plan, from a run's checkpoint."""
    model = HookedVLM.from_pretrained(str(checkpoint), device="cpu", dtype="float32")
    figures, scores = measure_model(model, strips=strips, most=plan.COUNTS_UP_TO)
    scores.save(checkpoint.parent / "scores.safetensors")
    return figures | {"readout": readout(model.original_model, model.processor)}


def read_again(checkpoint: Path, figures: Path) -> None:
    """Measure the linear readout once more, for runs that were measured before it had all its parts."""
    stored = json.loads(figures.read_text())
    if "diverged" in stored or not checkpoint.exists():
        return
    model = HookedVLM.from_pretrained(str(checkpoint), device="cpu", dtype="float32")
    stored["readout"] = readout(model.original_model, model.processor)
    write_whole(figures, json.dumps(stored, indent=1).encode())


def train_run(run: Run, folder: Path, states: Path) -> None:
    """Train a run to the end, or continue that, and write its checkpoint into `folder`."""
    if not (folder / "checkpoint" / "model.safetensors").exists():
        trainer = language_trainer(run, pretrained_tower(run, states))
        train(trainer, folder, observe)
        trainer.export(folder / "checkpoint")


def run_one(run: Run, out: Path, states: Path, *, strips: int) -> None:
    """Train and measure a run, or continue that; a run that has figures is left as it is.

    Of a run that diverges, the figures say at which step, and nothing else.
    """
    steps = VARIANTS[run.variant].steps
    folder, state_folder = out / run.name, states / f"{run.name}-{steps}"
    if (folder / "figures.json").exists():
        return
    for each in (folder, state_folder):
        each.mkdir(parents=True, exist_ok=True)
    typer.echo(f"{run.name}: {TREATMENTS[run.treatment].what}; {VARIANTS[run.variant].what}")
    subject: dict[str, Any] = {"run": run.name, "steps": steps, "tower steps": plan.TOWER_STEPS}
    try:
        train_run(run, state_folder, states)
        figures = measure(state_folder / "checkpoint", strips=strips)
    except DivergedError as error:
        figures = {"diverged": str(error)}
    if (state_folder / "log.jsonl").exists():  # not where the tower's training diverged
        shutil.copyfile(state_folder / "log.jsonl", folder / "log.jsonl")
    write_whole(folder / "figures.json", json.dumps(subject | figures, indent=1).encode())


def work(names: list[str], out: Path, states: Path, strips: int) -> None:
    """Go through the runs, and do each that is neither done nor in another process's hands."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # denormal numbers are many times slower on CPUs
    states.mkdir(parents=True, exist_ok=True)
    for run in [run for run in (*PILOT, *RUNS) if run.name in names]:
        try:
            with FileLock(states / f"{run.name}.lock", timeout=0):
                run_one(run, out, states, strips=strips)
        except Timeout:
            continue


def main(
    out: Annotated[Path, typer.Option(help="Folder for logs, figures and the report.")],
    states: Annotated[Path, typer.Option(help="Folder for states and checkpoints.")] = Path("build/study"),
    run: Annotated[
        list[str] | None, typer.Option(help="Only this run, such as core-a-0 or pilot-1000-a-100; may be given again.")
    ] = None,
    workers: Annotated[int, typer.Option(help="How many runs at a time.")] = 2,
    strips: Annotated[int, typer.Option(help="New strips to measure on.")] = plan.STRIPS,
    report: Annotated[bool, typer.Option(help="Only write the report, on the runs that have figures.")] = False,
    again: Annotated[bool, typer.Option(help="Only measure the readout again, on runs with a checkpoint.")] = False,
    page: Annotated[Path | None, typer.Option(help="A page whose tables are replaced by the report's.")] = None,
) -> None:
    """Train and measure the study's runs, and write the report."""
    from training.study_report import write_report  # here, as only the report needs scipy

    unknown = [name for name in run or () if name not in {each.name for each in (*PILOT, *RUNS)}]
    if unknown:
        raise typer.BadParameter(f"there is no run {unknown[0]!r}; there are {', '.join(each.name for each in RUNS)}")
    names = run or [each.name for each in RUNS]
    if again:
        selected = [each for each in (*PILOT, *RUNS) if not run or each.name in run]
        for each in [each for each in selected if (out / each.name / "figures.json").exists()]:
            folder = states / f"{each.name}-{VARIANTS[each.variant].steps}"
            read_again(folder / "checkpoint", out / each.name / "figures.json")
    elif not report:
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=work, args=(names, out, states, strips)) for _ in range(workers)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise typer.Exit(1)
    for path in write_report(out, page):
        typer.echo(f"Written: {path}")


if __name__ == "__main__":
    typer.run(main)
