"""Commands that steer heads: steer, serve."""

from pathlib import Path
from typing import Annotated

import typer

from gaze_lens.cli import options, running


def steer(
    model: options.Model,
    image: Annotated[Path, typer.Option(help="The picture.")],
    heads: Annotated[Path, typer.Option(help="heads.json, from discover.", callback=options.check_file)],
    prompt: Annotated[str, typer.Option(help="The question.")] = "What is going on in this picture?",
    box: Annotated[str | None, typer.Option(help="The target: x0,y0,x1,y1 in pixels; or xywh:x,y,w,h.")] = None,
    panel: Annotated[int | None, typer.Option(help="The target: a panel, counted from one ('panel 3').")] = None,
    panels: Annotated[int | None, typer.Option(help="How many panels of equal width the picture has.")] = None,
    fit: options.Fit = None,
    n_heads: options.Count = None,
    strength: options.Strength = 10_000.0,
    max_new_tokens: Annotated[int, typer.Option(help="Length of the answers.")] = 40,
    force: options.Force = False,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
) -> None:
    """Ask about a picture twice: as it is, and with the heads steered to a box or panel."""
    from gaze_lens import boost_and_suppress
    from gaze_lens import steer as steering
    from gaze_lens.cli import arguments

    picture, target = arguments.target_of(image, box, panel, panels)
    loaded = running.load(model, device, dtype)
    running.warn_of_scale(loaded, picture)
    head_set = arguments.head_set_of(loaded, heads, n_heads, force=force)
    inputs = loaded.prepare(picture, prompt, fit=arguments.fit_of(fit))
    hooks = steering(head_set, inputs.region(target), mode=boost_and_suppress(strength))
    for name, fwd_hooks in (("as it is", []), (f"steered to {target}", hooks)):
        answer = loaded.generate(inputs, fwd_hooks=fwd_hooks, max_new_tokens=max_new_tokens)
        typer.secho(f"{name}:", bold=True)
        typer.echo(str(answer))


def serve(
    model: options.Model = "tiny",
    heads: options.Heads = None,
    n_heads: options.Count = None,
    host: Annotated[str, typer.Option(help="The address to bind to; there is no password.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.")] = 8765,
    name: Annotated[
        list[str] | None, typer.Option(help="Another host name that browsers use; may be repeated.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer that may be asked for.")] = 200,
    force: options.Force = False,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
) -> None:
    """Serve a page on this machine: hover over a panel, and the model looks there from its next word on."""
    from gaze_lens import serve as serving
    from gaze_lens.cli import arguments

    serving.require_extra()
    limits = serving.Limits(new_tokens=max_new_tokens)
    loaded = running.load(model, device, dtype)
    head_set, _ = arguments.heads_of(loaded, heads, None, n_heads, force=force)
    serving.serve(loaded, head_set, host=host, port=port, names=tuple(name or ()), limits=limits)
