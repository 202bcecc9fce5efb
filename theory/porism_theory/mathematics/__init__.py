"""Inequalities and identities between divergences, transport costs and discrepancies, one source a file."""
