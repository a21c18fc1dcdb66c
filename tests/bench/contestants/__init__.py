"""What the product is measured beside: each a process of its own, told what to do by its environment."""
