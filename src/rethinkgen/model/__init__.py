"""Architectures: one LightningModule each, around one ``Classifier``."""
