"""Corpora, audio and text, the feature store, batching, sampling, missing modalities, the demo corpus."""
