"""Multimodal emotion recognition: corpora, encoders, fusion, pooling, losses and one trainer.

Importing this package is free: nothing heavy is loaded until a submodule asks for it.
"""

__version__ = "0.1.0"
