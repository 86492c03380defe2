"""Pictures from disk and from public data sets, with their regions.

strips = gl.data.read_strips("comics")                              # <comic>/p1.png, p2.png, ...
strips = gl.data.read_comics("COMICS", seed=0, limit=100)           # <comic>/<page>_<panel>.jpg, random windows
pages = gl.data.read_pages("pages", gl.data.gutters((2, 3)))        # single images, their gutters detected
strips = gl.data.read_dataset("baulab/openai-comic-strips")         # through the `datasets` library
photos = gl.data.read_coco("instances_val2017.json", "val2017", min_area=32 * 32, unique=True, n_objects=(2, 6))
questions = gl.data.read_questions("set.jsonl")                     # for gl.evaluate
scores = gl.score_heads(model, strips)

All are `Pictures`: a sequence that reads a picture on access, and lists what was left out.
"""

from gaze_lens.data.coco import read_coco
from gaze_lens.data.coco_synonyms import COCO_SYNONYMS
from gaze_lens.data.comics_corpus import read_comics
from gaze_lens.data.gutter_detection import find_panels, gutters
from gaze_lens.data.hub_datasets import read_dataset
from gaze_lens.data.pages import borders, read_page, read_pages
from gaze_lens.data.pictures import Pictures
from gaze_lens.data.questions import Question, Questions, read_questions
from gaze_lens.data.strips import read_strips

__all__ = [
    "COCO_SYNONYMS", "Pictures", "Question", "Questions", "borders", "find_panels", "gutters", "read_coco",
    "read_comics", "read_dataset", "read_page", "read_pages", "read_questions", "read_strips",
]  # fmt: skip
