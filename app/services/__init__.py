"""Services: what the tabs ask for, computed with cce, knowing nothing of the screen."""
