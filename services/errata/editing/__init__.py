"""The science of editing; runs on torch and transformers alone, without network or services."""
