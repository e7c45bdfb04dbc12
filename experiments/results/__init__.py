"""Identity, ledger and tables: what has been done, and what people read of it. Imports neither Ray nor torch."""
