"""What a cluster needs before it may be trusted: its file checked, its nodes checked."""
