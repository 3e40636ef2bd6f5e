"""The asset graph: thin functions that call models, analysis, storage and reporting and tell Dagster what came out."""
