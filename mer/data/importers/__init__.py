"""Importers: other people's files in, a corpus folder out. Each writes the folder whole or not at all."""
