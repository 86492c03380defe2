"""Sets of passages, made by a seed, and the questions about them.

sets = make_sets(100, seed=0)                       # six passages each: "Anna bakes bread."
sets[0].questions("topic")                          # ["What is said about food?", ...]
sets[0].passages()                                  # gl.passages of them

Each passage has a name and an activity that no other passage of its set has. A topic shares no word with its passage.
Held-out sets have other names, activities and topics than the sets that heads are found on.
"""

from dataclasses import dataclass

import numpy as np

import gaze_lens as gl

SIZE = 6
NUMBER, ORDINAL, NAME, TOPIC = FORMS = ("number", "ordinal", "name", "topic")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
OPEN = "What is said in this segment?"
LABEL = "Segment {k}:"
NAMES = (
    "Anna Ben Clara David Emma Frank Grace Henry Iris Jack Karen Leo Mary Noah Olive Paul Rosa Sam Victor Wendy",
    "Alice Bruno Carl Daniel Eva Felix George Hugo Ivan Julia Kevin Laura Martin Nina Oscar Peter Ruth Simon Tom Wade",
)
ACTIVITIES = (
    {
        "bakes bread": "food", "repairs clocks": "time", "paints portraits": "art", "trains horses": "animals",
        "climbs mountains": "hiking", "studies stars": "astronomy", "sells shoes": "clothing",
        "teaches algebra": "mathematics", "builds bridges": "engineering", "plays violin": "music",
        "catches trout": "fishing", "grows tomatoes": "gardening", "flies helicopters": "aviation",
        "treats patients": "medicine", "writes novels": "literature", "collects coins": "money",
        "drives taxis": "traffic", "guards prisoners": "crime", "cuts hair": "beauty", "mixes cocktails": "drinks",
        "delivers letters": "mail", "programs robots": "technology",
    },
    {
        "brews beer": "alcohol", "tunes pianos": "music", "raises sheep": "farming", "designs dresses": "fashion",
        "digs tunnels": "construction", "translates poems": "languages", "sails yachts": "the sea",
        "predicts storms": "the weather", "directs films": "cinema", "fights fires": "emergencies",
        "pulls teeth": "dentistry", "carves statues": "sculpture", "sorts rubbish": "recycling",
        "coaches swimmers": "sports", "audits banks": "finance", "finds fossils": "dinosaurs",
    },
)  # fmt: skip
LONG = "{name} lives in {place} and {activity} every day."
PLACES = "Paris London Madrid Berlin Vienna Dublin Cairo Tokyo Lisbon Prague"


@dataclass(frozen=True)
class PassageSet:
    """Six passages: texts, and what each is about."""

    texts: tuple[str, ...]
    names: tuple[str, ...]
    topics: tuple[str, ...]

    def passages(self, labels: str = LABEL, *, label_inside: bool = False) -> gl.Passages:
        """As segments of a prompt. label_inside: the label is a part of its segment; the prompt is the same."""
        if not label_inside:
            return gl.passages(self.texts, labels=labels)
        texts = [f"{labels.replace('{k}', str(k))} {text}" for k, text in enumerate(self.texts, 1)]
        return gl.passages(texts, labels="")

    def questions(self, form: str) -> list[str]:
        """The question about each passage: by its number, its ordinal word, its name or its topic."""
        words = {
            NUMBER: [f"in segment {k}" for k in range(1, SIZE + 1)],
            ORDINAL: [f"in the {ordinal} segment" for ordinal in ORDINALS],
            NAME: [f"about {name}" for name in self.names],
            TOPIC: [f"about {topic}" for topic in self.topics],
        }
        return [f"What is said {where}?" for where in words[form]]


def make_sets(n: int, *, seed: int, held_out: bool = False, template: str = "{name} {activity}.") -> list[PassageSet]:
    """Sets of passages. held_out: of the names and activities that are for tests only."""
    rng = np.random.default_rng((seed, held_out))
    return [_make(rng, template, NAMES[held_out].split(), ACTIVITIES[held_out]) for _ in range(n)]


def _make(rng: np.random.Generator, template: str, names: list[str], activities: dict[str, str]) -> PassageSet:
    drawn = {
        "name": rng.choice(names, SIZE, replace=False),
        "activity": rng.choice(list(activities), SIZE, replace=False),
        "place": rng.choice(PLACES.split(), SIZE, replace=False),
    }
    rows = [{key: str(values[k]) for key, values in drawn.items()} for k in range(SIZE)]
    texts = tuple(template.format(**row) for row in rows)
    return PassageSet(texts, tuple(row["name"] for row in rows), tuple(activities[row["activity"]] for row in rows))
