"""Corpora as Parquet shards: building, checking and describing them."""
