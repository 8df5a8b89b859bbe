"""What each article of the tour is there to show; the table of the corpus's README."""

SHOWS = {
    "PMC99900001.1": "JATS 1.4 as PMC writes it; processing instructions; alt text; Fig. 2A–C; a "
    "range of two links",
    "PMC99900002.1": "PMC's rendered form: no DOCTYPE, alternatives of image and thumbnail; "
    "panels a–d",
    "PMC99900003.1": "photographs; a link with two ids; a palette PNG; a CSV among the media",
    "PMC99900004.1": "MathML and TeX in captions; a TIFF of floats; a 16-bit gray PNG",
    "PMC99900005.1": "NLM 2.3 tag set; a GIF only; a mention without a link; a range without a "
    "link",
    "PMC99900006.1": "NLM 3.0 tag set; a figure without a caption",
    "PMC99900007.1": "a default namespace; a link with three ids",
    "PMC99900008.1": "alternatives of TIFF, PNG and thumbnail; some missing; a table as a "
    "picture; a second language",
    "PMC99900009.1": "figure group with a supplement; letters and reply as sub-articles, one "
    "with a figure; .tif names",
    "PMC99900010.1": "floats group; a JPEG on its side with an EXIF tag; mentions without a link",
    "PMC99900011.1": "graphical abstract; scheme; structure; transparent PNG; a figure with "
    "rights of its own",
    "PMC99900012.1": "retracted; stems with dots",
    "PMC99900013.1": "correction of PMC99900001",
    "PMC99900014.1": "no licence code; a figure without a label or a mention",
    "PMC99900015.1": "first version of two",
    "PMC99900015.2": "second version: one picture changed under the same name",
    "PMC99900016.1": "one picture that is not listed, one that is listed and not there",
    "PMC99900017.1": "a JPEG cut short, a picture of 16 x 12 pixels, a page of text named .jpg",
    "PMC99900018.1": "no list of media in the JSON",
    "PMC99900019.1": "historical scan with OCR text: no body, no PMID, no DOI",
    "PMC99900020.1": "author manuscript: text mining only, no media; floats group",
    "PMC99900021.1": "16-bit TIFF and PNG, CMYK JPEG and TIFF, WebP, animated GIF; absent from "
    "PubMed",
    "PMC99900022.1": "figure group: panels with inherited caption, one without a caption of its "
    "own",
    "PMC99900023.1": "rendered form; transparent PNG; WebP; alt text; a range of two links",
    "PMC99900024.1": "two links with a dash; Fig. 2 and Figs. 1–3 without a link",
    "PMC99900025.1": "a palette PNG; a systematic review; links with two ids",
}
