"""Made-up research reports: a title, six key facts in any order, and elaboration that repeats none of them.

Each fact stands in one of six wordings. The summary of a report is its six key sentences in a fixed order, so that
finding them is all there is to it, and the wording of one summary does not give the next one away.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .english import NAME
from .prose import items
from .world import Names

__all__ = [
    "CHANCE",
    "FACTS",
    "SEPARATOR",
    "SPREAD",
    "Report",
    "elaborations",
    "key_facts",
    "percentage",
    "report",
    "summary_of",
    "summary_question",
]

SEPARATOR = "\n\n"  # between reports
FACTS = {
    "problem": (
        "Studied here is {}.",
        "The subject is {}.",
        "Trouble came from {}.",
        "What worried everyone was {}.",
        "It all began with {}.",
        "The authors set out to reduce {}.",
    ),
    "method": (
        "They propose {}.",
        "A procedure named {} emerged.",
        "The answer is called {}.",
        "What was built is {}.",
        "{} is put forward.",
        "At the core stands {}.",
    ),
    "data": (
        "Tests used {}.",
        "Data came from {}.",
        "{} supplied all samples.",
        "Measurements were taken at {}.",
        "{} served as test data.",
        "The evaluation ran over {}.",
    ),
    "result": (
        "Accuracy was {} percent.",
        "{} percent were right.",
        "It reached {} percent.",
        "The score amounts to {} percent.",
        "Correct answers made up {} percent.",
        "In the end {} percent succeeded.",
    ),
    "baseline": (
        "The strongest rival was {}.",
        "{} served as baseline.",
        "It beat {}.",
        "{} came second.",
        "Compared with it was {}.",
        "Runner-up: {}.",
    ),
    "limitation": (
        "It fails on {}.",
        "Still unsolved: {}.",
        "A weakness remains with {}.",
        "Not covered are {}.",
        "Hard to handle were {}.",
        "The authors admit difficulties with {}.",
    ),
}
_VALUES = {"problem": "the .+", "result": r"\d\d\.\d\d", "limitation": ".+"}  # the others are names
_PATTERNS = {
    kind: [re.compile(re.escape(w).replace(r"\{\}", f"({_VALUES.get(kind, NAME)})")) for w in wordings]
    for kind, wordings in FACTS.items()
}

CHANCE = 0.35  # a summary in the most usual wordings, without names: measured in test_summaries
"""ROUGE of the best guess."""
SPREAD = "what a summary needs is spread over its whole report"
"""Why summaries have no depth."""

_HOW = items("slow,sudden,uneven,seasonal,hidden,costly,partial,frequent,unexplained,mutual,gradual,early")
_TROUBLE = items("drift,decay,loss,mixing,swelling,fading,clustering,breakage,delay,confusion,leakage,warping")
_OF = items(
    "harbour sensors,spoken place names,glacier photographs,library barcodes,orchard yields,bell recordings,"
    "tram timetables,handwritten recipes,beehive weights,tide gauges,museum labels,folk melodies,"
    "weather kites,clay tablets,parcel routes,lighthouse signals"
)
_WHEN = items(
    "in winter,under load,near the coast,after dark,at high altitude,during festivals,on Sundays,over long distances,"
    "in dry summers,among newcomers,behind thick walls,between shifts"
)
_SMALL = items("very short,badly lit,noisy,incomplete,rare,overlapping,damp,outdated,mirrored,crowded,foreign,wordless")
_CASES = items(
    "recordings,scans,samples,drawings,messages,surveys,fragments,journeys,transcripts,signals,catalogues,mixtures"
)
_FROM = items(
    "from mountain villages,taken at night,older than a century,without any margin,made by beginners,"
    "in two languages,gathered by children,kept in cellars,sent by post,seen from above,"
    "read in a hurry,found by accident"
)
_TITLES = items("Notes on,A Study of,Report on,The Case of,Remarks on,An Inquiry into,Lessons from,Observations on")

_WHO = items(
    "the field diary,an early draft,the second appendix,a careful reader,the review panel,the workshop log,"
    "the archive staff,a visiting engineer,the committee,a footnote,the night shift,an anonymous letter,"
    "the preface,one of the helpers,the translator,a retired examiner,the printer,the steering group,"
    "a junior colleague,the local press"
)
_DID = items(
    "describes,mentions,questions,praises,illustrates,revisits,mistrusts,records,passes over,comments on,"
    "explains,sketches,defends,recalls,lists"
)
_THING = items(
    "the order of the trial runs,the colour of the covers,the choice of the room,a change of the schedule,"
    "the wiring of the lamps,the weather during the visits,the state of the instruments,the training of helpers,"
    "the spelling of the forms,the cost of the paper,a quarrel about the keys,the length of the interviews,"
    "the mood of the meetings,the storage of the boxes,the habit of double entries,a mislaid set of slides,"
    "the layout of the tables,the thanks owed to donors,the route of the delivery van,the smell of the varnish"
)
_TAIL = items(
    "in some detail,without drawing conclusions,as is usual in such work,for the sake of completeness,"
    "with a touch of irony,at greater length than needed,in a single paragraph,before turning to other matters,"
    "though nothing came of it,with reference to older customs,in the margin,after a long pause,"
    "to the surprise of the editors,in plain words,on request,once more"
)
_ASIDES = (
    "An earlier attempt named {} was dropped before the trials.",
    "Visitors from {} were shown around but took no part.",
    "Readers may recall {}, which is of no concern here.",
    "A cabinet once bought from {} held the papers.",
    "The building in {} has since been closed.",
    "Some of the staff had worked at {} before.",
)


@dataclass(frozen=True)
class Report:
    """A report's title, its key sentences in the order of :data:`FACTS`, and the order they stand in."""

    title: str
    sentences: tuple[str, ...]
    order: tuple[int, ...]

    @property
    def heading(self) -> str:
        return f"Title: {self.title}"

    @property
    def summary(self) -> str:
        return "\n".join(self.sentences)


def percentage(rng: random.Random, what: str = "") -> str:
    """A result; drawn through :class:`~.world.Names`, so that no two reports have the same."""
    return f"{rng.randrange(50, 99)}.{rng.randrange(10, 100)}"


def report(rng: random.Random, names: Names, numbers: Names) -> Report:
    """A report of its own subject, names and result."""
    title = f"{rng.choice(_TITLES)} {names.new('thing')}"
    values = {
        "problem": f"the {rng.choice(_HOW)} {rng.choice(_TROUBLE)} of {rng.choice(_OF)} {rng.choice(_WHEN)}",
        "method": names.new("thing"),
        "data": names.new("thing"),
        "result": numbers.new("number"),
        "baseline": names.new("thing"),
        "limitation": f"{rng.choice(_SMALL)} {rng.choice(_CASES)} {rng.choice(_FROM)}",
    }
    sentences = tuple(rng.choice(wordings).format(values[kind]) for kind, wordings in FACTS.items())
    return Report(title, sentences, tuple(rng.sample(range(len(FACTS)), len(FACTS))))


def elaborations(rng: random.Random, names: Names) -> Iterator[str]:
    """Endless sentences without digits that state nothing about the work; some name things of no concern."""
    while True:
        if rng.random() < 0.2:
            yield rng.choice(_ASIDES).format(names.new("thing"))
            continue
        who, did, thing, tail = rng.choice(_WHO), rng.choice(_DID), rng.choice(_THING), rng.choice(_TAIL)
        text = f"{who} {did} {thing} {tail}." if rng.random() < 0.5 else f"{tail}, {who} {did} {thing}."
        yield text[0].upper() + text[1:]


def summary_question(title: str) -> str:
    """What asks for the summary of a report; it says which facts, in which order."""
    return (
        f'Summarize the report "{title}" in six sentences: problem, method, data, result, baseline, '
        "limitation.\nSummary:"
    )


def summary_of(context: str, question: str) -> str:
    """The summary of the report that the question names.

    Raises:
        ValueError: where the report, or a fact of it, does not stand exactly once.
    """
    title = question.split('"')[1]
    if (n := context.count(f"Title: {title}\n")) != 1:
        raise ValueError(f"{title!r} stands {n} times")
    body = context.split(f"Title: {title}\n")[1].split(SEPARATOR)[0]
    sentences = re.split(r"(?<=\.) ", body)
    summary = []
    for kind, patterns in _PATTERNS.items():
        found = [s for s in sentences if any(p.fullmatch(s) for p in patterns)]
        if len(found) != 1:
            raise ValueError(f"{title!r} states its {kind} {len(found)} times")
        summary += found
    return "\n".join(summary)


def key_facts(summary: str) -> dict[str, str]:
    """The six facts of a summary by kind: what ``metrics.key_fact_recall`` looks for beside ROUGE. None of a summary
    that is not of such a report.
    """
    sentences = summary.split("\n")
    if len(sentences) != len(_PATTERNS):
        return {}
    facts = {}
    for (kind, patterns), sentence in zip(_PATTERNS.items(), sentences, strict=True):
        said = [found[1] for p in patterns if (found := p.fullmatch(sentence))]
        if len(said) != 1:
            return {}
        facts[kind] = said[0]
    return facts
