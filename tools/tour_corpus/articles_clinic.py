"""Articles about patients and their tissue: pathology, case reports, a letter."""

from tour_corpus.journals import HARBOR, QUILL
from tour_corpus.model import Article, Fig, Media, Mesh, Raw

HUMANS = Mesh("Humans", "D006801")

IMMUNOSTAINING = Article(
    number=1,
    flavour="archive",
    journal=QUILL,
    published=(2024, 3, 5),
    volume=24,
    page="e24001",
    heading="Research Article",
    licence="CC BY",
    title="FHL2 staining in colonic glands and survival after resection: an invented cohort",
    authors="Mira Aldane; Tomas Ruiz-Fell; Joanna Pellam",
    affiliations=(
        "Department of Pathology, Northlake University, Westhaven",
        "Quill Institute for Cancer Research, Arden",
    ),
    abstract="""
    Background: Separating the brown and blue dyes of a section makes its staining countable.

    Methods: We read sections of 118 patients with resected colonic cancer, separated the dyes and
    related the stained share of the epithelium to survival.

    Results: A high FHL2 share went with shorter survival (hazard ratio 2.1, 95% CI 1.3–3.5).

    Conclusions: The stained share is worth testing in a cohort that exists.
    """,
    keywords=("colorectal cancer", "immunohistochemistry", "FHL2", "colour deconvolution"),
    subjects=("Oncology", "Pathology"),
    funding="the Quill Foundation, grant QF-2020-17",
    body="""
    # Introduction

    Sections stained with diaminobenzidine (DAB) and haematoxylin hold two dyes in three colour
    channels, so that each dye can be computed on its own [R1]. Readers agree poorly on the share
    of brown epithelium when they judge it by eye [R2].

    FHL2 is seen in the membrane and cytoplasm of glandular cells. Whether its amount says anything
    about survival has not been asked of this invented cohort.

    # Methods

    ## Patients

    The selection of patients is shown in [F1|Figure 1]. Tissue was fixed in formalin, and 4 µm
    sections were stained with an antibody against FHL2 (dilution 1:200).

    {F1}

    ## Image analysis

    Dyes were separated by colour deconvolution ([F2|Fig. 2A–C]) and the brown plane was smoothed
    and thresholded ([F2|Fig. 2D]). The stained share is the area of the mask over that of the
    epithelium.

    {F2}

    ## Statistics

    Survival was estimated by the product-limit method and compared with the log-rank test [R3].
    *P* &lt; 0.05 was taken as significant.

    # Results

    Glandular epithelium was brown in all patients, stroma in none ([F2|Fig. 2]). The stained share
    had a median of 48% (interquartile range 39–61%).

    Patients with a high share died earlier ([F3|Fig. 3]); the curves part within the first year.
    Across [F1|Figs 1]–[F3|3] the numbers refer to the same 118 patients.

    {F3}

    # Discussion

    The share of stained epithelium can be read without an expert's eye, and it parts patients into
    two groups with different survival. Blocks of one hospital were used, which limits the finding.
    """,
    references=(0, 1, 2, 13, 19, 23),
    figures={
        "F1": Fig(
            "Figure 1",
            "Selection of patients and sections. Boxes on the right give the "
            "number of cases left out at each step and the reason.",
            "qon-24-e24001-g001",
            alt="Flow chart from 162 resections to 118 patients",
        ),
        "F2": Fig(
            "Figure 2",
            "Dye separation in colonic glands. || (**A**) Section stained for "
            "FHL2 with DAB (brown) and counterstained with haematoxylin "
            "(blue). (**B**) Haematoxylin plane. (**C**) DAB plane. (**D**) "
            "Mask of the stained area (white) after smoothing with σ = 2 px. "
            "Scale bar, 50 µm.",
            "qon-24-e24001-g002",
            alt="Four panels of stained colonic glands",
        ),
        "F3": Fig(
            "Figure 3",
            "Kaplan–Meier estimate of overall survival by FHL2 share. Ticks "
            "mark censored patients; the numbers of patients at risk stand "
            "below the axis. *P* from the log-rank test.",
            "qon-24-e24001-g003",
        ),
    },
    media=(
        Media("qon-24-e24001-g001.jpg", "cohort_chart"),
        Media("qon-24-e24001-g002.jpg", "ihc_panels"),
        Media("qon-24-e24001-g003.jpg", "kaplan_meier"),
    ),
    mesh=(
        HUMANS,
        Mesh("Colorectal Neoplasms", "D015179", ("pathology|Q000473|Y", "mortality|Q000401|N")),
        Mesh("Immunohistochemistry", "D007150"),
        Mesh("Kaplan-Meier Estimate", "D053208"),
        Mesh("Prognosis", "D011379", (), True),
    ),
)

CORRECTION = Article(
    number=13,
    flavour="archive",
    journal=QUILL,
    published=(2024, 9, 17),
    volume=24,
    issue=3,
    page="e24044",
    article_type="correction",
    heading="Correction",
    licence="CC BY",
    title="Correction: FHL2 staining in colonic glands and survival after resection",
    authors="Mira Aldane; Tomas Ruiz-Fell; Joanna Pellam",
    affiliations=("Department of Pathology, Northlake University, Westhaven",),
    abstract="",
    body="""
    In the published article a detail of a section was left out of the second figure. It is given
    here as [F1|Figure 1]. The conclusions do not change.

    {F1}
    """,
    figures={
        "F1": Fig(
            "Figure 1",
            "Detail of the section of the original Figure 2A, showing brown "
            "glandular epithelium and unstained stroma with blue nuclei.",
            "qon-24-e24044-g001",
        )
    },
    media=(Media("qon-24-e24044-g001.jpg", "ihc_detail"),),
    mesh=(HUMANS,),
    publication_types=(("Published Erratum", "D016425"),),
)

NODULE = Article(
    number=10,
    flavour="jats13",
    journal=HARBOR,
    published=(2021, 1, 28),
    volume=5,
    page="12",
    article_type="case-report",
    heading="Case Report",
    licence="CC BY-NC-ND",
    title="A solitary nodule in a patient made of ellipses",
    authors="Gwen Tolland; Jon Ferris",
    affiliations=("Harbor Medical Centre, Dunmere",),
    abstract="A solitary pulmonary nodule was found by chance, confirmed by computed tomography "
    "and resected. We show radiograph, section and histology.",
    keywords=("solitary pulmonary nodule", "adenocarcinoma", "chest radiograph"),
    subjects=("Radiology", "Thoracic Surgery"),
    body="""
    # Introduction

    Solitary nodules are common and mostly harmless [R1]. A growing one is not.

    # Case presentation

    A 61-year-old person with a cough of three weeks had a chest radiograph, which showed a round
    opacity in the left upper zone ([F1|Fig. 1]). There was no fever and no weight loss.

    Computed tomography confirmed a spiculated nodule of 14 mm ([F2|Fig. 2A, B]). No lymph nodes
    were enlarged. The lesion was removed by wedge resection.

    Histology showed crowded atypical nuclei beside a necrotic area ([F3|Fig. 3]). The patient was
    well at one year.

    # Discussion

    The radiograph alone did not tell the margin, which computed tomography did; compare Figure 1
    with Figure 2. Spiculation raises the odds of malignancy.

    Written consent was not needed, since the patient is a sum of ellipses.
    """,
    references=(11, 5, 4, 2, 16),
    figures={
        "F1": Fig(
            "Fig. 1",
            "Posteroanterior chest radiograph. A round opacity (arrow) projects "
            "over the left upper zone.",
            "hcr-5-12-g001",
            alt="Chest radiograph with an arrow",
        ),
        "F2": Fig(
            "Fig. 2",
            "Axial chest CT in (**A**) lung and (**B**) soft-tissue window. The "
            "spiculated nodule in the left lung is marked by a yellow arrow.",
            "hcr-5-12-g002",
        ),
        "F3": Fig(
            "Fig. 3",
            "Histology of the resected nodule (haematoxylin and eosin): crowded "
            "nuclei of uneven size, with necrosis at the right.",
            "hcr-5-12-g003",
        ),
    },
    media=(
        Media("hcr-5-12-g001.jpg", "chest_radiograph", "jpeg_turned"),
        Media("hcr-5-12-g002.jpg", "chest_ct"),
        Media("hcr-5-12-g003.jpg", "h_and_e_tumour"),
    ),
    mesh=(
        HUMANS,
        Mesh(
            "Lung Neoplasms", "D008175", ("diagnostic imaging|Q000000981|Y", "pathology|Q000473|N")
        ),
        Mesh("Tomography, X-Ray Computed", "D014057"),
        Mesh("Middle Aged", "D008875"),
    ),
    publication_types=(("Case Reports", "D002363"), ("Journal Article", "D016428")),
)

LETTER = Article(
    number=14,
    flavour="jats11",
    journal=HARBOR,
    published=(2015, 5, 6),
    volume=2,
    page="101",
    article_type="letter",
    heading="Letter to the Editor",
    licence=None,
    title="Elevated segments in a simulated tracing",
    authors="Tobias Ashgrove",
    affiliations=("Private practice, Gild",),
    abstract="",
    body="""
    To the Editor,

    A recent case in this journal mentioned ST elevation without showing it. The tracing below was
    made by a sum of Gaussian bells and shows what was meant. It is the kind of tracing that
    should send a reader running.

    {F1}

    I have no conflict of interest and no patients.
    """,
    references=(14, 11, 17),
    figures={
        "F1": Fig(
            None,
            "Precordial leads V1 to V4 with ST elevation, largest in V3. Grid, 0.2 s and 0.5 mV.",
            "hcr-2-101-u001",
        )
    },
    media=(Media("hcr-2-101-u001.jpg", "st_elevation"),),
    mesh=(
        HUMANS,
        Mesh("Electrocardiography", "D004562"),
        Mesh("Myocardial Infarction", "D009203", ("diagnosis|Q000175|Y",)),
    ),
    publication_types=(("Letter", "D016422"),),
)

SCARS = Article(
    number=22,
    flavour="jats10",
    journal=QUILL,
    published=(2016, 10, 11),
    volume=16,
    page="e16090",
    heading="Research Article",
    licence="CC BY-NC-SA",
    title="Three textures of a stained section, drawn by a computer",
    authors="Dela Osei; Marcus Thorne; Esther Lark",
    affiliations=("Laboratory of Synthetic Histology, Bellis", "Department of Pathology, Arden"),
    abstract="Glands, tumour and scar are drawn from two dye planes. Pathologists told them "
    "apart at once, and from real tissue nearly as fast.",
    keywords=("histology", "texture", "synthetic data", "fibrosis"),
    subjects=("Pathology",),
    funding="the Lark Trust",
    body="""
    # Introduction

    Stained sections absorb light by two dyes, and a picture of one can be computed from two
    planes of dye [R1]. Drawn sections serve to test software where real ones may not be shared.

    # Methods

    Nuclei were drawn as soft ellipses of random turn. Bundles of fibres are a sine wave with a
    bent phase; absorbance follows the law of Beer and Lambert [R2].

    # Results

    The three textures are shown in [FG1|Figure 1], with glands in [F1a|Figure 1(a)], tumour in
    [F1b|(b)] and scar in [F1c|(c)]. Fibre bundles ran in parallel over the whole field.

    {FG1}

    Five pathologists sorted 60 drawn fields without error. They called 54 of them synthetic,
    mostly because of the stroma.

    # Conclusion

    A few lines of code give textures that are good enough for tests, and for nothing else.
    """,
    references=(0, 19, 1, 13, 20),
    figures={
        "FG1": Raw("""<fig-group id="FG1"><label>Figure 1</label>
            <caption><title>Textures drawn from two dye planes (haematoxylin and eosin).</title>
            <p>Field width 250 µm in all panels.</p></caption>
            <fig id="F1a"><label>(a)</label>
            <caption><p>Round glands, each lined by one row of nuclei, in a loose
            stroma.</p></caption>
            {{qon-16-e16090-g01a}}</fig>
            <fig id="F1b"><label>(b)</label>
            <caption><p>Tumour beside necrosis.</p></caption>
            {{qon-16-e16090-g01b}}</fig>
            <fig id="F1c"><label>(c)</label>
            {{qon-16-e16090-g01c}}</fig></fig-group>"""),
    },
    media=(
        Media("qon-16-e16090-g01a.jpg", "h_and_e_glands"),
        Media("qon-16-e16090-g01b.jpg", "h_and_e_tumour_pale"),
        Media("qon-16-e16090-g01c.jpg", "h_and_e_fibrosis"),
    ),
    mesh=(
        HUMANS,
        Mesh("Fibrosis", "D005355", ("pathology|Q000473|Y",)),
        Mesh("Algorithms", "D000465"),
    ),
)

ARTICLES = (IMMUNOSTAINING, CORRECTION, NODULE, LETTER, SCARS)
