"""Run folders of the reference study's layout: reading them, whatever stands in their files."""
