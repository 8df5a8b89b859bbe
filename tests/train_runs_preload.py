"""What a process that trains needs, loaded once for all of them."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import open_clip
    import torch.distributed

    import biomedica.train.loop

__all__ = ["biomedica", "open_clip", "torch"]
