"""The orchestrator: one YAML space in; a ledger, tables, figures and statistics out."""
