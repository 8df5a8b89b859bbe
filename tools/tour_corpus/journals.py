"""The journals of the tour; none of them exists, and their ISSNs are not assigned."""

from tour_corpus.model import Journal


def journal(title: str, abbreviation: str, issn: str, publisher: str, nlm_id: str) -> Journal:
    return Journal(
        title=title, abbreviation=abbreviation, issn=issn, publisher=publisher, nlm_id=nlm_id
    )


QUILL = journal("Quill Oncology", "Quill Oncol", "9900-0011", "Quill House", "990000101")
LANTERN = journal(
    "Lantern Cell Biology", "Lantern Cell Biol", "9900-0022", "Lantern Press", "990000102"
)
MERIDIAN = journal(
    "Meridian Imaging", "Meridian Imaging", "9900-0033", "Meridian Society", "990000103"
)
FATHOM = journal("Fathom Genomics", "Fathom Genom", "9900-0044", "Fathom Online", "990000104")
WILLOW = journal(
    "Willow Plant Science", "Willow Plant Sci", "9900-0055", "Willow Trust", "990000105"
)
SALUD = journal(
    "Archivos Ficticios de Salud", "Arch Fict Salud", "9900-0066", "Casa Ficta", "990000106"
)
NEUROLOGICA = journal(
    "Acta Imaginaria Neurologica", "Acta Imag Neurol", "9900-0077", "Imaginaria", "990000107"
)
HARBOR = journal(
    "Harbor Case Reports", "Harbor Case Rep", "9900-0088", "Harbor Medical", "990000108"
)
BEACON = journal(
    "Beacon Pharmacology", "Beacon Pharmacol", "9900-0099", "Beacon Science", "990000109"
)
INVENTED = journal(
    "Annals of Invented Medicine", "Ann Invented Med", "9900-0100", "Invented Press", "990000110"
)
