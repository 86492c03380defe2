"""HTML from templates. `base.html` has the layout and the content security policy, which forbids to load anything.

render("report.html", title="Gaze heads", lead="what was run", parts=[])
"""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
TEMPLATES.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}


def render(template: str, /, **values: Any) -> str:
    """`render("report.html", title=...)`: a template filled in.

    Values are escaped, except where the template says `safe`: there it takes the package's own CSS and JavaScript.
    """
    return TEMPLATES.get_template(template).render(values)
