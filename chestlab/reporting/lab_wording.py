"""Sentences of a lab report in one language, with the run's facts filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chestlab.reporting.lab_conclusions import ORIGINAL_PIXELS
from chestlab.reporting.lab_facts import Term
from chestlab.reporting.lab_messages import LAB_MESSAGES
from chestlab.reporting.lab_rules import Rule, Topic
from chestlab.reporting.lab_verdicts import FAR_APART_POINTS
from chestlab.reporting.page import Wording, escaped

LIMITS_OF_RULES = {  # that sentences name
    "far_apart": FAR_APART_POINTS,
    "original_pixels": ORIGINAL_PIXELS,
}


class LabWording(Wording):
    """Sentences and numbers of the lab reports in one language.

    Args:
        language: ``en`` or ``id``.
    """

    def say(self, key: str, **values: Any) -> str:
        """A text of `LAB_MESSAGES`, or of the results page's messages, with its values."""
        if key in LAB_MESSAGES:
            return LAB_MESSAGES[key][self.column].format(**values)
        return super().say(key, **values)

    def fill(self, text: str, facts: Mapping[str, Any]) -> str:
        """A text with facts in braces, written as numbers of the language.

        A format that ends in ``%`` multiplies by 100 and adds the sign, as ``{accuracy:.1%}``.
        """
        known = {**LIMITS_OF_RULES, **facts}
        return text.format_map({key: _Shown(self, value) for key, value in known.items()})

    def texts(self, texts: tuple[str, str], facts: Mapping[str, Any]) -> str:
        """The one of two texts, English and Indonesian, that is in the language, filled in."""
        return self.fill(texts[self.column], facts)

    def sentence(self, rule: Rule, facts: Mapping[str, Any]) -> str:
        """The sentence of a rule."""
        return self.texts((rule.en, rule.id), facts)

    def sentences(self, topics: Mapping[str, Topic], facts: Mapping[str, Any]) -> list[str]:
        """What the topics say of a run, in their order; those that say nothing are left out."""
        chosen = [topic.choose(facts) for topic in topics.values()]
        said = [self.sentence(rule, facts) for rule in chosen if rule is not None]
        return [text for text in said if text]


class _Shown:
    """A fact as a sentence shows it."""

    def __init__(self, wording: LabWording, value: Any) -> None:
        self.wording, self.value = wording, value

    def __format__(self, form: str) -> str:
        if isinstance(self.value, Term):
            return self.wording.say(self.value)
        if isinstance(self.value, str):
            return escaped(self.value)
        if form.endswith("%"):
            decimals = int(form.removeprefix(".")[:-1])
            return self.wording.percent(self.value, decimals)
        return self.wording.number(self.value, form)
