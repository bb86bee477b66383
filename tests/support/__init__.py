"""Shared by several tests: models, vocabularies, references and proofs by enumeration."""
