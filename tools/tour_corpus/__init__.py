"""The parts of `make_tour_corpus.py`: pictures, article texts, and the files of the bucket."""
