"""Articles with something amiss or out of the ordinary: what a builder has to survive."""

from dataclasses import replace

from tour_corpus.journals import HARBOR, INVENTED, LANTERN, MERIDIAN, QUILL
from tour_corpus.model import Article, Fig, Media, Mesh

HUMANS = Mesh("Humans", "D006801")

RETRACTED = Article(
    number=12,
    flavour="jats11",
    journal=QUILL,
    published=(2018, 3, 15),
    volume=18,
    page="e0012345",
    heading="Research Article",
    licence="CC BY",
    retracted=True,
    title="RETRACTED: LUMA1 rises with dose in two cell lines",
    authors="Jules Calloway; Una Brandt",
    affiliations=("Quill Institute for Cancer Research, Arden",),
    abstract="LUMA1 rose with dose in two lines. The article was withdrawn, as the second line "
    "is the first one again.",
    keywords=("LUMA1", "dose response"),
    subjects=("Oncology",),
    funding="the Quill Foundation",
    body="""
    # Introduction

    LUMA1 answers to a drug that has no name [R1].

    # Methods

    Two lines were treated with 1 or 10 µM. Lysates were run on one gel, or so it was said [R2].

    # Results

    LUMA1 rose with dose in both lines ([F1|Fig 1]). The likeness of both lines was taken as a
    sign of good work. Activated cells rose from 12% to 46% ([F2|Fig 2]).

    {F1}

    {F2}

    # Discussion

    Two lines agree to the last pixel in [F1|Fig 1]. Readers should have wondered.
    """,
    references=(13, 6, 23, 0, 19),
    figures={
        "F1": Fig(
            "Fig 1",
            "LUMA1 in two cell lines. || Western blot after 1 or 10 µM; lanes "
            "1–3, line A; lanes 4–6, line B. Tubulin, loading control.",
            "quon.0012345.g001",
            doi="10.5555/quon.0012345.g001",
        ),
        "F2": Fig(
            "Fig 2",
            "Flow cytometry of resting and stimulated cells. || (**A**) "
            "Unstimulated. (**B**) After 24 h. The gate holds CD25^{+}CD69^{+} "
            "cells.",
            "quon.0012345.g002",
            doi="10.5555/quon.0012345.g002",
        ),
    },
    media=(
        Media("quon.0012345.g001.jpg", "repeated_blot", "jpeg_gray"),
        Media("quon.0012345.g002.jpg", "cytometry"),
    ),
    mesh=(HUMANS, Mesh("Blotting, Western", "D015153")),
    publication_types=(("Journal Article", "D016428"), ("Retracted Publication", "D016441")),
)

RHYTHM_BODY = """
    # Introduction

    A watch sees one lead [R1]. We ask whether one lead is enough for four rhythms.

    # Methods

    Beats were drawn as sums of Gaussian bells, and a network was trained on 4000 of them
    ([F1|Fig. 1]).

    {F1}

    # Results

    Most rhythms were told rightly ([F2|Fig. 2]). Fibrillation was missed most often.

    {F2}

    # Discussion

    One lead is enough for rhythms that were drawn with one lead in mind. Patients have more.
"""

RHYTHM = Article(
    number=15,
    version=1,
    flavour="archive",
    journal=MERIDIAN,
    published=(2025, 4, 3),
    volume=13,
    page="41",
    article_type="preprint",
    heading="Preprint",
    licence="CC BY",
    title="Four rhythms from one lead",
    authors="Tess Ashgrove; Damir Bell",
    affiliations=("Institute of Image Formation, Strand University",),
    abstract="A network tells four rhythms apart from a single simulated lead.",
    keywords=("electrocardiogram", "atrial fibrillation", "deep learning"),
    subjects=("Cardiology",),
    funding="the Strand Fund, grant 9001",
    body=RHYTHM_BODY,
    references=(14, 4, 5, 16, 2),
    figures={
        "F1": Fig(
            "Fig. 1",
            "Simulated electrocardiogram, lead II. (**A**) Sinus rhythm. (**B**) "
            "Atrial fibrillation: no P waves, uneven intervals.",
            "mi-41-g001",
        ),
        "F2": Fig("Fig. 2", "Confusion matrix of the test beats.", "mi-41-g002"),
    },
    media=(Media("mi-41-g001.png", "ecg", "png_palette"), Media("mi-41-g002.jpg", "confusion")),
    mesh=(
        HUMANS,
        Mesh("Electrocardiography", "D004562", ("methods|Q000379|Y",)),
        Mesh("Atrial Fibrillation", "D001281", ("diagnosis|Q000175|N",)),
        Mesh("Deep Learning", "D000077321"),
    ),
)

RHYTHM_REVISED = replace(
    RHYTHM,
    version=2,
    body=RHYTHM_BODY.replace(
        "told rightly", "told rightly, now counted by patient and not by beat"
    ),
    figures={
        **RHYTHM.figures,
        "F2": Fig(
            "Fig. 2",
            "Confusion matrix of the test beats, with no patient in both sets.",
            "mi-41-g002",
        ),
    },
    media=(RHYTHM.media[0], Media("mi-41-g002.jpg", "confusion_corrected")),
)

WITHHELD = Article(
    number=16,
    flavour="archive",
    journal=INVENTED,
    published=(2022, 10, 4),
    volume=42,
    page="18",
    heading="Research Article",
    licence="CC BY-ND",
    title="Zones around discs: three figures, of which one is here",
    authors="Kaarin Ilves; Noor Brandt",
    affiliations=("Department of Bacteriology, Gild",),
    abstract="Clear zones around four discs were measured on a lawn that grew overnight.",
    keywords=("antibiotics", "disc diffusion"),
    subjects=("Microbiology",),
    funding="the Lawn Society",
    body="""
    # Introduction

    Discs make zones, and zones make decisions [R1].

    # Methods

    A lawn was spread on agar, and four discs were laid on it ([F1|Figure 1]).

    {F1}

    # Results

    Zones were 11 to 41 mm wide. Counts of colonies are in [F2|Figure 2] and the plate reader in
    [F3|Figure 3].

    {F2}

    {F3}

    # Discussion

    The smallest zone is no zone at all. [F1|Figures 1]–[F3|3] agree.
    """,
    references=(18, 22, 1, 20, 17),
    figures={
        "F1": Fig(
            "Figure 1",
            "Disc diffusion test. Clear zones surround three of four "
            "antibiotic discs on a bacterial lawn; the disc at the upper left "
            "has almost none.",
            "aim-42-18-g001",
        ),
        "F2": Fig("Figure 2", "Colony counts by dilution.", "aim-42-18-g002"),
        "F3": Fig("Figure 3", "Plate reader used for this work.", "aim-42-18-g003"),
    },
    media=(
        Media("aim-42-18-g001.jpg", "petri_dish"),
        Media("aim-42-18-g002.jpg", "growth_curves", listed=False),
        Media("aim-42-18-g003.jpg", "leaf", stored=False),
    ),
    mesh=(Mesh("Anti-Bacterial Agents", "D000900", ("pharmacology|Q000494|Y",)),),
)

BROKEN = Article(
    number=17,
    flavour="jats12",
    journal=LANTERN,
    published=(2017, 5, 23),
    volume=22,
    page="9",
    heading="Methods Note",
    licence="CC BY",
    title="What may go wrong between a microscope and an archive",
    authors="Jules Calloway",
    affiliations=("Institute of Quiet Microscopy, Corrow",),
    abstract="Files are cut, swapped and shrunk on their way. We show one sound smear and three "
    "mishaps.",
    keywords=("data quality", "file formats", "blood smear"),
    subjects=("Cell Biology",),
    body="""
    # Background

    Archives outlive their disks, mostly [R1].

    # Mishaps

    A sound picture is shown in [F1|Figure 1]. The picture in [F2|Figure 2] broke off in the
    middle, that in [F3|Figure 3] is an icon, and [F4|Figure 4] is a page of text.

    {F1}

    {F2}

    {F3}

    {F4}

    # Advice

    Keep digests. Compare them. The mishaps of [F2 F3 F4|Figures 2–4] would have been seen at once.
    """,
    references=(20, 13, 1, 23, 3),
    figures={
        "F1": Fig(
            "Figure 1",
            "Drawn blood smear: red cells with pale centres around one "
            "granulocyte with a three-lobed nucleus.",
            "lcb-22-9-g001",
        ),
        "F2": Fig(
            "Figure 2",
            "Fields of fibrous tissue, of which the lower part was lost.",
            "lcb-22-9-g002",
        ),
        "F3": Fig("Figure 3", "An icon in the place of a figure.", "lcb-22-9-g003"),
        "F4": Fig("Figure 4", "An error page in the place of a figure.", "lcb-22-9-g004"),
    },
    media=(
        Media("lcb-22-9-g001.jpg", "blood_smear"),
        Media("lcb-22-9-g002.jpg", "h_and_e_fibrosis", "jpeg_cut"),
        Media("lcb-22-9-g003.png", "leaf", "png_tiny"),
        Media("lcb-22-9-g004.jpg", "leaf", "plain_text"),
    ),
    mesh=(Mesh("Image Processing, Computer-Assisted", "D007091", ("methods|Q000379|Y",)),),
)

UNLISTED = Article(
    number=18,
    flavour="jats13",
    journal=HARBOR,
    published=(2023, 2, 2),
    volume=7,
    page="3",
    article_type="case-report",
    heading="Case Report",
    licence="CC BY-NC-SA",
    media_key=False,
    title="A cyst that left no picture",
    authors="Gwen Tolland",
    affiliations=("Harbor Medical Centre, Dunmere",),
    abstract="A cyst was seen once. Its picture was not kept with the article.",
    keywords=("cyst", "ultrasound"),
    subjects=("Radiology",),
    body="""
    # Introduction

    Most cysts are harmless [R1].

    # Case presentation

    A round lesion without echoes was seen by ultrasound ([F1|Fig. 1]). It was gone at three
    months.

    {F1}

    # Discussion

    Cysts come and go. So do pictures.
    """,
    references=(11, 16, 4),
    figures={"F1": Fig("Fig. 1", "Ultrasound image of an anechoic cyst.", "hcr-7-3-g001")},
    mesh=(HUMANS, Mesh("Ultrasonography", "D014463")),
    publication_types=(("Case Reports", "D002363"), ("Journal Article", "D016428")),
)

OLD_VOLUME = Article(
    number=19,
    flavour="archive",
    journal=INVENTED,
    published=(1998, 1, 1),
    volume=18,
    page="77",
    article_type="other",
    heading="Articles",
    licence="CC0",
    historical_ocr=True,
    has_doi=False,
    title="ON THE COOLING OF FEVERS BY VINEGAR",
    authors="E Rusk",
    affiliations=("Arden Infirmary",),
    abstract="",
    body="",
    media=(),
    mesh=(),
    in_pubmed=False,
    has_pmid=False,
)

MANUSCRIPT = Article(
    number=20,
    flavour="archive",
    journal=QUILL,
    published=(2017, 6, 1),
    volume=17,
    page="200",
    heading="Article",
    licence="TDM",
    manuscript_id="NIHMS999001",
    title="Compound 4 in a model that does not exist: an author manuscript",
    authors="Cato Embry; Una Brandt",
    affiliations=("Beacon School of Pharmacy, Dunmere",),
    abstract="Compound 4 slowed growth in a model. The manuscript may be mined for text; its "
    "figures stay with the publisher.",
    keywords=("compound 4", "growth"),
    subjects=("Oncology",),
    funding="the Bark Board, grant 2016/1",
    body="""
    # Introduction

    Compound 4 comes from bark [R1].

    # Results

    Growth slowed by half ([F1|Figure 1]). Weight did not change ([F2|Figure 2]).

    # Discussion

    A model that does not exist can't be wrong, only unhelpful.
    """,
    references=(12, 2, 0, 19, 18),
    figures={
        "F1": Fig("Figure 1", "Growth with vehicle or compound 4.", "nihms-999001-f0001"),
        "F2": Fig("Figure 2", "Weight with vehicle or compound 4.", "nihms-999001-f0002"),
    },
    mesh=(Mesh("Antioxidants", "D000975", ("pharmacology|Q000494|Y",)),),
)

FORMATS = Article(
    number=21,
    flavour="jats13",
    journal=LANTERN,
    published=(2023, 11, 7),
    volume=28,
    page="61",
    heading="Methods",
    licence="CC BY",
    in_pubmed=False,
    title="Eight ways to store a picture of a cell",
    authors="Jules Calloway; Sana Imura",
    affiliations=("Institute of Quiet Microscopy, Corrow",),
    abstract="Microscopes write sixteen bits, printers read four inks, and browsers want eight "
    "bits of red, green and blue. We give an example of each.",
    keywords=("file formats", "bit depth", "colour space"),
    subjects=("Cell Biology",),
    funding="the Quiet Fund, grant 61",
    body="""
    # Introduction

    A picture changes its format on its way from camera to page [R1].

    # Deep formats

    Cameras count to 4095. [F1 F2|Figures 1 and 2] hold such counts in a TIFF and a PNG file.

    {F1}

    {F2}

    # Print formats

    Printers take cyan, magenta, yellow and black ([F3|Figure 3], [F4|Figure 4]).

    {F3}

    {F4}

    # Screen formats

    Browsers show WebP ([F5|Figure 5]) and films as GIF ([F6|Figure 6]). A dose map ([F7|Figure
    7]) keeps its colours best as PNG.

    {F5}

    {F6}

    {F7}

    # Conclusion

    Whoever keeps [F1 F2 F3 F4 F5 F6 F7|Figures 1–7] should keep the bytes they came in.
    """,
    references=(20, 1, 3, 13, 16),
    figures={
        "F1": Fig(
            "Figure 1",
            "Nuclei as counts of a 12-bit camera, in a 16-bit TIFF file.",
            "lcb-28-61-g001",
        ),
        "F2": Fig("Figure 2", "The counts of Figure 1 in a 16-bit PNG file.", "lcb-28-61-g002"),
        "F3": Fig(
            "Figure 3",
            "Drawn glands (haematoxylin and eosin) in four inks, as JPEG.",
            "lcb-28-61-g003",
        ),
        "F4": Fig("Figure 4", "Bars of band intensity in four inks, as TIFF.", "lcb-28-61-g004"),
        "F5": Fig(
            "Figure 5",
            "Cells stained for nuclei (blue), actin (magenta) and mitochondria (orange), as WebP.",
            "lcb-28-61-g005",
        ),
        "F6": Fig(
            "Figure 6",
            "Wound assay: six frames, two hours apart, of a gap that closes from both sides.",
            "lcb-28-61-g006",
        ),
        "F7": Fig(
            "Figure 7",
            "Isodose lines (14–63 Gy) of five beams over a pelvic section.",
            "lcb-28-61-g007",
        ),
    },
    media=(
        Media("lcb-28-61-g001.tif", "nuclei_16_bit", "tiff_16_bit"),
        Media("lcb-28-61-g002.png", "nuclei_16_bit", "png_16_bit"),
        Media("lcb-28-61-g003.jpg", "h_and_e_small", "jpeg_cmyk"),
        Media("lcb-28-61-g004.tif", "band_bars", "tiff_cmyk"),
        Media("lcb-28-61-g005.webp", "fluorescence_merge", "webp"),
        Media("lcb-28-61-g006.gif", "time_lapse", "gif_animated"),
        Media("lcb-28-61-g007.png", "dose_map", "png_palette"),
    ),
    mesh=(Mesh("Image Processing, Computer-Assisted", "D007091"),),
)

ARTICLES = (
    RETRACTED,
    RHYTHM,
    RHYTHM_REVISED,
    WITHHELD,
    BROKEN,
    UNLISTED,
    OLD_VOLUME,
    MANUSCRIPT,
    FORMATS,
)
