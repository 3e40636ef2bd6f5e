"""Bundles: results that travel between machines through a folder, S3 or the Hugging Face hub."""
