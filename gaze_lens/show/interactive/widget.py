"""The viewer in a notebook, where Python steers on request. Imported only where anywidget is installed.

widget = AttentionWidget(viewer, header, arrays)
"""

from typing import Any

import anywidget
import traitlets

from gaze_lens.errors import GazeLensError, InputError
from gaze_lens.interventions.steering import MODES
from gaze_lens.regions.layout import Group
from gaze_lens.show.interactive.attention_viewer import message
from gaze_lens.show.interactive.page import SCRIPT, STYLE

MODES_BY_NAME = {mode.__name__: mode for mode in MODES}


class AttentionWidget(anywidget.AnyWidget):
    """`viewer.widget`. header: as JSON. arrays: compressed. Messages request and answer steering.

    A request is `{"kind": "steer", "id", "region", "box" or "positions", "image", "mode", "strength"}`, a box in
    original pixels, positions of text. Its answer is `{"kind": "steered", "id", "region", "positions", "words",
    "attention"}` or `{"kind": "refused", "id", "message"}`.
    """

    _esm = SCRIPT
    _css = STYLE
    header = traitlets.Dict().tag(sync=True)
    arrays = traitlets.Bytes().tag(sync=True)

    def __init__(self, viewer: Any, header: dict[str, Any], arrays: bytes) -> None:
        super().__init__(header=header, arrays=arrays)
        self._viewer = viewer
        self.on_msg(self._receive)

    def _receive(self, _widget: Any, content: Any, _buffers: Any) -> None:
        """Answer a request. The page waits for an answer, so there is one also for an error."""
        reply = {"kind": "refused", "message": "Steering failed; the notebook's log says why."}
        try:
            reply = self.answer(content)
        except GazeLensError as error:
            reply = {"kind": "refused", "message": str(error)}
        finally:
            self.send({**reply, "id": content.get("id") if isinstance(content, dict) else None})

    def answer(self, content: Any) -> dict[str, Any]:
        """The reply to a request, without its id. Raises GazeLensError for a target that cannot be steered to."""
        if not isinstance(content, dict) or content.get("kind") != "steer":
            raise InputError(f"The page sent {content!r}; expected a request to steer.")
        mode = MODES_BY_NAME.get(str(content.get("mode")))
        if mode is None:
            raise InputError(f"There is no mode {content.get('mode')!r}: expected one of {', '.join(MODES_BY_NAME)}.")
        where = content.get("region") or self._selected(content)
        steered = self._viewer.steer(where, image=content.get("image"), mode=mode(content["strength"]))
        return {"kind": "steered", "region": steered.region, "positions": steered.positions, **message(steered)}

    def _selected(self, content: dict[str, Any]) -> Any:
        """A box, or some words of the prompt."""
        if content.get("positions"):
            positions = tuple(int(position) for position in content["positions"])
            inputs = self._viewer.inputs
            ids = inputs.input_ids[0, list(positions)].tolist()
            return Group(f"“{inputs.tokenizer.decode(ids).strip()}”", (positions,), inputs.layout)
        return tuple(content["box"])
