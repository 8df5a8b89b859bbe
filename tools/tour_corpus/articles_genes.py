"""Articles about genes, their trees and folds."""

from tour_corpus.journals import FATHOM, WILLOW
from tour_corpus.model import Article, Fig, Media, Mesh

LEAVES = Article(
    number=6,
    flavour="nlm30",
    journal=WILLOW,
    published=(2010, 4, 22),
    volume=4,
    page="e410",
    heading="Research Article",
    licence="CC BY-NC",
    title="Three clades of the imaginary genus <italic>Fictaria</italic>",
    authors="Nils Dorrit; Kei Sable; Anna Nyberg",
    affiliations=("Willow Botanic Garden, Hollin",),
    abstract="A tree of eleven species from the VEX gene has three clades. Brown leaf spots "
    "occur in clade I alone.",
    keywords=("*Fictaria*", "phylogeny", "leaf spot"),
    subjects=("Plant Science",),
    funding="the Garden Friends",
    body="""
    # Introduction

    *Fictaria* was described from a drawing [R1]. Its relatives *Gnomia* and *Hesperella* grow on
    salt marshes that do not flood.

    # Material and methods

    The VEX gene was aligned by eye ([F2|Fig. 2]) and the tree was drawn with 1000 bootstraps [R2].

    # Results

    Three clades stand out ([F1|Fig. 1]). Residues 123–130 are the same in all
    species.

    {F1}

    {F2}

    Spots were found on leaves of clade I, of which one is shown without further words below.

    {F3}

    # Discussion

    Spots may mark a pathogen or a habit of the artist. [F1|Figs 1] and [F2|2] can't tell.
    """,
    references=(7, 21, 15, 22, 6),
    figures={
        "F1": Fig(
            "Figure 1",
            "Maximum likelihood tree of *Fictaria* and relatives. || Numbers "
            "at nodes are bootstrap support (%); scale bar, substitutions per "
            "site. Coloured bars mark clades I–III.",
            "wps-4-e410-g001",
        ),
        "F2": Fig(
            "Figure 2",
            "Alignment of VEX proteins, residues 120–165. Residues that agree "
            "with the first sequence are coloured.",
            "wps-4-e410-g002",
        ),
        "F3": Fig("Figure 3", None, "wps-4-e410-g003"),
    },
    media=(
        Media("wps-4-e410-g001.png", "phylogeny", "png_palette"),
        Media("wps-4-e410-g002.jpg", "alignment"),
        Media("wps-4-e410-g003.jpg", "leaf"),
    ),
    mesh=(
        Mesh("Phylogeny", "D010802", (), True),
        Mesh("Plant Leaves", "D018515", ("genetics|Q000235|N",)),
    ),
)

ATLAS = Article(
    number=7,
    flavour="namespaced",
    journal=FATHOM,
    published=(2026, 5, 14),
    volume=14,
    page="88",
    heading="Resource",
    licence="CC BY",
    title="An atlas of one thousand five hundred and sixty invented cells",
    authors="Violet Quent; Bram Harlow; Sefa Iden",
    affiliations=("Fathom Institute, Bellis", "School of Computing, Gild"),
    abstract="Six cell types were told apart in 1560 profiles. TARN2 marks myeloid cells and "
    "goes up on stimulation.",
    keywords=("single cell", "atlas", "TARN2", "genome-wide association"),
    subjects=("Genomics", "Immunology"),
    funding="the Deep Fund, grant DF-9",
    body="""
    # Introduction

    Atlases list the cells of an organ [R1]. Ours lists cells that have no organ.

    # Results

    ## Six types

    Six clusters were named after their markers ([F1|Fig. 1A]). TARN2 was found in myeloid cells
    alone ([F1|Fig. 1B]).

    {F1}

    ## Stimulation

    On stimulation 277 genes went up and 255 down ([F2|Fig. 2]). Four blocks of genes parted the 18
    samples ([F3|Fig. 3]).

    {F2}

    {F3}

    ## Association

    Two loci passed the genome-wide threshold, on chromosomes 4 and 11 ([F4|Fig. 4]).

    {F4}

    # Discussion

    The atlas ([F1 F2 F3|Figs 1–3]) is complete, as we drew every cell of it. Counts are gamma
    distributed for no better reason than ease.
    """,
    references=(8, 23, 6, 15, 3, 1),
    figures={
        "F1": Fig(
            "Fig. 1",
            "Map of 1560 cells. || (**A**) Uniform manifold approximation (UMAP) "
            "with clusters in colour. (**B**) Expression of TARN2, log counts.",
            "fag-14-88-g1",
        ),
        "F2": Fig(
            "Fig. 2",
            "Volcano plot of stimulated against resting cells. Red, up; blue, "
            "down (|log_{2} fold change| &gt; 1, adjusted *P* &lt; 10^{−2}).",
            "fag-14-88-g2",
        ),
        "F3": Fig(
            "Fig. 3",
            "Heat map of 36 genes in 18 samples, as row z-scores, with average "
            "linkage clustering of the samples.",
            "fag-14-88-g3",
        ),
        "F4": Fig(
            "Fig. 4", "Manhattan plot. The dashed line is *P* = 5 × 10^{−8}.", "fag-14-88-g4"
        ),
    },
    media=(
        Media("fag-14-88-g1.jpg", "cell_map"),
        Media("fag-14-88-g2.jpg", "volcano"),
        Media("fag-14-88-g3.jpg", "expression_heatmap"),
        Media("fag-14-88-g4.jpg", "manhattan"),
    ),
    mesh=(
        Mesh("Single-Cell Analysis", "D059010", (), True),
        Mesh("Gene Expression Profiling", "D020869"),
        Mesh("Genome-Wide Association Study", "D055106"),
    ),
)

FOLD = Article(
    number=24,
    flavour="jats10",
    journal=FATHOM,
    published=(2012, 12, 12),
    volume=1,
    page="12",
    heading="Short Communication",
    licence="CC BY-NC",
    title="A zinc site that was drawn with a pencil",
    authors="Lars Wyeth; Selma Corran",
    affiliations=("Fathom Institute, Bellis",),
    abstract="We describe a fold of three helices and one sheet with a zinc ion between two "
    "helices.",
    keywords=("zinc", "fold", "calorimetry"),
    subjects=("Structural Biology",),
    funding="the Pencil Fund",
    body="""
    # Introduction

    Zinc holds small folds together [R1]. Ours is held by ink.

    # Results

    The fold has three helices and three strands ([F1|Fig. 1]). Backbone angles are as they should
    be (Fig. 2), and zinc binds one to one (Figs. 1–3).

    {F1}

    {F2}

    {F3}

    Deletion of the gene slows growth, and a plasmid restores it ([F4|Figure 4]). See also [F2|Figs
    2]—[F4|4].

    {F4}

    # Discussion

    A site between helices α2 and α3 is rare. Calorimetry ([F3|Fig. 3], lower panel) gave 1.02
    ions for each protein.
    """,
    references=(15, 6, 21, 13, 3),
    figures={
        "F1": Fig(
            "Figure 1",
            "Ribbon drawing of the fold: helices α1–α3 and strands β1–β3. The "
            "zinc ion is the blue sphere.",
            "1745-fag-1-12-1",
        ),
        "F2": Fig(
            "Figure 2",
            "Ramachandran plot. Darker regions are more favoured; one residue lies outside of all.",
            "1745-fag-1-12-2",
        ),
        "F3": Fig(
            "Figure 3",
            "Isothermal titration of the protein with Zn^{2+}. Upper panel, "
            "heat pulses; lower panel, integrated heat with a one-site fit "
            "(red).",
            "1745-fag-1-12-3",
        ),
        "F4": Fig(
            "Figure 4",
            "Growth at 37 °C of the wild type, Δ*vexA* and the complemented strain.",
            "1745-fag-1-12-4",
        ),
    },
    media=(
        Media("1745-fag-1-12-1.jpg", "ribbon"),
        Media("1745-fag-1-12-2.jpg", "ramachandran"),
        Media("1745-fag-1-12-3.jpg", "titration"),
        Media("1745-fag-1-12-4.jpg", "growth_curves"),
    ),
    mesh=(
        Mesh("Zinc", "D015032", ("chemistry|Q000737|Y",)),
        Mesh("Protein Conformation", "D011487"),
    ),
)

ARTICLES = (LEAVES, ATLAS, FOLD)
