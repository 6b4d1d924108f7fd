"""From facts to a reason: who is at fault, what to do, and whether waiting helps.

>>> reason = classify([Fact("pull", "pod a/b container c", "429 Too Many Requests", "ErrImagePull")])
>>> reason.id, reason.blame
('pull/rate-limited', <Blame.ENVIRONMENT: 'environment'>)
"""

from harness.diagnosis.catalogue import BY_ID, RULES, as_error, classify, with_others, with_sentence
from harness.diagnosis.model import UNKNOWN, Fact, Reason, Rule
from harness.diagnosis.patience import Patience
from harness.diagnosis.words import short

__all__ = [
    "BY_ID",
    "RULES",
    "UNKNOWN",
    "Fact",
    "Patience",
    "Reason",
    "Rule",
    "as_error",
    "classify",
    "short",
    "with_others",
    "with_sentence",
]
