"""Where work runs: devices and their leases, the executor, Dagster's instance. Knows Dagster and devices only."""
