"""Train networks on corrupted data; measure what they memorise and what they learn.

Nothing heavy is imported here: ``train.py --help`` and the skipping of a finished run never import torch.
"""
