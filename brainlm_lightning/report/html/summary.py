"""The first screen of a report: what was run, and what beats its strongest opponent."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from brainlm_lightning.report.finding import Finding, Verdict
from brainlm_lightning.report.html.sections import Section
from brainlm_lightning.report.scores import MISSING, Estimate

# Not colour alone: each verdict has a sign and words.
SIGNS = {
    Verdict.AHEAD: ("▲", "beats"),
    Verdict.UNMET: ("?", "is ahead of"),
    Verdict.BEHIND: ("▼", "is behind"),
    Verdict.UNDECIDED: ("=", "does not differ from"),
    Verdict.UNTESTED: ("?", "was not tested against"),
    Verdict.ALONE: ("·", "has no opponent"),
}
MODERATE = "75 % hidden"  # the condition of reconstruction that stands for all: the paper's training ratio


@dataclass(frozen=True)
class Line:
    """One line of the summary: a question on a cohort.

    Attributes:
        heading: of the question.
        shown: the finding that stands for all of its conditions.
        counts: how often each verdict was reached, over all conditions.
    """

    heading: str
    shown: Finding
    counts: Counter[Verdict]

    @property
    def sign(self) -> str:
        """Of the shown verdict."""
        return SIGNS[self.shown.verdict][0]

    @property
    def told(self) -> str:
        """`is behind adaptive smoother`, or `has no opponent`."""
        words = SIGNS[self.shown.verdict][1]
        if self.shown.verdict is Verdict.ALONE:
            return words
        left_out = ", ".join(map(plain, self.shown.absent))
        without = f", but {left_out} was left out" if self.shown.verdict is Verdict.UNMET else ""
        return f"{words} {plain(self.shown.opponent)}{without}"

    @property
    def tally(self) -> str:
        """`behind in 3 of 4 conditions`; "" for one."""
        total = self.counts.total()
        if total < 2:
            return ""
        same = self.counts[self.shown.verdict]
        return f"the same in {same} of {total} conditions"


def plain(method: str) -> str:
    """A method's name in words."""
    return method.replace("_", " ")


def number(finding: Finding, estimate: Estimate) -> str:
    """A score with its interval."""
    return estimate.text(finding.digits, finding.scale)


def short(finding: Finding, estimate: Estimate) -> str:
    """A score without its interval."""
    return Estimate(estimate.value).text(finding.digits, finding.scale) if estimate.value == estimate.value else MISSING


def lines(found: Iterable[Section]) -> list[Line]:
    """One line per question and cohort; of clinical variables, one per variable."""
    listed = []
    for section in found:
        groups: dict[tuple[str, str, str], list[Finding]] = {}
        for answer in section.answers:
            for finding in answer.findings:
                by = "" if section.page.paper_table == 1 else finding.what
                groups.setdefault((answer.run.name, finding.cohort, by), []).append(finding)
        for findings in groups.values():
            shown = next((each for each in findings if each.what == MODERATE), findings[0])
            listed.append(Line(section.heading, shown, Counter(each.verdict for each in findings)))
    return listed


def tally(listed: Iterable[Line]) -> dict[str, int]:
    """How many lines are ahead of, level with and behind their strongest opponent."""
    counts = Counter(line.shown.verdict for line in listed)
    return {
        "ahead": counts[Verdict.AHEAD],
        "level": counts[Verdict.UNDECIDED],
        "behind": counts[Verdict.BEHIND],
        "open": counts[Verdict.UNTESTED] + counts[Verdict.ALONE] + counts[Verdict.UNMET],
    }
