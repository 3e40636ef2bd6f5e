"""The organism: a tiny model that really backtracks, trained by this project, with a known truth."""
