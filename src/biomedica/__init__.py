"""From PubMed Central Open Access to an image-caption archive and the models trained on it."""

__version__ = "0.1.0"
