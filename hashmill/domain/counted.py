"""What is counted because it should be rare: protections at work, seen in /metrics."""

from enum import StrEnum


class Counted(StrEnum):
    """The closed list of counters. Each rises only when something unusual happens, never once per file or report."""

    RESULTS_REFUSED = "results_refused"
    LEASES_LOST = "leases_lost"
    TICKETS_REISSUED = "tickets_reissued"
    FILES_POISONED = "files_poisoned"
    APIS_LOST = "apis_lost"
    KEYS_REFUSED = "keys_refused"
    REPORTS_UNCERTAIN = "reports_uncertain"
    REPORTS_FOUND = "reports_found"
    REPORTS_RESENT = "reports_resent"

    @property
    def said(self) -> str:
        """What one more of it means, in a sentence."""
        return _SAID[self]


_SAID = {
    Counted.RESULTS_REFUSED: "Results of a worker that had lost its lease, refused.",
    Counted.LEASES_LOST: "Leases on files that ran out, their files taken back.",
    Counted.TICKETS_REISSUED: "Files whose ticket nobody claimed in time, handed out again.",
    Counted.FILES_POISONED: "Files set aside because they lost their lease too often.",
    Counted.APIS_LOST: "Times deliveries to an API were stopped because it did not take them.",
    Counted.KEYS_REFUSED: "Times deliveries with a key were stopped because LABDRIVE refused it.",
    Counted.REPORTS_UNCERTAIN: "Reports of which nobody knows whether LABDRIVE has them.",
    Counted.REPORTS_FOUND: "Uncertain reports that were found in LABDRIVE and not sent again.",
    Counted.REPORTS_RESENT: "Uncertain reports that were sent again.",
}
