"""Train text-image models on streamed views: one loop, one config file, resumable to the sample.

settings      the config: model, data, optimizer, images, order, stream, run
loop          read, learn, log, keep, evaluate
step          the contrastive loss of the whole batch, however it is cut
normalise     pixels in a model's own scale
groups        weight decay and learning rate of each parameter
mean          a running mean of the weights
world         one process, DDP, FSDP2
checkpoints   written whole, or not at all
retrieval     recall on held-out samples
planning      samples, FLOPs and hours of a config, before it runs
"""

from __future__ import annotations

from biomedica.train.settings import TrainSettings, load_train, shipped_configs

__all__ = ["TrainSettings", "load_train", "shipped_configs"]
