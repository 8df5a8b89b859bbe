"""Shards that somebody else wrote: an archive folder whose samples stay where they are.

    addresses  the command's words to tars, and a name for each
    requests   HTTP: where a token goes, what is tried again
    streams    a tar's bytes from a file, an HTTP server, a bucket
    tars       headers to files with their exact places
    fields     what a sample's JSON says, in our columns
    samples    members to samples, a sample to its row or its reject
    tables     the tables of one shard
    labels     the label run that the JSON states
    index      all of it, a tar a task

`places.json` (see `archive.Place`) says where each shard is; `figures/`, `articles/`, `rejects/` and `done/`
are those of any archive.
"""

from biomedica.foreign.index import Index, Outlook, forecast, index

__all__ = ["Index", "Outlook", "forecast", "index"]
