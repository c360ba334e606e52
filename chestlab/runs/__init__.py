"""One run from its flags to its pictures; ensembles, the 34-layer family, cross-validation."""
