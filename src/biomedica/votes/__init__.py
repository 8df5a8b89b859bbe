"""What experts said, as they said it: an SQLite file that is only ever appended to, and the queue.

votes/<name>.sqlite    events (votes, skips, undos, splits, adjudications), audits, experts, leases

Nothing is changed or removed: a vote that was taken back stands in the file with the event that took
it back. What counts now is a view of the events (`VoteStore.current_votes`).
"""

from biomedica.votes.exchange import export_events, import_events
from biomedica.votes.queue import Standing, choose, num_left
from biomedica.votes.records import (
    ROLES,
    VERDICTS,
    Audit,
    Event,
    Expert,
    Progress,
    Round,
    Settlement,
    Vote,
    answer_from_json,
    answer_to_json,
)
from biomedica.votes.schema import SCHEMA_VERSION
from biomedica.votes.store import VoteStore, votes_path

__all__ = [
    "ROLES",
    "SCHEMA_VERSION",
    "VERDICTS",
    "Audit",
    "Event",
    "Expert",
    "Progress",
    "Round",
    "Settlement",
    "Standing",
    "Vote",
    "VoteStore",
    "answer_from_json",
    "answer_to_json",
    "choose",
    "export_events",
    "import_events",
    "num_left",
    "votes_path",
]
