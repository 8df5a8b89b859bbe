"""Web pages over an archive: experts label clusters, adjudicators settle ties, auditors check labels.

    app         the application: `create_app`, and `open_server`, which a command runs
    labelling dashboard audit   the pages and what they post
    desk        what the pages know: clusters, pictures, votes, consensus, kept while nothing changes
    suggest     what labelled clusters nearby are
    pictures    facts and small pictures of samples
    links guard who may come in, and what a request must look like

Importing this package loads no web framework; `biomedica.explore.app` does.
"""

from biomedica.explore.settings import LabelPageSettings

__all__ = ["LabelPageSettings"]
