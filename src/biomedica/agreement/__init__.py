"""Agreement of experts: how far, about which concepts, and where two of them part ways.

Pure: votes in, figures out. `measures` has the coefficients, `report` applies them to votes.
"""

from biomedica.agreement.measures import (
    Estimate,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    masi_distance,
    percent_agreement,
)
from biomedica.agreement.report import (
    QUESTIONS,
    AgreementReport,
    ConceptAgreement,
    Confusion,
    PairAgreement,
    QuestionAgreement,
    Rating,
    agreement_report,
)

__all__ = [
    "QUESTIONS",
    "AgreementReport",
    "ConceptAgreement",
    "Confusion",
    "Estimate",
    "PairAgreement",
    "QuestionAgreement",
    "Rating",
    "agreement_report",
    "cohen_kappa",
    "fleiss_kappa",
    "krippendorff_alpha",
    "masi_distance",
    "percent_agreement",
]
