"""Write the sample corpus of `biomedica tour`: invented articles in the layout of NCBI's bucket.

    python tools/make_tour_corpus.py [FOLDER]

Needs scikit-image, Matplotlib, Pillow and lxml, which `biomedica` itself does not. With the same
versions of these it writes the same bytes each time. Texts are in `tour_corpus/articles_*.py`.
"""

import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tour_corpus import (
    articles_cells,
    articles_clinic,
    articles_genes,
    articles_imaging,
    articles_odd,
)
from tour_corpus.bucket import article_objects, inventory_objects
from tour_corpus.model import Article
from tour_corpus.pubmed import baseline
from tour_corpus.shows import SHOWS

FOLDER = Path(__file__).parent.parent / "src" / "biomedica" / "data" / "tour"
LARGEST = 2_500_000
README = Path(__file__).parent / "tour_corpus" / "README.template.md"


def all_articles() -> list[Article]:
    modules = (articles_cells, articles_clinic, articles_genes, articles_imaging, articles_odd)
    articles = [article for module in modules for article in module.ARTICLES]
    return sorted(articles, key=lambda article: (article.number, article.version))


def corpus(articles: list[Article]) -> dict[str, bytes]:
    """Every file of the corpus, by its path."""
    objects: dict[str, bytes] = {}
    for article in articles:
        objects |= article_objects(article)
    objects |= inventory_objects(objects)
    objects["pubmed/pubmed26n0001.xml.gz"] = baseline(articles)
    objects["README.md"] = readme(articles, objects)
    return objects


def readme(articles: list[Article], objects: Mapping[str, bytes]) -> bytes:
    rows = [
        f"| {a.name} | {a.licence or 'none'} | {a.article_type} | {SHOWS[a.name]} |"
        for a in articles
    ]
    template = README.read_text(encoding="utf-8")
    page = template.format(articles=len(articles), media=num_media(objects), table="\n".join(rows))
    return page.encode()


def num_media(objects: Mapping[str, bytes]) -> int:
    texts = (".xml", ".json", ".txt")
    return sum(key.startswith("PMC") and not key.endswith(texts) for key in objects)


def write(objects: Mapping[str, bytes], folder: Path) -> None:
    """Replace what the folder holds."""
    shutil.rmtree(folder, ignore_errors=True)
    for key, data in objects.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    articles = all_articles()
    objects = corpus(articles)
    size = sum(map(len, objects.values()))
    if size > LARGEST:
        raise SystemExit(f"the corpus has {size:,} bytes; it may have {LARGEST:,}")
    write(objects, folder)
    figures = sum(xml.count(b"<fig ") for key, xml in objects.items() if key.endswith(".xml"))
    kinds = Counter(key.rpartition(".")[2] for key in objects if key.startswith("PMC"))
    media = num_media(objects)
    print(f"{len(articles)} articles, {figures} figures, {media} media, {size:,} bytes: {folder}")
    print(", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))


if __name__ == "__main__":
    main()
