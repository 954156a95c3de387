"""Write a policy that any server steers, or rows for TRL."""
