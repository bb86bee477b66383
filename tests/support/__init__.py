"""What several tests share: models, vocabularies, references and proofs by enumeration."""
