"""Articles about cells, nerves and drugs."""

from tour_corpus.journals import BEACON, LANTERN, NEUROLOGICA
from tour_corpus.model import Article, Fig, Media, Mesh, Raw

ANIMALS = Mesh("Animals", "D000818")
MICE = Mesh("Mice", "D051379")

DRY_MASS = Article(
    number=2,
    flavour="rendered",
    journal=LANTERN,
    published=(2025, 2, 11),
    volume=30,
    page="15",
    heading="Article",
    licence="CC BY",
    title="Dry mass of floating cells from a single phase image",
    authors="Sana Imura; Dario Castel; Pia Wren",
    affiliations=("Institute of Quiet Microscopy, Corrow",),
    abstract="A phase image of a floating cell gives its dry mass. A made-up kinase inhibitor "
    "raised mass and radius at 100 nM.",
    keywords=("quantitative phase imaging", "dry mass", "cell growth"),
    subjects=("Biophysics", "Cell Biology"),
    funding="the Quiet Fund, grant 55",
    body="""
    # Introduction

    Cells slow down light in proportion to their dry mass, so that a phase image weighs them [R1].
    No dye is needed.

    # Results

    ## One cell

    A floating cell stood out by 2.5 rad ([F1|Fig. 1a, b]). The dark ring around it is a halo of
    the filter and was left out of the sum.

    {F1}

    ## Treated cells

    Mass rose from 21 to 33 pg at 100 nM ([F2|Fig. 2a]) and radius in step with it ([F2|Fig. 2b]).
    Treated cells kept their nuclei, actin and mitochondria ([F3|Fig. 3]).

    {F2}

    {F3}

    # Discussion

    Weighing takes one image and no label. Fluorescence in Figure 3 served as a check only.

    # Methods

    Holograms were taken at 0.107 µm per pixel. Cells were stained with DAPI, phalloidin and a
    mitochondrial dye in a second run.
    """,
    references=(3, 1, 13, 20, 23),
    figures={
        "F1": Fig(
            "Fig. 1",
            "Phase image of a cell floating in saline. **a** Phase map, scale "
            "bar 5 µm. **b** Profile along the dashed line in **a**.",
            "lcb-30-15_Fig1_HTML",
        ),
        "F2": Fig(
            "Fig. 2",
            "Dry mass (**a**) and radius (**b**) of control cells and of cells "
            "treated with 25 or 100 nM of the inhibitor. Boxes show quartiles, "
            "*n* = 24 cells each; n.s., not significant; "
            "<sup>&#42;&#42;&#42;</sup>*P* &lt; 0.001.",
            "lcb-30-15_Fig2_HTML",
        ),
        "F3": Fig(
            "Fig. 3",
            "Fluorescence microscopy of treated cells: **a** nuclei (DAPI, "
            "blue), **b** actin (green), **c** mitochondria (red), **d** merge. "
            "Scale bar, 20 µm.",
            "lcb-30-15_Fig3_HTML",
        ),
    },
    media=(
        Media("lcb-30-15_Fig1_HTML.jpg", "phase_cell"),
        Media("lcb-30-15_Fig2_HTML.jpg", "dry_mass_boxes"),
        Media("lcb-30-15_Fig3_HTML.jpg", "fluorescence_panels"),
    ),
    mesh=(Mesh("Microscopy, Fluorescence", "D008856"), Mesh("Cell Size", "D048429", (), True)),
)

GELS = Article(
    number=5,
    flavour="nlm23",
    journal=LANTERN,
    published=(2005, 7, 19),
    volume=10,
    page="44",
    heading="Research article",
    licence="CC BY",
    title="Decay of VEX3 protein after withdrawal of serum",
    authors="Ines Sorrel; Max Haddow",
    affiliations=("Department of Biochemistry, Farrow College",),
    abstract="""
    Background: VEX3 is unstable, we say.

    Results: VEX3 fell to a quarter within a day, while phosphorylated ODO9 rose.

    Conclusion: Serum keeps VEX3 in place.
    """,
    keywords=("VEX3", "western blot", "protein decay"),
    body="""
    # Background

    Proteins that are needed for a short time decay fast [R1]. VEX3 was cloned from a cell line
    that nobody keeps.

    # Methods

    Cells were starved for 0, 6, 12 or 24 h. Clones were checked by PCR (Figure 1), and lysates
    were blotted as before [R2].

    # Results

    Five of seven clones carried the product ([F1|Figure 1]). VEX3 faded over a day, and p-ODO9
    came up ([F2|Figure 2]); actin did not change. Measured bands are given in [F3|Figure 3].

    {F1}

    {F2}

    {F3}

    # Discussion

    Half of VEX3 was lost in twelve hours. Whether ODO9 is a cause or a bystander can't be told
    from Figures 1 to 3.
    """,
    references=(13, 6, 0, 3, 20),
    figures={
        "F1": Fig(
            "Figure 1",
            "Agarose gel of the PCR product. M, 100 bp ladder; lanes 1–7, "
            "clones. A band of 500 bp is seen in lanes 1, 2, 4, 5 and 7.",
            "1999-1234-10-44-1",
        ),
        "F2": Fig(
            "Figure 2",
            "**Western blot of starved cells.** VEX3, phosphorylated ODO9 and "
            "actin (loading control) after 0, 6, 12 and 24 h without serum.",
            "1999-1234-10-44-2",
        ),
        "F3": Fig(
            "Figure 3",
            "**Densitometry.** VEX3 bands relative to actin, mean ± SD of "
            "three blots. <sup>&#42;</sup>*p* &lt; 0.05, "
            "<sup>&#42;&#42;</sup>*p* &lt; 0.01.",
            "1999-1234-10-44-3",
        ),
    },
    media=(
        Media("1999-1234-10-44-1.jpg", "dna_gel", "jpeg_gray"),
        Media("1999-1234-10-44-2.jpg", "western_blot", "jpeg_gray"),
        Media("1999-1234-10-44-3.gif", "band_bars", "gif"),
    ),
    mesh=(
        Mesh("Blotting, Western", "D015153"),
        Mesh("Serum", "D044967", ("metabolism|Q000378|N",)),
    ),
)

NEURONS = Article(
    number=9,
    flavour="elife",
    journal=NEUROLOGICA,
    published=(2022, 7, 8),
    volume=17,
    page="e00009",
    heading="Research Article",
    licence="CC BY",
    title="Light wakes neurons that were never asleep",
    authors="Petra Keswick; Adil Nour",
    affiliations=("Imaginaria Brain Institute, Corrow",),
    abstract="Nine simulated neurons answer a flash of two seconds. Spikes lock to the cue "
    "within 0.3 s.",
    keywords=("calcium imaging", "visual response", "Mouse"),
    subjects=("Neuroscience",),
    funding="Imaginaria, grant 3",
    body="""
    # Introduction

    Neurons answer light, and some do so in the dark [R1]. We simulate both.

    # Results

    All nine neurons rose with the flash ([fig1|Figure 1]; [fig1s1|Figure 1—figure supplement 1]).
    Firing locked to the cue ([fig2|Figure 2A,B]).

    {FG1}

    {fig2}

    # Discussion

    Simulated neurons are reliable. [fig1|Figures 1]–[fig2|2] have no outliers, which real ones
    would.

    # Materials and methods

    Spikes were drawn at 0.12 Hz and smeared by an exponential of 1.1 s.
    """.replace("[fig", "[Fig"),
    references=(10, 14, 16, 20, 2),
    figures={
        "FG1": Raw("""<fig-group>
            <fig id="Fig1" position="float">
            <object-id pub-id-type="doi">10.5555/tour.2022.009.f1</object-id>
            <label>Figure 1.</label>
            <caption><title>Calcium responses to light.</title>
            <p>Fluorescence change (ΔF/F) of nine neurons; the yellow bar is the flash.</p>
            <p><supplementary-material id="fig1sdata1">
            <object-id pub-id-type="doi">10.5555/tour.2022.009.s1</object-id>
            <label>Figure 1—source data 1.</label><media xlink:href="acta-00009-fig1-data1.csv"/>
            </supplementary-material></p></caption>
            {{acta-00009-fig1}}</fig>
            <fig id="Fig1s1" position="float" specific-use="child-fig">
            <object-id pub-id-type="doi">10.5555/tour.2022.009.f1s1</object-id>
            <label>Figure 1—figure supplement 1.</label>
            <caption><title>Imaged nuclei.</title>
            <p>Labelled nuclei (blue) in one plane, with actin (magenta) and mitochondria
            (orange).</p></caption>
            {{acta-00009-fig1-figsupp1}}</fig>
            </fig-group>"""),
        "fig2": Raw("""<fig id="Fig2" position="float">
            <object-id pub-id-type="doi">10.5555/tour.2022.009.f2</object-id> <label>Figure
            2.</label> <caption><title>Spikes lock to the cue.</title> <p>(<bold>A</bold>) Raster
            of 28 trials. (<bold>B</bold>) Peri-stimulus time histogram in bins of 50 ms. The red
            line is the cue.</p></caption>
            {{acta-00009-fig2}}</fig>"""),
    },
    extra_tail="""
        <sub-article article-type="decision-letter" id="sa1"><front-stub> <article-id
        pub-id-type="doi">10.5555/tour.2022.009.sa1</article-id>
        <title-group><article-title>Decision letter</article-title></title-group></front-stub>
        <body><p>The reviewers ask what the field of view in <xref ref-type="fig"
        rid="Fig1s1">Figure 1—figure supplement 1</xref> is, and want a network
        drawn.</p></body></sub-article> <sub-article article-type="reply" id="sa2"><front-stub>
        <article-id pub-id-type="doi">10.5555/tour.2022.009.sa2</article-id>
        <title-group><article-title>Author response</article-title></title-group></front-stub>
        <body><p>It is 200 µm. The network is in <xref ref-type="fig" rid="sa2fig1">Author
        response image 1</xref>.</p> <fig id="sa2fig1" position="float"><label>Author response
        image 1.</label> <caption><p>Couplings between twelve proteins of the simulated neurons;
        thicker lines are stronger.</p></caption>
        {{acta-00009-sa2-fig1}}</fig></body></sub-article>
        """,
    media=(
        Media("acta-00009-fig1.jpg", "calcium_traces"),
        Media("acta-00009-fig1-figsupp1.jpg", "fluorescence_merge"),
        Media("acta-00009-fig2.jpg", "spike_raster"),
        Media("acta-00009-sa2-fig1.jpg", "interaction_network"),
        Media("acta-00009-fig1-data1.csv", "", "table_text"),
    ),
    mesh=(
        ANIMALS,
        MICE,
        Mesh("Neurons", "D009474", ("physiology|Q000502|Y",)),
        Mesh("Calcium", "D002118", ("metabolism|Q000378|N",)),
    ),
)

PHENOLS = Article(
    number=11,
    flavour="jats12",
    journal=BEACON,
    published=(2020, 2, 29),
    volume=9,
    page="300",
    article_type="review-article",
    heading="Review",
    licence="CC BY",
    title="Phenolic acids from bark: chemistry, targets and a scheme",
    authors="Cato Embry; Odile Vance; Rory Lisle",
    affiliations=("Beacon School of Pharmacy, Dunmere",),
    abstract="Bark holds phenols, and phenols hold back oxidation. We review their synthesis and "
    "the pathway that they are thought to act on.",
    extra_front='<abstract abstract-type="graphical" id="abs2"><title>Graphical '
    'abstract</title><p><fig id="ga1" position="anchor"><alt-text>From phenolic '
    "acid to a treated cell to less oxidation</alt-text>{{ga1}}</fig></p></abstract>",
    keywords=("phenols", "antioxidants", "TARN2 pathway"),
    subjects=("Pharmacology", "Chemistry"),
    funding="the Bark Board, grant 2019/4",
    body="""
    # Introduction

    Phenols are made by trees and taken by people [R1]. Compound **4** is the simplest of those in
    this review.

    # Chemistry

    Acetylation of **4** gives **7** in one step ([S1|Scheme 1]). The related naphthoic acid is
    compound [C1|9].

    {S1}

    {C1}

    # Targets

    Compound **7** is thought to bind TARN2 at the membrane ([F1|Fig. 1]), which passes on to VEX3
    and ODO9 by phosphorylation. SOLV holds VEX3 back.

    {F1}

    # Effects on cells

    Compound **4** is ten times as potent as **7** in cells ([F2|Fig. 2]). Mitochondria keep their
    folds ([F3|Fig. 3]).

    {F2}

    {F3}

    # Outlook

    Bark is cheap. Trials are not, and none has been run for the compounds of [S1|Scheme 1].
    """,
    references=(12, 0, 13, 17, 18, 15),
    figures={
        "S1": Fig(
            "Scheme 1",
            "Synthesis of compound **7** from **4**. Reagents: acetic "
            "anhydride (Ac_{2}O), pyridine, 2 h, 91% yield.",
            "sc1",
            kind="scheme",
        ),
        "C1": Raw("""<chem-struct-wrap id="C1"><label>9</label>
            <caption><p>Fluorinated dihydroxynaphthoic acid.</p></caption>
            {{fx1}}</chem-struct-wrap>"""),
        "F1": Fig(
            "Fig. 1",
            "The TARN2 pathway. TARN2 in the membrane leads to phosphorylation "
            "of VEX3 and ODO9; ODO9 enters the nucleus and turns on survival "
            "genes. SOLV inhibits VEX3.",
            "gr1",
        ),
        "F2": Fig(
            "Fig. 2",
            "Viability of cells after 24 h with compound **4**, compound **7** "
            "or vehicle (mean ± SD, *n* = 4).",
            "gr2",
        ),
        "F3": Fig(
            "Fig. 3",
            "Transmission electron micrograph of three mitochondria in a treated "
            "cell. Scale bar, 500 nm.",
            "gr3",
            rights="<permissions><copyright-statement>© "
            "2015 Invented "
            "Press</copyright-statement><copyright-holder>Invented "
            "Press</copyright-holder><license><license-p>Reproduced "
            "with permission of "
            "Invented Press; not "
            "covered by the article's "
            "Creative Commons "
            "licence.</license-p></license></permissions>",
        ),
    },
    media=(
        Media("ga1.jpg", "graphical_abstract"),
        Media("sc1.jpg", "reaction_scheme", "jpeg_gray"),
        Media("fx1.gif", "single_structure", "gif"),
        Media("gr1.png", "pathway", "png_alpha"),
        Media("gr2.jpg", "dose_response"),
        Media("gr3.jpg", "electron_micrograph", "jpeg_gray"),
    ),
    mesh=(
        Mesh("Antioxidants", "D000975", ("chemistry|Q000737|N", "pharmacology|Q000494|Y")),
        Mesh("Oxidative Stress", "D018384"),
        Mesh("Signal Transduction", "D015398"),
    ),
    publication_types=(("Journal Article", "D016428"), ("Review", "D016454")),
)

ARTICLES = (DRY_MASS, GELS, NEURONS, PHENOLS)
