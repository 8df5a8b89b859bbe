"""Works that the tour's articles cite; none of them exists."""

from tour_corpus.model import Reference

TITLES = (
    (
        "Aldane M; Ruiz-Fell T",
        "Brown stain, blue stain: separating dyes in sections",
        "Quill Oncol",
    ),
    ("Varnholt T; Ose K", "How many fields of view are enough?", "Lantern Cell Biol"),
    ("Pellam J", "Survival plots that readers understand", "Quill Oncol"),
    ("Imura S; Castel D; Wren P", "Dry mass of single cells from phase maps", "Lantern Cell Biol"),
    ("Bright A; Okonjo E", "Grading small lesions in fundus photographs", "Meridian Imaging"),
    ("Lindqvist H; Marsh O", "Sparse views, dense answers", "Meridian Imaging"),
    ("Fennick R; Tamsin L", "A ladder for every gel", "Fathom Genom"),
    ("Dorrit N; Sable K", "Leaf spots of the genus Fictaria", "Willow Plant Sci"),
    ("Quent V; Harlow B; Iden S", "Cell atlases and how to read them", "Fathom Genom"),
    ("Morales-Tien C; Ibarra L", "Brotes estacionales en ciudades costeras", "Arch Fict Salud"),
    ("Keswick P; Nour A", "Light responses of sleeping neurons", "Acta Imag Neurol"),
    ("Tolland G; Ferris J", "Solitary nodules: when to wait", "Harbor Case Rep"),
    ("Embry C; Vance O; Lisle R", "Phenols from bark and their makers", "Beacon Pharmacol"),
    ("Sorrel I; Haddow M", "Loading controls, reconsidered", "Lantern Cell Biol"),
    ("Ashgrove T; Bell D", "Rhythm from a single lead", "Meridian Imaging"),
    ("Wyeth L; Corran S", "Zinc sites in small folds", "Fathom Genom"),
    ("Hale R; Onuoha C", "Lesion masks by three readers", "Meridian Imaging"),
    ("Perrin F; Strand Y", "Salt, pressure and eight trials", "Ann Invented Med"),
    ("Ilves K; Brandt N", "Zones, discs and lawns", "Ann Invented Med"),
    ("Osei D; Thorne M; Lark E", "Fibre bundles in scarred tissue", "Quill Oncol"),
    ("Calloway J", "File formats of the microscope room", "Lantern Cell Biol"),
    ("Nyberg A; Soto P", "Trees, roots and support values", "Willow Plant Sci"),
    ("Rusk E; Mallory T", "Reading old volumes with new eyes", "Ann Invented Med"),
    ("Fairley S; Dunn B", "Gates and clouds in cytometry", "Lantern Cell Biol"),
)


def pool() -> tuple[Reference, ...]:
    """Every third work has no PMID, and every fifth no DOI."""
    works = []
    for i, (authors, title, source) in enumerate(TITLES):
        year = 2001 + (i * 7) % 23
        pmid = 99910001 + i if i % 3 else None
        doi = f"10.5555/cited.{year}.{i:02d}" if i % 5 else None
        works.append(Reference(authors, title, source, year, 3 + i, 11 + 17 * i, pmid, doi))
    return tuple(works)


POOL = pool()
