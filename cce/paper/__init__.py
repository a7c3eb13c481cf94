"""Paper: the printed numbers, ours beside them, and what both say of the paper's claims."""
