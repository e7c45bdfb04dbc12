"""The feature store: what does not change during training is computed once per utterance, for all trials."""

from mer.data.store.frontend import Frontend
from mer.data.store.store import FeatureStore

__all__ = ["FeatureStore", "Frontend"]
