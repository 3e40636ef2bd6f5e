"""Figures, tables and the two HTML reports: one of a cell, one of the whole sweep."""
