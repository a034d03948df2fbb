"""Public operators: argument checks, registration with torch.library, autograd."""
