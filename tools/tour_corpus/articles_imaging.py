"""Articles about scans and populations: eyes, CT, MRI, an outbreak, a review of trials."""

from tour_corpus.journals import INVENTED, MERIDIAN, NEUROLOGICA, SALUD
from tour_corpus.model import Article, Fig, Media, Mesh, Raw

HUMANS = Mesh("Humans", "D006801")
ADULT = Mesh("Adult", "D000328")

FUNDUS = Article(
    number=3,
    flavour="jats13",
    journal=MERIDIAN,
    published=(2023, 6, 20),
    volume=11,
    page="103",
    heading="Original Research",
    licence="CC0",
    title="Small lesions in fundus photographs: a reader study without readers",
    authors="Ama Bright; Ebele Okonjo",
    affiliations=("Eye Clinic, Meridian Hospital, Corrow",),
    abstract="""
    Purpose: To compare a network, a grader and vessel density in the detection of microaneurysms.

    Methods: Simulated scores of 400 eyes were compared by the area under the curve.

    Results: The network reached 0.95, the grader 0.87 and vessel density 0.74.
    """,
    keywords=("retina", "microaneurysm", "diabetic retinopathy", "screening"),
    subjects=("Ophthalmology",),
    funding="no one",
    body="""
    # Introduction

    Microaneurysms are the first sign of diabetic retinopathy that a photograph shows [R1]. They
    are a few pixels wide and easily missed among vessels.

    A normal photograph is given in [F1|Figure 1] and a detail with two lesions in [F2|Figure 2].

    {F1}

    # Methods

    Photographs were taken at a field angle of 45°. Vessels were enhanced with a top-hat filter on
    the green channel ([F3|Fig. 3]), in which haemoglobin absorbs most.

    {F2}

    {F3}

    # Results

    Curves of the three methods are shown in [F4|Figure 4]. All lesions marked in
    [F2 F3|Figures 2 and 3] were found by the network. Counts of each grader are in
    <xref ref-type="supplementary-material" rid="SD1">Data set 1</xref>.

    {F4}

    # Discussion

    Vessel density is a poor stand-in for lesions. A grader and a network differ most at high
    specificity, where screening works.

    The scores are simulated, and no patient should be treated by them.

    <supplementary-material id="SD1"><label>Data set 1</label><caption><p>Lesion counts of two
    graders. </p></caption><media xlink:href="mi-103-s001.csv"/></supplementary-material>
    """,
    references=(4, 5, 14, 16, 2),
    figures={
        "F1": Fig(
            "Figure 1",
            "Colour fundus photograph of a normal left eye. The optic disc is "
            "at the left, the macula is the darker area in the middle.",
            "mi-103-g001",
        ),
        "F2": Fig(
            "Figure 2",
            "Detail of a fundus photograph, green channel. Two microaneurysms "
            "(yellow rings) lie beside the vessels.",
            "mi-103-g002",
        ),
        "F3": Fig(
            "Figure 3",
            "**A** Green channel of the photograph in Figure 1. **B** Vessels "
            "after black top-hat filtering with an 11 × 11 element.",
            "mi-103-g003",
        ),
        "F4": Fig(
            "Figure 4",
            "Receiver operating characteristic of the network, grader A and "
            "vessel density. The dotted line is chance. AUC, area under the "
            "curve.",
            "mi-103-g004",
        ),
    },
    media=(
        Media("mi-103-g001.jpg", "fundus"),
        Media("mi-103-g002.jpg", "microaneurysms"),
        Media("mi-103-g003.jpg", "vessel_panels"),
        Media("mi-103-g004.png", "roc", "png_palette"),
        Media("mi-103-s001.csv", "", "table_text"),
    ),
    mesh=(
        HUMANS,
        Mesh("Retina", "D012160", ("diagnostic imaging|Q000000981|N",)),
        Mesh("Diabetic Retinopathy", "D003930", ("diagnostic imaging|Q000000981|Y",)),
        Mesh("Fundus Oculi", "D005654"),
    ),
)

PHANTOM = Article(
    number=4,
    flavour="jats12",
    journal=MERIDIAN,
    published=(2020, 11, 2),
    volume=8,
    page="77",
    heading="Technical Note",
    licence="CC BY-SA",
    title="Sparse-view reconstruction of a head phantom",
    authors="Hanne Lindqvist; Odd Marsh; Rebecca Hale",
    affiliations=("Institute of Image Formation, Strand University",),
    abstract="We rebuild a head phantom from few views and measure the error. Filtered "
    "back-projection needs twice the views of a total variation method for the same "
    "error.",
    keywords=("computed tomography", "sparse view", "total variation"),
    subjects=("Radiology", "Physics"),
    funding="the Strand Fund, grant 8812",
    body="""
    # Introduction

    Fewer views mean less dose and more streaks [R1]. The head section of Shepp and Logan shows
    streaks well, since it is piecewise constant.

    # Theory

    The projection of an object at angle θ is its line integral, <disp-formula
    id="E1"><mml:math><mml:mrow><mml:msub><mml:mi>p</mml:mi><mml:mi>θ</mml:mi></mml:msub>
    <mml:mo>=</mml:mo><mml:mo>∫</mml:mo><mml:mi>f</mml:mi></mml:mrow></mml:math></disp-formula>
    and the error is the root mean square over all pixels.

    # Results

    With 180 views the section is rebuilt almost without fault; with 30, streaks cross it
    ([F1|Fig. 1C, D]). The error falls with the number of views for both methods ([F2|Fig. 2]).

    {F1}

    {F2}

    The map of the error ([F3|Fig. 3]) has its largest values at the skull. Noise of a low dose
    ([F4|Fig. 4]) hides the three small ellipses near the lower edge.

    {F3}

    {F4}

    # Discussion

    Total variation knows that the phantom is piecewise constant; patients are not. The gain in
    [F2|Fig. 2] is therefore an upper bound.
    """,
    references=(5, 4, 14, 16, 20),
    figures={
        "F1": Fig(
            "Fig. 1",
            "Head phantom and its reconstruction. || (**A**) Phantom. (**B**) Sinogram of 180 "
            "views, with the projection "
            "<inline-formula><alternatives><mml:math><mml:msub><mml:mi>p</mml:mi>"
            "<mml:mi>θ</mml:mi></mml:msub></mml:math><tex-math "
            'id="M1">\\documentclass{minimal}\\begin{document}$$p_{\\theta}$$\\end{document}'
            "</tex-math></alternatives></inline-formula> "
            "in each column. (**C**) Filtered back-projection of 180 views and (**D**) of 30 "
            "views.",
            "mi-77-g001",
        ),
        "F2": Fig(
            "Fig. 2",
            "Root mean square error "
            "<inline-formula><mml:math><mml:mi>ε</mml:mi></mml:math></inline-formula> "
            "against the number of views. Bars show ±1 s.d. of ten noise draws.",
            "mi-77-g002",
        ),
        "F3": Fig(
            "Fig. 3",
            "Signed error of filtered back-projection with a Hann window from "
            '<inline-formula><tex-math id="M2">$n_{\\mathrm{views}} = 45$</tex-math>'
            "</inline-formula> views.",
            "mi-77-g003",
        ),
        "F4": Fig("Fig. 4", "Phantom with the noise of a low dose (16-bit gray).", "mi-77-g004"),
    },
    media=(
        Media("mi-77-g001.jpg", "phantom_panels"),
        Media("mi-77-g002.jpg", "error_by_views"),
        Media("mi-77-g003.tif", "error_map", "tiff_float"),
        Media("mi-77-g004.png", "noisy_phantom", "png_16_bit"),
    ),
    mesh=(
        Mesh("Tomography, X-Ray Computed", "D014057", ("methods|Q000379|Y",)),
        Mesh("Phantoms, Imaging", "D019047"),
        Mesh("Algorithms", "D000465", (), True),
    ),
)

LESIONS = Article(
    number=23,
    flavour="rendered",
    journal=NEUROLOGICA,
    published=(2024, 12, 1),
    volume=19,
    page="6",
    heading="Article",
    licence="CC BY",
    title="Agreement on lesion masks in synthetic FLAIR images",
    authors="Rebecca Hale; Chidi Onuoha",
    affiliations=("Imaginaria Centre for Neuroimaging, Elstan",),
    abstract="Three readers outlined a bright lesion in 40 synthetic scans. They agreed on the "
    "whole lesion and disagreed on its rim.",
    keywords=("MRI", "segmentation", "Dice coefficient", "inter-reader agreement"),
    subjects=("Neurology", "Radiology"),
    funding="the Elstan Endowment, grant EE-31",
    body="""
    # Introduction

    A lesion mask is an opinion [R1]. Agreement between readers bounds what software can reach.

    # Methods

    Axial sections were drawn in two weightings ([F1|Fig. 1]). Readers outlined the lesion on
    FLAIR and were free to look at T1. Visits followed the plan in [F3|Fig. 3].

    {F1}

    ## Ultrasound

    To show that the method is not bound to MRI, one reader outlined a cyst in a simulated
    ultrasound image ([F4|Fig. 4]).

    # Results

    Median agreement was 0.91 for the whole lesion and 0.75 for the rim ([F2|Fig. 2]).

    {F2}

    {F3}

    {F4}

    # Discussion

    Rims are thin, and a shift by one pixel costs much of their area; [F1|Figs. 1]–[F4|4] show how
    thin. Software trained on such masks learns the readers, not the rim.
    """,
    references=(16, 4, 5, 14, 2),
    figures={
        "F1": Fig(
            "Fig. 1",
            "Synthetic axial brain section with a frontal lesion. **A** "
            "T1-weighted, **B** FLAIR, **C** FLAIR with the mask of one reader "
            "in red.",
            "ain-19-6_Fig1_HTML",
            alt="Three brain sections; the lesion is dark on T1 and bright on FLAIR",
        ),
        "F2": Fig(
            "Fig. 2",
            "Dice coefficient between pairs of readers, by region. Violins show "
            "40 scans; the bars are the extremes and the median.",
            "ain-19-6_Fig2_HTML",
            alt="Violin plot with four regions",
        ),
        "F3": Fig("Fig. 3", "Plan of the visits.", "ain-19-6_Fig3_HTML"),
        "F4": Fig(
            "Fig. 4",
            "Simulated ultrasound image (curved array) of an oval anechoic cyst.",
            "ain-19-6_Fig4_HTML",
            alt="Ultrasound sector with a dark cyst",
        ),
    },
    media=(
        Media("ain-19-6_Fig1_HTML.jpg", "brain_mri"),
        Media("ain-19-6_Fig2_HTML.jpg", "dice_boxes"),
        Media("ain-19-6_Fig3_HTML.png", "study_timeline", "png_alpha"),
        Media("ain-19-6_Fig4_HTML.webp", "ultrasound", "webp"),
    ),
    mesh=(
        HUMANS,
        Mesh("Magnetic Resonance Imaging", "D008279", ("methods|Q000379|Y",)),
        Mesh("Brain", "D001921", ("diagnostic imaging|Q000000981|N",)),
        Mesh("Ultrasonography", "D014463"),
    ),
)

OUTBREAK = Article(
    number=8,
    flavour="scielo",
    journal=SALUD,
    published=(2019, 8, 14),
    volume=33,
    issue=4,
    page="e33",
    heading="Original Article",
    licence="CC BY-NC",
    title="A seasonal outbreak of dengue in five coastal towns that are on no map",
    authors="Carla Morales-Tien; Luis Ibarra",
    affiliations=("Secretaría de Salud de Costa Ficta, Alba",),
    abstract="We describe two waves of dengue in 2018 and the age of the cases. Spraying in week "
    "30 did not stop the second wave.",
    extra_front='<trans-abstract xml:lang="es"><p>Describimos dos olas de dengue en 2018 y la '
    "edad de los casos. La fumigación de la semana 30 no detuvo la segunda "
    "ola.</p></trans-abstract><kwd-group "
    'xml:lang="es"><kwd>dengue</kwd><kwd>brote</kwd></kwd-group>',
    keywords=("dengue", "outbreak", "vector control"),
    subjects=("Epidemiology",),
    funding="Fondo Ficto, grant 2018-55",
    body="""
    # Introduction

    Dengue returns each year with the rain [R1]. Towns on the coast spray in winter, when
    mosquitoes are few, and again when cases rise.

    # Methods

    Cases were reported by five town clinics. A case was confirmed by antigen or by two serum
    samples, and probable otherwise.

    # Results

    There were two waves ([F1|Figure 1]); the second began four weeks after spraying. Rates were
    highest from 20 to 39 years in both sexes ([F2|Figure 2]).

    {F1}

    {F2}

    Rates differed more than fourfold between towns ([T1|Table 1]). Estero is small, so that its
    rate is uncertain.

    {T1}

    # Discussion

    Spraying came too late, as in other years [R2]. Reports by clinics miss mild cases, and towns
    differ in how they report.
    """,
    references=(9, 17, 2, 5, 22),
    figures={
        "F1": Fig(
            "Figure 1",
            "Confirmed (dark) and probable (light) cases of dengue by "
            "epidemiological week, 2018. The dashed line marks spraying (*fumigación*).",
            "0366-afs-33-e33-gf1",
        ),
        "F2": Fig(
            "Figure 2",
            "Cases per 10 000 inhabitants by age band for men (*hombres*, "
            "left) and women (*mujeres*, right).",
            "0366-afs-33-e33-gf2",
        ),
        "T1": Raw("""<table-wrap id="T1"><label>Table 1</label>
            <caption><p>Inhabitants, cases, rate per 1000 and share admitted to hospital, by
            town.</p></caption>
            {{0366-afs-33-e33-gt1}}</table-wrap>"""),
    },
    media=(
        Media("0366-afs-33-e33-gf1.tif", "epidemic_curve", "tiff_lzw"),
        Media("0366-afs-33-e33-gf1.png", "epidemic_curve", "png_palette"),
        Media("0366-afs-33-e33-gf1.thumbnail.jpg", "epidemic_curve", "thumbnail"),
        Media("0366-afs-33-e33-gf2.png", "age_pyramid", "png_palette"),
        Media("0366-afs-33-e33-gf2.thumbnail.jpg", "age_pyramid", "thumbnail"),
        Media("0366-afs-33-e33-gt1.jpg", "printed_table", "jpeg_gray"),
    ),
    mesh=(
        HUMANS,
        Mesh("Dengue", "D003715", ("epidemiology|Q000453|Y",)),
        Mesh("Disease Outbreaks", "D004196"),
    ),
)

TRIALS = Article(
    number=25,
    flavour="jats13",
    journal=INVENTED,
    published=(2021, 9, 30),
    volume=41,
    page="220",
    article_type="systematic-review",
    heading="Systematic Review",
    licence="CC BY",
    title="Salt restriction and stroke: eight trials that nobody ran",
    authors="Fay Perrin; Yrsa Strand; Paul Keswick",
    affiliations=("Centre for Evidence, University of Gild", "Strand University"),
    abstract="""
    Objective: To pool invented trials of salt restriction.

    Methods: Risk ratios were pooled with a random effects model.

    Results: Eight trials gave a pooled risk ratio of 0.68 (95% CI 0.57–0.82).

    Conclusions: Invented trials agree better than real ones.
    """,
    keywords=("meta-analysis", "salt", "stroke", "hypertension"),
    subjects=("Public Health",),
    funding="the Centre for Evidence",
    body="""
    # Introduction

    Salt raises blood pressure, and pressure raises the risk of stroke [R1]. Trials differ in dose
    and length.

    # Methods

    We screened 816 titles, as [F1|Figure 1] shows. Two reviewers read all full texts [R2].

    {F1}

    # Results

    Seven of eight trials favoured restriction ([F2|Figure 2]). The funnel is nearly even
    ([F3|Figure 3]), though small trials are few.

    {F2}

    {F3}

    Ejection fraction was measured by two methods in one trial; they agreed within 7% ([F4|Figure
    4]).

    {F4}

    # Discussion

    The result rests on trials of one author's invention. [F2 F3|Figures 2, 3] would look worse
    with true data.
    """,
    references=(17, 18, 2, 9, 14, 22, 11),
    figures={
        "F1": Fig(
            "Figure 1",
            "Flow of records through the review, with reasons for exclusion.",
            "aim-41-220-g001",
        ),
        "F2": Fig(
            "Figure 2",
            "Forest plot of the risk ratio of stroke with salt restriction. "
            "Squares are sized by weight, lines are 95% confidence intervals, "
            "and the red diamond is the random effects estimate.",
            "aim-41-220-g002",
        ),
        "F3": Fig(
            "Figure 3",
            "Funnel plot of log risk ratio against its standard error. The "
            "shaded triangle holds 95% of trials if there is no bias.",
            "aim-41-220-g003",
        ),
        "F4": Fig(
            "Figure 4",
            "Bland–Altman plot of ejection fraction by two methods: bias "
            "(solid) and limits of agreement (dashed).",
            "aim-41-220-g004",
        ),
    },
    media=(
        Media("aim-41-220-g001.png", "review_chart", "png_palette"),
        Media("aim-41-220-g002.jpg", "forest"),
        Media("aim-41-220-g003.jpg", "funnel"),
        Media("aim-41-220-g004.jpg", "bland_altman"),
    ),
    mesh=(
        HUMANS,
        ADULT,
        Mesh("Randomized Controlled Trials as Topic", "D016032"),
        Mesh("Hypertension", "D006973", ("prevention &amp; control|Q000517|Y",)),
        Mesh("Stroke", "D020521", ("prevention &amp; control|Q000517|Y",)),
    ),
    publication_types=(
        ("Systematic Review", "D000078182"),
        ("Meta-Analysis", "D017418"),
        ("Journal Article", "D016428"),
    ),
)

ARTICLES = (FUNDUS, PHANTOM, LESIONS, OUTBREAK, TRIALS)
