"""The journal of finished chunks, the archive of whole conditions, and the DuckDB database that people query."""
